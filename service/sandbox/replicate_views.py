"""Replicate's shapes: predictions with outputs of every kind that models give, and errors."""

import json
import re
from typing import Any
from urllib.parse import urlsplit

from service.sandbox.jobs import Job, Outcome, Phase
from service.sandbox.provider import rfc3339
from service.sandbox.replies import Json

EVENTS = frozenset({"start", "output", "logs", "completed"})
STATUSES = {
    Outcome.SUCCEEDED: "succeeded",
    Outcome.FAILED: "failed",
    Outcome.MODERATED: "failed",
    Outcome.CANCELED: "canceled",
    Outcome.ABORTED: "aborted",
}
FAILURES = {
    Outcome.FAILED: "Prediction failed: the model ran out of memory",
    Outcome.MODERATED: "NSFW content detected. Try running it again, or try a different prompt.",
}
UNDER_WAY = {Phase.QUEUED: "starting", Phase.PROCESSING: "processing"}
TITLES = {
    401: ("Unauthenticated", "You did not pass a valid authentication token"),
    402: ("Insufficient credit", "You have insufficient credit to run this model. Purchase credit to go on."),
    400: ("Invalid request", "The request cannot be read: {what}"),
    404: ("Not found", "The requested resource could not be found."),
    405: ("Method not allowed", "There is no such call at this path."),
    429: ("Too many requests", "Request was throttled. Expected available in {wait} seconds."),
    500: ("Internal server error", "Something went wrong on our side."),
}
# What a model makes, by a word of its name or by `output_format`; an image in a list where nothing tells.
MAKES = {
    "words": ("llama", "chat", "instruct", "whisper", "txt"),
    "video": ("video", "mp4"),
    "audio": ("audio", "music", "speech", "mp3"),
    "object": ("mesh", "3d", "object"),
}
VERSION = re.compile(
    r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*:)?[0-9a-f]{64}|[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*|sandbox[\w-]*", re.A
)
WAIT = re.compile(r"(?:^|[,; ])wait(?:=([1-9][0-9]?))?(?=$|[,; ])")
LONGEST_WAIT_S = 60
DURATION = re.compile(r"([0-9]{1,6})|(?:([0-9]{1,4})h)?(?:([0-9]{1,5})m)?(?:([0-9]{1,6})s)?")
SHORTEST_LIFE_S, LONGEST_LIFE_S = 5.0, 24 * 3600.0
WORDS = ["A ", "red ", "kite ", "in ", "the ", "wind."]


def failure(status: int, *, wait: int = 1, what: str = "") -> Json:
    """An error in Replicate's shape."""
    title, detail = TITLES[status]
    headers = {"Retry-After": str(wait)} if status == 429 else None
    said = {"title": title, "detail": detail.format(wait=wait, what=what), "status": status}
    return Json(said, status_code=status, headers=headers)


def no_such_version() -> Json:
    """422 for a version that nobody has."""
    detail = "The specified version does not exist (or perhaps you don't have permission to use it?)"
    return Json({"title": "Invalid version or not permitted", "detail": detail, "status": 422}, status_code=422)


def names_version(value: Any) -> bool:
    """Whether such a version can be: 64 hexadecimal digits, behind a model's name or not, or a model's name alone."""
    return isinstance(value, str) and VERSION.fullmatch(value) is not None


def wait_of(prefer: str) -> float:
    """Seconds that `Prefer: wait[=n]` holds the reply: 60 if it does not say, 0 without it or for what cannot be."""
    found = WAIT.search(prefer)
    seconds = int(found[1] or LONGEST_WAIT_S) if found else 0
    return float(seconds) if seconds <= LONGEST_WAIT_S else 0.0


def cancel_after(given: str | None) -> float | None:
    """Seconds of `Cancel-After`: a number, or such as 90s, 1m30s, 1h. Raises `ValueError` under 5 s and over a day."""
    if given is None:
        return None
    found = DURATION.fullmatch(given.strip())
    if found is None or not any(found.groups()):
        raise ValueError("Cancel-After must be a duration, such as 30s or 1m")
    plain, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    total = plain + hours * 3600 + minutes * 60 + seconds
    if not SHORTEST_LIFE_S <= total <= LONGEST_LIFE_S:
        raise ValueError("Cancel-After must be between 5 seconds and 24 hours")
    return total


def events(job: Job) -> list[bytes]:
    """What the stream of a finished prediction says: its output in pieces, then why it is over."""
    pieces = output_of(job) if job.outcome is Outcome.SUCCEEDED else []
    pieces = pieces if isinstance(pieces, list) else [pieces if isinstance(pieces, str) else str(pieces)]
    said = [_event("output", str(place), piece) for place, piece in enumerate(pieces)]
    if job.outcome in FAILURES:
        said.append(_event("error", "error", FAILURES[job.outcome]))
    reason = (
        {} if job.outcome is Outcome.SUCCEEDED else {"reason": "canceled" if job.outcome not in FAILURES else "error"}
    )
    return [*said, _event("done", "done", json.dumps(reason))]


def _event(kind: str, event_id: str, text: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in text.split("\n"))
    return f"event: {kind}\nid: {event_id}\n{lines}\n".encode()


def invalid(problems: dict[str, str]) -> Json:
    """422 for fields that are missing or wrong."""
    fields = [{"type": "required", "field": field, "description": text} for field, text in problems.items()]
    detail = "".join(f"- {text}\n" for text in problems.values())
    return Json(
        {"title": "Input validation failed", "detail": detail, "status": 422, "invalid_fields": fields}, status_code=422
    )


def problems_of(fields: dict[str, Any], *, versioned: bool) -> dict[str, str]:
    """What is wrong with a submit, by field."""
    problems = {}
    if versioned and not (isinstance(fields.get("version"), str) and fields["version"]):
        problems["version"] = "version is required"
    if not isinstance(fields.get("input"), dict):
        problems["input"] = "input is required"
    if fields.get("webhook") is not None and not is_url(fields["webhook"]):
        problems["webhook"] = "webhook must be a URL"
    events = fields.get("webhook_events_filter")
    if events is not None and not (isinstance(events, list) and EVENTS.issuperset(map(str, events))):
        problems["webhook_events_filter"] = f"webhook_events_filter knows only {', '.join(sorted(EVENTS))}"
    return problems


def is_url(value: Any) -> bool:
    """Whether it is an http or https URL."""
    return isinstance(value, str) and urlsplit(value).scheme in ("http", "https") and bool(urlsplit(value).netloc)


def makes_of(name: str, given: dict[str, Any]) -> str:
    """What the model of that name makes of this input."""
    told = f"{name} {given.get('output_format', '')}".lower()
    return next((makes for makes, words in MAKES.items() if any(word in told for word in words)), "images")


def prediction(job: Job, phase: Phase, now: float, *, removed: bool = False) -> dict[str, Any]:
    """A prediction as all calls and callbacks show it; `removed` after its data's life."""
    details, origin = job.submit.details, job.submit.origin
    done = phase is Phase.DONE
    succeeded = done and job.outcome is Outcome.SUCCEEDED
    url = f"{origin}/v1/predictions/{job.id}"
    shown: dict[str, Any] = {
        "id": job.id,
        **details["named"],
        "input": {} if removed else details["input"],
        "logs": "" if removed else logs_of(job, phase, now),
        "output": output_of(job) if succeeded and not removed else None,
        "data_removed": removed,
        "error": FAILURES.get(job.outcome) if done else None,
        "status": STATUSES[job.outcome] if done else UNDER_WAY[phase],
        "source": "api",
        "created_at": rfc3339(job.accepted_at),
        "started_at": None if phase is Phase.QUEUED else rfc3339(job.started_at),
        "completed_at": rfc3339(job.finished_at) if done else None,
        "metrics": {"predict_time": round(job.finished_at - job.started_at, 6)} if done else {},
        "urls": {
            "get": url,
            "cancel": f"{url}/cancel",
            "stream": f"{origin}/v1/streams/{job.id}",
            "web": f"{origin}/p/{job.id}",
        },
    }
    return {**shown, **details["webhook"]}


def logs_of(job: Job, phase: Phase, now: float) -> str:
    """Lines as most models write them: a seed, then a bar."""
    if phase is Phase.QUEUED:
        return ""
    percent = int(100 * job.progress(now))
    return f"Using seed: 7\n{percent:3}%|{'#' * (percent // 10):10}| {percent}/100\n"


def output_of(job: Job) -> Any:
    """Of any shape, as the model has it."""
    file = f"{job.submit.origin}/media/{job.id}"
    match job.submit.details["makes"]:
        case "video":
            return f"{file}.mp4"
        case "audio":
            return f"{file}.mp3"
        case "words":
            return WORDS
        case "object":
            return {"mesh": f"{file}.glb", "turntable": f"{file}.gif", "captions": f"{file}.srt", "score": 0.5}
    return [f"{file}.png"]
