"""The roster of nodes: who says what, who still counts, who was there for long enough."""

import pytest

from tests.stores.world import World

pytestmark = pytest.mark.anyio

TERM_MS, PROVING_MS = 5_000, 3_000


async def beat(world: World, node: int, view: int) -> dict[int, tuple[int, bool]] | None:
    roster = await world.store.beat(node, view, TERM_MS, PROVING_MS)
    return None if roster is None else {peer.node: (peer.view, peer.proven) for peer in roster}


async def test_each_sees_what_all_who_count_said_last(world: World, store_name: str) -> None:
    if store_name == "sqlite":
        assert await beat(world, 1, 0) is None and await world.store.nodes(TERM_MS) is None
        await world.store.leave(1)
        return
    assert await beat(world, 1, 0) == {1: (0, False)}
    assert await beat(world, 2, 7) == {1: (0, False), 2: (7, False)}
    world.clock.forward(3)
    assert await beat(world, 1, 8) == {1: (8, True), 2: (7, False)}, "the other was there, but is it still?"
    assert await beat(world, 2, 8) == {1: (8, True), 2: (8, True)}
    world.clock.forward(5)
    assert await beat(world, 2, 8) == {2: (8, True)}, "the other was not heard of for its term"
    assert await beat(world, 1, 0) == {1: (0, False), 2: (8, True)}, "who says 0 begins anew"
    await world.store.leave(2)
    assert await beat(world, 1, 9) == {1: (9, False)}
