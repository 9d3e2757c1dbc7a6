"""Builders of the store suite: a store by name, a clock that stands still, and plans, real or told what to decide."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from service import providers
from service.clock import Clock
from service.endpoints import FanOut
from service.facts import Accepted, Arrival, Begin, Fact, JobError, Output, RawCallback, Update
from service.ids import new_id
from service.models import (
    Announcement,
    Applied,
    AttemptResult,
    Credential,
    Decision,
    Detail,
    DueDelivery,
    Endpoint,
    Event,
    Job,
    NewJob,
    Part,
    Target,
)
from service.outcomes import announced
from service.states import CallbackVerdict, DeliveryStatus, EndpointStatus, ErrorCode, JobStatus, Source, Work
from service.stores import Created, Offer, Page, Plan, Store
from service.stores.postgres import PostgresStore
from service.stores.postgres import open_store as open_postgres
from service.stores.sqlite import open_store as open_sqlite
from service.transitions import Rules
from service.views import event_body
from tests.stores import server

PLAIN = "?notify=off&advisory=off&partitions=off"
POOLED = "?statement_cache=0"
# `plain` is without what distributed databases lack, `pooled` behind a pooler of transactions, `machine` on the
# PostgreSQL that the machine has.
STORES = ["sqlite", "postgres", "postgres-plain", "postgres-pooled", "postgres-machine"]
PARTITION_MS = 1_000  # what a test's clock goes on by is whole partitions
START = 1_800_000_000_000
DAY = 86_400_000
OLDEST = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"  # of the transactions still open
NOBODY = 999_999_999
OPEN_ROOM = 1_000_000
SUCCEEDED = Update(
    status=JobStatus.SUCCEEDED, outputs=(Output(url="https://cdn.example/cat.mp4"),), provider_data={"seed": 7}
)
FAILED = Update(status=JobStatus.FAILED, error=JobError(code=ErrorCode.PROVIDER_ERROR, message="It broke."))
CANCELED = Update(status=JobStatus.CANCELED)


async def open_named(name: str, tmp_path: Path, plan: Plan, clock: Clock, **seams: Any) -> Store:
    """The store of that name on a database in `tmp_path`: made now, or the one that is there."""
    assert name in STORES, f"there is no store {name!r}"
    if name == "sqlite":
        sqlite: Store = await open_sqlite(f"sqlite:///{tmp_path / 'callsheet.db'}", plan=plan, clock=clock, **seams)
        return sqlite
    where = {"postgres-machine": server.machine, "postgres-pooled": server.pooled}.get(name, server.brought)
    url = await where.lent(tmp_path, {"postgres-plain": PLAIN, "postgres-pooled": POOLED}.get(name, ""))
    given = {"ask_time": False, "partition_ms": PARTITION_MS, **seams}
    postgres: Store = await open_postgres(url, plan=plan, clock=clock, **given)
    return postgres


class ManualClock:
    """Stands still until it is told to go on."""

    def __init__(self, now: int = START) -> None:
        self.at, self.seconds = now, 1_000.0

    def now(self) -> int:
        return self.at

    def monotonic(self) -> float:
        return self.seconds

    def forward(self, seconds: float) -> None:
        self.at += int(seconds * 1000)
        self.seconds += seconds


class Slots:
    """Free senders by lane; each transaction counts down what it promises."""

    def __init__(self) -> None:
        self.free: dict[int, int] = {}

    def offer(self) -> Offer:
        left = dict(self.free)

        def take(lane: int) -> bool:
            left[lane] = left.get(lane, 0) - 1
            return left[lane] >= 0

        return take


@cache
def operations(provider: str) -> Any:
    return providers.load(provider).operations


class Real:
    """The plan that the service runs with: `Rules` and `FanOut`."""

    def __init__(self, slots: Slots | None = None, *, operator: bool = False) -> None:
        correlations = itertools.count(1)
        rules = Rules(
            operation_of=lambda job: operations(job.provider)[job.operation],
            random=lambda: 0.5,
            correlate=lambda: f"correlation-{next(correlations)}",
        )
        fan_out = FanOut(offer=(slots or Slots()).offer, operator=operator)
        self.decide, self.targets, self.offer = rules.decide, fan_out.targets, fan_out.offer


class Scripted:
    """A plan that decides, or picks targets, as the test says; the rest is the real plan's."""

    def __init__(
        self,
        decide: Callable[[Job, Arrival, int], Decision] | None = None,
        targets: Callable[[Announcement], list[Target]] | None = None,
        slots: Slots | None = None,
    ) -> None:
        real = Real(slots)
        self.decide, self.offer = decide or real.decide, real.offer
        self._targets, self._real = targets, real

    def targets(self, said: Announcement, job: Job | None, endpoints: Sequence[Endpoint]) -> list[Target]:
        return self._targets(said) if self._targets else self._real.targets(said, job, endpoints)


_tags = itertools.count(1)


def a_job(tenant: int, credential: int, **changes: Any) -> Job:
    """A job as a submit makes it, queued and due now; `changes` are fields of `Job`."""
    now = changes.pop("now", START)
    fields: dict[str, Any] = {
        "num": 0,
        "id": new_id("job", now),
        "tenant": tenant,
        "provider": "pixverse",
        "operation": "text_to_video",
        "credential": credential,
        "status": JobStatus.QUEUED,
        "reason": None,
        "version": 1,
        "sequence": 0,
        "work": Work.SUBMIT,
        "due_at": now,
        "lease": None,
        "tries": 0,
        "polls": 0,
        "first_poll_at": None,
        "last_poll_at": None,
        "created_at": now,
        "updated_at": now,
        "submitted_at": None,
        "accepted_at": None,
        "finished_at": None,
        "deadline_at": now + DAY,
        "cancel_requested_at": None,
        "correlation": f"intent-{next(_tags)}",
        "followed": False,
        "metadata": {},
        "detail": Detail(),
    }
    return Job(**{**fields, **changes})


def new(job: Job, *, key: str | None = None, fingerprint: bytes = b"body", **changes: Any) -> NewJob:
    fields: dict[str, Any] = {"input": b'{"prompt": "a cat"}', "idempotency_key": key, "fingerprint": fingerprint}
    return NewJob(job=job, **{**fields, **changes})


def a_followed_job(job: Job, provider_job_id: str) -> NewJob:
    """A job that follows one submitted elsewhere, with the event that says so."""
    detail = Detail(parts=(Part(provider_job_id=provider_job_id),))
    following = replace(job, status=JobStatus.PROCESSING, work=Work.POLL, followed=True, detail=detail)
    decision = announced(following, job.created_at, "job.processing")
    assert decision.job is not None
    return new(decision.job, announcements=decision.announcements)


def said(kind: str, *, at: int = START, **fields: Any) -> Announcement:
    """An announcement with a real body; `data` is what filters see."""
    data = fields.pop("data", {"text": kind})
    return Announcement(type=kind, body=event_body(kind, at, data), data=data, **fields)


def a_callback(body: bytes = b"{}", **changes: Any) -> RawCallback:
    fields: dict[str, Any] = {"provider": "pixverse", "received_at": START, "verdict": CallbackVerdict.VERIFIED}
    return RawCallback(body=body, **{**fields, **changes})


def outcome(delivery: DueDelivery, *, at: int = START, **changes: Any) -> AttemptResult:
    """What a try of a delivery came to: taken, unless `changes` say otherwise."""
    fields: dict[str, Any] = {"status": DeliveryStatus.DELIVERED, "status_code": 200, "duration_ms": 12}
    return AttemptResult(delivery=delivery.num, lease=delivery.lease, at=at, **{**fields, **changes})


def all_room(key: int) -> int:
    return OPEN_ROOM


@dataclass
class World:
    """A store with a tenant and a credential, and short ways to say what happens in it."""

    store: Store
    clock: ManualClock
    tenant: int
    credential: int
    slots: Slots = field(default_factory=Slots)

    async def create(self, item: NewJob) -> Created:
        return (await self.store.create_jobs([item]))[0]

    async def queued(self, **changes: Any) -> Job:
        given = {name: changes.pop(name) for name in ("key", "fingerprint", "input") if name in changes}
        tenant, credential = changes.pop("tenant", self.tenant), changes.pop("credential", self.credential)
        job = a_job(tenant, credential, **{"now": self.clock.at, **changes})
        created = await self.create(new(job, **given))
        assert created.verdict == "created"
        return created.job

    async def processing(self, provider_job_id: str | None = None, **changes: Any) -> Job:
        """A job that the provider accepted under this id."""
        job = await self.queued(**changes)
        named = provider_job_id or str(10_000 + job.num)
        begun = Arrival(job=job.num, fact=Begin(), source=Source.SUBMIT)
        taken = Arrival(job=job.num, fact=Accepted(provider_job_ids=(named,)), source=Source.SUBMIT)
        applied = await self.store.apply([begun, taken])
        assert applied[1].job is not None and applied[1].job.status is JobStatus.PROCESSING
        return applied[1].job

    async def succeeded(self, **changes: Any) -> Job:
        applied = await self.tell(await self.processing(**changes), SUCCEEDED)
        assert applied.job is not None and applied.job.status is JobStatus.SUCCEEDED
        return applied.job

    async def tell(self, job: Job, fact: Fact, source: Source = Source.POLL, **more: Any) -> Applied:
        return (await self.store.apply([Arrival(job=job.num, fact=fact, source=source, **more)]))[0]

    async def now(self, job: Job) -> Job:
        """The job as it is stored now."""
        found = await self.store.job_by_number(job.num)
        assert found is not None
        return found

    async def endpoint(self, **changes: Any) -> Endpoint:
        fields: dict[str, Any] = {
            "num": 0,
            "id": new_id("ep", self.clock.at),
            "tenant": self.tenant,
            "status": EndpointStatus.ACTIVE,
            "disabled_reason": None,
            "target": b"sealed target",
            "secrets": b"sealed secrets",
            "event_types": (),
            "filter": {},
            "created_at": self.clock.at,
            "updated_at": self.clock.at,
        }
        return await self.store.create_endpoint(Endpoint(**{**fields, **changes}))

    async def change(self, endpoint: Endpoint, **changes: Any) -> Endpoint:
        """Write changes over the endpoint as it is stored now."""
        current = await self.store.endpoint_by_number(endpoint.num)
        assert current is not None
        changed = await self.store.update_endpoint(replace(current, **changes))
        assert changed is not None
        return changed

    async def another_tenant(self, name: str = "other") -> tuple[int, int]:
        """Another tenant's number, and its credential's."""
        tenant = await self.store.create_tenant(name, b"sealed")
        return tenant.num, await add_credential(self.store, tenant.num)

    async def another_credential(self, source: str = "api") -> int:
        return await add_credential(self.store, self.tenant, source)

    async def claim(self, room: Callable[[int], int] = all_room, limit: int = 1_000) -> list[DueDelivery]:
        return await self.store.claim_deliveries(room=room, lease_ms=90_000, limit=limit)

    async def claim_one(self) -> DueDelivery:
        claimed = await self.claim()
        assert len(claimed) == 1, claimed
        return claimed[0]

    async def claim_jobs(
        self, work: Work = Work.SUBMIT, room: Callable[[int], int] = all_room, limit: int = 1_000, **more: Any
    ) -> list[Job]:
        claimed = await self.store.claim_jobs(work, room=room, lease_ms=60_000, limit=limit, **more)
        return [job for job, _ in claimed]

    async def types(self, job: Job | None = None) -> list[str]:
        """The types of the events that there are, oldest first."""
        events = await self.events(page(), {} if job is None else {"job": job.id})
        return [event.type for event in reversed(events)]

    async def events(self, page: Page, filters: dict[str, Any]) -> list[Event]:
        """Those that there are by now."""
        await self.settle()
        return await self.store.events(self.tenant, page, filters)

    async def settle(self) -> None:
        """Until events that are there are listed: that waits for whatever else writes on the same PostgreSQL."""
        if not isinstance(self.store, PostgresStore):
            return
        (begun,) = (await self.store.rows("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"))[0]
        async with asyncio.timeout(30):
            while (await self.store.rows(OLDEST))[0][0] < begun:  # noqa: ASYNC110 - of what others do
                await asyncio.sleep(0.005)

    async def statuses(self, **filters: Any) -> list[DeliveryStatus]:
        """The states of the deliveries that there are, oldest first."""
        found = await self.store.deliveries(self.tenant, page(), filters)
        return [delivery.status for delivery in reversed(found)]


def page(limit: int = 100_000, before: int | None = None) -> Page:
    return Page(limit=limit, before=before)


async def add_credential(store: Store, tenant: int, source: str = "environment") -> int:
    opened = Credential(num=0, tenant=tenant, provider="pixverse", source=source, api_key="k", base_url="https://x")
    return (await store.put_credential(opened, b"sealed")).num


@asynccontextmanager
async def opened(
    name: str, tmp_path: Path, plan: Plan | None = None, *, slots: Slots | None = None, **seams: Any
) -> AsyncIterator[World]:
    """A world on the store of that name, closed at the end. Opened again on the same path it finds its rows."""
    slots, clock = slots or Slots(), seams.pop("clock", None) or ManualClock()
    store = await open_named(name, tmp_path, plan or Real(slots), clock, **seams)
    try:
        tenant = await store.create_tenant("default", b"sealed")
        credential = await add_credential(store, tenant.num)
        yield World(store, clock, tenant.num, credential, slots)
    finally:
        await store.close()
