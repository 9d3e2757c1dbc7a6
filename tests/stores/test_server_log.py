"""What a node's start leaves in PostgreSQL's log: no errors, so that those that are there mean something."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.stores.postgres import open_store
from service.stores.postgres_partitions import DAY_MS
from tests.kill.own_server import OwnServer
from tests.stores.world import START, ManualClock, Real

pytestmark = pytest.mark.anyio

FIRST = START - START % DAY_MS
PARTITIONS = "SELECT count(*) FROM pg_inherits WHERE inhparent = ANY('{attempts,callbacks,event_bodies}'::regclass[])"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnServer]:
    server = OwnServer(tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
async def db(own: OwnServer) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(own.url)
    yield connection
    connection.terminate()


async def start_at(own: OwnServer, day: int, nodes: int) -> None:
    clock = ManualClock(START + day * DAY_MS)
    starting = (open_store(own.url, plan=Real(), clock=clock, ask_time=False) for _ in range(nodes))
    for store in await asyncio.gather(*starting):
        await store.close()


async def test_no_node_tries_to_make_the_partitions_that_are_there(own: OwnServer, db: Any) -> None:
    await start_at(own, 0, nodes=1)
    assert (await db.fetchval(PARTITIONS), own.errors) == (9, [])
    await start_at(own, 0, nodes=5)
    assert (await db.fetchval(PARTITIONS), own.errors) == (9, [])
    with pytest.raises(asyncpg.DuplicateTableError):
        await db.execute(f"CREATE TABLE attempts_{FIRST}_{FIRST + DAY_MS} (x int)")
    assert len(own.errors) == 1 and "already exists" in own.errors[0]


async def test_of_nodes_that_lack_the_same_partitions_one_makes_each(own: OwnServer, db: Any) -> None:
    await start_at(own, 0, nodes=1)
    for day in range(10, 60, 10):
        await start_at(own, day, nodes=5)
    assert (await db.fetchval(PARTITIONS), own.errors) == (6 * 9, [])
