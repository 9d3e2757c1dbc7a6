"""AI/ML API's shapes: errors, submits, statuses, results that come at once."""

import base64
import re
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from service.sandbox.aimlapi_operations import CREDITS_PER_DOLLAR, Dialect, pictures
from service.sandbox.jobs import Job, Outcome, Phase
from service.sandbox.provider import rfc3339
from service.sandbox.replies import FILES, HEIGHT, SIZES, WIDTH, Json

CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
STATUSES = {Phase.QUEUED: "queued", Phase.PROCESSING: "generating"}
HEARD = "This is what the sandbox heard."
ERRORS = {
    400: "Body validation error!",
    401: "This request requires a valid API key. You can create a new API key on the Billing page: "
    "https://aimlapi.com/app/keys",
    403: "You've run out of credits. Please top up your balance or update your payment method to continue: "
    "https://aimlapi.com/app/billing/",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal server error",
    503: "Service unavailable",
}
FORBIDDEN = "You do not have permission to use this model"
REJECTED = "The request was rejected by the moderation of the model"


def failure(status: int, path: str, at: float, message: str = "", **more: Any) -> Response:
    """An error in AI/ML API's shape."""
    body = {
        "message": message or ERRORS[status],
        "path": path,
        "requestId": str(uuid.uuid4()),
        "statusCode": str(status),
        "timestamp": rfc3339(at),
    }
    return Json({**body, **more}, status_code=status)


def client_request_id(request: Request) -> str | None:
    """What the client calls its request; a malformed one is dropped without a word."""
    given = request.headers.get("x-client-request-id", "")
    return given if CLIENT_REQUEST_ID.fullmatch(given) else None


def traced(reply: Response, inference_id: str, client_id: str | None, credits_used: int | float | None) -> Response:
    """The reply with the ids, and the price where it is known by the time that headers are sent."""
    reply.headers["x-inference-id"] = inference_id
    if client_id is not None:
        reply.headers["x-client-request-id"] = client_id
    if credits_used is not None:
        reply.headers["x-aimlapi-credits-used"] = str(credits_used)
        reply.headers["x-aimlapi-usd-spent"] = f"{credits_used / CREDITS_PER_DOLLAR:.9f}"
    return reply


def submitted(job: Job, dialect: Dialect) -> dict[str, Any]:
    """The reply to a submit whose result is fetched later."""
    if job.submit.operation == "speech_to_text":
        return {"generation_id": job.id}
    return {dialect.id_field: job.id, "status": "queued", "meta": {"usage": {dialect.usage: job.submit.cost}}}


def status_view(job: Job, phase: Phase, dialect: Dialect, life_s: float) -> dict[str, Any]:
    """What a fetch shows."""
    operation = job.submit.operation
    place = {"video": "video", "music": "audio_file", "speech_to_text": "result"}[operation]
    shown: dict[str, Any] = {"id": job.id, "status": STATUSES.get(phase, "")}
    if operation == "speech_to_text" and phase is Phase.PROCESSING:
        shown["status"] = "processing"
    if phase is not Phase.DONE:
        return shown
    if job.outcome is not Outcome.SUCCEEDED:
        return {**shown, "status": "error", place: None, "error": error_of(job)}
    return {**shown, "status": dialect.success, place: _result(job, dialect, life_s)}


def error_of(job: Job) -> dict[str, Any]:
    """Both shapes that the samples have: what moderation refuses comes as a list."""
    if job.outcome is Outcome.FAILED:
        return {"name": "GenerationError", "message": "The model could not generate a result"}
    return {"detail": [problem_of(job)]}


def problem_of(job: Job) -> dict[str, Any]:
    """What moderation refuses, as the samples list what is wrong with a field."""
    problem = {"loc": ["body", "prompt"], "msg": REJECTED, "type": "content_policy_violation"}
    return {**problem, "input": job.submit.details["fields"].get("prompt", "")}


def _result(job: Job, dialect: Dialect, life_s: float) -> dict[str, Any]:
    operation, model = job.submit.operation, str(job.submit.details["model"])
    if operation == "speech_to_text":
        return _transcript(job, model)
    kind = "mp4" if operation == "video" else "mp3"
    found: dict[str, Any] = {"url": media_url(job, kind, signed(model, kind, job.finished_at, life_s))}
    if operation == "video" and dialect.described:
        found |= {"content_type": "video/mp4", "file_name": "output.mp4", "file_size": SIZES["mp4"]}
    return found


def _transcript(job: Job, model: str) -> dict[str, Any]:
    if model.startswith("aai/"):
        return {"id": str(uuid.uuid4()), "status": "completed", "text": HEARD, "audio_duration": 2, "words": []}
    best = {"transcript": HEARD, "confidence": 0.99, "words": []}
    metadata = {"request_id": job.id, "created": rfc3339(job.accepted_at), "duration": 2.0, "models": [model]}
    return {"metadata": {**metadata, "channels": 1}, "results": {"channels": [{"alternatives": [best]}]}}


def media_url(job: Job, kind: str, query: str = "", number: int = 0) -> str:
    """A real file. Ids have slashes in them, so that its name is another one."""
    name = uuid.uuid5(uuid.NAMESPACE_OID, f"{job.id} {number}").hex
    return f"{job.submit.origin}/media/{name}.{kind}{query}"


def signed(model: str, kind: str, at: float, life_s: float) -> str:
    """The query string of a link that ends, where a vendor's links do: in each of the samples' three forms."""
    if kind == "mp3" or model.startswith("minimax/"):
        return "?" + urlencode({"Expires": int(at + life_s), "OSSAccessKeyId": "sandbox", "Signature": "sandbox="})
    vendor = {"bytedance": "Tos", "alibaba": "Amz"}.get(model.partition("/")[0])
    if vendor is None:
        return ""
    stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    return "?" + urlencode({f"X-{vendor}-Date": stamp, f"X-{vendor}-Expires": int(life_s), f"X-{vendor}-Signature": 0})


def ends_at(query: QueryParams) -> float | None:
    """When a link that `signed` made ends, in seconds since 1970; None for one that does not."""
    try:
        if "Expires" in query:
            return float(query["Expires"])
        for vendor in ("Tos", "Amz"):
            if f"X-{vendor}-Date" in query:
                began = datetime.strptime(query[f"X-{vendor}-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return began.timestamp() + float(query[f"X-{vendor}-Expires"])
    except (KeyError, ValueError):
        return 0.0  # not one of ours
    return None


# -- what comes at once ---------------------------------------------------------------------------


def usage(job: Job) -> dict[str, Any]:
    """`meta` of a reply that has the price."""
    spent = {"credits_used": job.submit.cost, "usd_spent": job.submit.cost / CREDITS_PER_DOLLAR}
    return {"meta": {"usage": spent}}


def images_view(job: Job) -> dict[str, Any]:
    """Pictures: as OpenAI's models answer, or as Flux does, which names them twice."""
    fields = job.submit.details["fields"]
    names = [media_url(job, "png", number=number) for number in range(pictures(fields))]
    if fields.get("response_format") == "b64_json":
        picture = base64.b64encode(FILES["png"].read_bytes()).decode()
        return {"data": [{"b64_json": picture, "url": None} for _ in names], **usage(job)}
    if not str(fields["model"]).startswith("flux"):
        return {"data": [{"b64_json": None, "url": name} for name in names], **usage(job)}
    found = [{"url": name, "width": WIDTH, "height": HEIGHT, "content_type": "image/png"} for name in names]
    return {"images": found, "seed": 490733907, "prompt": fields.get("prompt", ""), "data": found, **usage(job)}


def model_view(row: dict[str, str]) -> dict[str, Any]:
    """A row of the list of models."""
    info = {"name": row["model"].rpartition("/")[2], "developer": row["model"].partition("/")[0]}
    return {"id": row["model"], "type": row["operation"], "info": info, "features": [], "endpoints": [row["path"]]}
