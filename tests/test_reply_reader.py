"""Replies with oddities of framing: what is read of them and what is not; nothing makes the reader fail or hang."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.reply_reader import HEAD_BYTES, HEAD_LINES, Broken, Head, ReplyReader, is_whole_json

JSON = '{"job_id": "çé✔"}'.encode()
TWICE = b"Content-Length: %d\r\nContent-Length: %d\r\n"


class Read:
    """What a reader makes of these pieces, and of the end of the connection if `closes`."""

    def __init__(self, *pieces: bytes, closes: bool = False, **how: Any):
        self.reader, self.body, self.end, self.head = ReplyReader(**how), b"", "", None
        for piece in pieces:
            self._take(self.reader.feed(piece))
        if closes:
            self._take(self.reader.close())

    def _take(self, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, Head):
                assert self.head is None
                self.head: Head | None = event
            elif isinstance(event, bytes):
                assert self.head is not None and not self.end
                self.body += event
            else:
                self.end = event


def reply(headers: bytes, body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\n%s\r\n%s" % (status, headers, body)


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


SIZED = b"Content-Length: %d\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("text", "body", "keeps"),
    [
        (reply(SIZED % 2, b"ok"), b"ok", True),
        (reply(SIZED % 0, b""), b"", True),
        (reply(TWICE % (2, 2), b"ok"), b"ok", True),
        (reply(b"Content-Length: 2, 2\r\n", b"ok"), b"ok", True),
        (reply(CHUNKED, chunks(b"ab", b"c")), b"abc", True),
        (reply(CHUNKED, b"2;name=value\r\nab\r\n0\r\nTrailer: x\r\n\r\n"), b"ab", True),
        (reply(CHUNKED, b" 2 \nab\n0\n\n"), b"ab", True),
        (reply(CHUNKED + SIZED % 99, chunks(b"ab")), b"ab", False),
        (reply(b"Connection: close\r\n" + SIZED % 2, b"ok"), b"ok", False),
        (reply(b"Folded: a\r\n b\r\n" + SIZED % 2, b"ok"), b"ok", False),
        (reply(b"no colon\r\n" + SIZED % 2, b"ok"), b"ok", False),
        (reply(b"Spaced : a\r\n" + SIZED % 2, b"ok"), b"ok", False),
        (reply(b"Nul: a\0b\r\n" + SIZED % 2, b"ok"), b"ok", False),
        (reply(b"X: \xff\xfe\r\n" + SIZED % 2, b"ok"), b"ok", True),
        (b"\r\nHTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
        (b"http/1.1 200 ok\nContent-Length: 2\n\nok", b"ok", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok", False),
        (b"HTTP/2 200\r\nContent-Length: 2\r\n\r\nok", b"ok", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + reply(SIZED % 2, b"ok"), b"ok", True),
        (reply(b"X: %s\r\n" % (b"a" * 60_000) + SIZED % 2, b"ok"), b"ok", True),
        (reply(b"X: a\r\n" * 900 + SIZED % 2, b"ok"), b"ok", True),
        (reply(b"", b"", b"204 No Content"), b"", True),
        (reply(SIZED % 2, b"", b"204 No Content"), b"", False),
        (reply(SIZED % 2, b"", b"304 Not Modified"), b"", True),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_reply_is_read_however_it_comes(text: bytes, body: bytes, keeps: bool, size: int) -> None:
    read = Read(*(text[at : at + size] for at in range(0, len(text), size)))
    assert read.head is not None and read.head.status in (200, 204, 304)
    assert (read.body, read.end, read.head.keeps, read.reader.surplus) == (body, "end", keeps, False)


@pytest.mark.parametrize(
    "text",
    [
        reply(SIZED % 2, b"ok<!-- served in 3 ms -->"),
        reply(SIZED % 0, b"ok"),
        reply(SIZED % 2, b"ok", b"204 No Content"),
        reply(CHUNKED, chunks(b"ok"), b"204 No Content"),
        reply(SIZED % 2, b"okHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake"),
        reply(CHUNKED, chunks(b"ok") + b"more"),
    ],
)
def test_what_follows_a_reply_is_no_part_of_it(text: bytes) -> None:
    read = Read(text, b"later")
    assert (read.end, read.reader.surplus) == ("end", True)
    assert read.body in (b"ok", b"")


@pytest.mark.parametrize(
    "pieces",
    [
        (reply(SIZED % len(JSON.decode()), JSON),),  # counted in characters
        (reply(SIZED % len(JSON.decode()), JSON[:-3]), JSON[-3:]),
        (reply(SIZED % len(JSON), JSON + b"<!-- x -->"),),
        (reply(SIZED % len(JSON), JSON, b"204 No Content"),),
        (reply(CHUNKED, chunks(JSON), b"204 No Content"),),
        (reply(TWICE % (5, 500), JSON), None),
        (reply(SIZED % 500, JSON), None),
        (reply(CHUNKED, b"%x\r\n%s\r\n" % (len(JSON), JSON)), None),
        (reply(CHUNKED, b"fff\r\n" + JSON), None),
        (reply(b"Content-Length: +17\r\n", JSON), None),
        (reply(b"Transfer-Encoding: identity\r\n", JSON), None),
        (reply(b"", JSON), None),
    ],
)
def test_a_json_text_is_read_whole_on_a_connection_that_is_used_once(pieces: tuple[bytes | None, ...]) -> None:
    closes = pieces[-1] is None
    read = Read(*(piece for piece in pieces if piece is not None), closes=closes, lenient=True)
    assert (json.loads(read.body), read.end) == (json.loads(JSON), "end")


@pytest.mark.parametrize(
    "text",
    [
        reply(SIZED % 50, b'{"job_id": "a'),
        reply(SIZED % 50, b"plain text"),
        reply(CHUNKED, b'9\r\n{"job'),
        b"HTTP/1.1 200 OK\r\nContent-Le",
    ],
)
@pytest.mark.parametrize("lenient", [True, False])
def test_a_cut_reply_is_broken(text: bytes, lenient: bool) -> None:
    with pytest.raises(Broken):
        Read(text, closes=True, lenient=lenient)


def test_a_body_that_may_be_over_is_told() -> None:
    assert Read(reply(SIZED % 500, JSON), lenient=True).reader.may_be_over
    assert Read(reply(SIZED % 9, b'{"a": "bc'), lenient=True).reader.may_be_over
    assert not Read(reply(SIZED % 500, JSON[:-1]), lenient=True).reader.may_be_over
    assert not Read(reply(SIZED % 500, JSON)).reader.may_be_over


@pytest.mark.parametrize("end", [b"\r\n\r\n", b""])
def test_beyond_the_caps_the_status_stands(end: bytes) -> None:
    read = Read(b"HTTP/1.1 200 OK\r\nRetry-After: 5\r\nX: " + b"a" * (2 * HEAD_BYTES) + end)
    assert read.head is not None and (read.head.status, read.head.keeps, read.end) == (200, False, "cut")
    assert read.head.values(b"retry-after") == [b"5"]
    read = Read(reply(b"X: a\r\n" * (2 * HEAD_LINES) + SIZED % 2, b"ok"), closes=True)
    assert read.head is not None and len(read.head.headers) == HEAD_LINES


@pytest.mark.parametrize(
    "text", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 099 x\r\n\r\n", b"\0\r\n\r\n"]
)
def test_what_begins_with_no_status_line_is_broken(text: bytes) -> None:
    with pytest.raises(Broken):
        Read(text)


def test_a_status_line_alone_is_known_before_the_head_is_whole() -> None:
    assert Read(b"HTTP/1.1 200 O").reader.head_so_far is None
    assert Read(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\nRetry-After: 7\r\nX: ").reader.head_so_far == Head(
        503, (1, 1), "No", ((b"Retry-After", b"7"),), True
    )


pieces = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from(
            [b"HTTP/1.1 200 OK\r\n", b"\r\n\r\n", b"Content-Length: 5\r\n", CHUNKED, b"5\r\n", b"0\r\n\r\n", JSON]
        ),
    ),
    max_size=12,
)


@given(pieces, st.booleans(), st.booleans())
def test_any_bytes_are_read_or_broken(given_pieces: list[bytes], lenient: bool, has_body: bool) -> None:
    try:
        read = Read(*given_pieces, closes=True, lenient=lenient, has_body=has_body)
    except Broken:
        return
    assert len(read.body) <= sum(map(len, given_pieces))
    assert read.head is None or 200 <= read.head.status <= 999 or read.head.status == 101


@given(st.binary(max_size=200), st.binary(max_size=50), st.booleans())
def test_a_well_framed_body_is_what_was_sent(body: bytes, after: bytes, chunked: bool) -> None:
    text = reply(CHUNKED, chunks(body[:9], body[9:])) if chunked and len(body) > 9 else reply(SIZED % len(body), body)
    assert Read(text + after).body == body


@pytest.mark.parametrize(
    ("body", "whole"),
    [(b"{}", True), (b" [1]\n", True), (b"1", False), (b'"a"', False), (b"{", False), (b"{}}", False), (b"", False)],
)
def test_whole_json(body: bytes, whole: bool) -> None:
    assert is_whole_json(body) is whole
