"""Filters of endpoints: exact values of fields of an event's `data`, by dotted path. Pure."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import msgspec

from service.errors import Invalid
from service.states import Json

# What events have: those of jobs, then those of deliveries, endpoints and credentials.
FIELDS = (
    "id", "status", "reason", "provider", "operation", "progress", "queue_position", "error.code", "error.message",
    "error.retryable", "error.provider_code", "error.provider_message", "cost.amount", "cost.unit", "cost.source",
    "sequence", "overdue", "created_at", "updated_at", "deadline_at", "cancel_requested_at", "timeline_url", "thin",
    "event", "type", "job", "endpoint", "attempts", "status_code", "error", "credential", "message", "text",
)  # fmt: skip
METADATA = "metadata."
OPEN = (METADATA, "provider_data.")  # below these, names are the client's and the provider's


def checked_filter(given: Mapping[str, Any]) -> Json:
    """As it is kept. Raises `Invalid` that names a path which no event has, and those that there are."""
    for path in given:
        if path not in FIELDS and not any(path.startswith(head) and path != head for head in OPEN):
            raise _unknown(path)
    return {path: _as_text(value) if path.startswith(METADATA) else value for path, value in given.items()}


def matches(wanted: Mapping[str, Any], data: Any) -> bool:
    """Whether every field has its value."""
    return all(_same(_value(data, path), value, path) for path, value in wanted.items())


def _same(found: Any, wanted: Any, path: str) -> bool:
    """Equal as JSON: `true` is not 1. The values of metadata are texts, also where the filter says a number."""
    if path.startswith(METADATA):
        return bool(found == _as_text(wanted))
    return isinstance(found, bool) is isinstance(wanted, bool) and bool(found == wanted)


def _value(data: Any, path: str) -> Any:
    """The value at a dotted path; a key that itself has dots is found, too, as the longest name that fits."""
    if not isinstance(data, dict):
        return None
    if path in data:
        return data[path]
    head, _, rest = path.partition(".")
    return _value(data.get(head), rest) if rest else None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _unknown(path: str) -> Invalid:
    shown = path[:64]
    names = [*FIELDS, *(f"{head}<name>" for head in OPEN)]
    inside = [name for name in names if name.startswith(f"{path}.")]
    near = inside or get_close_matches(path, FIELDS, 1, 0.75)
    known = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(names)}."
    return Invalid(f"No event has a field `{shown}`: {known}", code="unknown_filter", param=f"filter.{shown}")
