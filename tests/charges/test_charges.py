"""What is charged, by every provider's own ledger, where replies are lost after the provider accepted.

30 % of the submits' replies are dropped after acceptance, 5 % are answered with a gateway's 500. An intent is told by a
nonce in its input, never by the reference that we send: a blind retry with a fresh reference would show.
"""

import collections
import os
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from tests.charges.intents import INTENTS
from tests.charges.running import OPEN, call, ended, events, ledger, nonce_of, put_faults, serving, submitted

pytestmark = [pytest.mark.charges, pytest.mark.xdist_group("charges")]

JOBS = int(os.environ.get("CALLSHEET_CHARGES_JOBS", "40"))
FAULTS = {
    "seed": 11,
    "drop_reply_after_accept": 0.3,
    "error_after_accept": {"500": 0.05},
    "duration_s": [0.05, 0.4],
    "callback": {"retry_s": [0.2, 0.5, 1, 2]},
}
TERMINAL_TYPES = ("job.succeeded", "job.failed", "job.canceled")


class Outcome(NamedTuple):
    """What came of one provider's run."""

    jobs: list[dict[str, Any]]
    ledger: list[dict[str, Any]]
    happened: dict[str, int]
    events: collections.Counter[tuple[str, str]]


@pytest.mark.parametrize("provider", sorted(INTENTS))
def test_no_intent_is_charged_twice_and_every_lost_reply_is_settled_or_seen(provider: str, tmp_path: Path) -> None:
    outcome = run(provider, tmp_path)
    charges = collections.Counter(nonce_of(row["input"]) for row in outcome.ledger)
    by_status = collections.Counter(job["status"] for job in outcome.jobs)
    lost = outcome.happened["drop_reply_after_accept"] + outcome.happened["error_after_accept.500"]
    print(
        f"\n{provider}: {len(outcome.jobs)} jobs {dict(by_status)}, {len(outcome.ledger)} charges, {lost} replies lost"
    )
    assert lost > JOBS / 6, "the faults did not happen"
    assert max(charges.values()) == 1, "an intent was charged twice"
    assert len(outcome.ledger) <= len(outcome.jobs) == JOBS
    assert not set(by_status) & set(OPEN)
    unknown = [job for job in outcome.jobs if job["status"] == "unknown"]
    if INTENTS[provider].settles:
        assert not unknown, [job["reason"] for job in unknown][:3]
    else:
        assert len(unknown) == lost, "every submit whose reply was lost is visible"
    for job in outcome.jobs:
        ended = sum(outcome.events[job["id"], kind] for kind in TERMINAL_TYPES)
        assert ended == (job["status"] != "unknown"), (job["id"], job["status"])
        assert outcome.events[job["id"], "job.unknown"] == (job["status"] == "unknown")


def test_what_is_left_unknown_is_settled_by_a_person(tmp_path: Path) -> None:
    """PeakMV has nothing to look in: the ledger plays its dashboard."""
    with serving(tmp_path) as (served, sandbox):
        put_faults(sandbox, "peakmv", FAULTS | {"drop_reply_after_accept": 1.0})
        jobs = served.run(submitted(served, "peakmv", 3))
        assert [job["status"] for job in jobs] == ["unknown"] * 3
        put_faults(sandbox, "peakmv", {"duration_s": [0.05, 0.1]})
        ids = {nonce_of(row["input"]): row["provider_job_id"] for row in ledger(sandbox, "peakmv")}
        for job in jobs:
            adopt = {"action": "adopt", "provider_job_id": ids[nonce_of(job["input"])]}
            call(served, "POST", f"/v1/jobs/{job['id']}/resolve", json=adopt)
        done = served.run(ended(served, [job["id"] for job in jobs]))
        assert [job["status"] for job in done] == ["succeeded"] * 3
        assert len(ledger(sandbox, "peakmv")) == 3


def run(provider: str, folder: Path) -> Outcome:
    with serving(folder) as (served, sandbox):
        put_faults(sandbox, provider, FAULTS)
        jobs = served.run(submitted(served, provider, JOBS))
        happened = httpx2.get(f"{sandbox}/_sandbox/{provider}/faults").json()["happened"]
        return Outcome(jobs, ledger(sandbox, provider), happened, events(served))
