"""Clocks: one reading for all that a transaction writes and answers; and what falls due when the wall clock is set."""

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.facts import NotNow
from service.models import Credential, Job
from service.states import DeliveryStatus, Source, Work
from service.stores import copying
from tests.stores.world import (
    DAY,
    FAILED,
    START,
    STORES,
    ManualClock,
    Slots,
    World,
    a_followed_job,
    a_job,
    opened,
    outcome,
    page,
    said,
)

pytestmark = pytest.mark.anyio
YEAR = 365 * DAY
PENDING = DeliveryStatus.PENDING


class HurryingClock(ManualClock):
    """Every reading is a millisecond later than the one before."""

    def now(self) -> int:
        self.at += 1
        return self.at


# -- one reading


async def tested(world: World) -> set[str]:
    endpoint = await world.endpoint()
    event, fresh = await world.store.publish(world.tenant, said("endpoint.test"), endpoint.num)
    return {event.id} | {due.event_id for due in fresh}


async def published(world: World) -> set[str]:
    await world.endpoint()
    event, fresh = await world.store.publish(world.tenant, said("job.succeeded"), None)
    return {event.id} | {due.event_id for due in fresh}


async def moved(world: World) -> set[str]:
    await world.endpoint()
    applied = await world.tell(await world.processing(), FAILED)
    return {due.event_id for due in applied.fresh}


async def followed(world: World) -> set[str]:
    await world.endpoint()
    created = await world.create(a_followed_job(a_job(world.tenant, world.credential), "77"))
    return {due.event_id for due in created.fresh}


async def paused(world: World) -> set[str]:
    await world.endpoint()
    credential = Credential(
        num=world.credential, tenant=world.tenant, provider="pixverse", source="x", api_key="k", base_url="https://x"
    )
    fresh = await world.store.pause_credential(credential, "no", said("credential.paused"), world.clock.at)
    return {due.event_id for due in fresh or []}


async def used_up(world: World) -> set[str]:
    await world.endpoint()
    _, (due,) = await world.store.publish(world.tenant, said("job.succeeded"), None)
    told = outcome(due, status=DeliveryStatus.FAILED, status_code=500, announce=said("delivery.failed"))
    return {due.event_id for due in await world.store.record_attempts([told])}


@pytest.mark.parametrize("name", [*STORES[:2]])
@pytest.mark.parametrize("ids_of", [tested, published, moved, followed, paused, used_up])
async def test_an_event_has_one_id_everywhere(
    name: str, ids_of: Callable[[World], Awaitable[set[str]]], tmp_path: Path
) -> None:
    slots = Slots()
    slots.free = dict.fromkeys(range(10), 9)
    async with opened(name, tmp_path, slots=slots, clock=HurryingClock()) as world:
        ids = await ids_of(world)
        assert ids
        listed = {event.id for event in await world.events(page(), {})}
        assert ids <= listed
        rows = await world.store.deliveries(world.tenant, page(), {})
        assert {row.event_id for row in rows} <= listed
        for row in rows:
            found = await world.store.delivery(world.tenant, row.num)
            assert found is not None and found.id == row.id


async def test_a_later_attempt_carries_the_same_id(tmp_path: Path) -> None:
    slots = Slots()
    async with opened("sqlite", tmp_path, slots=slots, clock=HurryingClock()) as world:
        slots.free = {(await world.endpoint()).num: 1}
        event, (first,) = await world.store.publish(world.tenant, said("job.succeeded"), None)
        await world.store.record_attempts([outcome(first, status=PENDING, due_at=world.store.clock.due())])
        world.clock.forward(1)
        assert (await world.claim_one()).event_id == first.event_id == event.id


# -- what falls due


class Waiting:
    """A retry, a queued submit that was put off and a read, each due in some seconds."""

    delivery: int
    queued: Job
    read: Job

    async def begin(self, world: World) -> None:
        await world.endpoint()
        await world.store.publish(world.tenant, said("job.succeeded"), None)
        due = await world.claim_one()
        later = world.store.clock.due() + 5_000
        await world.store.record_attempts([outcome(due, status=PENDING, status_code=503, due_at=later)])
        self.delivery = due.num
        self.queued = await world.queued()
        (claimed,) = await world.claim_jobs()
        put_off = NotNow(reason="busy", after_s=5.0)
        await world.tell(self.queued, put_off, Source.SUBMIT, lease=claimed.lease)
        self.read = await world.processing(followed=False)

    async def are_due(self, world: World) -> bool:
        deliveries = {due.num for due in await world.claim()}
        jobs = {job.num for job in await world.claim_jobs()} | {job.num for job in await world.claim_jobs(Work.POLL)}
        return self.delivery in deliveries and {self.queued.num, self.read.num} <= jobs


STEPS = {
    "a day back": [-DAY],
    "a year back": [-YEAR],
    "back twice": [-DAY, -DAY],
    "an hour back and forth": [-3_600_000, 3_600_000],
    "a year ahead and right again": [YEAR, -YEAR],
    "some seconds back": [-20_000],
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
async def test_what_waits_goes_on_within_a_minute_whatever_the_wall_clock_says(
    steps: list[int], tmp_path: Path
) -> None:
    async with opened("sqlite", tmp_path) as world:
        world.clock.forward(3_600)
        waiting = Waiting()
        await waiting.begin(world)
        for step in steps:
            world.clock.at += step
            world.clock.forward(1)
            await world.queued()
        assert not await waiting.are_due(world)
        world.clock.forward(60)
        assert await waiting.are_due(world)


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
async def test_and_over_restarts_of_the_process_and_of_the_machine(steps: list[int], tmp_path: Path) -> None:
    """As `callsheet tick` does it: each process finds another wall clock, and a monotonic one that began anew."""
    waiting, at = Waiting(), START
    async with opened("sqlite", tmp_path, clock=ManualClock(at)) as world:
        await waiting.begin(world)
    for place, step in enumerate(steps):
        at += step + 500
        clock = ManualClock(at)
        clock.seconds = 10.0 * place
        async with opened("sqlite", tmp_path, clock=clock) as world:
            await world.queued()
    clock = ManualClock(at + 1_000)
    async with opened("sqlite", tmp_path, clock=clock) as world:
        world.clock.forward(60)
        assert await waiting.are_due(world)


@pytest.mark.parametrize("step", [-YEAR, -DAY, DAY, YEAR])
async def test_no_lease_ends_before_its_monotonic_end(step: int, tmp_path: Path) -> None:
    """Neither by the own wall clock, nor by another process that was started under a wrong one."""
    async with opened("sqlite", tmp_path) as world:
        world.store.own_loops("a test")
        await world.endpoint()
        await world.store.publish(world.tenant, said("job.succeeded"), None)
        await world.queued()
        assert await world.claim() and await world.claim_jobs()
        world.clock.at += step
        world.clock.forward(59)
        assert not await world.claim() and not await world.claim_jobs()
        async with opened("sqlite", tmp_path, clock=ManualClock(START + step)) as beside:
            accepted = await beside.queued()
        world.clock.forward(0.9)
        assert not await world.claim() and not [job for job in await world.claim_jobs() if job.num != accepted.num]
        world.clock.forward(31)
        assert await world.claim() and await world.claim_jobs()


@pytest.mark.parametrize("step", [-YEAR, -DAY, DAY, YEAR])
async def test_what_a_process_with_another_clock_makes_is_due_at_once(step: int, tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        await world.queued()
        async with opened("sqlite", tmp_path, clock=ManualClock(START + step)) as beside:
            made = await beside.queued()
        world.clock.forward(2)
        assert made.num in {job.num for job in await world.claim_jobs()}


@pytest.mark.parametrize("step", [-DAY, DAY])
async def test_shown_times_keep_to_the_wall_clock(step: int, tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        waiting = Waiting()
        await waiting.begin(world)
        world.clock.at += step
        shown = await world.store.delivery(world.tenant, waiting.delivery)
        assert shown is not None and shown.due_at == world.clock.at + 5_000
        later, _ = await world.store.publish(world.tenant, said("job.succeeded"), None)
        assert later.created_at == world.clock.at
        assert (await world.queued()).created_at == world.clock.at


@pytest.mark.parametrize("step", [0, -DAY, YEAR])
async def test_what_is_shown_stays_the_same_while_it_waits(step: int, tmp_path: Path) -> None:
    """The two clocks are read one after the other."""
    async with opened("sqlite", tmp_path, clock=HurryingClock()) as world:
        waiting = Waiting()
        await waiting.begin(world)
        world.clock.at += step
        shown = [await world.store.delivery(world.tenant, waiting.delivery) for _ in range(9)]
        assert len({one.due_at for one in shown if one is not None}) == 1


@pytest.mark.parametrize("step", [-YEAR, -DAY, DAY, YEAR])
async def test_a_copy_falls_due_by_its_own_clock(step: int, tmp_path: Path) -> None:
    waiting = Waiting()
    async with opened("sqlite", tmp_path) as world:
        await waiting.begin(world)
        world.clock.at += step
        world.clock.forward(11)
        await world.queued()
    now = ManualClock(START + step + 11_000)
    source = await copying.open_source(f"sqlite:///{tmp_path / 'callsheet.db'}", clock=now)
    (tmp_path / "copy").mkdir()
    target = await copying.open_target(f"sqlite:///{tmp_path / 'copy' / 'callsheet.db'}", clock=now)
    try:
        await copying.copy(source, target, prove=lambda canary: None, tell=lambda *batch: None)
    finally:
        await source.close()
        await target.close()
    async with opened("sqlite", tmp_path / "copy", clock=ManualClock(now.at)) as world:
        world.clock.forward(60)
        assert await waiting.are_due(world)


@pytest.mark.parametrize("ahead", [DAY, YEAR])
async def test_rows_that_an_older_version_wrote_by_a_wrong_clock(ahead: int, tmp_path: Path) -> None:
    """It kept no time of its own. What it wrote last tells where its clock was."""
    waiting, clock = Waiting(), ManualClock(START + ahead)
    async with opened("sqlite", tmp_path, clock=clock) as world:
        await waiting.begin(world)
    with sqlite3.connect(tmp_path / "callsheet.db") as db:
        db.execute("DELETE FROM meta WHERE key = 'due_clock'")
    db.close()
    async with opened("sqlite", tmp_path, clock=ManualClock(START)) as world:
        world.clock.forward(60)
        assert await waiting.are_due(world)


async def test_what_is_due_later_than_anything_can_be_is_due_at_a_start(tmp_path: Path) -> None:
    waiting = Waiting()
    async with opened("sqlite", tmp_path) as world:
        await waiting.begin(world)
    with sqlite3.connect(tmp_path / "callsheet.db") as db:
        for table in ("jobs", "deliveries"):
            db.execute(f"UPDATE {table} SET due_at = due_at + {YEAR} WHERE due_at IS NOT NULL")
    db.close()
    async with opened("sqlite", tmp_path) as world:
        await world.store.recover_leases()
        assert await waiting.are_due(world)
