"""fal's other host, api.fal.ai: the list of requests, and prices. The sandbox serves it below `/fal/api.fal.ai`."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from starlette.datastructures import QueryParams

from service.sandbox import fal_views as views
from service.sandbox.jobs import Job, Phase
from service.sandbox.provider import rfc3339
from service.sandbox.replies import Json

DEFAULT_PAGE, LARGEST_PAGE, MOST_ENDPOINTS = 50, 100, 50
STATUSES = {"success": (200, 399), "user_error": (400, 499), "error": (500, 599)}
DAY_S = 24 * 3600.0
BY_REQUEST_S = 90 * DAY_S  # how far back a request is looked for by its id


class BadQuery(Exception):
    """What the query asks for cannot be."""


def failure(status: int, kind: str, text: str) -> Json:
    """An error in the shape of this host."""
    return Json({"error": {"type": kind, "message": text}}, status_code=status)


def invalid(problem: BadQuery) -> Json:
    """400 with what is wrong with the query."""
    return failure(400, "validation_error", str(problem))


def endpoints_of(query: QueryParams) -> list[str]:
    """`endpoint_id`, repeated or separated by commas, 1 to 50 of them. Raises `BadQuery`."""
    named = [name for given in query.getlist("endpoint_id") for name in given.split(",") if name]
    if not 1 <= len(named) <= MOST_ENDPOINTS:
        raise BadQuery(f"endpoint_id: give 1 to {MOST_ENDPOINTS}")
    return named


def listed(jobs: Iterable[Job], query: QueryParams, now: float, *, shows_open: bool) -> Json:
    """A page of the requests of some endpoints, by their end, the last first. Raises `BadQuery`."""
    named, wanted, codes = endpoints_of(query), query.get("request_id"), _codes(query)
    start = _time(query, "start", now - (BY_REQUEST_S if wanted else DAY_S))
    end = _time(query, "end", float("inf"))
    rows = [
        job
        for job in jobs
        if job.submit.details["model"] in named
        and start <= job.accepted_at < end
        and (shows_open or job.phase(now) is Phase.DONE)
        and wanted in (None, job.id)
        and (codes is None or codes[0] <= _code(job) <= codes[1])
    ]
    rows.sort(key=lambda job: job.finished_at, reverse=True)
    limit, skipped = _limit(query), _cursor(query)
    page = rows[skipped : skipped + limit]
    more = len(rows) > skipped + limit
    payloads = "payloads" in query.getlist("expand")
    return Json(
        {
            "items": [row(job, now, payloads=payloads) for job in page],
            "next_cursor": str(skipped + limit) if more else None,
            "has_more": more,
        }
    )


def row(job: Job, now: float, *, payloads: bool) -> dict[str, Any]:
    """One request."""
    done = job.phase(now) is Phase.DONE
    said: dict[str, Any] = {
        "request_id": job.id,
        "endpoint_id": job.submit.details["model"],
        "sent_at": rfc3339(job.accepted_at),
        "started_at": rfc3339(job.started_at),
        "ended_at": rfc3339(job.finished_at) if done else None,
        "status_code": _code(job) if done else None,
        "duration": round(job.finished_at - job.started_at, 6) if done else None,
    }
    if payloads and job.submit.details["stored"]:
        shown = views.payload(job) if done and job.outcome not in views.FAILURES else None
        said |= {"json_input": msgspec.Raw(job.submit.input), "json_output": shown}
    return said


def prices(query: QueryParams) -> Json:
    """The price of a unit of each endpoint. Raises `BadQuery`."""
    rows = [price(name) for name in endpoints_of(query)]
    return Json({"prices": rows, "next_cursor": None, "has_more": False})


def price(model: str) -> dict[str, Any]:
    """What a unit of that model costs."""
    unit, _, amount = views.BILLED[views.makes_of(model)]
    return {"endpoint_id": model, "unit_price": amount, "unit": unit, "currency": "USD"}


def estimate(body: bytes) -> Json:
    """The price of so many units of each endpoint. Raises `BadQuery`."""
    try:
        asked = msgspec.json.decode(body, type=Estimate)
    except msgspec.DecodeError as problem:
        raise BadQuery(str(problem)) from None
    total = sum(
        Decimal(str(price(name)["unit_price"])) * Decimal(str(units.unit_quantity))
        for name, units in asked.endpoints.items()
    )
    return Json({"estimate_type": asked.estimate_type, "total_cost": float(total), "currency": "USD"})


class Units(msgspec.Struct):
    """How many units of an endpoint."""

    unit_quantity: float


class Estimate(msgspec.Struct):
    """The body of an estimate by units; estimates by the prices of the past are not imitated."""

    endpoints: dict[str, Units]
    estimate_type: str = "unit_price"


def _code(job: Job) -> int:
    return views.FAILURES[job.outcome][0] if job.outcome in views.FAILURES else 200


def _codes(query: QueryParams) -> tuple[int, int] | None:
    if "status" in query and query["status"] not in STATUSES:
        raise BadQuery(f"status: one of {', '.join(STATUSES)}")
    return STATUSES[query["status"]] if "status" in query else None


def _time(query: QueryParams, name: str, default: float) -> float:
    try:
        return datetime.fromisoformat(query[name]).timestamp() if name in query else default
    except ValueError:
        raise BadQuery(f"{name}: a time by ISO 8601") from None


def _limit(query: QueryParams) -> int:
    given = query.get("limit", str(DEFAULT_PAGE))
    if not given.isdecimal() or not 1 <= int(given) <= LARGEST_PAGE:
        raise BadQuery(f"limit: 1 to {LARGEST_PAGE}")
    return int(given)


def _cursor(query: QueryParams) -> int:
    given = query.get("cursor", "0")
    if not given.isdecimal():
        raise BadQuery("cursor: as the page before gave it")
    return int(given)
