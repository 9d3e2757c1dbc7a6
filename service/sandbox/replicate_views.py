"""Replicate's shapes: predictions with outputs of every kind that models give, and errors."""

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
}
FAILURES = {
    Outcome.FAILED: "Prediction failed: the model ran out of memory",
    Outcome.MODERATED: "NSFW content detected. Try running it again, or try a different prompt.",
}
UNDER_WAY = {Phase.QUEUED: "starting", Phase.PROCESSING: "processing"}
TITLES = {
    401: ("Unauthenticated", "You did not pass a valid authentication token"),
    402: ("Insufficient credit", "You have insufficient credit to run this model. Purchase credit to go on."),
    404: ("Not found", "The requested resource could not be found."),
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
WORDS = ["A ", "red ", "kite ", "in ", "the ", "wind."]


def failure(status: int, *, wait: int = 1) -> Json:
    """An error in Replicate's shape."""
    title, detail = TITLES[status]
    headers = {"Retry-After": str(wait)} if status == 429 else None
    said = {"title": title, "detail": detail.format(wait=wait), "status": status}
    return Json(said, status_code=status, headers=headers)


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
        "urls": {"get": url, "cancel": f"{url}/cancel", "web": f"{origin}/p/{job.id}"},
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
