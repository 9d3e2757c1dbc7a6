"""Pruning: each retention is its own setting, on the real database."""

from pathlib import Path

import pytest

from service.facts import Begin, Unknown
from service.pruning import Pruning
from service.settings import load
from service.states import CallbackVerdict, DeliveryStatus, EndpointStatus, JobStatus, Source
from tests.stores.world import SUCCEEDED, World, a_callback, opened, outcome, page

pytestmark = pytest.mark.anyio
DAY_S = 86_400


def pruning(world: World, **days: str) -> Pruning:
    given = {f"CALLSHEET_RETENTION_{name}_DAYS": value for name, value in days.items()}
    return Pruning(store=world.store, settings=load(given), clock=world.clock)


async def everything(world: World) -> dict[str, int]:
    """How many of each kind there are."""
    tables = {table.name: table.rows for table in (await world.store.storage()).tables}
    held = (await world.statuses()).count(DeliveryStatus.HELD)
    return {name: tables[name] for name in ("attempts", "callbacks", "jobs", "events")} | {"held": held}


async def furnish(world: World) -> None:
    """One of each kind, and a job whose outcome nobody knows."""
    await world.endpoint(event_types=("job.processing",))
    await world.endpoint(event_types=("job.succeeded",), status=EndpointStatus.PAUSED)
    job = await world.processing()
    await world.tell(job, SUCCEEDED, Source.CALLBACK, callback=a_callback(), dedupe_key="d")
    await world.store.record_rejected(a_callback(verdict=CallbackVerdict.REJECTED), 20)
    lost = await world.queued(provider="peakmv", operation="generate")
    await world.tell(lost, Begin(), Source.SUBMIT)
    await world.tell(lost, Unknown(reason="the reply was lost"))
    await world.store.record_attempts([outcome(due) for due in await world.claim()])


@pytest.mark.parametrize("setting", ["attempts", "callbacks", "held", "jobs"])
async def test_each_kind_goes_by_its_own_setting(setting: str, tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        await furnish(world)
        before = await everything(world)
        assert before == {"attempts": 1, "callbacks": 2, "jobs": 2, "events": 3, "held": 1}
        world.clock.forward(3 * DAY_S)
        long = dict.fromkeys(("ATTEMPTS", "CALLBACKS", "HELD", "JOBS"), "365")
        stage = pruning(world, **{**long, setting.upper(): "2"})
        assert await stage.step(10) is (setting != "jobs")  # the one that ended waits for what is held
        gone = {name for name, count in (await everything(world)).items() if count < before[name]}
        assert gone == {setting} - {"jobs"}


async def test_by_default_30_days_and_90_and_what_is_unknown_stays(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        await furnish(world)
        counts = []
        for days in (29, 2, 58, 2, 3_650):
            world.clock.forward(days * DAY_S)
            await pruning(world).step(10)
            counts.append(tuple((await everything(world)).values()))
        #                   attempts, callbacks, jobs, events, held
        assert counts[:2] == [(1, 2, 2, 3, 1), (0, 0, 2, 3, 0)]
        assert counts[2:] == [(0, 0, 2, 3, 0), (0, 0, 1, 1, 0), (0, 0, 1, 1, 0)]
        (left,) = [job.status for job in await world.store.jobs(world.tenant, page(), {})]
        assert left is JobStatus.UNKNOWN
