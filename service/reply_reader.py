"""Reading an HTTP/1 reply, however odd the framing around it: a status line and a body that can be read count. Pure.

A recipient may give up a message that breaks the framing rules (RFC 9112 section 6.3); for work that was paid for,
that would lose the reply. So oddities are read past, the connection is then not used again, and caps of our own bound
what is kept.
"""

import json
import re
from enum import Enum
from typing import Literal, NamedTuple

HEAD_BYTES = 64 * 1024  # of status line and headers
HEAD_LINES = 1_000
INTERIM = 20  # 1xx replies before the real one
WHOLE_BYTES = 1024 * 1024  # of a body that is looked at for where it ends
CHUNK_LINE = 16 * 1024

_STATUS = re.compile(rb"HTTP/([0-9])(?:\.([0-9]))?[ \t]+([0-9]{3})(?:[ \t]+([^\r\n]*))?[ \t]*", re.IGNORECASE)
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_CHUNK = re.compile(rb"\s*([0-9a-fA-F]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")


class Broken(Exception):
    """What came is no reply, or it was cut."""


class Head(NamedTuple):
    """`headers` as they came, without control characters. `keeps`: another reply may follow on the connection."""

    status: int
    version: tuple[int, int]
    reason: str
    headers: tuple[tuple[bytes, bytes], ...]
    keeps: bool

    def values(self, name: bytes) -> list[bytes]:
        """Of a name in lower case: what all its lines have between commas, in lower case."""
        lines = [value for given, value in self.headers if given.lower() == name]
        return [item.strip() for item in b",".join(lines).lower().split(b",") if item.strip()]


Event = Head | bytes | Literal["end", "cut"]  # cut: the rest of the reply is not read


class _At(Enum):
    HEAD = "its status line and headers"
    SIZED = "a body of known length"
    CHUNK_SIZE = "the size of a chunk"
    CHUNK = "a chunk"
    TRAILER = "what follows the last chunk"
    BEYOND = "a body that goes on beyond its length"
    UNTIL_CLOSE = "a body that ends with the connection"
    DONE = "after the reply"


class ReplyReader:
    """One reply. `has_body`: False for the answer to HEAD.

    `lenient`: for a connection that is used once, where nothing may be lost. A body that is a whole JSON text is whole
    then, though its length says more; one that is the start of a JSON text goes on beyond its length.
    """

    def __init__(self, *, has_body: bool = True, lenient: bool = False):
        self._has_body, self._lenient = has_body, lenient
        self._at, self._buffer, self._left, self._interim = _At.HEAD, b"", 0, 0
        self._seen: bytearray | None = bytearray() if lenient else None  # of the body, while it is small
        self._surplus = False

    @property
    def done(self) -> bool:
        return self._at is _At.DONE

    @property
    def head_so_far(self) -> Head | None:
        """A status line that is whole, with the headers that are, before the head is."""
        whole = self._buffer.lstrip(b"\r\n").rpartition(b"\n")[0]
        if self._at is not _At.HEAD or not whole:
            return None
        try:
            head, _ = parsed(whole)
        except Broken:
            return None
        return head if head.status >= 200 else None

    @property
    def surplus(self) -> bool:
        """Whether bytes came that belong to no reply."""
        return self._surplus or (self.done and bool(self._buffer))

    @property
    def may_be_over(self) -> bool:
        """Whether no more need come: the body is whole, or longer than it said. Wait shortly, then `close`."""
        return self._at is _At.BEYOND or (self._at not in (_At.HEAD, _At.DONE) and self._is_whole())

    def feed(self, data: bytes) -> list[Event]:
        """What these bytes say. Raises `Broken`."""
        self._buffer = self._buffer + data if self._buffer else data
        events: list[Event] = []
        while self._buffer and self._step(events):
            pass
        if self.done:
            self._surplus, self._buffer = self.surplus, b""
        return events

    def close(self) -> list[Event]:
        """Nothing more comes. Raises `Broken` where that cuts the reply."""
        if self.done:
            return []
        if self._at not in (_At.UNTIL_CLOSE, _At.TRAILER, _At.BEYOND) and not self._is_whole():
            raise Broken(f"the connection closed in the middle of {self._at.value}")
        self._at = _At.DONE
        return ["end"]

    def _is_whole(self) -> bool:
        return bool(self._seen) and is_whole_json(bytes(self._seen or b""))

    def _step(self, events: list[Event]) -> bool:
        """Take something out of the buffer; False where more must come first, or the reply is over."""
        match self._at:
            case _At.HEAD:
                return self._read_head(events)
            case _At.CHUNK_SIZE:
                return self._read_chunk_size(events)
            case _At.TRAILER:
                return self._read_trailer(events)
            case _At.DONE:
                return False
            case _:
                return self._read_body(events)

    def _read_head(self, events: list[Event]) -> bool:
        self._buffer = self._buffer.lstrip(b"\r\n")  # RFC 9112 section 2.2
        end = _END_OF_HEAD.search(self._buffer, 0, HEAD_BYTES)
        if end is None and len(self._buffer) < HEAD_BYTES:
            return False
        head, odd = parsed(self._buffer[: end.start() if end is not None else HEAD_BYTES])
        if end is None:  # the status stands; all else is left
            events += [head._replace(keeps=False), "cut"]
            self._at = _At.DONE
            return False
        self._buffer = self._buffer[end.end() :]
        if 100 <= head.status < 200 and head.status != 101:
            self._interim += 1
            if self._interim > INTERIM:
                raise Broken("too many interim replies")
            return True
        self._at, self._left, certain = self._framing(head)
        events.append(head._replace(keeps=head.keeps and certain and not odd and self._at is not _At.UNTIL_CLOSE))
        if self._at is _At.DONE:
            events.append("end")
        return not self.done

    def _framing(self, head: Head) -> tuple[_At, int, bool]:
        """How the body is delimited, its length, and whether that is certain (RFC 9112 section 6.3)."""
        codings, lengths = head.values(b"transfer-encoding"), set(head.values(b"content-length"))
        length = int(min(lengths)) if len(lengths) == 1 and _LENGTH.fullmatch(min(lengths)) else None
        if head.status in (101, 204, 304) or not self._has_body:
            announced = self._has_body and head.status != 304 and bool(codings or length)
            if not (self._lenient and announced):
                return _At.DONE, 0, not announced
        if codings[-1:] == [b"chunked"]:
            return _At.CHUNK_SIZE, 0, not lengths and len(codings) == 1
        if codings or length is None:
            return _At.UNTIL_CLOSE, 0, False
        return (_At.SIZED if length else _At.DONE), length, True

    def _read_body(self, events: list[Event]) -> bool:
        """Some of it, up to what is known of its end."""
        counted = self._at in (_At.SIZED, _At.CHUNK)
        piece = self._buffer[: self._left] if counted else self._buffer
        self._buffer = self._buffer[len(piece) :]
        events.append(piece)
        self._remember(piece)
        if counted:
            self._left -= len(piece)
        if counted and not self._left:
            if self._at is _At.CHUNK:
                self._at = _At.CHUNK_SIZE
            else:
                self._end_or_go_on(events)
        elif self._at is _At.BEYOND and self._is_whole():
            self._end_or_go_on(events)
        return not self.done

    def _remember(self, piece: bytes) -> None:
        if self._seen is not None:
            self._seen += piece
            if len(self._seen) > WHOLE_BYTES:
                self._seen = None

    def _end_or_go_on(self, events: list[Event]) -> None:
        """At the end that the length gives: a JSON text that is not over yet was counted in characters."""
        if self._seen is not None and bytes(self._seen[:64]).lstrip()[:1] in (b"{", b"[") and not self._is_whole():
            self._at = _At.BEYOND
            return
        self._at = _At.DONE
        events.append("end")

    def _read_chunk_size(self, events: list[Event]) -> bool:
        found = _CHUNK.match(self._buffer)
        if found is None:
            if len(self._buffer) > CHUNK_LINE or b"\n" in self._buffer.lstrip():
                raise Broken("the size of a chunk cannot be read")
            return False
        self._buffer, self._left = self._buffer[found.end() :], int(found[1], 16)
        self._at = _At.CHUNK if self._left else _At.TRAILER
        return True

    def _read_trailer(self, events: list[Event]) -> bool:
        """Lines up to an empty one; none of them means anything here."""
        line, feed, rest = self._buffer.partition(b"\n")
        if not feed:
            if len(self._buffer) > HEAD_BYTES:
                raise Broken("the trailer is too large")
            return False
        self._buffer = rest
        if line.strip():
            return True
        self._at = _At.DONE
        events.append("end")
        return False


def parsed(text: bytes) -> tuple[Head, bool]:
    """A status line and headers, and whether something in them is not as it should be. Raises `Broken`."""
    first, _, rest = text.partition(b"\n")
    found = _STATUS.fullmatch(first.rstrip(b"\r"))
    if found is None:
        raise Broken("the reply begins with no status line")
    status, version = int(found[3]), (int(found[1]), int(found[2] or 0))
    if status < 100:
        raise Broken("there is no such status")
    headers, odd = _headers(rest)
    reason = _CONTROLS.sub(b"", found[4] or b"").decode("latin-1")
    head = Head(status, version, reason, headers, keeps=False)
    said = head.values(b"connection")
    keeps = b"close" not in said and (version >= (1, 1) or b"keep-alive" in said)
    return head._replace(keeps=keeps and status != 101), odd


def _headers(text: bytes) -> tuple[tuple[tuple[bytes, bytes], ...], bool]:
    headers: list[tuple[bytes, bytes]] = []
    lines = text.split(b"\n") if text else []
    odd = len(lines) > HEAD_LINES
    for line in lines[:HEAD_LINES]:
        line = line.removesuffix(b"\r")
        name, colon, value = line.partition(b":")
        if line[:1] in (b" ", b"\t") and headers:  # folded, RFC 9112 section 5.2
            last, before = headers.pop()
            name, value, odd = last, before + b" " + line.strip(), True
        elif not colon or not name.strip():
            odd = True
            continue
        if name != name.strip() or _CONTROLS.search(value) or _CONTROLS.search(name):
            odd = True
        headers.append((_CONTROLS.sub(b"", name.strip()), _CONTROLS.sub(b" ", value).strip()))
    return tuple(headers), odd


def is_whole_json(body: bytes) -> bool:
    """Whether these bytes are an object or a list of JSON and nothing else."""
    text = body.strip()
    if text[-1:] not in (b"}", b"]"):
        return False
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False
