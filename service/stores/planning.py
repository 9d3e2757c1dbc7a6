"""What a batch of arrivals comes to, decided in memory: load -> plan -> write, the same for both dialects.

A store loads what the batch names, this module asks the plan, the store writes the result in bulk.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from service.facts import Accepted, Arrival, Clash, Done, RawCallback, Resolve
from service.ids import new_token, row_id
from service.models import Announcement, Applied, Decision, DueDelivery, Endpoint, Job, Note, Target
from service.states import CallbackVerdict, Record
from service.stores import Plan

FRESH_LEASE_MS = 90_000  # longer than any attempt may take, as the sender checks before it sends


class Loaded:
    """What the batch's arrivals name, as the transaction sees it."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.owners: dict[tuple[int, str], int] = {}  # (credential, provider job id) -> job
        self.seen: set[tuple[int, str]] = set()  # (job, dedupe key)
        self.endpoints: dict[int, Sequence[Endpoint]] = {}  # by tenant

    def job_of(self, arrival: Arrival) -> Job | None:
        """The job that an arrival names, by number or by the provider's id."""
        num = arrival.job
        if num is None and arrival.credential is not None and arrival.provider_job_id is not None:
            num = self.owners.get((arrival.credential, arrival.provider_job_id))
        return None if num is None else self.jobs.get(num)


class PlannedEvent:
    __slots__ = ("announcement", "arrival", "job", "targets", "tenant")

    def __init__(self, arrival: int, tenant: int, job: Job | None, announcement: Announcement, targets: list[Target]):
        self.arrival, self.tenant, self.job = arrival, tenant, job
        self.announcement, self.targets = announcement, targets


class WriteSet:
    """What is to be written, in the order of the tables."""

    def __init__(self) -> None:
        self.before: dict[int, Job] = {}
        self.after: dict[int, Job] = {}
        self.binds: list[tuple[int, str, int]] = []
        self.dedupe: list[tuple[int, str]] = []
        self.notes: list[tuple[int, Note]] = []
        self.callbacks: list[tuple[int | None, RawCallback]] = []
        self.events: list[PlannedEvent] = []
        self.stale_progress: list[int] = []


class Planner:
    """Plans one batch. Later arrivals of a batch see what earlier ones made of their job."""

    def __init__(self, loaded: Loaded, plan: Plan, now: int, due: int | None = None):
        """`due` is `now` by the clock that `due_at` is of, where that is another one; plans know one clock alone."""
        self._loaded, self._plan, self._now = loaded, plan, now
        self._apart = 0 if due is None else due - now
        self._offer = plan.offer()
        self._progress: dict[int, PlannedEvent] = {}  # the batch's own job.progress, by job
        self.writes = WriteSet()

    def arrive(self, index: int, arrival: Arrival) -> Applied:
        """Decide one arrival and note its writes."""
        job = self._loaded.job_of(arrival)
        if job is None:
            return Applied(verdict="missing")
        if arrival.lease is not None and self.writes.before.get(job.num, job).lease != arrival.lease:
            return Applied(verdict="fenced", job=job)
        if self._is_duplicate(arrival, job):
            return Applied(verdict="duplicate", job=job)
        decision = self._decide(job, arrival)
        self._keep_callback(job, arrival, decision)
        self._keep(index, job, decision)
        return Applied(verdict=decision.verdict, job=decision.job or job, reason=decision.reason)

    def announce(self, index: int, tenant: int, job: Job | None, announcements: Iterable[Announcement]) -> None:
        """Publish events to the endpoints that match, senders with a free slot first in line."""
        endpoints = self._loaded.endpoints.get(tenant, ())
        for announcement in announcements:
            if announcement.supersedes_progress and job is not None:
                self.writes.stale_progress.append(job.num)
                if (earlier := self._progress.pop(job.num, None)) is not None:
                    earlier.targets = []
            targets = self._plan.targets(announcement, job, endpoints)
            if announcement.only_if_wanted and not targets:
                continue
            event = PlannedEvent(index, tenant, job, announcement, self._leased(targets))
            self.writes.events.append(event)
            if job is not None and announcement.type == "job.progress":
                self._progress[job.num] = event

    def _is_duplicate(self, arrival: Arrival, job: Job) -> bool:
        if arrival.dedupe_key is None:
            return False
        key = (job.num, arrival.dedupe_key)
        if key in self._loaded.seen:
            if arrival.callback is not None:
                self.writes.callbacks.append((job.num, _duplicate(arrival.callback)))
            return True
        self._loaded.seen.add(key)
        self.writes.dedupe.append(key)
        return False

    def _decide(self, job: Job, arrival: Arrival) -> Decision:
        decision = self._ask(job, arrival)
        for provider_job_id in decision.binds:
            owner = self._loaded.owners.get((job.credential, provider_job_id), job.num)
            if owner != job.num:
                other = self._loaded.jobs.get(owner)
                clash = Clash(provider_job_id=provider_job_id, other_job=other.id if other else "another job")
                return self._ask(job, Arrival(fact=clash, source=arrival.source))
        return decision

    def _ask(self, job: Job, arrival: Arrival) -> Decision:
        decision = self._plan.decide(_shifted(job, -self._apart), arrival, self._now)
        if decision.job is None or not self._apart:
            return decision
        return replace(decision, job=_shifted(decision.job, self._apart))

    def _keep_callback(self, job: Job, arrival: Arrival, decision: Decision) -> None:
        if arrival.callback is None:
            return
        same = decision.verdict == "duplicate" and arrival.callback.verdict is CallbackVerdict.VERIFIED
        # No news, but the first of its key: its body is kept, as of every verified one.
        kept = replace(arrival.callback, verdict=CallbackVerdict.DUPLICATE) if same else arrival.callback
        self.writes.callbacks.append((job.num, kept))

    def _keep(self, index: int, job: Job, decision: Decision) -> None:
        for provider_job_id in decision.binds:
            key = (job.credential, provider_job_id)
            if key not in self._loaded.owners:
                self._loaded.owners[key] = job.num
                self.writes.binds.append((*key, job.num))
        self.writes.notes += [(job.num, note) for note in decision.notes]
        if decision.job is not None:
            self.writes.before.setdefault(job.num, job)
            self.writes.after[job.num] = self._loaded.jobs[job.num] = decision.job
        self.announce(index, job.tenant, decision.job or job, decision.announcements)

    def _leased(self, targets: list[Target]) -> list[Target]:
        return [
            Target(endpoint=target.endpoint, lane=target.lane, leased=True)
            if not target.held and self._offer(target.lane)
            else target
            for target in targets
        ]


def _shifted(job: Job, by_ms: int) -> Job:
    return replace(job, due_at=job.due_at + by_ms) if by_ms and job.due_at is not None else job


def _duplicate(callback: RawCallback) -> RawCallback:
    """The same again: that it came is kept, not its body once more."""
    return replace(callback, verdict=CallbackVerdict.DUPLICATE, body=b"")


def ids_to_bind(arrival: Arrival) -> tuple[str, ...]:
    """The provider ids that this arrival may bind: their owners must be loaded first."""
    fact = arrival.fact
    named = (arrival.provider_job_id,) if arrival.provider_job_id is not None else ()
    if isinstance(fact, Accepted | Done):
        return named + fact.provider_job_ids
    if isinstance(fact, Resolve) and fact.provider_job_id is not None:
        return (*named, fact.provider_job_id)
    return named


class Given(Record, frozen=True, kw_only=True):
    """What a sender needs of a job's detail."""

    callback_url: bytes | None = None
    callback_secret: bytes | None = None
    traceparent: str | None = None


given_of = msgspec.json.Decoder(Given).decode


def due_delivery(row: Sequence[Any], lease: int, ends: float, nonce: int, version: int | None = None) -> DueDelivery:
    """A claimed delivery from the columns that both dialects select; the lease ends on the monotonic clock.

    `version` is its endpoint's, where the claim has read it.
    """
    num, tenant, event, event_at, kind, body, endpoint, lane, attempts, job, detail = row
    given = given_of(detail) if detail is not None else Given()
    return DueDelivery(
        num=num,
        tenant=tenant,
        event_id=row_id("evt", event_at, nonce, event),
        event_type=kind,
        body=body,
        endpoint=endpoint,
        endpoint_version=version,
        lane=lane,
        lease=lease,
        lease_ends=ends,
        attempts=attempts,
        job_id=job,
        callback_url=given.callback_url if endpoint == 0 else None,
        callback_secret=given.callback_secret if endpoint == 0 else None,
        traceparent=given.traceparent,
    )


class FreshLease:
    """The lease that deliveries are born with when a sender on this node takes them at once."""

    def __init__(self, now: int, monotonic: float):
        self.token, self.until, self.ends = new_token(), now + FRESH_LEASE_MS, monotonic + FRESH_LEASE_MS / 1000

    def delivery(self, num: int, event: PlannedEvent, event_id: str, target: Target) -> DueDelivery:
        """The row as its sender needs it, without reading it back."""
        job = event.job
        own = target.endpoint == 0 and job is not None
        return DueDelivery(
            num=num,
            tenant=event.tenant,
            event_id=event_id,
            event_type=event.announcement.type,
            body=event.announcement.body,
            endpoint=target.endpoint,
            lane=target.lane,
            lease=self.token,
            lease_ends=self.ends,
            attempts=0,
            callback_url=job.detail.callback_url if own and job else None,
            callback_secret=job.detail.callback_secret if own and job else None,
            job_id=job.id if job else None,
            traceparent=job.detail.traceparent if job else None,
        )
