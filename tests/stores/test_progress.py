"""job.progress: only where it is named, and what is pending of it gives way to what is newer."""

from pathlib import Path

import pytest

from service.facts import Arrival, Update
from service.states import DeliveryStatus, JobStatus, Source
from tests.stores.world import FAILED, SUCCEEDED, World, opened, page

pytestmark = pytest.mark.anyio

PENDING, CANCELED = DeliveryStatus.PENDING, DeliveryStatus.CANCELED


def at(progress: float) -> Update:
    return Update(status=JobStatus.PROCESSING, progress=progress)


async def test_progress_that_nobody_asked_for_is_not_stored(world: World) -> None:
    await world.endpoint()
    job = await world.processing()
    told = await world.tell(job, at(0.5))
    assert told.verdict == "applied"
    assert (await world.now(job)).detail.progress == 0.5
    assert await world.types(job) == ["job.processing"]


async def test_progress_goes_only_where_it_is_named(world: World) -> None:
    await world.endpoint()
    named = await world.endpoint(event_types=("job.progress",))
    await world.endpoint(event_types=("job.*",))  # a group does not name it
    job = await world.processing()
    await world.tell(job, at(0.5))
    assert await world.types(job) == ["job.processing", "job.progress"]
    told = [d.endpoint for d in await world.claim() if d.event_type == "job.progress"]
    assert told == [named.num]


async def test_progress_is_said_at_most_every_five_seconds(world: World) -> None:
    await world.endpoint(event_types=("job.progress",))
    job = await world.processing()
    for step in range(10):
        await world.tell(job, at(step / 10))
        world.clock.forward(1)
    assert await world.types(job) == ["job.processing", "job.progress", "job.progress"]


async def test_newer_progress_cancels_what_is_pending_of_the_older(world: World) -> None:
    await world.endpoint(event_types=("job.progress",))
    job = await world.processing()
    for progress in (0.1, 0.2, 0.3):
        await world.tell(job, at(progress))
        world.clock.forward(6)
    assert await world.statuses(job=job.id) == [CANCELED, CANCELED, PENDING]
    _, gone, _ = await world.store.deliveries(world.tenant, page(), {})
    assert gone.due_at is None and gone.finished_at == world.clock.at - 6_000


async def test_the_end_cancels_progress_that_is_pending(world: World) -> None:
    await world.endpoint(event_types=("job.progress", "job.failed"))
    job = await world.processing()
    await world.tell(job, at(0.5))
    await world.tell(job, FAILED)
    assert (await world.claim_one()).event_type == "job.failed"
    assert await world.statuses(job=job.id) == [CANCELED, PENDING]


async def test_progress_and_the_end_in_one_batch_leave_the_end_alone_pending(world: World) -> None:
    endpoint = await world.endpoint(event_types=("job.progress", "job.succeeded"))
    for free in (0, 10):
        world.slots.free[endpoint.num] = free
        job = await world.processing()
        facts = [Arrival(job=job.num, fact=fact, source=Source.POLL) for fact in (at(0.5), SUCCEEDED)]
        fresh = [d for applied in await world.store.apply(facts) for d in applied.fresh]
        kinds = [d.event_type for d in (fresh if free else await world.claim())]
        assert kinds == ["job.succeeded"]
        assert await world.types(job) == ["job.processing", "job.progress", "job.succeeded"]


async def test_progress_that_is_being_sent_is_left_to_its_sender(world: World) -> None:
    await world.endpoint(event_types=("job.progress",))
    job = await world.processing()
    await world.tell(job, at(0.5))
    sending = await world.claim_one()
    await world.tell(job, SUCCEEDED)
    assert await world.statuses(job=job.id) == [PENDING]
    world.clock.forward(91)
    assert (await world.claim_one()).num == sending.num


async def test_other_jobs_and_other_events_are_left_alone(world: World) -> None:
    await world.endpoint(event_types=("job.*", "job.progress"))
    jobs = [await world.processing(), await world.processing()]
    for job in jobs:
        await world.tell(job, at(0.5))
    await world.tell(jobs[0], SUCCEEDED)
    assert await world.statuses(job=jobs[0].id) == [PENDING, CANCELED, PENDING]
    assert await world.statuses(job=jobs[1].id) == [PENDING, PENDING]


async def test_progress_canceled_once_stays_canceled_when_the_store_is_opened_again(
    store_name: str, tmp_path: Path
) -> None:
    async with opened(store_name, tmp_path) as world:
        await world.endpoint(event_types=("job.progress",))
        job = await world.processing()
        await world.tell(job, at(0.5))
        await world.tell(job, SUCCEEDED)
    async with opened(store_name, tmp_path) as world:
        await world.store.recover_leases()
        assert await world.claim() == []
