"""fal: what its published clients ask beside submit, status and result, and its other hosts."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from .conftest import Sandbox
from .test_fal import Fal

Until = Callable[[Callable[[], Any]], Any]
PLATFORM = "api.fal.ai/v1/models"


@pytest.fixture
def fal(sandbox: Sandbox) -> Fal:
    return Fal(sandbox)


@pytest.mark.parametrize(
    ("model", "app"),
    [
        ("fal-ai/flux", "fal-ai/flux"),
        ("someone/clip-maker/fast/v2", "someone/clip-maker"),
        ("110602490-clip-maker", "110602490/clip-maker"),
        ("workflows/someone/clip-maker", "workflows/someone/clip-maker"),
        ("comfy/someone/clip-maker/large", "comfy/someone/clip-maker"),
    ],
)
def test_requests_are_below_their_app_which_has_three_parts_in_a_namespace(
    fal: Fal, until: Until, model: str, app: str
) -> None:
    made = fal.submit(model)
    assert made["response_url"] == f"{fal.sandbox.url}/fal/{app}/requests/{made['request_id']}"
    until(lambda: fal.completed(made))
    assert fal("GET", made["response_url"]).status_code == 200
    for wrong in (app.rpartition("/")[0], f"{app}/more"):
        assert fal("GET", f"{wrong}/requests/{made['request_id']}/status").status_code == 404


@pytest.mark.parametrize("model", ["flux", "workflows/someone", "comfy/x", "a/requests/b"])
def test_a_path_that_is_no_app_is_404_in_the_shape_of_errors(fal: Fal, model: str) -> None:
    reply = fal("POST", model, json={"prompt": "x"})
    assert reply.status_code in (404, 405) and isinstance(reply.json()["detail"], str)
    assert fal.sandbox.ledger("fal") == []


def test_only_named_models_are_there_where_any_are_named(fal: Fal) -> None:
    fal.account(models=["fal-ai/flux/dev"])
    assert fal("POST", "fal-ai/flux/dev", json={"prompt": "x"}).status_code == 200
    reply = fal("POST", "fal-ai/flux/pro", json={"prompt": "x"})
    assert reply.status_code == 404 and "fal-ai/flux/pro" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "fal-ai/flux", 405),
        ("DELETE", "fal-ai/flux/requests/x", 405),
        ("GET", "fal-ai/flux/requests/x/else", 404),
        ("GET", "api.fal.ai/v1/nothing", 404),
    ],
)
def test_what_is_not_there_is_said_in_json(fal: Fal, method: str, path: str, status: int) -> None:
    reply = fal(method, path)
    assert reply.status_code == status and isinstance(reply.json()["detail"], str)


def test_every_reply_about_a_request_names_it(fal: Fal, until: Until) -> None:
    reply = fal("POST", "fal-ai/flux", json={"prompt": "x"})
    made = reply.json()
    until(lambda: fal.completed(made))
    replies = [reply, *(fal("GET", made[name]) for name in ("status_url", "response_url"))]
    replies.append(fal("PUT", made["cancel_url"]))
    assert [said.headers["x-fal-request-id"] for said in replies] == [made["request_id"]] * 4


def test_status_stream_ends_with_completed(fal: Fal) -> None:
    fal.faults(duration_s=[0.4, 0.4])
    made = fal.submit("workflows/someone/video")
    reply = fal("GET", f"{made['status_url']}/stream?logs=1")
    assert reply.headers["content-type"].startswith("text/event-stream")
    said = [json.loads(event.removeprefix("data: ")) for event in reply.text.split("\n\n") if event]
    words = list(dict.fromkeys(one["status"] for one in said))
    assert words == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]


@pytest.mark.parametrize(("model", "units"), [("fal-ai/flux", "1"), ("fal-ai/kling-video/pro", "5")])
def test_result_says_what_is_billed_and_the_list_of_prices_what_a_unit_costs(
    fal: Fal, until: Until, model: str, units: str
) -> None:
    made = fal.submit(model)
    until(lambda: fal.completed(made))
    assert fal("GET", made["response_url"]).headers["x-fal-billable-units"] == units
    (price,) = fal("GET", f"{PLATFORM}/pricing", params={"endpoint_id": model}).json()["prices"]
    assert price["endpoint_id"] == model and price["unit_price"] > 0 and price["currency"] == "USD"
    asked = {"estimate_type": "unit_price", "endpoints": {model: {"unit_quantity": 2}}}
    said = fal("POST", f"{PLATFORM}/pricing/estimate", json=asked).json()
    assert said["total_cost"] == pytest.approx(2 * price["unit_price"])


def listed(fal: Fal, **query: Any) -> Any:
    reply = fal("GET", f"{PLATFORM}/requests/by-endpoint", params={"endpoint_id": "fal-ai/flux/dev", **query})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_list_has_what_is_over_by_pages_with_payloads_where_they_are_asked_for(fal: Fal, until: Until) -> None:
    made = [fal.submit() for _ in range(3)]
    until(lambda: all(fal.completed(one) for one in made))
    fal.submit("fal-ai/other")
    fal.faults(duration_s=[60, 60])
    fal.submit()
    first = listed(fal, limit=2, expand="payloads")
    second = listed(fal, limit=2, cursor=first["next_cursor"])
    assert first["has_more"] and not second["has_more"] and second["next_cursor"] is None
    ids = [row["request_id"] for row in [*first["items"], *second["items"]]]
    assert sorted(ids) == sorted(one["request_id"] for one in made)
    assert first["items"][0]["json_input"] == {"prompt": "a red kite"} and first["items"][0]["json_output"]["images"]
    assert "json_input" not in second["items"][0] and second["items"][0]["status_code"] == 200
    (one,) = listed(fal, request_id=ids[0])["items"]
    assert one["request_id"] == ids[0]
    assert listed(fal, status="error")["items"] == []
    later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    assert listed(fal, start=later)["items"] == []
    fal.account(list_shows_open=True)
    assert len(listed(fal)["items"]) == 4


@pytest.mark.parametrize(
    "query", [{"endpoint_id": ""}, {"limit": 0}, {"limit": 101}, {"start": "soon"}, {"status": "fine"}]
)
def test_query_that_cannot_be_is_refused(fal: Fal, query: dict[str, Any]) -> None:
    fal.submit()
    params = {"endpoint_id": "fal-ai/flux/dev", **query}
    reply = fal("GET", f"{PLATFORM}/requests/by-endpoint", params=params)
    assert reply.status_code == 400 and reply.json()["error"]["message"].split(":")[0] in query
    assert fal("GET", f"{PLATFORM}/pricing", key="Key wrong", params=params).status_code == 401


def test_result_that_is_not_stored_ends_and_the_list_has_no_payloads(fal: Fal, until: Until) -> None:
    kept = fal.submit()
    fal.account(stores_payloads=False, result_life_s=0.2)
    gone = fal.submit()
    until(lambda: fal.completed(gone) and fal.completed(kept))
    until(lambda: fal("GET", gone["response_url"]).status_code == 404)
    assert "error" not in fal("GET", gone["status_url"]).json() and fal("GET", kept["response_url"]).status_code == 200
    rows = {row["request_id"]: row for row in listed(fal, expand="payloads")["items"]}
    assert "json_input" in rows[kept["request_id"]] and "json_input" not in rows[gone["request_id"]]


def test_work_that_does_not_start_in_time_is_given_up_and_not_charged(fal: Fal, until: Until) -> None:
    fal.faults(duration_s=[60, 60])
    before = fal.account()["credits"]
    late = {"X-Fal-Request-Start-Timeout": "0.2"}
    headers = {"Authorization": "Key sandbox", **late}
    made = fal.sandbox.http.post("/fal/fal-ai/flux", json={"prompt": "x"}, headers=headers).json()
    until(lambda: fal.completed(made))
    reply = fal("GET", made["response_url"])
    assert (reply.status_code, reply.headers["x-fal-request-timeout-type"]) == (504, "user")
    assert reply.headers["x-fal-error-type"] == "request_timeout"
    fal("POST", "fal-ai/flux", json={"prompt": "the clock is looked at"})
    assert [row["charged"] for row in fal.sandbox.ledger("fal")] == [0, 1] and fal.account()["credits"] == before - 1


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Fal-Request-Start-Timeout", "0.1"),
        ("X-Fal-Request-Timeout", "soon"),
        ("X-Fal-Request-Start-Timeout", "-1"),
        ("X-Fal-Queue-Priority", "high"),
    ],
)
def test_header_with_a_value_that_cannot_be_is_422(fal: Fal, header: str, value: str) -> None:
    headers = {"Authorization": "Key sandbox", header: value}
    reply = fal.sandbox.http.post("/fal/fal-ai/flux", json={"prompt": "x"}, headers=headers)
    assert reply.status_code == 422 and reply.json()["detail"][0]["loc"][0] == "header"
    assert fal.sandbox.ledger("fal") == []


def test_fal_run_answers_with_the_result_itself(fal: Fal) -> None:
    fal.faults(duration_s=[0.2, 0.2])
    reply = fal("POST", "fal.run/fal-ai/flux/dev", json={"prompt": "x"})
    assert reply.json()["images"] and reply.headers["x-fal-billable-units"] == "1"
    assert len(fal.sandbox.ledger("fal")) == 1
