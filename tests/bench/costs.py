"""What one job, one callback and one delivery cost: statements, transactions, WAL, disk and processor time.

Usage: python -m tests.bench.costs [COUNT]

The real way: a node that only answers takes COUNT jobs over 64 connections (each follows one submitted elsewhere, so
that it is at the provider at once), then a signed callback for each, which makes one event with one delivery; then a
worker delivers them to a subscriber that takes 50 ms. Disk is of tables with their indexes, without what is dead.
"""

import asyncio
import json
import subprocess
import sys
from typing import Any

import uvloop

from tests.bench.callbacks import FIRST_ID, requests
from tests.bench.nodes import KEY, Bench, Cpu, machine, standing
from tests.bench.scaling import SETTINGS, subscriber

CONNECTIONS = 64
WARM = 2_000
WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"
WRITTEN = "SELECT count(*) FROM commits"  # a row for each transaction that writes
TABLES = (
    "SELECT COALESCE(p.relname, c.relname) AS name, sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c"
    " LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = i.inhparent"
    " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public' AND c.relkind = 'r' GROUP BY 1"
)
SHOWN = 8  # bytes of a row below which a table is not worth a word


class Meter:
    """What was spent between two moments, by item."""

    def __init__(self, bench: Bench, pids: dict[str, list[int]]):
        self._bench, self._pids = bench, pids

    async def start(self) -> None:
        db = self._bench.db
        await db.execute("VACUUM (FULL, ANALYZE)")
        await db.execute("CHECKPOINT")
        self._sizes = dict(await db.fetch(TABLES))
        await self._bench.server.count_from_now(db)
        self._wal, self._commits = await db.fetchval(WAL), await db.fetchval(WRITTEN)
        self._cpu = Cpu(server=[self._bench.server.pid], **self._pids)

    async def shown(self, name: str, count: int) -> None:
        """One line of figures and one of the disk."""
        db, taken = self._bench.db, self._cpu.taken()
        wal = await db.fetchval(WAL) - self._wal
        statements = await self._bench.server.counted(db)
        commits = await db.fetchval(WRITTEN) - self._commits
        others = taken.pop("others")
        costs = ", ".join(f"{kind} {seconds / count * 1e6:,.0f}" for kind, seconds in taken.items())
        print(
            f"costs       {name:9} statements {statements / count:5.2f}  writing transactions {commits / count:6.3f}"
            f"  WAL {wal / count:6,.0f} bytes  us of CPU: {costs}   (others took {others:.2f} of {machine()})",
            flush=True,
        )
        await db.execute("VACUUM FULL")
        grown = {table: (size - self._sizes.get(table, 0)) / count for table, size in await db.fetch(TABLES)}
        kept = ", ".join(f"{table} {size:,.0f}" for table, size in sorted(grown.items()) if size >= SHOWN)
        print(f"            {name:9} bytes on disk: {kept}", flush=True)


def jobs(port: int, count: int, start: int = 0) -> bytes:
    """Requests that each follow one job, with the length before each."""
    made = bytearray()
    for n in range(start, start + count):
        given = {"provider": "pixverse", "operation": "text_to_video", "provider_job_id": str(FIRST_ID + n)}
        body = json.dumps({**given, "metadata": {"order": str(n)}}).encode()
        head = (
            f"POST /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {KEY}\r\n"
            f"content-type: application/json\r\nidempotency-key: bench-{n}\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode()
        made += (len(head) + len(body)).to_bytes(4) + head + body
    return bytes(made)


async def loaded(bench: Bench, what: bytes, expected: str) -> None:
    path = bench.folder / "requests"
    await asyncio.to_thread(path.write_bytes, what)
    command = [sys.executable, "-m", "tests.bench.load", "1", str(bench.port), str(CONNECTIONS), str(path)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1:] == [expected], done.stdout


async def main(count: int = 10_000) -> None:
    async with subscriber() as taker, standing() as bench:
        wanted: dict[str, Any] = {"event_types": ["job.succeeded"]}
        await bench.endpoints([f"http://127.0.0.1:{taker.port}/taken"], **wanted)
        meter = Meter(bench, {"node": [bench.nodes[0]]})
        parts: tuple[tuple[str, Any, int], ...] = (("job", jobs, 202), ("callback", requests, 200))
        for _, what, status in parts:  # first some that the planner can look at: it knows nothing of empty tables
            await loaded(bench, what(bench.port, WARM), f"{status}={WARM}")
        for name, what, status in parts:
            await meter.start()
            await loaded(bench, what(bench.port, count, WARM), f"{status}={count}")
            await meter.shown(name, count)
        worker = await bench.node("worker", CALLSHEET_DELIVERY_CONCURRENCY="1", CALLSHEET_LOG_LEVEL="WARNING")
        await bench.stop_nodes([worker])  # what a start costs is not a delivery's
        meter = Meter(bench, {})
        await meter.start()
        done = await bench.delivered()
        worker = await bench.node("worker", **SETTINGS)
        cpu = Cpu(worker=[worker])
        async with asyncio.timeout(300):
            while await bench.pending():  # noqa: ASYNC110 - the worker is another process
                await asyncio.sleep(0.2)
        spent = cpu.taken()["worker"]
        await bench.stop_nodes([worker])
        done = await bench.delivered() - done
        await meter.shown("delivery", done)
        print(f"            delivery  us of the worker's CPU: {spent / done * 1e6:,.0f}", flush=True)


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:])))
