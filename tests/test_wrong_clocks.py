"""Wrong clocks. On PostgreSQL every time that is kept or compared is the database's, whatever a node's own clock says;
on SQLite what is due goes on by a clock that is not set back.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service import providers
from service.accepting import Submit
from service.app import Service, build
from service.clock import SystemClock
from service.sealed import CredentialSecrets
from service.settings import load
from service.signatures import TOLERANCE_S
from tests.stores import server
from tests.test_fleet import endpoint, publish
from tests.test_nodes import node, submit, until
from tests.test_pipeline import receiving, status
from tests.web.served import sandbox_running

pytestmark = pytest.mark.anyio

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
NEVER_CALLED = "http://127.0.0.1:1"


class WrongClock(SystemClock):
    """The machine's, and so the database's, but for so many seconds."""

    def __init__(self, by: float):
        self.by = by

    def now(self) -> int:
        return super().now() + int(self.by * 1000)


@pytest.fixture
def sandbox() -> Iterator[str]:
    with sandbox_running(NEVER_CALLED) as url:
        yield url


@pytest.fixture
async def url(tmp_path: Path) -> str:
    return await server.database(tmp_path)


async def control(sandbox: str, what: str, **body: Any) -> None:
    async with httpx2.AsyncClient() as client:
        (await client.put(f"{sandbox}/_sandbox/pixverse/{what}", json=body)).raise_for_status()


async def charges(sandbox: str) -> int:
    async with httpx2.AsyncClient() as client:
        return len((await client.get(f"{sandbox}/_sandbox/pixverse/ledger")).json()["data"])


async def left(client: httpx2.AsyncClient, job: dict[str, Any], *statuses: str) -> dict[str, Any]:
    """The job, once its status is none of these."""
    async with asyncio.timeout(40):
        while True:
            shown: dict[str, Any] = (await client.get(f"/v1/jobs/{job['id']}")).json()
            if shown["status"] not in statuses:
                return shown
            await asyncio.sleep(0.1)


async def counts(service: Service) -> list[int]:
    tables = ("jobs", "events", "attempts", "event_bodies")
    return [(await service.context.store.rows(f"SELECT count(*) FROM {table}"))[0][0] for table in tables]


async def go_back(service: Service, job: dict[str, Any], column: str, seconds: float) -> None:
    sql = f"UPDATE jobs SET {column} = {column} - $1 WHERE id = $2 RETURNING num"
    assert len(await service.context.store.write(sql, int(seconds * 1000), job["id"])) == 1


async def taken(path: str) -> bytes:
    return status(200)


async def test_a_node_that_is_days_ahead_prunes_only_what_is_old(url: str, sandbox: str) -> None:
    async with receiving(taken) as (receiver, target), node(url, sandbox) as (right, client):
        await endpoint(right, f"{target}/in")
        old, job = await submit(client, "old"), await submit(client, "new", key="order-1")
        for made in (old, job):
            assert (await left(client, made, "queued", "submitting", "processing"))["status"] == "succeeded"
        await until(4, receiver.requests)  # of each that it is processing, and that it succeeded
    async with node(url, sandbox, clock=WrongClock(100 * DAY), role="api") as (wrong, client):
        assert await counts(wrong) == [2, 4, 4, 4]
        await go_back(wrong, old, "finished_at", 100 * DAY)
        await wrong.context.loops.tick(5)
        jobs, events, attempts, bodies = await counts(wrong)
        assert (jobs, events, attempts) == (1, 2, 2), "one is old"
        assert bodies >= 2
        assert (await submit(client, "new", key="order-1"))["id"] == job["id"]
    assert await charges(sandbox) == 2


@pytest.mark.parametrize("by", [HOUR, -HOUR])
async def test_a_job_is_submitted_at_once_and_ends_by_its_own_deadline(url: str, sandbox: str, by: float) -> None:
    """Whichever clock the node has that accepted it, and the one that follows it."""
    await control(sandbox, "faults", duration_s=[4, 4])
    async with node(url, sandbox, clock=WrongClock(by), role="api") as (_, client), node(url, sandbox) as (right, _):
        job = await submit(client, "a cat", deadline_seconds=600)
        assert await left(client, job, "queued")
        assert (await left(client, job, "submitting", "processing"))["status"] == "succeeded"
        ((created, deadline, submitted, ends),) = await right.context.store.rows(
            "SELECT created_at, deadline_at, submitted_at, finished_at FROM jobs"
        )
    assert created <= submitted < ends < created + 60_000
    assert deadline - created == 600_000


@pytest.mark.parametrize("by", [HOUR, -HOUR])
async def test_a_worker_ends_a_deadline_in_its_time(url: str, sandbox: str, by: float) -> None:
    await control(sandbox, "faults", duration_s=[10, 10])
    async with node(url, sandbox, role="api") as (right, client), node(url, sandbox, clock=WrongClock(by)):
        late, in_time = [await submit(client, prompt, deadline_seconds=1_800) for prompt in ("a", "b")]
        for job in (late, in_time):
            assert (await left(client, job, "queued", "submitting"))["status"] == "processing"
        await go_back(right, late, "deadline_at", 1_800)
        ended = [await left(client, job, "processing") for job in (late, in_time)]
    assert [job["status"] for job in ended] == ["failed", "succeeded"]
    assert ended[0]["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize("by", [-HOUR, -MINUTE])
async def test_retry_after_is_obeyed_and_signatures_are_fresh(url: str, by: float) -> None:
    async def busy(path: str) -> bytes:
        return status(429, "retry-after: 20\r\n")

    async with receiving(busy) as (receiver, target), node(url, NEVER_CALLED, clock=WrongClock(by)) as (wrong, _):
        await endpoint(wrong, f"{target}/in")
        await publish(wrong, 1)
        await until(1, receiver.requests)
        sql, rows = "SELECT d.due_at, a.at FROM deliveries d JOIN attempts a ON a.delivery = d.num", list[Any]()
        async with asyncio.timeout(30):
            while not rows:
                rows = await wrong.context.store.rows(sql)
        assert len(rows) == 1, "tried again before its time"
        ((due_at, at),), now = rows, SystemClock().now()
        assert abs(now - at) < 10_000
        assert due_at - at >= 20_000
        assert abs(int(receiver.requests[0][1]["webhook-timestamp"]) - now / 1000) < TOLERANCE_S
        await asyncio.sleep(3)
        assert len(receiver.requests) == 1


@pytest.mark.parametrize("by", [-15 * MINUTE, 15 * MINUTE])
async def test_a_submit_is_repeated_only_while_pixverse_remembers_it(url: str, sandbox: str, by: float) -> None:
    """After ten minutes of the database's clock it is looked up, whatever the node's own says."""
    await control(sandbox, "faults", drop_reply_after_accept=1, duration_s=[0.1, 0.1])
    async with node(url, sandbox, role="api") as (right, client):
        job = await submit(client, "a cat")
        await right.context.loops.tick(20)
        assert (await left(client, job))["status"] == "submitting", "the reply was not dropped"
        assert await charges(sandbox) == 1
        await control(sandbox, "faults", duration_s=[0.1, 0.1])
        if by < 0:
            await control(sandbox, "account", trace_memory_s=0)
            await go_back(right, job, "submitted_at", 11 * MINUTE)
    async with node(url, sandbox, clock=WrongClock(by)) as (wrong, client):
        shown = await left(client, job, "submitting", "processing")
        sql = (
            "SELECT count(*) FROM notes WHERE kind = 'submit' AND position('sending' IN convert_from(data, 'UTF8')) > 0"
        )
        ((sent,),) = await wrong.context.store.rows(sql)
    assert await charges(sandbox) == 1
    assert shown["status"] == "succeeded"
    assert sent == (1 if by < 0 else 2)


@pytest.mark.parametrize("by", [HOUR, -HOUR])
async def test_callbacks_are_fresh_or_forged_by_the_databases_clock(url: str, sandbox: str, by: float) -> None:
    await control(sandbox, "faults", callback={"lose": 1}, duration_s=[30, 30])
    async with node(url, sandbox) as (right, client), node(url, sandbox, clock=WrongClock(by), role="api") as wrong:
        job = await submit(client, "a cat")
        named = (await left(client, job, "queued", "submitting"))["provider_job_ids"][0]

        async def call(ahead: float) -> int:
            headers = signed(named, int(time.time() + ahead))
            body = f'{{"id":{named},"status":7}}'
            return (await wrong[1].post("/v1/callbacks/pixverse", content=body, headers=headers)).status_code

        assert await call(10 * MINUTE) == 401
        assert (await call(-10 * MINUTE), await call(0)) == (200, 200)
        verdicts = await right.context.store.rows(
            "SELECT verdict, reason FROM callbacks WHERE job IS NOT NULL ORDER BY num"
        )
        assert [tuple(row) for row in verdicts] == [("hint", "not fresh"), ("verified", None)]


def signed(named: str, at: int) -> dict[str, str]:
    text = f"{at}\nnonce\nid={named}&status=7".encode()
    signature = base64.b64encode(hmac.new(b"sandbox-callback-secret", text, hashlib.sha256).digest()).decode()
    return {"webhook-timestamp": str(at), "webhook-nonce": "nonce", "webhook-signature": signature}


# -- SQLite

OWED = "SELECT 1 FROM deliveries WHERE status = 0"


@asynccontextmanager
async def alone(folder: Path, clock: WrongClock, **more: str) -> AsyncIterator[Service]:
    environment = {
        "CALLSHEET_DATABASE_URL": f"sqlite:///{folder}/callsheet.db",
        "CALLSHEET_PUBLIC_URL": "http://127.0.0.1:1",
        "CALLSHEET_RETRY_SCHEDULE": "0,1,1,1",
        **more,
    }
    service = await build(load(environment, known_providers=providers.names()), clock=clock)
    service.context.loops.start()
    try:
        yield service
    finally:
        await service.close()


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize(
    "steps", [[-DAY], [-365 * DAY], [365 * DAY, -365 * DAY]], ids=["day", "year", "there and back"]
)
async def test_a_retry_goes_on_when_the_wall_clock_was_set_back(
    steps: list[float], restarted: bool, tmp_path: Path
) -> None:
    """And is signed by the wall clock as it is."""
    up = False

    async def answer(path: str) -> bytes:
        return status(200 if up else 503)

    clock = WrongClock(0)
    async with receiving(answer) as (receiver, target):
        async with alone(tmp_path, clock) as service:
            await endpoint(service, f"{target}/in")
            await publish(service, 1)
            await until(1, receiver.requests)
            await until_rows(service, "SELECT 1 FROM attempts")
            for step in steps:
                clock.by += step
                if not restarted:
                    await publish(service, 1)
            up = True
            if not restarted:
                await until_rows(service, OWED, there=False)
        if restarted:
            async with alone(tmp_path, clock) as service:
                await until_rows(service, OWED, there=False)
    assert abs(int(receiver.requests[-1][1]["webhook-timestamp"]) - clock.now() / 1000) < TOLERANCE_S
    events = 1 if restarted else 1 + len(steps)
    assert len({headers["webhook-id"] for _, headers, _ in receiver.requests}) == events < len(receiver.requests)


async def until_rows(service: Service, sql: str, *, there: bool = True) -> None:
    async with asyncio.timeout(60):
        while bool(await service.context.store.rows(sql)) is not there:  # noqa: ASYNC110 - of what the loops do
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("by", [-DAY, -365 * DAY])
async def test_a_submit_and_its_reads_go_on_when_the_wall_clock_was_set_back(
    sandbox: str, by: float, tmp_path: Path
) -> None:
    """A submit that the provider put off, and the job that it then runs."""
    await control(sandbox, "faults", error_before_accept={"429": 1}, duration_s=[0.5, 0.5])
    clock, more = WrongClock(0), {"CALLSHEET_SANDBOX_URL": sandbox, "CALLSHEET_API_KEY": "k" * 40}
    async with alone(tmp_path, clock, **more) as service:
        who = await service.context.accounts.authenticate(f"Bearer {'k' * 40}")
        given = {"model": "v5", "prompt": "a cat", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"}
        text = json.dumps(given).encode()
        asked = Submit(provider="pixverse", operation="text_to_video", input=given, input_json=text, fingerprint=text)
        job, _ = await service.context.accepting.accept(who, asked)
        service.context.loops.wake()
        await until_rows(service, "SELECT 1 FROM jobs WHERE status = 'queued' AND tries > 0")
        clock.by += by
        await control(sandbox, "faults", duration_s=[0.5, 0.5])
        await until_rows(service, "SELECT 1 FROM jobs WHERE finished_at IS NOT NULL")
        found = await service.context.store.job_by_number(job.num)
    assert found is not None and found.status == "succeeded"
    assert await charges(sandbox) == 1


def secrets(api_key: str) -> CredentialSecrets:
    return CredentialSecrets(api_key=api_key, base_url="https://peakmv.example")


@pytest.mark.parametrize("by", [-DAY, -365 * DAY])
async def test_another_process_sees_a_changed_credential_when_the_wall_clock_was_set_back(
    by: float, tmp_path: Path
) -> None:
    clock, more = WrongClock(0), {"CALLSHEET_PEAKMV_API_KEY": "of-the-settings"}
    async with alone(tmp_path, clock, **more) as worker:
        api = await build(worker.context.settings, role="api", clock=clock)
        tenant = (await api.context.accounts.tenant("default")).num
        await api.context.accounts.credentials.put(tenant, "peakmv", secrets("first"))
        num = (await api.context.accounts.credential(tenant, "peakmv")).num
        assert (seen := await worker.context.accounts.credential_by_number(num)) is not None and seen.api_key == "first"
        clock.by += by
        await api.context.accounts.credentials.put(tenant, "peakmv", secrets("second"))
        await api.close()
        async with asyncio.timeout(30):
            while (seen := await worker.context.accounts.credential_by_number(num)) is None or seen.api_key != "second":  # noqa: ASYNC110
                await asyncio.sleep(0.1)
