"""AI/ML API's request logs: how a page of them is asked for, and what a row says of a submit. Pure.

Facts: https://docs.aimlapi.com/api-references/service-endpoints/usage-logs. One row per request that has ended, failed
ones too, newest first, paged by `offset`; `inference_id` is the generation's own id.
"""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from service.facts import Accepted, Cost, Done, JobError, NotFound, Update
from service.providers import HistoryRow, Operation, Reply, read_object
from service.providers._aimlapi_results import CREDITS
from service.providers._reading import decimal_text, id_text, text_of
from service.states import ErrorCode, JobStatus, Json, Record

PATH = "/v2/logs"
ROWS = 100  # the most of a page
AHEAD_MS = 10 * 60_000  # their clock may be ahead of ours
SPAN_MS = 92 * 86_400_000 - 2 * AHEAD_MS  # the longest period that may be asked for


class Page(Record, frozen=True, kw_only=True):
    rows: tuple[Json, ...]
    more: bool


def path_of(start: int, now: int, *, skip: int) -> str:
    """Where the rows from `start` (milliseconds) until now are, without the first `skip`."""
    end = now + AHEAD_MS
    window = {"start": _utc(max(start, end - SPAN_MS, 0)), "end": _utc(end), "limit": ROWS, "offset": skip}
    return f"{PATH}?{urlencode(window)}"


def read_page(reply: Reply) -> Page | None:
    """None where the reply is no page of the logs."""
    said = read_object(reply.body) if reply.status == 200 else {}
    rows, paging = said.get("data"), said.get("pagination")
    if not isinstance(rows, list):
        return None
    more = isinstance(paging, dict) and paging.get("has_more") is True
    return Page(rows=tuple(row for row in rows if isinstance(row, dict)), more=more and bool(rows))


def verdict(row: Json, operation: Operation) -> Accepted | Done | NotFound:
    """What the row of a lost submit says of it."""
    named = id_text(row.get("inference_id"))
    if named is None:
        return NotFound(reason="AI/ML API's logs have a row of this submit, without the id")
    if operation.immediate:
        return Done(update=lost_result(row), provider_job_ids=(named,))
    return Accepted(provider_job_ids=(named,), cost=_cost(row), note="found in AI/ML API's logs")


def lost_result(row: Json) -> Update:
    """What comes at once comes once: the logs tell that it was made, and have no result to give."""
    if row.get("status") == "failed":
        return _failed(row)
    error = JobError(
        code=ErrorCode.RESULT_EXPIRED,
        message="AI/ML API accepted it and charged for it, and the result was in the reply that was lost: it cannot"
        " be had again, and submitting again charges again.",
    )
    return _ended(row, error)


def history_row(row: Json) -> HistoryRow | None:
    """None where the row names no inference. One that succeeded tells no result: the status of its id does."""
    named = id_text(row.get("inference_id"))
    if named is None:
        return None
    return HistoryRow(
        provider_job_id=named,
        at=_milliseconds(row.get("created")),
        correlation=text_of(row.get("client_request_id")),
        update=_failed(row) if row.get("status") == "failed" else None,
        cost=_cost(row),
        about={name: row[name] for name in ("model", "origin", "request_id") if row.get(name) is not None} or None,
    )


def _failed(row: Json) -> Update:
    error = JobError(
        code=ErrorCode.PROVIDER_ERROR,
        message="AI/ML API's logs say that it failed, and that nothing was charged.",
        retryable=True,
        provider_code="failed",
    )
    return _ended(row, error)


def _ended(row: Json, error: JobError) -> Update:
    word = text_of(row.get("status"))
    return Update(status=JobStatus.FAILED, error=error, cost=_cost(row), provider_status=word, provider_data=row)


def _cost(row: Json) -> Cost | None:
    cost = row.get("cost")
    amount = decimal_text(cost.get("credits")) if isinstance(cost, dict) else None
    return Cost(amount=amount, unit=CREDITS, source="reported") if amount is not None else None


def _utc(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _milliseconds(value: Any) -> int | None:
    try:
        at = datetime.fromisoformat(value)
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError):
        return None
