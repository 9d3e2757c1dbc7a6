"""PixVerse's lists: the usage detail, which is its books, and what there is to choose from."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from service.errors import Invalid, Unavailable
from service.facts import Cost
from service.providers import Call, HistoryRow, Operation, Reply, Request
from service.providers._pixverse_replies import Envelope, pixverse_id, read_envelope, reported_cost, succeeded, traces
from service.providers._reading import number, whole
from service.states import Json

USAGE_TIME = "%Y-%m-%d %H:%M:%S"
USAGE_MARGIN_MS = 10 * 60_000  # our clock and theirs may differ
USAGE_SPAN_MS = 30 * 86_400_000 - 2 * USAGE_MARGIN_MS  # the call takes at most 30 days
USAGE_ROWS = 100
USAGE_PAGES = 50
OLDEST_MS = 180 * 86_400_000  # six months in 30 days each
ID_FIELDS = ("video_id", "image_id")  # a bare `id` may be the billing row's own
TIME_FIELDS = ("create_time", "created_at", "create_at", "time")
CREATED_AS = {"image_to_image": "image_template"}  # a row's `creation_type` where it is no operation's name
LIST_ROWS = 100
LIST_PAGES = 20
LIST_FIELDS = ("data", "items", "list", "templates", "effects", "restyle_list")

Asked = Callable[[Json, str], Request]  # a usage-detail request, and what is special about it
Rows = list[Json]


# -- the books ------------------------------------------------------------------------------------


def usage(
    ask: Asked, start: int, end: int, done: Callable[[Rows], bool] = lambda rows: False, **more: Any
) -> Generator[Request, Reply, tuple[Rows, Reply | None]]:
    """The rows of a period, until one page satisfies `done`; with them the reply that was no page, where one was none.

    A list without end comes to an end with the last reply that promised more.
    """
    rows: Rows = []
    cursor: Any = None
    for page in range(USAGE_PAGES):
        query: Json = {"start_time": _utc(start), "end_time": _utc(end), "limit": USAGE_ROWS, **more}
        reply = yield ask({**query, "cursor": cursor} if cursor else query, f"usage {start} {page}")
        said = succeeded(reply)
        if said is None:
            return rows, reply
        found = _objects(said.resp.get("items"))
        rows += found
        cursor = said.resp.get("next_cursor")
        if done(found) or not said.resp.get("has_more") or not cursor:
            return rows, None
    return rows, reply


def _utc(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds // 1000, UTC).strftime(USAGE_TIME)


def since_submit(call: Call) -> tuple[int, int]:
    """The period that a submit is looked for in: from before its first POST, as far back as one call reaches."""
    end = max(call.now, call.submitted_at or 0) + USAGE_MARGIN_MS
    return max((call.submitted_at or 0) - USAGE_MARGIN_MS, end - USAGE_SPAN_MS, 0), end


def spans(since: int, now: int) -> list[tuple[int, int]]:
    """The period since then, in pieces that one call takes. Raises `Invalid`."""
    if now - since > OLDEST_MS:
        raise Invalid("PixVerse's usage detail is read back 180 days at most: give a later time", param="since")
    end = max(now, since) + USAGE_MARGIN_MS
    return [(start, min(start + USAGE_SPAN_MS, end)) for start in range(max(since, 0), end, USAGE_SPAN_MS)]


def is_ours(call: Call, row: Json) -> bool:
    return bool(call.correlation) and call.correlation in traces(row)


def id_of(row: Json) -> str | None:
    return next((found for field in ID_FIELDS if (found := pixverse_id(row.get(field)))), None)


def history_rows(rows: Sequence[Json], operations: Mapping[str, Operation]) -> list[HistoryRow]:
    """One row per video or image: what it was charged less what was given back."""
    by_id: dict[str, Rows] = {}
    for row in rows:
        if (found := id_of(row)) is not None:
            by_id.setdefault(found, []).append(row)
    return [_history_row(named, lines, operations) for named, lines in by_id.items()]


def _history_row(named: str, lines: Rows, operations: Mapping[str, Operation]) -> HistoryRow:
    charge = next((line for line in lines if line.get("credits_status") != "refund"), lines[0])
    carried = [trace for line in lines for trace in traces(line) if isinstance(trace, str) and trace]
    kind = CREATED_AS.get(str(charge.get("creation_type")), charge.get("creation_type"))
    return HistoryRow(
        provider_job_id=named,
        at=_at(charge),
        operation=kind if isinstance(kind, str) and kind in operations else None,
        correlation=carried[0] if carried else None,
        cost=_net_cost(lines),
        about=charge,
    )


def _net_cost(lines: Rows) -> Cost | None:
    costs = [(line.get("credits_status") == "refund", reported_cost(line)) for line in lines]
    amounts = [-Decimal(cost.amount) if refund else Decimal(cost.amount) for refund, cost in costs if cost is not None]
    net = sum(amounts, Decimal(0))
    # Given back and no charge among them: it was charged before the period.
    return Cost(amount=f"{net:f}", unit="credits", source="reported") if amounts and net >= 0 else None


def _at(row: Json) -> int | None:
    given = next((row[field] for field in TIME_FIELDS if isinstance(row.get(field), str)), "")
    try:
        at = datetime.fromisoformat(given)
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


# -- what there is to choose from -----------------------------------------------------------------


def pages(ask: Callable[[str], Request], path: str) -> Generator[Request, Reply, Rows]:
    """All rows of a list that is read by numbered pages; `path` ends before the number. Raises `Unavailable`."""
    rows: Rows = []
    for page in range(1, LIST_PAGES + 1):
        said = answered((yield ask(f"{path}{page}")))
        found = _listed(said)
        known = [row for row in found if row in rows]  # a server that knows no pages gives the first for ever
        rows += [row for row in found if row not in rows]
        total = whole(said.resp.get("total"))
        if known or len(found) < LIST_ROWS or (total is not None and len(rows) >= total):
            break
    return rows


def answered(reply: Reply) -> Envelope:
    """The envelope of a question that was answered. Raises `Unavailable`."""
    said = succeeded(reply)
    if said is not None:
        return said
    refused = read_envelope(reply)
    reason = f"{refused.code} {refused.text}".strip() if refused is not None else "not in its own shape"
    raise Unavailable(f"PixVerse did not answer the question (HTTP {reply.status}, {reason})")


def _listed(said: Envelope) -> Rows:
    """The rows, wherever in `Resp` they are: its documents do not show all of these replies."""
    if said.rows:
        return list(said.rows)
    named = (said.resp.get(field) for field in LIST_FIELDS)
    return next((rows for value in (*named, *said.resp.values()) if (rows := _objects(value))), [])


def _objects(value: Any) -> Rows:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def purse(said: Json) -> Json:
    """The balance: what is left in both purses. Raises `Unavailable` where neither is named."""
    purses = [number(said.get(name)) for name in ("credit_monthly", "credit_package")]
    if not any(left is not None for left in purses):
        raise Unavailable("PixVerse named no credits")
    return {"amount": f"{_sum(purses):f}", "unit": "credits", **said}


def _sum(amounts: Iterable[int | float | None]) -> Decimal:
    return sum((Decimal(str(amount)) for amount in amounts if amount is not None), Decimal(0))
