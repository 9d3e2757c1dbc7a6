"""Deleting an endpoint cancels what is owed to it, at once; what is being sent just then ends with its attempt."""

from typing import Any

import pytest

from service.models import Endpoint
from service.states import DeliveryStatus, EndpointStatus
from tests.stores.world import World, outcome, page, said

pytestmark = pytest.mark.anyio
CANCELED, PENDING, HELD = DeliveryStatus.CANCELED, DeliveryStatus.PENDING, DeliveryStatus.HELD


async def owed(world: World, count: int = 1, **settings: Any) -> Endpoint:
    endpoint = await world.endpoint(**settings)
    for _ in range(count):
        await world.store.publish(world.tenant, said("endpoint.test"), endpoint.num)
    return endpoint


async def delete(world: World, endpoint: Endpoint) -> None:
    await world.change(endpoint, deleted=True)
    while await world.store.cancel_owed(endpoint.num):
        pass


async def states(world: World, endpoint: Endpoint) -> set[tuple[Any, ...]]:
    rows = await world.store.deliveries(world.tenant, page(), {"endpoint": endpoint.num})
    return {(row.status, row.due_at, row.finished_at) for row in rows}


async def test_what_is_due_now_is_canceled(world: World) -> None:
    endpoint, other = await owed(world, 3), await owed(world, 2)
    await delete(world, endpoint)
    assert await states(world, endpoint) == {(CANCELED, None, world.clock.at)}
    assert {status for status, _, _ in await states(world, other)} == {PENDING}
    assert len(await world.claim()) == 2


async def test_what_waits_for_a_later_attempt_is_canceled(world: World) -> None:
    endpoint = await owed(world, 3)
    later = world.clock.at + 3_600_000
    await world.store.record_attempts([outcome(due, status=PENDING, due_at=later) for due in await world.claim()])
    await delete(world, endpoint)
    assert await states(world, endpoint) == {(CANCELED, None, world.clock.at)}


@pytest.mark.parametrize("status", [EndpointStatus.PAUSED, EndpointStatus.DISABLED])
async def test_what_is_held_is_canceled(world: World, status: EndpointStatus) -> None:
    endpoint = await owed(world, 3, status=status)
    other = await owed(world, 1, status=status)
    await delete(world, endpoint)
    assert await states(world, endpoint) == {(CANCELED, None, world.clock.at)}
    assert {status for status, _, _ in await states(world, other)} == {HELD}


@pytest.mark.parametrize(
    ("status", "ends"),
    [
        (PENDING, CANCELED),
        (HELD, CANCELED),
        (DeliveryStatus.DELIVERED, DeliveryStatus.DELIVERED),
        (DeliveryStatus.FAILED, DeliveryStatus.FAILED),
    ],
)
async def test_what_is_being_sent_ends_with_its_attempt(
    world: World, status: DeliveryStatus, ends: DeliveryStatus
) -> None:
    endpoint = await owed(world)
    due = await world.claim_one()
    await delete(world, endpoint)
    assert {status for status, _, _ in await states(world, endpoint)} == {PENDING}
    later = world.clock.at + 3_600_000 if status is PENDING else None
    await world.store.record_attempts([outcome(due, status=status, due_at=later)])
    ((shown, due_at, finished_at),) = await states(world, endpoint)
    assert (shown, due_at, finished_at is not None) == (ends, None, True)
    assert len(await world.store.attempts(due.num)) == 1


async def test_they_are_canceled_with_the_deletion_itself(world: World) -> None:
    """So that a crash leaves nothing behind, unless there were more than one transaction should change."""
    endpoint = await owed(world, 5)
    await world.change(endpoint, deleted=True)
    assert {status for status, _, _ in await states(world, endpoint)} == {CANCELED}
    assert await world.store.cancel_owed(endpoint.num) == 0


async def test_nothing_of_it_is_sent_again(world: World) -> None:
    endpoint = await owed(world)
    await delete(world, endpoint)
    (row,) = await world.store.deliveries(world.tenant, page(), {"endpoint": endpoint.num})
    assert await world.store.resend(world.tenant, event=0, endpoint=None, delivery=row.num) == 0
    assert await states(world, endpoint) == {(CANCELED, None, world.clock.at)}
