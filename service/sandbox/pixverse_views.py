"""PixVerse's envelopes, errors and shapes."""

from bisect import bisect_right
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.responses import Response

from service.sandbox.accounts import Number
from service.sandbox.jobs import Job, Outcome, Phase
from service.sandbox.pixverse_callbacks import STATUSES
from service.sandbox.provider import rfc3339
from service.sandbox.replies import HEIGHT, SIZES, WIDTH, Json

ERRORS = {
    10001: "invalid api key",
    400011: "empty parameter",
    400013: "invalid binding request: incorrect parameter type or value",
    400017: "invalid parameter",
    500008: "requested data not found",
    500030: "image size cannot exceed 20 MB or 10000 pixels",
    500031: "invalid file: it exceeds the limits of size",
    500032: "invalid image format",
    500033: "invalid media format",
    500044: "reached the limit for concurrent generations",
    500090: "insufficient balance",
    429: "too many requests",
    500: "internal server error",
}
GENERATING = 5
SECONDS = "%Y-%m-%d %H:%M:%S"


class UsageRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of the usage detail; the names of its fields are not documented."""

    video_id: int | None = None
    image_id: int | None = None
    credits: Number
    credits_status: str
    creation_type: str
    create_time: str
    trace_id: str | None = None


class UsageQuery(msgspec.Struct, kw_only=True):
    """The body of a usage-detail call."""

    start_time: str
    end_time: str
    limit: int = 20
    cursor: str | int | None = None
    credits_status: str | None = None
    creation_type: list[str] = []


def success(resp: Any) -> Response:
    """The envelope of a success."""
    return Json({"ErrCode": 0, "ErrMsg": "success", "Resp": resp})


def failure(code: int, about: str = "") -> Response:
    """The envelope of an error, which comes with HTTP 200."""
    return Json(failed_envelope(code, about))


def failed_envelope(code: int, about: str = "") -> dict[str, Any]:
    """An error's envelope."""
    return {"ErrCode": code, "ErrMsg": f"{ERRORS[code]}: {about}" if about else ERRORS[code], "Resp": None}


def accepted(job: Job) -> dict[str, Any]:
    """`Resp` of an accepted submit; a mask is there at once."""
    number, cost, origin = int(job.id), job.submit.cost, job.submit.origin
    if job.submit.operation == "image_template":
        return {"image_id": number, "credits": cost}
    if job.submit.operation != "swap_mask":
        return {"video_id": number, "credits": cost}
    picture = f"{origin}/media/{number}.png"
    masks = [{"mask_id": str(number), "mask_name": "person", "mask_url": picture}]
    return {"keyframe_id": 1, "keyframe_url": picture, "credits": cost, "mask_info": masks}


def video_view(job: Job, phase: Phase) -> dict[str, Any]:
    """`Resp` of a video's status."""
    details = job.submit.details
    succeeded = phase is Phase.DONE and job.outcome is Outcome.SUCCEEDED
    changed_at = job.finished_at if phase is Phase.DONE else job.accepted_at
    return {
        "id": int(job.id),
        "status": STATUSES[job.outcome] if phase is Phase.DONE else GENERATING,
        "url": f"{job.submit.origin}/media/{job.id}.mp4" if succeeded else "",
        "prompt": details.get("prompt", ""),
        "negative_prompt": details.get("negative_prompt", ""),
        "create_time": rfc3339(job.accepted_at),
        "modify_time": rfc3339(changed_at),
        "outputWidth": WIDTH if succeeded else 0,
        "outputHeight": HEIGHT if succeeded else 0,
        "resolution_ratio": 0,
        "seed": details.get("seed", 0),
        "size": SIZES["mp4"] if succeeded else 0,
        "style": details.get("style", ""),
        "has_audio": succeeded,
        "credits": job.submit.cost,
    }


def image_view(job: Job, phase: Phase) -> dict[str, Any]:
    """`Resp` of an image's status."""
    done = phase is Phase.DONE
    url = f"{job.submit.origin}/media/{job.id}.png" if done and job.outcome is Outcome.SUCCEEDED else ""
    return {"image_id": int(job.id), "status": STATUSES[job.outcome] if done else GENERATING, "url": url}


def usage_row(job: Job, *, at: float, status: str, traced: bool) -> UsageRow:
    """A line for what a job cost, or gave back; what is made at once has no id."""
    kind = job.submit.operation
    named = {} if kind == "swap_mask" else {"image_id" if kind == "image_template" else "video_id": int(job.id)}
    return UsageRow(
        **named,
        credits=job.submit.cost,
        credits_status=status,
        creation_type=kind,
        create_time=datetime.fromtimestamp(at, UTC).strftime(SECONDS),
        trace_id=job.submit.reference if traced else None,
    )


def booked_at(row: UsageRow) -> str:
    """The time of a line; such texts sort as their times do."""
    return row.create_time


def usage_page(rows: list[UsageRow], query: UsageQuery, *, before: int) -> dict[str, Any]:
    """A page of the rows below the index `before`, newest first; `rows` are in the order of their times."""
    index = min(before, bisect_right(rows, query.end_time, key=booked_at))
    items: list[UsageRow] = []
    while index > 0 and rows[index - 1].create_time >= query.start_time and len(items) < query.limit:
        index -= 1
        if _wanted(rows[index], query):
            items.append(rows[index])
    has_more = index > 0 and rows[index - 1].create_time >= query.start_time
    return {"items": items, "next_cursor": str(index) if has_more else "", "has_more": has_more}


def _wanted(row: UsageRow, query: UsageQuery) -> bool:
    if query.credits_status and row.credits_status != query.credits_status:
        return False
    return not query.creation_type or row.creation_type in query.creation_type
