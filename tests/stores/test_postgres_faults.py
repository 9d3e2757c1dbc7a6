"""PostgreSQL that goes wrong without a word: nodes stopped in a transaction, locks that stay, lines gone silent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from service.clock import SystemClock
from service.errors import StoreUnavailable
from service.loops import until_kept
from service.states import JobStatus
from service.stores.postgres_lost import Busy
from service.stores.postgres_partitions import DAY_MS
from service.stores.postgres_pool import NEWS_EVERY_S, Pool, Times
from tests.stores import server
from tests.stores.line import Line, Way, socket_of
from tests.stores.test_postgres import aside, node, until
from tests.stores.world import SUCCEEDED, Slots, World

pytestmark = pytest.mark.anyio
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
async def url(tmp_path: Path) -> str:
    return await server.database(tmp_path)


@contextlib.asynccontextmanager
async def pooled(url: str, **times: float) -> AsyncIterator[Pool]:
    """The connections of a node that is not there, with other times."""
    pool = Pool(url, clock=SystemClock(), times=Times(**times))
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


# -- locks


@contextlib.asynccontextmanager
async def locked(url: str, nums: list[int]) -> AsyncIterator[None]:
    """Somebody holds these jobs' rows for as long as this lasts."""
    async with aside(url) as db:
        transaction = db.transaction()
        await transaction.start()
        await db.fetch("SELECT 1 FROM jobs WHERE num = ANY($1::bigint[]) FOR UPDATE", nums)
        yield
        await transaction.rollback()


@pytest.mark.parametrize("held", [1, 20])
async def test_rows_that_stay_locked_fail_alone_and_soon(url: str, held: int) -> None:
    async with node(url) as world:
        stuck = [await world.processing(f"stuck {n}") for n in range(held)]
        free = [await world.processing(f"free {n}") for n in range(10)]
        async with locked(url, [job.num for job in stuck]):
            telling = [asyncio.create_task(world.tell(job, SUCCEEDED)) for job in (*stuck, *free)]
            await until(url, WAITING)
            async with asyncio.timeout(20):  # a lock that is waited for, and then a little for each
                said = await asyncio.gather(*telling, return_exceptions=True)
            assert [type(one) for one in said[:held]] == [Busy] * held  # which is a StoreUnavailable
            assert {(await world.now(job)).status for job in free} == {JobStatus.SUCCEEDED}
            await until(url, f"SELECT ({WAITING}) = 0")
        assert {(await world.tell(job, SUCCEEDED)).verdict for job in stuck} == {"applied"}


async def test_a_node_that_stops_in_a_transaction_holds_up_nobody_for_long(url: str) -> None:
    """It is put out of it, and runs it again when it goes on."""
    goes_on, runs = asyncio.Event(), 0
    async with node(url) as stopped, node(url) as world:
        job = await world.processing("A")

        async def work() -> None:
            nonlocal runs
            runs += 1
            await stopped.store._load_jobs([job.num])
            await goes_on.wait()

        stopping = asyncio.create_task(stopped.store._pool.durable(work))
        await until(url, "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND query ~ 'jobs'")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            await world.tell(job, SUCCEEDED)
        async with asyncio.timeout(30):
            assert (await kept(world, job)).verdict == "applied"
        assert runs == 1 and not stopping.done()
        goes_on.set()
        await stopping
        assert runs == 2


async def kept(world: World, job: Any) -> Any:
    while True:
        with contextlib.suppress(StoreUnavailable):
            return await world.tell(job, SUCCEEDED)


async def test_nothing_of_a_transactions_limits_is_left_on_its_connection(url: str) -> None:
    async def shown() -> list[str]:
        names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
        return [(await pool.rows(f"SHOW {name}"))[0][0] for name in names]

    async with pooled(url) as pool:
        assert await pool.durable(shown) == ["2s", "25s", "10s"]
        assert await shown() == ["0", "0", "0"]  # the writer's own connection, between transactions


async def test_a_read_that_takes_too_long_is_canceled_at_the_server(url: str) -> None:
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
    async with pooled(url, statement=0.5) as pool:
        reading = asyncio.create_task(pool.fetch("SELECT pg_sleep(60)"))
        await until(url, asleep)
        with pytest.raises(StoreUnavailable):
            await reading
        async with asyncio.timeout(30):
            await until(url, f"SELECT ({asleep}) = 0")
        assert await pool.fetch("SELECT 1")


# -- servers that refuse for a while


async def alter(url: str, what: str) -> None:
    """Change the test's database, from another one, and end its sessions."""
    name = urlsplit(url).path[1:]
    async with aside(server.brought.url) as db:
        await db.execute(what.format(name))
        await db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)


@contextlib.asynccontextmanager
async def altered(url: str, what: str, back: str) -> AsyncIterator[None]:
    await alter(url, what)
    try:
        yield
    finally:
        await alter(url, back)


async def test_a_server_that_writes_nothing_any_more_is_left_for_one_that_does(url: str) -> None:
    """As a primary that became a standby: a new connection may be the new primary's, the old one never is."""
    read_only = "ALTER DATABASE {} SET default_transaction_read_only = "
    async with node(url) as world:
        job = await world.processing("A")
        await alter(url, read_only + "on")
        with pytest.raises(StoreUnavailable, match="read-only"):
            await world.tell(job, SUCCEEDED)
        async with aside(server.brought.url) as db:  # who is connected stays so, and reads only
            await db.execute((read_only + "off").format(urlsplit(url).path[1:]))
        assert (await world.tell(job, SUCCEEDED)).verdict == "applied"


CLOSED = {
    "database": ("ALTER DATABASE {0} ALLOW_CONNECTIONS false", "ALTER DATABASE {0} ALLOW_CONNECTIONS true"),
    "role": ("ALTER ROLE of_{0} NOLOGIN", "ALTER ROLE of_{0} LOGIN"),
    "away": ("ALTER DATABASE {0} RENAME TO away_{0}", "ALTER DATABASE away_{0} RENAME TO {0}"),
}


@pytest.mark.parametrize("how", CLOSED)
async def test_an_outcome_waits_while_nobody_may_log_in(url: str, how: str) -> None:
    """It is nowhere else: a reply that was paid for is kept when they may again."""
    name, (close, reopen) = urlsplit(url).path[1:], CLOSED[how]
    role = f"of_{name}"
    socket_of(url)  # or skipped: a server elsewhere wants a password
    async with aside(server.brought.url) as db:
        await db.execute(f"DROP ROLE IF EXISTS {role}")
        await db.execute(f"CREATE ROLE {role} LOGIN SUPERUSER")
        async with node(url.replace(urlsplit(url).netloc, f"{role}@")) as world:
            job = await world.processing("A")
            await db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            await until(server.brought.url, "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = $1", name)
            await db.execute(close.format(name))
            refused: list[StoreUnavailable] = []

            async def tell() -> Any:
                try:
                    return await world.tell(job, SUCCEEDED)
                except StoreUnavailable as error:
                    refused.append(error)
                    raise

            try:
                keeping = asyncio.create_task(until_kept(tell))
                await asyncio.sleep(0.5)
                async with asyncio.timeout(20):
                    while not refused and not keeping.done():  # noqa: ASYNC110 - it is tried in its own time
                        await asyncio.sleep(0.02)
            finally:
                await db.execute(reopen.format(name))
            assert refused
            assert (await keeping).verdict == "applied"
    async with aside(url) as db:
        await db.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER")
        await db.execute(f"DROP ROLE {role}")


async def test_a_statement_that_somebody_canceled_is_for_later(url: str) -> None:
    async with node(url) as world:
        job = await world.processing("A")
        async with locked(url, [job.num]):
            keeping = asyncio.create_task(until_kept(lambda: world.tell(job, SUCCEEDED)))
            await until(url, f"SELECT pg_cancel_backend(pid) FROM ({WAITING.replace('count(*)', 'pid')}) q")
            await asyncio.sleep(0.05)
        assert (await keeping).verdict == "applied"


# -- lines that fall silent


class Silent(Line):
    """What was connected before `hush` hears nothing any more, and is not told that."""

    def __init__(self, url: str):
        super().__init__(url)
        self._hushed = asyncio.Event()
        self.made = self.swallowed = 0

    def hush(self) -> None:
        """As when an address has moved: new connections work."""
        self._hushed.set()
        self._hushed = asyncio.Event()

    async def _carry(self, out: Way, back: Way) -> None:
        self.made += 1
        await asyncio.gather(self._pass(*out, self._hushed), self._pass(*back, self._hushed))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hushed: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if hushed.is_set():
                    self.swallowed += len(data)
                else:
                    writer.write(data)
                    await writer.drain()
            if not hushed.is_set():
                writer.transport.abort()


async def test_a_write_on_a_line_that_fell_silent_soon_takes_another(url: str) -> None:
    line = Silent(url)
    async with line.running() as way, node(f"{way}?notify=off") as world:
        await world.queued()
        line.hush()
        async with asyncio.timeout(20):
            await world.queued()
        assert line.swallowed
        assert len(await world.claim_jobs()) == 2


async def test_a_beat_on_a_line_that_fell_silent_soon_takes_another(url: str) -> None:
    line = Silent(url)
    async with line.running() as way, node(f"{way}?notify=off", times=Times(begin=0.5)) as world:
        assert await world.store.beat(1, [], 10_000, 3_000) is not None
        line.hush()
        async with asyncio.timeout(20):
            assert await world.store.beat(1, [], 10_000, 3_000) is not None
        assert line.swallowed


async def test_a_beat_whose_line_falls_silent_in_its_middle_soon_takes_another(url: str) -> None:
    """It waits for no answer to its ROLLBACK either."""
    line = Silent(url)
    async with line.running() as way, node(f"{way}?notify=off", times=Times(begin=0.5)) as world, aside(url) as db:
        assert await world.store.beat(1, [], 10_000, 3_000) is not None
        transaction = db.transaction()
        await transaction.start()
        await db.execute("LOCK TABLE seats")
        beating = asyncio.create_task(world.store.beat(1, [], 10_000, 3_000))
        await until(url, WAITING)
        line.hush()
        await transaction.rollback()
        async with asyncio.timeout(5):
            assert await beating is not None
        assert line.swallowed


async def test_a_caller_who_goes_in_the_middle_of_a_transaction_beside_leaves_a_line_that_works(url: str) -> None:
    async with pooled(url) as pool:
        for _ in range(2 * pool.options.pool):
            inside = asyncio.Event()

            async def work(inside: asyncio.Event = inside) -> None:
                async with pool.beside() as db:
                    await db.execute("CREATE TABLE undone (x BIGINT)")
                    inside.set()
                    await db.fetch("SELECT pg_sleep(60)")

            gone = asyncio.create_task(work())
            await inside.wait()
            gone.cancel()
            async with asyncio.timeout(2):
                await asyncio.gather(gone, return_exceptions=True)
            assert gone.cancelled()
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with pool.beside() as db:
                await db.execute("CREATE TABLE undone (x BIGINT)")
                await db.execute("SELECT 1 / 0")
        async with asyncio.timeout(5):
            assert await pool.fetch("SELECT to_regclass('undone') IS NULL AS gone") == [(True,)]


async def test_news_is_heard_again_after_its_line_fell_silent(url: str) -> None:
    line, heard = Silent(url), asyncio.Event()
    async with line.running() as way, pooled(way, hear=0.5, begin=0.5) as pool, aside(url) as db:
        pool.listen(heard.set)
        await until_heard(db, heard)
        line.hush()
        made, began = line.made, line.swallowed
        async with asyncio.timeout(40):
            await until_heard(db, heard)
        assert line.made > made and line.swallowed > began


async def test_what_is_committed_right_after_news_was_told_is_told_too(url: str) -> None:
    """Not only found by the next look: it is told once the pause between news is over."""
    async with node(url) as world, pooled(url) as other:
        heard = asyncio.Event()
        other.listen(heard.set)
        async with aside(url) as db:
            await until_heard(db, heard)
        for _ in range(5):
            await asyncio.sleep(4 * NEWS_EVERY_S)
            heard.clear()
            await world.queued()
            async with asyncio.timeout(5):
                await heard.wait()
            heard.clear()
            await world.queued()
            async with asyncio.timeout(5):
                await heard.wait()


async def until_heard(db: Any, heard: asyncio.Event) -> None:
    heard.clear()
    while not heard.is_set():
        await db.execute("SELECT pg_notify('callsheet', '')")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(heard.wait(), 0.2)


# -- retention


BEFORES = ("attempts_before", "callbacks_before", "held_before", "jobs_before")
CHILDREN = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'attempts'::regclass"


async def prune(world: World) -> int:
    return await world.store.prune(**dict.fromkeys(BEFORES, world.store.now()), limit=100)


async def test_partitions_that_somebody_reads_are_dropped_another_time(url: str) -> None:
    """Who writes to the table waits behind the one who drops: not for each of many, not for long."""
    async with node(url) as world, aside(url) as reader:
        old = world.store.now() - 40 * DAY_MS
        for day in range(5):
            await world.store._partitions.ensure("attempts", [old + day * DAY_MS])
        before = await reader.fetchval(CHILDREN)
        transaction = reader.transaction()
        await transaction.start()
        await reader.fetch("SELECT count(*) FROM attempts")
        async with asyncio.timeout(1.5):
            await prune(world)
        assert await reader.fetchval(CHILDREN) == before
        await transaction.rollback()
        await prune(world)
        assert await reader.fetchval(CHILDREN) == before - 5


async def test_marks_of_commits_that_piled_up_go_in_batches(url: str) -> None:
    async with node(url) as world, aside(url) as db:
        await db.execute(
            "CREATE TABLE batches (gone BIGINT);"
            "CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN INSERT INTO batches SELECT count(*) FROM old; RETURN NULL; END';"
            "CREATE TRIGGER counts AFTER DELETE ON commits REFERENCING OLD TABLE AS old"
            " FOR EACH STATEMENT EXECUTE FUNCTION counted();"
            "INSERT INTO commits (token, at) SELECT -n, 1000 FROM generate_series(1, 25000) n"
        )
        await prune(world)
        assert await db.fetchval("SELECT count(*) FROM commits WHERE at = 1000") == 0
        assert [row[0] for row in await db.fetch("SELECT gone FROM batches")] == [10_000, 10_000, 5_000]


# -- callers that are gone


async def test_what_was_leased_to_a_caller_who_is_gone_is_given_back(url: str) -> None:
    """Canceled while it waits in a group commit, as at a stop: the group goes on, and nobody hears what it took."""
    async with node(url, slots=(slots := Slots())) as world:
        endpoint = await world.endpoint(event_types=("job.succeeded",))
        job, _ = await world.processing("A"), await world.queued()
        slots.free[endpoint.num] = 1
        async with locked(url, [job.num]):
            asking = [asyncio.create_task(one) for one in (world.tell(job, SUCCEEDED), world.claim_jobs())]
            await until(url, WAITING)
            for one in asking:
                one.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            assert all(one.cancelled() for one in asking)
        leased = "SELECT 1 FROM jobs WHERE lease IS NOT NULL UNION ALL SELECT 2 FROM deliveries WHERE lease IS NOT NULL"
        await until(url, f"SELECT sum(x) = 3 FROM ({leased}) leased (x)")
        assert await world.store.release_leases() == 2
        assert (len(await world.claim_jobs()), len(await world.claim())) == (1, 1)


# -- slow reads


SLOW = "SELECT pg_sleep(4)"
SLEEPING = f"SELECT count(*) FROM pg_stat_activity WHERE query = '{SLOW}' AND state = 'active'"


@pytest.mark.parametrize("pool", [2, 3, 5])
async def test_slow_reads_hold_up_no_beat_no_claim_no_write_and_each_other_not_for_ever(url: str, pool: int) -> None:
    """Where two connections are asked for there are three: the writer's, one for a slow read, one for the rest."""
    async with node(f"{url}&pool={pool}", times=Times(wait=0.5)) as world:
        await world.queued()
        reads = [asyncio.create_task(world.store.rows(SLOW)) for _ in range(20)]
        slow = max(1, pool - 2)
        await until(url, f"SELECT ({SLEEPING}) >= {slow}")
        async with asyncio.timeout(3):
            assert await world.store.beat(1, [], 10_000, 3_000) is not None
            assert await world.store.paused_credentials() == {}
            assert await world.store.running(world.credential) == 0
            assert len(await world.claim_jobs()) == 1
        said = await asyncio.gather(*reads, return_exceptions=True)
        assert [isinstance(one, StoreUnavailable) for one in said].count(False) == slow


async def test_two_connections_are_enough(url: str) -> None:
    async with node(f"{url}&pool=2") as world:
        told = await asyncio.gather(*(world.queued() for _ in range(10)), *(world.types() for _ in range(10)))
        assert len(told) == 20
        assert len(await world.claim_jobs(limit=20)) == 10
        assert await world.store.beat(1, [], 10_000, 3_000) is not None
