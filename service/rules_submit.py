"""What becomes of a job while it is being submitted: queued, submitting, unknown."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from service import retries
from service.facts import (
    Accepted,
    Arrival,
    Begin,
    Clash,
    Done,
    Fact,
    JobError,
    NotFound,
    NotNow,
    Refused,
    Resolve,
    Unknown,
)
from service.models import Decision, Job, Note, Part
from service.outcomes import CLAIM_AGAIN_MS, announced, ended, failed, finished, given_up, touched
from service.providers import Operation
from service.states import TERMINAL, ErrorCode, JobStatus, Work

CREDENTIAL_PAUSED = "credential_paused"  # begins the reason of what its credential's refusal holds in the queue
RESTORED = "restored from a backup: it may have been submitted since the backup was taken"


class SubmitRules:
    """`operation_of` knows the job's operation; `random` returns 0 to 1; `correlate` makes an id for a new intent."""

    def __init__(
        self, *, operation_of: Callable[[Job], Operation], random: Callable[[], float], correlate: Callable[[], str]
    ):
        self.operation_of, self._random, self._correlate = operation_of, random, correlate

    def begin(self, job: Job, arrival: Arrival, now: int) -> Decision:
        fact = arrival.fact
        assert isinstance(fact, Begin)  # noqa: S101 - the table
        note = _submit_note(arrival, now, "sending", note=fact.told, attempt=job.tries + 1)
        detail = job.detail
        if fact.called_back != detail.called_back:
            detail = replace(detail, called_back=fact.called_back)
        if fact.keep is not None:
            detail = replace(detail, kept=fact.keep)
        started = job.submitted_at if job.submitted_at is not None else now
        moved = replace(
            job, status=JobStatus.SUBMITTING, work=Work.SETTLE, submitted_at=started, tries=job.tries + 1, reason=None,
            detail=detail,
        )  # fmt: skip
        return Decision(verdict="applied", job=touched(moved, now), notes=(note,))

    def accept(self, job: Job, arrival: Arrival, now: int) -> Decision:
        fact = _as_accepted(arrival.fact)
        known = set(job.provider_job_ids)
        parts = job.detail.parts + tuple(Part(provider_job_id=i) for i in fact.provider_job_ids if i not in known)
        data = {**(job.detail.provider_data or {}), **(fact.provider_data or {})} or None
        detail = replace(job.detail, parts=parts, cost=fact.cost or job.detail.cost, provider_data=data, retries=0)
        moved = replace(
            job, status=JobStatus.PROCESSING, reason=None, work=Work.POLL, lease=None, tries=0, accepted_at=now,
            due_at=self.first_read(job, now), detail=detail,
        )  # fmt: skip
        note = _submit_note(arrival, now, "accepted", provider_job_ids=list(fact.provider_job_ids), note=fact.note)
        return announced(touched(moved, now), now, "job.processing", binds=fact.provider_job_ids, notes=(note,))

    def accept_again(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """Another reply for a job that has its ids: a callback came before it, or it is a second acceptance."""
        ids = _as_accepted(arrival.fact).provider_job_ids
        new = tuple(i for i in ids if i not in job.provider_job_ids)
        if not new:
            return Decision(verdict="duplicate", reason="the ids are known")
        if job.terminal or not set(job.provider_job_ids) <= set(ids):
            note = _submit_note(arrival, now, "accepted_again", provider_job_ids=list(new))
            return Decision(verdict="ignored", reason="the job has other provider ids", notes=(note,))
        parts = job.detail.parts + tuple(Part(provider_job_id=i) for i in new)
        note = _submit_note(arrival, now, "accepted", provider_job_ids=list(ids))
        moved = touched(replace(job, detail=replace(job.detail, parts=parts)), now)
        return Decision(verdict="applied", job=moved, binds=new, notes=(note,))

    def accept_late(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """Given up, and accepted after all: it is followed for what it still yields."""
        fact = _as_accepted(arrival.fact)
        known = set(job.provider_job_ids)
        new = tuple(i for i in fact.provider_job_ids if i not in known)
        yielded = job.status is JobStatus.SUCCEEDED or job.detail.late is not None
        if yielded or not new or not known <= set(fact.provider_job_ids):
            return self.accept_again(job, arrival, now)
        parts = job.detail.parts + tuple(Part(provider_job_id=i) for i in new)
        moved = replace(
            job, work=Work.POLL, due_at=now, lease=None, accepted_at=now, detail=replace(job.detail, parts=parts)
        )
        note = _submit_note(arrival, now, "accepted_late", provider_job_ids=list(fact.provider_job_ids))
        job_after = touched(moved, now)
        return Decision(verdict="late", job=job_after, binds=new, notes=(note,))

    def finish_at_once(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """The reply already was the result."""
        fact = arrival.fact
        assert isinstance(fact, Done)  # noqa: S101 - the table
        if fact.update.status not in TERMINAL:
            rule = self.accept_again if job.status is JobStatus.PROCESSING else self.accept
            return rule(job, arrival, now)
        parts = tuple(part for part in job.detail.parts if part.provider_job_id not in fact.provider_job_ids)
        parts += tuple(Part(provider_job_id=i, update=fact.update) for i in fact.provider_job_ids)
        opened = replace(job, accepted_at=job.accepted_at or now, detail=replace(job.detail, parts=parts))
        note = _submit_note(arrival, now, "done")
        decision = finished(opened, fact.update, now)
        return replace(decision, binds=fact.provider_job_ids, notes=(note, *decision.notes))

    def refuse(self, job: Job, arrival: Arrival, now: int) -> Decision:
        fact = arrival.fact
        assert isinstance(fact, Refused)  # noqa: S101 - the table
        note = _submit_note(arrival, now, "refused", error=fact.error.code, probe=fact.probe or None)
        last = fact.probe and job.detail.refusals > 0
        if not fact.pauses or last or job.detail.passthrough:  # whoever passed it through was told, and decides
            return failed(job, fact.error, now, notes=(note,))
        if job.cancel_requested_at is not None:
            return self._canceled_instead(job, arrival, now, note)
        # Nothing was charged, and it is no fault of the job's: it keeps its place in the queue.
        refused = replace(job, detail=replace(job.detail, refusals=job.detail.refusals + 1))
        reason = f"{CREDENTIAL_PAUSED}: {fact.error.code}"
        return self._requeued(refused, reason, min(job.created_at, now), now, note)

    def wait(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """Certainly not accepted, and worth another try: back to the queue with the reason shown."""
        fact = arrival.fact
        assert isinstance(fact, NotNow)  # noqa: S101 - the table
        limited = job.detail.retries + 1 if fact.at_most is not None else 0
        note = _submit_note(arrival, now, "not_now", reason=fact.reason)
        if job.cancel_requested_at is not None:
            return self._canceled_instead(job, arrival, now, note)
        if fact.at_most is not None and limited > fact.at_most:
            error = fact.error or JobError(code=ErrorCode.PROVIDER_ERROR, message=fact.reason, retryable=True)
            return failed(job, error, now, notes=(note,))
        tries = job.tries + 1 if job.status is JobStatus.QUEUED else max(job.tries, 1)
        asked = retries.named_wait(fact.after_s, retries.MAX_JOB_WAIT_S)
        pause = max(asked, self.backoff(tries - 1, first=1.0, cap=60.0))
        detail = job.detail if limited == job.detail.retries else replace(job.detail, retries=limited)
        tried = replace(job, detail=detail, tries=tries)
        return self._requeued(tried, fact.reason, now + int(pause * 1000), now, note)

    def _requeued(self, job: Job, reason: str, due_at: int, now: int, note: Note) -> Decision:
        # A reused trace id returns the earlier answer, the refusal: what is sent next is a new intent.
        correlation = self._correlate() if job.status is JobStatus.SUBMITTING else job.correlation
        moved = replace(
            job, status=JobStatus.QUEUED, reason=reason, work=Work.SUBMIT, lease=None, due_at=due_at,
            correlation=correlation, submitted_at=None,
        )  # fmt: skip
        return Decision(verdict="applied", job=touched(moved, now), notes=(note,))

    def _canceled_instead(self, job: Job, arrival: Arrival, now: int, note: Note) -> Decision:
        """Asked for while the outcome was open: it is not sent again."""
        decision = self.cancel_queued(job, arrival, now)
        return replace(decision, notes=(note, *decision.notes))

    def lose(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """The outcome is not known: try the automatic ways while they last, then say so, once."""
        fact = arrival.fact
        assert isinstance(fact, Unknown | NotFound)  # noqa: S101 - the table
        if isinstance(fact, NotFound) and fact.conclusive:
            error = JobError(code=ErrorCode.NOT_ACCEPTED, message=fact.reason, retryable=True)
            return failed(job, error, now)
        note = _submit_note(arrival, now, "unknown", reason=fact.reason)
        if isinstance(fact, NotFound):
            job = unclaimed(job)
        hopeless = isinstance(fact, NotFound) and fact.hopeless
        if now < self.settle_until(job) and not hopeless:
            due_at = now + int(self._settle_pause(job, now) * 1000)
            moved = replace(job, reason=fact.reason, work=Work.SETTLE, lease=None, due_at=due_at)
            return Decision(verdict="applied", job=touched(moved, now), notes=(note,))
        return given_up(job, fact.reason, now, (note,))

    def distrust(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """From a backup: whatever was sent after it was taken is not in it, so that nothing is sent again by itself.

        Counted as submitted when it came, so that a look-up reads back far enough.
        """
        note = _submit_note(arrival, now, "unknown", reason=RESTORED)
        submitted_at = job.submitted_at if job.submitted_at is not None else job.created_at
        return given_up(replace(job, submitted_at=submitted_at), RESTORED, now, (note,))

    def disbelieve(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """The provider does not know the id that somebody claimed: the job stays unknown."""
        if job.work is not Work.SETTLE:
            return Decision(verdict="ignored", reason="nothing was claimed")
        moved = replace(unclaimed(job), work=None, due_at=None, lease=None)
        return Decision(verdict="applied", job=touched(moved, now))

    def ask_again(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """The claimed id could not be read: later."""
        if job.work is not Work.SETTLE:
            return Decision(verdict="ignored", reason="nothing was claimed")
        moved = replace(job, due_at=now + CLAIM_AGAIN_MS, lease=None)
        return Decision(verdict="applied", job=touched(moved, now))

    def _settle_pause(self, job: Job, now: int) -> float:
        """Seconds. Repeats slow down with their number; look-ups are no tries, so that theirs follows the time."""
        operation = self.operation_of(job)
        waited = (now - (job.submitted_at or now)) / 1000
        if operation.settled_by == "same_key" and waited < operation.settle_s:
            return self.backoff(max(job.tries - 1, 0), first=1.0, cap=operation.settle_pause_s)
        slowest = operation.settle_pause_s
        return self.backoff(0, first=min(max(1.0, waited / 2), slowest), cap=slowest)

    def clash(self, job: Job, arrival: Arrival, now: int) -> Decision:
        fact = arrival.fact
        assert isinstance(fact, Clash)  # noqa: S101 - the table
        reason = f"the provider's id {fact.provider_job_id} already belongs to {fact.other_job}"
        if job.detail.claimed == fact.provider_job_id:  # read back, and not this job's
            job = replace(unclaimed(job), work=None, due_at=None, lease=None)
        if job.status is JobStatus.UNKNOWN:  # said already
            return Decision(verdict="clash", job=touched(replace(job, reason=reason), now), reason=reason)
        return replace(given_up(job, reason, now, ()), verdict="clash", reason=reason)

    def settle_until(self, job: Job) -> int:
        """Until when the automatic ways to learn a submit's outcome are tried; milliseconds."""
        operation = self.operation_of(job)
        # What went through unchanged carried no URL of ours, and is never sent again.
        ways = ("lookup",) if job.detail.passthrough else ("same_key", "lookup", "token")
        if operation.settled_by not in ways:
            return 0
        longest = operation.poll.longest_s + operation.settle_s
        return (job.submitted_at or job.created_at) + int(longest * 1000)

    def resolve(self, job: Job, arrival: Arrival, now: int) -> Decision:
        fact = arrival.fact
        assert isinstance(fact, Resolve)  # noqa: S101 - the table
        if fact.action == "adopt" and fact.provider_job_id is not None:
            adopted = Accepted(provider_job_ids=(fact.provider_job_id,), note="adopted by a person")
            return self.accept(job, Arrival(fact=adopted, source=arrival.source), now)
        if fact.action == "fail":
            error = JobError(code=ErrorCode.NOT_ACCEPTED, message="A person said that it was not accepted.")
            said = Note(kind="update", at=now, data={"source": arrival.source, "resolved": fact.action})
            return failed(job, error, now, notes=(said,))
        if fact.action != "resubmit":
            return Decision(verdict="ignored", reason=f"{fact.action} needs a provider job id")
        span = job.deadline_at - job.created_at if job.deadline_at is not None else None
        moved = replace(
            job, status=JobStatus.QUEUED, reason=None, work=Work.SUBMIT, due_at=now, lease=None, submitted_at=None,
            tries=0, correlation=fact.correlation or self._correlate(), cancel_requested_at=None,
            detail=replace(job.detail, retries=0, refusals=0, claimed=None),  # what was claimed is the earlier submit's
            deadline_at=now + span if span is not None else None,
        )  # fmt: skip
        note = Note(kind="update", at=now, data={"source": arrival.source, "resolved": fact.action})
        return Decision(verdict="applied", job=touched(moved, now), notes=(note,))

    def first_read(self, job: Job, now: int) -> int:
        """When to ask for the first time: late where the provider was told whom to call.

        Now where a cancel waits, or where somebody has called already and was not proof enough.
        """
        if job.cancel_requested_at is not None or job.detail.claimed is not None:
            return now
        profile = self.operation_of(job).poll
        return by_deadline(job, now + int((profile.late_s if job.detail.called_back else profile.first_s) * 1000), now)

    def cancel_queued(self, job: Job, arrival: Arrival, now: int) -> Decision:
        error = JobError(code=ErrorCode.CANCELED, message="Canceled before it was submitted.")
        asked = job.cancel_requested_at if job.cancel_requested_at is not None else now
        moved = replace(job, cancel_requested_at=asked, detail=replace(job.detail, error=error))
        note = Note(kind="update", at=now, data={"source": arrival.source, "cancel": "before the submit"})
        return ended(moved, JobStatus.CANCELED, now, notes=(note,))

    def backoff(self, n: int, *, first: float, cap: float) -> float:
        """Seconds, doubling from `first` to `cap`, jittered."""
        return retries.backoff(n, first=first, factor=2.0, cap=cap, random=self._random)


def by_deadline(job: Job, due: int, now: int) -> int:
    """No read is planned past the deadline: what is due then is the last one."""
    return min(due, job.deadline_at) if job.deadline_at is not None and now < job.deadline_at else due


def _as_accepted(fact: Fact) -> Accepted:
    assert isinstance(fact, Accepted | Done)  # noqa: S101 - the table
    return fact if isinstance(fact, Accepted) else Accepted(provider_job_ids=fact.provider_job_ids)


def _submit_note(arrival: Arrival, now: int, outcome: str, **data: Any) -> Note:
    said = {name: value for name, value in data.items() if value is not None}
    return Note(kind="submit", at=now, data={"outcome": outcome, "source": arrival.source, **said})


def unclaimed(job: Job) -> Job:
    """The job without the id that somebody unproven claimed for it."""
    return job if job.detail.claimed is None else replace(job, detail=replace(job.detail, claimed=None))
