"""Canceling at the provider: asked once, confirmed by the provider, and by the deadline where nobody asks."""

import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.charges.intents import INTENTS
from tests.charges.running import call, ended, events, ledger, put_faults, serving
from tests.charges.test_provider_limits import submit
from tests.web.served import ADMIN, Served

pytestmark = pytest.mark.xdist_group("charges")
CANCELS = ("fal", "progressiverobot", "replicate")


def until_processing(served: Served, job_id: str) -> Any:
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        job = call(served, "GET", f"/v1/jobs/{job_id}")
        if job["status"] == "processing":
            return job
        time.sleep(0.05)
    raise AssertionError("it was not accepted")


@pytest.mark.parametrize("provider", CANCELS)
def test_a_cancel_is_sent_to_the_provider_and_confirmed_by_it(provider: str, tmp_path: Path) -> None:
    with serving(tmp_path) as (served, sandbox):
        put_faults(sandbox, provider, {"duration_s": [60, 60]})
        job_id = submit(served, provider, 1)["id"]
        until_processing(served, job_id)
        asked = httpx2.post(f"{served.url}/v1/jobs/{job_id}/cancel", headers={"Authorization": f"Bearer {ADMIN}"})
        assert asked.status_code == 202
        assert asked.json()["cancel_requested_at"]
        job = served.run(ended(served, [job_id]))[0]
        assert (job["status"], job["error"]["code"]) == ("canceled", "canceled")
        assert events(served)[job_id, "job.canceled"] == 1
        assert len(ledger(sandbox, provider)) == 1
        timeline = call(served, "GET", f"/v1/jobs/{job_id}/timeline")["data"]
        assert [entry["cancel"] for entry in timeline if "cancel" in entry] == ["requested", "sent"]


@pytest.mark.parametrize("provider", CANCELS)
def test_a_job_past_its_deadline_is_canceled_at_the_provider(provider: str, tmp_path: Path) -> None:
    with serving(tmp_path) as (served, sandbox):
        put_faults(sandbox, provider, {"duration_s": [60, 60]})
        intent = INTENTS[provider]
        body = {"provider": provider, "operation": intent.operation, "input": intent.given("nonce-000001")}
        job_id = call(served, "POST", "/v1/jobs", json=body | {"deadline_seconds": 2})["id"]
        job = served.run(ended(served, [job_id]))[0]
        timeline = call(served, "GET", f"/v1/jobs/{job_id}/timeline")["data"]
        assert [entry["cancel"] for entry in timeline if "cancel" in entry] == ["sent"]
        assert (job["status"], job["error"]["code"]) == ("failed", "deadline_exceeded")


@pytest.mark.parametrize("provider", sorted(set(INTENTS) - set(CANCELS)))
def test_a_provider_that_cannot_cancel_is_not_asked(provider: str, tmp_path: Path) -> None:
    with serving(tmp_path) as (served, sandbox):
        put_faults(sandbox, provider, {"duration_s": [1, 1]})
        job_id = submit(served, provider, 1)["id"]
        until_processing(served, job_id)
        asked = httpx2.post(f"{served.url}/v1/jobs/{job_id}/cancel", headers={"Authorization": f"Bearer {ADMIN}"})
        assert (asked.status_code, asked.json()["code"]) == (409, "cancel_unsupported")
        assert served.run(ended(served, [job_id]))[0]["status"] == "succeeded"
