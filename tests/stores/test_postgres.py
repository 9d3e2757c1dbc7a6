"""What only PostgreSQL has: several nodes on one database, its clock, lost connections, late committers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from service.clock import SystemClock
from service.errors import SchemaTooNew, StoreUnavailable
from service.facts import Arrival, CancelAsked
from service.models import Cost, Detail
from service.restoring import settle_copy
from service.spending import Budget
from service.states import DeliveryStatus, JobStatus, Source, Work
from service.stores import COPIED_AT, UnknownDatabase
from service.stores.migrations import Migration, migrations
from service.stores.postgres import PostgresStore, open_store
from service.stores.postgres_pool import Times
from service.stores.postgres_schema import migrate
from service.stores.postgres_url import Options, read_url
from service.web.api.events import stream
from tests.stores import server
from tests.stores.line import Line, Passes
from tests.stores.world import (
    START,
    SUCCEEDED,
    ManualClock,
    Real,
    Slots,
    World,
    a_job,
    add_credential,
    new,
    outcome,
    page,
    said,
)

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def node(
    url: str, clock: Any = None, *, ask_time: bool = False, slots: Slots | None = None, times: Times | None = None
) -> AsyncIterator[World]:
    clock = clock or ManualClock()
    store = await open_store(url, plan=Real(slots), clock=clock, ask_time=ask_time, times=times)
    try:
        tenant = await store.create_tenant("default", b"sealed")
        yield World(store, clock, tenant.num, await add_credential(store, tenant.num))
    finally:
        await store.close()


@pytest.fixture(params=["brought", "machine"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    servers = {"brought": server.brought, "machine": server.machine}
    return await servers[request.param].database(tmp_path)


@contextlib.asynccontextmanager
async def aside(url: str) -> AsyncIterator[Any]:
    """Somebody else's connection to the same database."""
    db = await asyncpg.connect(url)
    try:
        yield db
    finally:
        db.terminate()


async def until(url: str, sql: str, *values: Any) -> None:
    """Return once the query, asked by somebody else, says yes."""
    async with asyncio.timeout(40), aside(url) as db:
        while not await db.fetchval(sql, *values):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


def test_our_options_are_taken_out_of_the_url() -> None:
    kept, options = read_url("postgresql://u:p%40@h:5433/d?sslmode=require&notify=off&pool=9&statement_cache=0")
    assert kept == "postgresql://u:p%40@h:5433/d?sslmode=require"
    assert options == Options(notify=False, pool=9, statement_cache=0)
    assert read_url("postgresql:///d?host=%2Ftmp")[1] == Options()


@pytest.mark.parametrize(
    ("query", "kept", "options"),
    [
        ("connect_timeout=10&application_name=shop", "application_name=shop", {"connect_timeout": 10.0}),
        ("connect_timeout=0", "", {"connect_timeout": 60.0}),
        ("keepalives=1&keepalives_idle=30&tcp_user_timeout=5000", "", {}),
        ("options=-c%20search_path%3Dcs", "search_path=cs", {}),
        ("options=-csearch_path%3Dcs%20--statement-timeout%3D5s", "search_path=cs&statement_timeout=5s", {}),
        ("client_encoding=UTF8&gssencmode=disable&channel_binding=prefer", "", {}),
        ("fallback_application_name=a", "application_name=a", {}),
        ("password=a+b%2Bc&sslmode=require&pool=7", "password=a%2Bb%2Bc&sslmode=require", {"pool": 7}),
        ("sslmode=disable&sslmode=require", "sslmode=require", {}),
    ],
)
async def test_what_libpq_takes_in_a_url_is_taken(query: str, kept: str, options: dict[str, Any]) -> None:
    url, read = read_url(f"postgresql://u@h/d?{query}")
    assert url == "postgresql://u@h/d" + (f"?{kept}" if kept else "")
    assert read == Options(**options)


@pytest.mark.parametrize(
    ("query", "remedy"),
    [
        ("channel_binding=require", "sslmode=verify-full"),
        ("client_encoding=LATIN1", "UTF-8"),
        ("gssencmode=require", "sslmode"),
        ("load_balance_hosts=random", "order"),
        ("hostaddr=10.0.0.1", "as the host"),
        ("pgbouncer=true", "CALLSHEET_DATABASE_STATEMENT_CACHE=0"),
        ("schema=public", "search_path"),
        ("ssl=true", "sslmode=require"),
        ("connect_timeout=soon", "seconds"),
        ("options=search_path", "-csearch_path=NAME"),
        ("options='", "quote"),
        ("pool=many", "whole number"),
        ("notify=yes", "on or off"),
    ],
)
async def test_what_is_not_taken_is_named_with_its_remedy(query: str, remedy: str) -> None:
    with pytest.raises(UnknownDatabase) as refused:
        read_url(f"postgresql://u:secret@h/d?{query}")
    assert f"`{query.partition('=')[0]}`" in str(refused.value)
    assert remedy in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_JP"])
async def test_a_database_in_another_encoding_is_refused_at_the_start(encoding: str, tmp_path: Path) -> None:
    usual = await server.database(tmp_path)
    parts = urlsplit(usual)
    name = f"{parts.path[1:]}_{encoding.lower()}"
    async with aside(usual) as db:
        await db.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        try:
            with pytest.raises(UnknownDatabase, match=f"is in {encoding}.*ENCODING 'UTF8'"):
                await open_store(parts._replace(path=f"/{name}").geturl(), plan=Real(), clock=SystemClock())
        finally:
            await db.execute(f"DROP DATABASE {name} WITH (FORCE)")


# -- several nodes


async def test_nodes_that_open_a_new_database_at_once_make_it_once(url: str) -> None:
    stores = await asyncio.gather(*(open_store(url, plan=Real(), clock=SystemClock()) for _ in range(5)))
    assert len({store.nonce for store in stores}) == 1
    await asyncio.gather(*(store.close() for store in stores))
    async with aside(url) as db:
        assert await db.fetchval("SELECT count(*) = max(version) FROM migrations")


async def test_a_newer_schema_is_refused(url: str) -> None:
    async with node(url), aside(url) as db:
        await db.execute("INSERT INTO migrations VALUES (9999, 'newer', 0)")
    with pytest.raises(SchemaTooNew, match="9999"):
        await open_store(url, plan=Real(), clock=SystemClock())


async def test_a_migration_that_waits_for_its_lock_lets_the_others_go_on(url: str) -> None:
    """Somebody reads the table in a long transaction: a lock that is waited for would stop all who come later."""
    newer = [*migrations("postgres"), Migration(9999, "newer", "ALTER TABLE jobs ADD COLUMN newer BIGINT")]
    async with node(url) as world, node(url) as other, aside(url) as reader:
        transaction = reader.transaction()
        await transaction.start()
        await reader.fetch("SELECT count(*) FROM jobs")
        migrating = asyncio.create_task(migrate(other.store._pool, create=False, known=newer))
        await until(url, "SELECT count(*) FROM pg_locks WHERE relation = 'jobs'::regclass AND NOT granted")
        for _ in range(5):
            await asyncio.wait_for(world.queued(), 15)
        assert not migrating.done()
        await transaction.rollback()
        await migrating
        assert len(await world.claim_jobs()) == 5  # statements that were prepared before
        async with aside(url) as db:
            assert await db.fetchval("SELECT max(version) FROM migrations") == 9999


async def test_a_migration_that_never_gets_its_lock_is_refused(url: str) -> None:
    newer = [*migrations("postgres"), Migration(9999, "newer", "ALTER TABLE jobs ADD COLUMN newer BIGINT")]
    async with node(url) as world, aside(url) as reader:
        transaction = reader.transaction()
        await transaction.start()
        await reader.fetch("SELECT count(*) FROM jobs")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            await migrate(world.store._pool, create=False, known=newer, patience_s=0)


async def test_nodes_share_jobs_and_deliveries_and_none_is_anothers(url: str) -> None:
    async with node(url) as one, node(url) as two:
        await one.endpoint()
        jobs = [await one.queued() for _ in range(60)]
        claims = await asyncio.gather(*(w.claim_jobs(limit=10) for _ in range(6) for w in (one, two)))
        claimed = [job.num for part in claims for job in part]
        assert sorted(claimed) == sorted(job.num for job in jobs)
        moved = await asyncio.gather(*(w.tell(job, CancelAsked(supported=True)) for w in (one, two) for job in jobs))
        assert [applied.verdict for applied in moved].count("applied") == 60
        due = await asyncio.gather(*(w.claim(limit=10) for _ in range(6) for w in (one, two)))
        assert sorted(d.num for part in due for d in part) == sorted({d.num for part in due for d in part})
        assert sum(map(len, due)) == 60
        assert len(await one.types()) == 60


async def test_one_key_sent_to_two_nodes_is_one_job(url: str) -> None:
    async with node(url) as one, node(url) as two:
        for n in range(20):
            makes = (w.create(new(a_job(w.tenant, w.credential), key=str(n))) for w in (one, two, one, two))
            made = await asyncio.gather(*makes)
            assert sorted(m.verdict for m in made) == ["created", "replayed", "replayed", "replayed"]
            assert len({m.job.num for m in made}) == 1


async def test_what_a_node_holds_when_it_stops_is_anothers_at_once(url: str) -> None:
    async with node(url) as one, node(url) as two:
        await one.endpoint()
        await one.processing()
        await one.queued()
        assert (len(await one.claim_jobs()), len(await one.claim())) == (1, 1)
        assert await two.claim_jobs() == [] and await two.claim() == []
        assert await two.store.release_leases() == 0
        assert await one.store.release_leases() == 2
        assert (len(await two.claim_jobs()), len(await two.claim())) == (1, 1)


async def test_another_node_hears_of_new_work(url: str) -> None:
    async with node(url) as one, node(url) as two:
        heard = asyncio.Event()
        two.store.listen(heard.set)
        while not heard.is_set():  # the ear is opened in the background
            await one.queued()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(heard.wait(), 0.2)


async def test_an_endpoint_made_while_an_event_is_written_waits_for_it(url: str) -> None:
    async with node(url) as world, aside(url) as db:
        async with db.transaction():
            await db.execute("SELECT pg_advisory_xact_lock_shared($1, $2)", 0x63616C6C, world.tenant)
            making = asyncio.create_task(world.endpoint())
            await asyncio.sleep(0.2)
            assert not making.done()
        await making


# -- commit order


async def begun_late(world: World, late: Any) -> tuple[Any, int]:
    """A transaction, still open, that has written an event; and the event's number. What was there before is listed."""
    await world.settle()
    transaction = late.transaction()
    await transaction.start()
    number = await late.fetchval("SELECT pg_current_xact_id()::text::bigint") << 20
    sql = "INSERT INTO events (num, tenant, type, created_at) VALUES ($1, $2, 'late', 0)"
    await late.execute(sql, number, world.tenant)
    return transaction, number


async def test_a_stream_never_skips_a_late_committer(url: str) -> None:
    async with node(url) as world, aside(url) as late:
        transaction, number = await begun_late(world, late)
        early, _ = await world.store.publish(world.tenant, said("early"), None)
        assert number < early.num
        assert await world.store.event(world.tenant, early.num) is not None
        assert await world.store.events_after(world.tenant, 0, 10) == []  # a cursor here would skip the late one
        await transaction.commit()
        await world.settle()
        streamed = await world.store.events_after(world.tenant, 0, 10)
        assert [e.type for e in streamed] == ["late", "early"]


async def test_a_stream_that_begins_now_begins_below_who_is_still_writing(url: str) -> None:
    async with node(url) as world, aside(url) as late:
        transaction, number = await begun_late(world, late)
        early, _ = await world.store.publish(world.tenant, said("early"), None)
        assert number < early.num
        waiting = SimpleNamespace(released=False)
        context = SimpleNamespace(store=world.store, clock=SystemClock(), waiting=waiting)
        call: Any = SimpleNamespace(headers={}, tenant=world.tenant, context=context, query={"seconds": 10})
        frames = (await stream(call)).body
        await transaction.commit()
        shown = [frame async for frame in aiter_of(frames, 3)]
        assert [b"event: late\n" in shown[1], b"event: early\n" in shown[2]] == [True, True]


async def aiter_of(frames: Any, count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield await anext(frames)
    await frames.aclose()


async def test_recovering_waits_for_nobody(url: str) -> None:
    """Somebody writes for long, of anything on the same server; an event below the walk goes out by itself."""
    async with node(url) as world, node(url) as other:
        endpoint = await world.endpoint()
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> Any:
            event = (await other.store._publish([(world.tenant, said("late"), None)]))[0][0]
            begun.set()
            await go_on.wait()
            return event

        publishing = asyncio.create_task(other.store._pool.durable(slow))
        await begun.wait()
        failed, _ = await world.store.publish(world.tenant, said("failed"), None)
        results = [outcome(due, status=DeliveryStatus.FAILED) for due in await world.claim()]
        await world.store.record_attempts(results)
        count, seen = await world.store.recover(endpoint, since=0, after=0, limit=10)
        assert (count, seen) == (1, failed.num)
        go_on.set()
        event = await publishing
        assert event.num < failed.num
        assert sorted(due.event_id for due in await world.claim()) == sorted((event.id, failed.id))


async def test_a_node_that_settles_a_copy_late_distrusts_nothing_that_was_accepted_since(url: str) -> None:
    async with node(url) as world, node(url) as other:
        old = await world.queued()
        await world.store.set_meta(COPIED_AT, str(world.clock.at))
        waits, go_on = asyncio.Event(), asyncio.Event()

        class Slow:
            def __getattr__(self, name: str) -> Any:
                return getattr(other.store, name)

            async def tenants(self) -> Any:
                waits.set()
                await go_on.wait()
                return await other.store.tenants()

        slow: Any = Slow()
        settling = asyncio.create_task(settle_copy(slow, slow, START))
        await waits.wait()
        first: Any = world.store
        assert await settle_copy(first, first, START) == 1
        fresh = await world.queued()
        go_on.set()
        assert await settling == 0
        assert [(await world.now(job)).status for job in (old, fresh)] == [JobStatus.UNKNOWN, JobStatus.QUEUED]


async def test_one_key_sent_to_two_nodes_is_replayed_though_nothing_is_left(url: str) -> None:
    async with node(url) as world, node(url) as other:
        budget = Budget(tenant=world.tenant, provider="pixverse", unit="credits", amount="10", period="total")
        await world.store.put_budget(budget)
        priced = Detail(cost=Cost(amount="10", unit="credits", source="quoted"))
        item, again = (new(a_job(world.tenant, world.credential, detail=priced), key="same") for _ in range(2))
        made, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> Any:
            created = await other.store._create_jobs([item])
            made.set()
            await go_on.wait()
            return created

        first = asyncio.create_task(other.store._pool.durable(slow))
        await made.wait()
        second = asyncio.create_task(world.create(again))
        await until(url, "SELECT count(*) FROM pg_locks WHERE NOT granted")
        go_on.set()
        assert [(await first)[0].verdict, (await second).verdict] == ["created", "replayed"]


async def test_pages_of_events_never_skip_a_late_committer(url: str) -> None:
    async with node(url) as world, aside(url) as late:
        for n in range(3):
            await world.store.publish(world.tenant, said(f"before {n}"), None)
        transaction, _ = await begun_late(world, late)
        job = await world.succeeded()
        for n in range(3):
            await world.store.publish(world.tenant, said(f"after {n}"), None)
        listed = [e.type for e in await world.store.events(world.tenant, page(2), {})]
        assert listed == ["before 2", "before 1"]  # a page of the newest would have its cursor above the late one
        assert await world.store.events(world.tenant, page(), {"job": job.id}) == []
        await transaction.commit()
        await world.settle()
        shown, before = [], None
        while events := await world.store.events(world.tenant, page(2, before), {}):
            shown += [event.type for event in events if not event.type.startswith("job.")]
            before = events[-1].num
        assert shown == ["after 2", "after 1", "after 0", "late", "before 2", "before 1", "before 0"]


async def test_pages_of_events_are_whole_while_somebody_commits_late_in_between(url: str) -> None:
    async with node(url) as world, aside(url) as late:
        walks = []
        for turn in range(6):
            transaction, _ = await begun_late(world, late)
            await world.store.publish(world.tenant, said(f"{turn}"), None)
            first = await world.store.events(world.tenant, page(2), {})  # of this turn's, it would be above and below
            await transaction.commit()
            rest = await world.store.events(world.tenant, page(before=first[-1].num), {}) if first else []
            walks.append([event.num for event in (*first, *rest)])
        everything = [event.num for event in await world.events(page(), {})]
        assert len(everything) == 12 and [len(nums) for nums in walks] == [0, 2, 4, 6, 8, 10]
        for nums in walks[1:]:
            assert nums == [num for num in everything if num <= nums[0]]


async def test_a_list_of_jobs_shows_at_once_what_was_made(url: str) -> None:
    async with node(url) as world, aside(url) as late:
        transaction, _ = await begun_late(world, late)
        await world.endpoint()
        job = await world.succeeded()
        assert [found.id for found in await world.store.jobs(world.tenant, page(), {})] == [job.id]
        assert len(await world.statuses()) == 2
        await transaction.commit()


async def test_a_database_restored_on_another_server_numbers_on(url: str) -> None:
    async with node(url) as world, aside(url) as db:
        far = 1 << 60
        sql = "INSERT INTO events (num, tenant, type, created_at) VALUES ($1, $2, 'restored', 0)"
        await db.execute(sql, far, world.tenant)
    async with node(url) as world:
        event, _ = await world.store.publish(world.tenant, said("new"), None)
        assert event.num > far
        await world.settle()
        assert [e.type for e in await world.store.events_after(world.tenant, 0, 10)] == ["restored", "new"]


# -- the database's clock


async def test_leases_go_by_the_databases_clock(url: str) -> None:
    hours = ManualClock(START - 7_200_000)
    async with node(url, hours, ask_time=True) as wrong, node(url, SystemClock(), ask_time=True) as right:
        now = SystemClock().now()
        await wrong.queued(now=now)
        ((job, _),) = await wrong.store.claim_jobs(Work.SUBMIT, room=lambda c: 1, lease_ms=60_000, limit=1)
        assert job.due_at is not None and abs(job.due_at - now - 60_000) < 10_000
        assert await right.claim_jobs() == []


# -- what goes wrong


class Proxy(Line):
    """It can be cut: when COMMIT passes, or when its answer comes back."""

    cut, cuts = "", 0

    def passing(self) -> tuple[Passes, Passes]:
        committing = asyncio.Event()

        def outward(data: bytes) -> bool:
            if b"COMMIT\0" in data and self.cut:
                self.cuts += 1
                committing.set()
                if self.cut == "before":
                    self.cut = ""
                    return False
            return True

        def inward(data: bytes) -> bool:
            if committing.is_set() and self.cut == "after":
                self.cut = ""
                return False
            return True

        return outward, inward


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_connection_lost_around_a_commit_does_nothing_twice_and_loses_nothing(url: str, cut: str) -> None:
    proxy = Proxy(url)
    async with proxy.running() as way, node(f"{way}?notify=off") as world:
        await world.endpoint()
        for n in range(10):
            proxy.cut = cut
            job = await world.queued()
            proxy.cut = cut
            told = Arrival(job=job.num, fact=CancelAsked(supported=True), source=Source.CLIENT, dedupe_key=str(n))
            applied = (await world.store.apply([told]))[0]
            assert applied.verdict == "applied"
            assert (await world.now(job)).status is JobStatus.CANCELED
        assert proxy.cuts == 20
        proxy.cut = ""
        assert len(await world.store.jobs(world.tenant, page(), {})) == 10
        assert await world.types() == ["job.canceled"] * 10
        assert len(await world.statuses()) == 10


async def test_a_deadlock_is_run_again(url: str) -> None:
    """Who has waited for deadlock_timeout looks for one, once, and is its victim: the node, not the test."""
    async with aside(url) as db:
        name = await db.fetchval("SELECT current_database()")
        await db.execute(f"ALTER DATABASE {name} SET deadlock_timeout = 1800")
        await db.execute("SET deadlock_timeout = '60s'")
        await _deadlock(url, db)


async def _deadlock(url: str, db: Any) -> None:
    async with node(url) as world, aside(url) as looking:
        first, second = await world.processing(), await world.processing()
        transaction = db.transaction()
        await transaction.start()
        await db.execute("SELECT 1 FROM jobs WHERE num = $1 FOR UPDATE", second.num)
        both = [Arrival(job=job.num, fact=SUCCEEDED, source=Source.POLL) for job in (first, second)]
        applying = asyncio.create_task(world.store.apply(both))
        async with asyncio.timeout(20):
            while not await looking.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - theirs
                await asyncio.sleep(0.005)
        await db.execute("SELECT 1 FROM jobs WHERE num = $1 FOR UPDATE", first.num)  # now each waits for the other
        await transaction.rollback()
        assert [applied.verdict for applied in await applying] == ["applied", "applied"]
        # The server's own counts come late.
        await until(url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        assert (await world.types()).count("job.succeeded") == 2


async def test_a_server_that_ends_every_connection_is_met_again(url: str) -> None:
    async with node(url) as world, aside(url) as db:
        await world.queued()
        ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
        assert await db.fetchval(ended + " AND pid <> pg_backend_pid()") > 0
        await world.queued()
        assert len(await world.claim_jobs()) == 2


async def test_a_server_that_is_not_there_is_not_available() -> None:
    with pytest.raises(StoreUnavailable):
        await open_store("postgresql://postgres@127.0.0.1:9/nothing", plan=Real(), clock=SystemClock())


async def test_without_leave_to_make_them_missing_tables_are_said(url: str) -> None:
    with pytest.raises(StoreUnavailable, match="callsheet migrate"):
        await open_store(url, plan=Real(), clock=SystemClock(), create=False)


async def test_nothing_needs_prepared_statements(url: str) -> None:
    """As behind a PgBouncer that pools transactions."""
    async with node(url + ("&" if "?" in url else "?") + "statement_cache=0") as world, node(url) as other:
        job = await world.succeeded()
        prepared = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%pg_prepared%'"
        assert (await world.now(job)).status is JobStatus.SUCCEEDED
        assert [(await one.store.write(prepared))[0][0] for one in (other, world)] == [1, 0]


# -- partitions


async def test_old_partitions_are_dropped_and_bodies_stay_with_their_events(url: str) -> None:
    clock = ManualClock()
    store: PostgresStore = await open_store(url, plan=Real(), clock=clock, ask_time=False, partition_ms=1_000)
    tenant = await store.create_tenant("default", b"sealed")
    world = World(store, clock, tenant.num, await add_credential(store, tenant.num))
    try:
        await world.succeeded()
        clock.forward(10)
        await world.processing()
        everything = {
            "attempts_before": clock.at,
            "callbacks_before": clock.at,
            "held_before": clock.at,
            "jobs_before": clock.at,
            "limit": 100,
        }
        async with aside(url) as db:
            count = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'event_bodies'::regclass"
            assert await db.fetchval(count) == 2
            assert await store.prune(**everything) == 1
            await store.prune(**everything)
            assert await db.fetchval(count) == 1
        assert [b"job.processing" in e.body for e in await world.events(page(), {})] == [True]
    finally:
        await store.close()
