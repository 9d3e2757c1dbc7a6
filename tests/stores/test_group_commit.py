"""Group commit: concurrent callers ride in one transaction, and one that fails takes none of the others with it."""

import asyncio
from pathlib import Path

import pytest

from service.facts import Arrival, Begin
from service.models import Decision, Job
from service.states import JobStatus, Source
from tests.stores.world import FAILED, SUCCEEDED, Real, Scripted, World, a_callback, a_job, new, opened, page

pytestmark = pytest.mark.anyio


class Poisoned(Scripted):
    """The real rules, and an exception for every job that the test names."""

    def __init__(self) -> None:
        self.poison: set[int] = set()
        rules = Real()

        def decide(job: Job, arrival: Arrival, now: int) -> Decision:
            if job.num in self.poison:
                raise ZeroDivisionError(f"job {job.num} is poison")
            return rules.decide(job, arrival, now)

        super().__init__(decide)


async def test_every_caller_gets_its_own_results_in_its_own_order(world: World) -> None:
    jobs = [await world.processing() for _ in range(60)]
    calls = [jobs[start : start + 3] for start in range(0, 60, 3)]
    told = [[Arrival(job=job.num, fact=SUCCEEDED, source=Source.POLL) for job in call] for call in calls]
    applied = await asyncio.gather(*(world.store.apply(arrivals) for arrivals in told))
    for call, results in zip(calls, applied, strict=True):
        assert [result.job.num for result in results if result.job] == [job.num for job in call]


async def test_callers_of_different_verbs_do_not_get_each_others_results(world: World) -> None:
    await world.endpoint()
    jobs = [await world.processing() for _ in range(10)]
    told = [world.tell(job, SUCCEEDED) for job in jobs]
    made = [world.create(new(a_job(world.tenant, world.credential), key=str(n))) for n in range(10)]
    claims = [world.claim(limit=5), world.claim(limit=5)]
    meta = [world.store.set_meta(f"key {n}", str(n)) for n in range(10)]
    applied, created, claimed, _ = await asyncio.gather(
        asyncio.gather(*told), asyncio.gather(*made), asyncio.gather(*claims), asyncio.gather(*meta)
    )
    assert [result.job.num for result in applied if result.job] == [job.num for job in jobs]
    assert len({result.job.id for result in created}) == 10
    assert [len(due) for due in claimed] == [5, 5]
    assert [await world.store.meta(f"key {n}") for n in range(10)] == [str(n) for n in range(10)]


async def test_a_poisoned_caller_fails_alone(store_name: str, tmp_path: Path) -> None:
    plan = Poisoned()
    async with opened(store_name, tmp_path, plan) as world:
        await world.endpoint()
        jobs = [await world.processing() for _ in range(40)]
        plan.poison = {jobs[7].num, jobs[23].num}
        told = [world.tell(job, SUCCEEDED, dedupe_key=job.id, callback=a_callback()) for job in jobs]
        made = [world.create(new(a_job(world.tenant, world.credential))) for _ in range(5)]
        results = await asyncio.gather(*told, *made, return_exceptions=True)
        failed = [place for place, result in enumerate(results) if isinstance(result, BaseException)]
        assert failed == [7, 23]
        for place, job in enumerate(jobs):
            poisoned = place in failed
            assert (await world.now(job)).status is (JobStatus.PROCESSING if poisoned else JobStatus.SUCCEEDED)
            assert await world.types(job) == ["job.processing", "job.succeeded"][: 1 if poisoned else 2]
            callbacks = [entry for entry in await world.store.timeline(job) if entry["kind"] == "callback"]
            assert len(callbacks) == (0 if poisoned else 1)
        assert len(await world.claim_jobs()) == 5


async def test_a_poison_item_fails_its_caller_and_not_the_rest_of_its_batch(store_name: str, tmp_path: Path) -> None:
    plan = Poisoned()
    async with opened(store_name, tmp_path, plan) as world:
        jobs = [await world.processing() for _ in range(5)]
        plan.poison = {jobs[2].num}
        batch = [Arrival(job=job.num, fact=SUCCEEDED, source=Source.POLL) for job in jobs]
        with pytest.raises(ZeroDivisionError, match=f"job {jobs[2].num} is poison"):
            await world.store.apply(batch)
        states = [(await world.now(job)).status for job in jobs]
        assert states == [JobStatus.SUCCEEDED] * 2 + [JobStatus.PROCESSING] + [JobStatus.SUCCEEDED] * 2


async def test_after_poison_the_store_goes_on(store_name: str, tmp_path: Path) -> None:
    plan = Poisoned()
    async with opened(store_name, tmp_path, plan) as world:
        job = await world.processing()
        plan.poison = {job.num}
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await world.tell(job, SUCCEEDED, dedupe_key="d")
        plan.poison = set()
        assert (await world.tell(job, SUCCEEDED, dedupe_key="d")).verdict == "applied"


async def test_what_a_cancelled_caller_asked_for_is_kept_all_the_same(world: World) -> None:
    job = await world.processing()
    asking = asyncio.create_task(world.tell(job, SUCCEEDED))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await world.tell(await world.processing(), FAILED)  # whoever comes later is answered
    assert (await world.now(job)).status is JobStatus.SUCCEEDED


async def test_what_is_waiting_is_kept_before_a_close(store_name: str, tmp_path: Path) -> None:
    async with opened(store_name, tmp_path) as world:
        jobs = [await world.queued() for _ in range(20)]
        told = [asyncio.create_task(world.tell(job, Begin(), Source.SUBMIT)) for job in jobs]
        await asyncio.sleep(0)
    results = await asyncio.gather(*told)
    assert [result.verdict for result in results] == ["applied"] * 20
    async with opened(store_name, tmp_path) as world:
        assert {(await world.now(job)).status for job in jobs} == {JobStatus.SUBMITTING}


async def test_events_are_numbered_in_the_order_of_their_commits(world: World) -> None:
    jobs = [await world.processing() for _ in range(30)]
    seen: list[int] = []

    async def tell(job: Job) -> None:
        await world.tell(job, SUCCEEDED)
        (newest, *_) = await world.events(page(), {"job": job.id})
        seen.append(newest.num)

    await asyncio.gather(*(tell(job) for job in jobs))
    late = await world.succeeded()
    (last, *_) = await world.events(page(), {"job": late.id})
    assert len(set(seen)) == 30 and last.num > max(seen)
