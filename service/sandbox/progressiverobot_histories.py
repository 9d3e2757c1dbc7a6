"""Progressive Robot's histories of videos, pictures and sounds; sharing, and the public gallery."""

import secrets
from collections.abc import Iterator
from functools import partial
from typing import Any

from starlette.responses import Response

from service.sandbox.jobs import Outcome, Phase
from service.sandbox.progressiverobot_calls import Answer, Call, Refused, Row, done
from service.sandbox.progressiverobot_prices import (
    DEFAULT_IMAGE_MODEL,
    DEFAULT_MODEL,
    FRAME_RATE,
    FRAMES,
    HEIGHT,
    STEPS,
    VIDEO_TO_VIDEO,
    WIDTH,
)
from service.sandbox.progressiverobot_studio import Entry, Studio
from service.sandbox.progressiverobot_submits import status_view
from service.sandbox.provider import rfc3339
from service.sandbox.replies import Json

VIDEOS, PICTURES, SOUNDS = "generations", "image-generations", "audio-generations"
MODELS = {
    "generate": DEFAULT_MODEL,
    "generate_v2v": VIDEO_TO_VIDEO,
    "generate_image": DEFAULT_IMAGE_MODEL,
    "generate_audio": "ace-step",
}
SIZES = {"width": WIDTH, "height": HEIGHT}
DEFAULTS: dict[str, dict[str, Any]] = {
    VIDEOS: {**SIZES, "frames": FRAMES, "steps": STEPS, "frame_rate": FRAME_RATE, "project_id": None},
    PICTURES: {**SIZES, "steps": STEPS},
    SOUNDS: {"duration_seconds": 30, "tags": None},
}
OPTIONS = ("negative_prompt", "cfg", "sampler", "scheduler", "shift")


def row_view(studio: Studio, history: str, entry: Entry) -> dict[str, Any]:
    """A row: what was asked for, with the seed that was drawn, and what became of it."""
    fields, submit = entry.fields, entry.job.submit
    asked = {name: fields[name] for name in OPTIONS if name in fields}
    asked |= {name: fields.get(name) or value for name, value in DEFAULTS[history].items()}
    state = status_view(studio, entry.job)
    return {
        "id": entry.id,
        "prompt": fields["prompt"],
        "model": fields.get("model") or MODELS[submit.operation],
        "seed": fields["seed"],
        "filename": None,
        **asked,
        **state,
        "created_at": rfc3339(entry.job.accepted_at),
        "is_favorite": entry.is_favorite,
        "is_public": entry.is_public,
    }


def listed(history: str, studio: Studio, call: Call) -> Response:
    """A page of a history, newest first; a row is there from its acceptance on."""
    newest_first = list(reversed(studio.histories[history].values()))
    shown = [row_view(studio, history, entry) for entry in newest_first[call.page()]]
    return Json({"generations": shown, "total": len(newest_first)})


def removed(history: str, studio: Studio, call: Call) -> Response:
    """A row is deleted, and its file."""
    entry = studio.entry(history, call.ids["id"])
    del studio.histories[history][entry.id]
    for name in entry.job.submit.details["filenames"]:
        studio.files.pop(name, None)
    return done()


def favorite(studio: Studio, call: Call) -> Response:
    """Toggle."""
    entry = studio.entry(VIDEOS, call.ids["id"])
    entry.is_favorite = not entry.is_favorite
    return Json({"is_favorite": entry.is_favorite})


def publish(studio: Studio, call: Call) -> Response:
    """Toggle."""
    entry = studio.entry(VIDEOS, call.ids["id"])
    entry.is_public = not entry.is_public
    return Json({"is_public": entry.is_public})


def share(studio: Studio, call: Call) -> Response:
    """A token that opens the video without a key; the same one for the same video."""
    entry = studio.entry(VIDEOS, call.ids["id"])
    if not has_ended_well(studio, entry):
        raise Refused(400, "Generation is not completed")
    token = next((token for token, found in studio.shares.items() if found == entry.id), secrets.token_urlsafe(16))
    studio.shares[token] = entry.id
    return Json({"share_token": token})


def shared(studio: Studio, call: Call) -> Response:
    """What a token shares."""
    entry = entry_of(studio, call.ids["token"])
    if entry is None:
        raise Refused(404, "Share not found")
    url = f"{studio.origin(call.request)}/api/video/{file_of(entry)}?token={call.ids['token']}"
    return Json({**public_view(studio, entry), "video_url": url})


def gallery(studio: Studio, call: Call) -> Response:
    """What was made public, newest first."""
    shown = [public_view(studio, entry) for entry in reversed(list(public(studio)))]
    return Json({"generations": shown[call.page()], "total": len(shown)})


def public(studio: Studio) -> Iterator[Entry]:
    """The finished videos that were made public."""
    yield from (row for row in studio.histories[VIDEOS].values() if row.is_public and has_ended_well(studio, row))


def public_view(studio: Studio, entry: Entry) -> dict[str, Any]:
    """What a stranger sees of a video."""
    row = row_view(studio, VIDEOS, entry)
    return {name: row[name] for name in ("id", "prompt", "model", "width", "height", "frames", "created_at")} | {
        "filename": file_of(entry)
    }


def entry_of(studio: Studio, token: str) -> Entry | None:
    """The video that a share token opens."""
    return studio.histories[VIDEOS].get(studio.shares.get(token, 0))


def file_of(entry: Entry) -> str:
    """The name of the video's file."""
    return str(entry.job.submit.details["filenames"][0])


def has_ended_well(studio: Studio, entry: Entry) -> bool:
    """Whether there is a file."""
    return entry.job.phase(studio.now()) is Phase.DONE and entry.job.outcome is Outcome.SUCCEEDED


def _rows(history: str) -> tuple[Row, Row]:
    show: Answer = partial(listed, history)
    return Row("GET", f"/api/{history}", show), Row("DELETE", f"/api/{history}/{{id}}", partial(removed, history))


ROWS = (
    *(row for history in DEFAULTS for row in _rows(history)),
    Row("POST", "/api/generations/{id}/favorite", favorite),
    Row("POST", "/api/generations/{id}/public", publish),
    Row("POST", "/api/generations/{id}/share", share),
    Row("GET", "/api/share/{token}", shared, public=True),
    Row("GET", "/api/gallery/community", gallery, public=True),
)
