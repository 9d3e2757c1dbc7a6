"""A small HTTP proxy before several nodes, as a deployment would have one, which writes down what callbacks met.

What it does, and no more: it asks every node's `/ready` five times a second and sends requests only to those that said
200; it keeps connections to the nodes open, and drops one that its node closed, or that answered `Connection: close`,
or that was idle for two seconds. Where a connection is refused it goes to the next node. A request of which a byte was
sent is never repeated: if its answer does not come, it is written down as lost.
"""

import asyncio
import itertools
import time
from typing import NamedTuple

ASK_EVERY_S = 0.2
IDLE_S = 2.0  # as the sandbox's own; shorter than the nodes' 5 s, as every proxy's must be
ANSWER_S = 60.0
LOST = 0  # the status of a request that was sent and not answered
BROKEN = (OSError, asyncio.IncompleteReadError, TimeoutError)


class Answered(NamedTuple):
    """One callback: when, what the node was, its status, and what went wrong."""

    at: float
    node: str
    status: int
    said: str


class Line:
    """A connection to a node."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer, self.idle_since = reader, writer, 0.0

    @property
    def usable(self) -> bool:
        alive = not (self.reader.at_eof() or self.writer.is_closing() or self.reader.exception())
        return alive and time.monotonic() - self.idle_since < IDLE_S


class Backend:
    """A node as the proxy sees it. `name` says which code it runs."""

    def __init__(self, port: int):
        self.port, self.name, self.up = port, "", False
        self.idle: list[Line] = []

    async def line(self) -> Line:
        """Raises OSError where it cannot be connected to."""
        while self.idle:
            line = self.idle.pop()
            if line.usable:
                return line
            line.writer.close()
        return Line(*await asyncio.open_connection("127.0.0.1", self.port))

    async def says_ready(self) -> bool:
        try:
            async with asyncio.timeout(5):
                line = Line(*await asyncio.open_connection("127.0.0.1", self.port))
                line.writer.write(b"GET /ready HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n")
                status = await line.reader.readline()
                line.writer.close()
        except BROKEN:
            return False
        return status.startswith(b"HTTP/1.1 200 ")


class Proxy:
    def __init__(self) -> None:
        self.backends: dict[int, Backend] = {}
        self.callbacks: list[Answered] = []
        self.url = ""
        self._turn = itertools.count()
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._asking = asyncio.create_task(self._ask())

    async def close(self) -> None:
        self._server.close()
        for task in (self._asking, *self._serving):
            task.cancel()
        await asyncio.gather(self._asking, *self._serving, return_exceptions=True)
        for line in (line for backend in self.backends.values() for line in backend.idle):
            line.writer.close()

    def knows(self, port: int, name: str) -> None:
        """This node runs that code from now on. It is used once it says that it is ready."""
        self.backends.setdefault(port, Backend(port)).name = name

    async def _ask(self) -> None:
        while True:
            backends = list(self.backends.values())
            for backend, ready in zip(backends, await asyncio.gather(*(b.says_ready() for b in backends)), strict=True):
                backend.up = ready
            await asyncio.sleep(ASK_EVERY_S)

    # -- requests

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while await self._pass_on(reader, writer):
                pass
        except BROKEN:
            pass  # the client went
        finally:
            self._serving.discard(task)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; False where the client's connection ends."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        body = await reader.readexactly(int(_field(head, b"content-length") or 0))
        node, status, said, answer = await self._forward(head + body)
        if b" /v1/callbacks/" in head[: head.index(b"\r\n")]:
            self.callbacks.append(Answered(time.time(), node, status, said))
        if status == LOST:
            return False
        writer.write(answer)
        await writer.drain()
        return True

    async def _forward(self, request: bytes) -> tuple[str, int, str, bytes]:
        """(the node's code, its status, what went wrong, the answer)."""
        up = [backend for backend in self.backends.values() if backend.up]
        first = next(self._turn)
        for backend in (up[(first + n) % len(up)] for n in range(len(up))):
            try:
                line = await backend.line()
            except OSError:
                backend.up = False
                continue
            name = backend.name
            try:
                line.writer.write(request)
                async with asyncio.timeout(ANSWER_S):
                    status, answer, last = await _answer(line.reader)
            except BROKEN as error:
                line.writer.close()
                return name, LOST, f"{type(error).__name__}: {error}", b""
            if last:
                line.writer.close()
            else:
                line.idle_since = time.monotonic()
                backend.idle.append(line)
            return name, status, "", answer
        return "nobody", 503, "no node is up", b"HTTP/1.1 503 Nobody\r\nContent-Length: 0\r\n\r\n"


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Its status, all of it with a length, and whether it is the connection's last."""
    head = await reader.readuntil(b"\r\n\r\n")
    status, last = int(head.split(b" ", 2)[1]), _field(head, b"connection") == b"close"
    if _field(head, b"transfer-encoding") == b"chunked":
        body = b""
        while size := int(piece := await reader.readuntil(b"\r\n"), 16):
            body += piece + await reader.readexactly(size + 2)
        return status, head + body + piece + await reader.readexactly(2), last
    return status, head + await reader.readexactly(int(_field(head, b"content-length") or 0)), last


def _field(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip().lower()
    return None
