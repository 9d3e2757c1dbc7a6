"""`callsheet reconcile`, as a process, against a service and a sandbox that lost a reply."""

import json
import uuid
from typing import Any

import httpx2

from tests.cli.conftest import VIDEO, World

JOB = {"provider": "pixverse", "operation": "text_to_video", "input": VIDEO}


def elsewhere(world: World) -> str:
    """A video that somebody makes with the same key, without this service."""
    headers = {"API-KEY": "sandbox", "Ai-trace-id": str(uuid.uuid4())}
    url = f"{world.sandbox}/pixverse/openapi/v2/video/text/generate"
    return str(httpx2.post(url, json=VIDEO, headers=headers).json()["Resp"]["video_id"])


def test_lost_submit_is_adopted_and_a_stray_charge_is_shown(asleep: World) -> None:
    world = asleep
    with world.listening("serve", "--role", "api", "--port", world.port):  # no loop runs by itself
        world.faults("pixverse", drop_reply_after_accept=1)
        job = world.api("POST", "/v1/jobs", JOB)
        world.api("POST", "/internal/tick", {"budget_seconds": 20})
        world.faults("pixverse")
        assert world.api("GET", f"/v1/jobs/{job['id']}")["status"] == "submitting", "the reply was not dropped"
        stray = elsewhere(world)
        shown = world.ok("reconcile", "--provider", "pixverse", "--since", "1h")
        assert "read 2 rows" in shown and "1 adopted, 0 updated" in shown
        adopted, charges = shown.partition("charges without a job\n")[::2]
        assert job["id"] in adopted and "processing" in adopted
        assert stray in charges and "45" in charges and job["id"] not in charges
        again: dict[str, Any] = json.loads(world.ok("reconcile", "--provider", "pixverse", "--json"))
        assert again["adopted"] == [] and [row["provider_job_id"] for row in again["charges_without_job"]] == [stray]
        assert len(world.ledger("pixverse")) == 2


def test_refusals_are_sentences(asleep: World) -> None:
    world = asleep
    with world.listening("serve", "--role", "api", "--port", world.port):
        refused = world.run("reconcile", "--provider", "peakmv")
        assert refused.returncode == 1 and "PeakMV lists no history" in refused.stderr
        refused = world.run("reconcile", "--provider", "nobody")
        assert refused.returncode == 1 and "there are: " in refused.stderr
        refused = world.run("reconcile", "--provider", "pixverse", "--since", "sometime")
        assert refused.returncode == 1 and "RFC 3339" in refused.stderr
    refused = world.run("reconcile")
    assert refused.returncode == 2 and "--provider" in refused.stderr
