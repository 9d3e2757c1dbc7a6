"""AI/ML API's books: the request logs, the balance, and what moved it."""

import base64
import binascii
import re
import uuid
from bisect import insort
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.datastructures import QueryParams

from service.sandbox.accounts import Number
from service.sandbox.aimlapi_operations import CREDITS_PER_DOLLAR
from service.sandbox.jobs import Job, Outcome
from service.sandbox.provider import rfc3339

LONGEST_PERIOD = timedelta(days=92)
PERIOD = re.compile(r"([1-9][0-9]{0,4})([hd])")
LARGEST_PAGE = 100
STATUSES = ("succeeded", "failed")
Row = dict[str, Any]


class Books:
    """One row for each request that has ended, in the order in which they were made."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, str, Row]] = []

    def enter(self, job: Job) -> None:
        """Write down what a finished job came to; what failed costs nothing."""
        succeeded = job.outcome is Outcome.SUCCEEDED
        row = {
            "created": rfc3339(job.accepted_at),
            "status": STATUSES[0] if succeeded else STATUSES[1],
            "origin": "api",
            "model": job.submit.details["model"],
            "cost": money(job.submit.cost if succeeded else 0),
            "tokens": {"input": 0, "output": 0, "total": 0},
            "request_id": str(uuid.uuid4()),
            "inference_id": job.id,
            "client_request_id": job.submit.reference,
        }
        insort(self._rows, (job.accepted_at, job.id, row))

    def logs(self, query: QueryParams, now: float) -> Row:
        """A page of `GET /v2/logs`, newest first. Raises `ValueError` for a query that it refuses."""
        start, end = _window(query, now)
        limit, offset = _whole(query, "limit", 50), _whole(query, "offset", 0)
        statuses, models = query.getlist("status"), query.getlist("model")
        if not 1 <= limit <= LARGEST_PAGE or set(statuses) - set(STATUSES):
            raise ValueError("limit is 1 to 100, status succeeded or failed")
        fits = [
            row
            for at, _, row in reversed(self._rows)
            if start <= at <= end
            and (not statuses or row["status"] in statuses)
            and (not models or row["model"] in models)
        ]
        page = fits[offset : offset + limit]
        paging = {"limit": limit, "offset": offset, "total": len(fits), "has_more": offset + limit < len(fits)}
        return {"data": page, "pagination": paging}

    def transactions(self, query: QueryParams) -> Row:
        """A page of `GET /v2/billing/transactions`: what was charged, newest first. Raises `ValueError`."""
        limit, before = _whole(query, "limit", 50), _cursor(query.get("cursor"), len(self._rows))
        if not 1 <= limit <= LARGEST_PAGE:
            raise ValueError("limit is 1 to 100")
        wanted = query.get("direction", "CHARGE") == "CHARGE" and query.get("type", "MODEL_USAGE") == "MODEL_USAGE"
        found: list[Row] = []
        while before > 0 and len(found) < limit:
            before -= 1
            row = self._rows[before][2]
            if wanted and row["status"] == "succeeded":
                found.append(_charge(row))
        after = base64.urlsafe_b64encode(str(before).encode()).decode() if before else None
        return {"data": found, "pagination": {"next_cursor": after, "has_more": after is not None}}


def money(amount: Number) -> dict[str, Number]:
    """An amount in both of its units."""
    return {"usd": amount / CREDITS_PER_DOLLAR, "credits": amount}


def balance(amount: Number) -> Row:
    """`GET /v2/billing`."""
    return {"current_balance": amount / CREDITS_PER_DOLLAR, "currency": "USD"}


def balance_detail(amount: Number) -> Row:
    """`GET /v2/billing/detail`."""
    top_up = {"is_enabled": False, "threshold": 0, "amount": 0, "currency": "USD"}
    return {"user_id": 1, "email": "sandbox@example.com", **balance(amount), "autotopup_settings": top_up}


def older_balance(amount: Number, now: float) -> Row:
    """`GET /v1/billing/balance`."""
    low = amount < 10_000
    return {
        "balance": amount,
        "lowBalance": low,
        "lowBalanceThreshold": 10_000,
        "lastUpdated": rfc3339(now),
        "autoDebitStatus": "disabled",
        "status": "current",
        "statusExplanation": "Balance is low" if low else "Balance is current and up to date",
    }


def _charge(row: Row) -> Row:
    return {
        "created_at": row["created"],
        "direction": "CHARGE",
        "type": "MODEL_USAGE",
        "amount": row["cost"],
        "model": row["model"],
        "reference_id": row["inference_id"],
    }


def _window(query: QueryParams, now: float) -> tuple[float, float]:
    given = [name for name in ("period", "start", "end") if name in query]
    if given == ["period"]:
        found = PERIOD.fullmatch(query["period"])
        if found is None:
            raise ValueError("period is a number followed by h or d")
        span = timedelta(**{{"h": "hours", "d": "days"}[found[2]]: int(found[1])})
        start, end = now - span.total_seconds(), now
    elif given == ["start", "end"]:
        start, end = _instant(query["start"]), _instant(query["end"])
    else:
        raise ValueError("give either period, or both start and end")
    if not start <= end <= start + LONGEST_PERIOD.total_seconds():
        raise ValueError("the window goes backward, or exceeds 92 days")
    return start, end


def _instant(text: str) -> float:
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _whole(query: QueryParams, name: str, otherwise: int) -> int:
    text = query.get(name, str(otherwise))
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"{name} is a whole number")
    return int(text)


def _cursor(text: str | None, otherwise: int) -> int:
    if text is None:
        return otherwise
    try:
        return min(int(base64.urlsafe_b64decode(text.encode())), otherwise)
    except (binascii.Error, ValueError):
        raise ValueError("the cursor is not one of ours") from None
