"""A load of prepared HTTP requests, in a process of its own.

Usage: python -m tests.bench.load CPU PORT CONNECTIONS FILE     prints seconds and the count of each status

FILE holds the requests: 4 bytes of length, then the request, one after the other.
"""

import asyncio
import collections
import os
import sys
import time
from pathlib import Path

import uvloop


class Client(asyncio.Protocol):
    """Sends the next request when the answer to the last is whole."""

    def __init__(self, requests: "list[bytes]", statuses: "collections.Counter[bytes]", done: "asyncio.Future[None]"):
        self.requests, self.statuses, self.done = requests, statuses, done
        self.waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.next()

    def next(self) -> None:
        if self.requests:
            self.transport.write(self.requests.pop())  # type: ignore[attr-defined]
        else:
            self.done.set_result(None)
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        end = self.waiting.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.waiting[:end].lower()
        mark = head.find(b"content-length:")
        length = int(head[mark + 15 :].split(b"\r\n", 1)[0])
        if len(self.waiting) >= end + 4 + length:
            self.statuses[head[9:12]] += 1
            self.waiting = b""
            self.next()


def read(path: Path) -> list[bytes]:
    data, requests, at = path.read_bytes(), [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4])
        requests.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return requests[::-1]


async def main(port: int, connections: int, path: Path) -> None:
    loop, requests = asyncio.get_running_loop(), read(path)
    statuses: collections.Counter[bytes] = collections.Counter()
    ends = [loop.create_future() for _ in range(connections)]
    began = time.perf_counter()
    for done in ends:
        await loop.create_connection(lambda done=done: Client(requests, statuses, done), "127.0.0.1", port)
    await asyncio.gather(*ends)
    print(time.perf_counter() - began, *(f"{code.decode()}={count}" for code, count in statuses.items()), flush=True)


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1]) % (os.cpu_count() or 1)})
    uvloop.run(main(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))
