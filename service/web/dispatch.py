"""From a request to its route's answer: authenticate, read, check, answer, send."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from service.errors import Missing
from service.web.auth import authorized
from service.web.bodies import OTHER_BYTES, check_media, check_size, checked, decode, fingerprint
from service.web.calls import Call
from service.web.context import Context
from service.web.documents import Documents
from service.web.problems import MethodNotAllowed
from service.web.queries import read_query
from service.web.replies import send_reply
from service.web.room import Room
from service.web.routing import Route


class Methods:
    """One path: its routes by method. HEAD is GET without the body, but for streams."""

    def __init__(self, routes: Sequence[Route], context: Context, documents: Documents, room: Room):
        self._context, self._documents, self._room = context, documents, room
        self._routes = {route.method: route for route in routes}
        if "GET" in self._routes and (not self._routes["GET"].streams or self._routes["GET"].passes):
            self._routes["HEAD"] = self._routes["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["method"])
        if route is None:
            raise MethodNotAllowed(sorted(self._routes))
        call = Call(
            context=self._context,
            documents=self._documents,
            route=route,
            path=scope["path_params"],
            headers=headers_of(scope["headers"]),
            receive=receive,
            method=scope["method"],
            raw_path=scope.get("raw_path") or b"",
            raw_query=scope["query_string"],
        )
        # Who asks comes first: nothing is read, or told, to somebody without a key.
        if route.scope is not None:
            call.principal = await authorized(call, route.scope)
        self._context.own_requests.refuse(call.method, call.headers, passes=route.passes)
        with self._room.held(call.principal.tenant if call.principal is not None else 0) as call.held:
            await self._prepare(call, scope)
            reply = await route.answer(call)
            if isinstance(reply.body, bytes) and call.method in ("GET", "HEAD"):
                call.held.grow(len(reply.body))
            await send_reply(reply, scope, receive, send)

    async def _prepare(self, call: Call, scope: Scope) -> None:
        route = call.route
        if route.passes:
            return
        if any(not text.isascii() or not text.isprintable() for text in call.path.values()):
            raise Missing("There is no such object: ids are visible ASCII.", param=next(iter(call.path)))
        if not route.open_query:
            call.query = read_query(route.query, scope["query_string"])
        if route.body is not None:
            await _read(call, scope["path"])
        elif not route.reads and _announced(call.headers):
            await call.read(OTHER_BYTES)  # it says nothing here, but what breaks off is no request


def _announced(headers: Mapping[str, str]) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip("0") != ""


async def _read(call: Call, path: str) -> None:
    route = call.route
    most = route.max_bytes if isinstance(route.max_bytes, int) else route.max_bytes(call.context)
    call.raw = await call.read(most)
    if not call.raw and route.body_optional:
        call.body = route.body()
        return
    check_media(call.headers)
    value = decode(call.raw)
    if route.limit is not None:
        check_size(call.raw, route.limit(call.context, value))
    call.body = checked(value, route.body)
    call.fingerprint = fingerprint(route.method, path, value, route.body)


def headers_of(raw: Sequence[tuple[bytes, bytes]]) -> Mapping[str, str]:
    """By name in lower case; what is there more than once is joined with commas, as HTTP says."""
    headers: dict[str, Any] = {}
    for name, value in raw:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers
