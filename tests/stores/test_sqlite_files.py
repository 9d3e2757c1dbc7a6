"""SQLite's own: commits counted, disks that fill, locks that are held, schemas, the lock of the loops.

Its connections are made by the test (`connect`), so that statements are counted and faults are real or exact.
"""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from service.clock import SystemClock
from service.errors import LockHeld, SchemaTooNew, StoreUnavailable
from service.facts import Accepted, Arrival, Begin
from service.states import DeliveryStatus, EndpointStatus, JobStatus, Source
from service.stores import UnknownDatabase, open_store
from service.stores.migrations import migrations
from tests.stores.world import SUCCEEDED, ManualClock, Real, World, a_job, new, open_named, opened, page

pytestmark = pytest.mark.anyio

Connect = Callable[..., sqlite3.Connection]
ROOT = Path(__file__).parents[2]


def traced(statements: list[str]) -> Connect:
    """Connections that note every statement which they run."""

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = sqlite3.connect(*args, **options)
        db.set_trace_callback(statements.append)
        return db

    return connect


def kept_in(made: list[sqlite3.Connection]) -> Connect:
    """Connections that the test can reach, too; the first is the writer's."""

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        made.append(sqlite3.connect(*args, **options))
        return made[-1]

    return connect


def impatient(*args: Any, **options: Any) -> sqlite3.Connection:
    """Connections that wait for a lock 50 ms, whatever they are told."""

    class Impatient(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            return super().execute("PRAGMA busy_timeout = 50" if "busy_timeout" in sql else sql, *values)

    db: sqlite3.Connection = sqlite3.connect(*args, factory=Impatient, **options)
    return db


class Disk:
    """Where commits fail while `full`, as they do when the write-ahead log cannot grow."""

    def __init__(self, code: int = sqlite3.SQLITE_FULL) -> None:
        self.full, self.code = False, code

    def connect(self, *args: Any, **options: Any) -> sqlite3.Connection:
        disk = self

        class Failing(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if sql == "COMMIT" and disk.full:
                    error = sqlite3.OperationalError("database or disk is full")
                    error.sqlite_errorcode = disk.code
                    raise error
                return super().execute(sql, *values)

        db: sqlite3.Connection = sqlite3.connect(*args, factory=Failing, **options)
        return db


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process's write transaction, open."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def python(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.stores.beside", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: "subprocess.Popen[str]", how: int = signal.SIGKILL) -> None:
    process.send_signal(how)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


async def open_sqlite(tmp_path: Path, **seams: Any) -> Any:
    return await open_named("sqlite", tmp_path, Real(), ManualClock(), **seams)


# -- commits


async def test_five_hundred_callers_ride_in_few_commits(tmp_path: Path) -> None:
    statements: list[str] = []
    async with opened("sqlite", tmp_path, connect=traced(statements)) as world:
        jobs = [created.job for created in await world.store.create_jobs(_many(world, 500))]
        statements.clear()
        told = await asyncio.gather(*(world.tell(job, Begin(), Source.SUBMIT) for job in jobs))
        assert [applied.verdict for applied in told] == ["applied"] * 500
        assert 1 <= statements.count("COMMIT") <= 3
        assert statements.count("BEGIN IMMEDIATE") == statements.count("COMMIT")


async def test_a_batch_is_one_commit_and_a_call_is_answered_after_it(tmp_path: Path) -> None:
    statements: list[str] = []
    async with opened("sqlite", tmp_path, connect=traced(statements)) as world:
        await world.endpoint()
        statements.clear()
        job = await world.queued()
        assert statements.count("COMMIT") == 1
        statements.clear()
        facts = [Arrival(job=job.num, fact=fact, source=Source.POLL) for fact in (Begin(), SUCCEEDED, SUCCEEDED)]
        await world.store.apply(facts)
        assert statements.count("COMMIT") == 1
        assert statements[-1] == "COMMIT"


async def test_facts_that_meet_in_one_batch_are_told_apart_without_undoing_it(tmp_path: Path) -> None:
    """The unique indexes would undo the group and rerun it singly: right, and five hundred times dearer."""
    statements: list[str] = []
    async with opened("sqlite", tmp_path, connect=traced(statements)) as world:
        ended, *clashing = [await world.queued() for _ in range(3)]
        begun = [Arrival(job=job.num, fact=Begin(), source=Source.SUBMIT) for job in (ended, *clashing)]
        await world.store.apply(begun)
        taken = Accepted(provider_job_ids=("77",))
        met = [Arrival(job=job.num, fact=taken, source=Source.SUBMIT) for job in clashing]
        met += [Arrival(job=ended.num, fact=SUCCEEDED, source=Source.CALLBACK, dedupe_key="d")] * 2
        statements.clear()
        verdicts = [applied.verdict for applied in await world.store.apply(met)]
        assert verdicts == ["applied", "clash", "applied", "duplicate"]
        assert (statements.count("COMMIT"), statements.count("ROLLBACK")) == (1, 0)


async def test_the_file_is_synced_at_every_commit(tmp_path: Path) -> None:
    """FULL, not NORMAL: in WAL mode NORMAL may lose the last commits when the machine's power goes."""
    made: list[sqlite3.Connection] = []
    async with opened("sqlite", tmp_path, connect=kept_in(made)):
        (writer, *_) = made
        pragmas = {name: writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
        assert pragmas == {"journal_mode": "wal", "synchronous": 2}
        assert writer.execute("PRAGMA foreign_keys").fetchone()[0] == 1


async def test_readers_cannot_write(tmp_path: Path) -> None:
    made: list[sqlite3.Connection] = []
    async with opened("sqlite", tmp_path, connect=kept_in(made)) as world:
        await world.store.tenants()
        readers = made[1:]
        assert readers
        for reader in readers:
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reader.execute("DELETE FROM tenants")


# -- faults


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_IOERR | (12 << 8)])
async def test_what_could_not_be_committed_was_not_accepted(tmp_path: Path, code: int) -> None:
    disk = Disk(code)
    async with opened("sqlite", tmp_path, connect=disk.connect) as world:
        job = await world.processing()
        disk.full = True
        asked = [world.tell(job, SUCCEEDED, dedupe_key="d"), world.create(_many(world, 1)[0]), world.store.check()]
        for result in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(result, StoreUnavailable)
        assert await world.now(job) == job
        assert await world.types() == ["job.processing"]
        assert await world.store.queued(world.tenant, 10) == 0
        disk.full = False
        await world.store.check()
        assert (await world.tell(job, SUCCEEDED, dedupe_key="d")).verdict == "applied"
        assert await world.types() == ["job.processing", "job.succeeded"]


async def test_an_endpoints_change_that_was_not_committed_is_not_believed(tmp_path: Path) -> None:
    """What a transaction that is undone read of its own writes must not be found in memory by a later one."""
    disk = Disk()
    async with opened("sqlite", tmp_path, connect=disk.connect) as world:
        first, jobs = await world.endpoint(), [await world.processing() for _ in range(2)]
        await world.store.record_attempts([])
        disk.full = True
        paused = world.store.update_endpoint(replace(first, status=EndpointStatus.PAUSED))
        results = await asyncio.gather(paused, world.tell(jobs[0], SUCCEEDED), return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable] * 2
        disk.full = False
        second = await world.endpoint()
        await world.tell(jobs[1], SUCCEEDED)
        rows = await world.store.deliveries(world.tenant, page(), {"job": jobs[1].id, "status": "pending"})
        ended = {row.endpoint_id for row in rows if row.event_type == "job.succeeded"}
        assert ended == {first.id, second.id}
        assert DeliveryStatus.HELD not in await world.statuses()


async def test_a_disk_that_is_full_refuses_and_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    made: list[sqlite3.Connection] = []
    async with opened("sqlite", tmp_path, connect=kept_in(made)) as world:
        pages = made[0].execute("PRAGMA page_count").fetchone()[0]
        made[0].execute(f"PRAGMA max_page_count = {pages + 20}")
        kept: list[str] = []
        with pytest.raises(StoreUnavailable, match="full"):
            for _ in range(1_000):
                kept.append((await world.queued(input=b"x" * 5_000)).id)
        assert kept
        assert {job.id for job in await world.store.jobs(world.tenant, page(), {})} == set(kept)
        made[0].execute(f"PRAGMA max_page_count = {pages + 2_000}")
        kept.append((await world.queued(input=b"x" * 5_000)).id)
        assert len(await world.store.jobs(world.tenant, page(), {})) == len(kept)


async def test_a_full_disk_refuses_a_whole_group_and_keeps_none_of_it(tmp_path: Path) -> None:
    made: list[sqlite3.Connection] = []
    async with opened("sqlite", tmp_path, connect=kept_in(made)) as world:
        pages = made[0].execute("PRAGMA page_count").fetchone()[0]
        made[0].execute(f"PRAGMA max_page_count = {pages + 10}")
        big = [new(a_job(world.tenant, world.credential), input=b"x" * 9_000) for _ in range(50)]
        results = await asyncio.gather(*(world.create(item) for item in big), return_exceptions=True)
        refused = sum(isinstance(result, StoreUnavailable) for result in results)
        assert refused and refused + len(await world.store.jobs(world.tenant, page(), {})) == 50


async def test_a_lock_that_is_held_too_long_is_unavailable_and_recovers(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path, connect=impatient) as world:
        job = await world.processing()
        with locked(tmp_path / "callsheet.db"):
            results = await asyncio.gather(
                world.tell(job, SUCCEEDED), world.queued(), world.store.check(), return_exceptions=True
            )
            assert [type(result) for result in results] == [StoreUnavailable] * 3
            assert await world.now(job) == job  # reading goes on
        assert (await world.tell(job, SUCCEEDED)).verdict == "applied"


async def test_a_lock_that_is_held_briefly_is_waited_for(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        job = await world.processing()
        with locked(tmp_path / "callsheet.db"):
            telling = asyncio.create_task(world.tell(job, SUCCEEDED))
            await asyncio.sleep(0.2)
            assert not telling.done()
        assert (await telling).verdict == "applied"


async def test_a_database_that_is_locked_at_the_start_is_unavailable(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path):
        pass
    with locked(tmp_path / "callsheet.db"), pytest.raises(StoreUnavailable):
        await open_sqlite(tmp_path, connect=impatient)


async def test_a_bug_in_a_statement_is_not_called_unavailable(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        with sqlite3.connect(tmp_path / "callsheet.db") as db:
            db.execute("ALTER TABLE notes RENAME COLUMN kind TO sort")
        db.close()
        with pytest.raises(sqlite3.OperationalError):
            await world.tell(await world.queued(), Begin(), Source.SUBMIT)


# -- opening


async def test_opened_again_everything_is_there(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        endpoint, job = await world.endpoint(), await world.succeeded(metadata={"order": "7"})
        due = (await world.claim(limit=1))[0]
        nonce, timeline = world.store.nonce, await world.store.timeline(job)
        events = await world.store.events(world.tenant, page(), {})
    async with opened("sqlite", tmp_path) as world:
        assert world.store.nonce == nonce
        assert await world.now(job) == job
        assert await world.store.endpoint(world.tenant, endpoint.id) == endpoint
        assert await world.store.events(world.tenant, page(), {}) == events
        assert await world.store.timeline(job) == timeline
        assert due.num not in {d.num for d in await world.claim()}  # leased, until the lease ends
        world.clock.forward(91)
        assert due.num in {d.num for d in await world.claim()}
        assert (await world.queued()).num > job.num


async def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    """A cursor, an event's id and an attempt's id stay one row's for ever."""
    async with opened("sqlite", tmp_path) as world:
        old = await world.succeeded()
        later = world.clock.at + 1
        await world.store.prune(
            attempts_before=later, callbacks_before=later, held_before=later, jobs_before=later, limit=10
        )
    async with opened("sqlite", tmp_path) as world:
        assert await world.types() == []
        fresh = await world.succeeded()
        assert fresh.num > old.num
        assert min(event.num for event in await world.store.events(world.tenant, page(), {})) == 3


async def test_another_database_has_another_nonce(tmp_path: Path) -> None:
    nonces = set()
    for name in "abcdef":
        (tmp_path / name).mkdir()
        async with opened("sqlite", tmp_path / name) as world:
            nonces.add(world.store.nonce)
    assert len(nonces) > 1 and all(0 <= nonce < 1 << 16 for nonce in nonces)


async def test_a_store_is_opened_by_its_url(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/one.db", plan=Real(), clock=SystemClock())
    await store.close()
    assert (tmp_path / "one.db").exists()
    with pytest.raises(UnknownDatabase, match="mysql"):
        await open_store("mysql://here", plan=Real(), clock=SystemClock())


async def test_a_database_is_not_made_where_it_is_only_to_be_used(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/none.db"
    with pytest.raises(StoreUnavailable, match="no database"):
        await open_store(url, plan=Real(), clock=SystemClock(), create=False)
    with pytest.raises(StoreUnavailable):
        await open_store(f"sqlite:///{tmp_path}/no/such/folder.db", plan=Real(), clock=SystemClock())
    assert not os.listdir(tmp_path)


# -- migrations


async def test_migrations_are_applied_once_in_their_order(tmp_path: Path) -> None:
    known = migrations("sqlite")
    assert [migration.version for migration in known] == list(range(1, len(known) + 1))
    for _ in range(2):
        await (await open_sqlite(tmp_path)).close()
    db = sqlite3.connect(tmp_path / "callsheet.db")
    applied = db.execute("SELECT version, name FROM migrations ORDER BY version").fetchall()
    db.close()
    assert applied == [(migration.version, migration.name) for migration in known]


async def test_a_schema_of_newer_code_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    await (await open_sqlite(tmp_path)).close()
    db = sqlite3.connect(tmp_path / "callsheet.db", isolation_level=None)
    db.execute("INSERT INTO migrations VALUES (9999, 'of the future', 0)")
    with pytest.raises(SchemaTooNew, match="9999"):
        await open_sqlite(tmp_path)
    db.execute("DELETE FROM migrations WHERE version = 9999")
    db.close()
    await (await open_sqlite(tmp_path)).close()


async def test_a_migration_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "callsheet.db")
    db.execute("CREATE TABLE outbox (num INTEGER)")
    db.execute("CREATE TABLE deliveries (num INTEGER)")  # in the way of the first migration, half down
    db.commit()
    with pytest.raises(sqlite3.OperationalError, match="deliveries"):
        await open_sqlite(tmp_path)
    names = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    db.close()
    assert names <= {"outbox", "deliveries"}


async def test_processes_that_migrate_at_once_make_one_schema(tmp_path: Path) -> None:
    for round_ in range(3):
        path = tmp_path / str(round_)
        path.mkdir()
        processes = [python("open", str(path)) for _ in range(4)]
        try:
            assert [line(process) for process in processes] == ["ready"] * 4
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            answers = [line(process) for process in processes]
        finally:
            for process in processes:
                end(process)
        assert len(set(answers)) == 1 and answers[0].startswith("nonce "), answers


# -- the lock of the loops


async def test_one_process_runs_the_loops_and_the_next_is_told_who(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as first:
        first.store.own_loops("serve --role all")
        async with opened("sqlite", tmp_path) as second:
            with pytest.raises(LockHeld, match=rf"process {os.getpid()} \(serve --role all\)"):
                second.store.own_loops("tick")
            await second.queued()  # short transactions beside it are allowed
    async with opened("sqlite", tmp_path) as third:
        third.store.own_loops("tick")


async def test_a_lock_that_was_given_back_is_free_for_the_next(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as first, opened("sqlite", tmp_path) as second:
        first.store.release_loops()  # without it: nothing
        for store in (first.store, second.store, first.store):
            store.own_loops("tick")
            store.release_loops()


async def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    holder = python("hold", str(tmp_path))
    try:
        assert line(holder) == "held"
        async with opened("sqlite", tmp_path) as world:
            with pytest.raises(LockHeld, match=rf"process {holder.pid} \(serve in a test\)"):
                world.store.own_loops("tick")
            end(holder)
            world.store.own_loops("tick")
    finally:
        if holder.poll() is None:
            end(holder)


async def test_a_lock_is_not_taken_from_who_has_it_by_asking(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as first, opened("sqlite", tmp_path) as second:
        first.store.own_loops("serve")
        for _ in range(3):
            with pytest.raises(LockHeld, match="serve"):
                second.store.own_loops("a very long name of another process that asks in vain")


# -- kills


@pytest.mark.kill
async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    """SIGKILL at 20 moments: what was printed after a commit is there, whole. (The page cache survives a kill:
    power loss is what synchronous=FULL is for, and this does not test it.)"""
    made: set[str] = set()
    ended: set[str] = set()
    for kill in range(20):
        child = python("write", str(tmp_path), str(kill))
        assert child.stdout is not None
        acks = [line(child)]
        assert acks == ["ready"]
        for _ in range(5 + 37 * kill % 101):
            acks.append(line(child))
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().splitlines(keepends=True)  # what was printed before it died
        acks += [text.strip() for text in rest if text.endswith("\n")]
        end(child)
        made |= {text.removeprefix("made ") for text in acks if text.startswith("made ")}
        ended |= {text.removeprefix("ended ") for text in acks if text.startswith("ended ")}
    assert len(made) > 500 and len(ended) > 300
    await _check_after_kills(tmp_path, made, ended)


async def _check_after_kills(tmp_path: Path, made: set[str], ended: set[str]) -> None:
    async with opened("sqlite", tmp_path, clock=SystemClock()) as world:
        jobs = {job.id: job for job in await world.store.jobs(world.tenant, page(), {})}
        assert made <= set(jobs)
        assert {jobs[job_id].status for job_id in ended} == {JobStatus.SUCCEEDED}
    db = sqlite3.connect(tmp_path / "callsheet.db")
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        # Every end was written whole: state, key, event and delivery, or none of them.
        whole = (
            "SELECT j.status, COUNT(DISTINCT e.num), COUNT(DISTINCT d.num), COUNT(DISTINCT k.key) FROM jobs j"
            " LEFT JOIN events e ON e.job = j.num AND e.once = 'terminal' LEFT JOIN deliveries d ON d.event = e.num"
            " LEFT JOIN dedupe_keys k ON k.job = j.num GROUP BY j.num"
        )
        assert set(db.execute(whole)) <= {("queued", 0, 0, 0), ("processing", 0, 0, 0), ("succeeded", 1, 1, 1)}
    finally:
        db.close()


def _many(world: World, count: int) -> list[Any]:
    return [new(a_job(world.tenant, world.credential)) for _ in range(count)]
