"""The other side of a benchmark, in a process of its own: answers every request `200 ok` as cheaply as it can.

Usage: python -m tests.bench.sink CPU [SECONDS]     prints its port; answers after so many seconds (0). CPU -1: any

`GET /_count` says how many requests came, this one not counted.
"""

import asyncio
import os
import sys

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Sink(asyncio.Protocol):
    """Requests with a content-length, one after the other on a kept connection."""

    count = 0
    delay = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.waiting = transport, b""

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        while (end := self.waiting.find(b"\r\n\r\n")) >= 0:
            head = self.waiting[:end].lower()
            mark = head.find(b"content-length:")
            length = int(head[mark + 15 :].split(b"\r\n", 1)[0]) if mark >= 0 else 0
            if len(self.waiting) < end + 4 + length:
                return
            self.waiting = self.waiting[end + 4 + length :]
            self.answer(head)

    def answer(self, head: bytes) -> None:
        if head.startswith(b"get /_count "):
            said = str(Sink.count).encode()
            self.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(said), said))
            return
        Sink.count += 1
        if Sink.delay:
            asyncio.get_running_loop().call_later(Sink.delay, self.write, ANSWER)
        else:
            self.write(ANSWER)

    def write(self, answer: bytes) -> None:
        self.transport.write(answer)  # type: ignore[attr-defined]


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0, backlog=4_096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if (cpu := int(sys.argv[1])) >= 0:
        os.sched_setaffinity(0, {cpu % (os.cpu_count() or 1)})
    Sink.delay = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    uvloop.run(main())
