"""Which credentials may submit now: pauses, holds, running jobs, rates."""

from pathlib import Path

import pytest

from service.facts import NotNow
from service.gates import FIRST_HOLD_S, LONGEST_HOLD_S, Gates
from service.models import Credential
from service.settings import ProviderSettings
from tests.stores.world import World, opened

pytestmark = pytest.mark.anyio
MANY = 50


def free(num: int) -> int:
    return MANY


def some_gates(world: World, **given: object) -> Gates:
    credential = Credential(num=1, tenant=1, provider="peakmv", source="api", api_key="k", base_url="https://a.example")
    settings = {"peakmv": ProviderSettings(**given)}  # type: ignore[arg-type]
    return Gates(store=world.store, of={1: credential}.get, settings=settings, clock=world.clock)


async def test_an_open_gate_gives_what_is_free(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        assert some_gates(world).room(free)(1) == MANY
        assert some_gates(world).reason(1) is None


async def test_a_hold_closes_the_gate_then_lets_one_through_until_it_is_let_in(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates = some_gates(world)
        gates.refused(1, NotNow(reason="rate_limited", after_s=30.0, whole=True))
        assert (gates.room(free)(1), gates.reason(1)) == (0, "rate_limited")
        assert gates.room(free)(2) == MANY, "another credential is not held"
        world.clock.forward(30.001)
        assert (gates.room(free)(1), gates.reason(1)) == (1, None)
        gates.let_in(1)
        assert gates.room(free)(1) == MANY


async def test_without_a_time_named_holds_grow_to_a_minute(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates, waited = some_gates(world), []
        for _ in range(8):
            gates.refused(1, NotNow(reason="capacity", whole=True))
            seconds = 0.0
            while gates.room(free)(1) == 0:
                world.clock.forward(0.5)
                seconds += 0.5
            waited.append(seconds)
        assert waited[0] == FIRST_HOLD_S
        assert waited == sorted(waited)
        assert waited[-1] == LONGEST_HOLD_S


async def test_a_hold_is_never_made_shorter(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates = some_gates(world)
        gates.refused(1, NotNow(reason="rate_limited", after_s=60.0, whole=True))
        gates.refused(1, NotNow(reason="rate_limited", after_s=1.0, whole=True))
        world.clock.forward(59.0)
        assert gates.room(free)(1) == 0


async def test_as_many_run_as_the_setting_allows(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates = some_gates(world, concurrency=2)
        assert gates.room(free)(1) == 0, "nothing starts before it was counted"
        await gates.refresh(now=True)
        assert gates.room(free)(1) == 2
        gates.started(1)
        assert gates.room(free)(1) == 1
        gates.started(1)
        assert (gates.room(free)(1), gates.reason(1)) == (0, "concurrency")
        gates.answered(1)
        gates.answered(1)
        await gates.refresh(now=True)
        assert gates.room(free)(1) == 2, "the database says that none runs"


async def test_a_rate_is_kept(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates = some_gates(world, rate=2.0)
        assert gates.room(free)(1) == 2
        gates.started(1)
        gates.started(1)
        assert gates.room(free)(1) == 0
        world.clock.forward(0.5)
        assert gates.room(free)(1) == 1
