"""What a client may send before a request is known, how long it may take, and how its connection ends: real sockets."""

import contextlib
import gc
import itertools
import json
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from service.web.connection import Connection
from service.web.door import Limits, counted
from tests.web.conftest import PIXVERSE
from tests.web.served import ADMIN, Served
from tests.web.wire import PATIENCE_S, answer, connected, said, statuses, talk

QUICK = Limits(head_s=1.0, unread_s=0.5, linger_s=10.0, linger_idle_s=1.0)
KEY = f"Authorization: Bearer {ADMIN}\r\n"
JOB = json.dumps(PIXVERSE).encode()
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
MB = 1_000_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: Any) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("connections"), QUICK).running("http://127.0.0.1:9") as running:
        yield running


def until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < ends, "it never came to that"
        time.sleep(0.02)


def problem(got: bytes) -> tuple[int, str]:
    """Of the one answer, which is the last of its connection."""
    head, _, body = got.partition(b"\r\n\r\n")
    document = json.loads(body)
    lower = head.lower()
    assert b"content-type: application/problem+json" in lower and b"connection: close" in lower, got
    assert b"callsheet-request-id: " + document["request_id"].encode() in lower
    return document["status"], document["code"]


# -- heads

START = b"GET /health HTTP/1.1\r\nHost: x\r\n"
CHUNKED = (
    f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n{KEY}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)
TOO_MUCH: dict[str, tuple[Any, tuple[int, str]]] = {
    "101 lines": ([START, b"a: b\r\n" * 100, b"\r\n"], (431, "headers_too_large")),
    "200,000 lines": ([START, b"a: b\r\n" * 200_000, b"\r\n"], (431, "headers_too_large")),
    "lines of nothing but a name": ([START, b"a:\r\n" * 200_000], (431, "headers_too_large")),
    "a value over the cap": ([START, b"a: ", b"b" * 65_536, b"\r\n\r\n"], (431, "headers_too_large")),
    "many values, together over the cap": ([START, (b"a: " + b"b" * 999 + b"\r\n") * 70], (431, "headers_too_large")),
    "a value of 50 MB": ([START, b"a: ", *[b"b" * MB] * 50, b"\r\n\r\n"], (431, "headers_too_large")),
    "a value without an end": (
        itertools.chain([START, b"a: "], itertools.repeat(b"b" * MB)),
        (431, "headers_too_large"),
    ),
    "a name of 50 MB": ([START, *[b"b" * MB] * 50, b": a\r\n\r\n"], (431, "headers_too_large")),
    "a URL of 50 MB": ([b"GET /", *[b"b" * MB] * 50, b" HTTP/1.1\r\n\r\n"], (414, "request_url_too_long")),
    "a URL just over the cap": ([b"GET /", b"b" * 65_536, b" HTTP/1.1\r\n\r\n"], (414, "request_url_too_long")),
    "a request line without an end": ([b"GET /health", itertools.repeat(b" " * MB)], (431, "headers_too_large")),
    "empty lines for ever": (itertools.repeat(b"\r\n" * MB), (431, "headers_too_large")),
    "trailers over the cap": ([CHUNKED.encode(), b"0\r\n", b"a: b\r\n" * 200], (400, "unreadable")),
    "a trailer of 50 MB": ([CHUNKED.encode(), b"2\r\n{}\r\n0\r\na: ", *[b"b" * MB] * 50], (400, "unreadable")),
    "a chunk extension of 50 MB": ([CHUNKED.encode(), b"2;a=", *[b"b" * MB] * 50], (400, "unreadable")),
    "a chunk size that is none": ([CHUNKED.encode(), b"zz\r\n{}\r\n0\r\n\r\n"], (400, "unreadable")),
    "no HTTP": ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10], (400, "unreadable")),
    "a target without a path": ([b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n"], (400, "unreadable")),
    "HTTP/2 without asking": ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], (400, "unreadable")),
}


def flat(pieces: Any) -> Iterator[bytes]:
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
        else:
            yield from piece


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_is_over_a_cap_is_refused_before_it_is_collected(served: Served, name: str) -> None:
    pieces, refusal = TOO_MUCH[name]
    assert problem(talk(served.url, flat(pieces))) == refusal
    assert httpx2.get(f"{served.url}/health").status_code == 200


@pytest.mark.parametrize("lines", [1, 98])
def test_what_is_under_the_caps_is_taken_in_any_pieces(served: Served, lines: int) -> None:
    """The lines are Host, Connection and these: 100 together, with 64 KB less the request line."""
    more = b"".join(b"a: " + b"b" * (60_000 // lines) + b"\r\n" for _ in range(lines))
    whole = START + b"Connection: close\r\n" + more + b"\r\n"
    for size in (len(whole), 1000, 65_536):
        pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
        assert statuses(talk(served.url, pieces)) == [200]


def test_a_trailer_is_no_header(served: Served) -> None:
    head = CHUNKED.replace(KEY, "").encode()
    got = talk(served.url, [head + b"0\r\n" + KEY.encode() + b"\r\n" + LAST])
    assert statuses(got) == [401, 200]


# -- time


def dripped(text: bytes) -> Iterator[bytes]:
    for n in range(len(text)):
        time.sleep(0.05)
        yield text[n : n + 1]


def test_a_connection_that_says_nothing_is_ended(served: Served) -> None:
    assert talk(served.url, []) == b""


SLOW: dict[str, Any] = {
    "half a request line": [b"GET /hea"],
    "half of the headers": [b"POST /v1/callbacks/pixverse HTTP/1.1\r\nHost: x\r\nX-"],
    "a drip": dripped(START + b"a: " + b"b" * 1000),
    "empty lines": dripped(b"\r\n" * 1000),
    "a request, then half of another": [HEALTH, b"GET /hea"],
    "a request, then half of another with it": [HEALTH + START, b"a: b"],
    "a refused request without its body, then a drip": [
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n", b"{}", *[b"G"]
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SLOW)
def test_a_head_has_a_deadline(served: Served, name: str) -> None:
    assert statuses(talk(served.url, SLOW[name]))[-1] == 408


def test_a_body_may_take_longer_than_a_head(served: Served) -> None:
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n{KEY}Connection: close\r\nContent-Length: {len(JOB)}\r\n\r\n".encode()

    def slowly() -> Iterator[bytes]:
        yield head
        for place in range(0, len(JOB), 40):
            time.sleep(0.5)
            yield JOB[place : place + 40]

    assert statuses(talk(served.url, slowly())) == [202]


# -- bodies that were announced

OFFERS = {
    "none": "",
    "h2c": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "a list": "Connection: keep-alive, Upgrade\r\nUpgrade: h2c, websocket, foo/2\r\n",
    "two lines": "Connection: keep-alive\r\nConnection: upgrade\r\nUpgrade: h2c\r\nUpgrade: TLS/1.0\r\n",
    "odd case": "cOnNeCtIoN: uPgRaDe\r\nuPgRaDe: H2C\r\n",
    "websocket": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n",
    "without Connection": "Upgrade: h2c\r\n",
}
FRAMED = {
    "length": (f"Content-Length: {len(JOB)}\r\n", JOB),
    "chunked": ("Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(JOB), JOB)),
    "chunks and a trailer": (
        "transfer-encoding: Chunked\r\n",
        b"1\r\n{\r\n%x;x=y\r\n%b\r\n0\r\nX-Sum: 1\r\n\r\n" % (len(JOB) - 1, JOB[1:]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("framed", FRAMED)
@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_that_is_not_taken_is_as_if_it_were_not_made(served: Served, offer: str, framed: str) -> None:
    framing, body = FRAMED[framed]
    kind = "Content-Type: application/json\r\n"
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n{KEY}{kind}{OFFERS[offer]}{framing}\r\n".encode()
    listing = f"GET /health HTTP/1.1\r\nHost: x\r\n{OFFERS[offer]}\r\n".encode()
    for pieces in (
        [head + body + listing + LAST],
        [head, body, listing, LAST],
        _bytewise(head + body + listing + LAST),
    ):
        assert statuses(talk(served.url, pieces)) == [202, 200, 200]


def _bytewise(text: bytes) -> list[bytes]:
    return [text[n : n + 1] for n in range(len(text))]


def test_an_offer_over_http_1_0_too(served: Served) -> None:
    head = f"POST /v1/jobs HTTP/1.0\r\n{KEY}{OFFERS['h2c']}Content-Length: {len(JOB)}\r\n\r\n".encode()
    assert statuses(talk(served.url, [head + JOB])) == [202]


MISSING: dict[str, tuple[str, bytes]] = {
    "nothing of a length": ("Content-Length: 30\r\n", b""),
    "half of a length": ("Content-Length: 30\r\n", b'{"overlap_seconds": 0'),
    "what is whole JSON": ("Content-Length: 30\r\n", b'{"overlap_seconds": 0}'),
    "nothing of chunks": ("Transfer-Encoding: chunked\r\n", b""),
    "chunks without an end": ("Transfer-Encoding: chunked\r\n", b'16\r\n{"overlap_seconds": 0}\r\n'),
    "a chunk that breaks off": ("Transfer-Encoding: chunked\r\n", b'20\r\n{"overlap_seconds": 0}'),
    "an end without its last line": ("Transfer-Encoding: chunked\r\n", b"0\r\n"),
    "behind an offer": (OFFERS["h2c"] + "Content-Length: 30\r\n", b""),
    "behind an offer, in chunks": (OFFERS["websocket"] + "Transfer-Encoding: chunked\r\n", b"5\r\n{"),
    "after a promise": ("Expect: 100-continue\r\nContent-Length: 30\r\n", b""),
}


@pytest.fixture(scope="module")
def targets(served: Served) -> dict[str, str]:
    with httpx2.Client(base_url=served.url, headers={"Authorization": f"Bearer {ADMIN}"}) as http:
        endpoint = http.post("/v1/endpoints", json={"url": "http://127.0.0.1:9/in"}).json()["id"]
        job = http.post("/v1/jobs", json=PIXVERSE).json()["id"]
    return {
        "rotate": f"/v1/endpoints/{endpoint}/secret/rotate",  # a body is optional
        "test": f"/v1/endpoints/{endpoint}/test",  # it takes none
        "cancel": f"/v1/jobs/{job}/cancel",
        "jobs": "/v1/jobs",
        "callback": "/v1/callbacks/pixverse",
        "tick": "/internal/tick",
        "files": "/v1/files",
        "passthrough": "/v1/providers/pixverse/passthrough/openapi/v2/video/text/generate",
    }


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("target", ["rotate", "test", "cancel", "jobs", "callback", "tick", "files", "passthrough"])
def test_an_announced_body_that_did_not_come_is_400(
    served: Served, targets: dict[str, str], target: str, name: str
) -> None:
    framing, body = MISSING[name]
    kind = "multipart/form-data; boundary=x" if target == "files" else "application/json"
    key = KEY if target != "passthrough" else f"API-KEY: {ADMIN}\r\n"
    head = f"POST {targets[target]} HTTP/1.1\r\nHost: x\r\n{key}Content-Type: {kind}\r\n{framing}\r\n".encode()
    with httpx2.Client(base_url=served.url, headers={"Authorization": f"Bearer {ADMIN}"}) as http:
        before = [http.get(path).json()["data"] for path in ("/v1/jobs", "/v1/events")]
        got = talk(served.url, [head + body], shut=True)
        assert problem(got.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))[0] == 400
        assert before == [http.get(path).json()["data"] for path in ("/v1/jobs", "/v1/events")]


def test_a_request_that_breaks_off_is_400(served: Served) -> None:
    for half in (b"GET /hea", START, START + b"a: b"):
        assert problem(talk(served.url, [half], shut=True)) == (400, "unreadable")


def test_whoever_has_said_all_may_say_so(served: Served) -> None:
    assert statuses(talk(served.url, [HEALTH], shut=True)) == [200]
    assert statuses(talk(served.url, [HEALTH * 3], shut=True)) == [200] * 3


# -- 100 Continue


def test_a_body_is_asked_for_where_it_is_wanted(served: Served) -> None:
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n{KEY}Expect: 100-Continue\r\nContent-Length: {len(JOB)}\r\n\r\n"
    with connected(served.url) as one:
        one.sendall(head.encode())
        assert answer(one)[0] == 100
        one.sendall(JOB)
        assert answer(one)[0] == 202
        one.sendall(LAST)
        assert answer(one)[0] == 200


def test_whoever_is_refused_instead_may_leave_the_body_out(served: Served) -> None:
    """Nobody could tell the next request from that body."""
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(JOB)}\r\n\r\n"
    assert problem(talk(served.url, [head.encode(), HEALTH])) == (401, "unauthenticated")


def test_http_1_0_knows_no_100(served: Served) -> None:
    head = f"POST /v1/jobs HTTP/1.0\r\n{KEY}Expect: 100-continue\r\nContent-Length: {len(JOB)}\r\n\r\n"
    assert statuses(talk(served.url, [head.encode() + JOB])) == [202]


# -- answers that come early


@pytest.mark.parametrize("framing", ["Content-Length: 30000000\r\n", "Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/v1/files", "", 401),
        ("/v1/nothing", KEY, 404),
        ("/v1/endpoints", KEY, 413),
        ("/v1/callbacks/pixverse", "", 413),
    ],
)
def test_an_answer_that_comes_early_arrives(served: Served, path: str, key: str, status: int, framing: str) -> None:
    """The client sends all of 30 MB before it reads."""
    with connected(served.url) as one:
        one.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{key}{framing}\r\n".encode())
        piece = b"x" * 65_536
        if "chunked" in framing:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        for _ in range(30_000_000 // 65_536):
            one.sendall(piece)
        assert answer(one)[0] == status


def test_whoever_goes_on_sending_is_not_listened_to_for_ever(served: Served) -> None:
    head = b"POST /v1/callbacks/pixverse HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
    assert 413 in statuses(talk(served.url, itertools.chain([head], itertools.repeat(b"x" * 65_536))))


# -- several requests at once


def test_answers_keep_the_order_of_requests(served: Served) -> None:
    missing = b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    assert statuses(talk(served.url, [HEALTH + missing + HEALTH + LAST])) == [200, 404, 200, 200]


def test_what_is_no_request_does_not_cut_the_answer_to_one(served: Served) -> None:
    assert statuses(talk(served.url, [HEALTH * 2 + b"nonsense\r\n\r\n"])) == [200, 200, 400]
    assert statuses(talk(served.url, [HEALTH + START + b"a: b\r\n" * 200])) == [200, 431]


def test_only_so_many_wait_for_the_answer_to_another(served: Served) -> None:
    got = statuses(talk(served.url, [HEALTH * 20_000]))
    assert got[-1] == 429 and set(got[:-1]) == {200}


# -- clients that do not read


@pytest.fixture(scope="module")
def large(served: Served) -> str:
    content = b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00" + bytes(20 * MB)
    reply = httpx2.post(
        f"{served.url}/v1/files", headers={"Authorization": f"Bearer {ADMIN}"}, files={"file": ("a.mp4", content)}
    )
    assert reply.status_code == 201, reply.text
    return urlsplit(served.run(url_of(served, reply.json()["id"]))).path


async def url_of(served: Served, file_id: str) -> str:
    file = await served.service.context.store.file(None, file_id)
    assert file is not None
    return served.service.context.files.url(file)


def test_a_client_that_does_not_read_is_ended(served: Served, large: str) -> None:
    until(lambda: served.door.count == 0)
    with connected(served.url, 4096) as one, connected(served.url, 4096) as other:
        one.sendall(f"GET {large} HTTP/1.1\r\nHost: x\r\n{KEY}\r\n".encode())
        with contextlib.suppress(OSError):
            other.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 60)
        until(lambda: served.door.count == 2)
        until(lambda: served.door.count == 0)


def test_a_client_that_reads_slowly_is_not(served: Served, large: str) -> None:
    """It takes several times as long as a client may take nothing."""
    with connected(served.url, 262_144) as one:
        one.sendall(f"GET {large} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        got = 0
        while piece := one.recv(262_144):
            got += len(piece)
            time.sleep(len(piece) / (8 * MB))
    assert got > 20 * MB


# -- how many


@contextlib.contextmanager
def crowded(folder: Any, **limits: Any) -> Iterator[Served]:
    with Served(folder, Limits(**limits)).running("http://127.0.0.1:9") as served:
        yield served


def test_those_that_ask_nothing_make_room(tmp_path: Any) -> None:
    with crowded(tmp_path, connections=10) as served, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connected(served.url)) for _ in range(30)]
        half = [stack.enter_context(connected(served.url)) for _ in range(30)]
        for one in half:
            with contextlib.suppress(OSError):
                one.sendall(b"GET /hea")
        for _ in range(20):
            assert httpx2.get(f"{served.url}/health").status_code == 200
        assert said(silent[0]) in (b"", b"<reset>")
        until(lambda: served.door.count <= 10)


STALLED = b"POST /v1/callbacks/pixverse HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n"


@pytest.mark.parametrize(
    "sent", [STALLED, STALLED + b"{", STALLED.replace(b"Content-Length: 200", b"Transfer-Encoding: chunked")]
)
def test_those_whose_bodies_stall_make_room(tmp_path: Any, sent: bytes) -> None:
    with crowded(tmp_path, connections=10) as served, contextlib.ExitStack() as stack:
        sending = stack.enter_context(connected(served.url))
        sending.sendall(f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n{KEY}Content-Length: 900000\r\n\r\n".encode())
        sending.sendall(b'{"x": "' + b"x" * 500_000)
        for _ in range(9):
            stack.enter_context(connected(served.url)).sendall(sent)
        for _ in range(20):
            until(lambda: httpx2.get(f"{served.url}/health").status_code == 200)
            held = stack.enter_context(connected(served.url))
            with contextlib.suppress(OSError):
                held.sendall(sent)
        sending.sendall(b"x" * 399_991 + b'"}')
        assert answer(sending)[0] == 422  # it went on all the time


def streaming(served: Served) -> socket.socket:
    one = connected(served.url)
    one.sendall(f"GET /v1/events/stream HTTP/1.1\r\nHost: x\r\n{KEY}\r\n".encode())
    assert answer(one)[0] == 200
    return one


def test_where_all_are_busy_the_next_is_told_so(tmp_path: Any) -> None:
    with crowded(tmp_path, connections=4) as served, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(streaming(served)) for _ in range(4)]
        assert problem(talk(served.url, [HEALTH])) == (503, "unavailable")
        busy[0].close()
        until(lambda: served.door.count < 4)
        assert statuses(talk(served.url, [LAST])) == [200]


def test_one_address_has_its_share(tmp_path: Any) -> None:
    with crowded(tmp_path, per_peer=3) as served, contextlib.ExitStack() as stack:
        idle = stack.enter_context(connected(served.url))
        for _ in range(3):
            stack.enter_context(streaming(served))
        assert said(idle) in (b"", b"<reset>")  # it made room for the third
        assert problem(talk(served.url, [HEALTH])) == (429, "too_many")


def test_a_proxy_speaks_for_many(tmp_path: Any) -> None:
    proxies = (ip_network("127.0.0.0/8"),)
    with crowded(tmp_path, per_peer=1, proxies=proxies) as served, streaming(served), streaming(served):
        assert statuses(talk(served.url, [LAST])) == [200]


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),  # IPv4 on a socket for both
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("10.1.2.3", ""),
        ("::ffff:10.1.2.3", ""),
        ("fe80::1%eth0", ""),
        ("", ""),
        ("/run/callsheet.sock", ""),
    ],
)
def test_peers_are_told_apart_by_what_a_subscriber_has(address: str, peer: str) -> None:
    assert counted(address, (ip_network("10.0.0.0/8"), ip_network("fe80::/10"))) == peer


def test_what_is_over_leaves_nothing_for_the_collector(served: Served) -> None:
    until(lambda: served.door.count == 0)

    async def kept() -> int:
        return sum(isinstance(one, Connection) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        for pieces in ([LAST], [HEALTH * 3 + LAST], [b"nonsense\r\n\r\n"], [START + b"a: b\r\n" * 200], [HEALTH]):
            talk(served.url, pieces, shut=True)
        talk(
            served.url, [f"POST /v1/jobs HTTP/1.1\r\n{KEY}{OFFERS['h2c']}Content-Length: 9\r\n\r\n".encode()], shut=True
        )
        until(lambda: served.door.count == 0)
        until(lambda: served.run(kept()) == 0)
    finally:
        gc.enable()


# -- callbacks


@pytest.mark.parametrize(
    "path",
    [
        "/v1/callbacks/pixverse/",
        "//v1/callbacks/pixverse",
        "/v1//callbacks///pixverse//",
        "/v1/callbacks/pixverse//nobodys-token/",
        "/v1/%63allbacks/pixverse/",
        "http://hooks.example.com//v1/callbacks/pixverse/?a=b",
    ],
)
def test_slashes_that_joining_leaves_are_nothing_to_a_callback(served: Served, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n".encode()
    got = talk(served.url, [head + b"{}"])
    assert problem(got)[1] in ("bad_signature", "unknown_callback_url")


@pytest.mark.parametrize("path", ["/v1/jobs/", "//v1/jobs", "/v1/callbacks/", "/v1/callbacks//"])
def test_other_paths_are_what_they_are(served: Served, path: str) -> None:
    got = talk(served.url, [f"GET {path} HTTP/1.1\r\nHost: x\r\n{KEY}Connection: close\r\n\r\n".encode()])
    assert problem(got) == (404, "no_such_path")
