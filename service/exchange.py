"""One request through the door and what becomes of it: whether it was sent, what came back."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, cast

import aiohttp
import msgspec
from aiohttp.connector import Connection
from yarl import URL

from service.dialing import Guard, RefusedAddress
from service.errors import EgressDenied, Lost, NotSent
from service.framing import Outgoing, sendable_headers
from service.hearing import Hearing
from service.own_requests import SENDER, chained
from service.reply_reader import Head
from service.streams import LOST, UNSENT, Body, first_headers, kind


class Answer(msgspec.Struct, frozen=True):
    """A status line came back. `headers` by lower-case name, the first of each; `body` as it came, not inflated.

    `complete` is False where the cap, the deadline or the peer cut the body; the status stands all the same.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool
    duration_ms: int
    too_large: bool = False  # the cap cut it


class Larger(NamedTuple):
    """What may be read beyond the usual cap: so many bytes, once it is this reply's turn."""

    most: int
    turn: Callable[[], Awaitable[None]]


class Exchange:
    """One request and what becomes of it; an aiohttp middleware too, so that it sees every try of aiohttp's."""

    def __init__(self, guard: Guard, before_first_byte: Callable[[], None] | None, *, may_repeat: bool):
        self.started = False
        self.response: aiohttp.ClientResponse | None = None
        self._guard, self._before, self._may_repeat = guard, before_first_byte, may_repeat
        self._refusal: Exception | None = None
        self._broken: Exception | None = None
        self._transport: asyncio.Transport | None = None
        self._body, self._complete, self._too_large, self._over = bytearray(), False, False, False
        self._hearing: Hearing | None = None

    async def begin(self, request: Outgoing, url: URL) -> aiohttp.ClientResponse:
        headers, skipped = sendable_headers(request)
        if SENDER in headers and (mark := self._guard.session.headers.get(SENDER)) is not None:
            headers[SENDER] = chained(headers[SENDER], mark)
        response = await self._guard.session.request(
            request.method,
            url,
            headers=headers,
            data=Body(self, request.body) if request.length else None,
            skip_auto_headers=skipped,
            allow_redirects=False,
            middlewares=(self,),
        )
        if not self.started:
            response.close()
            raise NotSent("connect", "the server answered before it was asked")
        self.response = response
        return response

    async def read(self, max_bytes: int, larger: Larger | None = None) -> None:
        content = cast(aiohttp.ClientResponse, self.response).content
        while not content.at_eof() and len(self._body) <= max_bytes:
            self._body += await content.read(max_bytes + 1 - len(self._body))
            if larger is not None and len(self._body) > max_bytes:
                await larger.turn()
                max_bytes, larger = larger.most, None
        self._too_large = len(self._body) > max_bytes
        self._complete = not self._too_large
        del self._body[max_bytes:]

    async def __call__(self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        cast(GuardedRequest, request).exchange = self
        try:
            return await send(request)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            # After these two aiohttp repeats idempotent methods, so that it must not see them.
            if self._may_repeat:
                raise
            raise self.verdict(error) from None

    def connected(self, connection: Connection) -> None:
        self._guard.vet(connection)
        self._transport, self._hearing = connection.transport, cast(Hearing, connection.protocol)

    def open(self) -> None:
        """The last moment at which nothing is sent; from here on the request counts as sent."""
        try:
            if self._over or self._transport is None or self._transport.is_closing():
                raise NotSent("connect", "the connection closed before the request was written")
            if self._before is not None:
                self._before()
        except Exception as refusal:
            self._refusal = refusal  # aiohttp wraps what a body raises
            raise
        self.started = True

    def broke(self) -> None:
        """The body to be sent could not be had: aiohttp shows that as a connection that broke."""
        self._broken = Lost("body") if self.started else NotSent("body", "what was to be sent could not be read")
        self._refusal = self._refusal or self._broken

    def verdict(self, error: Exception) -> Exception:
        if self.started:
            return error if isinstance(error, Lost) else self._broken or self._lost(kind(error, LOST))
        if self._refusal is not None:
            return self._refusal
        if isinstance(error, NotSent):
            return error
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        return EgressDenied() if isinstance(cause, RefusedAddress) else NotSent(kind(error, UNSENT))

    def _lost(self, word: str) -> Lost:
        heard = self._hearing is None or self._hearing.heard or self._hearing.requests < 2
        return Lost(word, stale=not heard and word in ("reset", "disconnected"))

    @property
    def has_status(self) -> bool:
        """Whether the status line of a reply came, be it alone."""
        return self.response is not None or self._head_so_far() is not None

    def _head_so_far(self) -> Head | None:
        return self._hearing.head_so_far if self._hearing is not None and self.started else None

    def end(self) -> None:
        self._over = True
        if self.response is not None and not self._complete:
            self.response.close()

    def answer(self, duration_ms: int) -> Answer:
        """What came, if `has_status`."""
        response = self.response
        if response is None:
            head = cast(Head, self._head_so_far())
            pairs = ((name.decode("latin-1").lower(), value.decode("utf-8", "replace")) for name, value in head.headers)
            return Answer(head.status, dict(reversed(list(pairs))), b"", False, duration_ms)
        return Answer(
            response.status, first_headers(response), bytes(self._body), self._complete, duration_ms, self._too_large
        )


class GuardedRequest(aiohttp.ClientRequest):
    exchange: Exchange

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        self.exchange.connected(conn)
        if not self.body:  # written at once, without a suspension; a body asks for itself
            self.exchange.open()
        return await super().send(conn)
