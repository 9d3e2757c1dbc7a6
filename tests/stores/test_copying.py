"""A database copied into another one, filled by the real service and served again: nothing differs."""

import asyncio
import collections
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
from standardwebhooks import Webhook

from service import providers
from service.app import Service, build
from service.clock import SystemClock
from service.crypto import Vault, generate_master_key
from service.errors import LockHeld, StoreUnavailable, WrongMasterKey
from service.sealed import Sealed
from service.settings import load
from service.stores import COPIED_AT, UNFINISHED, copying
from service.stores.copying import TABLES, CopyRefused, Counted
from service.stores.postgres_pool import read_url
from service.stores.sqlite_copies import back_up, put_back
from tests.stores import server
from tests.stores.world import a_callback
from tests.test_pipeline import Receiver, receiving, status
from tests.web.conftest import ADMIN, PIXVERSE, Client
from tests.web.served import sandbox_running

pytestmark = pytest.mark.anyio

KEYS = generate_master_key()
BODY = {**PIXVERSE, "metadata": {"order": "17"}}
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 2_000  # two chunks


@asynccontextmanager
async def served(url: str, sandbox: str) -> AsyncIterator[Client]:
    environment = {
        "CALLSHEET_DATABASE_URL": url,
        "CALLSHEET_API_KEY": ADMIN,
        "CALLSHEET_MASTER_KEYS": KEYS,
        "CALLSHEET_PUBLIC_URL": "http://127.0.0.1:1",
        "CALLSHEET_SANDBOX_URL": sandbox,
        "CALLSHEET_RETRY_SCHEDULE": "0,2,2,2",
    }
    service: Service = await build(load(environment, known_providers=providers.names()))
    call = Client(service)
    try:
        yield call
    finally:
        await call.http.aclose()
        await service.close()


async def tick_until(call: Client, true: Any) -> None:
    async with asyncio.timeout(40):
        while not await true():
            await call.context.loops.tick(20.0)
            await asyncio.sleep(0.05)


@dataclass
class Filled:
    """What was there, as its users saw it."""

    url: str
    sandbox: str
    receiver: Receiver
    jobs: dict[str, Any] = field(default_factory=dict)
    timelines: dict[str, Any] = field(default_factory=dict)
    deliveries: dict[str, Any] = field(default_factory=dict)
    secret: str = ""
    file: str = ""
    key: str = ""
    lost: str = ""  # the job whose submit was accepted, its reply lost
    broken: bool = True

    def ledger(self) -> dict[str, int]:
        """Charges by prompt."""
        rows = httpx2.get(f"{self.sandbox}/_sandbox/pixverse/ledger").json()["data"]
        return dict(collections.Counter(row["input"]["prompt"] for row in rows))

    def faults(self, **faults: Any) -> None:
        body = {"duration_s": [0.05, 0.1], **faults}
        assert httpx2.put(f"{self.sandbox}/_sandbox/pixverse/faults", json=body).status_code == 200


def asked(prompt: str) -> dict[str, Any]:
    return {**BODY, "input": {**BODY["input"], "prompt": prompt}}


async def views(call: Client, filled: Filled) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    jobs = {job["id"]: job for job in (await call.ok("GET", "/v1/jobs?limit=100"))["data"]}
    timelines = {job: (await call.ok("GET", f"/v1/jobs/{job}/timeline"))["data"] for job in jobs}
    rows = (await call.ok("GET", "/v1/deliveries?limit=100"))["data"]
    deliveries = {row["id"]: await call.ok("GET", f"/v1/deliveries/{row['id']}") for row in rows}
    return jobs, timelines, deliveries


async def fill(call: Client, filled: Filled, target: str) -> None:
    filled.faults()
    for path in ("/fine", "/broken"):
        made = await call.an_endpoint(url=target + path, event_types=["job.succeeded"])
    filled.secret = made["secret"]
    held = await call.an_endpoint(url=f"{target}/held", event_types=["job.*"])
    await call.ok("PATCH", f"/v1/endpoints/{held['id']}", json={"status": "paused"})
    filled.key = await call.a_key("jobs:read")
    done = await call.a_job(asked("done"), headers={"idempotency-key": "once"})

    async def sent() -> bool:
        statuses = [row["status"] for row in (await call.ok("GET", "/v1/deliveries"))["data"]]
        return "delivered" in statuses and filled.receiver.arrivals["/broken"] > 0 and bool(filled.ledger())

    await tick_until(call, sent)
    assert (await call.ok("GET", f"/v1/jobs/{done['id']}"))["status"] == "succeeded"
    filled.faults(drop_reply_after_accept=1)
    filled.lost = (await call.a_job(asked("lost")))["id"]

    async def dropped() -> bool:
        return "lost" in filled.ledger()

    await tick_until(call, dropped)
    filled.faults()
    assert (await call.ok("GET", f"/v1/jobs/{filled.lost}"))["status"] == "submitting"
    await rest(call, filled)
    filled.jobs, filled.timelines, filled.deliveries = await views(call, filled)


async def rest(call: Client, filled: Filled) -> None:
    """What no loop looks at any more: jobs in the other states, a file, a budget, a refused callback."""
    await call.an_unknown_job()
    await call.a_processing_job()
    canceled = await call.a_job(asked("canceled"))
    await call.ok("POST", f"/v1/jobs/{canceled['id']}/cancel")
    await call.a_job(asked("queued"))
    upload = {"file": ("cat.png", PICTURE, "image/png")}
    filled.file = (await call.ok("POST", "/v1/files", files=upload))["id"]
    await call.ok("PUT", "/v1/budgets/pixverse", json={"amount": "100000"})
    await call.context.store.record_rejected(a_callback(b"\x00nothing"), 10)


@pytest.fixture
async def filled(tmp_path: Path) -> AsyncIterator[Filled]:
    kept: list[Filled] = []

    async def answer(path: str) -> bytes:
        return status(500 if path == "/broken" and kept[0].broken else 200)

    with sandbox_running("http://127.0.0.1:1") as sandbox:
        async with receiving(answer) as (receiver, target):
            made = Filled(f"sqlite:///{tmp_path}/old.db", sandbox, receiver)
            kept.append(made)
            async with served(made.url, sandbox) as call:
                await fill(call, made, target)
            yield made


class Interrupted(Exception):
    pass


async def copied(origin: str, goal: str, *, keys: str = KEYS, batches: int | None = None) -> list[Counted]:
    """Copy, or begin to: after so many batches it is interrupted."""
    told: list[str] = []

    def tell(table: str, there: int, added: int) -> None:
        told.append(table)
        if len(told) == batches:
            raise Interrupted

    source = await copying.open_source(origin, clock=SystemClock())
    try:
        target = await copying.open_target(goal, clock=SystemClock())
        try:
            return await copying.copy(source, target, prove=Sealed(Vault.parse(keys)).check_canary, tell=tell)
        finally:
            await target.close()
    finally:
        await source.close()


def same(counted: list[Counted]) -> bool:
    return len(counted) == len(TABLES) and all(row.source == row.target for row in counted)


async def same_views(call: Client, filled: Filled) -> None:
    jobs, timelines, deliveries = await views(call, filled)
    assert jobs == filled.jobs
    assert timelines == filled.timelines
    assert deliveries == filled.deliveries


async def test_a_copy_is_served_as_the_source_was(filled: Filled, tmp_path: Path) -> None:
    states = {job["status"] for job in filled.jobs.values()}
    assert states == {"queued", "submitting", "processing", "succeeded", "canceled", "unknown"}
    assert {row["status"] for row in filled.deliveries.values()} >= {"pending", "held", "delivered"}
    goal = await server.database(tmp_path)
    counted = await copied(filled.url, goal)
    assert same(counted)
    empty = {row.table for row in counted if not row.source}
    assert empty <= {"dedupe_keys", "unanswered"}
    before, charged = len(filled.receiver.requests), filled.ledger()
    async with served(goal, filled.sandbox) as call:
        await same_views(call, filled)
        assert (await call("GET", "/v1/jobs", key=filled.key)).status_code == 200
        file = await call.context.store.file(None, filled.file)
        assert file is not None
        chunks = [await call.context.store.file_chunk(file.num, place) for place in range(2)]
        assert b"".join(chunk for chunk in chunks if chunk) == PICTURE
        replay = await call("POST", "/v1/jobs", json=asked("done"), headers={"idempotency-key": "once"})
        assert replay.json()["id"] in filled.jobs and replay.headers["idempotent-replayed"] == "true"
        filled.broken = False
        await goes_on(call, filled, before, charged)


async def goes_on(call: Client, filled: Filled, before: int, charged: dict[str, int]) -> None:
    """What was pending is sent as it was before; what was submitted is not submitted again; numbers go on."""

    def again() -> list[tuple[dict[str, str], bytes]]:
        return [(headers, body) for path, headers, body in filled.receiver.requests[before:] if path == "/broken"]

    async def settled() -> bool:
        return bool(again()) and (await call.ok("GET", f"/v1/jobs/{filled.lost}"))["status"] == "succeeded"

    await tick_until(call, settled)
    first = next((headers, body) for path, headers, body in filled.receiver.requests[:before] if path == "/broken")
    headers, body = again()[0]
    assert (headers["webhook-id"], body) == (first[0]["webhook-id"], first[1])
    assert Webhook(filled.secret).verify(body.decode(), headers)
    assert charged == {"done": 1, "lost": 1}
    assert filled.ledger() == {**charged, "queued": 1}
    made = await call.a_job(asked("new"))
    job = await call.context.store.job_by_id(made["id"])
    assert job is not None and job.num >= 1 << 20
    await call.an_endpoint()
    await call.a_key("jobs:read")


@pytest.mark.parametrize("batches", [1, 5, 9, 14])
async def test_an_interrupted_copy_goes_on_and_repeats_nothing(filled: Filled, tmp_path: Path, batches: int) -> None:
    goal = await server.database(tmp_path)
    with pytest.raises(Interrupted):
        await copied(filled.url, goal, batches=batches)
    with pytest.raises(StoreUnavailable, match="has not ended"):
        async with served(goal, filled.sandbox):
            pass
    assert same(await copied(filled.url, goal))
    async with served(goal, filled.sandbox) as call:
        await same_views(call, filled)


async def test_there_and_back_again(filled: Filled, tmp_path: Path) -> None:
    goal, back, third = await server.database(tmp_path), f"sqlite:///{tmp_path}/new.db", f"sqlite:///{tmp_path}/3.db"
    assert same(await copied(filled.url, goal))
    assert same(await copied(goal, back))
    assert same(await copied(back, third))
    with sqlite3.connect(tmp_path / "old.db") as old, sqlite3.connect(tmp_path / "3.db") as new:
        for table in TABLES:
            sql = f"SELECT * FROM {table.name} ORDER BY {', '.join(table.key)}"
            assert new.execute(sql).fetchall() == old.execute(sql).fetchall(), table.name
    async with served(third, filled.sandbox) as call:
        await same_views(call, filled)
        await call.a_job(asked("new"))


async def test_a_target_without_partitions_is_served_as_the_source_was(filled: Filled, tmp_path: Path) -> None:
    goal = await server.database(tmp_path, "partitions=off")
    assert same(await copied(filled.url, goal))
    db = await asyncpg.connect(read_url(goal)[0])
    assert await db.fetchval("SELECT count(*) FROM pg_inherits") == 0
    await db.close()
    async with served(goal, filled.sandbox) as call:
        await same_views(call, filled)
        await call.a_job(asked("new"))
    assert same(await copied(goal, f"sqlite:///{tmp_path}/back.db"))


# -- a source that is a backup


def backed_up(tmp_path: Path) -> str:
    back_up(tmp_path / "old.db", tmp_path / "backup.db", SystemClock())
    return f"sqlite:///{tmp_path}/backup.db"


async def mark_of(url: str) -> str | None:
    """When the database says that it was copied as a backup."""
    side = await copying.open_source(url, clock=SystemClock())
    try:
        return (await side.meta()).get(COPIED_AT)
    finally:
        await side.close()


async def sends_nothing_again(url: str, filled: Filled) -> None:
    """What it shows as not sent, or as lost, becomes unknown, and what was charged stays what it was."""
    charged = filled.ledger()
    async with served(url, filled.sandbox) as call:
        for _ in range(3):
            await call.context.loops.tick(20.0)
            await asyncio.sleep(0.2)
        now, _, _ = await views(call, filled)
        assert {job for job in filled.jobs if now[job]["status"] in ("queued", "submitting")} == set()
        open_before = {job for job, was in filled.jobs.items() if was["status"] in ("queued", "submitting")}
        assert len(open_before) == 2 and {now[job]["status"] for job in open_before} == {"unknown"}
    assert filled.ledger() == charged == {"done": 1, "lost": 1}


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_copy_of_a_backup_sends_nothing_again(filled: Filled, tmp_path: Path, kind: str) -> None:
    origin = backed_up(tmp_path)
    goal = f"sqlite:///{tmp_path}/new.db" if kind == "sqlite" else await server.database(tmp_path)
    assert await mark_of(origin)
    with pytest.raises(Interrupted):
        await copied(origin, goal, batches=6)
    assert same(await copied(origin, goal))
    assert await mark_of(goal) == await mark_of(origin)
    await sends_nothing_again(goal, filled)
    assert await mark_of(goal) == ""


async def test_a_copy_of_a_marked_postgresql_sends_nothing_again(filled: Filled, tmp_path: Path) -> None:
    """One that its own tools restored: its open submits are still due."""
    origin, goal = await server.database(tmp_path), f"sqlite:///{tmp_path}/new.db"
    assert same(await copied(filled.url, origin))
    db = await asyncpg.connect(read_url(origin)[0])
    await db.execute("INSERT INTO meta VALUES ($1, '1800000000000')", COPIED_AT)  # as `callsheet restore` does
    await db.close()
    assert same(await copied(origin, goal))
    await sends_nothing_again(goal, filled)


async def test_a_copy_of_a_stopped_database_is_no_backup(filled: Filled, tmp_path: Path) -> None:
    backed_up(tmp_path)  # beside it, which is nothing to the source
    goal = await server.database(tmp_path)
    assert same(await copied(filled.url, goal))
    assert await mark_of(filled.url) is None and await mark_of(goal) is None
    async with served(goal, filled.sandbox) as call:

        async def sent() -> bool:
            return "queued" in filled.ledger()

        await tick_until(call, sent)


async def test_a_source_that_was_restored_between_two_runs_is_copied_from_its_beginning(
    filled: Filled, tmp_path: Path
) -> None:
    backed_up(tmp_path)
    goal = f"sqlite:///{tmp_path}/new.db"
    with pytest.raises(Interrupted):
        await copied(filled.url, goal, batches=3)
    put_back(tmp_path / "backup.db", tmp_path / "old.db", SystemClock(), replace=True)
    with pytest.raises(CopyRefused, match="before it was used again"):
        await copied(filled.url, goal)


async def test_refusals_change_nothing(filled: Filled, tmp_path: Path) -> None:
    goal = await server.database(tmp_path)
    with pytest.raises(WrongMasterKey):
        await copied(filled.url, goal, keys=generate_master_key())
    async with served(filled.url, filled.sandbox):
        with pytest.raises(LockHeld, match=r"--role all.*stop it, then copy again"):
            await copied(filled.url, goal)
    assert same(await copied(filled.url, goal))
    with pytest.raises(CopyRefused, match="has data already"):
        await copied(filled.url, goal)
    db = await asyncpg.connect(read_url(goal)[0])
    try:
        with pytest.raises(LockHeld, match="1 other connections"):
            await copied(goal, f"sqlite:///{tmp_path}/new.db")
        assert await db.fetchval("SELECT count(*) FROM meta WHERE key = $1", UNFINISHED) == 0
    finally:
        await db.close()


async def test_a_source_that_was_used_between_two_runs_is_copied_from_its_beginning(
    filled: Filled, tmp_path: Path
) -> None:
    goal = f"sqlite:///{tmp_path}/new.db"
    with pytest.raises(Interrupted):
        await copied(filled.url, goal, batches=8)
    async with served(filled.url, filled.sandbox) as call:
        await call.a_job(asked("between"))
    with pytest.raises(CopyRefused, match="before it was used again"):
        await copied(filled.url, goal)


async def test_a_target_that_was_only_migrated_is_as_good_as_empty(filled: Filled, tmp_path: Path) -> None:
    goal = f"sqlite:///{tmp_path}/new.db"
    environment = {"CALLSHEET_DATABASE_URL": goal, "CALLSHEET_MASTER_KEYS": KEYS}
    await (await build(load(environment, known_providers=providers.names()), role="api")).close()
    assert same(await copied(filled.url, goal))
    async with served(goal, filled.sandbox) as call:
        await same_views(call, filled)


async def test_numbers_that_are_gone_are_not_given_again(filled: Filled, tmp_path: Path) -> None:
    """And numbers beyond what the server's transactions have reached are passed."""
    high, goal = 1 << 50, await server.database(tmp_path)
    with sqlite3.connect(tmp_path / "old.db") as old:
        old.execute("UPDATE sqlite_sequence SET seq = ? WHERE name IN ('jobs', 'events', 'keys')", (high,))
    assert same(await copied(filled.url, goal))
    async with served(goal, filled.sandbox) as call:
        job = await call.context.store.job_by_id((await call.a_job(asked("new")))["id"])
        assert job is not None and job.num > high
        await call.a_key("jobs:read")
        assert max(key.num for key in await call.context.store.keys(None)) > high


async def test_large_tables_go_in_many_batches(tmp_path: Path) -> None:
    origin, goal = f"sqlite:///{tmp_path}/old.db", await server.database(tmp_path)
    await (await copying.open_target(origin, clock=SystemClock())).close()
    with sqlite3.connect(tmp_path / "old.db") as old:
        old.execute("INSERT INTO tenants (num, name, created_at, secrets) VALUES (7, 'acme', 1, x'00')")
        rows = ((n, f"key_{n}", 7, "nul \0 here", "[]", f"l{n}", b"d", 1) for n in range(1, 12_001))
        old.executemany(
            "INSERT INTO keys (num, id, tenant, name, scopes, lookup, digest, created_at) VALUES (?,?,?,?,?,?,?,?)",
            rows,
        )
    with pytest.raises(Interrupted):
        await copied(origin, goal, batches=6)
    db = await asyncpg.connect(read_url(goal)[0])
    there = await db.fetchval("SELECT count(*) FROM keys")
    await db.close()
    assert 64 < there < 12_000
    counted = {row.table: row for row in await copied(origin, goal)}
    assert counted["keys"].source == counted["keys"].target == 12_000


async def test_every_table_is_copied(tmp_path: Path) -> None:
    side: Any = await copying.open_target(f"sqlite:///{tmp_path}/new.db", clock=SystemClock())
    rows = side.db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    await side.close()
    assert {name for (name,) in rows} - {"sqlite_sequence", "migrations", "meta"} == {table.name for table in TABLES}
