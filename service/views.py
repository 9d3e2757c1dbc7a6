"""The shapes that clients see: one function per kind of object, used by the API and by event bodies."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec

from service.facts import Cost, JobError, Output
from service.models import Delivery, Event, Job, Part
from service.states import JobStatus, Json

MAX_EVENT_BYTES = 256 * 1024  # serverless receivers cap bodies near this; beyond it the event is thin

Link = Callable[[str, int], str | None]  # the stable URL of a job's output: the job's id, the output's place

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.encode
_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


def no_link(job_id: str, place: int) -> None:
    """For who has no key to make links with."""


@lru_cache(maxsize=4096)  # the same few moments are written again and again
def instant(at: int | None) -> str | None:
    """RFC 3339 in UTC with milliseconds, from milliseconds since 1970."""
    if at is None:
        return None
    return (EPOCH + timedelta(milliseconds=at)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_instant(text: str) -> int | None:
    """Milliseconds since 1970 from an RFC 3339 time with a zone; None if it is none.

    Its section 5.6: `t` and `z` may be lower case, a space may stand for the T, and a leap second is written :60,
    which is read as the first moment of the next minute.
    """
    found = _RFC3339.fullmatch(text)
    if found is None:
        return None
    date, minute, second, fraction, zone = found.groups()
    leap = second == "60"
    try:
        at = datetime.fromisoformat(f"{date}T{minute}:{'59' if leap else second}{zone.upper()}").astimezone(UTC)
        at += timedelta(seconds=leap)
    except (ValueError, OverflowError):  # in UTC it may be in a year that there is not
        return None
    return int(at.timestamp()) * 1000 + (0 if leap else int((fraction or "0").ljust(3, "0")[:3]))


def output_view(output: Output, stable_url: str | None) -> Json:
    fields: Json = {name: getattr(output, name) for name in output.__struct_fields__ if name != "needs_key"}
    return {**fields, "stable_url": stable_url, "expires_at": instant(output.expires_at)}


def error_view(error: JobError | None) -> Json | None:
    return None if error is None else {name: getattr(error, name) for name in error.__struct_fields__}


def cost_view(cost: Cost | None) -> Json | None:
    return None if cost is None else {"amount": cost.amount, "unit": cost.unit, "source": cost.source}


def job_data(job: Job, now: int, link: Link = no_link) -> Json:
    """The job as an event's `data`: without `input` and `callback_url`."""
    detail = job.detail
    return {
        "id": job.id,
        "status": job.status,
        "reason": job.reason,
        "provider": job.provider,
        "operation": job.operation,
        "metadata": job.metadata,
        "provider_job_ids": list(job.provider_job_ids),
        "progress": detail.progress,
        "queue_position": detail.queue_position,
        "outputs": [output_view(output, link(job.id, place)) for place, output in enumerate(detail.outputs)],
        "error": error_view(detail.error),
        "failures": _failures(detail.parts),
        "cost": cost_view(detail.cost),
        "provider_data": detail.provider_data,
        "sequence": job.sequence,
        "created_at": instant(job.created_at),
        "updated_at": instant(job.updated_at),
        "deadline_at": instant(job.deadline_at),
        "overdue": not job.terminal and job.deadline_at is not None and now > job.deadline_at,
        "cancel_requested_at": instant(job.cancel_requested_at),
        "timeline_url": f"/v1/jobs/{job.id}/timeline",
    }


def _failures(parts: tuple[Part, ...]) -> list[Json]:
    """Where a job has several provider ids: those that failed, so that a part is not taken for the whole."""
    if len(parts) < 2:
        return []
    return [
        {"provider_job_id": part.provider_job_id, "error": error_view(part.update.error)}
        for part in parts
        if part.update is not None and part.update.status in (JobStatus.FAILED, JobStatus.CANCELED)
    ]


def job_view(job: Job, given: bytes | None, now: int, link: Link) -> Json:
    """The job as its owner sees it; `given` is the stored input."""
    origin = job.detail.callback_origin
    return {**job_data(job, now, link), "input": msgspec.Raw(given) if given else None, "callback_url": origin}


def event_body(kind: str, at: int, data: Json) -> bytes:
    """`{"type", "timestamp", "data"}`; beyond 256 KiB `data` is thin: the receiver reads the job itself."""
    body = _encode({"type": kind, "timestamp": instant(at), "data": data})
    if len(body) <= MAX_EVENT_BYTES:
        return body
    thin = {name: data.get(name) for name in ("id", "status", "provider", "operation", "metadata")}
    return _encode({"type": kind, "timestamp": instant(at), "data": {**thin, "thin": True}})


def event_view(event: Event) -> Json:
    body: Any = msgspec.json.decode(event.body)
    return {"id": event.id, "job": event.job, **body}


def delivery_view(delivery: Delivery) -> Json:
    return {
        "id": delivery.id,
        "event": delivery.event_id,
        "type": delivery.event_type,
        "endpoint": delivery.endpoint_id,
        "job": delivery.job_id,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "next_attempt_at": instant(delivery.due_at),
        "created_at": instant(delivery.created_at),
        "finished_at": instant(delivery.finished_at),
    }
