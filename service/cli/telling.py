"""A job's timeline as people read it: seconds since it was accepted, and one line for each thing that happened."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from service.cli.printing import cell

Json = dict[str, Any]
VERDICTS = {
    "verified": "callback verified: the signature proves it",
    "hint": "callback taken as a hint: the status is read back with our own key",
    "duplicate": "callback ignored: a duplicate",
    "rejected": "callback rejected",
}


def told(entries: Sequence[Json]) -> Iterator[str]:
    """One line per entry."""
    for entry in entries:
        spent = at(entry) - at(entries[0])
        yield f"+{spent:7.3f} s  {sentence(entry)}"


def at(entry: Json) -> float:
    """When it happened, in seconds."""
    return datetime.fromisoformat(entry["at"]).timestamp()


def sentence(entry: Json) -> str:
    """What happened."""
    match entry["kind"]:
        case "accepted":
            return "accepted, to follow it" if entry.get("followed") else "accepted: durable from here on"
        case "submit":
            return f"submit: {_details(entry, 'outcome')}"
        case "callback":
            return VERDICTS.get(str(entry["verdict"]), "callback") + _reason(entry)
        case "poll":
            return f"read {entry.get('count', 1)} times without news"
        case "update":
            return f"update: {_details(entry, 'status')}"
        case "event":
            return f"event {entry['type']}: {entry['id']}"
        case "delivery":
            to = entry["endpoint"] or "the job's callback_url"
            return f"delivery of {entry['event']} to {to}: {entry['status']}"
        case "attempt":
            return attempt_sentence(entry)
    return f"{entry['kind']}: {_details(entry, 'status')}"


def attempt_sentence(entry: Json) -> str:
    """One try, and what it came to."""
    code = entry["status_code"]
    result = f"{code}, accepted" if code is not None and 200 <= code < 300 else f"{code or entry['error']}, refused"
    return f"attempt {entry['number']} of {entry['delivery']}: {result} ({entry['duration_ms']} ms)"


def _reason(entry: Json) -> str:
    return f" ({cell(entry, 'reason')})" if entry.get("reason") else ""


def _details(entry: Json, first: str) -> str:
    """The entry's most telling field, then the others."""
    rest = [name for name in entry if name not in ("at", "kind", first, "body") and entry[name] is not None]
    said = [cell(entry, first)] if entry.get(first) is not None else []
    return ", ".join(said + [f"{name} {cell(entry, name)}" for name in rest])
