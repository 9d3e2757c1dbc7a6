"""fal's shapes: the queue's replies, what models give, and errors."""

import re
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request

from service.sandbox.jobs import Job, Outcome, Phase
from service.sandbox.provider import rfc3339
from service.sandbox.replies import CONTENT_TYPES, HEIGHT, SIZES, WIDTH, Json

FAILURES = {
    Outcome.FAILED: (500, "internal_error", {"detail": "The model could not process the request."}),
    Outcome.MODERATED: (
        422,
        "content_policy_violation",
        {
            "detail": [
                {
                    "loc": ["body", "prompt"],
                    "msg": "The content was flagged by a content checker.",
                    "type": "content_policy_violation",
                    "input": {},
                }
            ]
        },
    ),
    Outcome.CANCELED: (499, "client_cancelled", {"detail": "Request was cancelled"}),
    Outcome.ABORTED: (504, "request_timeout", {"detail": "Request timed out before it was started"}),
}
OLD_ID = re.compile(r"^([0-9]+)-([A-Za-z0-9-]+)$")  # 123-name is 123/name
START_TIMEOUTS = ("x-fal-request-start-timeout", "x-fal-request-timeout")  # the second is its older name
SHORTEST_START_S = 0.1
PRIORITIES = ("normal", "low")
SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
NAMESPACES = frozenset({"workflows", "comfy"})  # the apps in one have three path parts
LARGE_BYTES = 10_240  # from which on a result is kept for a shorter time
# What a model makes, by a word of its path; images where nothing tells.
MAKES = {
    "words": ("llm", "whisper", "chat"),
    "video": ("video", "kling", "veo"),
    "audio": ("audio", "music", "speech"),
    "model_3d": ("3d", "mesh", "trellis"),
}
# What a model of each kind is billed by, how much of it one request takes, and the price of a unit.
BILLED = {
    "images": ("image", "1", 0.025),
    "video": ("second", "5", 0.0375),
    "audio": ("second", "30", 0.0013),
    "words": ("request", "1", 0.01),
    "model_3d": ("request", "1", 0.02),
}


def failure(status: int, detail: str, *, wait: int | None = None) -> Json:
    """An error in fal's shape."""
    headers = {"Retry-After": str(wait)} if wait is not None else None
    return Json({"detail": detail}, status_code=status, headers=headers)


def invalid(field: list[str], text: str) -> Json:
    """422 for a field that is missing or wrong."""
    return Json({"detail": [{"loc": field, "msg": text, "type": "missing", "input": {}}]}, status_code=422)


def start_timeout(request: Request) -> str | None:
    """Within how many seconds the work must start, as its client says it."""
    return next((request.headers[name] for name in START_TIMEOUTS if name in request.headers), None)


def wrong_header(request: Request) -> Json | None:
    """422 for a header with a value that cannot be."""
    given = start_timeout(request)
    if given is not None and not (SECONDS.fullmatch(given) and float(given) > SHORTEST_START_S):
        return invalid(["header", START_TIMEOUTS[0]], f"Input should be greater than {SHORTEST_START_S}")
    if request.headers.get("x-fal-queue-priority", "normal") not in PRIORITIES:
        return invalid(["header", "x-fal-queue-priority"], "Input should be 'normal' or 'low'")
    return None


def is_url(value: str) -> bool:
    """Whether it is an http or https URL."""
    return urlsplit(value).scheme in ("http", "https") and bool(urlsplit(value).netloc)


def makes_of(model: str) -> str:
    """What the model of that path makes."""
    return next((makes for makes, words in MAKES.items() if any(word in model for word in words)), "images")


def app_of(model: str) -> str | None:
    """The app of a model's path: its first two parts, three in a namespace; None where it has not so many."""
    parts = OLD_ID.sub(r"\1/\2", model).split("/")
    wanted = 3 if parts[0] in NAMESPACES else 2
    named = len(parts) >= wanted and all(parts) and "requests" not in parts
    return "/".join(parts[:wanted]) if named else None


def places(job: Job) -> dict[str, str]:
    """The request's URLs: below its app, whatever the model's path has beside it."""
    url = f"{job.submit.origin}/{job.submit.details['app']}/requests/{job.id}"
    return {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}


def accepted(job: Job, position: int) -> dict[str, Any]:
    """The reply to an accepted submit."""
    ids = {"request_id": job.id, "gateway_request_id": job.id}
    return {"status": "IN_QUEUE", **ids, **places(job), "queue_position": position}


def status(job: Job, phase: Phase, now: float, *, position: int, logs: bool, tells_error: bool) -> Json:
    """202 while it is under way, 200 after; `tells_error`: a failure shows in the status, too."""
    said: dict[str, Any] = {"request_id": job.id, **places(job)}
    if phase is Phase.QUEUED:
        return Json({"status": "IN_QUEUE", **said, "queue_position": position}, status_code=202)
    said["logs"] = logs_of(job, now) if logs else None
    if phase is Phase.PROCESSING:
        return Json({"status": "IN_PROGRESS", **said}, status_code=202)
    said["metrics"] = {"inference_time": round(job.finished_at - job.started_at, 6)}
    if tells_error and job.outcome in FAILURES:
        said |= {"error": error_of(job), "error_type": FAILURES[job.outcome][1]}
    return Json({"status": "COMPLETED", **said})


def error_of(job: Job) -> str:
    """How the status and the callback word a failure."""
    code, _, _ = FAILURES[job.outcome]
    return "Request was cancelled" if job.outcome is Outcome.CANCELED else f"Invalid status code: {code}"


def logs_of(job: Job, now: float) -> list[dict[str, str]]:
    """One line of a bar."""
    line = f"{int(100 * job.progress(now))}%"
    return [{"message": line, "level": "INFO", "source": "USER", "timestamp": rfc3339(min(now, job.finished_at))}]


def result(job: Job, phase: Phase, *, expired: bool = False) -> Json:
    """What the model gave, or why it gave nothing. What it answers once a result has expired is not documented."""
    if phase is not Phase.DONE:
        return failure(400, "Request is still in progress")
    if expired:
        return failure(404, "Request result not found")
    if job.outcome not in FAILURES:
        return Json(payload(job), headers={"X-Fal-Billable-Units": units_of(job)})
    code, kind, said = FAILURES[job.outcome]
    headers = {"X-Fal-Error-Type": kind}
    if job.outcome is Outcome.ABORTED:
        headers["X-Fal-Request-Timeout-Type"] = "user"
    return Json(said, status_code=code, headers=headers)


def units_of(job: Job) -> str:
    """What is billed, in the unit of the model's price."""
    return "0" if job.outcome in FAILURES else BILLED[job.submit.details["makes"]][1]


def payload(job: Job) -> dict[str, Any]:
    """The output of a model of its kind."""
    match job.submit.details["makes"]:
        case "words":
            return {"output": "A red kite in the wind.", "partial": False, "error": None}
        case "video":
            return {"video": file(job, "mp4"), "seed": 7}
        case "audio":
            return {"audio": file(job, "mp3")}
        case "model_3d":
            return {"model_mesh": file(job, "glb"), "timings": {"inference": 1.5}}
    image = {**file(job, "png"), "width": WIDTH, "height": HEIGHT}
    return {"images": [image], "seed": 7, "timings": {"inference": 1.5}, "has_nsfw_concepts": [False]}


def file(job: Job, kind: str) -> dict[str, Any]:
    """How fal describes a file."""
    url, name = f"{job.submit.origin}/media/{job.id}.{kind}", f"output.{kind}"
    return {"url": url, "content_type": CONTENT_TYPES[kind], "file_name": name, "file_size": SIZES[kind]}


def callback_body(job: Job, *, unwritable: bool) -> dict[str, Any]:
    """The callback of a finished request."""
    ids = {"request_id": job.id, "gateway_request_id": job.submit.details["gateway_request_id"]}
    if job.outcome in FAILURES:
        said = None if job.outcome is Outcome.CANCELED else FAILURES[job.outcome][2]
        return {**ids, "status": "ERROR", "error": error_of(job), "payload": said}
    if unwritable:
        why = "Response payload is not JSON serializable. Fetch the response URL to get the result."
        return {**ids, "status": "OK", "payload": None, "payload_error": why}
    return {**ids, "status": "OK", "payload": payload(job)}
