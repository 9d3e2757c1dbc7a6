"""What goes: rejected callbacks beyond the last few, content on demand, rows past their retention."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from service.facts import Begin, Unknown, Update
from service.models import Detail, Job
from service.states import CallbackVerdict, DeliveryStatus, EndpointStatus, JobStatus, Source
from tests.stores.world import DAY, FAILED, SUCCEEDED, World, a_callback, a_job, new, outcome, page, said

pytestmark = pytest.mark.anyio


async def prune(world: World, limit: int = 1_000, **befores: int) -> int:
    given = {"attempts_before": 0, "callbacks_before": 0, "held_before": 0, "jobs_before": 0, **befores}
    return await world.store.prune(limit=limit, **given)


async def everything(world: World, **more: Any) -> int:
    """Prune as if all retentions were over."""
    later = world.clock.at + 1
    befores = dict.fromkeys(("attempts_before", "callbacks_before", "held_before", "jobs_before"), later)
    return await prune(world, **befores, **more)


async def deliver(world: World) -> None:
    await world.store.record_attempts([outcome(due) for due in await world.claim()])


# -- rejected callbacks


async def test_of_rejected_callbacks_the_last_few_of_each_provider_are_kept(world: World) -> None:
    for n in range(25):
        for provider in ("pixverse", "peakmv"):
            raw = a_callback(b"%d" % n, provider=provider, verdict=CallbackVerdict.REJECTED, reason="forged")
            await world.store.record_rejected(raw, 20)
    for provider in ("pixverse", "peakmv"):
        kept = await world.store.rejected_callbacks(provider)
        assert [raw.body for raw in kept] == [b"%d" % n for n in range(24, 4, -1)]
        assert {(raw.provider, raw.verdict, raw.reason) for raw in kept} == {(provider, "rejected", "forged")}
    assert await world.store.rejected_callbacks("nobody") == []


async def test_rejected_callbacks_that_come_at_once_are_no_more_than_the_last_few(world: World) -> None:
    raw = a_callback(verdict=CallbackVerdict.REJECTED)
    await asyncio.gather(*(world.store.record_rejected(raw, 5) for _ in range(60)))
    assert len(await world.store.rejected_callbacks("pixverse")) == 5


async def test_a_jobs_own_callbacks_are_not_counted_among_the_rejected(world: World) -> None:
    job = await world.processing()
    for n in range(5):
        await world.tell(job, SUCCEEDED, Source.CALLBACK, callback=a_callback(), dedupe_key=str(n))
    await world.store.record_rejected(a_callback(verdict=CallbackVerdict.REJECTED), 1)
    assert len(await world.store.rejected_callbacks("pixverse")) == 1
    assert [entry["kind"] for entry in await world.store.timeline(job)].count("callback") == 5


# -- erasing


async def test_erased_content_is_gone_and_what_happened_stays(world: World) -> None:
    await world.endpoint()
    secret = "a very private cat"
    job = await world.processing(input=b'{"prompt": "a very private cat"}', metadata={"order": "7"})
    news = replace(SUCCEEDED, provider_data={"prompt": secret})
    raw = a_callback(secret.encode())
    await world.tell(job, news, Source.CALLBACK, callback=raw, dedupe_key="d")
    await deliver(world)
    await world.store.erase_content(await world.now(job))
    erased = await world.now(job)
    assert await world.store.job_input(job.num) is None
    assert (erased.detail.outputs, erased.detail.provider_data) == ((), None)
    assert (erased.status, erased.metadata) == (JobStatus.SUCCEEDED, {"order": "7"})
    assert erased.provider_job_ids == job.provider_job_ids
    shown = [str(await world.store.timeline(erased)), str(erased)]
    shown += [str(event.body) for event in await world.events(page(), {})]
    assert secret not in "".join(shown) and "cat.mp4" not in "".join(shown)
    kinds = [entry["kind"] for entry in await world.store.timeline(erased)]
    assert (kinds.count("callback"), kinds.count("event"), kinds.count("attempt")) == (1, 2, 2)


async def test_erasing_one_job_leaves_the_others(world: World) -> None:
    kept, erased = await world.succeeded(), await world.succeeded()
    await world.store.erase_content(erased)
    assert await world.now(kept) == kept
    assert await world.store.job_input(kept.num) is not None
    events = await world.events(page(), {"job": kept.id})
    assert all(b"erased" not in event.body for event in events)


async def test_erasing_from_an_old_reading_undoes_nothing_that_came_since(world: World) -> None:
    job = await world.processing()
    failed = await world.tell(job, FAILED)
    late = await world.tell(job, SUCCEEDED)
    assert failed.job is not None and late.job is not None
    await world.store.erase_content(failed.job)
    stored = await world.now(job)
    assert stored.detail.late is not None and stored.detail.late.outputs == ()
    assert stored.version == late.job.version


async def test_a_late_result_is_announced_once_even_when_it_was_erased_in_between(world: World) -> None:
    job = await world.processing()
    await world.tell(job, FAILED)
    await world.tell(job, SUCCEEDED, dedupe_key="1")
    await world.store.erase_content(await world.now(job))
    again = await world.tell(job, SUCCEEDED, Source.CALLBACK, dedupe_key="2")
    assert again.verdict == "ignored"
    assert (await world.types(job)).count("job.late_result") == 1


# -- pruning


async def test_a_finished_job_past_its_retention_goes_with_all_that_hangs_on_it(world: World) -> None:
    await world.endpoint()
    job = await world.queued(key="k")
    await world.tell(job, Begin(), Source.SUBMIT)
    await world.tell(job, SUCCEEDED, provider_job_id="77", dedupe_key="d", callback=a_callback())
    await deliver(world)
    world.clock.forward(1)
    assert await prune(world, jobs_before=world.clock.at) == 1
    assert await world.store.job_by_id(job.id) is None
    assert await world.store.job_input(job.num) is None
    assert await world.store.job_by_provider_id(world.credential, "77") is None
    assert await world.types() == [] and await world.statuses() == []
    assert await world.store.timeline(job) == []
    assert await world.store.attempts(1) == []
    again = await world.create(new(a_job(world.tenant, world.credential), key="k"))
    assert again.verdict == "created" and again.job.num > job.num


async def test_what_is_not_finished_or_not_old_enough_stays(world: World) -> None:
    old = await world.succeeded()
    world.clock.forward(10)
    fresh = await world.succeeded()
    processing, queued = await world.processing(), await world.queued()
    assert await prune(world, jobs_before=world.clock.at) == 1
    stay = await world.store.jobs(world.tenant, page(), {})
    assert {job.num for job in stay} == {fresh.num, processing.num, queued.num}
    assert old.num not in {job.num for job in stay}


async def test_an_unknown_job_is_never_pruned(world: World) -> None:
    job = await world.queued(provider="peakmv", operation="generate")
    await world.tell(job, Begin(), Source.SUBMIT)
    await world.tell(job, Unknown(reason="the reply was lost"))
    world.clock.forward(3_650 * 86_400)
    assert await everything(world) == 0
    assert (await world.now(job)).status is JobStatus.UNKNOWN


async def test_a_job_that_is_still_read_for_a_late_result_stays(world: World) -> None:
    job = await world.processing()
    detail = job.detail
    still = await world.queued(
        status=JobStatus.FAILED, work="poll", finished_at=world.clock.at, detail=replace(detail, parts=())
    )
    assert await everything(world) == 0
    assert (await world.now(still)).work == "poll"


async def test_a_job_stays_while_a_delivery_of_it_is_pending_or_held(world: World) -> None:
    endpoint = await world.endpoint(event_types=("job.succeeded",))
    job = await world.succeeded()
    assert await prune(world, jobs_before=world.clock.at + 1) == 0
    await world.change(endpoint, status=EndpointStatus.PAUSED)
    assert await world.claim() == []
    assert await prune(world, jobs_before=world.clock.at + 1) == 0
    assert await world.statuses() == [DeliveryStatus.HELD]
    assert await prune(world, held_before=world.clock.at + 1) == 1
    (given_up,) = await world.store.deliveries(world.tenant, page(), {})
    assert (given_up.status, given_up.finished_at) == (DeliveryStatus.CANCELED, world.clock.at)
    assert await prune(world, jobs_before=world.clock.at + 1) == 1
    assert await world.store.job_by_id(job.id) is None


async def test_what_is_held_shorter_than_its_retention_stays_held(world: World) -> None:
    await world.endpoint(status=EndpointStatus.PAUSED)
    await world.processing()
    world.clock.forward(10)
    await world.processing()
    assert await prune(world, held_before=world.clock.at) == 1
    assert await world.statuses() == [DeliveryStatus.CANCELED, DeliveryStatus.HELD]


async def test_old_attempts_go_and_their_delivery_stays(world: World) -> None:
    await world.endpoint()
    await world.processing()
    for _ in range(3):
        due = await world.claim_one()
        again = outcome(due, at=world.clock.at, status=DeliveryStatus.PENDING, due_at=world.clock.at)
        await world.store.record_attempts([again])
        world.clock.forward(10)
    assert await prune(world, attempts_before=world.clock.at - 10_000) == 2
    assert [a.number for a in await world.store.attempts(due.num)] == [3]
    await world.store.record_attempts([outcome(await world.claim_one())])
    assert [a.number for a in await world.store.attempts(due.num)] == [3, 4]


async def test_old_callbacks_go_raw_and_rejected_alike_and_their_job_stays(world: World, store_name: str) -> None:
    if store_name not in ("sqlite", "postgres-plain"):
        pytest.skip("its partitions go as a whole")
    job = await world.processing()
    for n in range(3):
        raw = a_callback(b"body %d" % n, received_at=world.clock.at)
        await world.tell(job, Update(status=JobStatus.PROCESSING), Source.CALLBACK, callback=raw, dedupe_key=str(n))
        refused = a_callback(b"forged %d" % n, received_at=world.clock.at, verdict=CallbackVerdict.REJECTED)
        await world.store.record_rejected(refused, 20)
        world.clock.forward(10)
    assert await prune(world, callbacks_before=world.clock.at - 10_000) == 4
    assert [entry["kind"] for entry in await world.store.timeline(job)].count("callback") == 1
    assert [raw.body for raw in await world.store.rejected_callbacks("pixverse")] == [b"forged 2"]
    again = await world.tell(job, SUCCEEDED, Source.CALLBACK, dedupe_key="0")
    assert again.verdict == "duplicate"  # what was seen stays known as long as the job


async def test_of_old_callbacks_no_more_go_than_the_limit(world: World, store_name: str) -> None:
    if store_name not in ("sqlite", "postgres-plain"):
        pytest.skip("its partitions go as a whole")
    for n in range(5):
        await world.store.record_rejected(a_callback(b"%d" % n, verdict=CallbackVerdict.REJECTED), 20)
    later = world.clock.at + 1
    assert [await prune(world, callbacks_before=later, limit=2) for _ in range(4)] == [2, 2, 1, 0]


async def test_events_of_no_job_go_with_the_same_retention(world: World) -> None:
    await world.endpoint(event_types=("credential.paused",))
    for _ in range(2):
        await world.store.publish(world.tenant, said("credential.paused"), None)
        await world.store.publish(world.tenant, said("endpoint.disabled"), None)
        world.clock.forward(10)
    await world.store.record_attempts([outcome((await world.claim(limit=1))[0])])
    assert await prune(world, jobs_before=world.clock.at - 10_000) == 2
    assert await world.types() == ["credential.paused", "endpoint.disabled"]
    assert await prune(world, jobs_before=world.clock.at) == 1
    assert await world.types() == ["credential.paused"]  # still to be delivered


async def test_pruning_takes_no_more_than_its_limit_of_each_kind(world: World) -> None:
    for _ in range(5):
        await world.succeeded()
    assert [await everything(world, limit=2) for _ in range(4)] == [2, 2, 1, 0]


async def test_nothing_is_pruned_before_its_time(world: World) -> None:
    await world.endpoint(status=EndpointStatus.PAUSED)
    jobs: list[Job] = [await world.succeeded(detail=Detail()) for _ in range(3)]
    before = world.clock.at
    world.clock.forward(DAY / 1000)
    assert await prune(world, attempts_before=before, held_before=before, jobs_before=before) == 0
    assert [await world.now(job) for job in jobs] == jobs
    late = await world.tell(jobs[0], Update(status=JobStatus.PROCESSING))
    assert late.verdict == "ignored"
