"""The calls of fal's other host, api.fal.ai, and what is needed of an account for them."""

import secrets
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from service.sandbox import fal_platform as platform
from service.sandbox import fal_views as views
from service.sandbox.accounts import Account
from service.sandbox.faults import Probability
from service.sandbox.jobs import Job
from service.sandbox.provider import Provider


class FalAccount(Account):
    """The account, and what varies at fal."""

    user_id: str = "sandbox-user"
    gateway_differs: Probability = 0.25  # how many were repeated inside fal, and have two ids
    payload_unwritable: Probability = 0.0  # how many callbacks say OK without a payload
    status_tells_error: bool = True
    models: tuple[str, ...] = ()  # those that there are; every one where none is named
    list_shows_open: bool = False  # whether the list has requests that are not over; the documents do not say
    stores_payloads: bool = True  # else results end, and the list has no inputs and outputs
    result_life_s: float = 3600.0
    large_result_life_s: float = 360.0  # of a result of 10 KB or more
    key_generation: int = 1  # raise it to have other keys sign; those of the last generation are served, too


class WithPlatform(Provider):
    """The requests in the order of their acceptance, and what may be looked up about them."""

    account_type = FalAccount
    account: FalAccount

    def reset(self) -> None:
        """As at the start."""
        super().reset()
        self.order: list[Job] = []

    def platform_routes(self) -> list[BaseRoute]:
        """The calls of this module."""
        return [
            Route("/api.fal.ai/v1/models/requests/by-endpoint", self.requests),
            Route("/api.fal.ai/v1/models/pricing", self.prices),
            Route("/api.fal.ai/v1/models/pricing/estimate", self.estimate, methods=["POST"]),
        ]

    def not_allowed(self, request: Request) -> Response | None:
        """401 without the account's key."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "key":
            return views.failure(401, "Authentication is required to access this application.")
        known = secrets.compare_digest(key.encode(), self.account.api_key.encode())
        return None if known else views.failure(401, "No user found for Key ID and Secret")

    async def requests(self, request: Request) -> Response:
        """The list of requests."""
        shows_open = self.account.list_shows_open
        return self.of_platform(
            request, lambda: platform.listed(self.order, request.query_params, self.now(), shows_open=shows_open)
        )

    async def prices(self, request: Request) -> Response:
        """The price of a unit."""
        return self.of_platform(request, lambda: platform.prices(request.query_params))

    async def estimate(self, request: Request) -> Response:
        """The price of so many units."""
        body = await request.body()
        return self.of_platform(request, lambda: platform.estimate(body))

    def of_platform(self, request: Request, answer: Callable[[], Response]) -> Response:
        """The answer, to who may have it and asks for what can be."""
        if self.not_allowed(request):
            return platform.failure(401, "authorization_error", "Authentication is required.")
        try:
            return answer()
        except platform.BadQuery as problem:
            return platform.invalid(problem)
