"""Outcomes that come together are written together, and what is due next is claimed in the same transaction."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service import providers
from service.app import Service, build
from service.crypto import generate_master_key
from service.models import Announcement
from service.settings import load
from service.views import event_body
from tests.stores import server
from tests.test_pipeline import receiving, status, until

pytestmark = pytest.mark.anyio

AT_A_TIME = 64


class Gate:
    """A subscriber that keeps all who ask until so many are there, and then lets them all go."""

    def __init__(self, most: int):
        self.most, self.waiting, self.rounds = most, 0, 0
        self._open = asyncio.Event()

    async def __call__(self, path: str) -> bytes:
        self.waiting += 1
        mine = self._open
        if self.waiting == self.most:
            self.waiting, self._open, self.rounds = 0, asyncio.Event(), self.rounds + 1
            mine.set()
        await mine.wait()
        return status(200)


@contextlib.asynccontextmanager
async def standing(database: str, **more: str) -> AsyncIterator[Service]:
    """A service whose loops do not run: a test takes the steps."""
    environment = {
        "CALLSHEET_DATABASE_URL": database,
        "CALLSHEET_MASTER_KEYS": generate_master_key(),
        "CALLSHEET_PUBLIC_URL": "http://127.0.0.1:1",
        "CALLSHEET_DELIVERY_CONCURRENCY": str(AT_A_TIME * 2),  # a lane that is not proven has half of the node
        "CALLSHEET_ENDPOINT_CONCURRENCY": "1",
        **more,
    }
    service = await build(load(environment, known_providers=providers.names()), role="api")
    try:
        await service.fleet.join(service.context.store)
        yield service
    finally:
        await service.close()


async def step(service: Service) -> bool:
    """One step of deliveries, by a node that counts among those of the database."""
    while not service.fleet.settled:
        await service.fleet.beat()
    return await service.context.delivery.step(60)


async def publish(service: Service, url: str, endpoints: int, events: int) -> None:
    context = service.context
    tenant = (await context.accounts.tenant("default")).num
    for n in range(endpoints):
        await context.endpoints.create(tenant, {"url": f"{url}/{n}"})
    said = Announcement(type="job.succeeded", body=event_body("job.succeeded", 0, {"id": "job"}), data={"id": "job"})
    for _ in range(events):
        await context.store.publish(tenant, said, None)


def statements(service: Service) -> int:
    store: Any = service.context.store
    return int(store._pool.statements)


async def test_what_ended_together_is_written_together_and_one_step_goes_on_by_itself(tmp_path: Path) -> None:
    gate, url = Gate(AT_A_TIME), await server.database(tmp_path)
    async with receiving(gate) as (receiver, taker), standing(url) as service:
        await publish(service, taker, AT_A_TIME, 3)
        delivery = service.context.delivery
        before = statements(service)
        await step(service)
        async with asyncio.timeout(30):
            while gate.rounds < 3 or delivery.flying:
                await delivery.flying.any_ended(1)
        spent = statements(service) - before
        assert receiver.arrivals.total() == AT_A_TIME * 3, "each round was claimed when the one before it was written"
        left = await service.context.store.backlog()
        assert left["deliveries"]["count"] == 0
        assert spent <= 0.5 * AT_A_TIME * 3, "one by one each takes six statements or more"


async def test_an_outcome_that_nothing_else_is_under_way_beside_waits_for_none(tmp_path: Path) -> None:
    gate = Gate(1)
    async with receiving(gate) as (receiver, taker), standing(f"sqlite:///{tmp_path}/x.db") as service:
        await publish(service, taker, 1, 1)
        await step(service)
        await until(lambda: not len(service.context.delivery.flying))
        assert receiver.arrivals.total() == 1
        assert (await service.context.store.backlog())["deliveries"]["count"] == 0


async def test_a_node_that_stops_writes_what_ended_and_claims_no_more(tmp_path: Path) -> None:
    gate = Gate(8)
    more = {"CALLSHEET_DELIVERY_CONCURRENCY": "16"}
    async with receiving(gate) as (receiver, taker), standing(f"sqlite:///{tmp_path}/x.db", **more) as service:
        await publish(service, taker, 8, 2)
        delivery = service.context.delivery
        await step(service)
        delivery.claim_no_more()  # as a stop while the step's deliveries are under way
        await until(lambda: gate.rounds >= 1 and not len(delivery.flying))
        assert receiver.arrivals.total() == 8
        assert (await service.context.store.backlog())["deliveries"]["count"] == 8
