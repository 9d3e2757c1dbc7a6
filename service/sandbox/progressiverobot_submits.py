"""Progressive Robot's calls that make something, their status, the queue and cancel."""

import math
import uuid
from typing import Any

from starlette.responses import Response

from service.sandbox.jobs import Job, Outcome, Phase, Submit
from service.sandbox.progressiverobot_calls import Call, Refused, Row, done, input_of
from service.sandbox.progressiverobot_operations import Making, check, check_tier, count_of, name_of
from service.sandbox.progressiverobot_prices import FRAME_RATE, FRAMES, Source, speech_minutes
from service.sandbox.progressiverobot_studio import Entry, Studio, seed_of
from service.sandbox.replies import Json

POLLED = ("job_id", "job_ids")
ENDS = {
    Outcome.SUCCEEDED: "completed",
    Outcome.FAILED: "error",
    Outcome.MODERATED: "error",
    Outcome.CANCELED: "cancelled",
}
ERRORS = {Outcome.FAILED: "Generation failed", Outcome.MODERATED: "Content was rejected by moderation"}
PARENTS = {"project": ("/api/projects", "project"), "kit": ("/api/brand-kits", "brand kit")}


async def make(studio: Studio, path: str, making: Making, call: Call) -> Response:
    """Submit: everything that can be wrong comes before the charge."""
    if refused := studio.injected_refusal():
        return refused
    studio.need_tier(making.tier)
    check(making, call)
    check_tier(making, call.fields, studio.account.tier)
    source, count = source_of(studio, call), count_of(making, call.fields)
    cost = making.cost(call.fields, source)
    studio.need_credits(cost * count)
    if not studio.has_room(count):
        return studio.refusal("429")
    submits = [submit_of(studio, path, making, call, cost=cost, seconds=source.seconds) for _ in range(count)]
    jobs = [studio.charge(submit) for submit in submits]
    for job in jobs if making.history else []:
        entry = Entry(id=next(studio.ids), job=job, fields={**call.fields, "seed": seed_of(call.fields)})
        studio.histories[making.history][entry.id] = entry
    studio.settle()  # what is made at once is there at once
    return await studio.answer(jobs[0], reply_to(making, call, jobs))


def source_of(studio: Studio, call: Call) -> Source:
    """The videos and clips that a submit names. 404 for a project or brand kit that there is not, and for a file,
    where the account is strict about them."""
    for field, (shelf, word) in PARENTS.items():
        if field in call.ids:
            studio.find(shelf, call.ids[field], word=word)
    named = [value for name, value in call.fields.items() if name.endswith("_filename") and value]
    clips = call.fields.get("video_filenames") or clips_of(studio, call)
    if studio.account.require_files:
        for name in [*named, *clips]:
            studio.file(name)
        if "project" in call.ids and not clips:
            raise Refused(400, "Project has no clips")
    seconds = [studio.files[name].seconds for name in clips or named if name in studio.files]
    return Source(clips=len(clips), **({"seconds": sum(seconds)} if seconds else {}))


def clips_of(studio: Studio, call: Call) -> list[str]:
    """The videos of a project's shots, in their order."""
    shots = studio.shelves[f"/api/projects/{call.ids['project']}/shots"] if "project" in call.ids else {}
    return [shot["filename"] for shot in shots.values() if shot.get("filename")]


def submit_of(studio: Studio, path: str, making: Making, call: Call, *, cost: int, seconds: float) -> Submit:
    """The submit, with the files that it will make."""
    job_id, name = str(uuid.uuid4()), name_of(path)
    kind = "glb" if making.gives == "job_id" and call.fields.get("model") == "hunyuan3d" else making.kind
    names = [f"{name}_{job_id}.{kind}"] if making.gives not in ("shots", "prompt") else []
    if making.gives == "filenames":
        frames = math.ceil(seconds) if call.fields.get("mode") == "all_1fps" else 1
        names = [f"{name}_{job_id}_{number}.{kind}" for number in range(1, frames + 1)]
    return Submit(
        job_id=job_id,
        operation=name,
        input=input_of(call),
        reference=None,
        cost=cost,
        origin=studio.origin(call.request),
        details={"kind": kind, "seconds": length_of(name, call.fields, seconds), "filenames": names},
        immediate=making.gives not in POLLED,
    )


def length_of(name: str, fields: dict[str, Any], seconds: float) -> float:
    """How long what is made will be, in seconds."""
    if name == "generate":
        return float((fields.get("frames") or FRAMES) / (fields.get("frame_rate") or FRAME_RATE))
    if name == "tts_generate":
        return speech_minutes(fields) * 60
    return float(fields.get("duration_seconds") or seconds)


def reply_to(making: Making, call: Call, jobs: list[Job]) -> Response:
    """What an accepted submit is told: job ids, or what was made at once, and the credits of it all."""
    job, cost = jobs[0], sum(job.submit.cost for job in jobs)
    if making.gives == "job_ids":
        return Json({"job_ids": [job.id for job in jobs], "credits_used": cost})
    if making.gives == "job_id":
        return Json({"job_id": job.id, "credits_used": cost})
    if job.outcome is not Outcome.SUCCEEDED:
        return Json({"error": ERRORS[job.outcome]}, status_code=400 if job.outcome is Outcome.MODERATED else 500)
    return Json({making.gives: made(making, call, job), "credits_used": cost})


def made(making: Making, call: Call, job: Job) -> Any:
    """The result of what is made at once."""
    match making.gives:
        case "filenames":
            return job.submit.details["filenames"]
        case "shots":
            script = call.fields.get("script") or call.fields["text"]
            lines = [line.strip() for line in str(script).splitlines() if line.strip()]
            return [{"order": order, "prompt": line, "duration": 4} for order, line in enumerate(lines, 1)]
        case "prompt":
            idea = call.fields.get("idea") or call.fields["prompt"]
            return f"{idea}, cinematic lighting, slow camera move, shallow depth of field"
    return job.submit.details["filenames"][0]


# -- status, queue, cancel --


def status(studio: Studio, call: Call) -> Response:
    """`GET /api/status?job_id=`."""
    return Json(status_view(studio, job_of(studio, call.query("job_id"))))


def job_of(studio: Studio, job_id: str) -> Job:
    """The job of this id; 404 where there is none, 400 where none was named."""
    if not job_id:
        raise Refused(400, "job_id is required", field="job_id")
    job = studio.jobs.get(job_id)
    if job is None:
        raise Refused(404, "Job not found")
    return job


def status_view(studio: Studio, job: Job) -> dict[str, Any]:
    """A job as a status call shows it; what was given back is not used."""
    now, phase = studio.now(), studio.phase(job)
    shown = {"job_id": job.id, "status": phase.value, "progress": 0, "credits_used": job.submit.cost}
    if phase is Phase.QUEUED:
        return {**shown, "position": studio.jobs.position(job, now)}
    if phase is Phase.PROCESSING:
        return {**shown, "progress": min(99, int(100 * job.progress(now)))}
    shown |= {"status": ENDS[job.outcome], "progress": 100 if job.outcome is Outcome.SUCCEEDED else 0}
    if job.outcome is Outcome.SUCCEEDED:
        return {**shown, "filename": job.submit.details["filenames"][0]}
    shown["credits_used"] = 0
    return {**shown, "error": ERRORS[job.outcome]} if job.outcome in ERRORS else shown


def cancel(studio: Studio, call: Call) -> Response:
    """`POST /api/cancel`: gives the credits back."""
    call.need("job_id")
    job = job_of(studio, str(call.fields["job_id"]))
    if not studio.cancel(job):
        raise Refused(400, "Job is not running", job_status=status_view(studio, job)["status"])
    return done(job_id=job.id, status="cancelled", credits_refunded=job.submit.cost)


def queue(studio: Studio, call: Call) -> Response:
    """`GET /api/queue`: all that wait; our jobs; the place of the first that waits, 0 if none does."""
    active = [status_view(studio, job) for job in studio.jobs.unfinished()]
    positions = [job["position"] for job in active if "position" in job]
    return Json(
        {"length": studio.jobs.queued(studio.now()), "active_jobs": active, "position": min(positions, default=0)}
    )


def gpu(studio: Studio, call: Call) -> Response:
    """`GET /api/comfyui/status`."""
    return Json({"online": True, "status": "online", "queue_length": studio.jobs.queued(studio.now())})


ROWS = (
    Row("GET", "/api/status", status),
    Row("POST", "/api/cancel", cancel),
    Row("GET", "/api/queue", queue),
    Row("GET", "/api/comfyui/status", gpu),
)
