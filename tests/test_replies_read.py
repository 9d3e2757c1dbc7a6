"""Replies of providers as a conversation reads them, over real sockets: other codings, odd framing, large ones."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from service.clock import SystemClock
from service.codings import NotInflated, inflated
from service.conversation import LARGEST_REPLY, REPLY_BYTES, Conversations, Lease, Oversized
from service.facts import NotNow, Unknown
from service.loops import UNLIMITED
from service.providers import Reply, Request
from service.providers._reading import read_json
from tests.test_pipeline import receiving
from tests.web.sandboxed import running

pytestmark = pytest.mark.anyio
SAID = {"job_id": "çé✔", "n": 1}
TEXT = json.dumps(SAID, ensure_ascii=False).encode()


def raw_deflate(body: bytes) -> bytes:
    made = zlib.compressobj(wbits=-15)
    return made.compress(body) + made.flush()


def framed(body: bytes, headers: str = "", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


CODED = {
    "gzip": framed(gzip.compress(TEXT), "Content-Encoding: gzip\r\n"),
    "x-gzip in capitals": framed(gzip.compress(TEXT), "content-encoding: X-GZIP\r\n"),
    "two members": framed(gzip.compress(TEXT[:5]) + gzip.compress(TEXT[5:]), "Content-Encoding: gzip\r\n"),
    "deflate": framed(zlib.compress(TEXT), "Content-Encoding: deflate\r\n"),
    "raw deflate": framed(raw_deflate(TEXT), "Content-Encoding: deflate\r\n"),
    "one in another": framed(gzip.compress(zlib.compress(TEXT)), "Content-Encoding: deflate, gzip\r\n"),
    "identity": framed(TEXT, "Content-Encoding: identity\r\n"),
    "byte order mark": framed(b"\xef\xbb\xbf" + TEXT),
    "UTF-16": framed(json.dumps(SAID).encode("utf-16"), "Content-Type: application/json; charset=utf-16\r\n"),
}
ODD = {
    "a long header": framed(TEXT, f"X: {'a' * 50_000}\r\n"),
    "many headers": framed(TEXT, "X: a\r\n" * 900),
    "counted in characters": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(TEXT.decode()), TEXT),
    "two lengths": framed(TEXT, f"Content-Length: {len(TEXT)}\r\n"),
    "more after it": framed(TEXT) + b"<!-- served in 3 ms -->",
    "204 with a body": framed(TEXT, status="204 No Content"),
    "no CR": framed(TEXT).replace(b"\r\n", b"\n"),
    "HTTP/1.0": framed(TEXT).replace(b"/1.1", b"/1.0", 1),
    "early hints first": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + framed(TEXT),
}


def get(url: str) -> Request:
    return Request(method="GET", url=url, headers={})


def asked(request: Request) -> Generator[Request, Reply, Reply]:
    return (yield request)


async def heard(folder: Path, reply: bytes, *, charges: bool, closes: bool = False) -> Any:
    async def answer(path: str) -> bytes:
        return reply

    async def begin(_: Request) -> bool:
        return True

    async with receiving(answer) as (receiver, url), running(folder, CALLSHEET_PEAKMV_BASE_URL=url) as service:
        request = Request(method="POST" if charges else "GET", url=f"{url}/x", headers={}, charges=charges)
        lease = Lease(None, UNLIMITED, SystemClock())
        verdict = await Conversations(service.egress).hold(asked(request), lease, begin, charging_s=10.0)
        assert receiver.arrivals["/x"] == 1
        return verdict


@pytest.mark.parametrize("charges", [True, False], ids=["submit", "status"])
@pytest.mark.parametrize("how", CODED)
async def test_a_reply_in_another_coding_is_read(how: str, charges: bool, tmp_path: Path) -> None:
    reply = await heard(tmp_path, CODED[how], charges=charges)
    assert isinstance(reply, Reply) and read_json(reply.body) == SAID
    assert reply.headers.get("content-encoding", "identity") == "identity"


@pytest.mark.parametrize("how", ODD)
async def test_an_odd_reply_to_what_charges_is_read(how: str, tmp_path: Path) -> None:
    reply = await heard(tmp_path, ODD[how], charges=True)
    assert isinstance(reply, Reply) and read_json(reply.body) == SAID


@pytest.mark.parametrize("charges", [True, False], ids=["submit", "status"])
@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (framed(b"\x1b\x00", "Content-Encoding: br\r\n"), "the coding 'br'"),
        (framed(gzip.compress(TEXT)[:-9], "Content-Encoding: gzip\r\n"), "damaged"),
        (framed(b"{}", "Content-Encoding: gzip\r\n"), "damaged"),
        (framed(TEXT, "Content-Encoding: gzip, gzip, gzip, gzip\r\n"), "too many codings"),
    ],
)
async def test_what_cannot_be_inflated_is_no_reply(reply: bytes, reason: str, charges: bool, tmp_path: Path) -> None:
    verdict = await heard(tmp_path, reply, charges=charges)
    assert isinstance(verdict, Unknown if charges else NotNow) and reason in verdict.reason


def test_what_would_be_too_large_is_not_inflated() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    with pytest.raises(NotInflated, match="larger than is read"):
        inflated(bomb, ["gzip"], 1_000_000)
    with pytest.raises(NotInflated, match="larger than is read"):
        inflated(gzip.compress(bomb), ["gzip", "gzip"], 1_000_000)
    assert len(inflated(bomb, ["gzip"], 10_000_000)) == 10_000_000


@pytest.mark.parametrize("charges", [True, False], ids=["submit", "status"])
async def test_a_large_reply_is_read(charges: bool, tmp_path: Path) -> None:
    text = json.dumps({**SAID, "logs": "l" * (REPLY_BYTES + 1)}).encode()
    reply = await heard(tmp_path, framed(text), charges=charges)
    assert isinstance(reply, Reply) and len(reply.body) == len(text)


@pytest.mark.parametrize("charges", [True, False], ids=["submit", "status"])
async def test_what_is_larger_than_is_ever_read_says_so(charges: bool, tmp_path: Path) -> None:
    verdict = await heard(tmp_path, framed(bytes(LARGEST_REPLY + 1)), charges=charges)
    assert "larger than 64 MiB" in verdict.reason
    if charges:
        assert isinstance(verdict, Unknown)
    else:
        assert isinstance(verdict, Oversized) and verdict.url.endswith("/x")


async def test_large_replies_are_read_one_at_a_time_and_small_ones_meanwhile(tmp_path: Path) -> None:
    large = framed(b"[" + b" " * REPLY_BYTES + b"1]")
    order: list[str] = []

    def steps(request: Request) -> Generator[Request, Reply, None]:
        yield request
        order.append(request.url.rpartition("/")[2])

    async def answer(path: str) -> bytes:
        return large if path != "/small" else framed(TEXT)

    async with receiving(answer) as (_, url), running(tmp_path, CALLSHEET_PEAKMV_BASE_URL=url) as service:
        conversations = Conversations(service.egress)
        lease = Lease(None, UNLIMITED, SystemClock())
        turn = conversations._large
        await turn.acquire()  # another one is being read
        held = [
            asyncio.create_task(conversations.hold(steps(get(f"{url}/{name}")), lease)) for name in ("second", "small")
        ]
        await held[1]
        assert order == ["small"] and not held[0].done()
        turn.release()
        await held[0]
        assert order == ["small", "second"] and not turn.locked()
