"""Claiming deliveries: what is due and has room, lane by lane in turn, none behind another's backlog."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from service.facts import Arrival
from service.models import Decision, Detail, Job, Target
from service.states import DeliveryStatus, EndpointStatus, Source
from tests.stores.world import FAILED, SUCCEEDED, Scripted, World, opened, outcome, page, said

pytestmark = pytest.mark.anyio


def lanes(*numbers: int) -> Scripted:
    """A plan whose every fact owes one delivery to each of these lanes."""
    picked = [Target(endpoint=number, lane=number) for number in numbers]

    def decide(job: Job, arrival: Arrival, now: int) -> Decision:
        return Decision(verdict="applied", announcements=(said("job.succeeded"),))

    return Scripted(decide, targets=lambda announcement: picked)


async def tell(world: World, times: int) -> None:
    job = await world.queued()
    await world.store.apply([Arrival(job=job.num, fact=FAILED, source=Source.POLL)] * times)


async def test_a_claim_gives_all_that_an_attempt_needs(world: World) -> None:
    endpoint = await world.endpoint(event_types=("job.succeeded",))
    job = await world.succeeded(detail=Detail(traceparent="00-a-b-01"))
    claimed = await world.claim_one()
    (event,) = await world.events(page(1), {"type": "job.succeeded"})
    assert (claimed.tenant, claimed.event_id, claimed.body) == (world.tenant, event.id, event.body)
    assert (claimed.endpoint, claimed.lane, claimed.attempts) == (endpoint.num, endpoint.num, 0)
    assert (claimed.job_id, claimed.traceparent, claimed.callback_url) == (job.id, "00-a-b-01", None)
    assert claimed.lease_ends == world.clock.monotonic() + 90
    (shown,) = await world.store.deliveries(world.tenant, page(1), {"event": event.num})
    assert (shown.status, shown.due_at) == (DeliveryStatus.PENDING, world.clock.at + 90_000)


async def test_what_is_leased_is_nobody_elses_until_the_lease_ends(world: World) -> None:
    await world.endpoint()
    await world.processing()
    first = await world.claim_one()
    world.clock.forward(89.999)
    assert await world.claim() == []
    world.clock.forward(0.001)
    second = await world.claim_one()
    assert (second.num, second.lease == first.lease) == (first.num, False)


async def test_what_is_not_due_yet_is_not_claimed(world: World) -> None:
    await world.endpoint()
    await world.processing()
    again = outcome(await world.claim_one(), status=DeliveryStatus.PENDING, due_at=world.clock.at + 5_000)
    await world.store.record_attempts([again])
    world.clock.forward(4.999)
    assert await world.claim() == []
    world.clock.forward(0.001)
    assert (await world.claim_one()).attempts == 1


async def test_no_lane_gets_more_than_its_room_nor_a_claim_more_than_its_limit(store_name: str, tmp_path: Path) -> None:
    async with opened(store_name, tmp_path, lanes(-10, -11)) as world:
        await tell(world, 6)
        room = {-10: 2, -11: 5}
        assert Counter(d.lane for d in await world.claim(room.__getitem__)) == room
        assert len(await world.claim(limit=3)) == 3
        assert await world.claim(limit=0) == []
        assert await world.claim(lambda lane: -1) == []


async def test_what_is_due_longest_comes_first_within_a_lane(store_name: str, tmp_path: Path) -> None:
    async with opened(store_name, tmp_path, lanes(-10)) as world:
        for _ in range(3):
            await tell(world, 1)
            world.clock.forward(1)
        taken = [(await world.claim(limit=1))[0].num for _ in range(3)]
        assert taken == sorted(taken)


async def test_a_lane_with_a_long_backlog_and_no_room_starves_no_other(store_name: str, tmp_path: Path) -> None:
    plan = lanes(-10)
    async with opened(store_name, tmp_path, plan) as world:
        await tell(world, 5_000)
        world.clock.forward(10)
        plan._targets = lambda announcement: [Target(endpoint=n, lane=n) for n in (-9, -11)]
        await tell(world, 3)
        claimed = await world.claim(lambda lane: 0 if lane == -10 else 8, limit=256)
        assert Counter(d.lane for d in claimed) == {-9: 3, -11: 3}


async def test_one_claim_is_shared_by_the_lanes_that_have_room(store_name: str, tmp_path: Path) -> None:
    """A lane with a backlog and room for all of a claim leaves the others their share, and takes what they leave."""
    plan = lanes(-10)
    async with opened(store_name, tmp_path, plan) as world:
        await tell(world, 500)
        plan._targets = lambda announcement: [Target(endpoint=n, lane=n) for n in (-9, -11, -12)]
        await tell(world, 2)
        assert Counter(d.lane for d in await world.claim(limit=4)) == {-9: 1, -10: 1, -11: 1, -12: 1}
        assert Counter(d.lane for d in await world.claim(limit=40)) == {-9: 1, -10: 37, -11: 1, -12: 1}
        assert Counter(d.lane for d in await world.claim(lambda lane: 5, limit=40)) == {-10: 5}


@pytest.mark.parametrize("healthy", [-6_000, -2_500, -1], ids=["before", "among", "behind"])
async def test_thousands_of_lanes_without_room_hide_none_that_has(
    store_name: str, tmp_path: Path, healthy: int
) -> None:
    numbers = [number for number in range(-5_002, -1) if number != healthy]
    async with opened(store_name, tmp_path, lanes(*numbers, healthy)) as world:
        await tell(world, 1)

        def room(lane: int) -> int:
            return 8 if lane == healthy else 0

        found = [d.lane for _ in range(3) for d in await world.claim(room)]
        assert found == [healthy]


async def test_lanes_with_nothing_due_yet_hide_none_that_has(store_name: str, tmp_path: Path) -> None:
    """A tick is a new process each time: it cannot go on where the last one stopped."""
    numbers = list(range(-1_002, -2))
    async with opened(store_name, tmp_path, lanes(*numbers, -2)) as world:
        await tell(world, 1)
        later = [
            outcome(d, status=DeliveryStatus.PENDING, due_at=world.clock.at + 3_600_000)
            for d in await world.claim(limit=10_000)
            if d.lane != -2
        ]
        await world.store.record_attempts(later)
    async with opened(store_name, tmp_path) as world:
        if not await world.store.recover_leases():  # other nodes may be running: what one of them held waits
            world.clock.forward(90)
        assert [d.lane for d in await world.claim()] == [-2]


async def test_more_lanes_with_nothing_due_than_a_claim_looks_at_delay_none_that_has(
    store_name: str, tmp_path: Path
) -> None:
    plan = lanes(*range(-6_002, -2))
    async with opened(store_name, tmp_path, plan) as world:
        await tell(world, 1)
        due = await world.claim(limit=10_000)
        due += await world.claim(limit=10_000)
        assert len(due) == 6_000
        later = world.clock.at + 3_600_000
        await world.store.record_attempts([outcome(d, status=DeliveryStatus.PENDING, due_at=later) for d in due])
    async with opened(store_name, tmp_path, lanes(-1, -2)) as world:  # a new node, whose turn begins at the first lane
        await tell(world, 1)
        assert sorted(d.lane for d in await world.claim()) == [-2, -1]


async def test_lanes_found_by_time_take_turns_too(store_name: str, tmp_path: Path) -> None:
    plan = lanes(*range(-402, -2))
    async with opened(store_name, tmp_path, plan) as world:
        await tell(world, 1)
        later = world.clock.at + 3_600_000
        due = await world.claim(limit=10_000)
        await world.store.record_attempts([outcome(d, status=DeliveryStatus.PENDING, due_at=later) for d in due])
    async with opened(store_name, tmp_path, lanes(-1, -2)) as world:
        await tell(world, 2)
        assert sorted([(await world.claim(limit=1))[0].lane for _ in range(2)]) == [-2, -1]


async def test_where_the_limit_is_short_lanes_take_turns(store_name: str, tmp_path: Path) -> None:
    async with opened(store_name, tmp_path, lanes(-10, -11, -12)) as world:
        await tell(world, 4)
        turns = [(await world.claim(limit=1))[0].lane for _ in range(12)]
        assert Counter(turns[:3]) == Counter(turns[3:6]) == Counter((-10, -11, -12))
        assert turns == turns[:3] * 4


async def test_turns_go_on_when_a_lane_comes_and_another_goes(store_name: str, tmp_path: Path) -> None:
    plan = lanes(-10, -12)
    async with opened(store_name, tmp_path, plan) as world:
        await tell(world, 2)
        first = (await world.claim(limit=1))[0].lane
        plan._targets = lambda announcement: [Target(endpoint=-11, lane=-11)]
        await tell(world, 1)
        rest = [(await world.claim(limit=1))[0].lane for _ in range(4)]
        assert sorted([first, *rest]) == [-12, -12, -11, -10, -10]
        assert await world.claim() == []


async def test_concurrent_claims_share_no_delivery(store_name: str, tmp_path: Path) -> None:
    async with opened(store_name, tmp_path, lanes(-10, -11, -12, -13)) as world:
        await tell(world, 20)
        claims = await asyncio.gather(*(world.claim(limit=9) for _ in range(12)))
        counted = Counter(d.num for claimed in claims for d in claimed)
        assert len(counted) == 80 and set(counted.values()) == {1}


@pytest.mark.parametrize("status", [EndpointStatus.PAUSED, EndpointStatus.DISABLED])
async def test_what_is_due_to_an_endpoint_that_takes_nothing_is_held(world: World, status: EndpointStatus) -> None:
    endpoint, other = await world.endpoint(), await world.endpoint()
    job = await world.processing()
    await world.change(endpoint, status=status)
    assert [d.endpoint for d in await world.claim()] == [other.num]
    (held,) = await world.store.deliveries(world.tenant, page(1), {"endpoint": endpoint.num})
    assert (held.status, held.due_at, held.finished_at) == (DeliveryStatus.HELD, None, None)
    world.clock.forward(7 * 86_400)
    assert endpoint.num not in [d.endpoint for d in await world.claim()]
    assert held.job_id == job.id


async def test_what_is_due_to_a_deleted_endpoint_is_canceled(world: World) -> None:
    endpoint = await world.endpoint()
    await world.processing()
    await world.change(endpoint, deleted=True)
    assert await world.claim() == []
    (gone,) = await world.store.deliveries(world.tenant, page(1), {})
    assert (gone.status, gone.due_at, gone.finished_at) == (DeliveryStatus.CANCELED, None, world.clock.at)


async def test_what_is_being_sent_to_an_endpoint_that_is_paused_now_is_left_to_its_sender(world: World) -> None:
    endpoint = await world.endpoint()
    await world.processing()
    sending = await world.claim_one()
    await world.change(endpoint, status=EndpointStatus.PAUSED)
    assert await world.claim() == []
    await world.store.record_attempts([outcome(sending)])
    assert await world.statuses() == [DeliveryStatus.DELIVERED]


async def test_a_backlog_of_a_paused_endpoint_is_held_however_long_it_is(store_name: str, tmp_path: Path) -> None:
    async with opened(store_name, tmp_path) as world:
        endpoint = await world.endpoint()
        for _ in range(3):
            batch = [await world.processing() for _ in range(2)]
            await world.store.apply([Arrival(job=job.num, fact=SUCCEEDED, source=Source.POLL) for job in batch])
        await world.change(endpoint, status=EndpointStatus.PAUSED)
        for _ in range(3):
            assert await world.claim(limit=2) == []
        assert set(await world.statuses()) == {DeliveryStatus.HELD}


async def test_the_operators_and_callback_lanes_are_no_endpoints(store_name: str, tmp_path: Path) -> None:
    async with opened(store_name, tmp_path, lanes(-1, -(1 << 55))) as world:
        await tell(world, 1)
        assert sorted(d.lane for d in await world.claim()) == [-(1 << 55), -1]
