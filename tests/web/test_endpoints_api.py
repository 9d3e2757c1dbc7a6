"""Endpoints over HTTP."""

from typing import Any

import pytest

from service.states import EndpointStatus
from service.web import answers
from tests.web.shapes import has_exactly

pytestmark = pytest.mark.anyio


async def test_a_new_endpoint_shows_its_secret_once(call: Any) -> None:
    made = await call.an_endpoint(
        headers={"X-Team": "films"}, filter={"metadata.team": "films"}, rate=5, description="d"
    )
    has_exactly(made, answers.EndpointWithSecret)
    assert made["secret"].startswith("whsec_") and made["headers"] == ["X-Team"]
    assert "job.progress" not in made["event_types"]
    shown = await call.ok("GET", f"/v1/endpoints/{made['id']}")
    has_exactly(shown, answers.Endpoint)
    assert shown == {name: value for name, value in made.items() if name != "secret"}
    assert (await call.ok("GET", "/v1/endpoints"))["data"] == [shown]


async def test_only_what_is_given_changes_and_null_clears(call: Any) -> None:
    made = await call.an_endpoint(description="d", rate=5, event_types=["job.*"], headers={"X-A": "1"})
    path = f"/v1/endpoints/{made['id']}"
    changed = await call.ok("PATCH", path, json={"status": "paused"})
    assert {name for name in changed if changed[name] != made[name]} == {"status", "updated_at"}
    cleared = await call.ok("PATCH", path, json={"description": None, "rate": None, "headers": None, "filter": None})
    assert (cleared["description"], cleared["rate"], cleared["headers"], cleared["filter"]) == (None, None, [], {})
    assert cleared["event_types"] == ["job.*"] and cleared["status"] == "paused"
    assert (await call.ok("PATCH", path, json={}))["event_types"] == ["job.*"]


async def test_a_deleted_endpoint_is_gone(call: Any) -> None:
    made = await call.an_endpoint()
    path = f"/v1/endpoints/{made['id']}"
    assert (await call("DELETE", path)).status_code == 204
    for method in ("GET", "DELETE"):
        await call.refused(404, "not_found", method, path)
    assert (await call.ok("GET", "/v1/endpoints"))["data"] == []


async def test_rotation_gives_a_new_secret_and_says_until_when_the_old_one_signs(call: Any) -> None:
    made = await call.an_endpoint()
    path = f"/v1/endpoints/{made['id']}/secret/rotate"
    for body in ({"json": {"overlap_seconds": 0}}, {}, {"json": {}}):
        rotated = await call.ok("POST", path, **body)
        has_exactly(rotated, answers.NewSecret)
        assert rotated["secret"] != made["secret"]


async def test_a_test_event_goes_to_this_endpoint_alone(call: Any) -> None:
    made, _ = await call.an_endpoint(), await call.an_endpoint()
    response = await call("POST", f"/v1/endpoints/{made['id']}/test")
    event = response.json()
    assert response.status_code == 202 and event["type"] == "endpoint.test"
    has_exactly(event, answers.Event)
    deliveries = (await call.ok("GET", f"/v1/deliveries?event={event['id']}"))["data"]
    assert [delivery["endpoint"] for delivery in deliveries] == [made["id"]]


async def test_recover_sends_what_was_missed(call: Any) -> None:
    await call.a_finished_job()
    made = await call.an_endpoint()  # after the fact: it missed both events
    path = f"/v1/endpoints/{made['id']}/recover"
    response = await call("POST", path, json={"since": "2020-01-01T00:00:00Z"})
    assert (response.status_code, response.json()) == (202, {"deliveries": 2})
    assert (await call.ok("POST", path, json={"since": "2020-01-01T00:00:00Z"})) == {"deliveries": 0}


async def test_what_is_held_is_released_when_the_endpoint_is_enabled(call: Any) -> None:
    made = await call.an_endpoint(status="paused")
    await call.a_finished_job()
    held = (await call.ok("GET", "/v1/deliveries?status=held"))["data"]
    assert len(held) == 2
    await call.ok("PATCH", f"/v1/endpoints/{made['id']}", json={"status": EndpointStatus.ACTIVE})
    assert call.context.delivery.wake.is_set()
    assert await call.context.store.release_held(limit=10, spread_ms=0) == 2


async def test_another_tenants_endpoints_are_not_there(call: Any) -> None:
    made = await call.an_endpoint()
    await call.ok("POST", "/v1/tenants", json={"name": "other"})
    key = await call.a_key("endpoints:read", "endpoints:write", tenant="other")
    path = f"/v1/endpoints/{made['id']}"
    for method, more, body in (
        ("GET", "", None), ("PATCH", "", {}), ("DELETE", "", None), ("POST", "/test", None),
        ("POST", "/secret/rotate", {}), ("POST", "/recover", {"since": "2026-01-01T00:00:00Z"}),
    ):  # fmt: skip
        await call.refused(404, "not_found", method, path + more, key=key, **({} if body is None else {"json": body}))
    assert (await call.ok("GET", "/v1/endpoints", key=key))["data"] == []


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://10.0.0.1/", "url_address"), ("https://169.254.169.254/latest", "url_address"),
        ("ftp://example.com/", "url_scheme"), ("example.com", "url_malformed"),
        ("https://u:p@example.com/", "url_userinfo"), ("https://example.com:6379/", "url_port"),
        ("http://127.0.0.1:8080/x", "url_own"),
        ("https://example.com/#x", "url_characters"), ("https://hooks.internal/", "url_name"),
        ("http://93.184.216.34/", "url_scheme"),
    ],
)  # fmt: skip
async def test_a_refused_url_is_named_with_its_remedy(call: Any, url: str, code: str) -> None:
    said = await call.refused(422, code, "POST", "/v1/endpoints", json={"url": url})
    assert said["param"] == "url" and said["detail"]
    body = {"provider": "pixverse", "operation": "text_to_video", "provider_job_id": "1", "callback_url": url}
    assert (await call.refused(422, code, "POST", "/v1/jobs", json=body))["param"] == "callback_url"
    assert (await call.ok("GET", "/v1/jobs"))["data"] == []
