"""A pooler of transactions, as PgBouncer is one, but of ill will: each transaction is another server connection's.

It speaks as much of PostgreSQL's protocol as that takes, without TLS and passwords. A client has a server connection
from its first byte until the server says that it is ready and in no transaction (`ReadyForQuery`, `I`). The next one
is the connection that has been idle longest, never the last one while there is another. Whatever the client left in
its session, a prepared statement, a setting, a lock, a LISTEN, is then not there any more, and is in somebody else's.
It runs in a thread, for whoever connects.
"""

import asyncio
import contextlib
import struct
import threading
from collections import deque
from urllib.parse import parse_qs, urlsplit

SSL, GSS, CANCEL = 80877103, 80877104, 80877102
LEAST = 3  # server connections of a database, before any is used again
READY = b"Z" + struct.pack("!i", 5) + b"I"
STARTED_S = 10.0


class Connection:
    """One connection to the server, and what the server said as it began."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer, self.greeting = reader, writer, b""


class Pooler:
    """`url` is where clients find it. Counted: what passed, and how often that was to another connection than last."""

    def __init__(self, behind: str):
        given, parts = parse_qs(urlsplit(behind).query), urlsplit(behind)
        self._socket = f"{given['host'][0]}/.s.PGSQL.{given.get('port', ['5432'])[0]}" if "host" in given else None
        self._address = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._idle: dict[bytes, deque[Connection]] = {}  # by startup packet: database, user, parameters
        self._made: dict[bytes, int] = {}
        self.transactions = self.handovers = 0
        self._ends: set[asyncio.StreamWriter] = set()
        self.url = ""

    def start(self) -> None:
        """Return once it listens."""
        listening = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listening,), daemon=True)
        self._thread.start()
        if not listening.wait(STARTED_S):
            raise TimeoutError("the pooler does not listen")

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join(STARTED_S)

    def _run(self, listening: threading.Event) -> None:
        async def serve() -> None:
            serving = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.url = f"postgresql://postgres@127.0.0.1:{serving.sockets[0].getsockname()[1]}/postgres"
            self._loop = asyncio.get_running_loop()
            self._serving = asyncio.ensure_future(serving.serve_forever())
            listening.set()
            try:
                await self._serving
            finally:
                for end in self._ends:
                    end.transport.abort()
                await asyncio.sleep(0.05)

        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(serve())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            startup = await _startup(reader, writer)
            if startup is not None:
                await _Client(self, startup, reader, writer).run()
        self._ends.discard(writer)
        writer.transport.abort()

    # -- its connections

    async def take(self, startup: bytes, last: Connection | None) -> Connection:
        """The one that has been idle longest and is not the last one; a new one where there are too few."""
        idle = self._idle.setdefault(startup, deque())
        self.transactions += 1
        if self._made.get(startup, 0) < LEAST or not idle or (len(idle) == 1 and idle[0] is last):
            taken = await self._connect(startup)
        else:
            if idle[0] is last:
                idle.rotate(-1)
            taken = idle.popleft()
        self.handovers += last is not None and taken is not last
        return taken

    def give(self, startup: bytes, connection: Connection) -> None:
        self._idle[startup].append(connection)

    def drop(self, startup: bytes, connection: Connection) -> None:
        """Its client went away in the middle of a transaction."""
        connection.writer.transport.abort()
        self._ends.discard(connection.writer)
        self._made[startup] -= 1

    def distrust(self, startup: bytes) -> None:
        """The server ended one: those that are idle may be as dead."""
        while idle := self._idle[startup]:
            self.drop(startup, idle.pop())

    async def _connect(self, startup: bytes) -> Connection:
        self._made[startup] = self._made.get(startup, 0) + 1
        opening = (
            asyncio.open_unix_connection(self._socket) if self._socket else asyncio.open_connection(*self._address)
        )
        connection = Connection(*await opening)
        self._ends.add(connection.writer)
        connection.writer.write(startup)
        while not connection.greeting.endswith(READY):
            frame = await _frame(connection.reader)
            connection.greeting += frame
            if frame[:1] == b"E":  # no such database, too many connections: the client is told
                break
        return connection


class _Client:
    def __init__(self, pooler: Pooler, startup: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._pooler, self._startup, self._reader, self._writer = pooler, startup, reader, writer
        self._has: Connection | None = None
        self._last: Connection | None = None
        self._answering: asyncio.Task[None] | None = None

    async def run(self) -> None:
        greeter = await self._pooler.take(self._startup, None)
        self._writer.write(greeter.greeting)
        if not greeter.greeting.endswith(READY):
            self._pooler.drop(self._startup, greeter)
            await self._writer.drain()
            return
        self._pooler.give(self._startup, greeter)
        try:
            while (frame := await _frame(self._reader))[:1] != b"X":
                await self._pass_on(frame)
        finally:
            if self._answering is not None:
                self._answering.cancel()
            if self._has is not None:
                self._pooler.drop(self._startup, self._has)

    async def _pass_on(self, frame: bytes) -> None:
        if self._has is None:
            self._has = await self._pooler.take(self._startup, self._last)
            self._answering = asyncio.create_task(self._answer(self._has))
        self._has.writer.write(frame)
        await self._has.writer.drain()

    async def _answer(self, connection: Connection) -> None:
        """What the server says, until it says that the transaction is over."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while (frame := await _frame(connection.reader)) != READY:
                self._writer.write(frame)
                await self._writer.drain()
            self._has, self._last = None, connection
            self._pooler.give(self._startup, connection)
            self._writer.write(READY)
            return
        self._pooler.distrust(self._startup)
        self._writer.transport.abort()


async def _startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
    """The client's first packet; None for a request to cancel, which it has no way to pass on."""
    while True:
        head = await reader.readexactly(8)
        length, code = struct.unpack("!ii", head)
        if code in (SSL, GSS):
            writer.write(b"N")
        elif code == CANCEL:
            return None
        else:
            return head + await reader.readexactly(length - 8)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    (length,) = struct.unpack("!i", head[1:])
    return head + await reader.readexactly(length - 4)
