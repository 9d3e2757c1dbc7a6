"""Bodies on their way through the door, neither of which is ever whole in memory: what is sent, what comes back."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from service.codings import NotInflated, codings_of, inflated
from service.errors import Lost, NotSent
from service.framing import StreamBody

WRITE_BYTES = 64 * 1024

Kinds = tuple[tuple[type[Exception], str], ...]
UNSENT: Kinds = ((TimeoutError, "timeout_connect"), (ssl.SSLError, "tls"), (aiohttp.ClientSSLError, "tls"),
                 (aiohttp.InvalidURL, "egress_denied"), (Exception, "connect"))  # fmt: skip
LOST: Kinds = ((TimeoutError, "timeout"), (aiohttp.ServerDisconnectedError, "disconnected"),
               (NotSent, "disconnected"), (OSError, "reset"), (Exception, "protocol"))  # fmt: skip


def kind(error: Exception, kinds: Kinds) -> str:
    """One stable word for what a transport raised."""
    return next(word for family, word in kinds if isinstance(error, family))


class Opening(Protocol):
    """Who knows whether the request was sent."""

    def open(self) -> None:
        """Just before the first byte."""

    def broke(self) -> None:
        """The body itself could not be had."""


class Body(aiohttp.Payload):
    """aiohttp holds the headers back until the first bytes of the body are there: they leave together."""

    _autoclose = True

    def __init__(self, opening: Opening, content: bytes | StreamBody):
        super().__init__(content)
        self._size = content.length if isinstance(content, StreamBody) else len(content)
        self._opening = opening

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors) if isinstance(self._value, bytes) else ""

    async def write(self, writer: AbstractStreamWriter) -> None:
        if isinstance(self._value, bytes):
            self._opening.open()
            content = memoryview(self._value)
            for start in range(0, len(content), WRITE_BYTES):
                await writer.write(content[start : start + WRITE_BYTES])
            return
        async with aclosing(self._pieces(self._value)) as pieces:
            first = await anext(pieces)  # had before anything is sent: a body that cannot be read sends nothing
            self._opening.open()
            await writer.write(first)
            async for piece in pieces:
                await writer.write(piece)

    async def _pieces(self, body: StreamBody) -> AsyncGenerator[bytes, None]:
        """Its bytes, none of them empty. Raises ValueError where they are not as many as were declared."""
        left = body.length
        try:
            async for chunk in body.chunks():
                left -= len(chunk)
                if left < 0:
                    break
                if chunk:
                    yield chunk
        except Exception:
            self._opening.broke()
            raise
        if left:
            self._opening.broke()
            raise ValueError("the body is not as long as it was declared")


class Streamed:
    """A reply whose body is still to come. `headers`: all, as they came; `header`: the first of each, in lower case."""

    def __init__(self, response: aiohttp.ClientResponse, *, idle: float, max_bytes: int | None):
        self.status = response.status
        self.headers: list[tuple[str, str]] = list(response.headers.items())
        self.header = first_headers(response)
        self.complete, self.size = False, 0  # whether its end was reached; how many bytes came so far
        self._content, self._idle, self._max_bytes = response.content, idle, max_bytes

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, not inflated, read no faster than it is taken.

        Raises `Lost`: nothing came for `idle` seconds (timeout), it broke off (reset, disconnected, protocol), or it
        is longer than `max_bytes` (too_large).
        """
        while not self._content.at_eof():
            chunk = await self._next()
            self.size += len(chunk)
            if self._max_bytes is not None and self.size > self._max_bytes:
                raise Lost("too_large", "the body is larger than is taken")
            if chunk:
                yield chunk
        self.complete = True

    async def plain(self, body: bytes, most: int) -> bytes:
        """The whole body without the codings that nobody asked for, of which the headers say nothing from here on.

        As it is if they cannot be taken off, or if it would be larger than `most`.
        """
        codings = codings_of(self.header)
        try:
            made = await asyncio.to_thread(inflated, body, codings, most) if codings else body
        except NotInflated:
            return body
        if codings:
            gone = ("content-encoding", "content-length")
            self.headers = [(name, value) for name, value in self.headers if name.lower() not in gone]
            self.header = {name: value for name, value in self.header.items() if name not in gone}
        return made

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle):
                return await self._content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise Lost(kind(error, LOST)) from None


def first_headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    """By lower-case name, the first of each."""
    headers: dict[str, str] = {}
    for name, value in response.headers.items():
        headers.setdefault(name.lower(), value)
    return headers
