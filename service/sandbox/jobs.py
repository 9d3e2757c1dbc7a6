"""Jobs of the sandbox: a job's state follows from the clock, so that thousands of them cost no timers."""

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import msgspec

from service.sandbox.accounts import Number

QUEUED_SHARE = 0.2  # of a job's duration


class Phase(StrEnum):
    """How far a job is."""

    QUEUED = "queued"
    PROCESSING = "processing"
    DONE = "done"


class Outcome(StrEnum):
    """How a job ends; drawn when it is accepted, unless its client cancels it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    MODERATED = "moderated"
    CANCELED = "canceled"
    ABORTED = "aborted"  # given up before it started, by a time limit of its client's


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a job's callback goes, and the secret that signs it."""

    url: str
    secret: str


class Submit(msgspec.Struct, frozen=True, kw_only=True):
    """A submit that a provider has found nothing wrong with."""

    job_id: str
    operation: str
    input: msgspec.Raw
    reference: str | None
    cost: Number
    origin: str
    details: dict[str, Any]
    target: Target | None = None
    immediate: bool = False
    start_within_s: float | None = None  # else it is given up
    end_within_s: float | None = None  # else it is canceled, or given up where it has not started


class Job(msgspec.Struct, kw_only=True):
    """An accepted submit and its course."""

    submit: Submit
    accepted_at: float
    started_at: float
    finished_at: float
    outcome: Outcome
    calls_back_first: bool

    @property
    def id(self) -> str:
        """The provider's id, as text."""
        return self.submit.job_id

    def phase(self, now: float) -> Phase:
        """The phase at a time."""
        if now >= self.finished_at:
            return Phase.DONE
        return Phase.PROCESSING if now >= self.started_at else Phase.QUEUED

    def progress(self, now: float) -> float:
        """How much of the work is done, from 0 to 1."""
        if now >= self.finished_at:
            return 1.0
        return max(0.0, now - self.started_at) / (self.finished_at - self.started_at)


class JobBoard:
    """All jobs of one provider, and which of them are still running."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._open: dict[str, Job] = {}  # in the order of acceptance
        self._ends: list[tuple[float, str]] = []  # a canceled job has two entries: the first to come counts
        self._starts: list[float] = []  # of the jobs that still wait for their turn

    def add(self, job: Job) -> None:
        """Keep a job."""
        self._jobs[job.id] = self._open[job.id] = job
        heapq.heappush(self._ends, (job.finished_at, job.id))
        insort(self._starts, job.started_at)

    def cancel(self, job: Job, now: float) -> None:
        """End a job that is not finished; the next call of `finish` yields it."""
        if job.phase(now) is Phase.QUEUED:
            del self._starts[bisect_left(self._starts, job.started_at)]
        job.outcome = Outcome.CANCELED
        job.started_at, job.finished_at = min(job.started_at, now), now
        heapq.heappush(self._ends, (now, job.id))

    def get(self, job_id: str) -> Job | None:
        """The job of this id."""
        return self._jobs.get(job_id)

    @property
    def running(self) -> int:
        """How many are not finished, as of the last call of `finish`."""
        return len(self._open)

    def unfinished(self) -> list[Job]:
        """Those of `running`, oldest first."""
        return list(self._open.values())

    def queued(self, now: float) -> int:
        """How many wait for their turn."""
        return len(self._starts) - bisect_right(self._starts, now)

    def position(self, job: Job, now: float) -> int:
        """The place in the queue of a job that waits for its turn, from 1."""
        return bisect_left(self._starts, job.started_at) - bisect_right(self._starts, now) + 1

    def finish(self, now: float) -> Iterator[Job]:
        """Each job that has finished since the last call, once, in the order of finishing."""
        del self._starts[: bisect_right(self._starts, now)]
        while self._ends and self._ends[0][0] <= now:
            if job := self._open.pop(heapq.heappop(self._ends)[1], None):
                yield job


class LedgerRow(msgspec.Struct, kw_only=True):
    """One accepted submit: the ground truth for what was charged."""

    provider_job_id: str
    operation: str
    input: msgspec.Raw
    reference: str | None
    charged: Number
    accepted_at: str
