"""Bytes on a connection, as no client library would send them."""

import contextlib
import select
import socket
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

PATIENCE_S = 30.0


def connected(url: str, buffer: int = 0) -> socket.socket:
    """A connection to whoever serves `url`; `buffer` bytes wait for it at most, where that is given."""
    made = socket.socket()
    if buffer:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    made.settimeout(PATIENCE_S)
    made.connect(("127.0.0.1", urlsplit(url).port or 80))
    return made


def talk(url: str, pieces: Iterable[bytes], *, shut: bool = False) -> bytes:
    """Send while reading, until the other side has said its last; all that it said."""
    with connected(url) as one:
        return said(one, pieces, shut=shut)


def said(one: socket.socket, pieces: Iterable[bytes] = (), *, shut: bool = False) -> bytes:
    got, left, ends = b"", iter(pieces), time.monotonic() + PATIENCE_S
    waiting: bytes | None = next(left, None)
    one.setblocking(False)
    while time.monotonic() < ends:
        readable, writable, _ = select.select([one], [one] if waiting is not None else [], [], 0.1)
        if readable:
            try:
                piece = one.recv(65536)
            except ConnectionResetError:
                return got + b"<reset>"
            if not piece:
                return got
            got += piece
        if writable and waiting is not None:
            with contextlib.suppress(BlockingIOError):
                try:
                    waiting = waiting[one.send(waiting) :] or next(left, None)
                except (BrokenPipeError, ConnectionResetError):
                    waiting = None
                if waiting is None and shut:
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_WR)
    raise TimeoutError(f"it never ended; it said {got[:500]!r}")


def answer(one: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """The next answer with a length, 100 too."""
    one.setblocking(True)
    one.settimeout(PATIENCE_S)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = one.recv(1)
        if not piece:
            raise EOFError(head)
        head += piece
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    body = b""
    while len(body) < int(headers.get("content-length", "0")):
        body += one.recv(int(headers["content-length"]) - len(body))
    return int(lines[0].split()[1]), headers, body


def statuses(got: bytes) -> list[int]:
    """Of all answers, whose bodies have no such line."""
    return [int(part[:3]) for part in got.split(b"HTTP/1.1 ")[1:]]
