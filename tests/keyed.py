"""A provider whose outputs only its key opens, as a file of `service/providers` would be, and its server.

`python -m tests.keyed` is the server in a process of its own: it says where it is, and sends as many bytes as asked.
"""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from service.facts import NotFound, NotNow, Output, StatusVerdict, Update
from service.providers import Call, Operation, Provider, Reply, Request
from service.states import JobStatus
from tests.builders import an_operation

KEY = "the-providers-key"
BLOCK = bytes(range(256)) * 256  # what everything is made of: 64 KiB, so that each offset tells its bytes


def content(start: int, end: int) -> bytes:
    """The bytes of any thing of the server's, from `start` up to but not including `end`."""
    first = start % len(BLOCK)
    return (BLOCK * ((end - start + first) // len(BLOCK) + 1))[first : first + end - start]


class Keyed(Provider):
    name = "keyed"
    title = "Keyed"
    base_url = "http://127.0.0.1:9"
    operations: Mapping[str, Operation] = {"paint": an_operation(name="paint")}

    def status(self, call: Call, provider_job_id: str) -> Generator[Request, Reply, StatusVerdict]:
        reply = yield Request(method="GET", url=f"{call.base_url}/status/{provider_job_id}", headers=_key(call))
        if reply.status != 200:
            return NotFound(reason="gone") if reply.status == 404 else NotNow(reason=str(reply.status))
        outputs = tuple(Output(**output) for output in json.loads(reply.body))
        return Update(status=JobStatus.SUCCEEDED, outputs=outputs)

    def fetch(self, call: Call, output: Output) -> Request | None:
        return Request(method="GET", url=output.url, headers=_key(call)) if output.needs_key else None

    def share(self, call: Call, output: Output) -> Generator[Request, Reply, str | None]:
        reply = yield Request(method="POST", url=f"{call.base_url}/share", headers=_key(call), body=b"{}")
        return str(json.loads(reply.body)["url"]) if reply.status == 200 else None


def _key(call: Call) -> dict[str, str]:
    return {"Authorization": f"Bearer {call.api_key}"}


class Server:
    """Serves `/<behaviour>/<bytes>`, and JSON that a test puts down by path.

    Behaviours: ranges, ignores (ranges), unknown (length, ignores ranges), short (says one more), wrong (another range
    than asked), anything else a status.
    """

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, str, dict[str, str]]] = []  # method, path, headers
        self.json: dict[str, Any] = {}
        self.sent = 0
        self.left_early = asyncio.Event()  # a client was gone before it had all
        self.pause: Callable[[], Any] | None = None
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            await self.stop()

    async def stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def asked(self, path: str) -> list[dict[str, str]]:
        """The headers of the requests for this path."""
        return [headers for _, asked, headers in self.requests if asked.startswith(path)]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            self.left_early.set()
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return False
        line, *fields = head.split("\r\n")
        method, path, _ = line.split(" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields if field)
        }
        await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append((method, path, headers))
        if path.partition("?")[0] in self.json:
            said = json.dumps(self.json[path.partition("?")[0]]).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
            return True
        return await self._media(path, headers, writer)

    async def _media(self, path: str, headers: dict[str, str], writer: asyncio.StreamWriter) -> bool:
        _, behaviour, size = path.split("?")[0].split("/")[:3] if path.count("/") > 1 else ("", path[1:], "0")
        length = int(size) if size.isdigit() else 0
        if behaviour in ("status", "share"):
            behaviour = "503"  # nothing was put down for this path
        if headers.get("authorization") != f"Bearer {KEY}":
            behaviour = "401"
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if behaviour.isdigit():
            writer.write(
                f"HTTP/1.1 {behaviour} X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".encode()
            )
            return True
        start, end, status, more = 0, length, 200, ""
        if behaviour in ("ranges", "wrong") and asked:
            start = int(asked[1]) + (behaviour == "wrong")
            end = min(length, int(asked[2] or length) + 1)
            if start >= length:
                writer.write(f"HTTP/1.1 416 X\r\nContent-Range: bytes */{length}\r\nContent-Length: 0\r\n\r\n".encode())
                return True
            status, more = 206, f"Content-Range: bytes {start}-{end - 1}/{length}\r\n"
        framing = (
            "Transfer-Encoding: chunked"
            if behaviour == "unknown"
            else f"Content-Length: {end - start + (behaviour == 'short')}"
        )
        kind = "text/html" if behaviour == "page" else "video/mp4"
        writer.write(f'HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\nETag: "e1"\r\n{more}{framing}\r\n\r\n'.encode())
        await self._send(writer, start, end, chunked=behaviour == "unknown")
        return behaviour != "short"

    async def _send(self, writer: asyncio.StreamWriter, start: int, end: int, *, chunked: bool) -> None:
        while start < end:
            size = min(len(BLOCK) - start % len(BLOCK), end - start)
            piece = BLOCK[start % len(BLOCK) : start % len(BLOCK) + size]
            writer.write(b"%x\r\n%b\r\n" % (size, piece) if chunked else piece)
            await writer.drain()
            start, self.sent = start + size, self.sent + size
            if self.pause is not None:
                await self.pause()
        if chunked:
            writer.write(b"0\r\n\r\n")


async def _serve() -> None:
    async with Server().running() as server:
        print(f"listening on {server.url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(_serve())
    except KeyboardInterrupt:
        sys.exit(0)
