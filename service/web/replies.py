"""What a handler gives back, and how it goes out."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.states import Record

JSON = "application/json"
Headers = tuple[tuple[str, str], ...]


class Reply(Record):
    """One response: its bytes, or a stream of them that ends when the client goes."""

    status: int
    body: bytes | AsyncIterator[bytes] = b""
    content_type: str = JSON
    headers: Headers = ()


def json_reply(data: Any, status: int = 200, headers: Headers = ()) -> Reply:
    return Reply(status=status, body=msgspec.json.encode(data), headers=headers)


NO_CONTENT = Reply(status=204)


async def send_reply(reply: Reply, scope: Scope, receive: Receive, send: Send) -> None:
    """Send it whole; a stream until it ends or the client goes."""
    if not isinstance(reply.body, bytes):
        streaming = StreamingResponse(reply.body, reply.status, dict(reply.headers), reply.content_type)
        await streaming(scope, receive, send)
        return
    headers = [(name.encode(), value.encode("latin-1")) for name, value in reply.headers]
    if reply.status != 204:
        headers.append((b"content-type", reply.content_type.encode()))
        headers.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else reply.body
    await send({"type": "http.response.body", "body": body})
