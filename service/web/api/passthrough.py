"""The provider's own API: the request goes to the stage as it came, the answer goes back as it is."""

import asyncio
import re
from collections.abc import AsyncIterator

from service.errors import BadRequest, Missing
from service.passthrough.bodies import Asked
from service.web.bodies import read_body
from service.web.calls import Call
from service.web.problems import TooSlow
from service.web.replies import Reply

IDLE_S = 30.0  # between pieces of a body
WHOLE_S = 120.0  # for a body that is read before it is forwarded
_WATCHING: set[asyncio.Task[None]] = set()  # each ends with its request: then the server says that it is gone
_PATH = re.compile(rb"/v1/providers/[^/]+/passthrough(/.*)", re.DOTALL)


async def relay(call: Call) -> Reply:
    """Whatever the provider answers, with its status; a stream where it is not read here."""
    relayed = await call.context.passthrough.relay(call.who, _asked(call))
    body = relayed if relayed.whole is None else relayed.whole
    headers = tuple(relayed.headers.items())
    return Reply(status=relayed.status, body=body, content_type=None, headers=headers, after=relayed.after)


def _asked(call: Call) -> Asked:
    found = _PATH.search(call.raw_path)  # a server may stand below a prefix
    if found is None:
        raise Missing("There is nothing at this path: put the provider's own path behind /passthrough.", param="path")

    async def whole(most: int) -> bytes:
        return await read_body(call.receive, call.headers, most, WHOLE_S)

    return Asked(
        provider=call.path["provider"],
        method=call.method,
        path=found[1].decode("latin-1"),
        query=call.raw_query.decode("latin-1"),
        headers=call.headers,
        secret=call.key,
        whole=whole,
        pieces=lambda: _pieces(call),
        watch=lambda: _watched(call),
    )


def _watched(call: Call) -> asyncio.Event:
    """Set when the caller's connection is gone."""
    gone = asyncio.Event()

    async def wait() -> None:
        while (await call.receive())["type"] != "http.disconnect":
            pass
        gone.set()

    watching = asyncio.create_task(wait())
    _WATCHING.add(watching)
    watching.add_done_callback(_WATCHING.discard)
    return gone


async def _pieces(call: Call) -> AsyncIterator[bytes]:
    """The body as it comes. Raises 408 where it stops coming, 400 where it breaks off."""
    more = True
    while more:
        try:
            async with asyncio.timeout(IDLE_S):
                message = await call.receive()
        except TimeoutError:
            raise TooSlow(f"Nothing of the body came for {IDLE_S:.0f} seconds: send it again.") from None
        if message["type"] == "http.disconnect":
            raise BadRequest("The connection closed before the body ended.")
        more = message.get("more_body", False)
        if piece := message.get("body", b""):
            yield piece
