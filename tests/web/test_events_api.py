"""Events and deliveries over HTTP, and the stream."""

import asyncio
import re
from typing import Any

import pytest

from service.models import AttemptResult
from service.states import DeliveryStatus
from service.web import answers
from tests.web.shapes import has_exactly

pytestmark = pytest.mark.anyio


async def a_failed_delivery(call: Any) -> dict[str, Any]:
    """One delivery whose only attempt was answered with 500."""
    await call.an_endpoint(event_types=["job.succeeded"])
    await call.a_finished_job()
    claimed = await call.context.store.claim_deliveries(room=lambda lane: 9, lease_ms=90_000, limit=9)
    due = claimed[0] if claimed else None
    if due is not None:
        at = call.context.clock.now()
        result = AttemptResult(
            delivery=due.num, lease=due.lease, at=at, duration_ms=12, status_code=500, error="status",
            response=b"<script>no</script>", status=DeliveryStatus.FAILED,
        )  # fmt: skip
        await call.context.store.record_attempts([result])
    return (await call.ok("GET", "/v1/deliveries"))["data"][0]


async def test_events_are_listed_newest_first_and_read_by_id(call: Any) -> None:
    job = await call.a_finished_job()
    rows = (await call.ok("GET", f"/v1/events?job={job['id']}"))["data"]
    assert [row["type"] for row in rows] == ["job.succeeded", "job.processing"]
    has_exactly(rows[0], answers.Event)
    assert rows[0]["data"]["id"] == job["id"] and "input" not in rows[0]["data"]
    assert await call.ok("GET", f"/v1/events/{rows[0]['id']}") == rows[0]
    assert len((await call.ok("GET", "/v1/events?type=job.succeeded"))["data"]) == 1
    page = await call.ok("GET", "/v1/events?limit=1")
    assert (await call.ok("GET", f"/v1/events?limit=1&cursor={page['next_cursor']}"))["data"] == [rows[1]]


async def test_replay_makes_deliveries_where_there_were_none_and_resends_the_rest(call: Any) -> None:
    await call.a_finished_job()
    event = (await call.ok("GET", "/v1/events?type=job.succeeded"))["data"][0]
    assert await call.ok("POST", f"/v1/events/{event['id']}/replay") == {"deliveries": 0}
    await call.an_endpoint()
    for _ in range(2):
        assert await call.ok("POST", f"/v1/events/{event['id']}/replay") == {"deliveries": 1}
        assert len((await call.ok("GET", f"/v1/deliveries?event={event['id']}"))["data"]) == 1


async def test_a_delivery_shows_its_attempts_and_is_sent_again(call: Any) -> None:
    row = await a_failed_delivery(call)
    shown = await call.ok("GET", f"/v1/deliveries/{row['id']}")
    has_exactly(row, answers.DeliveryData)
    has_exactly(shown, answers.Delivery)
    if shown["attempts"]:
        attempt = shown["attempts"][0]
        assert (attempt["status_code"], attempt["error"], attempt["duration_ms"]) == (500, "status", 12)
        assert attempt["response"] == "<script>no</script>"
        response = await call("POST", f"/v1/deliveries/{row['id']}/retry")
        assert (response.status_code, response.json()["status"]) == (202, "pending")


async def test_retrying_a_delivery_of_a_deleted_endpoint_says_so(call: Any) -> None:
    failed = await a_failed_delivery(call)
    paused = await call.an_endpoint(status="paused")
    await call.ok("POST", f"/v1/endpoints/{paused['id']}/test")
    (held,) = (await call.ok("GET", f"/v1/deliveries?endpoint={paused['id']}"))["data"]
    for endpoint in (await call.ok("GET", "/v1/endpoints"))["data"]:
        assert (await call("DELETE", f"/v1/endpoints/{endpoint['id']}")).status_code == 204
    assert (await call.ok("GET", f"/v1/deliveries/{held['id']}"))["status"] == "canceled"
    for row in (failed, held):
        await call.refused(409, "endpoint_deleted", "POST", f"/v1/deliveries/{row['id']}/retry")


async def test_a_delivery_that_is_being_sent_is_not_put_back(call: Any) -> None:
    await call.an_endpoint(event_types=["job.succeeded"])
    await call.a_finished_job()
    await call.context.store.claim_deliveries(room=lambda lane: 9, lease_ms=90_000, limit=9)
    row = (await call.ok("GET", "/v1/deliveries"))["data"][0]
    await call.refused(409, "being_sent", "POST", f"/v1/deliveries/{row['id']}/retry")


@pytest.mark.parametrize(
    ("query", "found"),
    [("status=delivered", 0), ("endpoint={endpoint}", 2), ("job={job}", 2), ("endpoint=ep_nobody", 0), ("event=x", 0)],
)
async def test_deliveries_are_filtered(call: Any, query: str, found: int) -> None:
    endpoint = await call.an_endpoint()
    job = await call.a_finished_job()
    rows = await call.ok("GET", "/v1/deliveries?" + query.format(endpoint=endpoint["id"], job=job["id"]))
    assert len(rows["data"]) == found


async def test_another_tenants_events_and_deliveries_are_not_there(call: Any) -> None:
    await call.an_endpoint()
    await call.a_finished_job()
    event = (await call.ok("GET", "/v1/events"))["data"][0]
    delivery = (await call.ok("GET", "/v1/deliveries"))["data"][0]
    await call.ok("POST", "/v1/tenants", json={"name": "other"})
    key = await call.a_key("events:read", "endpoints:write", tenant="other")
    await call.refused(404, "not_found", "GET", f"/v1/events/{event['id']}", key=key)
    await call.refused(404, "not_found", "POST", f"/v1/events/{event['id']}/replay", key=key)
    await call.refused(404, "not_found", "GET", f"/v1/deliveries/{delivery['id']}", key=key)
    await call.refused(404, "not_found", "POST", f"/v1/deliveries/{delivery['id']}/retry", key=key)
    for path in ("/v1/events", "/v1/deliveries"):
        assert (await call.ok("GET", path, key=key))["data"] == []


async def test_an_id_with_another_time_in_it_is_another_id(call: Any) -> None:
    await call.a_finished_job()
    event_id = (await call.ok("GET", "/v1/events"))["data"][0]["id"]
    forged = event_id.replace("evt_01", "evt_02")
    await call.refused(404, "not_found", "GET", f"/v1/events/{forged}")


async def test_event_types_are_listed(call: Any) -> None:
    rows = (await call.ok("GET", "/v1/event-types"))["data"]
    assert {"job.succeeded", "job.late_result", "endpoint.test"} <= {row["type"] for row in rows}


async def test_the_stream_begins_behind_the_last_event_that_was_seen(call: Any) -> None:
    await call.a_finished_job()
    newest, oldest = (await call.ok("GET", "/v1/events"))["data"]
    path = "/v1/events/stream?seconds=1"
    text = (await call("GET", path, headers={"last-event-id": oldest["id"]})).text
    assert f"id: {newest['id']}\nevent: job.succeeded\ndata: {{" in text and oldest["id"] not in text
    response = await call("GET", path)  # from now on
    assert response.headers["content-type"].startswith("text/event-stream") and "data: " not in response.text
    said = await call.refused(422, "invalid", "GET", path, headers={"last-event-id": "evt_nonsense"})
    assert said["param"] == "Last-Event-ID"


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("given", [{}, {"last-event-id": ""}, {"last-event-id": "  "}])
async def test_a_reader_to_whom_no_event_came_can_come_back(call: Any, before: int, given: dict[str, str]) -> None:
    for n in range(before):
        await call.a_finished_job(f"{n}")
    path = "/v1/events/stream?seconds=1"
    begun = (await call("GET", path, headers=given)).text
    (position,) = re.findall("^id: (.*)$", begun, re.MULTILINE)
    assert "data: " not in begun and not re.search("^:.*id:", begun, re.MULTILINE)  # a comment moves nobody
    job = await call.a_finished_job("meanwhile")
    again = (await call("GET", path, headers={"last-event-id": position})).text
    assert again.count("data: ") == 2 and job["id"] in again
    last = re.findall("^id: (.*)$", again, re.MULTILINE)[-1]
    assert "data: " not in (await call("GET", path, headers={"last-event-id": last})).text


async def test_the_stream_shows_what_happens_meanwhile_and_nothing_of_other_tenants(call: Any, service: Any) -> None:
    await call.ok("POST", "/v1/tenants", json={"name": "other"})
    theirs = call("GET", "/v1/events/stream?seconds=4", headers={"callsheet-tenant": "other"})
    ours, theirs, _ = await asyncio.gather(call("GET", "/v1/events/stream?seconds=4"), theirs, later(call))
    assert ours.text.count("data: ") == 2
    assert "data: " not in theirs.text


async def later(call: Any) -> None:
    await asyncio.sleep(1)
    await call.a_finished_job()
