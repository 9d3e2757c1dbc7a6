"""The time of one claim, from ten thousand to five million pending rows: median and p99, of the whole transaction.

Usage: python -m tests.bench.claims [MOST]

`blocks` are the 8 KB pages that the two statements of a claim of 64 read or change, whatever else the machine does.
Rows come by SQL and are vacuumed and analyzed, as autovacuum would. Their due order is that of their numbers, or
random; they wait in 1, 200 or 10,000 lanes. What is claimed is recorded as delivered, and made up for, between claims.
In the last case half of the rows have just been delivered and no vacuum has come by: dead entries at the head of every
lane. A claim's time is that of its transaction, begin and commit (with fsync) included.
"""

import json
import sys
import time
from typing import Any

import uvloop

from service.clock import SystemClock
from service.models import DueDelivery
from service.stores.postgres import open_store
from service.stores.postgres_deliveries import CLAIM, LANES, LANES_AT_FIRST
from service.stores.postgres_pool import CLOCK
from service.stores.postgres_rows import LEAST_LANE
from tests.bench.nodes import Bench, fill, machine, standing
from tests.stores.world import Real, outcome

SIZES = (10_000, 100_000, 1_000_000, 5_000_000)
LIMITS = (64, 256)
CASES = ((1, "id"), (200, "id"), (200, "random"), (10_000, "id"), (10_000, "random"))
DEAD = (200, "random")
CLAIMS = 60
REFILL = 4_096  # rows, between claims: what was claimed
ENDPOINTS = (
    "INSERT INTO endpoints (id, tenant, status, target, secrets, event_types, filter, format, signature, version,"
    " created_at, updated_at) SELECT 'ep_bench_' || n, (SELECT min(num) FROM tenants), 'active', '', '', '[]', '{}',"
    " 'standard', 'v1', 1, 0, 0 FROM generate_series(1, $1) n RETURNING num"
)
EMPTY = "TRUNCATE events, event_bodies, deliveries, attempts CASCADE"
DELIVERED = (
    "UPDATE deliveries SET status = 1, due_at = NULL, attempts = 1, finished_at = due_at WHERE due_at <="
    " (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY due_at) FROM deliveries WHERE due_at IS NOT NULL)"
)
AUTOVACUUM = "ALTER TABLE deliveries SET (autovacuum_enabled = {})"


class Times:
    """Milliseconds of claims, sorted."""

    def __init__(self, found: list[float]):
        self.first, self.all = found[0], sorted(found)

    def __str__(self) -> str:
        middle, last = self.all[len(self.all) // 2], self.all[int(len(self.all) * 0.99)]
        return f"{middle:6.2f} {last:7.2f} {self.first:7.2f}"


async def claims(bench: Bench, store: Any, lanes: list[int], order: str, limit: int) -> Times:
    found, claimed = [], 0
    for _ in range(CLAIMS):
        began = time.perf_counter()
        due = await store.claim_deliveries(room=lambda lane: limit, lease_ms=90_000, limit=limit)
        found.append((time.perf_counter() - began) * 1000)
        assert len(due) == limit
        await delivered(store, due)
        claimed += limit
        if claimed >= REFILL:
            await more(bench, lanes, claimed, order)
            claimed = 0
    await more(bench, lanes, claimed, order)
    return Times(found)


async def more(bench: Bench, lanes: list[int], count: int, order: str) -> None:
    await fill(bench.db, lanes, count, order=order, pad=100, trust=True)


async def delivered(store: Any, due: list[DueDelivery]) -> None:
    at = SystemClock().now()
    await store.record_attempts([outcome(one, at=at) for one in due])


async def blocks(db: Any, limit: int) -> int:
    """What a claim by a node that is new reads and changes; undone again."""
    now = await db.fetchval(CLOCK)
    transaction = db.transaction()
    await transaction.start()
    try:
        lanes = await db.fetch(LANES, LEAST_LANE, LANES_AT_FIRST)
        part = [row[0] for row in lanes], [max(1, limit // len(lanes))] * len(lanes)
        looked = await _touched(db, LANES, LEAST_LANE, LANES_AT_FIRST)
        return looked + await _touched(db, CLAIM, *part, now, limit, 1, now + 90_000)
    finally:
        await transaction.rollback()


async def _touched(db: Any, sql: str, *values: Any) -> int:
    said = await db.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *values)
    plan = json.loads(said)[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def line(bench: Bench, store: Any, lanes: list[int], order: str, more: str = "") -> None:
    """The claims of each size among what is pending now."""
    await bench.db.execute("CHECKPOINT")
    pending, touched = await bench.pending(), await blocks(bench.db, LIMITS[0])
    times = [await claims(bench, store, lanes, order, limit) for limit in LIMITS]
    name = f"{len(lanes):6,} lanes, {order:6} order{more}"
    said = "   ".join(map(str, times))
    print(f"claims      {name:42} {pending:9,} pending   {said}   {touched:6,}   ({machine()})", flush=True)


async def growing(bench: Bench, store: Any, lanes: list[int], order: str, most: int) -> None:
    await bench.db.execute(EMPTY)
    await bench.db.execute(AUTOVACUUM.format("on"))
    for size in (size for size in SIZES if size <= most):
        await more(bench, lanes, size - await bench.pending(), order)
        await bench.db.execute("VACUUM ANALYZE", timeout=600)
        await line(bench, store, lanes, order)


async def unvacuumed(bench: Bench, store: Any, lanes: list[int], order: str, size: int) -> None:
    await bench.db.execute(EMPTY)
    await bench.db.execute(AUTOVACUUM.format("off"))
    await more(bench, lanes, size * 2, order)
    await bench.db.execute("VACUUM ANALYZE", timeout=600)
    await bench.db.execute(DELIVERED, timeout=600)
    await line(bench, store, lanes, order, ", as many dead")


async def main(most: int = SIZES[-1]) -> None:
    async with standing() as bench:
        made = await bench.db.fetch(ENDPOINTS, max(lanes for lanes, _ in CASES))
        numbers = sorted(row[0] for row in made)
        store = await open_store(bench.server.url, plan=Real(), clock=SystemClock())
        print(f"PostgreSQL {await bench.db.fetchval('SHOW server_version')}; in milliseconds: median, p99, first claim")
        print(f"{'':76}of 64 rows              of 256 rows             blocks")
        try:
            for lanes, order in CASES:
                await growing(bench, store, numbers[:lanes], order, most)
            for size in (size for size in SIZES[1:] if size <= most):
                await unvacuumed(bench, store, numbers[: DEAD[0]], DEAD[1], size)
        finally:
            await store.close()


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:])))
