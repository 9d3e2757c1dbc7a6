"""Claiming jobs: what is due and has room, leased to one claimer, no credential behind another's backlog."""

import asyncio
from collections import Counter

import pytest
from msgspec.structs import replace

from service.facts import Begin
from service.states import JobStatus, Source, Work
from tests.stores.world import NOBODY, START, World, a_job, new

pytestmark = pytest.mark.anyio


async def test_a_claim_gives_what_is_due_with_its_input_and_a_lease(world: World) -> None:
    job = await world.queued(input=b'{"prompt": "a dog"}')
    claimed = await world.store.claim_jobs(Work.SUBMIT, room=lambda c: 1, lease_ms=60_000, limit=10)
    ((leased, given),) = claimed
    assert given == b'{"prompt": "a dog"}'
    assert leased.num == job.num and leased.lease is not None
    assert leased.due_at == world.clock.at + 60_000
    assert await world.now(job) == leased


async def test_a_claim_takes_its_own_kind_of_work_that_is_due_by_now(world: World) -> None:
    due, later = await world.queued(due_at=START), await world.queued(due_at=START + 1)
    await world.queued(due_at=None, work=None, status=JobStatus.UNKNOWN)
    settling = await world.queued()
    await world.tell(settling, Begin(), Source.SUBMIT)
    polled = await world.processing()
    assert [job.num for job in await world.claim_jobs(Work.SUBMIT)] == [due.num]
    assert await world.claim_jobs(Work.POLL) == []
    world.clock.forward(0.001)
    assert [job.num for job in await world.claim_jobs(Work.SUBMIT)] == [later.num]
    world.clock.forward(50)
    assert [job.num for job in await world.claim_jobs(Work.SETTLE)] == [settling.num]
    assert [job.num for job in await world.claim_jobs(Work.POLL)] == [polled.num]


async def test_what_is_due_longest_comes_first(world: World) -> None:
    jobs = [await world.queued(due_at=START - wait) for wait in (1, 5, 3, 4, 2)]
    claimed = await world.claim_jobs(limit=3)
    assert [job.num for job in claimed] == [jobs[1].num, jobs[3].num, jobs[2].num]


async def test_a_claimed_job_is_nobody_elses_until_its_lease_ends(world: World) -> None:
    await world.queued()
    (first,) = await world.claim_jobs()
    world.clock.forward(59.999)
    assert await world.claim_jobs() == []
    world.clock.forward(0.001)
    (second,) = await world.claim_jobs()
    assert (second.num, second.lease == first.lease) == (first.num, False)


async def test_a_lease_is_renewed_by_who_has_it_and_by_nobody_else(world: World) -> None:
    await world.queued()
    (first,) = await world.claim_jobs()
    world.clock.forward(50)
    assert await world.store.renew_lease(first, 60_000)
    world.clock.forward(59.999)
    assert await world.claim_jobs() == []
    world.clock.forward(0.001)
    (second,) = await world.claim_jobs()
    assert not await world.store.renew_lease(first, 60_000)
    assert await world.now(first) == second


async def test_concurrent_claims_share_no_job(world: World) -> None:
    for _ in range(40):
        await world.queued()
    claims = await asyncio.gather(*(world.claim_jobs(limit=7) for _ in range(10)))
    counted = Counter(job.num for claimed in claims for job in claimed)
    assert len(counted) == 40 and set(counted.values()) == {1}
    assert len({job.lease for claimed in claims for job in claimed}) == 6


async def test_no_credential_gets_more_than_its_room_nor_a_claim_more_than_its_limit(world: World) -> None:
    other = await world.another_credential()
    for _ in range(6):
        await world.queued()
        await world.queued(credential=other)
    room = {world.credential: 2, other: 5}
    claimed = await world.claim_jobs(room=room.__getitem__)
    assert Counter(job.credential for job in claimed) == room
    assert len(await world.claim_jobs(limit=3)) == 3
    assert await world.claim_jobs(limit=0) == []
    assert await world.claim_jobs(room=lambda c: -1) == []


async def test_a_credential_without_room_starves_no_other(world: World) -> None:
    others = [await world.another_credential(f"api-{n}") for n in range(3)]
    for _ in range(300):
        await world.queued(due_at=START - 1_000)  # the oldest, and of the credential with the lowest number
    for credential in others:
        await world.queued(credential=credential)
    claimed = await world.claim_jobs(room=lambda c: 0 if c == world.credential else 16, limit=64)
    assert sorted(job.credential for job in claimed) == others


async def test_where_the_limit_is_short_credentials_take_turns(world: World) -> None:
    credentials = [world.credential, *[await world.another_credential(f"api-{n}") for n in range(2)]]
    for credential in credentials:
        for _ in range(4):
            await world.queued(credential=credential)
    turns = [(await world.claim_jobs(limit=1))[0].credential for _ in range(12)]
    assert turns == credentials * 4


async def test_an_empty_room_changes_nothing(world: World) -> None:
    job = await world.queued()
    assert await world.claim_jobs(room=lambda c: 0) == []
    assert await world.now(job) == job


async def test_overdue_are_queued_jobs_past_their_deadline_oldest_first(world: World) -> None:
    late = [await world.queued(deadline_at=START + 1_000 * n) for n in (3, 1, 2)]
    await world.queued(deadline_at=START + 10_000)
    await world.queued(deadline_at=None)
    sent = await world.queued(deadline_at=START + 1)
    await world.tell(sent, Begin(), Source.SUBMIT)
    assert await world.store.overdue(10) == []
    world.clock.forward(5)
    assert await world.store.overdue(10) == [late[1].num, late[2].num, late[0].num]
    assert await world.store.overdue(2) == [late[1].num, late[2].num]


async def test_leases_of_a_process_that_is_gone_are_due_at_once(world: World) -> None:
    endpoint = await world.endpoint()
    world.slots.free[endpoint.num] = 1
    for _ in range(3):
        await world.queued()
    await world.processing()
    claimed = await world.claim_jobs()
    assert len(claimed) == 3
    assert await world.claim() == []  # leased at birth
    assert await world.store.recover_leases() == 4
    assert {job.num for job in await world.claim_jobs()} == {job.num for job in claimed}
    assert (await world.claim_one()).event_type == "job.processing"
    assert await world.store.recover_leases() == 4
    assert await world.store.recover_leases() == 0


async def test_recovering_leases_makes_nothing_else_due(world: World) -> None:
    waiting = await world.queued(due_at=START + 5_000)
    idle = await world.queued(due_at=None, work=None, status=JobStatus.UNKNOWN)
    assert await world.store.recover_leases() == 0
    assert (await world.now(waiting)).due_at == START + 5_000
    assert (await world.now(idle)).due_at is None


async def test_a_number_that_no_job_has_is_no_job(world: World) -> None:
    assert await world.store.job_by_number(NOBODY) is None
    assert await world.store.job_input(NOBODY) is None
    assert await world.store.job_by_id("job_nothing") is None


async def test_a_credential_that_is_due_between_the_ends_of_a_backlog_without_room_is_found(world: World) -> None:
    other_tenant, hidden = await world.another_tenant()
    items = [new(a_job(world.tenant, world.credential, now=world.clock.at)) for _ in range(600)]
    await world.store.create_jobs(items)
    await world.queued(tenant=other_tenant, credential=hidden, due_at=START + 1)
    later = [replace(item, job=a_job(world.tenant, world.credential, due_at=START + 2)) for item in items]
    await world.store.create_jobs(later)
    world.clock.forward(1)
    room = {world.credential: 0, hidden: 1}
    assert [job.credential for job in await world.claim_jobs(room=room.__getitem__)] == [hidden]
