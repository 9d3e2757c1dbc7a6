"""The calls about what Replicate keeps beside predictions: models, deployments, collections, hardware, files."""

import secrets
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from service.sandbox import replicate_library as library
from service.sandbox import replicate_views as views
from service.sandbox.accounts import Account
from service.sandbox.provider import Provider
from service.sandbox.replies import Json

LARGEST_PAGE = 100


class ReplicateAccount(Account):
    """The account. `data_life_s` is how long after its end a prediction keeps its input, output and logs."""

    username: str = "sandbox"
    webhook_secret: str = ""  # given by `reset`
    data_life_s: float = 3600.0
    list_shows_webhook: bool = True  # the documents do not say whether it does
    page_size: int = LARGEST_PAGE
    models: tuple[str, ...] = ()  # those that there are, deployments too; every one where none is named


class WithLibrary(Provider):
    """What is needed of an account, and what it may look up."""

    account_type = ReplicateAccount
    account: ReplicateAccount

    def reset(self) -> None:
        """As at the start."""
        super().reset()
        self.files: dict[str, library.File] = {}

    def library_routes(self) -> list[BaseRoute]:
        """The calls of this module."""
        model = "/v1/models/{owner}/{model}"
        return [
            Route("/v1/models", self.models, methods=["GET", "QUERY"]),
            Route(model, self.model),
            Route(f"{model}/versions", self.versions),
            Route(f"{model}/versions/{{version}}", self.version),
            Route("/v1/deployments", self.deployments),
            Route("/v1/deployments/{owner}/{name}", self.deployment),
            Route("/v1/collections", self.collections),
            Route("/v1/collections/{slug}", self.collection),
            Route("/v1/hardware", self.hardware),
            Route("/v1/trainings", self.trainings),
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self.listed_files),
            Route("/v1/files/{id}", self.one_file, methods=["GET", "DELETE"]),
            Route("/v1/files/{id}/download", self.download),
        ]

    def not_allowed(self, request: Request) -> Response | None:
        """401 without the account's token; `Token` is the older word for `Bearer`."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        known = secrets.compare_digest(key.encode(), self.account.api_key.encode())
        return None if known and scheme.lower() in ("bearer", "token") else views.failure(401)

    def has_model(self, named: str) -> bool:
        """Whether there is a model or a deployment of that name."""
        return not self.account.models or named in self.account.models

    async def models(self, request: Request) -> Response:
        """Some of the models; those that a QUERY looks for."""
        word = (await request.body()).decode(errors="replace") if request.method == "QUERY" else ""
        return self.shown(request, library.page(library.featured(self.origin(request), word.strip('"'))))

    async def model(self, request: Request) -> Response:
        """A model."""
        owner, name = request.path_params["owner"], request.path_params["model"]
        known = self.has_model(f"{owner}/{name}")
        return self.shown(request, library.model(owner, name, self.origin(request)) if known else None)

    async def versions(self, request: Request) -> Response:
        """The versions of a model."""
        known = self.has_model("{owner}/{model}".format(**request.path_params))
        one = library.version(request.path_params["model"], library.VERSION)
        return self.shown(request, library.page([one]) if known else None)

    async def version(self, request: Request) -> Response:
        """A version of a model: whatever could be one."""
        asked = request.path_params["version"]
        known = self.has_model("{owner}/{model}".format(**request.path_params)) and views.names_version(asked)
        return self.shown(request, library.version(request.path_params["model"], asked) if known else None)

    async def deployments(self, request: Request) -> Response:
        """The account's deployments."""
        name = self.account.username
        return self.shown(request, library.page([library.deployment(name, "picture", name)]))

    async def deployment(self, request: Request) -> Response:
        """A deployment."""
        owner, name = request.path_params["owner"], request.path_params["name"]
        known = self.has_model(f"{owner}/{name}")
        return self.shown(request, library.deployment(owner, name, self.account.username) if known else None)

    async def collections(self, request: Request) -> Response:
        """All collections, without their models."""
        one = {name: value for name, value in library.collection(self.origin(request)).items() if name != "models"}
        return self.shown(request, library.page([one]))

    async def collection(self, request: Request) -> Response:
        """A collection and its models."""
        one = library.collection(self.origin(request))
        return self.shown(request, one if request.path_params["slug"] == one["slug"] else None)

    async def hardware(self, request: Request) -> Response:
        """What models may run on."""
        return self.shown(request, [{"name": name, "sku": sku} for name, sku in library.HARDWARE])

    async def trainings(self, request: Request) -> Response:
        """No trainings: none can be made here."""
        return self.shown(request, library.page([]))

    async def upload(self, request: Request) -> Response:
        """Keep a file."""
        if refused := self.not_allowed(request):
            return refused
        kept = library.read_file(request.headers.get("content-type", ""), await request.body(), self.now())
        if kept is None:
            return views.invalid({"content": "content is required"})
        self.files[kept.id] = kept
        return Json(library.file(kept, self.origin(request)), status_code=201)

    async def listed_files(self, request: Request) -> Response:
        """The files, the newest first."""
        rows = [library.file(kept, self.origin(request)) for kept in reversed(self.files.values())]
        return self.shown(request, library.page(rows))

    async def one_file(self, request: Request) -> Response:
        """A file, or its end."""
        if refused := self.not_allowed(request):
            return refused
        kept = self.files.get(request.path_params["id"])
        if kept is None:
            return views.failure(404)
        if request.method == "DELETE":
            del self.files[kept.id]
            return Response(status_code=204)
        return Json(library.file(kept, self.origin(request)))

    async def download(self, request: Request) -> Response:
        """The content of a file."""
        if refused := self.not_allowed(request):
            return refused
        kept = self.files.get(request.path_params["id"])
        return views.failure(404) if kept is None else Response(kept.content, media_type=kept.content_type)

    def shown(self, request: Request, found: Any) -> Response:
        """It, to who may see it; 404 where it is None."""
        if refused := self.not_allowed(request):
            return refused
        return views.failure(404) if found is None else Json(found)
