"""Publishing, retry, replay, recover and release: rows go back to pending, and are made only where there is none."""

from collections import Counter
from typing import Any

import pytest

from service.models import DueDelivery, Endpoint, Event, Job
from service.states import DeliveryStatus, EndpointStatus
from tests.stores.world import CANCELED, FAILED, NOBODY, World, outcome, page, said

pytestmark = pytest.mark.anyio

PENDING, DELIVERED, HELD = DeliveryStatus.PENDING, DeliveryStatus.DELIVERED, DeliveryStatus.HELD


async def newest(world: World) -> Event:
    return (await world.events(page(1), {}))[0]


async def deliver_all(world: World, **changes: Any) -> list[DueDelivery]:
    due = await world.claim()
    await world.store.record_attempts([outcome(d, **changes) for d in due])
    return due


async def recover(world: World, endpoint: Endpoint, since: int = 0, limit: int = 500) -> int:
    """All pages; how many became due."""
    total, after = 0, 0
    while True:
        await world.settle()
        count, last = await world.store.recover(endpoint, since=since, after=after, limit=limit)
        total += count
        if last is None:
            return total
        assert last > after
        after = last


# -- publish


async def test_what_is_published_goes_to_who_wants_it(world: World) -> None:
    endpoint = await world.endpoint()
    world.slots.free[endpoint.num] = 1
    event, fresh = await world.store.publish(world.tenant, said("credential.paused"), None)
    assert [(d.endpoint, d.event_id, d.body, d.job_id) for d in fresh] == [(endpoint.num, event.id, event.body, None)]
    assert await world.store.event(world.tenant, event.num) == event


async def test_what_is_published_to_one_endpoint_goes_to_it_alone(world: World) -> None:
    one, _ = await world.endpoint(event_types=("job.failed",)), await world.endpoint()
    await world.store.publish(world.tenant, said("endpoint.test"), one.num)
    assert [(d.endpoint, d.event_type) for d in await world.claim()] == [(one.num, "endpoint.test")]


async def test_a_test_of_a_paused_endpoint_is_held(world: World) -> None:
    endpoint = await world.endpoint(status=EndpointStatus.PAUSED)
    await world.store.publish(world.tenant, said("endpoint.test"), endpoint.num)
    assert await world.statuses() == [HELD]


# -- retry


async def test_a_retry_puts_a_delivery_back_with_its_schedule_from_the_start(world: World) -> None:
    await world.endpoint()
    await world.processing()
    for _ in range(2):
        await deliver_all(world, status=PENDING, due_at=world.clock.at)
    await deliver_all(world, status=DeliveryStatus.FAILED)
    event = await newest(world)
    (shown,) = await world.store.deliveries(world.tenant, page(), {})
    world.clock.forward(60)
    assert await world.store.resend(world.tenant, event=event.num, endpoint=None, delivery=shown.num) == 1
    again = await world.store.delivery(world.tenant, shown.num)
    assert again is not None
    assert (again.status, again.due_at, again.finished_at) == (PENDING, world.clock.at, None)
    due = await world.claim_one()
    assert (due.num, due.attempts) == (shown.num, 0)
    await world.store.record_attempts([outcome(due)])
    assert [a.number for a in await world.store.attempts(due.num)] == [1, 2, 3, 4]


async def test_a_retry_of_what_waits_makes_it_due_now(world: World) -> None:
    await world.endpoint()
    await world.processing()
    await deliver_all(world, status=PENDING, due_at=world.clock.at + 3_600_000)
    (shown,) = await world.store.deliveries(world.tenant, page(), {})
    assert await world.store.resend(world.tenant, event=0, endpoint=None, delivery=shown.num) == 1
    assert (await world.claim_one()).num == shown.num


async def test_a_retry_of_what_is_being_sent_leaves_it_alone(world: World) -> None:
    await world.endpoint()
    await world.processing()
    sending = await world.claim_one()
    event = await newest(world)
    assert await world.store.resend(world.tenant, event=event.num, endpoint=None, delivery=sending.num) == 0
    assert await world.store.resend(world.tenant, event=event.num, endpoint=None, delivery=None) == 0
    assert await world.claim() == []
    await world.store.record_attempts([outcome(sending)])
    assert await world.statuses() == [DELIVERED]


async def test_nobody_sends_another_tenants_events_again(world: World) -> None:
    tenant, _ = await world.another_tenant()
    await world.endpoint()
    await world.endpoint(tenant=tenant)
    await world.processing()
    (sent,) = await deliver_all(world)
    event = await newest(world)
    assert await world.store.resend(tenant, event=event.num, endpoint=None, delivery=sent.num) == 0
    assert await world.store.resend(tenant, event=event.num, endpoint=None, delivery=None) == 0
    assert await world.store.resend(world.tenant, event=NOBODY, endpoint=None, delivery=None) == 0
    assert await world.store.resend(world.tenant, event=NOBODY, endpoint=None, delivery=NOBODY) == 0
    assert await world.statuses() == [DELIVERED]
    assert await world.claim() == []


# -- replay


async def test_a_replay_puts_rows_back_and_makes_those_that_are_missing(world: World) -> None:
    old = [await world.endpoint(), await world.endpoint()]
    job = await world.processing()
    await deliver_all(world)
    late = await world.endpoint()
    await world.endpoint(event_types=("job.failed",))
    event = await newest(world)
    assert await world.store.resend(world.tenant, event=event.num, endpoint=None, delivery=None) == 3
    due = await world.claim()
    assert sorted(d.endpoint for d in due) == sorted(endpoint.num for endpoint in (*old, late))
    assert {(d.event_id, d.body, d.job_id) for d in due} == {(event.id, event.body, job.id)}
    assert len(await world.statuses()) == 3


async def test_a_replay_to_one_endpoint_touches_no_other(world: World) -> None:
    one, _ = await world.endpoint(), await world.endpoint()
    await world.processing()
    await deliver_all(world)
    event = await newest(world)
    assert await world.store.resend(world.tenant, event=event.num, endpoint=one.num, delivery=None) == 1
    assert [d.endpoint for d in await world.claim()] == [one.num]


async def test_a_replay_holds_what_a_paused_endpoint_is_owed(world: World) -> None:
    await world.processing()
    endpoint = await world.endpoint(status=EndpointStatus.PAUSED)
    await world.store.resend(world.tenant, event=(await newest(world)).num, endpoint=None, delivery=None)
    assert await world.claim() == []
    assert await world.statuses(endpoint=endpoint.num) == [HELD]


async def test_what_is_said_of_an_endpoint_is_not_sent_to_it_later_either(world: World) -> None:
    broken = await world.endpoint()
    other = await world.endpoint()
    await world.store.publish(world.tenant, said("endpoint.disabled", about_endpoint=broken.num), None)
    event = await newest(world)
    await deliver_all(world)
    assert await world.store.resend(world.tenant, event=event.num, endpoint=None, delivery=None) == 1
    assert [d.endpoint for d in await world.claim()] == [other.num]
    assert await world.store.resend(world.tenant, event=event.num, endpoint=broken.num, delivery=None) == 0
    assert await recover(world, broken) == 0


async def test_a_test_of_one_endpoint_is_never_sent_to_another(world: World) -> None:
    one, other = await world.endpoint(), await world.endpoint()
    await world.store.publish(world.tenant, said("endpoint.test"), one.num)
    await deliver_all(world)
    event = await newest(world)
    assert await recover(world, other) == 0
    assert await world.store.resend(world.tenant, event=event.num, endpoint=None, delivery=None) == 1
    assert [d.endpoint for d in await world.claim()] == [one.num]


# -- recover


async def three_events(world: World) -> Job:
    job = await world.processing()
    await world.tell(job, FAILED)
    await world.store.publish(world.tenant, said("credential.paused"), None)
    return job


async def test_recover_sends_what_failed_was_canceled_or_held_and_leaves_the_rest(world: World) -> None:
    endpoint = await world.endpoint()
    expected = {}
    for status in (DELIVERED, PENDING, DeliveryStatus.FAILED, DeliveryStatus.CANCELED, HELD):
        await world.processing()
        due = await world.claim_one()
        later = world.clock.at + 3_600_000 if status is PENDING else None
        await world.store.record_attempts([outcome(due, status=status, due_at=later)])
        expected[due.num] = status not in (DELIVERED, PENDING)
    assert await recover(world, endpoint) == 3
    world.clock.forward(1)
    assert {d.num for d in await world.claim()} == {num for num, again in expected.items() if again}
    assert await recover(world, endpoint) == 0


async def test_recover_makes_what_an_endpoint_never_had(world: World) -> None:
    await three_events(world)
    endpoint = await world.endpoint(event_types=("job.failed", "credential.paused"))
    assert await recover(world, endpoint) == 2
    world.clock.forward(1)
    assert sorted(d.event_type for d in await world.claim()) == ["credential.paused", "job.failed"]
    assert await recover(world, endpoint) == 0


async def test_recover_begins_at_since_and_stays_with_its_tenant(world: World) -> None:
    tenant, credential = await world.another_tenant()
    await world.processing()
    world.clock.forward(60)
    since = world.clock.at
    await world.processing()
    await world.processing(tenant=tenant, credential=credential)
    endpoint = await world.endpoint()
    assert await recover(world, endpoint, since) == 1
    assert await recover(world, endpoint) == 1


async def test_recover_goes_page_by_page(world: World) -> None:
    for _ in range(7):
        await world.processing()
    endpoint, pages, after = await world.endpoint(), [], 0
    while True:
        await world.settle()
        count, last = await world.store.recover(endpoint, since=0, after=after, limit=3)
        if last is None:
            break
        pages.append(count)
        after = last
    assert pages == [3, 3, 1]


async def test_what_is_recovered_is_spread_out_and_in_order(world: World) -> None:
    for _ in range(50):
        await world.processing()
    endpoint = await world.endpoint()
    await recover(world, endpoint)
    rows = await world.store.deliveries(world.tenant, page(), {})
    due = [row.due_at or 0 for row in reversed(rows)]
    assert due == sorted(due) and len(set(due)) == 50
    assert min(due) == world.clock.at


async def test_recovering_for_a_paused_endpoint_keeps_it_held(world: World) -> None:
    await three_events(world)
    endpoint = await world.endpoint(status=EndpointStatus.PAUSED)
    await recover(world, endpoint)
    world.clock.forward(10)
    assert await world.claim() == []
    assert set(await world.statuses()) == {HELD}


# -- release


async def held(world: World, endpoint: Endpoint, count: int) -> None:
    await world.change(endpoint, status=EndpointStatus.PAUSED)
    for _ in range(count):
        await world.processing()


async def test_enabling_releases_what_was_held_spread_out(world: World) -> None:
    endpoint = await world.endpoint()
    await held(world, endpoint, 10)
    assert await world.store.release_held(limit=10, spread_ms=10_000) == 0
    await world.change(endpoint, status=EndpointStatus.ACTIVE)
    assert await world.store.release_held(limit=10, spread_ms=10_000) == 10
    assert await world.store.release_held(limit=10, spread_ms=10_000) == 0
    taken = []
    for _ in range(10):
        taken.append(len(await world.claim()))
        world.clock.forward(1)
    assert taken == [1] * 10


async def test_a_release_takes_no_more_than_its_limit(world: World) -> None:
    endpoint = await world.endpoint()
    await held(world, endpoint, 5)
    await world.change(endpoint, status=EndpointStatus.ACTIVE)
    assert [await world.store.release_held(limit=2, spread_ms=0) for _ in range(4)] == [2, 2, 1, 0]
    assert len(await world.claim()) == 5


async def test_one_limit_is_shared_by_all_endpoints_that_are_back(world: World) -> None:
    endpoints = [await world.endpoint(), await world.endpoint()]
    for endpoint in endpoints:
        await held(world, endpoint, 0)
    for _ in range(3):
        await world.processing()
    for endpoint in endpoints:
        await world.change(endpoint, status=EndpointStatus.ACTIVE)
    assert [await world.store.release_held(limit=4, spread_ms=0) for _ in range(3)] == [4, 2, 0]


async def test_what_is_held_for_others_stays_and_hides_nothing(world: World) -> None:
    paused, gone, back = [await world.endpoint() for _ in range(3)]
    for endpoint in (paused, gone, back):
        await held(world, endpoint, 0)
    for _ in range(20):
        await world.processing()
    await world.change(gone, deleted=True)
    await world.change(back, status=EndpointStatus.ACTIVE)
    assert await world.store.release_held(limit=15, spread_ms=0) == 15
    assert await world.store.release_held(limit=15, spread_ms=0) == 5
    assert Counter(d.endpoint for d in await world.claim()) == {back.num: 20}
    assert set(await world.statuses(endpoint=paused.num)) == {HELD}


async def test_what_is_released_goes_on_with_its_schedule_and_has_not_finished(world: World) -> None:
    endpoint = await world.endpoint()
    await world.processing()
    await deliver_all(world, status=PENDING, due_at=world.clock.at)
    await world.change(endpoint, status=EndpointStatus.PAUSED)
    assert await world.claim() == []
    await world.change(endpoint, status=EndpointStatus.ACTIVE)
    await world.store.release_held(limit=10, spread_ms=0)
    (shown,) = await world.store.deliveries(world.tenant, page(), {})
    assert (shown.status, shown.finished_at, shown.attempts) == (PENDING, None, 1)
    assert (await world.claim_one()).attempts == 1


async def test_a_fact_after_a_replay_is_another_event(world: World) -> None:
    await world.endpoint()
    job = await world.processing()
    await deliver_all(world)
    await world.store.resend(world.tenant, event=(await newest(world)).num, endpoint=None, delivery=None)
    await world.tell(job, CANCELED)
    assert sorted(d.event_type for d in await world.claim()) == ["job.canceled", "job.processing"]
