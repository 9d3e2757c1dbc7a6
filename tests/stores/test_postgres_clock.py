"""The database's time, told from memory: how far off it may be, and for how long."""

import asyncio
from pathlib import Path

import pytest

from service.clock import SystemClock
from service.errors import StoreUnavailable
from service.stores.postgres_clock import REREAD_S, DatabaseClock
from service.stores.postgres_pool import Times
from tests.stores import server
from tests.stores.test_postgres import aside, node
from tests.stores.world import START, ManualClock

pytestmark = pytest.mark.anyio
THERE = START + 86_400_000  # the database's time when a test begins


class Apart:
    """A database a day ahead, with a line that takes its time on the way there and back; and its clock as told here."""

    def __init__(self) -> None:
        self.here = ManualClock()
        self.told = DatabaseClock(self.here)

    @property
    def off(self) -> int:
        """By how many milliseconds what is told is ahead."""
        return self.told.now() - (self.here.at + THERE - START)

    def ask(self, there: float, back: float) -> None:
        asked = self.here.monotonic()
        self.here.forward(there)
        at = self.here.at + THERE - START
        self.here.forward(back)
        self.told.learn(at, asked)


def test_the_given_clock_is_believed_until_the_database_is_heard() -> None:
    apart = Apart()
    assert apart.told.now() == START
    apart.ask(0, 0)
    assert apart.off in (0, 1)


def test_a_slow_answer_takes_nothing_from_what_a_quick_one_said() -> None:
    apart = Apart()
    apart.ask(0.001, 0.002)
    for there, back in ((0, 40), (40, 0), (3, 5)):
        apart.ask(there, back)
        assert abs(apart.off) <= 3


@pytest.mark.parametrize("step_s", [-3_600, 3_600])
def test_a_clock_that_was_set_is_followed(step_s: int) -> None:
    apart = Apart()
    apart.ask(0.001, 0.001)
    apart.here.at += step_s * 1_000  # there, that is: nothing here looks at it
    assert apart.off == pytest.approx(-step_s * 1_000, abs=3)
    apart.ask(0.001, 0.001)
    assert abs(apart.off) <= 2


async def test_it_goes_on_while_a_transaction_waits(tmp_path: Path) -> None:
    url, clock = await server.database(tmp_path), ManualClock()
    async with node(url, clock, ask_time=True) as world, aside(url) as other:
        endpoint = await world.endpoint()
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT FROM endpoints FOR UPDATE")
        changing = asyncio.create_task(world.change(endpoint, disabled_reason="x"))
        async with asyncio.timeout(30):
            while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - theirs
                await asyncio.sleep(0.02)
        before, frozen = world.store.clock.now(), world.store.now()
        clock.forward(20)
        assert world.store.clock.now() == before + 20_000
        assert world.store.now() == frozen
        await transaction.rollback()
        await changing


async def test_a_node_that_writes_nothing_asks_again(tmp_path: Path) -> None:
    clock = ManualClock()
    async with node(await server.database(tmp_path), clock, ask_time=True) as world:
        assert _seconds_off(world.store.clock.now()) < 10
        clock.forward(3_600)
        assert _seconds_off(world.store.clock.now()) > 3_500
        async with asyncio.timeout(REREAD_S + 30):
            while _seconds_off(world.store.clock.now()) > 10:  # noqa: ASYNC110 - of what the node does by itself
                await asyncio.sleep(0.1)


async def test_it_asks_on_after_the_server_ended_its_connections(tmp_path: Path) -> None:
    url, clock = await server.database(tmp_path), ManualClock()
    async with node(url, clock, ask_time=True) as world, aside(url) as other:
        sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        ended = await other.fetch(f"{sql} AND pid <> pg_backend_pid()")
        assert ended
        clock.forward(3_600)
        async with asyncio.timeout(6 * REREAD_S):
            while _seconds_off(world.store.clock.now()) > 20:  # noqa: ASYNC110 - of what the node does by itself
                await asyncio.sleep(0.1)


async def test_it_asks_on_after_no_connection_was_to_be_had(tmp_path: Path) -> None:
    url, clock = await server.database(tmp_path), ManualClock()
    async with node(f"{url}&pool=3", clock, ask_time=True, times=Times(wait=0)) as world:
        pool = world.store._pool
        clock.forward(3_600)
        async with pool._lent(), pool._lent():  # and the other one is the writer's
            await asyncio.sleep(REREAD_S)  # by now it asks
            with pytest.raises(StoreUnavailable, match="no connection"):
                async with pool.beside():
                    pass
            await asyncio.sleep(0.5)
            assert _seconds_off(world.store.clock.now()) > 3_500
        async with asyncio.timeout(3 * REREAD_S):
            while _seconds_off(world.store.clock.now()) > 20:  # noqa: ASYNC110 - of what the node does by itself
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("asks", [True, False])
async def test_the_given_clock_is_the_stores_where_it_is_told_not_to_ask(asks: bool, tmp_path: Path) -> None:
    clock = ManualClock()
    async with node(await server.database(tmp_path), clock, ask_time=asks) as world:
        assert (world.store.clock.now() == clock.now()) is not asks
        assert world.store.clock.monotonic() == clock.monotonic()


def _seconds_off(told: int) -> float:
    return abs(told - SystemClock().now()) / 1_000
