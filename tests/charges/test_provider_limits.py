"""A provider's limits and refusals: submits wait in `queued` with the reason shown, and never fail for a limit."""

import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.charges.intents import INTENTS
from tests.charges.running import call, ended, events, ledger, put_faults, serving
from tests.web.served import Served, sandbox_running

pytestmark = pytest.mark.xdist_group("charges")


def account(sandbox: str, provider: str, **fields: Any) -> None:
    assert httpx2.put(f"{sandbox}/_sandbox/{provider}/account", json=fields).status_code == 200


def submit(served: Served, provider: str, number: int) -> Any:
    intent = INTENTS[provider]
    body = {"provider": provider, "operation": intent.operation, "input": intent.given(f"nonce-{number:06d}")}
    return call(served, "POST", "/v1/jobs", json=body)


def job(served: Served, job_id: str) -> Any:
    return call(served, "GET", f"/v1/jobs/{job_id}")


def until_ended(served: Served, *ids: str) -> list[Any]:
    found: list[Any] = served.run(ended(served, list(ids)))
    return found


def until_paused(served: Served, provider: str) -> None:
    ends = time.monotonic() + 30
    while call(served, "GET", f"/v1/providers/{provider}/credentials")["paused_at"] is None:
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("code", "refuses", "mends"),
    [
        ("out_of_credit", {"credits": 0}, {"credits": 1_000_000_000}),
        ("authentication", {"api_key": "another"}, {"api_key": "sandbox"}),
    ],
)
@pytest.mark.parametrize("provider", sorted(INTENTS))
def test_a_refused_credential_is_paused_and_nobody_fails_for_it(
    provider: str, code: str, refuses: dict[str, Any], mends: dict[str, Any], tmp_path: Path
) -> None:
    with serving(tmp_path) as (served, sandbox):
        put_faults(sandbox, provider, {"duration_s": [0.05, 0.1]})
        account(sandbox, provider, **refuses)
        met = submit(served, provider, 1)["id"]
        until_paused(served, provider)
        waiting = [met, *(submit(served, provider, number)["id"] for number in (2, 3))]
        for job_id in waiting:
            waits = job(served, job_id)
            assert (waits["status"], waits["reason"]) == ("queued", f"credential_paused: {code}")
        paused = [key for key in events(served).elements() if key[1] == "credential.paused"]
        assert len(paused) == 1
        assert ledger(sandbox, provider) == []
        account(sandbox, provider, **mends)
        # As the operator does who has paid, or mended the key.
        assert call(served, "POST", f"/v1/providers/{provider}/credentials/resume")["paused_at"] is None
        assert [done["status"] for done in until_ended(served, *waiting)] == ["succeeded"] * 3
        assert len(ledger(sandbox, provider)) == 3


@pytest.mark.parametrize("provider", sorted(INTENTS))
def test_submits_wait_while_the_provider_says_not_now(provider: str, tmp_path: Path) -> None:
    with serving(tmp_path) as (served, sandbox):
        put_faults(sandbox, provider, {"error_before_accept": {"429": 1.0}, "duration_s": [0.05, 0.1]})
        ids = [submit(served, provider, number)["id"] for number in range(4)]
        refused_once(sandbox, provider)
        for job_id in ids:
            waits = job(served, job_id)
            assert waits["status"] in ("queued", "submitting")
        assert "rate_limited" in {job(served, job_id)["reason"] for job_id in ids}
        assert ledger(sandbox, provider) == []
        put_faults(sandbox, provider, {"duration_s": [0.05, 0.1]})
        assert {done["status"] for done in until_ended(served, *ids)} == {"succeeded"}
        assert len(ledger(sandbox, provider)) == 4


def refused_once(sandbox: str, provider: str) -> None:
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        happened = httpx2.get(f"{sandbox}/_sandbox/{provider}/faults").json()["happened"]
        if happened["error_before_accept.429"]:
            time.sleep(1)
            return
        time.sleep(0.05)
    raise AssertionError("the fault did not happen")


def test_no_more_jobs_run_at_the_provider_than_the_setting_allows(tmp_path: Path) -> None:
    with serving(tmp_path, CALLSHEET_PEAKMV_CONCURRENCY="2") as (served, sandbox):
        account(sandbox, "peakmv", concurrency=2)  # it refuses the third at a time with 429
        put_faults(sandbox, "peakmv", {"duration_s": [0.3, 0.5]})
        ids = [submit(served, "peakmv", number)["id"] for number in range(6)]
        assert {done["status"] for done in until_ended(served, *ids)} == {"succeeded"}
        for job_id in ids:
            timeline = call(served, "GET", f"/v1/jobs/{job_id}/timeline")["data"]
            outcomes = [entry["outcome"] for entry in timeline if entry["kind"] == "submit"]
            assert outcomes == ["sending", "accepted"], "the provider was never asked for more than it allows"


def test_a_learned_limit_lets_all_through_in_the_end(tmp_path: Path) -> None:
    with serving(tmp_path) as (served, sandbox):
        account(sandbox, "pixverse", concurrency=2)  # more are refused with 500044
        put_faults(sandbox, "pixverse", {"duration_s": [0.2, 0.4]})
        ids = [submit(served, "pixverse", number)["id"] for number in range(6)]
        assert {done["status"] for done in until_ended(served, *ids)} == {"succeeded"}
        assert len(ledger(sandbox, "pixverse")) == 6


def test_the_rate_of_submits_is_kept(tmp_path: Path) -> None:
    with serving(tmp_path, CALLSHEET_PEAKMV_RATE="2") as (served, sandbox):
        put_faults(sandbox, "peakmv", {"duration_s": [0.05, 0.1]})
        began = time.monotonic()
        ids = [submit(served, "peakmv", number)["id"] for number in range(6)]
        until_ended(served, *ids)
        at = sorted(row["accepted_at"] for row in ledger(sandbox, "peakmv"))
        assert len(at) == 6
        assert time.monotonic() - began >= 1.5, "two at once, then two a second"


def test_a_tick_submits_where_the_number_of_running_jobs_is_limited(tmp_path: Path) -> None:
    """Its loops run only while it is ticked: what has yet to be counted must not look like nothing to do."""
    served = Served(tmp_path, CALLSHEET_PEAKMV_CONCURRENCY="2")
    with sandbox_running(served.url) as sandbox, served.running(sandbox):
        put_faults(sandbox, "peakmv", {"duration_s": [0.05, 0.1]})
        job_id = submit(served, "peakmv", 1)["id"]
        call(served, "POST", "/internal/tick", json={"budget_seconds": 30})
        assert job(served, job_id)["status"] == "processing"
