"""The stores beside each other: jobs accepted, callbacks applied, deliveries claimed and recorded. fsync is on."""

import asyncio
import itertools
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from service.facts import Accepted, Arrival, Begin
from service.states import Source
from service.stores.sqlite import open_store as open_sqlite
from tests.stores import server
from tests.stores.world import SUCCEEDED, ManualClock, Real, World, a_callback, a_job, add_credential, new, outcome

JOBS, CALLERS, ROUNDS = 3_000, 64, 3
CLAIM = 256


async def from_callers(items: Sequence[Any], call: Callable[[Any], Awaitable[Any]]) -> float:
    """Items each second, with so many callers at a time, each with one item."""
    rest, began = iter(items), time.perf_counter()

    async def caller() -> None:
        for item in rest:
            await call(item)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return len(items) / (time.perf_counter() - began)


async def measure(store: Any) -> dict[str, float]:
    tenant = await store.create_tenant("default", b"sealed")
    world = World(store, ManualClock(), tenant.num, await add_credential(store, tenant.num))
    await world.endpoint(event_types=("job.succeeded",))
    made: list[Any] = []

    async def create(item: Any) -> None:
        made.extend(await store.create_jobs([item]))

    found = {"jobs/s": await from_callers([new(a_job(tenant.num, world.credential)) for _ in range(JOBS)], create)}
    numbers = itertools.count(1)
    for start in range(0, JOBS, 500):
        arrivals = [
            Arrival(job=one.job.num, fact=fact, source=Source.SUBMIT)
            for one in made[start : start + 500]
            for fact in (Begin(), Accepted(provider_job_ids=(str(next(numbers)),)))
        ]
        await store.apply(arrivals)
    facts = [
        Arrival(
            job=one.job.num, fact=SUCCEEDED, source=Source.CALLBACK, dedupe_key="k", callback=a_callback(b"x" * 1000)
        )
        for one in made
    ]
    found["callbacks/s"] = await from_callers(facts, lambda fact: store.apply([fact]))
    before, began, sent = getattr(getattr(store, "_pool", None), "statements", 0), time.perf_counter(), 0
    while due := await world.claim(limit=CLAIM):
        await asyncio.gather(*(store.record_attempts([outcome(one)]) for one in due))
        sent += len(due)
    assert sent == JOBS, sent
    found["deliveries/s"] = sent / (time.perf_counter() - began)
    found["statements per delivery"] = (getattr(getattr(store, "_pool", None), "statements", 0) - before) / sent
    return found


async def main() -> None:
    from service.stores.postgres import open_store as open_postgres

    rounds: dict[str, list[dict[str, float]]] = {"sqlite": [], "postgres": []}
    for _ in range(ROUNDS):
        folder = Path(tempfile.mkdtemp())
        opened = {
            "sqlite": await open_sqlite(f"sqlite:///{folder}/x.db", plan=Real(), clock=ManualClock()),
            "postgres": await open_postgres(
                await server.database(folder), plan=Real(), clock=ManualClock(), ask_time=False
            ),
        }
        for name, store in opened.items():
            rounds[name].append(await measure(store))
            await store.close()
        shutil.rmtree(folder)
    for figure in rounds["sqlite"][0]:
        shown = {name: sorted(one[figure] for one in found) for name, found in rounds.items()}
        print(
            figure,
            {
                name: " ".join(f"{value:,.3g}" if value < 10 else f"{value:,.0f}" for value in values)
                for name, values in shown.items()
            },
        )


if __name__ == "__main__":
    server.QUICK = ("max_connections = 50", "shared_buffers = 256MB")
    uvloop.run(main())
