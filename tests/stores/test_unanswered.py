"""Submits whose reply nobody has taken: there with their job, held by one open connection, found until answered."""

import asyncio

import pytest

from service.models import Unanswered
from service.stores.plain_unanswered import KEPT_MS
from tests.stores.world import START, World, a_job, new

pytestmark = pytest.mark.anyio
DIGEST = b"\x00" * 31 + b"\xff"


async def waiting(world: World, *, digest: bytes = DIGEST, holder: int | None = 7, tenant: int | None = None) -> int:
    """A job whose submit is unanswered; its number."""
    row = Unanswered(tenant=tenant or world.tenant, digest=digest, made_at=START, holder=holder, seen_at=START)
    created = await world.create(new(a_job(world.tenant, world.credential), unanswered=row))
    return created.job.num


async def found(world: World, **changes: object) -> list[Unanswered]:
    asked = {"tenant": world.tenant, "digest": DIGEST, "since": START, **changes}
    return await world.store.unanswered(**asked)  # type: ignore[arg-type]


async def test_it_is_there_with_its_job_and_found_by_tenant_digest_and_time(world: World) -> None:
    jobs = [await waiting(world), await waiting(world, holder=2**62)]
    await world.create(new(a_job(world.tenant, world.credential)))
    rows = await found(world)
    assert [(row.job, row.holder, row.made_at, row.seen_at) for row in rows] == [
        (jobs[0], 7, START, START),
        (jobs[1], 2**62, START, START),
    ]
    assert rows[0].digest == DIGEST
    assert await found(world, digest=b"another") == await found(world, tenant=world.tenant + 1) == []
    assert await found(world, since=START + 1) == []


@pytest.mark.parametrize("holder", [7, None, 2**62])
async def test_of_several_that_want_it_one_gets_it(world: World, holder: int | None) -> None:
    await waiting(world, holder=holder)
    [row] = await found(world)
    got = await asyncio.gather(*(world.store.hold_unanswered(row, number) for number in range(100, 120)))
    assert sum(got) == 1
    [after] = await found(world)
    assert after.holder == 100 + got.index(True) and after.seen_at > row.seen_at


async def test_what_was_seen_since_is_not_taken_from_its_holder(world: World) -> None:
    job = await waiting(world)
    [row] = await found(world)
    await world.store.see_unanswered(job, 8)  # not its holder
    assert (await found(world))[0].seen_at == row.seen_at
    await world.store.see_unanswered(job, 7)
    assert (await found(world))[0].seen_at > row.seen_at, "seen, though the clock stands still"
    assert not await world.store.hold_unanswered(row, 9)


async def test_only_the_holder_lets_it_go_or_answers_it(world: World) -> None:
    job = await waiting(world)
    await world.store.let_go_unanswered(job, 8)
    await world.store.answered(job, 8)
    assert (await found(world))[0].holder == 7
    await world.store.let_go_unanswered(job, 7)
    [row] = await found(world)
    assert row.holder is None
    await world.store.answered(job, 7)
    assert len(await found(world)) == 1, "it holds it no more"
    await world.store.take_unanswered(job, 9)
    await world.store.answered(job, 9)
    assert await found(world) == []


async def test_without_a_holder_it_is_answered_whoever_has_it(world: World) -> None:
    job, other = await waiting(world), await waiting(world, holder=None)
    await world.store.answered(job)
    await world.store.answered(other)
    assert await found(world) == []


async def test_it_goes_after_a_while(world: World) -> None:
    await waiting(world)
    befores = {"attempts_before": 0, "callbacks_before": 0, "held_before": 0, "jobs_before": 0, "limit": 100}
    assert await world.store.prune(**befores) == 0
    world.clock.forward(KEPT_MS / 1000 + 1)
    assert await world.store.prune(**befores) == 1
    assert await found(world) == []
