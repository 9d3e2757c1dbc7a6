"""What a handler gives back, and how it goes out."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from service.states import Record
from service.web.streaming import send_stream

JSON = "application/json"
PIECE_BYTES = 256 * 1024  # a larger body is taken piece by piece, or its client is cut off
Headers = tuple[tuple[str, str], ...]


class Reply(Record):
    """One response: its bytes, or a stream of them that ends when the client goes."""

    status: int
    body: bytes | AsyncIterable[bytes] = b""
    content_type: str | None = JSON  # None: it is among the headers, or there is none
    headers: Headers = ()
    after: Callable[[bool], Awaitable[None]] | None = None  # told whether all of it went out to an open connection


def json_reply(data: Any, status: int = 200, headers: Headers = ()) -> Reply:
    return Reply(status=status, body=msgspec.json.encode(data), headers=headers)


NO_CONTENT = Reply(status=204)


async def send_reply(reply: Reply, scope: Scope, receive: Receive, send: Send) -> None:
    """Send it whole; a stream until it ends or the client goes."""
    whole = False
    if reply.after is not None:
        await asyncio.sleep(0)  # a connection that is gone by now is known to be
    try:
        whole = await _send(reply, scope, receive, send)
    finally:
        if reply.after is not None:
            await reply.after(whole)


async def _send(reply: Reply, scope: Scope, receive: Receive, send: Send) -> bool:
    """Whether it went out to its end."""
    headers = [(name.encode(), value.encode("latin-1")) for name, value in reply.headers]
    if reply.status != 204 and reply.content_type is not None:
        headers.append((b"content-type", reply.content_type.encode()))
    if not isinstance(reply.body, bytes):
        stream = reply.body if scope["method"] != "HEAD" else _Unsent(reply.body)
        return await send_stream(reply.status, headers, stream, receive, send)
    if reply.status != 204:
        headers.append((b"content-length", b"%d" % len(reply.body)))
    body = b"" if scope["method"] == "HEAD" else reply.body
    if len(body) > PIECE_BYTES:
        return await send_stream(reply.status, headers, _sliced(body), receive, send)
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return True


async def _sliced(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]


class _Unsent:
    """A stream of which only the headers go out."""

    def __init__(self, body: AsyncIterable[bytes]):
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        return
        yield b""

    async def aclose(self) -> None:
        if (close := getattr(self._body, "aclose", None)) is not None:
            await close()
