"""Behind a pooler of transactions: nothing of ours outlives a transaction on the connection that it was on."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.states import JobStatus
from tests.stores import server
from tests.stores.pooling import Pooler
from tests.stores.test_postgres import node
from tests.stores.world import POOLED

pytestmark = pytest.mark.anyio

# The driver turns `jit` off and on again around its reading of a type; on which connection, nothing of ours asks.
LEFT = {
    "prepared statements": "SELECT count(*) FROM pg_prepared_statements",
    "settings": "SELECT count(*) FROM pg_settings WHERE source = 'session' AND name <> 'jit'",
    "listening": "SELECT count(*) FROM pg_listening_channels()",
    "locks": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "temporary tables": "SELECT count(*) FROM pg_class WHERE relpersistence = 't'",
    "cursors": "SELECT count(*) FROM pg_cursors WHERE is_holdable",
}


@contextlib.asynccontextmanager
async def client(url: str, **options: Any) -> AsyncIterator[Any]:
    db = await asyncpg.connect(url, **options)
    try:
        yield db
    finally:
        db.terminate()


@pytest.fixture
async def pooler(tmp_path: Path) -> AsyncIterator[Pooler]:
    """One before a database of this test's own; its URL is that database's."""
    direct = await server.database(tmp_path)
    made = Pooler(direct)
    made.start()
    made.url = made.url.removesuffix("postgres") + direct.partition("?")[0].rpartition("/")[2]
    yield made
    made.stop()


async def left(pooler: Pooler) -> dict[str, int]:
    """What there is of each kind on all server connections together."""
    seen, found = set[int](), dict.fromkeys(LEFT, 0)
    async with client(pooler.url, statement_cache_size=0) as db:
        for _ in range(30):
            async with db.transaction():
                if (pid := await db.fetchval("SELECT pg_backend_pid()")) not in seen:
                    seen.add(pid)
                    for name, sql in LEFT.items():
                        found[name] += await db.fetchval(sql)
    assert len(seen) >= 2
    return found


async def test_it_takes_away_whatever_is_left_in_a_session(pooler: Pooler) -> None:
    async with client(pooler.url, statement_cache_size=0) as db:
        pids = [await db.fetchval("SELECT pg_backend_pid()") for _ in range(6)]
        assert all(one != next_ for one, next_ in itertools.pairwise(pids)) and len(set(pids)) >= 3
        assert pooler.handovers >= 5
        await db.execute("SET application_name = 'mine'")
        assert await db.fetchval("SHOW application_name") != "mine"
        await db.execute("CREATE TEMP TABLE mine (x int)")
        with pytest.raises(asyncpg.UndefinedTableError):
            await db.execute("SELECT * FROM mine")
        await db.execute("SELECT pg_advisory_lock(7)")
        assert not await db.fetchval("SELECT pg_try_advisory_lock(7)")
    async with client(pooler.url) as caching:
        with pytest.raises(asyncpg.InvalidSQLStatementNameError):
            for _ in range(3):
                await caching.fetchval("SELECT 1 + 1")
    found = await left(pooler)
    assert found["settings"] and found["temporary tables"] and found["locks"] and found["prepared statements"], found


async def test_a_transaction_stays_on_one_connection(pooler: Pooler) -> None:
    async with client(pooler.url, statement_cache_size=0) as db, db.transaction():
        assert len({await db.fetchval("SELECT pg_backend_pid()") for _ in range(5)}) == 1


async def test_nodes_leave_nothing_behind_in_a_session(pooler: Pooler) -> None:
    url = f"{pooler.url}{POOLED}&notify=off"
    async with node(url) as one, node(url) as two:
        await one.endpoint()
        done = await asyncio.gather(*(world.succeeded() for world in (one, two) for _ in range(10)))
        assert {job.status for job in done} == {JobStatus.SUCCEEDED}
        assert len(await one.claim(limit=15)) + len(await two.claim(limit=45)) == 40  # also of `job.processing`
        await one.store.prune(attempts_before=0, callbacks_before=0, held_before=0, jobs_before=0, limit=10)
        assert pooler.handovers > 20
        assert await left(pooler) == dict.fromkeys(LEFT, 0)


async def test_a_listener_behind_it_hears_nothing_and_breaks_nothing(pooler: Pooler) -> None:
    """LISTEN stays on a connection that others get, and news of it go to them: hence `notify=off`, or a direct URL."""
    async with node(pooler.url + POOLED) as one, node(pooler.url + POOLED) as two:
        heard = asyncio.Event()
        two.store.listen(heard.set)
        async with asyncio.timeout(30):
            while not (await left(pooler))["listening"]:  # noqa: ASYNC110 - opened in the background
                await asyncio.sleep(0.05)
        await one.endpoint()
        for _ in range(20):
            await one.succeeded()
            await asyncio.sleep(0.06)  # a NOTIFY for each
        assert len(await two.claim()) == 40
        assert len(await one.types()) == 40
