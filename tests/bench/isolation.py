"""A quiet tenant beside one with a million due deliveries to a dead endpoint: from accepted to received, as ratios.

Usage: python -m tests.bench.isolation [SECONDS] [ROWS]

One node that only answers, one worker with the settings' defaults, PostgreSQL. The quiet tenant has an event accepted
every 25 ms (`POST /v1/endpoints/{id}/test`: 2xx once it is committed) and its subscriber, here, notes when it comes.
The dead endpoint is one that refuses connections, then one that takes them and never answers.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import uvloop

from tests.bench.nodes import KEY, Bench, fill, machine, standing
from tests.kill.test_kill import free_port

EACH_S = 0.025
SETTLE_S = 3.0
HANGS_S = 3  # the dead endpoints' time-out: shorter than the default, so that they are tried often
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
WAITING = "SELECT count(*) FROM deliveries WHERE endpoint = $1 AND due_at IS NOT NULL"
TRIED = "SELECT count(*) FROM attempts a JOIN deliveries d ON d.num = a.delivery WHERE d.endpoint = $1"
CLEAR = "DELETE FROM events WHERE num IN (SELECT event FROM deliveries WHERE endpoint = $1)"


class Quiet:
    """The quiet tenant's subscriber: when each event came, by its id."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                self.at.setdefault(headers["webhook-id"], time.monotonic())
                await reader.readexactly(int(headers["content-length"]))
                writer.write(OK)


async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(65_536):
            pass
    writer.close()


@contextlib.asynccontextmanager
async def listening(taker: Any) -> AsyncIterator[str]:
    server = await asyncio.start_server(taker, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()


async def pace(bench: Bench, quiet: Quiet, endpoint: str, seconds: float) -> list[float]:
    """Milliseconds from accepted to received, of an event every 25 ms; all of them came."""
    accepted: dict[str, float] = {}
    headers = {"Authorization": f"Bearer {KEY}", "Callsheet-Tenant": "quiet"}
    async with aiohttp.ClientSession(headers=headers) as session, asyncio.TaskGroup() as group:

        async def one() -> None:
            async with session.post(f"{bench.url}/v1/endpoints/{endpoint}/test") as answer:
                said = await answer.json()
                assert answer.status in (200, 202), said
                accepted[said["id"]] = time.monotonic()

        for _ in range(int(seconds / EACH_S)):
            group.create_task(one())
            await asyncio.sleep(EACH_S)
    async with asyncio.timeout(60):
        while not accepted.keys() <= quiet.at.keys():  # noqa: ASYNC110 - the subscriber's side of a socket
            await asyncio.sleep(0.05)
    return sorted(1000 * (quiet.at[event] - at) for event, at in accepted.items())


def at(took: list[float], part: float) -> float:
    return took[min(len(took) - 1, int(len(took) * part))]


def shown(name: str, took: list[float]) -> str:
    return (
        f"isolation   {name:22}  p50 {at(took, 0.5):6.1f} ms  p99 {at(took, 0.99):6.1f} ms"
        f"  worst {took[-1]:6.1f} ms  of {len(took):,}   ({machine()})"
    )


async def beside(bench: Bench, quiet: Quiet, endpoint: str, seconds: float, dead: int, rows: int) -> list[float]:
    """The pace with so many due rows for a dead endpoint, which are counted before and after."""
    await fill(bench.db, [dead], rows, trust=True)
    await bench.db.execute("VACUUM ANALYZE")
    await bench.db.execute("CHECKPOINT")
    await asyncio.sleep(SETTLE_S)
    before = await bench.db.fetchval(WAITING, dead)
    took = await pace(bench, quiet, endpoint, seconds)
    after, tried = await bench.db.fetchval(WAITING, dead), await bench.db.fetchval(TRIED, dead)
    print(f"            rows for the dead endpoint: {before:,} before, {after:,} after; attempts {tried}", flush=True)
    assert before == after == rows and tried > 0, (before, after, tried)
    await bench.db.execute(CLEAR, dead, timeout=300)
    await bench.db.execute("VACUUM ANALYZE")
    return took


async def main(seconds: float = 20.0, rows: int = 1_000_000) -> None:
    quiet, sorts = Quiet(), ("refuses connections", "never answers")
    async with listening(quiet) as url, listening(never) as hangs, standing() as bench:
        dead = {}
        for name, its_url in zip(sorts, (f"http://127.0.0.1:{free_port()}/", hangs), strict=True):
            await bench.ask("POST", "/v1/tenants", {"name": name.replace(" ", "-")})
            dead[name] = (await bench.endpoints([its_url], name.replace(" ", "-"), timeout_seconds=HANGS_S))[0]
        await bench.ask("POST", "/v1/tenants", {"name": "quiet"})
        endpoint = (await bench.ask("POST", "/v1/endpoints", {"url": url}, "quiet"))["id"]
        await bench.node("worker")
        await pace(bench, quiet, endpoint, 3.0)
        alone, with_them = [], {}
        for name in sorts:
            await bench.db.execute("CHECKPOINT")
            await asyncio.sleep(SETTLE_S)
            alone.append(await pace(bench, quiet, endpoint, seconds))
            print(shown("alone", alone[-1]), flush=True)
            with_them[name] = await beside(bench, quiet, endpoint, seconds, dead[name], rows)
            print(shown(f"it {name}", with_them[name]), flush=True)
        for (name, took), base in zip(with_them.items(), alone, strict=True):
            ratios = "  ".join(f"p{p} {at(took, p / 100) / at(base, p / 100):.2f}" for p in (50, 99))
            print(f"isolation   beside {rows:,} due rows, {name}: ratios {ratios}", flush=True)


if __name__ == "__main__":
    uvloop.run(main(*(kind(given) for kind, given in zip((float, int), sys.argv[1:], strict=False))))
