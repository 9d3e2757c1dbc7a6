"""Progressive Robot's video studio: 129 calls, jobs that are polled, files behind the key; no callbacks, no
idempotency key.

`progressiverobot_calls.py` has the shape of a call, `_studio.py` what is kept, `_operations.py` and `_submits.py`
what makes something and costs credits, `_prices.py` the arithmetic; the other files are the tables of the rest.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from service.sandbox import (
    progressiverobot_accounts,
    progressiverobot_catalog,
    progressiverobot_files,
    progressiverobot_histories,
    progressiverobot_places,
    progressiverobot_projects,
    progressiverobot_submits,
)
from service.sandbox.progressiverobot_calls import Call, Refused, Row, read_call
from service.sandbox.progressiverobot_operations import MAKINGS, Making
from service.sandbox.progressiverobot_studio import Studio
from service.sandbox.replies import media_file

ROWS: tuple[Row, ...] = (
    *progressiverobot_submits.ROWS,
    *progressiverobot_histories.ROWS,
    *progressiverobot_files.ROWS,
    *progressiverobot_projects.ROWS,
    *progressiverobot_places.ROWS,
    *progressiverobot_catalog.ROWS,
    *progressiverobot_accounts.ROWS,
)
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class ProgressiveRobot(Studio):
    """https://video.progressiverobot.com."""

    def routes(self) -> list[BaseRoute]:
        """The documented calls, and the stock files that replies point to."""
        makings = [
            Route(f"/api/{path}", partial(self.make, path, making), methods=["POST"])
            for path, making in MAKINGS.items()
        ]
        rows = [Route(row.path, partial(self.answer_row, row), methods=[row.method]) for row in ROWS]
        media = Route("/media/{id}.{kind}", media_file)
        return [*makings, *rows, media, Route("/{path:path}", self.no_such_call, methods=METHODS)]

    async def make(self, path: str, making: Making, request: Request) -> Response:
        """A call that makes something."""
        return await self.answered(request, lambda call: progressiverobot_submits.make(self, path, making, call))

    async def answer_row(self, row: Row, request: Request) -> Response:
        """Any other call."""

        async def answer(call: Call) -> Response:
            self.need_tier(row.tier)
            return row.answer(self, call)

        return await self.answered(request, answer, public=row.public)

    async def answered(
        self, request: Request, answer: Callable[[Call], Awaitable[Response]], *, public: bool = False
    ) -> Response:
        """What a call is answered, once its key is found right."""
        body = await request.body()
        self.settle()
        if not (public or self.holds_key(request)):
            return self.refusal("401")
        try:
            return await answer(read_call(request, body))
        except Refused as refused:
            return refused.reply()

    async def no_such_call(self, request: Request) -> Response:
        """404 for a path, or a method of a path, that the page does not have."""
        return Refused(404, f"No such endpoint: {request.method} {request.url.path}").reply()
