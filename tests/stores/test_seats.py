"""Seats: each is one node's at a time, for as long as that is heard of."""

import pytest

from service.stores import SEATS
from tests.stores.world import World

pytestmark = pytest.mark.anyio

TERM_MS, PROVING_MS = 5_000, 3_000


async def beat(world: World, node: int, giving: list[int] | None = None) -> tuple[int, int, int]:
    """How many seats it holds now, how many nodes there are, how many of them are proven."""
    held = await world.store.beat(node, giving or [], TERM_MS, PROVING_MS)
    assert held is not None
    return len(held.seats), held.nodes, held.proven


async def test_seats_go_to_who_is_there_and_come_back_from_who_is_not(world: World, store_name: str) -> None:
    if store_name == "sqlite":
        assert await world.store.beat(1, [], TERM_MS, PROVING_MS) is None and await world.store.nodes(TERM_MS) is None
        await world.store.leave(1)
        return
    assert await beat(world, 1) == (SEATS, 1, 1)
    assert (await beat(world, 2))[:2] == (0, 2)
    world.clock.forward(3)
    await beat(world, 2)
    assert await beat(world, 1) == (SEATS, 2, 2)
    assert await beat(world, 1, list(range(32))) == (32, 2, 2)
    assert await beat(world, 2) == (32, 2, 2), "its part, and no more"
    world.clock.forward(4.9)
    assert await beat(world, 2) == (32, 2, 2)
    world.clock.forward(0.1)
    assert (await beat(world, 2))[0] == SEATS, "the first was not heard of for its term"
    assert (await beat(world, 1))[0] == 0
    await world.store.leave(2)
    assert (await beat(world, 1))[0] == SEATS
