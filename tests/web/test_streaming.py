"""Bodies that go out as they come: their ends, the right ones and the others."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.errors import Lost
from service.web.streaming import send_stream

pytestmark = pytest.mark.anyio


class Client:
    """The server's side of one connection: takes what is sent, and leaves when it is told to."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self._first = True

    async def receive(self) -> dict[str, Any]:
        if self._first:
            self._first = False
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def whole(self) -> bool:
        """Whether the response was ended."""
        return bool(self.sent) and not self.sent[-1].get("more_body", self.sent[-1]["type"] != "http.response.body")


class Source:
    """A body that knows whether it was closed."""

    def __init__(self, *chunks: bytes, endless: bool = False, error: Exception | None = None):
        self.chunks, self.endless, self.error = chunks, endless, error
        self.taken, self.closed = 0, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            self.taken += 1
            yield chunk
        while self.endless:
            self.taken += 1
            yield b"x"  # without ever waiting: the next byte is always there
            if self.taken % 1000 == 0:
                await asyncio.sleep(0)
        if self.error is not None:
            raise self.error

    async def aclose(self) -> None:
        self.closed = True


async def sent(client: Client, source: Source) -> None:
    await send_stream(200, [(b"x-a", b"1")], source, client.receive, client.send)


async def test_a_stream_goes_out_in_order_and_is_closed() -> None:
    client, source = Client(), Source(b"one", b"two")
    await sent(client, source)
    assert client.sent[0] == {"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]}
    assert (client.body, client.whole, source.closed) == (b"onetwo", True, True)


async def test_a_client_that_leaves_ends_a_stream_that_never_waits() -> None:
    client, source = Client(), Source(endless=True)
    task = asyncio.create_task(sent(client, source))
    while source.taken < 10_000:  # noqa: ASYNC110 - it is what is measured
        await asyncio.sleep(0)
    client.left.set()
    async with asyncio.timeout(20):
        await task
    assert source.closed and not client.whole


async def test_a_stream_that_breaks_is_not_ended_as_if_it_were_whole() -> None:
    client, source = Client(), Source(b"half", error=Lost("reset"))
    await sent(client, source)
    assert (client.body, client.whole, source.closed) == (b"half", False, True)


async def test_a_fault_of_ours_is_raised() -> None:
    client, source = Client(), Source(b"half", error=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await sent(client, source)
    assert source.closed and not client.whole


async def test_a_server_that_stops_closes_what_it_streams() -> None:
    client, source = Client(), Source(endless=True)
    task = asyncio.create_task(sent(client, source))
    while not source.taken:  # noqa: ASYNC110 - it is what is measured
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert source.closed
