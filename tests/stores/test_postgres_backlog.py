"""A long backlog of a dead endpoint: what a claim reads does not grow with it, and another tenant does not wait for it.

The benchmarks do the same with millions of rows: `make isolation`, `make claims`.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.models import Announcement
from service.stores.postgres_deliveries import CLAIM, LANES
from service.stores.postgres_rows import LEAST_LANE
from service.views import event_body
from tests.bench.nodes import fill
from tests.stores import server
from tests.test_pipeline import receiving, status
from tests.test_recording import standing, step

pytestmark = pytest.mark.anyio

FEW, MANY = 1_000, 20_000
WAITING = "SELECT count(*) FROM deliveries WHERE endpoint = $1 AND due_at IS NOT NULL"


async def blocks(db: Any, endpoint: int) -> int:
    """8 KB pages that a claim of 64 rows reads and changes; undone again."""
    values = ([endpoint], [64], 1 << 60, 64, 1, 1 << 60)
    transaction = db.transaction()
    await transaction.start()
    try:
        plans = [
            json.loads(await db.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *given))[0]["Plan"]
            for sql, given in ((LANES, (LEAST_LANE, 64)), (CLAIM, values))
        ]
    finally:
        await transaction.rollback()
    return sum(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in plans)


async def test_what_a_claim_reads_does_not_grow_with_the_backlog(tmp_path: Path) -> None:
    url = await server.database(tmp_path)
    async with standing(url) as service:
        tenant = (await service.context.accounts.tenant("default")).num
        dead = (await service.context.endpoints.create(tenant, {"url": "http://127.0.0.1:9/dead"}))[0]
        db = await asyncpg.connect(url)
        try:
            await fill(db, [dead.num], FEW)
            await db.execute("VACUUM ANALYZE")
            few = await blocks(db, dead.num)
            await fill(db, [dead.num], MANY - FEW)
            await db.execute("VACUUM ANALYZE")
            assert await blocks(db, dead.num) < 2 * few
        finally:
            await db.close()


async def test_another_tenants_deliveries_all_arrive_while_the_backlog_stands(tmp_path: Path) -> None:
    url = await server.database(tmp_path)

    async def answer(path: str) -> bytes:
        return status(200)

    async with receiving(answer) as (receiver, taker), standing(url) as service:
        context = service.context
        tenants = [await context.accounts.create_tenant(name) for name in ("loud", "quiet")]
        dead = (await context.endpoints.create(tenants[0].num, {"url": "http://127.0.0.1:9/dead"}))[0]
        await context.endpoints.create(tenants[1].num, {"url": f"{taker}/quiet"})
        db = await asyncpg.connect(url)
        try:
            await fill(db, [dead.num], MANY)
            said = Announcement(type="job.succeeded", body=event_body("job.succeeded", 0, {}), data={})
            for _ in range(50):
                await context.store.publish(tenants[1].num, said, None)
            async with asyncio.timeout(30):
                while receiver.arrivals["/quiet"] < 50:
                    await step(service)
                    await context.delivery.flying.any_ended(0.2)
            assert await db.fetchval(WAITING, dead.num) == MANY
            tried = await db.fetchval("SELECT count(*) FROM attempts WHERE error = 'connect'")
            assert tried >= 1, "the dead endpoint was never tried"
        finally:
            await db.close()
