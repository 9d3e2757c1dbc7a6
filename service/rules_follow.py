"""What becomes of a job that a provider has accepted: reads, callbacks, deadlines, late results."""

from msgspec.structs import replace

from service import retries
from service.facts import Arrival, CancelAsked, CancelSent, Done, Hint, JobError, NotFound, NotNow, Update
from service.models import Decision, Job, Note, Part
from service.outcomes import (
    announced,
    combined,
    ends,
    failed,
    finished,
    names_another,
    settled_cost,
    succeeded,
    touched,
    with_news,
    with_part,
)
from service.rules_submit import SubmitRules, by_deadline
from service.states import TERMINAL, ErrorCode, JobStatus, Source, Work

PROGRESS_EVERY_MS = 5_000  # at most one job.progress per job in this time
LATE_READ_MS = 30 * 60_000  # how often a job past its deadline is still read
LATE_FOR_MS = 24 * 3_600_000  # and for how long
HINT_EVERY_MS = 1_000  # unproven callbacks make us read a job no faster than this
MISSES_BEFORE_GONE = 8  # reads in a row that did not know the id: right after a submit that is not final
MISSES_AFTER_CANCEL = 3  # reads in a row that did not know an id whose work we had canceled
GONE_AFTER_MS = 10 * 60_000
ANOTHER = "it names another job than this one's provider ids"
COST_READ_MS = 1_000  # after an end that a callback told, where only a read tells its cost
EXPIRED = "result_expired"  # as a read's reason: it was completed, and its result is not kept any more
DEADLINE_PASSED = JobError(code=ErrorCode.DEADLINE_EXCEEDED, message="The deadline passed.", retryable=True)

RESULT_EXPIRED = JobError(
    code=ErrorCode.RESULT_EXPIRED, message="The provider completed it, and did not give its result any more."
)


class FollowRules(SubmitRules):
    def update_queued(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """An earlier submit was accepted after all: it is followed instead of sent again. If it failed, it is sent."""
        fact = arrival.fact
        assert isinstance(fact, Update)  # noqa: S101 - the table
        if fact.status in (JobStatus.FAILED, JobStatus.CANCELED):
            return Decision(verdict="ignored", reason=f"an earlier submit was {fact.status}; the job waits to be sent")
        return self.update(job, arrival, now)

    def update(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """News of one provider id; the job is terminal when all of its ids are."""
        fact = arrival.fact
        assert isinstance(fact, Update)  # noqa: S101 - the table
        if names_another(job, arrival):
            return Decision(verdict="ignored", reason=ANOTHER)
        opened, binds = with_part(job, arrival, fact, self.first_read(job, now), now)
        whole = combined(opened.detail.parts, fact)
        if whole.status is JobStatus.CANCELED and _ended_by_deadline(job, now):
            whole = replace(whole, status=JobStatus.FAILED, error=DEADLINE_PASSED)
        if whole.status in TERMINAL:
            decision = self.with_cost_read(finished(opened, whole, now), arrival, now)
            return replace(decision, binds=binds, notes=(_heard(arrival, fact, now),))
        return replace(self.progress(job, opened, whole, arrival, now), binds=binds)

    def with_cost_read(self, decision: Decision, arrival: Arrival, now: int) -> Decision:
        """A success that a callback told is read once more, where that alone tells what it cost."""
        job = decision.job
        if job is None or job.status is not JobStatus.SUCCEEDED or arrival.source is not Source.CALLBACK:
            return decision
        if not self.operation_of(job).cost_by_read or _cost_is_told(job):
            return decision
        return replace(decision, job=replace(job, work=Work.POLL, due_at=now + COST_READ_MS))

    def update_late(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """Terminal already: a result that it still yields is kept and announced once, all else changes nothing."""
        fact = arrival.fact
        assert isinstance(fact, Update)  # noqa: S101 - the table
        if names_another(job, arrival):
            return Decision(verdict="ignored", reason=ANOTHER)
        parts = with_news(job.detail.parts, arrival.provider_job_id, fact)
        whole = combined(parts, fact)
        yielded = whole.status is JobStatus.SUCCEEDED and bool(whole.outputs)
        if yielded and job.status is not JobStatus.SUCCEEDED and job.detail.late is None:
            return self.late_result(job, parts, whole, arrival, now)
        heard = job
        if len(parts) > 1 and ends(parts) != ends(job.detail.parts):  # one of several ids: kept for when all are over
            heard = touched(replace(job, detail=replace(job.detail, parts=parts)), now)
        if whole.cost is not None and whole.status is job.status and not _cost_is_told(job):
            heard = touched(replace(heard, detail=replace(heard.detail, cost=whole.cost)), now)
        kept = self.late_reads(heard, whole, now) if arrival.source is Source.POLL else None
        if heard is not job:
            return Decision(verdict="late", job=kept or heard)
        if fact.status is job.status:
            return Decision(verdict="duplicate", job=kept, reason=f"it is {job.status} already")
        return Decision(verdict="ignored", job=kept, reason=f"{job.status} does not change to {fact.status}")

    def finish_late(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """Given up, and the submit's reply was the result."""
        fact = arrival.fact
        assert isinstance(fact, Done)  # noqa: S101 - the table
        if fact.update.status is not JobStatus.SUCCEEDED or job.detail.late is not None:
            return self.accept_late(job, arrival, now)
        decision = self.update_late(job, replace(arrival, fact=fact.update, provider_job_id=None), now)
        if not decision.announcements:
            return self.accept_late(job, arrival, now)
        return decision

    def late_result(self, job: Job, parts: tuple[Part, ...], whole: Update, arrival: Arrival, now: int) -> Decision:
        early = job.detail.outputs  # announced already, under stable URLs that name their places
        outputs = (*early, *(output for output in whole.outputs if output not in early))
        detail = replace(
            job.detail, parts=parts, late=whole, outputs=outputs, cost=settled_cost(job.detail.cost, whole.cost),
            provider_data={**(job.detail.provider_data or {}), **(whole.provider_data or {})} or None,
        )  # fmt: skip
        moved = touched(replace(job, work=None, due_at=None, lease=None, detail=detail), now)
        notes = (_heard(arrival, whole, now),)
        return announced(moved, now, "job.late_result", once="late_result", verdict="late", notes=notes)

    def missing(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """The provider does not know the id: right after a submit that is not final, for long it is."""
        fact = arrival.fact
        assert isinstance(fact, NotFound)  # noqa: S101 - the table
        since = job.accepted_at or job.created_at
        patient = GONE_AFTER_MS if not job.followed else 0
        misses = job.detail.retries + 1
        if job.detail.cancel_sent_at is not None and misses >= MISSES_AFTER_CANCEL:
            return self.update(job, replace(arrival, fact=Update(status=JobStatus.CANCELED)), now)
        if misses >= MISSES_BEFORE_GONE and now - since >= patient:
            error = JobError(code=ErrorCode.PROVIDER_ERROR, message="The provider does not know this job.")
            gone = Update(status=JobStatus.FAILED, error=error)  # of several ids, this one alone
            return self.update(job, replace(arrival, fact=gone), now)
        return self.read_later(replace(job, detail=replace(job.detail, retries=misses)), arrival, now)

    def read_later(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """A read that told nothing: the reason is shown, the next read comes later."""
        fact = arrival.fact
        assert isinstance(fact, NotNow | NotFound)  # noqa: S101 - the table
        named = fact.after_s if isinstance(fact, NotNow) else None
        asked = retries.named_wait(named, retries.MAX_JOB_WAIT_S)
        due = self.next_read(job, job.tries + 1, now, at_least=asked)
        moved = was_read(replace(job, reason=fact.reason, tries=job.tries + 1, due_at=due), now)
        return Decision(verdict="applied", job=touched(moved, now))

    def stop_reading(self, job: Job, arrival: Arrival, now: int) -> Decision:
        return Decision(verdict="ignored", job=self.late_reads(job, None, now), reason="nothing more was learned")

    def hint(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """Unproven news: the next read falls due now, and proves it."""
        hurried = self._read_soon(job, now)
        if hurried is job:
            return Decision(verdict="ignored", reason="a read is under way or due")
        return Decision(verdict="applied", job=touched(hurried, now))

    @staticmethod
    def _read_soon(job: Job, now: int) -> Job:
        read_at = min(job.last_poll_at or 0, now)  # a clock that was set back says that it is yet to come
        soon = max(now, read_at + HINT_EVERY_MS)
        hurries = job.lease is None and job.due_at is not None and job.due_at > soon
        return replace(job, due_at=soon) if hurries else job

    def claim(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """Somebody unproven names this job's id at the provider: it is read with our own key before it is believed."""
        fact = arrival.fact
        assert isinstance(fact, Hint)  # noqa: S101 - the table
        if fact.claims is None:
            return self.hint(job, arrival, now)
        moved = replace(job, detail=replace(job.detail, claimed=fact.claims))
        if job.lease is None:  # a settling under way ends first, and finds it at its next turn
            moved = replace(moved, work=Work.SETTLE, due_at=now)
        return Decision(verdict="applied", job=touched(moved, now))

    # -- ending from our side

    def cancel_sent(self, job: Job, arrival: Arrival, now: int) -> Decision:
        fact = arrival.fact
        assert isinstance(fact, CancelSent)  # noqa: S101 - the table
        note = Note(kind="update", at=now, data={"source": arrival.source, "cancel": "sent", "note": fact.told})
        if job.terminal:  # its end was quicker than our reading of the answer
            return Decision(verdict="ignored", reason="it is over already", notes=(note,))
        moved = replace(job, detail=replace(job.detail, cancel_sent_at=now))
        return Decision(verdict="applied", job=touched(moved, now), notes=(note,))

    def ask_cancel(self, job: Job, arrival: Arrival, now: int) -> Decision:
        fact = arrival.fact
        assert isinstance(fact, CancelAsked)  # noqa: S101 - the table
        if not fact.supported:
            return Decision(verdict="ignored", reason="cancel_unsupported")
        if job.cancel_requested_at is not None:
            return Decision(verdict="duplicate", reason="it is requested already")
        due = now if job.status is JobStatus.PROCESSING else job.due_at
        note = Note(kind="update", at=now, data={"source": arrival.source, "cancel": "requested"})
        moved = touched(replace(job, cancel_requested_at=now, due_at=due), now)
        return Decision(verdict="applied", job=moved, notes=(note,))

    def expire(self, job: Job, arrival: Arrival, now: int) -> Decision:
        outputs = tuple(output for update in succeeded(job.detail.parts) for output in update.outputs)
        outputs = outputs or job.detail.outputs  # shown under a word that nobody knows for an end
        error = RESULT_EXPIRED if job.reason == EXPIRED and not outputs else DEADLINE_PASSED
        decision = failed(replace(job, detail=replace(job.detail, outputs=outputs)), error, now)
        if job.status is JobStatus.PROCESSING and decision.job is not None:  # paid for: it may still yield something
            still = replace(decision.job, work=Work.POLL, due_at=now + LATE_READ_MS)
            return replace(decision, job=still)
        return decision

    # -- the pace of reads

    def progress(self, before: Job, job: Job, whole: Update, arrival: Arrival, now: int) -> Decision:
        """Not over yet: keep what is new, and say it at most every five seconds. A result that stands beside a word
        which nobody knows for an end is kept and shown.
        """
        old = before.detail
        news = (whole.progress, whole.queue_position) != (old.progress, old.queue_position)
        shows = bool(whole.outputs) and whole.outputs != old.outputs
        news = news or shows or ends(job.detail.parts) != ends(old.parts)
        tries = 0 if news else job.tries + 1
        moved = replace(job, tries=tries, reason=None)
        if arrival.source is Source.POLL:
            moved = was_read(replace(moved, due_at=self.next_read(job, tries, now)), now)
        elif arrival.source is Source.CALLBACK:  # something happened that the callback alone does not tell
            moved = self._read_soon(moved, now)
        if not news and before.status is JobStatus.PROCESSING:
            known = old if old.retries == 0 else replace(old, retries=0)
            return Decision(verdict="applied", job=touched(replace(moved, detail=known), now))
        detail = replace(job.detail, progress=whole.progress, queue_position=whole.queue_position, retries=0)
        if shows:
            data = {**(detail.provider_data or {}), **(whole.provider_data or {})}
            detail = replace(detail, outputs=whole.outputs, provider_data=data or None)
        if before.status is not JobStatus.PROCESSING:
            return announced(touched(replace(moved, detail=detail), now), now, "job.processing")
        if detail.progress_at is not None and 0 <= now - detail.progress_at < PROGRESS_EVERY_MS:
            return Decision(verdict="applied", job=touched(replace(moved, detail=detail), now))
        moved = replace(moved, detail=replace(detail, progress_at=now))
        return announced(touched(moved, now), now, "job.progress")

    def next_read(self, job: Job, tries: int, now: int, at_least: float = 0.0) -> int:
        """When to ask again: slower while nothing changes, never past the deadline's last read."""
        profile = self.operation_of(job).poll
        first = profile.late_s if job.detail.called_back else profile.every_s
        pause = max(at_least, min(first * 1.25 ** min(tries, 50), max(profile.cap_s, first)))
        return by_deadline(job, now + int(pause * 1000 * (1.0 + 0.1 * self._random())), now)

    def late_reads(self, job: Job, fact: Update | None, now: int) -> Job | None:
        """A job past its deadline is read rarely, for a day: the provider may yet finish what was paid for."""
        if job.work is not Work.POLL:
            return None
        over = fact is not None and fact.status in TERMINAL
        if over or now - (job.finished_at or now) > LATE_FOR_MS:
            return replace(was_read(job, now), work=None, due_at=None, version=job.version + 1)
        return replace(was_read(job, now), due_at=now + LATE_READ_MS, version=job.version + 1)


def _ended_by_deadline(job: Job, now: int) -> bool:
    """Whether it was our own deadline that had the provider cancel it."""
    overdue = job.deadline_at is not None and now >= job.deadline_at
    return overdue and job.detail.cancel_sent_at is not None and job.cancel_requested_at is None


def _cost_is_told(job: Job) -> bool:
    return job.detail.cost is not None and job.detail.cost.source == "reported"


def was_read(job: Job, now: int) -> Job:
    """One more read that changed nothing: counted, with the first and the last time."""
    return replace(job, lease=None, polls=job.polls + 1, first_poll_at=job.first_poll_at or now, last_poll_at=now)


def _heard(arrival: Arrival, fact: Update, now: int) -> Note:
    """The timeline's line for news that changed the job's state."""
    said = {"source": arrival.source, "status": fact.status, "provider_status": fact.provider_status}
    return Note(kind="update", at=now, data=said | {"provider_job_id": arrival.provider_job_id})
