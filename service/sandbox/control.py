"""`/_sandbox/`: what a test or a developer changes and reads; needs no key."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from service.sandbox.provider import Provider
from service.sandbox.replies import Json

CALLS = {
    "GET /_sandbox/{provider}/account": "the account",
    "PUT /_sandbox/{provider}/account": "change the fields that are named",
    "GET /_sandbox/{provider}/ledger": "every accepted submit, and what it was charged",
    "GET /_sandbox/{provider}/faults": "the faults, and how often each has happened",
    "PUT /_sandbox/{provider}/faults": "replace all faults",
    "GET /_sandbox/{provider}/callbacks": "the registered URLs, and what became of the callbacks",
    "PUT /_sandbox/{provider}/callbacks": "register a URL: webhook_id, url, secret",
    "POST /_sandbox/{provider}/reset": "as at the start, but for the registered URLs",
}


class Control:
    """The control calls over all providers."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self.providers = providers

    def routes(self) -> list[BaseRoute]:
        """The calls."""
        return [
            Route("/_sandbox", self.index),
            Route("/_sandbox/{provider}/account", self.change(Provider.change_account), methods=["PUT"]),
            Route("/_sandbox/{provider}/account", self.read(account_view)),
            Route("/_sandbox/{provider}/ledger", self.read(ledger_view)),
            Route("/_sandbox/{provider}/faults", self.change(replace_faults), methods=["PUT"]),
            Route("/_sandbox/{provider}/faults", self.read(faults_view)),
            Route("/_sandbox/{provider}/callbacks", self.change(Provider.register), methods=["PUT"]),
            Route("/_sandbox/{provider}/callbacks", self.read(Provider.callbacks_view)),
            Route("/_sandbox/{provider}/reset", self.change(lambda provider, body: provider.reset()), methods=["POST"]),
        ]

    async def index(self, request: Request) -> Response:
        """The providers, and these calls."""
        return Json({"providers": sorted(self.providers), "calls": CALLS})

    def read(self, view: Callable[[Provider], Any]) -> Callable[[Request], Any]:
        """A call that shows something of a provider."""

        async def show(request: Request) -> Response:
            return Json(view(self.named(request)))

        return show

    def change(self, apply: Callable[[Provider, bytes], None]) -> Callable[[Request], Any]:
        """A call that changes something, and answers with what it now is."""

        async def put(request: Request) -> Response:
            provider = self.named(request)
            try:
                apply(provider, await request.body())
            except msgspec.DecodeError as error:
                return Json({"error": str(error)}, status_code=422)
            what = request.url.path.rsplit("/", 1)[1]
            return Json(VIEWS.get(what, account_view)(provider))

        return put

    def named(self, request: Request) -> Provider:
        """The provider of the path."""
        name = request.path_params["provider"]
        if name not in self.providers:
            raise HTTPException(404, f"no provider {name}; there are {', '.join(sorted(self.providers))}")
        return self.providers[name]


def account_view(provider: Provider) -> Any:
    """The account, with credits that jobs gave back."""
    provider.settle()
    return provider.account


def ledger_view(provider: Provider) -> Any:
    """All rows, oldest first."""
    return {"data": provider.ledger}


def faults_view(provider: Provider) -> Any:
    """What may happen, and what has."""
    return {"faults": provider.faults, "happened": provider.happened}


def replace_faults(provider: Provider, body: bytes) -> None:
    """Replace all faults."""
    provider.set_faults(provider.read_faults(body))


VIEWS: dict[str, Callable[[Provider], Any]] = {
    "account": account_view,
    "faults": faults_view,
    "callbacks": Provider.callbacks_view,
}
