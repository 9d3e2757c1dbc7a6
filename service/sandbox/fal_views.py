"""fal's shapes: the queue's replies, what models give, and errors."""

from typing import Any
from urllib.parse import urlsplit

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
}
# What a model makes, by a word of its path; images where nothing tells.
MAKES = {
    "words": ("llm", "whisper", "chat"),
    "video": ("video", "kling", "veo"),
    "audio": ("audio", "music", "speech"),
    "model_3d": ("3d", "mesh", "trellis"),
}


def failure(status: int, detail: str, *, wait: int | None = None) -> Json:
    """An error in fal's shape."""
    headers = {"Retry-After": str(wait)} if wait is not None else None
    return Json({"detail": detail}, status_code=status, headers=headers)


def invalid(field: list[str], text: str) -> Json:
    """422 for a field that is missing or wrong."""
    return Json({"detail": [{"loc": field, "msg": text, "type": "missing", "input": {}}]}, status_code=422)


def is_url(value: str) -> bool:
    """Whether it is an http or https URL."""
    return urlsplit(value).scheme in ("http", "https") and bool(urlsplit(value).netloc)


def makes_of(model: str) -> str:
    """What the model of that path makes."""
    return next((makes for makes, words in MAKES.items() if any(word in model for word in words)), "images")


def places(job: Job) -> dict[str, str]:
    """The request's URLs: below the model's first two parts, whatever its path has beside them."""
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
        code, kind, _ = FAILURES[job.outcome]
        canceled = job.outcome is Outcome.CANCELED
        said |= {"error": "Request was cancelled" if canceled else f"Invalid status code: {code}", "error_type": kind}
    return Json({"status": "COMPLETED", **said})


def logs_of(job: Job, now: float) -> list[dict[str, str]]:
    """One line of a bar."""
    line = f"{int(100 * job.progress(now))}%"
    return [{"message": line, "level": "INFO", "source": "USER", "timestamp": rfc3339(min(now, job.finished_at))}]


def result(job: Job, phase: Phase) -> Json:
    """What the model gave, or why it gave nothing."""
    if phase is not Phase.DONE:
        return failure(400, "Request is still in progress")
    if job.outcome not in FAILURES:
        return Json(payload(job))
    code, kind, said = FAILURES[job.outcome]
    return Json(said, status_code=code, headers={"X-Fal-Error-Type": kind})


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
        code, _, said = FAILURES[job.outcome]
        canceled = job.outcome is Outcome.CANCELED
        error = "Request was cancelled" if canceled else f"Invalid status code: {code}"
        return {**ids, "status": "ERROR", "error": error, "payload": None if canceled else said}
    if unwritable:
        why = "Response payload is not JSON serializable. Fetch the response URL to get the result."
        return {**ids, "status": "OK", "payload": None, "payload_error": why}
    return {**ids, "status": "OK", "payload": payload(job)}
