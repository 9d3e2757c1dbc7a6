"""Lists: `{"data": [...], "next_cursor": ...}`, newest first."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from service.ids import encode_cursor
from service.states import Json
from service.web.calls import Call
from service.web.replies import Reply, json_reply


def listed(call: Call, rows: Sequence[Any], view: Callable[[Any], Json]) -> Reply:
    """A page of rows that have a `num`; `rows` has one more than asked for where there is another page."""
    shown = rows[: call.limit]
    more = encode_cursor(shown[-1].num) if len(rows) > len(shown) else None
    return json_reply({"data": [view(row) for row in shown], "next_cursor": more})


def sliced(call: Call, rows: Iterable[Any], view: Callable[[Any], Json]) -> Reply:
    """The same of rows that are all at hand."""
    before = call.query.get("cursor")
    ordered = sorted(rows, key=lambda row: row.num, reverse=True)
    wanted = [row for row in ordered if before is None or row.num < before]
    return listed(call, wanted[: call.limit + 1], view)


def whole(data: Sequence[Json]) -> Reply:
    """A list that is never long enough for pages."""
    return json_reply({"data": data, "next_cursor": None})
