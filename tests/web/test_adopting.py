"""`resolve adopt`: the provider is asked for the id first; until it knows it, the job can be resolved again."""

from typing import Any

import pytest

from tests.web.sandboxed import Sandboxed

pytestmark = pytest.mark.anyio
SONG = {"audio_url": "https://example.com/song.mp3"}


async def lost(sandboxed: Sandboxed) -> tuple[dict[str, Any], str]:
    """An unknown job, and the id that it has at the provider."""
    await sandboxed.control("PUT", "peakmv", "faults", drop_reply_after_accept=1.0, duration_s=[0.02, 0.05])
    before = len(await sandboxed.ledger("peakmv"))
    job = await sandboxed.ended(
        (await sandboxed.a_job({"provider": "peakmv", "operation": "generate", "input": SONG}))["id"]
    )
    rows = await sandboxed.ledger("peakmv")
    assert job["status"] == "unknown" and len(rows) == before + 1, "the fault did not happen"
    await sandboxed.control("PUT", "peakmv", "faults", duration_s=[0.02, 0.05])
    return job, rows[-1]["provider_job_id"]


def adopt(provider_job_id: str) -> dict[str, str]:
    return {"action": "adopt", "provider_job_id": provider_job_id}


@pytest.mark.parametrize("wrong", ["nobody", "11111111-1111-4111-8111-111111111111", "4711"])
async def test_an_id_that_the_provider_does_not_know_changes_nothing(sandboxed: Sandboxed, wrong: str) -> None:
    job, named = await lost(sandboxed)
    path = f"/v1/jobs/{job['id']}/resolve"
    said = await sandboxed.refused(422, "unknown_to_provider", "POST", path, json=adopt(wrong))
    assert said["param"] == "provider_job_id" and "PeakMV does not know" in said["detail"]
    assert (await sandboxed.ok("GET", f"/v1/jobs/{job['id']}"))["status"] == "unknown"
    adopted = await sandboxed.ok("POST", path, json=adopt(named))
    assert adopted["provider_job_ids"] == [named] and adopted["status"] in ("processing", "succeeded")
    assert (await sandboxed.ended(job["id"]))["status"] == "succeeded"
    await sandboxed.refused(409, "not_unknown", "POST", path, json=adopt(named))


async def test_a_provider_that_cannot_be_asked_now_leaves_the_job_to_be_resolved_again(sandboxed: Sandboxed) -> None:
    job, named = await lost(sandboxed)
    path = f"/v1/jobs/{job['id']}/resolve"
    await sandboxed.control("PUT", "peakmv", "account", api_key="another")
    await sandboxed.refused(503, "provider_unavailable", "POST", path, json=adopt(named))
    assert (await sandboxed.ok("GET", f"/v1/jobs/{job['id']}"))["status"] == "unknown"
    await sandboxed.control("PUT", "peakmv", "account", api_key="sandbox")
    assert (await sandboxed.ok("POST", path, json=adopt(named)))["provider_job_ids"] == [named]


async def test_an_id_that_another_job_has_is_not_asked_for(sandboxed: Sandboxed) -> None:
    job, named = await lost(sandboxed)
    follows = await sandboxed.a_job({"provider": "peakmv", "operation": "generate", "provider_job_id": named})
    said = await sandboxed.refused(409, "id_already_bound", "POST", f"/v1/jobs/{job['id']}/resolve", json=adopt(named))
    assert follows["id"] in said["detail"]
