"""Bodies that stream through the door, both ways, over real sockets: memory, back-pressure, and what counts as sent."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from service.errors import EgressDenied, Lost, NotSent, StoreUnavailable
from service.framing import FormFile, Outgoing, StreamBody, multipart
from tests.test_egress import Wire, canary, opened, replying, serving

pytestmark = pytest.mark.anyio

MB = 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


class Source:
    """A body of so many chunks that counts how many were taken, and fails where it is told to."""

    def __init__(self, *chunks: bytes, fails_at: int | None = None, error: Exception | None = None):
        self.all, self.fails_at, self.error = chunks, fails_at, error or StoreUnavailable("the disk is gone")
        self.taken = self.asked = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        self.asked += 1
        for number, chunk in enumerate(self.all):
            await asyncio.sleep(0)
            if number == self.fails_at:
                raise self.error
            self.taken += 1
            yield chunk

    def body(self, length: int | None = None) -> StreamBody:
        return StreamBody(sum(map(len, self.all)) if length is None else length, self.chunks)


def post(wire: Wire, body: StreamBody | bytes, **headers: str) -> Outgoing:
    return Outgoing("POST", f"http://127.0.0.1:{wire.port}/up", headers, body)


async def answering(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await wire.read_request(reader)
        writer.write(OK)


# -- what is sent


async def test_a_streamed_body_arrives_whole_with_its_length() -> None:
    source = Source(b"a" * 100_000, b"", b"b" * 3, b"c" * 200_000)
    async with serving(answering) as wire, opened() as egress:
        answer = await egress.send(post(wire, source.body()), deadline=5, max_bytes=10)
        assert (answer.status, answer.body) == (200, b"ok")
    head, _, body = bytes(wire.connections[0]).partition(b"\r\n\r\n")
    assert b"content-length: 300003" in head.lower() and b"transfer-encoding" not in head.lower()
    assert body == b"a" * 100_000 + b"b" * 3 + b"c" * 200_000
    assert source.asked == 1


async def test_a_streamed_body_of_no_bytes_is_an_empty_body() -> None:
    async with serving(answering) as wire, opened() as egress:
        assert (await egress.send(post(wire, Source().body()), deadline=5, max_bytes=10)).status == 200
    assert b"content-length: 0" in bytes(wire.connections[0]).lower()


async def test_only_as_much_is_taken_as_the_peer_reads() -> None:
    source = Source(*[b"x" * 64 * 1024] * 800)  # 50 MB

    async def stalled(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(60)

    async with serving(stalled) as wire, opened() as egress:
        with pytest.raises(Lost) as lost:
            await egress.send(post(wire, source.body()), deadline=0.5, max_bytes=10)
    assert lost.value.kind == "timeout"
    assert 0 < source.taken < 200  # what the sockets' buffers hold, not what there is


async def test_a_body_that_cannot_be_read_sends_nothing() -> None:
    source = Source(b"x", fails_at=0)
    asked: list[str] = []
    async with serving(answering) as wire, opened() as egress:
        with pytest.raises(NotSent) as failed:
            outgoing = post(wire, source.body())
            await egress.send(outgoing, deadline=5, max_bytes=10, before_first_byte=lambda: asked.append("asked"))
        assert (failed.value.kind, asked, source.asked) == ("body", [], 1)
        await asyncio.sleep(0.05)
        assert wire.connections == [b""]


async def test_a_body_that_breaks_off_is_lost_and_its_connection_is_closed() -> None:
    source = Source(b"x" * 100_000, b"y" * 100_000, fails_at=1)
    async with serving(reading_until_closed) as wire, opened() as egress:
        with pytest.raises(Lost) as lost:
            await egress.send(post(wire, source.body()), deadline=5, max_bytes=10)
        assert lost.value.kind == "body"
        await asyncio.sleep(0.05)
        assert wire.requests == 1  # the connection ended
        assert bytes(wire.connections[0]).endswith(b"x" * 100)


async def reading_until_closed(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        wire.connections[-1].extend(chunk)
    wire.requests += 1


@pytest.mark.parametrize("declared", [5, 15], ids=["too long", "too short"])
async def test_a_body_of_another_length_than_declared_is_lost(declared: int) -> None:
    async with serving(reading_until_closed) as wire, opened() as egress:
        with pytest.raises(Lost) as lost:
            await egress.send(post(wire, Source(b"12345", b"67890").body(declared)), deadline=5, max_bytes=10)
        assert lost.value.kind == "body"
        await asyncio.sleep(0.05)
    body = bytes(wire.connections[0]).partition(b"\r\n\r\n")[2]
    assert len(body) <= declared and b"1234567890".startswith(body)


async def test_the_last_word_before_the_first_byte_holds_for_streams() -> None:
    source = Source(b"x" * 10)

    def no() -> None:
        raise NotSent("lease", "not ours any more")

    async with serving(answering) as wire, opened() as egress:
        with pytest.raises(NotSent) as failed:
            await egress.send(post(wire, source.body()), deadline=5, max_bytes=10, before_first_byte=no)
        assert failed.value.kind == "lease"
        await asyncio.sleep(0.05)
        assert wire.connections == [b""]


async def test_the_check_is_asked_after_the_first_piece_is_there() -> None:
    """Nothing may come between the check and the first byte, least of all a slow read."""
    order: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.05)
        order.append("read")
        yield b"12"

    async with serving(answering) as wire, opened() as egress:
        outgoing = post(wire, StreamBody(2, chunks))
        await egress.send(outgoing, deadline=5, max_bytes=10, before_first_byte=lambda: order.append("checked"))
    assert order == ["read", "checked"]


async def test_a_peer_that_is_gone_before_the_first_byte_was_not_sent_to() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.2)  # meanwhile the server hangs up
        yield b"12"

    async with serving(hanging_up) as wire, opened() as egress:
        with pytest.raises(NotSent):
            await egress.send(post(wire, StreamBody(2, chunks)), deadline=5, max_bytes=10)
        assert len(wire.connections) == 1 and wire.connections[0] == b""


async def hanging_up(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_a_refusal_halfway_is_an_answer_and_its_connection_is_not_used_again() -> None:
    source = Source(*[b"x" * 64 * 1024] * 400)

    async def refusing(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await asyncio.sleep(60)

    async with serving(refusing) as wire, opened() as egress:
        for _ in range(2):
            answer = await egress.send(post(wire, source.body()), deadline=5, max_bytes=10)
            assert (answer.status, answer.body) == (413, b"big")
        assert len(wire.connections) == 2
    assert source.taken < 400


# -- forms


async def test_a_form_is_what_servers_read() -> None:
    source = Source(b"\x00\x01--edge\r\n", b"more")
    form = multipart(
        {"model": "v5", "prompt": "größe\r\n"},
        [FormFile("image", 'a "cat"\r\n.png', "image/png", source.body())],
        "edge7",
    )
    async with serving(answering) as wire, opened() as egress:
        kind = "multipart/form-data; boundary=edge7"
        answer = await egress.send(post(wire, form, **{"Content-Type": kind}), deadline=5, max_bytes=10)
        assert answer.status == 200
    body = bytes(wire.connections[0]).partition(b"\r\n\r\n")[2]
    assert len(body) == form.length
    parts = body.split(b"--edge7")
    assert [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts[1:-1]] == [
        b"v5", "größe\r\n".encode(), b"\x00\x01--edge\r\nmore"
    ]  # fmt: skip
    assert b'name="image"; filename="a %22cat%22%0D%0A.png"\r\nContent-Type: image/png' in parts[3]
    assert parts[-1] == b"--\r\n"


# -- what comes back


async def test_a_reply_is_read_as_it_comes() -> None:
    release = asyncio.Event()

    async def slow(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await wire.read_request(reader)
        writer.write(b"HTTP/1.1 206 Partial\r\nX-A: 1\r\nX-a: 2\r\nContent-Length: 10\r\n\r\n12345")
        await release.wait()
        writer.write(b"67890")
        await asyncio.sleep(60)

    async with serving(slow) as wire, opened() as egress:
        async with egress.stream(get(wire), deadline=5, idle=5) as streamed:
            assert streamed.status == 206
            assert [value for name, value in streamed.headers if name.lower() == "x-a"] == ["1", "2"]
            assert streamed.header["x-a"] == "1"
            async with aclosing(streamed.chunks()) as chunks:
                assert await anext(chunks) == b"12345"
                assert not streamed.complete
                release.set()
                assert [chunk async for chunk in chunks] == [b"67890"]
            assert streamed.complete


def get(wire: Wire, **headers: str) -> Outgoing:
    return Outgoing("GET", f"http://127.0.0.1:{wire.port}/big", headers)


class Flood:
    """Sends without end, and knows how much the peer's buffers took."""

    def __init__(self) -> None:
        self.sent = 0
        self.closed = asyncio.Event()

    async def __call__(self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await wire.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                self.sent += 65536
        finally:
            self.closed.set()


async def test_no_more_is_read_than_is_taken() -> None:
    flood = Flood()
    async with serving(flood) as wire, opened() as egress:
        async with egress.stream(get(wire), deadline=5, idle=5) as streamed:
            await anext(streamed.chunks())
            await asyncio.sleep(0.3)
            before = flood.sent
            await asyncio.sleep(0.2)
            assert flood.sent == before < 16 * MB
        async with asyncio.timeout(20):
            await flood.closed.wait()  # leaving it ended the request


async def test_a_cancelled_reader_ends_the_request() -> None:
    flood = Flood()
    async with serving(flood) as wire, opened() as egress:

        async def read() -> None:
            async with egress.stream(get(wire), deadline=5, idle=5) as streamed:
                async for _ in streamed.chunks():
                    await asyncio.sleep(0.01)

        task = asyncio.create_task(read())
        await asyncio.sleep(0.2)
        assert flood.sent and not flood.closed.is_set()
        task.cancel()
        async with asyncio.timeout(20):
            await flood.closed.wait()


async def test_a_reply_that_is_read_to_its_end_leaves_its_connection_for_the_next() -> None:
    async with serving(answering) as wire, opened() as egress:
        for _ in range(3):
            async with egress.stream(get(wire), deadline=5, idle=5) as streamed:
                assert [chunk async for chunk in streamed.chunks()] == [b"ok"]
        assert len(wire.connections) == 1


async def test_streams_and_calls_never_share_connections() -> None:
    async with serving(answering) as wire, opened(connections=1) as egress:
        async with egress.stream(get(wire), deadline=5, idle=5):
            assert (await egress.send(get(wire), deadline=2, max_bytes=10)).status == 200
        assert len(wire.connections) == 2


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (replying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123", hang=True), "timeout"),
        (replying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123"), "protocol"),
        (replying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\n"), "protocol"),
        (replying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\nzz\r\n"), "protocol"),
    ],
    ids=["hangs", "cut", "cut between chunks", "no chunk"],
)
async def test_a_reply_that_breaks_off_says_so(script: object, kind: str) -> None:
    async with serving(script) as wire, opened() as egress:  # type: ignore[arg-type]
        got = []
        with pytest.raises(Lost) as lost:
            async with egress.stream(get(wire), deadline=5, idle=0.3) as streamed:
                async for chunk in streamed.chunks():
                    got.append(chunk)
        assert lost.value.kind == kind
        assert b"123".startswith(b"".join(got))


async def test_more_than_the_cap_is_not_taken() -> None:
    flood = Flood()
    async with serving(flood) as wire, opened() as egress:
        got = 0
        with pytest.raises(Lost) as lost:
            async with egress.stream(get(wire), deadline=5, idle=5, max_bytes=MB) as streamed:
                async for chunk in streamed.chunks():
                    got += len(chunk)
        assert lost.value.kind == "too_large" and got <= MB


async def test_headers_that_do_not_come_are_lost_after_the_deadline() -> None:
    async with serving(replying(hang=True)) as wire, opened() as egress:
        with pytest.raises(Lost) as lost:
            async with egress.stream(get(wire), deadline=0.3, idle=5):
                pytest.fail("there is no reply")
        assert lost.value.kind == "timeout"


async def test_the_guard_stands_before_streams_too() -> None:
    async with canary() as wire, opened() as egress:
        for url in (f"http://10.0.0.1:{wire.port}/", "http://2130706433/", "file:///etc/passwd"):
            with pytest.raises(EgressDenied):
                async with egress.stream(Outgoing("GET", url, {}), deadline=2, idle=2):
                    pytest.fail("it was let through")
        assert wire.connections == []


async def test_a_redirect_is_an_answer_to_streams_too() -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with serving(replying(moved)) as wire, opened() as egress:
        async with egress.stream(get(wire), deadline=2, idle=2) as streamed:
            assert streamed.status == 302
        assert wire.requests == 1


async def test_nothing_is_inflated() -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x00\x00"
    async with serving(replying(reply)) as wire, opened() as egress:
        async with egress.stream(get(wire), deadline=2, idle=2) as streamed:
            assert b"".join([chunk async for chunk in streamed.chunks()]) == b"\x1f\x8b\x00\x00"
        assert re.search(rb"accept-encoding: identity", bytes(wire.connections[0]).lower())


async def test_a_stream_up_and_down_at_once() -> None:
    """As passthrough needs it: both bodies pass, neither is kept."""
    source = Source(*[b"x" * 64 * 1024] * 64)
    async with serving(answering) as wire, opened() as egress:
        async with egress.stream(post(wire, source.body()), deadline=5, idle=5) as streamed:
            assert (streamed.status, [chunk async for chunk in streamed.chunks()]) == (200, [b"ok"])
    assert source.taken == 64
