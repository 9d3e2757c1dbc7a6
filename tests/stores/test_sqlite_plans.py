"""SQLite's own: what the loops ask again and again goes by index, and costs the same whatever has piled up.

Cost is counted in steps of SQLite's virtual machine, not in time, so that it is the same on every machine.
"""

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from service.facts import Begin
from service.states import EndpointStatus, Source, Work
from tests.stores.world import START, SUCCEEDED, World, opened, outcome

pytestmark = pytest.mark.anyio

FEW, MANY = 1_000, 50_000
TABLES = ("jobs", "job_details", "deliveries", "events", "attempts", "callbacks", "provider_ids", "dedupe_keys")


class Meter:
    """Counts the steps that all connections of a store make while it is asked to."""

    def __init__(self) -> None:
        self.steps = 0
        self.statements: list[str] = []

    def connect(self, *args: Any, **options: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = sqlite3.connect(*args, **options)
        db.set_progress_handler(self._count, 1)
        db.set_trace_callback(self.statements.append)
        return db

    def _count(self) -> int:
        self.steps += 1
        return 0

    async def cost(self, work: Awaitable[Any]) -> int:
        before = self.steps
        await work
        return self.steps - before


def plan_of(db: sqlite3.Connection, statement: str) -> list[str]:
    return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]


def scans(db: sqlite3.Connection, statements: list[str]) -> list[str]:
    """The lines of the statements' plans that read a whole table."""
    found = []
    for statement in statements:
        if statement.split(" ", 1)[0] in ("SELECT", "UPDATE", "DELETE", "INSERT"):
            lines = [line for line in plan_of(db, statement) if line.startswith("SCAN")]
            aliases = {alias for alias in (*TABLES, "x", "e", "j", "d", "a") for line in lines if alias in line.split()}
            found += [f"{line} <- {statement}" for line in lines if aliases]
    return found


FILL = (
    "INSERT INTO jobs (num, id, tenant, provider, operation, credential, status, version, sequence, work, due_at,"
    " tries, polls, created_at, updated_at, finished_at, correlation, followed, fingerprint) {n}"
    " SELECT i, 'filled_' || i, :tenant, 'pixverse', 'text_to_video', :credential, :status, 1, 0, :work, :due_at,"
    " 0, 0, 0, 0, :finished_at, '', 0, x'' FROM n",
    "INSERT INTO job_details {n} SELECT i, x'7b7d', '{{}}', x'7b7d' FROM n",
    "INSERT INTO events (num, tenant, job, type, created_at, body) {n}"
    " SELECT 1000000 + i, :tenant, i, 'job.failed', 0, x'7b7d' FROM n",
    "INSERT INTO deliveries (event, endpoint, tenant, lane, status, due_at, attempts, spent, created_at) {n}"
    " SELECT 1000000 + i, :lane, :tenant, :lane, :sent, :due, 0, 0, 0 FROM n",
)
DONE = {"status": "succeeded", "work": None, "due_at": None, "finished_at": START, "sent": 1, "due": None}
HELD = {"sent": 4, "due": None}


def fill(path: Path, world: World, count: int, **columns: Any) -> None:
    """Jobs with an event and a delivery each, by the thousand, written beside the store."""
    values = {"status": "processing", "work": "poll", "due_at": START, "finished_at": None, "sent": 0, "due": START}
    values |= {"tenant": world.tenant, "credential": world.credential, "lane": 1, **columns}
    db = sqlite3.connect(path / "callsheet.db")
    first = db.execute("SELECT COALESCE(MAX(num), 0) + 1 FROM jobs").fetchone()[0]
    numbers = f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {first + count - 1})"
    for sql in FILL:
        db.execute(sql.format(n=numbers), values)
    db.commit()
    db.close()


def one(lane: int) -> int:
    return 1


def none(lane: int) -> int:
    return 0


Ask = Callable[[World], Awaitable[Any]]
ASKED: dict[str, Ask] = {
    "claim_jobs": lambda world: world.claim_jobs(Work.POLL, limit=64),
    "claim_jobs without room": lambda world: world.claim_jobs(Work.POLL, none),
    "claim_jobs of other work": lambda world: world.claim_jobs(Work.SUBMIT),
    "overdue": lambda world: world.store.overdue(64),
    "claim_deliveries": lambda world: world.claim(one, 256),
    "claim_deliveries without room": lambda world: world.claim(none, 256),
    "release_held": lambda world: world.store.release_held(limit=500, spread_ms=10_000),
    "queued": lambda world: world.store.queued(world.tenant, 10_000),
    "queued up to a ceiling": lambda world: world.store.queued(world.tenant, 10),
}


@pytest.mark.parametrize("asked", ASKED)
async def test_the_loops_questions_go_by_index(tmp_path: Path, asked: str) -> None:
    meter = Meter()
    async with opened("sqlite", tmp_path, connect=meter.connect) as world:
        await world.endpoint()
        fill(tmp_path, world, 50)
        meter.statements.clear()
        await ASKED[asked](world)
        db = sqlite3.connect(tmp_path / "callsheet.db")
        assert [statement for statement in meter.statements if statement.startswith("SELECT")]
        assert scans(db, meter.statements) == []
        db.close()


async def test_claims_use_the_indexes_that_were_made_for_them(tmp_path: Path) -> None:
    meter = Meter()
    async with opened("sqlite", tmp_path, connect=meter.connect) as world:
        await world.endpoint()
        fill(tmp_path, world, 50)
        db = sqlite3.connect(tmp_path / "callsheet.db")
        for ask, index in ((world.claim_jobs(Work.POLL), "jobs_due"), (world.claim(), "deliveries_due")):
            meter.statements.clear()
            assert await ask
            dues = [text for text in meter.statements if text.startswith("SELECT") and "ORDER BY" in text]
            assert len(dues) >= 2
            for statement in dues:
                lines = [
                    line for line in plan_of(db, statement) if line.split()[1:2] == ["deliveries"] or "jobs" in line
                ]
                made = (f"USING COVERING INDEX {index} ", f"USING COVERING INDEX {index}_at ")
                assert lines and all(line.startswith("SEARCH") for line in lines), lines
                assert all(any(name in line for name in made) for line in lines), lines
        db.close()


async def test_moving_a_job_goes_by_index(tmp_path: Path) -> None:
    meter = Meter()
    async with opened("sqlite", tmp_path, connect=meter.connect) as world:
        await world.endpoint(event_types=("job.*",))
        fill(tmp_path, world, 50, lane=99)
        meter.statements.clear()
        job = await world.queued(key="k")
        await world.tell(job, Begin(), Source.SUBMIT)
        await world.tell(job, SUCCEEDED, provider_job_id="77", dedupe_key="d")
        await world.store.record_attempts([outcome(due) for due in await world.claim(limit=1)])
        db = sqlite3.connect(tmp_path / "callsheet.db")
        assert scans(db, meter.statements) == []
        db.close()


@pytest.mark.parametrize("asked", ASKED)
async def test_what_is_pending_makes_a_question_no_dearer(tmp_path: Path, asked: str) -> None:
    meter = Meter()
    async with opened("sqlite", tmp_path, connect=meter.connect) as world:
        endpoint = await world.endpoint()
        fill(tmp_path, world, FEW, lane=endpoint.num)
        few = await meter.cost(ASKED[asked](world))
        fill(tmp_path, world, MANY - FEW, lane=endpoint.num)
        many = await meter.cost(ASKED[asked](world))
        assert 0 < few and many <= few * 1.5 + 500, f"{few} steps with {FEW:,} pending, {many} with {MANY:,}"


async def test_what_is_not_due_yet_makes_a_question_no_dearer_whoever_it_is_for(tmp_path: Path) -> None:
    """A lane, and a credential, of its own for each: the turn that goes round them has nothing to do with it."""
    meter = Meter()
    async with opened("sqlite", tmp_path, connect=meter.connect) as world:
        costs: list[dict[str, int]] = []
        for count in (FEW, MANY - FEW):
            fill(tmp_path, world, count, due_at=START + 1, due=START + 1)
            db = sqlite3.connect(tmp_path / "callsheet.db")
            db.execute("UPDATE jobs SET credential = num")
            db.execute("UPDATE deliveries SET lane = -num")
            db.commit()
            db.close()
            costs.append({asked: await meter.cost(ask(world)) for asked, ask in ASKED.items() if "claim" in asked})
        for asked, few in costs[0].items():
            assert 0 < few and costs[1][asked] <= few * 1.5 + 500, asked


async def test_what_is_finished_makes_a_question_no_dearer(tmp_path: Path) -> None:
    meter = Meter()
    async with opened("sqlite", tmp_path, connect=meter.connect) as world:
        costs: list[dict[str, int]] = []
        for count in (FEW, MANY - FEW):
            fill(tmp_path, world, count, **DONE)
            costs.append({asked: await meter.cost(ask(world)) for asked, ask in ASKED.items()})
        for asked, few in costs[0].items():
            assert 0 < few and costs[1][asked] <= few * 1.5 + 500, asked


async def test_what_is_held_for_a_paused_endpoint_costs_the_others_nothing(tmp_path: Path) -> None:
    meter = Meter()
    async with opened("sqlite", tmp_path, connect=meter.connect) as world:
        paused = await world.endpoint(status=EndpointStatus.PAUSED)
        costs = []
        for count in (FEW, MANY - FEW):
            fill(tmp_path, world, count, lane=paused.num, **HELD)
            ask = world.store.release_held(limit=500, spread_ms=10_000)
            costs.append(await meter.cost(ask) + await meter.cost(world.claim(one, 256)))
        assert 0 < costs[0] and costs[1] <= costs[0] * 1.5 + 500


async def test_the_oldest_attempts_are_found_without_reading_the_others(tmp_path: Path) -> None:
    meter = Meter()
    async with opened("sqlite", tmp_path, connect=meter.connect) as world:
        await world.endpoint()
        await world.processing()
        (due,) = await world.claim()
        costs = []
        for count in (FEW, MANY - FEW):
            db = sqlite3.connect(tmp_path / "callsheet.db")
            rows = [(due.num, n, START) for n in range(count)]
            sql = "INSERT INTO attempts (delivery, number, at, duration_ms, response) VALUES (?, ?, ?, 1, x'')"
            db.executemany(sql, rows)
            db.commit()
            db.close()
            befores = {"attempts_before": START, "callbacks_before": START, "held_before": 0, "jobs_before": 0}
            costs.append(await meter.cost(world.store.prune(limit=500, **befores)))
        assert 0 < costs[0] and costs[1] <= costs[0] * 1.5 + 500
