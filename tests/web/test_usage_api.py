"""What jobs have cost, and budgets, over HTTP; quotes and reports from the sandbox over real sockets."""

import asyncio
from typing import Any

import pytest

from service.facts import Accepted, Begin, Cost, Unknown
from service.web import answers_money as answers
from tests.web.conftest import DONE, INPUT, PEAKMV, PIXVERSE
from tests.web.sandboxed import Sandboxed
from tests.web.shapes import has_exactly

pytestmark = pytest.mark.anyio

UNPRICED = {**PIXVERSE, "input": {**INPUT, "model": "v99-of-the-future"}}


async def lines(call: Any, query: str = "") -> list[Any]:
    rows: list[Any] = (await call.ok("GET", f"/v1/usage{query}"))["data"]
    return rows


# -- usage


async def test_a_job_shows_its_price_at_once_and_it_is_counted(call: Any) -> None:
    assert await lines(call) == []
    job = await call.a_job()
    assert job["cost"] == {"amount": "45", "unit": "credits", "source": "quoted"}
    (line,) = await lines(call)
    has_exactly(line, answers.Usage)
    assert line == {
        "provider": "pixverse", "operation": None, "day": None, "unit": "credits", "jobs": 1, "open": 1,
        "succeeded": 0, "failed": 0, "canceled": 0, "unknown": 0,
        "amount_reported": "0", "amount_quoted": "45", "amount_uncertain": "0",
    }  # fmt: skip


async def test_a_price_that_nobody_says_is_no_amount(call: Any) -> None:
    assert (await call.a_job(UNPRICED))["cost"] is None
    (line,) = await lines(call)
    assert (line["jobs"], line["unit"], line["amount_quoted"], line["amount_reported"]) == (1, None, None, None)


async def test_every_outcome_is_counted_with_what_is_sure_of_it(call: Any) -> None:
    await call.ok("POST", f"/v1/jobs/{(await call.a_job())['id']}/cancel")  # never sent
    await call.a_finished_job("1")
    await call.tell((await call.a_job(PEAKMV))["id"], Begin(), Unknown(reason="the reply was lost"))
    cost = Cost(amount="60.5", unit="credits", source="reported")
    await call.tell((await call.a_job())["id"], Begin(), Accepted(provider_job_ids=("2",), cost=cost), DONE)
    peakmv, pixverse = await lines(call)
    assert (peakmv["unknown"], peakmv["jobs"]) == (1, 1)
    assert (pixverse["jobs"], pixverse["canceled"], pixverse["succeeded"]) == (3, 1, 2)
    assert (pixverse["amount_reported"], pixverse["amount_quoted"]) == ("60.5", "45")
    assert await lines(call, "?provider=peakmv") == [peakmv]


async def test_lines_are_told_apart_and_paged(call: Any) -> None:
    for operation in ("text_to_video", "text_to_video", "image_to_video"):
        more = {"img_id": 1} if operation == "image_to_video" else {}
        given = {key: value for key, value in {**INPUT, **more}.items() if not more or key != "aspect_ratio"}
        await call.a_job({**PIXVERSE, "operation": operation, "input": given})
    await call.a_job(PEAKMV)
    rows = await lines(call, "?group_by=operation,day")
    assert [(row["provider"], row["operation"], row["jobs"]) for row in rows] == [
        ("peakmv", "generate", 1), ("pixverse", "image_to_video", 1), ("pixverse", "text_to_video", 2),
    ]  # fmt: skip
    assert {row["day"] for row in rows} == {(await call.ok("GET", "/v1/jobs"))["data"][0]["created_at"][:10]}
    pages, cursor = [], ""
    while cursor is not None:
        page = await call.ok("GET", f"/v1/usage?group_by=day,operation&limit=1{cursor and '&cursor=' + cursor}")
        pages, cursor = [*pages, *page["data"]], page["next_cursor"]
    assert pages == rows


async def test_usage_is_of_a_span(call: Any) -> None:
    created = (await call.a_job())["created_at"]
    assert len(await lines(call, f"?since={created}&until=2999-01-01T00:00:00Z")) == 1
    assert await lines(call, f"?since=2000-01-01T00:00:00Z&until={created}") == []


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ("since=yesterday", "invalid", "since"), ("until=2026-01-01", "invalid", "until"),
        ("since=2999-01-01T00:00:00Z", "invalid", "since"), ("group_by=tenant", "invalid", "group_by"),
        ("group_by=", "invalid", "group_by"), ("group_by=day,day", "invalid", "group_by"),
        ("cursor=x", "bad_cursor", "cursor"), ("by=day", "unknown_parameter", "by"),
        ("since=2026-01-01T00:00:00Z&until=2026-01-01T00:00:00Z", "invalid", "since"),
    ],
)  # fmt: skip
async def test_a_span_that_is_none(call: Any, query: str, code: str, param: str) -> None:
    assert (await call.refused(422, code, "GET", f"/v1/usage?{query}"))["param"] == param


async def test_a_tenant_sees_its_own(call: Any) -> None:
    await call.ok("POST", "/v1/tenants", json={"name": "acme"})
    await call.a_job()
    key = await call.a_key("jobs:read", tenant="acme")
    assert (await call.ok("GET", "/v1/usage", key=key))["data"] == []
    await call.refused(403, "forbidden", "GET", "/v1/usage", key=await call.a_key("events:read"))


# -- quoted, then reported, over sockets


async def test_a_quote_becomes_a_report_and_is_counted_once(sandboxed: Sandboxed) -> None:
    await sandboxed.ok("PUT", "/v1/budgets/pixverse", json={"amount": "100"})
    job = await sandboxed.a_job()
    assert job["cost"] == {"amount": "45", "unit": "credits", "source": "quoted"}
    (before,) = await lines(sandboxed)
    assert (before["amount_quoted"], before["amount_reported"]) == ("45", "0")
    done = await sandboxed.ended(job["id"])
    (row,) = await sandboxed.ledger("pixverse")
    assert done["cost"] == {"amount": str(row["charged"]), "unit": "credits", "source": "reported"}
    (after,) = await lines(sandboxed)
    assert (after["jobs"], after["amount_quoted"], after["amount_reported"]) == (1, "0", str(row["charged"]))
    (budget,) = (await sandboxed.ok("GET", "/v1/budgets"))["data"]
    assert (budget["reserved"], budget["spent"], budget["left"]) == ("0", "45", "55")


async def test_what_the_submit_says_replaces_the_documented_price(sandboxed: Sandboxed) -> None:
    """PeakMV tells its price in the reply to the submit, and nothing later: a quote that stands."""
    body = {**PEAKMV, "input": {**PEAKMV["input"], "duration": 60}}
    job = await sandboxed.ended((await sandboxed.a_job(body))["id"])
    (row,) = await sandboxed.ledger("peakmv")
    assert job["cost"] == {"amount": str(row["charged"]), "unit": "credits", "source": "quoted"}
    (line,) = await lines(sandboxed)
    assert (line["succeeded"], line["amount_quoted"], line["amount_reported"]) == (1, str(row["charged"]), "0")


# -- budgets


async def test_a_budget_is_set_shown_changed_and_removed(call: Any) -> None:
    assert (await call.ok("GET", "/v1/budgets"))["data"] == []
    made = await call.ok("PUT", "/v1/budgets/pixverse", json={"amount": "1000.50"})
    has_exactly(made, answers.Budget)
    assert (made["unit"], made["period"], made["left"], made["reserved"]) == ("credits", "month", "1000.50", "0")
    assert made["since"].endswith("-01T00:00:00.000Z")
    await call.a_job()
    (shown,) = (await call.ok("GET", "/v1/budgets"))["data"]
    assert (shown["reserved"], shown["spent"], shown["uncertain"], shown["left"]) == ("45", "0", "0", "955.50")
    total = await call.ok("PUT", "/v1/budgets/pixverse", json={"amount": "50", "period": "total", "unit": "credits"})
    assert (total["unit"], total["since"], total["left"], total["reserved"]) == ("credits", None, "5", "45")
    said = await call.refused(422, "invalid", "PUT", "/v1/budgets/pixverse", json={"amount": "50", "unit": "usd"})
    assert said["param"] == "unit" and "credits" in said["detail"]
    assert (await call("DELETE", "/v1/budgets/pixverse")).status_code == 204
    await call.refused(404, "not_found", "DELETE", "/v1/budgets/pixverse")


async def test_a_job_that_has_no_room_is_refused_with_what_is_left(call: Any) -> None:
    await call.ok("PUT", "/v1/budgets/pixverse", json={"amount": "100"})
    for _ in range(2):
        await call.a_job()
    said = await call.refused(422, "over_budget", "POST", "/v1/jobs", json=PIXVERSE)
    assert said["param"] == "budget"
    assert "10 left" in said["detail"] and "PUT /v1/budgets/pixverse" in said["detail"]
    assert len((await call.ok("GET", "/v1/jobs"))["data"]) == 2
    await call.a_job(UNPRICED)  # something is left
    await call.a_job(PEAKMV)  # another provider
    await call.ok("PUT", "/v1/budgets/pixverse", json={"amount": "90"})
    await call.refused(422, "over_budget", "POST", "/v1/jobs", json=UNPRICED)
    await call.ok("PUT", "/v1/budgets/pixverse", json={"amount": "135"})
    await call.a_job()


async def test_what_is_canceled_unsent_is_released(call: Any) -> None:
    await call.ok("PUT", "/v1/budgets/pixverse", json={"amount": "45"})
    job = await call.a_job()
    await call.refused(422, "over_budget", "POST", "/v1/jobs", json=PIXVERSE)
    await call.ok("POST", f"/v1/jobs/{job['id']}/cancel")
    await call.a_job()


async def test_racing_submits_do_not_share_what_is_left(call: Any) -> None:
    await call.ok("PUT", "/v1/budgets/pixverse", json={"amount": "230"})
    replies = await asyncio.gather(*(call("POST", "/v1/jobs", json=PIXVERSE) for _ in range(40)))
    assert sorted(reply.status_code for reply in replies) == [202] * 5 + [422] * 35
    assert {reply.json()["code"] for reply in replies if reply.status_code == 422} == {"over_budget"}


async def test_a_repeated_key_is_answered_though_nothing_is_left(call: Any) -> None:
    await call.ok("PUT", "/v1/budgets/pixverse", json={"amount": "45"})
    first = await call.a_job(headers={"idempotency-key": "k"})
    again = await call("POST", "/v1/jobs", json=PIXVERSE, headers={"idempotency-key": "k"})
    assert again.status_code == 202 and again.json()["id"] == first["id"]
    await call.refused(422, "over_budget", "POST", "/v1/jobs", json=PIXVERSE, headers={"idempotency-key": "other"})


async def test_a_budget_is_a_tenants_own_and_an_admins_to_set(call: Any) -> None:
    await call.ok("POST", "/v1/tenants", json={"name": "acme"})
    await call.ok("PUT", "/v1/budgets/pixverse", json={"amount": "0"}, headers={"callsheet-tenant": "acme"})
    await call.a_job()  # the default tenant's
    key = await call.a_key("jobs:write", "jobs:read", tenant="acme")
    await call.refused(422, "over_budget", "POST", "/v1/jobs", json=PIXVERSE, key=key)
    assert [row["amount"] for row in (await call.ok("GET", "/v1/budgets", key=key))["data"]] == ["0"]
    await call.refused(403, "forbidden", "PUT", "/v1/budgets/pixverse", json={"amount": "9"}, key=key)
    await call.refused(404, "not_found", "PUT", "/v1/budgets/nobody", json={"amount": "9"})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "amount"), ({"amount": 5}, "amount"), ({"amount": "-5"}, "amount"), ({"amount": "1e3"}, "amount"),
        ({"amount": "5\n"}, "amount"), ({"amount": "NaN"}, "amount"), ({"amount": "5", "period": "week"}, "period"),
        ({"amount": "5", "unit": ""}, "unit"), ({"amount": "5", "per": "month"}, "per"),
    ],
)  # fmt: skip
async def test_a_budget_that_is_none(call: Any, body: Any, param: str) -> None:
    response = await call("PUT", "/v1/budgets/pixverse", json=body)
    assert (response.status_code, response.json()["param"]) == (422, param), response.text
    assert (await call.ok("GET", "/v1/budgets"))["data"] == []
