"""Reconciling over real sockets: what the sandboxes' books say against what a service with faults has kept."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.clock import SystemClock
from service.models import Job
from tests.web.conftest import INPUT, PIXVERSE
from tests.web.sandboxed import QUICK, Sandboxed, running

pytestmark = pytest.mark.anyio

ROBOT = {"provider": "progressiverobot", "operation": "generate", "input": {"prompt": "a kite", "model": "wan-t2v"}}
REPLICATE = {"provider": "replicate", "operation": "model_prediction", "input": {"model": "a/b", "input": {"x": 1}}}
VIDEO = {"provider": "aimlapi", "operation": "video", "input": {"model": "pixverse/v5/text-to-video", "prompt": "a"}}
PROVIDERS = ("pixverse", "progressiverobot", "replicate")


class Ahead(SystemClock):
    """The system's clock, set ahead by as much as a test wants."""

    by_ms = 0

    def now(self) -> int:
        return super().now() + self.by_ms

    def monotonic(self) -> float:
        return super().monotonic() + self.by_ms / 1000


class World(Sandboxed):
    """A service beside sandboxes of its own account; its clock can be set ahead."""

    clock: Ahead

    async def reconcile(self, provider: str = "pixverse", hours: float = 6) -> dict[str, Any]:
        since = datetime.now(UTC) - timedelta(hours=hours)
        body = {"since": since.isoformat()}
        report: dict[str, Any] = await self.ok("POST", f"/v1/providers/{provider}/reconcile", json=body)
        return report

    async def tick(self) -> None:
        await self.ok("POST", "/internal/tick", json={"budget_seconds": 30})

    async def submitted(self, body: Any = PIXVERSE) -> dict[str, Any]:
        """A job after its POST has left."""
        job = await self.a_job(body)
        await self.tick()
        return await self.read(job)

    async def read(self, job: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = await self.ok("GET", f"/v1/jobs/{job['id']}")
        return found

    async def unknown(self, body: Any) -> dict[str, Any]:
        """A job that was charged and that nobody could find: its reply was dropped, then the key did not work."""
        name = body["provider"]
        await self.control("PUT", name, "faults", **QUICK, drop_reply_after_accept=1)
        job = await self.submitted(body)
        assert job["status"] == "submitting" and len(await self.ledger(name)) == 1
        await self.control("PUT", name, "faults", **QUICK)
        await self.control("PUT", name, "account", api_key="another")
        self.clock.by_ms += 4 * 3_600_000
        await self.tick()
        await self.control("PUT", name, "account", api_key="sandbox")
        await asyncio.sleep(0.1)  # the provider has done it meanwhile
        job = await self.read(job)
        assert job["status"] == "unknown" and job["provider_job_ids"] == []
        return job

    async def elsewhere(self, **more: Any) -> str:
        """A video that somebody makes with the same key, without this service."""
        headers = {"API-KEY": "sandbox", "Ai-trace-id": str(uuid.uuid4())}
        reply = await self._sandbox.post("/pixverse/openapi/v2/video/text/generate", json=INPUT, headers=headers | more)
        return str(reply.json()["Resp"]["video_id"])

    async def stored(self, job: dict[str, Any]) -> Job:
        found = await self.context.store.job_by_id(job["id"])
        assert found is not None
        return found

    async def types(self, job: dict[str, Any]) -> list[str]:
        events = await self.ok("GET", "/v1/events", params={"job": job["id"]})
        return [event["type"] for event in reversed(events["data"])]


@pytest.fixture
async def world(tmp_path: Path, sandbox_url: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as ends:
        clock = Ahead()
        service = await ends.enter_async_context(running(tmp_path, clock, CALLSHEET_SANDBOX_URL=sandbox_url))
        sandbox = await ends.enter_async_context(httpx2.AsyncClient(base_url=sandbox_url))
        world = World(service, sandbox)
        world.clock = clock
        ends.push_async_callback(world.http.aclose)
        for provider in PROVIDERS:
            await world.control("POST", provider, "reset")
            await world.control("PUT", provider, "faults", **QUICK)
        yield world


def nothing_in(report: dict[str, Any]) -> bool:
    return not any(report[name] for name in ("adopted", "updated", "charges_without_job", "jobs_without_charge"))


# -- adopting -------------------------------------------------------------------------------------


async def test_dropped_reply_is_adopted_by_its_trace_id(world: World) -> None:
    await world.control("PUT", "pixverse", "faults", **QUICK, drop_reply_after_accept=1)
    job = await world.submitted()
    assert job["status"] == "submitting", "the reply was not dropped"
    charged = await world.ledger("pixverse")
    assert len(charged) == 1
    report = await world.reconcile()
    assert report["read"] == 1
    adopted = {"job": job["id"], "provider_job_ids": [charged[0]["provider_job_id"]], "status": "processing"}
    assert report["adopted"] == [adopted]
    assert report["updated"] == report["charges_without_job"] == report["jobs_without_charge"] == []
    assert (await world.ended(job["id"]))["status"] == "succeeded"
    assert await world.types(job) == ["job.processing", "job.succeeded"]
    assert await world.ledger("pixverse") == charged
    assert nothing_in(await world.reconcile())


async def test_unknown_job_is_adopted_once_its_key_works_again(world: World) -> None:
    job = await world.unknown(PIXVERSE)
    assert [row["job"] for row in (await world.reconcile())["adopted"]] == [job["id"]]
    done = await world.ended(job["id"])
    assert (done["status"], done["cost"]) == ("succeeded", {"amount": "45", "unit": "credits", "source": "reported"})
    assert await world.types(job) == ["job.unknown", "job.processing", "job.succeeded"]
    assert len(await world.ledger("pixverse")) == 1


async def test_many_dropped_replies_are_adopted_each_by_its_own_row(world: World) -> None:
    await world.control("PUT", "pixverse", "faults", **QUICK, seed=3, drop_reply_after_accept=0.5)
    jobs = [await world.a_job({**PIXVERSE, "input": {**INPUT, "prompt": f"nonce {n}"}}) for n in range(40)]
    await world.tick()
    lost = {row["id"] for row in [await world.read(job) for job in jobs] if row["status"] == "submitting"}
    assert 10 < len(lost) < 30, "the fault did not happen"
    report = await world.reconcile()
    assert report["read"] == 40 and {row["job"] for row in report["adopted"]} == lost
    ledger = {row["provider_job_id"]: row["input"]["prompt"] for row in await world.ledger("pixverse")}
    assert len(ledger) == 40
    for job in jobs:
        (named,) = (await world.read(job))["provider_job_ids"]
        assert ledger[named] == job["input"]["prompt"]


async def test_of_several_rows_under_one_correlation_none_is_adopted(world: World) -> None:
    """Who sends through the provider's own API chooses the request id, and may choose the same again and again."""
    await world.control("POST", "aimlapi", "reset")
    await world.control("PUT", "aimlapi", "faults", **QUICK, drop_reply_after_accept=1)
    job = await world.submitted(VIDEO)
    assert job["status"] == "submitting", "the reply was not dropped"
    await world.control("PUT", "aimlapi", "faults", **QUICK)
    headers = {"Authorization": "Bearer sandbox", "X-Client-Request-Id": (await world.stored(job)).correlation}
    again = await world._sandbox.post("/aimlapi/v2/video/generations", json=VIDEO["input"], headers=headers)
    assert again.status_code < 300 and len(await world.ledger("aimlapi")) == 2
    await asyncio.sleep(0.3)  # both have ended, and are in the logs
    report = await world.reconcile("aimlapi")
    assert (report["read"], report["adopted"]) == (2, [])
    assert len(report["charges_without_job"]) == 2
    assert (await world.read(job))["provider_job_ids"] == []


async def test_row_without_a_correlation_is_adopted_by_what_tells_it_from_others(world: World) -> None:
    """Progressive Robot lists no request ids: its own look-up compares model, prompt and the seed that we drew."""
    job = await world.unknown(ROBOT)
    report = await world.reconcile("progressiverobot")
    assert [row["job"] for row in report["adopted"]] == [job["id"]]
    assert report["charges_without_job"] == []
    assert (await world.ended(job["id"]))["status"] == "succeeded"
    assert len(await world.ledger("progressiverobot")) == 1


async def test_row_is_adopted_by_the_callback_url_that_its_submit_was_told(world: World) -> None:
    """Replicate's list has no request ids either, and names the URL that it calls."""
    job = await world.unknown(REPLICATE)
    report = await world.reconcile("replicate")
    assert [row["job"] for row in report["adopted"]] == [job["id"]]
    assert report["charges_without_job"] == []
    assert len(await world.ledger("replicate")) == 1


async def test_job_that_a_person_gave_up_is_followed_for_what_it_was_charged(world: World) -> None:
    job = await world.unknown(PIXVERSE)
    await world.ok("POST", f"/v1/jobs/{job['id']}/resolve", json={"action": "fail"})
    report = await world.reconcile()
    assert [(row["job"], row["status"]) for row in report["adopted"]] == [(job["id"], "failed")]
    await world.tick()
    assert (await world.types(job))[-1] == "job.late_result"
    assert (await world.read(job))["outputs"][0]["url"].endswith(".mp4")


# -- telling --------------------------------------------------------------------------------------


async def test_job_whose_row_does_not_say_how_it_ended_is_read_now(world: World) -> None:
    job = await world.submitted()
    assert job["status"] == "processing"
    await asyncio.sleep(0.1)  # it is done there
    assert ((await world.stored(job)).due_at or 0) > world.clock.now(), "its read is due later"
    report = await world.reconcile()
    (named,) = job["provider_job_ids"]
    assert report["updated"] == [{"job": job["id"], "provider_job_id": named, "status": "processing", "read_now": True}]
    await world.tick()
    assert (await world.read(job))["status"] == "succeeded"


async def test_end_that_the_list_tells_is_applied_and_announced(world: World) -> None:
    await world.control("PUT", "replicate", "faults", **QUICK, callback={"lose": 1})
    job = await world.submitted(REPLICATE)
    assert job["status"] == "processing"
    await asyncio.sleep(0.3)
    assert (await world.read(job))["status"] == "processing", "nobody has told it"
    report = await world.reconcile("replicate")
    (named,) = job["provider_job_ids"]
    assert report["updated"] == [{"job": job["id"], "provider_job_id": named, "status": "succeeded", "read_now": False}]
    assert (await world.types(job))[-1] == "job.succeeded"
    assert nothing_in(await world.reconcile("replicate"))


# -- what does not match --------------------------------------------------------------------------


async def test_charge_of_somebody_else_is_listed_and_a_refunded_one_is_not(world: World) -> None:
    ours = await world.submitted()
    theirs = await world.elsewhere()
    await world.control("PUT", "pixverse", "faults", **QUICK, fail=1)
    await world.elsewhere()
    await asyncio.sleep(0.1)  # it has failed, and its credits are back
    report = await world.reconcile()
    (stray,) = report["charges_without_job"]
    assert (stray["provider_job_id"], stray["cost"]["amount"], stray["operation"]) == (theirs, "45", "text_to_video")
    assert stray["at"] and stray["correlation"] and stray["about"]["credits_status"] == "consume"
    assert report["read"] == 3 and report["adopted"] == []
    assert ours["provider_job_ids"] != [theirs]


async def test_job_that_the_provider_does_not_list_is_told(world: World) -> None:
    followed = await world.a_job({"provider": "pixverse", "operation": "text_to_video", "provider_job_id": "4711"})
    listed = await world.submitted()
    assert (await world.reconcile())["jobs_without_charge"] == [], "it may be too new to be listed"
    world.clock.by_ms += 120_000
    report = await world.reconcile()
    assert report["jobs_without_charge"] == [
        {"job": followed["id"], "provider_job_ids": ["4711"], "operation": "text_to_video", "status": "processing"}
    ]
    assert listed["id"] not in str(report["jobs_without_charge"])


async def test_what_was_charged_before_the_period_is_not_told(world: World) -> None:
    await world.elsewhere()
    world.clock.by_ms += 3 * 3_600_000
    body = {"since": datetime.fromtimestamp(world.clock.now() / 1000 - 3600, UTC).isoformat()}
    report = await world.ok("POST", "/v1/providers/pixverse/reconcile", json=body)
    assert report["charges_without_job"] == []
    assert (await world.reconcile())["charges_without_job"] != []


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["peakmv", "fal"])
async def test_provider_without_a_history_is_refused_with_what_to_do(world: World, provider: str) -> None:
    body = {"since": "2026-01-31T12:00:00Z"}
    said = await world.refused(422, "no_history", "POST", f"/v1/providers/{provider}/reconcile", json=body)
    assert said["param"] == "provider" and "resolve" in said["detail"]


async def test_bad_times_and_providers_are_refused(world: World) -> None:
    path = "/v1/providers/pixverse/reconcile"
    for since in ("yesterday", "2026-01-31T12:00:00", "2999-01-01T00:00:00Z"):
        said = await world.refused(422, "invalid", "POST", path, json={"since": since})
        assert said["param"] == "since"
    await world.refused(422, "invalid", "POST", path, json={"since": "2001-01-01T00:00:00Z"})
    body = {"since": "2026-01-31T12:00:00Z"}
    await world.refused(404, "not_found", "POST", "/v1/providers/nobody/reconcile", json=body)
    key = await world.a_key("jobs:write", "jobs:read", "providers:read")
    await world.refused(403, "forbidden", "POST", path, json=body, key=key)


async def test_provider_that_does_not_answer_is_not_now_and_nothing_changes(world: World) -> None:
    job = await world.unknown(PIXVERSE)
    await world.control("PUT", "pixverse", "account", api_key="another")
    body = {"since": (datetime.now(UTC) - timedelta(hours=1)).isoformat()}
    await world.refused(503, "unavailable", "POST", "/v1/providers/pixverse/reconcile", json=body)
    assert (await world.read(job))["status"] == "unknown"
