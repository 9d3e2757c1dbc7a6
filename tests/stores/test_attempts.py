"""Recording attempts: by the lease's holder alone, once, with all that follows in the same transaction."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from service.ids import row_number
from service.models import Announcement, AttemptResult, DueDelivery, Endpoint
from service.states import DeliveryStatus, EndpointStatus
from tests.stores.world import START, World, outcome, page, said

pytestmark = pytest.mark.anyio

PENDING, HELD, FAILED = DeliveryStatus.PENDING, DeliveryStatus.HELD, DeliveryStatus.FAILED


def gone(delivery: DueDelivery, **changes: Any) -> AttemptResult:
    """What a 410 comes to."""
    about = said("endpoint.disabled", about_endpoint=delivery.endpoint)
    fields = {"status_code": 410, "error": "status", "disable": "it answered 410 Gone", "announce": about}
    return outcome(delivery, status=HELD, **{**fields, **changes})


def given_up(delivery: DueDelivery) -> AttemptResult:
    """What the last try of the schedule comes to."""
    about = said("delivery.failed", about_endpoint=delivery.endpoint if delivery.endpoint > 0 else None)
    return outcome(delivery, status=FAILED, status_code=500, error="status", announce=about)


async def claimed_for(world: World, endpoint: Endpoint) -> list[DueDelivery]:
    return [d for d in await world.claim() if d.endpoint == endpoint.num]


async def test_a_delivery_that_was_taken_is_delivered_with_its_attempt(world: World) -> None:
    await world.endpoint()
    await world.processing()
    due = await world.claim_one()
    result = outcome(due, at=START + 5, duration_ms=120, status_code=204, response=b"thanks \xff")
    assert await world.store.record_attempts([result]) == []
    delivery = await world.store.delivery(world.tenant, due.num)
    assert delivery is not None
    assert (delivery.status, delivery.attempts, delivery.due_at) == (DeliveryStatus.DELIVERED, 1, None)
    assert delivery.finished_at == START + 125
    (attempt,) = await world.store.attempts(due.num)
    assert (attempt.number, attempt.at, attempt.duration_ms) == (1, START + 5, 120)
    assert (attempt.status_code, attempt.error, attempt.response) == (204, None, "thanks �")
    assert row_number("att", attempt.id, world.store.nonce) == attempt.num
    world.clock.forward(86_400)
    assert await world.claim() == []


async def test_a_failed_try_is_due_again_and_counted(world: World) -> None:
    await world.endpoint()
    await world.processing()
    for number in (1, 2, 3):
        due = await world.claim_one()
        assert due.attempts == number - 1
        again = outcome(due, status=PENDING, status_code=None, error="timeout", due_at=world.clock.at + 5_000)
        await world.store.record_attempts([again])
        world.clock.forward(5)
    tried = await world.store.attempts(due.num)
    assert [(a.number, a.error, a.status_code, a.response) for a in tried] == [
        (number, "timeout", None, None) for number in (1, 2, 3)
    ]
    delivery = await world.store.delivery(world.tenant, due.num)
    assert delivery is not None and (delivery.status, delivery.finished_at) == (PENDING, None)


async def test_who_lost_the_lease_writes_nothing(world: World) -> None:
    await world.endpoint()
    await world.processing()
    stalled = await world.claim_one()
    world.clock.forward(91)
    holder = await world.claim_one()
    assert await world.store.record_attempts([given_up(stalled)]) == []
    assert await world.store.attempts(stalled.num) == []
    assert await world.statuses() == [PENDING]
    await world.store.record_attempts([outcome(holder)])
    assert await world.statuses() == [DeliveryStatus.DELIVERED]
    assert await world.types() == ["job.processing"]


async def test_an_attempt_is_recorded_once(world: World) -> None:
    await world.endpoint()
    await world.processing()
    due = await world.claim_one()
    again = outcome(due, status=PENDING, due_at=world.clock.at + 5_000, status_code=500)
    await world.store.record_attempts([again, again])
    await asyncio.gather(*(world.store.record_attempts([again]) for _ in range(5)))
    assert [a.number for a in await world.store.attempts(due.num)] == [1]
    delivery = await world.store.delivery(world.tenant, due.num)
    assert delivery is not None and delivery.attempts == 1


async def test_an_attempt_of_no_delivery_is_dropped_and_the_others_are_kept(world: World) -> None:
    await world.endpoint()
    await world.processing()
    due = await world.claim_one()
    await world.store.record_attempts([outcome(replace(due, num=due.num + 1_000)), outcome(due)])
    assert await world.statuses() == [DeliveryStatus.DELIVERED]


async def test_what_was_not_sent_because_the_endpoint_was_paused_is_held_and_no_attempt(world: World) -> None:
    await world.endpoint()
    await world.processing()
    due = await world.claim_one()
    await world.store.record_attempts([outcome(due, status=HELD, status_code=None, counts=False)])
    delivery = await world.store.delivery(world.tenant, due.num)
    assert delivery is not None
    assert (delivery.status, delivery.attempts, delivery.finished_at) == (HELD, 0, None)
    assert await world.store.attempts(due.num) == []


# -- what follows from an attempt


async def test_410_disables_the_endpoint_and_tells_the_others_once(world: World) -> None:
    ended, other = await world.endpoint(), await world.endpoint()
    world.slots.free[other.num] = 10
    for _ in range(3):
        await world.processing()
    due = await claimed_for(world, ended)
    fresh = await asyncio.gather(*(world.store.record_attempts([gone(d)]) for d in due[:2]))
    told = [d for each in fresh for d in each]
    assert [(d.endpoint, d.event_type, d.tenant, d.job_id) for d in told] == [
        (other.num, "endpoint.disabled", world.tenant, None)
    ]
    await world.store.record_attempts([gone(due[2])])
    assert (await world.types()).count("endpoint.disabled") == 1
    stored = await world.store.endpoint(world.tenant, ended.id)
    assert stored is not None
    assert (stored.status, stored.disabled_reason) == (EndpointStatus.DISABLED, "it answered 410 Gone")
    assert stored.version == ended.version + 1
    assert await world.statuses(endpoint=ended.num) == [HELD] * 3


async def test_two_410s_in_one_batch_announce_once(world: World) -> None:
    ended, _ = await world.endpoint(), await world.endpoint()
    for _ in range(2):
        await world.processing()
    await world.store.record_attempts([gone(d) for d in await claimed_for(world, ended)])
    assert (await world.types()).count("endpoint.disabled") == 1


async def test_a_disabled_endpoint_is_owed_what_comes_and_sent_none_of_it(world: World) -> None:
    ended = await world.endpoint()
    await world.processing()
    await world.store.record_attempts([gone(await world.claim_one())])
    await world.processing()
    assert await world.statuses(endpoint=ended.num) == [HELD, HELD]
    assert await world.claim() == []


async def test_a_410_changes_no_endpoint_that_was_disabled_before(world: World) -> None:
    ended = await world.endpoint()
    await world.processing()
    due = await world.claim_one()
    before = await world.change(ended, status=EndpointStatus.DISABLED, disabled_reason="a person did")
    await world.store.record_attempts([gone(due)])
    assert await world.store.endpoint(world.tenant, ended.id) == before
    assert await world.types() == ["job.processing"]


async def test_a_delivery_that_used_up_its_schedule_is_announced_to_the_others(world: World) -> None:
    broken, other = await world.endpoint(), await world.endpoint()
    await world.processing()
    (due,) = await claimed_for(world, broken)
    assert await world.store.record_attempts([given_up(due)]) == []  # no sender is free
    assert await world.types() == ["job.processing", "delivery.failed"]
    assert [(d.endpoint, d.event_type) for d in await world.claim()] == [(other.num, "delivery.failed")]
    delivery = await world.store.delivery(world.tenant, due.num)
    assert delivery is not None and (delivery.status, delivery.due_at) == (FAILED, None)
    assert delivery.finished_at is not None


async def test_what_follows_is_returned_to_the_caller_that_recorded_it(world: World) -> None:
    endpoints = [await world.endpoint(), await world.endpoint()]
    for _ in range(4):
        await world.processing()
    due = await world.claim()
    world.slots.free = {endpoint.num: 100 for endpoint in endpoints}
    fresh = await asyncio.gather(*(world.store.record_attempts([given_up(d)]) for d in due))
    for delivery, told in zip(due, fresh, strict=True):
        (other,) = [endpoint.num for endpoint in endpoints if endpoint.num != delivery.endpoint]
        assert [(d.endpoint, d.event_type) for d in told] == [(other, "delivery.failed")]
    assert await world.claim() == []


async def test_what_another_tenants_delivery_says_stays_with_that_tenant(world: World) -> None:
    tenant, credential = await world.another_tenant()
    await world.endpoint()
    for _ in range(2):
        await world.endpoint(tenant=tenant)
    await world.processing(tenant=tenant, credential=credential)
    due = await world.claim()
    await world.store.record_attempts([given_up(due[0])])
    assert {d.tenant for d in await world.claim()} == {tenant}
    assert await world.types() == []


async def test_an_operators_delivery_is_recorded_like_any_other(world: World) -> None:
    event, fresh = await world.store.publish(world.tenant, _paused(), None)
    assert (event.type, fresh) == ("credential.paused", [])
    assert await world.store.event(world.tenant, event.num) == event


async def test_attempts_are_listed_in_their_order(world: World) -> None:
    await world.endpoint()
    await world.processing()
    for _ in range(5):
        due = await world.claim_one()
        await world.store.record_attempts([outcome(due, status=PENDING, due_at=world.clock.at)])
    assert [a.number for a in await world.store.attempts(due.num)] == [1, 2, 3, 4, 5]
    assert await world.store.attempts(due.num + 1) == []
    assert len(await world.store.deliveries(world.tenant, page(), {})) == 1


def _paused() -> Announcement:
    return said("credential.paused")


async def test_a_try_on_a_dead_connection_is_shown_before_the_one_that_repeats_it(world: World) -> None:
    await world.endpoint()
    job = await world.processing()
    due = await world.claim_one()
    await world.store.record_attempts([outcome(due, at=START + 5, status_code=200, stale="reset")])
    (attempt,) = await world.store.attempts(due.num)
    assert (attempt.number, attempt.status_code, attempt.error, attempt.stale) == (1, 200, None, "reset")
    shown = [entry for entry in await world.store.timeline(job) if entry["kind"] == "attempt"]
    assert [(entry["status_code"], entry["error"]) for entry in shown] == [(None, "reset"), (200, None)]
    assert {(entry["id"], entry["number"]) for entry in shown} == {(attempt.id, 1)}
