"""Lanes by themselves: what is remembered of how many."""

import asyncio
from pathlib import Path

import pytest

from service.fleet import Fleet
from service.lanes import MOST_LANES, Lanes
from tests.stores.world import World, opened

pytestmark = pytest.mark.anyio
MANY = 3 * MOST_LANES


async def alone(world: World) -> Lanes:
    fleet = Fleet(clock=world.clock, node=1)
    await fleet.join(world.store)
    return Lanes(per_lane=16, total=256, clock=world.clock, sending=True, fleet=fleet)


def earn(lanes: Lanes, lane: int) -> None:
    """Two slots, as long as it is remembered."""
    lanes.learned(lane, well=True, answered=True)


async def test_of_any_number_of_lanes_so_many_are_remembered_those_that_were_used_last(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        lanes = await alone(world)
        for lane in range(MANY):
            world.clock.forward(0.001)
            earn(lanes, lane)
            earn(lanes, 7)  # is in use all the time
        remembered = [lane for lane in range(MANY) if lanes.room(lane) > 1]
        assert MOST_LANES // 2 < len(remembered) <= MOST_LANES
        assert remembered[0] == 7 and remembered[1:] == list(range(remembered[1], MANY))


async def test_what_is_under_way_is_remembered_for_as_long_as_it_takes(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        lanes, answered = await alone(world), asyncio.Event()
        earn(lanes, 1)

        async def attempt() -> None:
            await answered.wait()

        lanes.start(1, attempt(), promised=False)
        for lane in range(2, MANY):
            world.clock.forward(0.001)
            earn(lanes, lane)
        assert lanes.room(1) == 1, "of two slots"
        answered.set()
        await lanes.flying.drain(5)
