"""Builders: what a test does not care about has a default that a real job would have.

Also the Hypothesis profiles: `pytest -p tests.builders --hypothesis-profile=deep` (loaded by -p, because
Hypothesis reads its option before any test module is imported).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from msgspec.structs import replace

from service.endpoints import FanOut
from service.facts import Arrival, Cost, Fact, JobError, Output, Update
from service.models import Announcement, Detail, Endpoint, Job, Part
from service.providers import Operation, PollProfile
from service.states import TERMINAL, EndpointStatus, ErrorCode, JobStatus, Json, Source, Work
from service.transitions import Rules

NOW = 1_800_000_000_000  # 2027-01-15T08:00:00Z
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
LEASE = 77

_quiet = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
settings.register_profile(
    "ci", max_examples=70, stateful_step_count=50, derandomize=True, database=None, **_quiet
)  # the same examples every time
settings.register_profile("deep", max_examples=1_000, stateful_step_count=60, **_quiet)


def a_profile() -> settings:
    """`deep` where it was asked for, else `ci`."""
    name = settings.get_current_profile_name()
    return settings.get_profile(name if name in ("ci", "deep") else "ci")


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: int = NOW):
        self._now, self._monotonic = now, 1_000.0

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def pass_ms(self, milliseconds: int) -> None:
        self._now += milliseconds
        self._monotonic += milliseconds / 1000


def a_clock(now: int = NOW) -> HandClock:
    return HandClock(now)


# -- what providers are


def an_operation(settled_by: str = "same_key", **changes: Any) -> Operation:
    """First read after 5 s, then every 4 s up to every 30 s; 60 s where it calls back; settled within 1,800 + 600 s."""
    fields: dict[str, Any] = {
        "name": "paint",
        "summary": "A picture",
        "path": "/paint",
        "input_schema": {"type": "object"},
        "poll": PollProfile(first_s=5, every_s=4, late_s=60, cap_s=30, longest_s=1_800),
        "deadline_s": 3_600,
        "settled_by": settled_by,
        "settle_s": 600.0,
        "cancel": True,
    }
    return Operation(**{**fields, **changes})


def some_rules(operation: Operation | None = None, *, random: float = 0.0) -> Rules:
    """Rules without chance: no jitter unless asked for; new intents are `intent-1`, `intent-2`, ..."""
    numbers = itertools.count(1)
    known = operation or an_operation()
    return Rules(operation_of=lambda job: known, random=lambda: random, correlate=lambda: f"intent-{next(numbers)}")


# -- what providers say


def an_output(name: str = "clip") -> Output:
    return Output(url=f"https://cdn.example/{name}.mp4")


def an_error(message: str = "no luck", code: ErrorCode = ErrorCode.PROVIDER_ERROR) -> JobError:
    return JobError(code=code, message=message)


def a_cost(amount: str = "10", source: str = "reported", unit: str = "credits") -> Cost:
    return Cost(amount=amount, unit=unit, source=source)


def an_update(status: str = "processing", **changes: Any) -> Update:
    """What a poll or a callback says; one that succeeded has an output, one that failed an error."""
    if status == "succeeded":
        changes.setdefault("outputs", (an_output(),))
    if status == "failed":
        changes.setdefault("error", an_error())
    return Update(status=JobStatus(status), **changes)


def an_arrival(fact: Fact, source: Source = Source.POLL, **changes: Any) -> Arrival:
    """About job 1, or the job that `job` or `credential` and `provider_job_id` name."""
    if "job" not in changes and "credential" not in changes:
        changes["job"] = 1
    return Arrival(fact=fact, source=source, **changes)


# -- rows


def some_parts(*ids: str) -> tuple[Part, ...]:
    return tuple(Part(provider_job_id=each) for each in ids)


def a_job(status: JobStatus | str = JobStatus.QUEUED, *, ids: Sequence[str] | None = None, **changes: Any) -> Job:
    """A job as it would be in that status: leased while submitting, with the provider id `p1` from then on."""
    status = JobStatus(status)
    accepted = status is JobStatus.PROCESSING or status in TERMINAL
    named = ids if ids is not None else ("p1",) if accepted else ()
    detail = changes.pop("detail", Detail())
    if not detail.parts:
        detail = replace(detail, parts=some_parts(*named))
    if status in (JobStatus.FAILED, JobStatus.CANCELED) and detail.error is None:
        code = ErrorCode.CANCELED if status is JobStatus.CANCELED else ErrorCode.PROVIDER_ERROR
        detail = replace(detail, error=an_error(code=code))
    if status is JobStatus.SUCCEEDED and not detail.outputs:
        detail = replace(detail, outputs=(an_output(),))
    return Job(**{**_row(status), "detail": detail, **changes})


def _row(status: JobStatus) -> Json:
    submitted = status is not JobStatus.QUEUED
    accepted = status is JobStatus.PROCESSING or status in TERMINAL
    work, due_at, lease = _WORK.get(status, (None, None, None))
    return {
        "num": 1,
        "id": "job_01",
        "tenant": 1,
        "provider": "peakmv",
        "operation": "paint",
        "credential": 1,
        "status": status,
        "reason": "no reply" if status is JobStatus.UNKNOWN else None,
        "version": 1,
        "sequence": int(accepted),
        "work": work,
        "due_at": due_at,
        "lease": lease,
        "tries": int(status is JobStatus.SUBMITTING),
        "polls": 0,
        "first_poll_at": None,
        "last_poll_at": None,
        "created_at": NOW,
        "updated_at": NOW,
        "submitted_at": NOW if submitted else None,
        "accepted_at": NOW if accepted else None,
        "finished_at": NOW if status in TERMINAL else None,
        "deadline_at": NOW + HOUR,
        "cancel_requested_at": None,
        "correlation": "intent-0",
        "followed": False,
        "metadata": {},
    }


_WORK: dict[JobStatus, tuple[Work, int, int | None]] = {
    JobStatus.QUEUED: (Work.SUBMIT, NOW, None),
    JobStatus.SUBMITTING: (Work.SETTLE, NOW + 90 * SECOND, LEASE),
    JobStatus.PROCESSING: (Work.POLL, NOW + 5 * SECOND, None),
}


def an_endpoint(num: int = 1, **changes: Any) -> Endpoint:
    fields: dict[str, Any] = {
        "num": num,
        "id": f"ep_{num:02}",
        "tenant": 1,
        "status": EndpointStatus.ACTIVE,
        "disabled_reason": None,
        "target": b"sealed",
        "secrets": b"sealed",
        "event_types": (),
        "filter": {},
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Endpoint(**{**fields, **changes})


def an_announcement(kind: str = "job.succeeded", data: Json | None = None, **changes: Any) -> Announcement:
    return Announcement(type=kind, body=b"{}", data=data or {}, **changes)


def a_fan_out(*, free: Callable[[int], bool] = lambda lane: False, operator: bool = False) -> FanOut:
    """No sender has a free slot unless `free` says so."""
    return FanOut(offer=lambda: free, operator=operator)
