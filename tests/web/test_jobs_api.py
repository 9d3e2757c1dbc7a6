"""Jobs over HTTP, on the real store."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from service.facts import Arrival, Begin, Update
from service.states import JobStatus, Source
from service.web import answers
from tests.web.conftest import Client
from tests.web.sandboxed import running
from tests.web.shapes import has_exactly

pytestmark = pytest.mark.anyio

PIXVERSE = {
    "provider": "pixverse",
    "operation": "text_to_video",
    "input": {"prompt": "a cat", "model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"},
}


async def test_a_submit_answers_202_with_the_whole_job(call: Any) -> None:
    response = await call("POST", "/v1/jobs", json={**PIXVERSE, "metadata": {"team": "films"}, "deadline_seconds": 60})
    job = response.json()
    assert response.status_code == 202 and response.headers["location"] == f"/v1/jobs/{job['id']}"
    has_exactly(job, answers.Job)
    assert (job["status"], job["input"], job["metadata"]) == ("queued", PIXVERSE["input"], {"team": "films"})
    assert await call.ok("GET", f"/v1/jobs/{job['id']}") == job


async def test_what_is_inside_input_passes_untouched(call: Any) -> None:
    text = '{"provider":"pixverse","operation":"text_to_video","\\u0069nput": {"prompt":"x", "model":"v5","duration":5,'
    text += '"quality":"540p","aspect_ratio":"1:1","new_field":{"id":123456789012345678901,"n":[1.50, null]} }}'
    response = await call("POST", "/v1/jobs", content=text.encode(), headers={"content-type": "application/json"})
    assert response.status_code == 202, response.text
    assert '"id":123456789012345678901,"n":[1.50, null]' in response.text
    stored = await call.context.store.job_input(1)
    assert stored == text[text.index('{"prompt"') : -1].encode()


async def test_the_same_key_and_body_give_the_same_job_however_they_are_written(call: Any) -> None:
    first = await call("POST", "/v1/jobs", json=PIXVERSE, headers={"idempotency-key": "intent-1"})
    assert "idempotent-replayed" not in first.headers
    other_order = dict(reversed(list(PIXVERSE.items())))
    again = await call("POST", "/v1/jobs", json=other_order, headers={"idempotency-key": '"intent-1"'})
    assert again.status_code == 202 and again.headers["idempotent-replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]
    await call.ok("POST", f"/v1/jobs/{first.json()['id']}/cancel")
    later = await call("POST", "/v1/jobs", json=PIXVERSE, headers={"idempotency-key": "intent-1"})
    assert later.status_code == 202 and later.json()["status"] == "canceled"  # the job as it is now


async def test_the_same_key_with_another_body_is_refused_and_stores_nothing(call: Any) -> None:
    headers = {"idempotency-key": "intent-1"}
    await call.a_job(headers=headers)
    body = {**PIXVERSE, "metadata": {"other": "body"}}
    said = await call.refused(422, "idempotency_key_reused", "POST", "/v1/jobs", json=body, headers=headers)
    assert said["param"] == "Idempotency-Key"
    assert len((await call.ok("GET", "/v1/jobs"))["data"]) == 1


async def test_twenty_submits_at_once_with_one_key_make_one_job(call: Any) -> None:
    headers = {"idempotency-key": "intent-1"}
    jobs = await asyncio.gather(*(call.a_job(headers=headers) for _ in range(20)))
    assert len({job["id"] for job in jobs}) == 1


async def test_waiting_answers_200_as_soon_as_the_job_has_ended(call: Any) -> None:
    async def cancel_it() -> None:
        await asyncio.sleep(0.2)
        while not (rows := (await call.ok("GET", "/v1/jobs"))["data"]):  # noqa: ASYNC110 - it is another request
            await asyncio.sleep(0.05)
        await call.ok("POST", f"/v1/jobs/{rows[0]['id']}/cancel")

    waiting = call("POST", "/v1/jobs", json=PIXVERSE, headers={"prefer": "respond-async, wait=30"})
    response, _ = await asyncio.gather(waiting, cancel_it())
    assert response.status_code == 200 and response.json()["status"] == "canceled"
    assert response.headers["preference-applied"] == "wait=30"


async def test_a_wait_that_ends_first_answers_202_on_submit_and_200_on_read(call: Any) -> None:
    response = await call("POST", "/v1/jobs", json=PIXVERSE, headers={"prefer": "wait=1"})
    assert (response.status_code, response.json()["status"]) == (202, "queued")
    path = f"/v1/jobs/{response.json()['id']}"
    assert (await call("GET", path, headers={"prefer": "wait=1"})).status_code == 200
    assert (await call("GET", path, headers={"prefer": "handling=strict"})).status_code == 200


FOLLOWED = {
    "pixverse": ("text_to_video", "4031"),
    "fal": ("queue", "fal-ai/flux/requests/4031"),
    "replicate": ("prediction", "4031"),
    "peakmv": ("generate", "4031"),
}


@pytest.mark.parametrize(
    ("provider", "settings", "rarely"),
    [
        ("pixverse", {}, True),  # it calls one URL per account
        ("pixverse", {"CALLSHEET_PIXVERSE_POLL": "false"}, True),
        ("pixverse", {"CALLSHEET_PIXVERSE_POLL": "true"}, False),
        ("pixverse", {"CALLSHEET_PIXVERSE_API_KEY": "k"}, False),  # no webhook_id
        ("fal", {}, False),  # its callbacks go where each submit said, which was not ours
        ("replicate", {}, False),
        ("peakmv", {}, False),
    ],
)
async def test_what_is_followed_is_read_as_rarely_as_our_own_jobs_where_it_calls_back(
    provider: str, settings: dict[str, str], rarely: bool, tmp_path: Path
) -> None:
    operation, named = FOLLOWED[provider]
    async with running(tmp_path, **settings) as service:
        client = Client(service)
        body = {"provider": provider, "operation": operation, "provider_job_id": named}
        job = await service.context.store.job_by_id((await client.a_job(body))["id"])
        assert job is not None and job.due_at is not None
        usual = service.context.providers[provider].operations[operation].poll
        first, pace = job.due_at, usual if "CALLSHEET_PIXVERSE_API_KEY" in settings else usual.quick()
        read = Arrival(job=job.num, provider_job_id=named, fact=Update(status=JobStatus.PROCESSING), source=Source.POLL)
        after = (await service.context.transitions.apply_one(read)).job
        assert after is not None and after.due_at is not None
        assert (after.due_at - first >= pace.late_s * 1000) == rarely
        await client.http.aclose()


async def test_following_makes_a_job_that_is_processing_and_only_one(call: Any) -> None:
    body = {"provider": "pixverse", "operation": "text_to_video", "provider_job_id": "380000000000000001"}
    job = await call.a_job(body)
    assert (job["status"], job["provider_job_ids"], job["input"]) == ("processing", ["380000000000000001"], None)
    said = await call.refused(409, "already_followed", "POST", "/v1/jobs", json=body)
    assert job["id"] in said["detail"]


async def test_lists_go_newest_first_page_by_page(call: Any) -> None:
    ids = [(await call.a_job())["id"] for _ in range(5)]
    seen, cursor = [], ""
    while cursor is not None:
        page = await call.ok("GET", f"/v1/jobs?limit=2{cursor and '&cursor=' + cursor}")
        seen += [job["id"] for job in page["data"]]
        cursor = page["next_cursor"]
    assert seen == ids[::-1]
    has_exactly(page["data"][0], answers.JobData)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("status=canceled", 1), ("status=queued", 2), ("provider=peakmv", 1), ("operation=text_to_video", 2),
        ("metadata[team]=films", 1), ("metadata[team]=films&metadata[take]=2", 0), ("metadata%5Bteam%5D=films", 1),
        ("created_after=2020-01-01T00:00:00Z", 3), ("created_before=2020-01-01T00:00:00%2B02:00", 0),
        ("created_after=2020-01-01T00:00:00+02:00", 3), ("provider=nobody", 0),
    ],
)  # fmt: skip
async def test_filters(call: Any, query: str, found: int) -> None:
    await call.a_job({**PIXVERSE, "metadata": {"team": "films"}})
    audio = {"audio_url": "https://media.example.com/a.mp3"}
    await call.a_job({"provider": "peakmv", "operation": "generate", "input": audio})
    canceled = await call.a_job()
    await call.ok("POST", f"/v1/jobs/{canceled['id']}/cancel")
    assert len((await call.ok("GET", f"/v1/jobs?{query}"))["data"]) == found


async def test_the_timeline_tells_what_happened_in_order(call: Any) -> None:
    await call.an_endpoint()
    job = await call.a_finished_job()
    entries = (await call.ok("GET", f"/v1/jobs/{job['id']}/timeline"))["data"]
    kinds = [entry["kind"] for entry in entries]
    assert kinds[0] == "accepted" and {"submit", "event", "delivery"} <= set(kinds)
    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)
    assert all(entry["at"].endswith("Z") for entry in entries)


async def test_a_queued_job_is_canceled_at_once_and_again_is_no_error(call: Any) -> None:
    job = await call.a_job()
    for _ in range(2):
        response = await call("POST", f"/v1/jobs/{job['id']}/cancel")
        assert (response.status_code, response.json()["status"]) == (200, "canceled")
    assert response.json()["error"]["code"] == "canceled"


async def test_a_job_that_its_provider_cannot_cancel_stays_as_it_is(call: Any) -> None:
    job = await call.a_processing_job()
    said = await call.refused(409, "cancel_unsupported", "POST", f"/v1/jobs/{job['id']}/cancel")
    assert "PixVerse" in said["detail"]
    finished = await call.a_finished_job()
    await call.refused(409, "already_terminal", "POST", f"/v1/jobs/{finished['id']}/cancel")


@pytest.mark.parametrize(("body", "status"), [({"action": "fail"}, "failed"), ({"action": "resubmit"}, "queued")])
async def test_an_unknown_job_is_resolved_by_a_person(call: Any, body: Any, status: str) -> None:
    job = await call.an_unknown_job()
    before = await call.context.store.job_by_id(job["id"])
    resolved = await call.ok("POST", f"/v1/jobs/{job['id']}/resolve", json=body)
    assert resolved["status"] == status
    after = await call.context.store.job_by_id(job["id"])
    assert (after.correlation != before.correlation) == (body["action"] == "resubmit")  # a resubmit is a new intent
    await call.refused(409, "not_unknown", "POST", f"/v1/jobs/{job['id']}/resolve", json=body)


async def test_an_id_that_another_job_has_is_not_adopted(call: Any) -> None:
    owner = await call.a_job({"provider": "peakmv", "operation": "generate", "provider_job_id": "77"})
    job = await call.an_unknown_job()
    body = {"action": "adopt", "provider_job_id": "77"}
    said = await call.refused(409, "id_already_bound", "POST", f"/v1/jobs/{job['id']}/resolve", json=body)
    assert owner["id"] in said["detail"]
    assert (await call.ok("GET", f"/v1/jobs/{job['id']}"))["status"] == "unknown"


async def test_erasing_takes_content_of_finished_jobs_only(call: Any) -> None:
    job = await call.a_job()
    await call.refused(409, "not_terminal", "DELETE", f"/v1/jobs/{job['id']}/content")
    finished = await call.a_finished_job()
    assert (await call("DELETE", f"/v1/jobs/{finished['id']}/content")).status_code == 204
    shown = await call.ok("GET", f"/v1/jobs/{finished['id']}")
    assert (shown["input"], shown["outputs"], shown["status"]) == (None, [], "succeeded")
    events = (await call.ok("GET", f"/v1/events?job={finished['id']}"))["data"]
    assert events and all(event["data"] == {"id": finished["id"], "erased": True} for event in events)
    has_exactly(events[0], answers.Event)


async def test_another_tenants_jobs_are_not_there(call: Any) -> None:
    job = await call.a_finished_job()
    await call.ok("POST", "/v1/tenants", json={"name": "other"})
    key = await call.a_key("jobs:read", "jobs:write", tenant="other")
    for method, path in (("GET", ""), ("GET", "/timeline"), ("POST", "/cancel"), ("DELETE", "/content")):
        await call.refused(404, "not_found", method, f"/v1/jobs/{job['id']}{path}", key=key)
    assert (await call.ok("GET", "/v1/jobs", key=key))["data"] == []
    assert (await call.ok("GET", "/v1/jobs", headers={"callsheet-tenant": "other"}))["data"] == []


async def test_a_traceparent_is_kept_and_a_malformed_one_ignored(call: Any) -> None:
    good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for given, kept in ((good, good), ("00-zz", None)):
        job = await call.a_job(headers={"traceparent": given})
        assert (await call.context.store.job_by_id(job["id"])).detail.traceparent == kept


async def test_a_callback_url_is_shown_as_its_origin_only(call: Any) -> None:
    job = await call.a_job({**PIXVERSE, "callback_url": "http://127.0.0.1:9/secret/path?token=x"})
    assert job["callback_url"] == "http://127.0.0.1:9"
    assert "secret" not in json.dumps(await call.ok("GET", f"/v1/jobs/{job['id']}/timeline"))


async def test_a_submit_under_way_is_neither_canceled_nor_resolved(call: Any) -> None:
    job = await call.a_job()
    await call.tell(job["id"], Begin())
    await call.refused(409, "cancel_unsupported", "POST", f"/v1/jobs/{job['id']}/cancel")
    await call.refused(409, "not_unknown", "POST", f"/v1/jobs/{job['id']}/resolve", json={"action": "fail"})
