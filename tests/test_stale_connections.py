"""Kept connections that the subscriber's side has dropped: the delivery goes out at once on a new one, once."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from service.app import Service
from service.errors import Lost
from service.framing import Outgoing
from tests.test_pipeline import publish, serving, status, until

pytestmark = pytest.mark.anyio
OK = status(200)


class Dropping:
    """Takes one request on each connection; what it does with the next one there is the test's."""

    def __init__(self, then: Callable[[asyncio.StreamWriter], None]):
        self.then, self.requests, self.connections = then, list[tuple[int, dict[str, str], bytes]](), 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        mine, count = self.connections, 0
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await reader.readline():
                headers = {}
                while (line := await reader.readline()) not in (b"\r\n", b""):
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((mine, headers, body))
                count += 1
                if count > 1:
                    self.then(writer)
                    break
                writer.write(OK)
        writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def close(writer: asyncio.StreamWriter) -> None:
    writer.close()


def half_a_line(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 2")


@contextlib.asynccontextmanager
async def dropping(then: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[tuple[Dropping, str]]:
    peer = Dropping(then)
    server = await asyncio.start_server(peer, "127.0.0.1", 0)
    try:
        yield peer, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    finally:
        server.close()


async def attempts_of(service: Service, tenant: int, count: int) -> list[Any]:
    """Of all deliveries, once so many attempts are recorded."""
    store, found = service.context.store, list[Any]()

    async def look() -> bool:
        nonlocal found
        rows = await store.rows("SELECT num FROM deliveries ORDER BY num")
        found = [attempt for (num,) in rows for attempt in await store.attempts(num)]
        return len(found) >= count

    async with asyncio.timeout(30):
        while not await look():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return found


@pytest.mark.parametrize("then", [reset, close])
async def test_a_delivery_on_a_dead_connection_goes_out_at_once_on_a_new_one(
    then: Callable[[asyncio.StreamWriter], None], tmp_path: Path
) -> None:
    async with dropping(then) as (peer, url), serving(tmp_path, CALLSHEET_RETRY_SCHEDULE="0,3600") as service:
        default = await service.context.accounts.tenant("default")
        await service.context.endpoints.create(default.num, {"url": url})
        for count in (1, 2):
            tenant = await publish(service, 1)
            found = await attempts_of(service, tenant, count)
        assert [(one.status_code, one.error, one.number) for one in found] == [(200, None, 1), (200, None, 1)]
        assert (found[0].stale, found[1].stale) == (None, "reset" if then is reset else found[1].stale)
        assert found[1].stale in ("reset", "disconnected")
        dead, repeated = peer.requests[1:]
        assert (dead[0], repeated[0], peer.connections) == (1, 2, 2)
        assert dead[2] == repeated[2] and dead[1]["webhook-id"] == repeated[1]["webhook-id"]
        assert repeated[1]["connection"] == "close"


async def test_once_a_byte_of_a_reply_came_the_schedule_decides(tmp_path: Path) -> None:
    async with dropping(half_a_line) as (peer, url), serving(tmp_path, CALLSHEET_RETRY_SCHEDULE="0,3600") as service:
        default = await service.context.accounts.tenant("default")
        await service.context.endpoints.create(default.num, {"url": url})
        for count in (1, 2):
            found = await attempts_of(service, await publish(service, 1), count)
        assert [(one.status_code, one.error, one.stale) for one in found] == [
            (200, None, None),
            (None, "disconnected", None),
        ]
        await until(lambda: len(peer.requests) == 2)


@pytest.mark.parametrize("fresh", [True, False])
async def test_only_a_kept_connection_can_be_stale(fresh: bool, tmp_path: Path) -> None:
    async with dropping(close) as (_, url), serving(tmp_path) as service:
        request = Outgoing("POST", url, {}, b"{}")
        assert (await service.egress.send(request, deadline=5, max_bytes=9)).status == 200
        if fresh:
            assert (await service.egress.send(request, deadline=5, max_bytes=9, fresh=True)).status == 200
            return
        with pytest.raises(Lost) as lost:
            await service.egress.send(request, deadline=5, max_bytes=9)
        assert lost.value.stale
