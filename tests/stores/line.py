"""A TCP way to the server's socket file, for what goes wrong on the way; each test's own line says what that is."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from urllib.parse import parse_qs, urlsplit

import pytest

Way = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Passes = Callable[[bytes], bool]


def socket_of(url: str) -> str:
    """The server's socket file; skips the test where it has none."""
    given = parse_qs(urlsplit(url).query)
    if not given.get("host", [""])[0].startswith("/"):
        pytest.skip("the server that was given has no socket file")
    return f"{given['host'][0]}/.s.PGSQL.{given.get('port', ['5432'])[0]}"


class Line:
    """To the server of that URL. Everything passes, unless `passing` says otherwise."""

    def __init__(self, url: str):
        self._path, self._database = socket_of(url), urlsplit(url).path
        self._ends: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """The URL of the same database over this line, without options."""
        serving = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"postgresql://postgres@127.0.0.1:{serving.sockets[0].getsockname()[1]}{self._database}"
        finally:
            serving.close()
            self.abort()
            await asyncio.sleep(0.05)

    def abort(self) -> None:
        """End every connection."""
        for end in self._ends:
            end.transport.abort()
        self._ends.clear()

    def passing(self) -> tuple[Passes, Passes]:
        """Of a new connection: which bytes pass to the server, and back. The first that do not end it."""
        return (lambda data: True), (lambda data: True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_unix_connection(self._path)
        self._ends += [writer, before]
        await self._carry((reader, before), (behind, writer))

    async def _carry(self, out: Way, back: Way) -> None:
        """Until one way ends; the other one ends then too."""
        ways = [asyncio.create_task(_pump(*way)) for way in zip((out, back), self.passing(), strict=True)]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for _, end in (out, back):
            end.transport.abort()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pump(way: Way, passes: Passes) -> None:
    reader, writer = way
    while (data := await reader.read(65536)) and passes(data):
        writer.write(data)
        await writer.drain()
