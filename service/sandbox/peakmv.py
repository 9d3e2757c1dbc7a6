"""PeakMV: music videos. Charges when generation starts; no callbacks, no idempotency key, no list."""

import math
import secrets
import uuid
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from service.sandbox.accounts import Account
from service.sandbox.jobs import Job, Outcome, Phase, Submit
from service.sandbox.provider import Provider
from service.sandbox.replies import Json, media_file

VERSIONS = ("v1", "v2")
QUALITIES = ("720p", "1080p")
LONGEST_S = 300
DEFAULT_S = 180
SECONDS_PER_CREDIT = 10
SECONDS_PER_CLIP = 30
V2_ONLY = ("artist_face_image_url", "lipsync")
FAILURES = {Outcome.FAILED: "Video generation failed", Outcome.MODERATED: "Content was rejected by moderation"}
MEDIA_FIELDS = ("audio_url", "artist_face_image_url")
FETCH_S = 10.0
STATUSES = {Phase.QUEUED: "queued", Phase.PROCESSING: "processing", Phase.DONE: "ready"}


class PeakMVAccount(Account):
    """The account."""

    fetch_inputs: bool = False  # True: the song and the picture are really fetched, as PeakMV would have to


class PeakMV(Provider):
    """https://peakmv.com/api, versions 1 and 2."""

    name = "peakmv"
    account_type = PeakMVAccount
    account: PeakMVAccount

    def routes(self) -> list[BaseRoute]:
        """The documented calls, and the pages and files that replies point to."""
        return [
            Route("/api/{version}/generate", self.generate, methods=["POST"]),
            Route("/api/{version}/jobs/{id}", self.job),
            Route("/api/{version}/projects/{id}", self.project),
            Route("/project/{id}", self.page),
            Route("/openapi.json", self.description),
            Route("/llms.txt", self.reference),
            Route("/media/{id}.{kind}", media_file),
        ]

    def refusal(self, code: str) -> Response:
        """`429` or `500`."""
        if code == "429":
            wait = self.account.retry_after_seconds
            return Json({"error": "Rate limit exceeded", "retry_after_seconds": wait}, status_code=429)
        return failure(500, "Server Error")

    async def generate(self, request: Request) -> Response:
        """Submit."""
        if refused := self.not_allowed(request) or self.injected_refusal():
            return refused
        body = await request.body()
        fields = read_object(body)
        if problem := problem_of(fields, path_version=request.path_params["version"]):
            return failure(400, problem)
        if self.account.fetch_inputs and (field := await unfetched(fields)):
            return failure(400, f"{field} could not be fetched")
        cost = cost_of(fields)
        if self.account.credits < cost:
            available = self.account.credits
            return Json({"error": "Insufficient credits", "required": cost, "available": available}, status_code=402)
        if not self.has_room():
            return self.refusal("429")
        job = self.accept(self.submit_of(request, body, fields, cost=cost))
        return await self.answer(job, Json(accepted(job)))

    def submit_of(self, request: Request, body: bytes, fields: dict[str, Any], *, cost: int) -> Submit:
        """The submit, with what its status will show."""
        version = request.path_params["version"]
        details = {
            "path_version": version,
            "v2": version == "v2" and fields.get("version", "v2") == "v2",
            "duration": fields.get("duration") or DEFAULT_S,
            "lipsync": bool(fields.get("lipsync")),
        }
        return Submit(
            job_id=str(uuid.uuid4()),
            operation="generate",
            input=msgspec.Raw(body),
            reference=request.headers.get("x-client-request-id"),
            cost=cost,
            origin=self.origin(request),
            details=details,
        )

    async def job(self, request: Request) -> Response:
        """Status."""
        return self.status(request, page=False)

    async def project(self, request: Request) -> Response:
        """Status, with a page to share."""
        return self.status(request, page=True)

    def status(self, request: Request, *, page: bool) -> Response:
        """The status of one job."""
        if refused := self.not_allowed(request):
            return refused
        job = self.jobs.get(request.path_params["id"])
        if job is None:
            return failure(404, "Project not found")
        shown = view(job, self.phase(job), page=page)
        return Json(shown)

    def not_allowed(self, request: Request) -> Response | None:
        """401 without the account's key; 404 for an API version that there is not."""
        if request.path_params["version"] not in VERSIONS:
            return failure(404, "Not found")
        expected = f"Bearer {self.account.api_key}".encode()
        if not secrets.compare_digest(request.headers.get("authorization", "").encode(), expected):
            return failure(401, "Invalid or inactive API Key")
        return None

    async def page(self, request: Request) -> Response:
        """The page that `project_page_url` names."""
        return PlainTextResponse(f"PeakMV sandbox: project {request.path_params['id']}\n")

    async def description(self, request: Request) -> Response:
        """The machine-readable description that the documents mention; here only its paths."""
        calls = ("generate", "jobs/{id}", "projects/{id}")
        paths: dict[str, Any] = {f"/api/{version}/{path}": {} for version in VERSIONS for path in calls}
        return Json({"openapi": "3.1.0", "info": {"title": "PeakMV sandbox", "version": "2"}, "paths": paths})

    async def reference(self, request: Request) -> Response:
        """The text for language models that the documents mention."""
        return PlainTextResponse("PeakMV sandbox: POST /api/v2/generate, then GET the status_url until ready.\n")


async def unfetched(fields: dict[str, Any]) -> str | None:
    """The first media field whose URL gives nothing."""
    timeout = aiohttp.ClientTimeout(total=FETCH_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for name in MEDIA_FIELDS:
            if fields.get(name) and not await _fetched(session, fields[name]):
                return name
    return None


async def _fetched(session: aiohttp.ClientSession, url: Any) -> bool:
    try:
        async with session.get(url) as reply:
            return reply.status == 200 and bool(await reply.content.read(1))
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, TypeError):
        return False


def failure(status: int, error: str) -> Response:
    """An error in PeakMV's shape."""
    return Json({"error": error}, status_code=status)


def read_object(body: bytes) -> dict[str, Any]:
    """The body as an object; what is not one has no fields, so that the first required one is missed."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


def problem_of(fields: dict[str, Any], *, path_version: str) -> str | None:
    """What is wrong with a submit."""
    if not fields.get("audio_url"):
        return "audio_url is required"
    version = fields.get("version", path_version)
    if version not in VERSIONS:
        return "version must be v1 or v2"
    if fields.get("video_quality", "1080p") not in QUALITIES:
        return "video_quality must be 720p or 1080p"
    forbidden = [name for name in V2_ONLY if fields.get(name)]
    if forbidden and "v1" in (version, path_version):
        return f"{forbidden[0]} is not allowed in v1 mode"
    duration = fields.get("duration") or DEFAULT_S
    if not isinstance(duration, int | float) or not 0 < duration <= LONGEST_S:
        return f"duration must be between 1 and {LONGEST_S} seconds"
    return None


def cost_of(fields: dict[str, Any]) -> int:
    """Credits; the price list is not public, so this is only of the samples' size: 18 for three minutes."""
    return math.ceil((fields.get("duration") or DEFAULT_S) / SECONDS_PER_CREDIT)


def accepted(job: Job) -> dict[str, Any]:
    """The reply to an accepted submit."""
    return {
        "success": True,
        "project_id": job.id,
        "job_id": job.id,
        "status_url": f"{job.submit.origin}/api/{job.submit.details['path_version']}/jobs/{job.id}",
        "message": "Video generation started",
        "cost_credits": job.submit.cost,
    }


def view(job: Job, phase: Phase, *, page: bool) -> dict[str, Any]:
    """A job as a status call shows it."""
    created_at = datetime.fromtimestamp(job.accepted_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if phase is Phase.DONE and job.outcome is not Outcome.SUCCEEDED:
        return {"id": job.id, "status": "failed", "error": FAILURES[job.outcome], "created_at": created_at}
    shown: dict[str, Any] = {"id": job.id, "status": STATUSES[phase], "created_at": created_at}
    if phase is not Phase.DONE:
        return shown
    details, origin = job.submit.details, job.submit.origin
    shown |= {"video_url": f"{origin}/media/{job.id}.mp4", "duration_seconds": details["duration"]}
    if page:
        return shown | {"project_page_url": f"{origin}/project/{job.id}"}
    if details["v2"]:
        shown["clips_generated"] = math.ceil(details["duration"] / SECONDS_PER_CLIP)
    if details["v2"] and details["lipsync"]:
        shown["lipsync_seconds_billed"] = details["duration"]
    return shown
