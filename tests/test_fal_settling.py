"""fal's list of requests: a lost submit is found in it by its input, a result that is gone may stand in it, and nothing
that it does not show makes us send again.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.clock import SystemClock
from tests.web.conftest import ADMIN
from tests.web.sandboxed import QUICK, Sandboxed, calling

pytestmark = pytest.mark.anyio

LATER_MS = 12_000  # after which a lost submit is looked up
GIVEN_UP_MS = 300_000  # by when it is given up, at a sandbox's pace


class Ahead(SystemClock):
    """The system's clock, set ahead by as much as a test wants."""

    by_ms = 0

    def now(self) -> int:
        return super().now() + self.by_ms

    def monotonic(self) -> float:
        return super().monotonic() + self.by_ms / 1000


@pytest.fixture
def clock() -> Ahead:
    return Ahead()


@pytest.fixture
async def call(tmp_path: Path, sandbox_url: str, clock: Ahead) -> AsyncIterator[Sandboxed]:
    async with calling(tmp_path, sandbox_url, names=("fal",), clock=clock) as made:
        yield made


def a_body(model: str, given: dict[str, Any]) -> dict[str, Any]:
    return {"provider": "fal", "operation": "queue", "input": {"model": model, "input": given}}


async def ended(call: Sandboxed, clock: Ahead, job_id: str) -> dict[str, Any]:
    """The job at its end; what it waits for falls due sooner than it would."""
    async with asyncio.timeout(30):
        while True:
            await call.ok("POST", "/internal/tick", json={"budget_seconds": 20})
            job: dict[str, Any] = await call.ok("GET", f"/v1/jobs/{job_id}")
            if job["status"] in ("succeeded", "failed", "canceled", "unknown"):
                return job
            clock.by_ms += 500
            await asyncio.sleep(0.02)


async def lost(call: Sandboxed, body: dict[str, Any], times: int = 1) -> list[dict[str, Any]]:
    """So many jobs whose replies were dropped."""
    await call.control("PUT", "fal", "faults", **QUICK, drop_reply_after_accept=1, callback={"lose": 1})
    jobs = [await call.a_job(body) for _ in range(times)]
    await call.ok("POST", "/internal/tick", json={"budget_seconds": 20})
    found = [await call.ok("GET", f"/v1/jobs/{job['id']}") for job in jobs]
    assert [job["status"] for job in found] == ["submitting"] * times, "the replies were not dropped"
    await call.control("PUT", "fal", "faults", **QUICK, callback={"lose": 1})
    return found


@pytest.mark.parametrize(
    ("model", "given"),
    [
        ("fal-ai/flux/dev", {"prompt": "a kite"}),
        ("workflows/someone/clip-maker", {"steps": 5, "scale": 1.5, "on": True, "none": None}),
        ("comfy/someone/clip-maker/fast", {"deep": [{"é": "\U0001f600"}, []], "n": 9007199254740993}),
        ("110602490-clip-maker", {"scale": 2.0}),
    ],
)
async def test_lost_submit_is_found_by_its_input_and_priced(
    call: Sandboxed, clock: Ahead, model: str, given: dict[str, Any]
) -> None:
    (job,) = await lost(call, a_body(model, given))
    clock.by_ms = LATER_MS
    done = await ended(call, clock, job["id"])
    rows = await call.ledger("fal")
    assert (done["status"], done["provider_job_ids"]) == ("succeeded", [rows[0]["provider_job_id"]]), done
    assert len(rows) == 1 and done["cost"] == {"amount": "0.025", "unit": "usd", "source": "reported"}


async def test_what_passed_through_and_lost_its_reply_is_found_too(call: Sandboxed, clock: Ahead) -> None:
    await call.control("PUT", "fal", "faults", **QUICK, drop_reply_after_accept=1)
    path = "/v1/providers/fal/passthrough/workflows/someone/clip-maker"
    headers = {"authorization": f"Key {ADMIN}"}
    reply = await call("POST", path, key=None, json={"prompt": "a kite"}, headers=headers)
    assert reply.status_code >= 400
    (job,) = (await call.ok("GET", "/v1/jobs"))["data"]
    assert job["status"] in ("submitting", "unknown") and not job["provider_job_ids"]
    clock.by_ms = LATER_MS
    assert (await ended(call, clock, job["id"]))["status"] == "succeeded"
    assert len(await call.ledger("fal")) == 1


@pytest.mark.parametrize("drops", [0, 1])
async def test_a_run_on_fal_run_passes_through_and_is_kept(call: Sandboxed, clock: Ahead, drops: int) -> None:
    await call.control("PUT", "fal", "faults", **QUICK, drop_reply_after_accept=drops)
    path, headers = "/v1/providers/fal/passthrough/fal.run/fal-ai/flux/dev", {"authorization": f"Key {ADMIN}"}
    reply = await call("POST", path, key=None, json={"prompt": "a kite"}, headers=headers)
    assert drops or reply.json()["images"][0]["url"].endswith(".png")
    (job,) = (await call.ok("GET", "/v1/jobs"))["data"]
    clock.by_ms = LATER_MS if drops else 0
    done = await ended(call, clock, job["id"])
    assert (done["status"], len(done["outputs"])) == ("succeeded", 1), done
    assert [row["provider_job_id"] for row in await call.ledger("fal")] == done["provider_job_ids"]


async def test_of_several_requests_that_fit_none_is_taken_and_none_is_sent_again(call: Sandboxed, clock: Ahead) -> None:
    await call.control("PUT", "fal", "account", list_shows_open=True)
    jobs = await lost(call, a_body("fal-ai/flux/dev", {"prompt": "four of them"}), times=2)
    clock.by_ms = LATER_MS
    await call.ok("POST", "/internal/tick", json={"budget_seconds": 20})
    waiting = [await call.ok("GET", f"/v1/jobs/{job['id']}") for job in jobs]
    assert {job["status"] for job in waiting} == {"submitting"}, "a callback may still name them"
    clock.by_ms = GIVEN_UP_MS
    over = [await ended(call, clock, job["id"]) for job in jobs]
    assert [job["status"] for job in over] == ["unknown"] * 2 and "2 rows" in over[0]["reason"]
    assert len(await call.ledger("fal")) == 2


async def test_of_two_the_one_that_belongs_to_no_job_is_taken(call: Sandboxed, clock: Ahead) -> None:
    body = a_body("fal-ai/flux/dev", {"prompt": "two of them"})
    known = await call.a_job(body)
    assert (await ended(call, clock, known["id"]))["status"] == "succeeded"
    (job,) = await lost(call, body)
    clock.by_ms += LATER_MS
    done = await ended(call, clock, job["id"])
    assert done["status"] == "succeeded" and len(await call.ledger("fal")) == 2


@pytest.mark.parametrize("account", [{"stores_payloads": False}, {"api_key": "another"}])
async def test_what_the_list_does_not_show_is_not_sent_again(
    call: Sandboxed, clock: Ahead, account: dict[str, Any]
) -> None:
    keeps = {name: value for name, value in account.items() if name != "api_key"}
    await call.control("PUT", "fal", "account", **keeps)
    (job,) = await lost(call, a_body("fal-ai/flux/dev", {"prompt": "a kite"}))
    await call.control("PUT", "fal", "account", **account)
    clock.by_ms = GIVEN_UP_MS
    assert (await ended(call, clock, job["id"]))["status"] == "unknown"
    assert len(await call.ledger("fal")) == 1


async def test_completed_request_whose_result_is_gone_has_not_failed(call: Sandboxed, clock: Ahead) -> None:
    await call.control("PUT", "fal", "account", stores_payloads=False, result_life_s=0)
    await call.control("PUT", "fal", "faults", **QUICK, callback={"lose": 1})
    job = await call.a_job(a_body("fal-ai/flux/dev", {"prompt": "a kite"}))
    shown: dict[str, Any] = {}
    async with asyncio.timeout(30):
        while shown.get("reason") != "result_expired":
            await call.ok("POST", "/internal/tick", json={"budget_seconds": 20})
            shown = await call.ok("GET", f"/v1/jobs/{job['id']}")
            clock.by_ms += 500
            await asyncio.sleep(0.02)
    assert shown["status"] == "processing" and shown["provider_job_ids"] and shown["provider_data"]["response_url"]
    await call.control("PUT", "fal", "account", result_life_s=3600)
    assert (await ended(call, clock, job["id"]))["status"] == "succeeded"
