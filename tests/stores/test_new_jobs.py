"""Making jobs: durable, once per idempotency key and once per provider's id."""

import asyncio

import pytest
from msgspec.structs import replace

from service.facts import Begin
from service.models import Detail, Part
from service.states import JobStatus, Work
from tests.stores.world import NOBODY, World, a_followed_job, a_job, new

pytestmark = pytest.mark.anyio


async def test_a_created_job_reads_back_as_it_was(world: World) -> None:
    detail = Detail(callback_url=b"\x00sealed\xff", callback_lane=-77, traceparent="00-ab-cd-01", progress=0.25)
    job = a_job(world.tenant, world.credential, metadata={"order": "7", "né": "✓"}, detail=detail)
    created = await world.create(new(job, input=b'{"prompt": "\xc3\xa9"}'))
    assert created.verdict == "created"
    assert created.job == replace(job, num=created.job.num)
    assert await world.store.job(world.tenant, job.id) == created.job
    assert await world.store.job_by_id(job.id) == created.job
    assert await world.store.job_by_number(created.job.num) == created.job
    assert await world.store.job_input(created.job.num) == b'{"prompt": "\xc3\xa9"}'


async def test_the_same_key_and_body_give_the_job_as_it_is_now(world: World) -> None:
    first = await world.create(new(a_job(world.tenant, world.credential), key="k"))
    assert (await world.tell(first.job, Begin())).verdict == "applied"
    again = await world.create(new(a_job(world.tenant, world.credential), key="k"))
    assert again.verdict == "replayed"
    assert again.job == await world.now(first.job)
    assert again.job.status is JobStatus.SUBMITTING


async def test_the_same_key_with_another_body_is_told_apart(world: World) -> None:
    first = await world.create(new(a_job(world.tenant, world.credential), key="k", fingerprint=b"one"))
    again = await world.create(new(a_job(world.tenant, world.credential), key="k", fingerprint=b"two"))
    assert (again.verdict, again.job.id) == ("key_reused", first.job.id)
    assert len(await world.claim_jobs()) == 1


async def test_the_same_key_of_another_tenant_is_another_job(world: World) -> None:
    tenant, credential = await world.another_tenant()
    mine = await world.create(new(a_job(world.tenant, world.credential), key="k"))
    theirs = await world.create(new(a_job(tenant, credential), key="k"))
    assert (mine.verdict, theirs.verdict) == ("created", "created")


async def test_an_empty_key_is_a_key_and_no_key_is_none(world: World) -> None:
    made = [await world.create(new(a_job(world.tenant, world.credential), key=key)) for key in (None, None, "", "")]
    assert [created.verdict for created in made] == ["created", "created", "created", "replayed"]


async def test_concurrent_creates_with_one_key_make_one_job(world: World) -> None:
    asked = [world.create(new(a_job(world.tenant, world.credential), key="k")) for _ in range(50)]
    made = await asyncio.gather(*asked)
    assert sorted(created.verdict for created in made) == ["created"] + ["replayed"] * 49
    assert len({created.job.id for created in made}) == 1
    assert len(await world.claim_jobs()) == 1


async def test_a_batch_with_one_key_twice_makes_one_job(world: World) -> None:
    batch = [new(a_job(world.tenant, world.credential), key="k") for _ in range(2)]
    made = await world.store.create_jobs(batch)
    assert [created.verdict for created in made] == ["created", "replayed"]


async def test_an_empty_batch_makes_nothing(world: World) -> None:
    assert await world.store.create_jobs([]) == []
    assert await world.store.apply([]) == []
    assert await world.store.record_attempts([]) == []


async def test_a_followed_job_is_announced_with_the_transaction_that_makes_it(world: World) -> None:
    endpoint = await world.endpoint()
    world.slots.free[endpoint.num] = 1
    created = await world.create(a_followed_job(a_job(world.tenant, world.credential), "900719925474099301"))
    assert created.verdict == "created"
    assert [(fresh.event_type, fresh.job_id) for fresh in created.fresh] == [("job.processing", created.job.id)]
    assert await world.types(created.job) == ["job.processing"]
    found = await world.store.job_by_provider_id(world.credential, "900719925474099301")
    assert found == created.job
    assert [job.id for job in await world.claim_jobs(Work.POLL)] == [created.job.id]


async def test_following_an_id_that_a_job_has_names_that_job(world: World) -> None:
    submitted = await world.processing("77")
    again = await world.create(a_followed_job(a_job(world.tenant, world.credential), "77"))
    assert (again.verdict, again.job) == ("followed", await world.now(submitted))
    assert await world.types() == ["job.processing"]  # nothing was announced again


async def test_following_one_id_twice_at_once_makes_one_job(world: World) -> None:
    asked = [world.create(a_followed_job(a_job(world.tenant, world.credential), "77")) for _ in range(10)]
    made = await asyncio.gather(*asked)
    assert sorted(created.verdict for created in made) == ["created"] + ["followed"] * 9


async def test_a_provider_id_is_unique_per_credential_only(world: World) -> None:
    other = await world.another_credential()
    for credential in (world.credential, other):
        assert (await world.create(a_followed_job(a_job(world.tenant, credential), "77"))).verdict == "created"
    found = await world.store.job_by_provider_id(other, "77")
    assert found is not None and found.credential == other
    assert await world.store.job_by_provider_id(NOBODY, "77") is None


async def test_of_several_ids_one_that_is_taken_is_enough_to_refuse(world: World) -> None:
    await world.processing("2")
    detail = Detail(parts=(Part(provider_job_id="1"), Part(provider_job_id="2")))
    job = a_job(world.tenant, world.credential, status=JobStatus.PROCESSING, work=Work.POLL, detail=detail)
    assert (await world.create(new(job))).verdict == "followed"
    assert await world.store.job_by_provider_id(world.credential, "1") is None


async def test_a_job_of_no_credential_is_refused_and_the_others_of_its_group_are_made(world: World) -> None:
    good = [world.create(new(a_job(world.tenant, world.credential))) for _ in range(5)]
    bad = world.create(new(a_job(world.tenant, NOBODY)))
    made = await asyncio.gather(*good[:3], bad, *good[3:], return_exceptions=True)
    assert [type(one).__name__ for one in made].count("Created") == 5
    assert isinstance(made[3], Exception)
    assert len(await world.claim_jobs()) == 5
