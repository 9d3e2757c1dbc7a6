"""The database crashes under three nodes at work, again and again: what was accepted is kept, and paid for once.

CALLSHEET_CRASH_CYCLES says how often; the server's own log proves that each start recovered from a crash.
"""

import asyncio
import os
import random
import time

import pytest

from tests.kill.fleet import Fleet, checked, running

pytestmark = [pytest.mark.anyio, pytest.mark.kill, pytest.mark.xdist_group("kill")]

CYCLES = int(os.environ.get("CALLSHEET_CRASH_CYCLES", "3"))
A_JOB_EACH_S = 0.1
BACK_WITHIN_S = 3.0
ROOM = 3  # times that, for a machine that does other work as well


async def one_crash(fleet: Fleet, chance: random.Random) -> float:
    """Seconds from when the database takes connections until the first job is accepted."""
    await asyncio.sleep(chance.uniform(0.8, 2.5))
    await asyncio.to_thread(fleet.server.crash)
    await asyncio.sleep(0.3)  # answers that were on their way arrive
    down = time.time()
    await asyncio.sleep(chance.uniform(0, 1.5))
    assert not [at for at in fleet.at if at > down], "a job was accepted while there was no database"
    await asyncio.to_thread(fleet.server.start)
    up = time.time()
    while not (after := [at for at in fleet.at if at > down]):
        assert time.time() < up + BACK_WITHIN_S * ROOM, "nothing is accepted though the database is back"
        await asyncio.sleep(0.01)
    return max(0.0, after[0] - fleet.server.up_at)


async def test_a_database_that_crashes_under_load_loses_nothing_that_was_accepted() -> None:
    chance, waits = random.Random(17), []
    async with running("all", "all", "all") as fleet:
        async with fleet.loaded(fleet.nodes, A_JOB_EACH_S):
            for _ in range(CYCLES):
                waits.append(await one_crash(fleet, chance))
            await asyncio.sleep(1)
        await fleet.clear_faults()
        left = await fleet.orphaned()
        await fleet.end_leases()
        await fleet.start_all()
        again = await checked(fleet, 120)
        print(f"crashes {fleet.server.recoveries}, leases of nobody {left}, taken more than once {again.total()}")
        print(f"first accepted after {sorted(waits)[len(waits) // 2]:.2f} s (median), {max(waits):.2f} s (most)")
        assert fleet.server.recoveries == CYCLES
        assert fleet.count_said("cannot be used now") > 0, "no node noticed"
        assert fleet.count_said("could not be submitted") == 0, "a database that is away is no fault of a job"
