"""How a job ends and what is announced of it: the building blocks of the rules. Pure."""

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from msgspec.structs import replace

from service.facts import Arrival, Cost, JobError, Output, Update
from service.models import Announcement, Decision, Job, Note, Part
from service.states import TERMINAL, ErrorCode, JobStatus, Json, Work
from service.views import Link, event_body, job_data

CLAIM_AGAIN_MS = 30_000  # between reads of an id that somebody unproven claimed for a job


def touched(job: Job, now: int) -> Job:
    """Every change is seen: by readers in `updated_at`, by writers in `version`."""
    return replace(job, updated_at=now, version=job.version + 1)


def announced(
    job: Job,
    now: int,
    kind: str,
    *,
    once: str | None = None,
    verdict: str = "applied",
    binds: tuple[str, ...] = (),
    notes: tuple[Note, ...] = (),
) -> Decision:
    """The job with its sequence raised, and the event that says so."""
    moved = replace(job, sequence=job.sequence + 1)
    data = job_data(moved, now)
    event = Announcement(
        type=kind,
        body=event_body(kind, now, data),
        data=data,
        once=once,
        only_if_wanted=kind == "job.progress",
        supersedes_progress=kind == "job.progress" or moved.detail.progress_at is not None,
    )
    return Decision(verdict=verdict, job=moved, binds=binds, notes=notes, announcements=(event,))


def linked(decision: Decision, link: Link, now: int) -> Decision:
    """The same, its events with their outputs' stable URLs: those need a key, which no rule has."""
    job = decision.job
    if job is None or not any(said.data.get("outputs") for said in decision.announcements):
        return decision
    events = tuple(_with_links(said, job, link, now) for said in decision.announcements)
    return replace(decision, announcements=events)


def _with_links(said: Announcement, job: Job, link: Link, now: int) -> Announcement:
    outputs = [{**output, "stable_url": link(job.id, place)} for place, output in enumerate(said.data["outputs"])]
    data = {**said.data, "outputs": outputs}
    return replace(said, data=data, body=event_body(said.type, now, data))


def ended(job: Job, status: JobStatus, now: int, notes: tuple[Note, ...] = ()) -> Decision:
    """The job in its terminal state, nothing left to do for it, and its one terminal event."""
    moved = replace(
        job, status=status, reason=None, work=None, due_at=None, lease=None, tries=0, finished_at=now,
        detail=replace(job.detail, queue_position=None),
    )  # fmt: skip
    return announced(touched(moved, now), now, f"job.{status}", once="terminal", notes=notes)


def failed(job: Job, error: JobError, now: int, notes: tuple[Note, ...] = ()) -> Decision:
    return ended(replace(job, detail=replace(job.detail, error=error)), JobStatus.FAILED, now, notes)


def finished(job: Job, whole: Update, now: int) -> Decision:
    """The provider says that it is over. Success needs an output."""
    detail = replace(
        job.detail,
        outputs=whole.outputs or job.detail.outputs,  # what was shown before its end stays
        error=whole.error,
        progress=1.0 if whole.status is JobStatus.SUCCEEDED else job.detail.progress,
        cost=settled_cost(job.detail.cost, whole.cost),
        provider_data=_merged(job.detail.provider_data, whole.provider_data),
    )
    if whole.status is JobStatus.SUCCEEDED and not detail.outputs:
        error = JobError(code=ErrorCode.PROVIDER_ERROR, message="It succeeded without an output.", retryable=True)
        return failed(replace(job, detail=detail), error, now)
    if whole.status is JobStatus.FAILED and whole.error is None:
        detail = replace(detail, error=JobError(code=ErrorCode.PROVIDER_ERROR, message="The provider gave no reason."))
    if whole.status is JobStatus.CANCELED and whole.error is None:
        detail = replace(detail, error=JobError(code=ErrorCode.CANCELED, message="The provider canceled it."))
    return ended(replace(job, detail=detail), whole.status, now)


def given_up(job: Job, reason: str, now: int, notes: tuple[Note, ...]) -> Decision:
    """No automatic way is left to learn whether it was accepted: said once, settled by a person or by the truth."""
    moved = replace(job, status=JobStatus.UNKNOWN, reason=reason, work=None, due_at=None, lease=None)
    if job.detail.claimed is not None:  # somebody named an id, which could not be read back yet
        moved = replace(moved, work=Work.SETTLE, due_at=now + CLAIM_AGAIN_MS)
    once = f"unknown:{job.correlation}"  # a resubmit is a new intent and may become unknown anew
    return announced(touched(moved, now), now, "job.unknown", once=once, notes=notes)


def with_part(job: Job, arrival: Arrival, fact: Update, first_read: int, now: int) -> tuple[Job, tuple[str, ...]]:
    """The job with this news kept under its provider id, which is bound where it was not known yet."""
    named = arrival.provider_job_id or (job.provider_job_ids[0] if job.provider_job_ids else None)
    parts = job.detail.parts
    binds: tuple[str, ...] = ()
    if named is not None and named not in job.provider_job_ids:
        parts, binds = (*parts, Part(provider_job_id=named)), (named,)
    opened = replace(job, detail=replace(job.detail, parts=with_news(parts, named, fact)))
    if job.status is not JobStatus.PROCESSING:
        opened = replace(opened, status=JobStatus.PROCESSING, reason=None, work=Work.POLL, lease=None, tries=0)
        opened = replace(opened, accepted_at=job.accepted_at or now, due_at=first_read)
        opened = replace(opened, detail=replace(opened.detail, retries=0))
    return opened, binds


def names_another(job: Job, arrival: Arrival) -> bool:
    """Where the job's provider ids are known, news must name one of them."""
    return (
        arrival.provider_job_id is not None
        and bool(job.detail.parts)
        and (arrival.provider_job_id not in job.provider_job_ids)
    )


def with_news(parts: tuple[Part, ...], named: str | None, fact: Update) -> tuple[Part, ...]:
    return tuple(_newer(part, fact) if part.provider_job_id == named else part for part in parts)


def _newer(part: Part, fact: Update) -> Part:
    """A part that is over stays over, unless it yields a result after all."""
    over = part.update is not None and part.update.status in TERMINAL
    late = part.update is not None and part.update.status is not JobStatus.SUCCEEDED
    return part if over and not (late and fact.status is JobStatus.SUCCEEDED) else replace(part, update=fact)


def ends(parts: Sequence[Part]) -> list[JobStatus]:
    """How the parts ended that are over."""
    return [part.update.status for part in parts if part.update is not None and part.update.status in TERMINAL]


def succeeded(parts: Sequence[Part]) -> list[Update]:
    return [part.update for part in parts if part.update is not None and part.update.status is JobStatus.SUCCEEDED]


def combined(parts: Sequence[Part], latest: Update) -> Update:
    """Terminal when every part is; succeeded if any part did; outputs in the order of the ids; costs added up."""
    if len(parts) < 2:
        return latest
    heard = [part.update for part in parts if part.update is not None]
    over = [update for update in heard if update.status in TERMINAL]
    if len(over) < len(parts):
        progress = sum(1.0 if update in over else update.progress or 0.0 for update in heard) / len(parts)
        return replace(latest, status=JobStatus.PROCESSING, outputs=(), error=None, progress=progress)
    good = [update for update in over if update.status is JobStatus.SUCCEEDED]
    outputs: tuple[Output, ...] = tuple(output for update in good for output in update.outputs)
    error = next((update.error for update in over if update.error is not None), None)
    status = JobStatus.SUCCEEDED if good else over[0].status
    return replace(latest, status=status, outputs=outputs, error=None if good else error, cost=_total(over))


def _total(updates: Sequence[Update]) -> Cost | None:
    costs = [update.cost for update in updates if update.cost is not None]
    if not costs or any(cost.unit != costs[0].unit for cost in costs):
        return None
    try:
        amount = sum((Decimal(cost.amount) for cost in costs), Decimal(0))
    except InvalidOperation:
        return None
    return replace(costs[0], amount=str(amount))


def settled_cost(quoted: Cost | None, reported: Cost | None) -> Cost | None:
    """A cost is counted once: what is reported replaces what was quoted."""
    return reported if reported is not None else quoted


def _merged(before: Json | None, after: Json | None) -> Json | None:
    return {**(before or {}), **(after or {})} or None
