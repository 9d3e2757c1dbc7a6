"""The HTTP interface as a Starlette app, made from the route table."""

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute
from starlette.routing import Route as Path
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Refusal, Unavailable
from service.web.context import Context
from service.web.dispatch import Methods
from service.web.documents import Documents
from service.web.problems import internal, no_such_path, problem
from service.web.replies import send_reply
from service.web.room import Room
from service.web.routes import ROUTES
from service.web.routing import Route

log = logging.getLogger("callsheet.web")

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[Any]]
CALLBACKS = "/v1/callbacks/"
REQUEST_ID = b"callsheet-request-id"
SAFE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
LAST = ((b"connection", b"close"),)
STOPPING = Unavailable("This node stopped before it was done: ask another one.", code="stopping", retry_after=1)


def create_web(context: Context, *, lifespan: Lifespan | None = None, room: Room | None = None) -> Starlette:
    """The app. `lifespan` starts and stops what serves it; more routes may be added to it."""
    shared = room or Room()
    by_path: dict[str, list[Route]] = {}
    for route in ROUTES:
        by_path.setdefault(route.path, []).append(route)
    documents = Documents(ROUTES, context)
    paths: list[BaseRoute] = [
        Path(path, Methods(routes, context, documents, shared)) for path, routes in by_path.items()
    ]
    app = Starlette(
        routes=paths,
        middleware=[Middleware(Envelope, context=context)],
        exception_handlers={HTTPException: _no_such_path},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


async def _no_such_path(request: Any, error: Exception) -> Any:
    """The router's own 404, raised on to the envelope as ours."""
    raise no_such_path() from None


class Envelope:
    """Round every response: a request id, the safe headers, and a problem document for whatever was raised.

    While the node stops, every response is the last of its connection, and says so.
    """

    def __init__(self, app: ASGIApp, context: Context):
        self._app, self._waiting, self._public_url = app, context.waiting, context.settings.public_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = plain(scope["path"])
        request_id = f"req_{secrets.token_hex(12)}"
        started = False

        async def marked(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                last = LAST if self._waiting.released else ()
                message["headers"] = [*message["headers"], *SAFE_HEADERS, *last, (REQUEST_ID, request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, marked)
        except asyncio.CancelledError:
            if not self._waiting.released:
                raise
            log.warning("%s: cut by the stop", request_id)
            if not started:
                await self._refuse(STOPPING, request_id, scope, receive, marked)
        except Exception as error:
            if started:
                raise
            await self._refuse(error, request_id, scope, receive, marked)

    async def _refuse(self, error: Exception, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = error if isinstance(error, Refusal) else internal()
        if refusal is not error:
            log.error("%s: %s %s failed", request_id, scope["method"], scope["path"], exc_info=error)
        reply = problem(refusal, public_url=self._public_url, request_id=request_id)
        await send_reply(reply, scope, receive, send)


def plain(path: str) -> str:
    """A callback's path without the slashes that joining a base and a path leaves, doubled or at the end; others as
    they are.
    """
    if "//" not in path and not path.endswith("/"):
        return path
    tidied = re.sub("/{2,}", "/", path).rstrip("/")
    return tidied if tidied.startswith(CALLBACKS) else path
