"""Replicate and fal against the real service: each job's own callback URL, fetched keys, lost replies, forgeries."""

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.web.served import ADMIN, Served, sandbox_running

OVER = ("succeeded", "failed", "canceled", "unknown")
SUBMITS: dict[str, dict[str, Any]] = {
    "replicate": {"operation": "model_prediction", "input": {"model": "acme/flux", "input": {"prompt": "a red kite"}}},
    "fal": {"operation": "queue", "input": {"model": "fal-ai/flux/dev", "input": {"prompt": "a red kite"}}},
}
QUICK = {"duration_s": [0.05, 0.1]}


class Running:
    """The service and the sandbox, each called over its own socket."""

    def __init__(self, service_url: str, sandbox_url: str):
        headers = {"Authorization": f"Bearer {ADMIN}"}
        self.service = httpx2.Client(base_url=service_url, headers=headers, timeout=60)
        self.sandbox = httpx2.Client(base_url=sandbox_url, timeout=10)

    def close(self) -> None:
        self.service.close()
        self.sandbox.close()

    def set_up(self, provider: str, account: dict[str, Any] | None = None, **faults: Any) -> None:
        assert self.sandbox.post(f"/_sandbox/{provider}/reset").status_code == 200
        assert self.sandbox.put(f"/_sandbox/{provider}/account", json=account or {}).status_code == 200
        assert self.sandbox.put(f"/_sandbox/{provider}/faults", json={**QUICK, **faults}).status_code == 200

    def played(self, provider: str, what: str) -> Any:
        return self.sandbox.get(f"/_sandbox/{provider}/{what}").json()

    def submit(self, provider: str) -> str:
        reply = self.service.post("/v1/jobs", json={"provider": provider, **SUBMITS[provider]})
        assert reply.status_code == 202, reply.text
        return str(reply.json()["id"])

    def tick(self) -> None:
        reply = self.service.post("/internal/tick", json={"budget_seconds": 30})
        assert reply.status_code == 200, reply.text

    def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.service.get(f"/v1/jobs/{job_id}").json()
        return job

    def ended(self, *job_ids: str, ticking: bool = True) -> list[dict[str, Any]]:
        """The jobs once all are over. Without ticks only a callback can bring news."""
        deadline = time.monotonic() + 40
        while True:
            jobs = [self.job(job_id) for job_id in job_ids]
            if all(job["status"] in OVER for job in jobs):
                return jobs
            assert time.monotonic() < deadline, [(job["status"], job["reason"]) for job in jobs]
            if ticking:
                self.tick()
            time.sleep(0.05)

    def timeline(self, job_id: str, kind: str) -> list[dict[str, Any]]:
        rows = self.service.get(f"/v1/jobs/{job_id}/timeline").json()["data"]
        return [row for row in rows if row["kind"] == kind]

    def events(self, job_id: str) -> list[str]:
        return [row["type"] for row in self.timeline(job_id, "event")]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    served = Served(tmp_path_factory.mktemp("per_job"))
    with sandbox_running(served.url) as sandbox_url, served.running(sandbox_url):
        both = Running(served.url, sandbox_url)
        yield both
        both.close()


both_providers = pytest.mark.parametrize("provider", SUBMITS)


@both_providers
def test_callback_alone_finishes_a_job(running: Running, provider: str) -> None:
    running.set_up(provider, duration_s=[0.5, 0.5])
    job_id = running.submit(provider)
    running.tick()
    assert running.job(job_id)["status"] == "processing", "the callback must come after the reply here"
    (job,) = running.ended(job_id, ticking=False)
    (row,) = running.played(provider, "ledger")["data"]
    assert job["status"] == "succeeded" and job["provider_job_ids"] == [row["provider_job_id"]]
    assert job["outputs"][0]["kind"] == "image"
    assert [said["verdict"] for said in running.timeline(job_id, "callback")] == ["verified"]
    assert running.timeline(job_id, "poll") == []
    assert row["reference"] and row["reference"] not in str(job)


@both_providers
def test_reply_that_was_lost_is_settled_by_the_callback(running: Running, provider: str) -> None:
    told_by_nothing_else = {"list_shows_webhook": False} if provider == "replicate" else {}
    running.set_up(provider, told_by_nothing_else, drop_reply_after_accept=1)
    job_ids = [running.submit(provider) for _ in range(5)]
    jobs = running.ended(*job_ids)
    rows = running.played(provider, "ledger")["data"]
    assert running.played(provider, "faults")["happened"]["drop_reply_after_accept"] == 5 == len(rows)
    assert [job["status"] for job in jobs] == ["succeeded"] * 5
    assert {job["provider_job_ids"][0] for job in jobs} == {row["provider_job_id"] for row in rows}
    for job_id in job_ids:
        assert running.events(job_id).count("job.succeeded") == 1 and "job.unknown" not in running.events(job_id)


@both_providers
def test_callback_that_comes_before_the_reply_finds_its_job(running: Running, provider: str) -> None:
    running.set_up(provider, callback={"before_reply": 1})
    job_id = running.submit(provider)
    (job,) = running.ended(job_id)
    assert job["status"] == "succeeded" and running.played(provider, "faults")["happened"]["callback.before_reply"] == 1
    assert len(running.played(provider, "ledger")["data"]) == 1
    assert running.events(job_id).count("job.succeeded") == 1


@both_providers
def test_forged_callback_is_refused_and_changes_nothing(running: Running, provider: str) -> None:
    running.set_up(provider, callback={"forge": 1, "lose": 1}, duration_s=[0.3, 0.3])
    job_id = running.submit(provider)
    running.tick()
    deadline = time.monotonic() + 30
    while not (told := running.played(provider, "callbacks"))["forged_sent"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (told["forged_accepted"], told["sent"]) == (0, 0) and told["last"][0]["status"] == 401
    assert running.job(job_id)["status"] == "processing" and running.timeline(job_id, "callback") == []
    (job,) = running.ended(job_id)  # by a read, later
    assert job["status"] == "succeeded" and "forged" not in str(job)


@both_providers
def test_copies_of_a_callback_make_one_event(running: Running, provider: str) -> None:
    running.set_up(provider, callback={"duplicate": 4})
    job_id = running.submit(provider)
    running.ended(job_id)
    deadline = time.monotonic() + 30
    while running.played(provider, "callbacks")["accepted"] < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert running.events(job_id).count("job.succeeded") == 1
    assert running.played(provider, "faults")["happened"]["callback.duplicate"] == 3


@both_providers
@pytest.mark.parametrize(("fault", "code"), [("fail", "provider_error"), ("moderation", "content_moderated")])
def test_failure_comes_by_callback_too(running: Running, provider: str, fault: str, code: str) -> None:
    running.set_up(provider, **{fault: 1})
    (job,) = running.ended(running.submit(provider))
    assert (job["status"], job["error"]["code"]) == ("failed", code)


@both_providers
def test_lost_callback_only_costs_time(running: Running, provider: str) -> None:
    running.set_up(provider, callback={"lose": 1})
    job_id = running.submit(provider)
    (job,) = running.ended(job_id)
    assert job["status"] == "succeeded" and running.played(provider, "faults")["happened"]["callback.lose"] == 1
    assert running.timeline(job_id, "callback") == []


@both_providers
def test_cancel_is_confirmed_by_the_provider(running: Running, provider: str) -> None:
    running.set_up(provider, duration_s=[30, 30])
    job_id = running.submit(provider)
    running.tick()
    assert running.service.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    (job,) = running.ended(job_id)
    assert job["status"] == "canceled" and running.events(job_id).count("job.canceled") == 1


def test_replicates_lost_submit_without_a_callback_is_found_in_its_list(running: Running) -> None:
    running.set_up("replicate", drop_reply_after_accept=1, callback={"lose": 1})
    (job,) = running.ended(running.submit("replicate"))
    (row,) = running.played("replicate", "ledger")["data"]
    assert job["status"] == "succeeded" and job["provider_job_ids"] == [row["provider_job_id"]]


def test_replicates_new_secret_costs_time_while_the_old_one_was_just_fetched(running: Running) -> None:
    """Keys are fetched again at most once a minute, so that forgeries cannot make us ask without end."""
    running.set_up("replicate")
    running.ended(running.submit("replicate"))  # the old one is known now
    running.set_up("replicate", account={"webhook_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})
    (job,) = running.ended(running.submit("replicate"))
    assert job["status"] == "succeeded" and running.played("replicate", "callbacks")["refused"] >= 1


def test_fals_unwritable_payload_is_read_at_its_url(running: Running) -> None:
    running.set_up("fal", account={"payload_unwritable": 1})
    job_id = running.submit("fal")
    (job,) = running.ended(job_id)
    assert job["status"] == "succeeded" and job["outputs"][0]["url"].endswith(".png")
    assert running.played("fal", "faults")["happened"]["payload_unwritable"] == 1


@pytest.mark.parametrize("differs", [0, 1])
def test_fals_callback_fits_whatever_the_gateways_id(running: Running, differs: int) -> None:
    running.set_up("fal", account={"gateway_differs": differs}, drop_reply_after_accept=0.5, seed=3)
    jobs = running.ended(*[running.submit("fal") for _ in range(6)])
    assert [job["status"] for job in jobs] == ["succeeded"] * 6
    happened = running.played("fal", "faults")["happened"]
    assert happened.get("gateway_differs", 0) == 6 * differs and 0 < happened["drop_reply_after_accept"] < 6


@pytest.mark.parametrize("model", ["fal-ai/flux/dev", "workflows/someone/clip-maker"])
def test_a_success_that_a_callback_told_gets_its_cost_from_one_read(running: Running, model: str) -> None:
    running.set_up("fal")
    body = {"provider": "fal", "operation": "queue", "input": {"model": model, "input": {"prompt": "a kite"}}}
    job_id = str(running.service.post("/v1/jobs", json=body).json()["id"])
    running.tick()
    (told,) = running.ended(job_id, ticking=False)
    assert (told["status"], told["cost"]) == ("succeeded", None)
    deadline = time.monotonic() + 40
    while (job := running.job(job_id))["cost"] is None:
        assert time.monotonic() < deadline, job
        running.tick()
        time.sleep(0.05)
    assert job["cost"] == {"amount": "0.025", "unit": "usd", "source": "reported"}
    assert job["outputs"] == told["outputs"] and running.events(job_id).count("job.succeeded") == 1
