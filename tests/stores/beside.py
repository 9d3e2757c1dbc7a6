"""A process beside the test's own: opens a database when told to, holds the lock, or writes until it is killed."""

import asyncio
import sys
from pathlib import Path

from service.clock import SystemClock
from service.facts import Accepted, Arrival, Begin
from service.states import Source
from service.stores import Store
from tests.stores.world import SUCCEEDED, ManualClock, Real, World, add_credential, open_named, page

WRITERS = 16


def say(text: str) -> None:
    print(text, flush=True)


async def open_when_told(path: Path) -> None:
    """Several of these, told together, migrate together."""
    say("ready")
    sys.stdin.readline()
    store = await _opened(path)
    say(f"nonce {store.nonce}")
    await store.close()


async def hold(path: Path) -> None:
    store = await _opened(path)
    store.own_loops("serve in a test")
    say("held")
    await asyncio.sleep(600)


async def write(path: Path) -> None:
    """Make jobs, end them, and print each only once the store has answered."""
    store = await _opened(path)
    tenant = await store.create_tenant("default", b"sealed")
    world = World(store, ManualClock(SystemClock().now()), tenant.num, await add_credential(store, tenant.num))
    if not await store.endpoints(tenant.num, page(1)):
        await world.endpoint(event_types=("job.succeeded",))
    say("ready")
    await asyncio.gather(*(_write(world) for _ in range(WRITERS)))


async def _write(world: World) -> None:
    while True:
        job = await world.queued()
        say(f"made {job.id}")
        facts = (Begin(), Accepted(provider_job_ids=(job.id,)))
        await world.store.apply([Arrival(job=job.num, fact=fact, source=Source.SUBMIT) for fact in facts])
        await world.tell(job, SUCCEEDED, Source.CALLBACK, dedupe_key=job.id)
        say(f"ended {job.id}")


async def _opened(path: Path) -> Store:
    return await open_named("sqlite", path, Real(), SystemClock())


if __name__ == "__main__":
    asyncio.run({"open": open_when_told, "hold": hold, "write": write}[sys.argv[1]](Path(sys.argv[2])))
