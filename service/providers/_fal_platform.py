"""fal's other host, api.fal.ai: the list of requests, in which a lost submit or a lost result may be found, and prices.

https://docs.fal.ai/platform-apis/v1/models/requests/by-endpoint and .../v1/models/pricing. That the list is complete,
or that it shows what is not over yet, is not stated: what it does not show proves nothing.
"""

import json
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from service.facts import Candidates, Cost, LookupVerdict, NotFound, NotNow
from service.providers import Call, Reply, Request
from service.providers._reading import decimal_text, header_wait, id_text, read_object, text_of
from service.states import Json

HOST = "api.fal.ai"
LIST, PRICES = "/v1/models/requests/by-endpoint", "/v1/models/pricing"
PAGE, PAGES = 100, 20
UNITS_HEADER = "x-fal-billable-units"
CLOSED = frozenset({401, 403, 404})  # to this key, or nothing of that kind is there
# When a submit of ours may have been sent, by their clock: it is waited for one minute, and clocks differ.
BEFORE_MS, AFTER_MS = 60_000, 120_000
# Younger ones are left to their own replies and callbacks: another submit with the same input may be under way.
SETTLED_MS = 10_000


def host_of(base_url: str, official: str, host: str) -> str:
    """Where another host of fal's is: below its name, where the base URL is not fal's own."""
    return f"https://{host}" if base_url == official else f"{base_url}/{host}"


def base_of(call: Call, official: str) -> str:
    """Where api.fal.ai is; a setting may stand in for it."""
    given = call.options.get("api_url") if call.base_url == official else None
    return given.rstrip("/") if given else host_of(call.base_url, official, HOST)


def look_up(call: Call, base: str, model: str | None) -> Generator[Request, Reply, LookupVerdict]:
    """The requests of this model with exactly our input, sent when ours was. Never conclusive."""
    sent = call.submitted_at or call.now
    told = call.callback_url is not None
    if model is None:
        return NotFound(reason="without its model a submit is in no list of fal's", hopeless=not told)
    if call.now - sent < SETTLED_MS:
        return NotFound(reason="fal's list of requests is read in a moment")
    rows = yield from _rows(call, base, model, sent)
    if isinstance(rows, NotNow):
        return rows
    if rows is None:
        return NotFound(reason="fal's list of requests is not open to this key", hopeless=not told)
    ours = [id_text(row.get("request_id")) for row in rows if _is_ours(row, call, model, sent)]
    ids = tuple(dict.fromkeys(filter(None, ours)))
    if ids:
        return Candidates(provider_job_ids=ids, note="found in fal's list of requests by its input")
    return NotFound(reason="fal's list of requests shows none with this input yet")


def row_of(call: Call, base: str, model: str, request_id: str) -> Generator[Request, Reply, Json | None]:
    """What the list has of one request; None where it has nothing."""
    query = {"endpoint_id": model, "request_id": request_id, "expand": "payloads"}
    reply = yield _asked(call, base + LIST, query, optional=True)
    return next((row for row in _items(reply) or () if row.get("request_id") == request_id), None)


def cost_of(call: Call, base: str, model: str, headers: Mapping[str, str]) -> Generator[Request, Reply, Cost | None]:
    """What was billed: the units that the result names, times the price of one. None where either is not said."""
    units = decimal_text(headers.get(UNITS_HEADER, "").strip())
    if units is None:
        return None
    reply = yield _asked(call, base + PRICES, {"endpoint_id": model}, optional=True)
    listed = read_object(reply.body).get("prices") if reply.status == 200 else None
    for row in listed if isinstance(listed, list) else ():
        if isinstance(row, dict) and row.get("endpoint_id") == model:
            price, currency = decimal_text(row.get("unit_price")), text_of(row.get("currency"))
            if price is None or currency is None:
                return None
            amount = f"{(Decimal(units) * Decimal(price)).normalize():f}"
            return Cost(amount=amount, unit=currency.lower(), source="reported")
    return None


# -- the list -------------------------------------------------------------------------------------


def _rows(call: Call, base: str, model: str, sent: int) -> Generator[Request, Reply, list[Json] | NotNow | None]:
    """Every row since a moment before the submit; None where the list is closed. A list that is cut tells nothing:
    what it leaves out may fit, too.
    """
    start = datetime.fromtimestamp((sent - BEFORE_MS) / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    query = {"endpoint_id": model, "start": start, "limit": str(PAGE), "expand": "payloads"}
    rows: list[Json] = []
    for _ in range(PAGES):
        reply = yield _asked(call, base + LIST, query)
        if reply.status in CLOSED:
            return None
        items = _items(reply)
        if items is None:
            return NotNow(reason=_why_not(reply), after_s=header_wait(reply.headers))
        rows += items
        said = read_object(reply.body)
        cursor = text_of(said.get("next_cursor"))
        if cursor is None or said.get("has_more") is False:
            return rows
        query = {**query, "cursor": cursor}
    return NotNow(reason="capacity")


def _asked(call: Call, url: str, query: Mapping[str, str], *, optional: bool = False) -> Request:
    headers = {"Authorization": f"Key {call.api_key}", "Accept": "application/json"}
    return Request(method="GET", url=f"{url}?{urlencode(query)}", headers=headers, optional=optional)


def _items(reply: Reply) -> list[Json] | None:
    items = read_object(reply.body).get("items")
    if reply.status != 200 or not isinstance(items, list):
        return None
    return [row for row in items if isinstance(row, dict)]


def _why_not(reply: Reply) -> str:
    if reply.status == 429:
        return "rate_limited"
    return "provider_error" if reply.status >= 500 else "unreadable"


def _is_ours(row: Json, call: Call, model: str, sent: int) -> bool:
    at = _milliseconds(row.get("sent_at"))
    in_time = at is not None and sent - BEFORE_MS <= at <= sent + AFTER_MS
    same = "json_input" in row and _plain(row["json_input"]) == _plain(call.input.get("input", {}))
    return in_time and same and row.get("endpoint_id") == model


def _plain(value: Any) -> str:
    """One spelling of a JSON value: 5 and 5.0 are one number, true is none."""
    return json.dumps(_whole_numbers(value), sort_keys=True)


def _whole_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole_numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _milliseconds(value: Any) -> int | None:
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return None if at is None else int(at.replace(tzinfo=at.tzinfo or UTC).timestamp() * 1000)
