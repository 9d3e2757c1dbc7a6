"""Query parameters: declared beside each route, read and refused by name."""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl

from service.errors import BadRequest, Invalid
from service.ids import decode_cursor
from service.states import Json, Record
from service.views import parse_instant

MAX_LIMIT = 100
DEFAULT_LIMIT = 20
MAX_TEXT = 500
METADATA_FILTERS = 10
_METADATA = re.compile(r"metadata\[([^\]\x00]{1,64})\]")


class Query(Record):
    """One parameter. `read` makes its value of the text, or raises ValueError with the remedy."""

    name: str
    summary: str
    schema: Json
    read: Callable[[str], Any]


def read_query(declared: Sequence[Query], query_string: bytes) -> Json:
    """The values by name; `metadata[k]` is collected under `metadata`. Raises 400 unreadable, 422 by name."""
    if not query_string:
        return {}
    values: Json = {}
    known = {query.name: query for query in declared}
    for name, text in _pairs(query_string):
        filtered = _METADATA.fullmatch(name) if "metadata" in known else None
        if filtered is not None:
            values.setdefault("metadata", {})[filtered[1]] = _value(known["metadata"], name, text)
        elif name not in known or name == "metadata":
            raise _unknown(name, list(known))
        elif name in values:
            raise Invalid(f"`{name}` is there twice: give it once.", param=name)
        else:
            values[name] = _value(known[name], name, text)
    if len(values.get("metadata", ())) > METADATA_FILTERS:
        raise Invalid(f"At most {METADATA_FILTERS} metadata filters.", param="metadata")
    return values


def _pairs(query_string: bytes) -> list[tuple[str, str]]:
    try:
        text = query_string.decode("ascii")
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError:
        raise BadRequest("The query string is not percent-encoded UTF-8, or has over 50 parts.") from None


def _unknown(name: str, known: list[str]) -> Invalid:
    shown = name[:64]
    if not known:
        return Invalid(f"`{shown}` is not known: this path takes no parameters.", code="unknown_parameter", param=shown)
    near = get_close_matches(name, known, 1)
    hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(known)}."
    return Invalid(f"`{shown}` is not known here: {hint}", code="unknown_parameter", param=shown)


def _value(query: Query, name: str, text: str) -> Any:
    try:
        return query.read(text)
    except ValueError as error:
        code = "bad_cursor" if name == "cursor" else None
        raise Invalid(f"`{name}` {error}", code=code, param=name) from None


def _limit(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_LIMIT:
        raise ValueError(f"must be a whole number from 1 to {MAX_LIMIT}.")
    return int(text)


def _cursor(text: str) -> int:
    num = decode_cursor(text)
    if num is None:
        raise ValueError("is not one that this service gave: take `next_cursor` of the page before, as it is.")
    return num


def _instant(text: str) -> int:
    at = parse_instant(re.sub(r" (?=[0-9]{2}:[0-9]{2}$)", "+", text))  # an unencoded + of a zone arrives as a space
    if at is None:
        raise ValueError("must be an RFC 3339 time with a zone, such as 2026-01-31T12:00:00Z.")
    return at


def _text(text: str) -> str:
    if not text or len(text) > MAX_TEXT or "\x00" in text:
        raise ValueError(f"must be a text of 1 to {MAX_TEXT} characters.")
    return text


def whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}.")
        return int(text)

    return read


def text(name: str, summary: str) -> Query:
    schema = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT, "pattern": r"^[^\x00]+$"}
    return Query(name=name, summary=summary, schema=schema, read=_text)


def choice(name: str, summary: str, among: type[StrEnum]) -> Query:
    names = [member.value for member in among]

    def read(text: str) -> str:
        if text not in names:
            raise ValueError(f"must be one of: {', '.join(names)}.")
        return text

    return Query(name=name, summary=summary, schema={"enum": names}, read=read)


def instant(name: str, summary: str) -> Query:
    return Query(name=name, summary=summary, schema={"type": "string", "format": "date-time"}, read=_instant)


LIMIT = Query(
    name="limit",
    summary="How many rows at most",
    schema={"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    read=_limit,
)
CURSOR = Query(name="cursor", summary="`next_cursor` of the page before", schema={"type": "string"}, read=_cursor)
METADATA = Query(
    name="metadata",
    summary="`metadata[key]=value`: only jobs that carry it; several must all fit",
    schema={
        "type": "object",
        "additionalProperties": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
        "maxProperties": METADATA_FILTERS,
    },
    read=_text,
)
PAGE = (LIMIT, CURSOR)
