"""Four workers killed with SIGKILL and started again at random, one node that only answers: the same promises.

CALLSHEET_WORKERS_S says for how long.
"""

import asyncio
import collections
import os
import random
import signal
import time

import psutil
import pytest

from tests.kill.fleet import Fleet, Node, checked, running

pytestmark = [pytest.mark.anyio, pytest.mark.kill, pytest.mark.xdist_group("kill")]

SECONDS = float(os.environ.get("CALLSHEET_WORKERS_S", "15"))
A_JOB_EACH_S = 0.1
POSTS_AT_A_TIME = 16  # for one credential, unless set


async def kill(fleet: Fleet, node: Node) -> set[tuple[str, int]]:
    """What was leased, as (event, lease), when the node stopped for good: it could not be sending anything else."""
    process = psutil.Process(node.process.pid)
    process.suspend()
    while process.status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.001)
    leased = await fleet.in_flight()
    process.kill()
    assert await node.process.wait() == -signal.SIGKILL
    return leased


async def kill_and_start(fleet: Fleet, chance: random.Random) -> tuple[int, collections.Counter[str]]:
    """How many kills, and how many times each event was being sent at one of them."""
    kills, flying = 0, set[tuple[str, int]]()
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        await asyncio.sleep(chance.uniform(0.3, 1.5))
        node = chance.choice(fleet.nodes[1:])
        flying.update(await kill(fleet, node))
        kills += 1
        await asyncio.sleep(chance.uniform(0, 0.5))
        await fleet.start_node(node)
    return kills, collections.Counter(event for event, _ in flying)


async def test_workers_killed_at_random_lose_nothing_and_send_twice_only_what_was_in_flight() -> None:
    async with running("api", "worker", "worker", "worker", "worker") as fleet:
        await fleet.ask("PUT", f"{fleet.subscriber}/_behaviour", json={"delay_s": 0.3})
        async with fleet.loaded(fleet.nodes[:1], A_JOB_EACH_S):
            kills, flying = await kill_and_start(fleet, random.Random(23))
        await fleet.clear_faults()
        left = await fleet.orphaned()
        await fleet.end_leases()
        await fleet.start_all()
        fleet.may_be_unsent = kills * POSTS_AT_A_TIME
        again = await checked(fleet, 120)
        print(f"kills {kills}, leases of the killed {left}, in flight at the kills {flying.total()}")
        print(f"taken more than once {again.total()}")
        assert kills > 2 and flying, "no kill met anything that was being sent"
        assert not again - flying, "sent twice though no kill left it in flight"
