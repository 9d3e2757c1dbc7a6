"""One request and its answer on a connection, and the answers that no app gives."""

import secrets
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.errors import Refusal
from service.web.problems import problem
from service.web.replies import Reply, send_reply
from service.web.server import REQUEST_ID, SAFE_HEADERS


class Exchange(RequestResponseCycle):
    """One request and its answer. `broken`: nothing more comes of the request, and its sender may still read."""

    broken = False
    keeps_alive = True  # once the client was told to go on with its body
    _whole = False  # the app has all of the body

    async def receive(self) -> Any:
        """The next of the body; a disconnect in place of a rest that will not come, and once the client has gone."""
        if self.broken and (self.more_body or self._whole):
            return {"type": "http.disconnect"}
        if self.waiting_for_100_continue:
            self.keep_alive = self.keeps_alive
        message = await super().receive()
        if self.broken and (self.more_body or self._whole):
            return {"type": "http.disconnect"}
        self._whole = not message.get("more_body", False)
        return message

    def break_off(self) -> None:
        self.broken, self.keep_alive, self.keeps_alive = True, False, False
        self.message_event.set()


class Refusing:
    """An app that answers one thing, and that it is the last."""

    def __init__(self, refusal: Refusal, public_url: str):
        self._refusal, self._public_url = refusal, public_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = document(self._refusal, self._public_url)
        headers = (*reply.headers, ("connection", "close"))
        await send_reply(msgspec.structs.replace(reply, headers=headers), scope, receive, send)


def document(refusal: Refusal, public_url: str) -> Reply:
    """What the envelope would make of it."""
    request_id = f"req_{secrets.token_hex(12)}"
    reply = problem(refusal, public_url=public_url, request_id=request_id)
    marks = ((name.decode(), value.decode()) for name, value in (*SAFE_HEADERS, (REQUEST_ID, request_id.encode())))
    return msgspec.structs.replace(reply, headers=(*reply.headers, *marks))
