"""What reconciling reads: a credential's jobs of a period, and whose a provider's ids are."""

import pytest

from service.facts import Accepted, Arrival, Begin
from service.states import JobStatus, Source
from tests.stores.world import NOBODY, START, SUCCEEDED, World, a_followed_job, a_job

pytestmark = pytest.mark.anyio

HOUR = 3_600_000


async def test_jobs_of_a_period_are_those_submitted_or_followed_in_it_and_all_that_are_lost(world: World) -> None:
    await world.processing("1")
    lost = await world.queued()
    await world.tell(lost, Begin(), Source.SUBMIT)
    world.clock.forward(7200)
    inside = await world.processing("2")
    await world.tell(inside, SUCCEEDED)
    followed = a_followed_job(a_job(world.tenant, world.credential, accepted_at=world.clock.at), "3")
    await world.create(followed)
    await world.queued()  # not sent yet
    found = await world.store.booked(world.credential, since=START + HOUR, after=0, limit=100)
    assert [(job.status, job.provider_job_ids) for job in found] == [
        (JobStatus.SUBMITTING, ()),
        (JobStatus.SUCCEEDED, ("2",)),
        (JobStatus.PROCESSING, ("3",)),
    ]
    assert (found[0].id, found[0].correlation, found[0].submitted_at) == (lost.id, lost.correlation, START)
    assert found[1].operation == inside.operation
    assert await world.store.booked(NOBODY, since=0, after=0, limit=100) == []


async def test_pages_follow_each_other_by_number_and_count_jobs_not_ids(world: World) -> None:
    jobs = [await world.processing() for _ in range(5)]
    more = Accepted(provider_job_ids=(str(10_000 + jobs[0].num), "a", "b"))
    await world.store.apply([Arrival(job=jobs[0].num, fact=more, source=Source.SUBMIT)])
    first = await world.store.booked(world.credential, since=0, after=0, limit=3)
    rest = await world.store.booked(world.credential, since=0, after=first[-1].num, limit=3)
    assert [job.num for job in first + rest] == [job.num for job in jobs]
    assert len(first) == 3 and set(first[0].provider_job_ids) == set(more.provider_job_ids)


async def test_owners_are_told_by_many_ids_of_one_credential(world: World) -> None:
    jobs = {str(n): await world.processing(str(n)) for n in range(3)}
    other = await world.another_credential()
    theirs = await world.processing("other", credential=other)
    asked = [str(n) for n in range(1200)]  # more than one statement takes
    found = await world.store.owners(world.credential, asked)
    assert {job.provider_job_ids[0]: job.id for job in found} == {named: job.id for named, job in jobs.items()}
    assert await world.store.owners(world.credential, ["other", "nobody's"]) == []
    assert [job.id for job in await world.store.owners(other, ["other"])] == [theirs.id]
    assert await world.store.owners(world.credential, []) == []
