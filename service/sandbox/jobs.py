"""Jobs of the sandbox: a job's state follows from the clock, so that thousands of them cost no timers."""

import heapq
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
    """How a job ends; drawn when it is accepted."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    MODERATED = "moderated"


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


class JobBoard:
    """All jobs of one provider, and which of them are still running."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._running: list[tuple[float, str]] = []

    def add(self, job: Job) -> None:
        """Keep a job."""
        self._jobs[job.id] = job
        heapq.heappush(self._running, (job.finished_at, job.id))

    def get(self, job_id: str) -> Job | None:
        """The job of this id."""
        return self._jobs.get(job_id)

    @property
    def running(self) -> int:
        """How many are not finished, as of the last call of `finish`."""
        return len(self._running)

    def finish(self, now: float) -> Iterator[Job]:
        """Each job that has finished since the last call, once, in the order of finishing."""
        while self._running and self._running[0][0] <= now:
            yield self._jobs[heapq.heappop(self._running)[1]]


class LedgerRow(msgspec.Struct, kw_only=True):
    """One accepted submit: the ground truth for what was charged."""

    provider_job_id: str
    operation: str
    input: msgspec.Raw
    reference: str | None
    charged: Number
    accepted_at: str
