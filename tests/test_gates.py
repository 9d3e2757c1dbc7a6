"""Which credentials may submit now: pauses, holds, running jobs, rates."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from service.facts import NotNow
from service.fleet import Fleet
from service.gates import FIRST_HOLD_S, LONGEST_HOLD_S, ON_TRIAL, REREAD_S, Gates, Sent
from service.in_flight import InFlight
from service.models import Credential
from service.retries import MAX_HOLD_S
from service.settings import ProviderSettings
from tests.stores.world import World, opened, said

pytestmark = pytest.mark.anyio
MANY = 50
ONE = Credential(num=1, tenant=1, provider="peakmv", source="api", api_key="k", base_url="https://a.example")


def free(num: int) -> int:
    return MANY


async def some_gates(world: World, **given: object) -> Gates:
    settings = {"peakmv": ProviderSettings(**given)}  # type: ignore[arg-type]
    fleet = Fleet(clock=world.clock, node=1)
    await fleet.join(world.store)
    return Gates(store=world.store, fleet=fleet, of={1: ONE}.get, settings=settings, clock=world.clock)


async def test_an_open_gate_gives_what_is_free(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        assert (await some_gates(world)).room(free)(1) == MANY
        assert (await some_gates(world)).reason(1) is None


async def test_a_hold_closes_the_gate_then_lets_one_through_until_it_is_let_in(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates = await some_gates(world)
        gates.refused(1, NotNow(reason="rate_limited", after_s=30.0, whole=True))
        assert (gates.room(free)(1), gates.reason(1)) == (0, "rate_limited")
        assert gates.room(free)(2) == MANY, "another credential is not held"
        world.clock.forward(30.001)
        assert (gates.room(free)(1), gates.reason(1)) == (1, None)
        gates.let_in(1)
        assert gates.room(free)(1) == MANY


async def test_without_a_time_named_holds_grow_to_a_minute(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates, waited = await some_gates(world), []
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


@pytest.mark.parametrize("named", [901.0, 86_400_000.0, 999_999_999.0, float("inf")])
async def test_no_provider_holds_a_credential_longer_than_a_quarter_of_an_hour(named: float, tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates = await some_gates(world)
        gates.refused(1, NotNow(reason="rate_limited", after_s=named, whole=True))
        world.clock.forward(MAX_HOLD_S - 1)
        assert gates.room(free)(1) == 0
        world.clock.forward(1.001)
        assert gates.room(free)(1) == 1


@pytest.mark.parametrize("named", [None, 0.0, -5.0, float("nan")])
async def test_a_wait_that_is_none_holds_as_long_as_our_own(named: float | None, tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates = await some_gates(world)
        gates.refused(1, NotNow(reason="rate_limited", after_s=named, whole=True))
        world.clock.forward(FIRST_HOLD_S + 0.001)
        assert gates.room(free)(1) == 1


async def test_a_resume_ends_a_hold_of_every_process_and_lets_one_try(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates, elsewhere = await some_gates(world), await some_gates(world)
        for each in (gates, elsewhere):
            each.refused(world.credential, NotNow(reason="rate_limited", after_s=900.0, whole=True))
        await world.store.resume_credential(world.credential)
        world.clock.forward(REREAD_S)
        for each in (gates, elsewhere):
            await each.refresh()
            assert each.room(free)(world.credential) == 1
            assert each.reason(world.credential) == ON_TRIAL
        elsewhere.refused(world.credential, NotNow(reason="rate_limited", after_s=900.0, whole=True))
        world.clock.forward(REREAD_S)
        await elsewhere.refresh()
        assert elsewhere.room(free)(world.credential) == 0, "the same resume ends no later hold"


async def test_one_at_a_time_tries_a_credential_until_one_is_accepted(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates, num = await some_gates(world), world.credential
        assert not gates.claimed(num).probe, "nothing was wrong"
        gates.answered(num)
        await world.store.resume_credential(num)
        await gates.refresh(now=True)
        assert gates.room(free)(num) == 1
        world.clock.at -= 3_600_000  # the wall clock steps back
        assert gates.claimed(num) == Sent(at=world.clock.at + 3_600_000, probe=True)
        world.clock.at += 3_600_000
        assert gates.room(free)(num) == 0, "its answer is awaited"
        gates.answered(num)
        assert gates.room(free)(num) == 1, "it told nothing: the next one tries"
        assert await world.store.prove_credential(num, world.clock.at)
        await gates.refresh(now=True)
        assert (gates.room(free)(num), gates.reason(num)) == (MANY, None)


async def test_another_process_finds_the_trial_that_one_left_behind(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates, num = await some_gates(world), world.credential
        await world.store.resume_credential(num)
        await gates.refresh(now=True)
        gates.claimed(num)  # and it dies, with its probe under way
        after = await some_gates(world)
        await after.refresh()
        assert (after.room(free)(num), after.claimed(num).probe) == (1, True)


async def test_only_the_node_that_owns_a_credential_tries_it(tmp_path: Path) -> None:
    async with opened("postgres", tmp_path) as world:
        fleets = [Fleet(clock=world.clock, node=node) for node in (1, 2)]
        for fleet in fleets:
            await fleet.join(world.store)
        for _ in range(5):  # until the seats are shared
            world.clock.forward(1.0)
            for fleet in fleets:
                await fleet.beat()
        credential = replace(ONE, num=world.credential)
        both = [
            Gates(store=world.store, fleet=fleet, of={credential.num: credential}.get, settings={}, clock=world.clock)
            for fleet in fleets
        ]
        assert [gates.room(free)(credential.num) for gates in both] == [MANY, MANY]
        await world.store.resume_credential(credential.num)
        for gates in both:
            await gates.refresh(now=True)
        assert sorted(gates.room(free)(credential.num) for gates in both) == [0, 1]
        owner = next(n for n, fleet in enumerate(fleets) if fleet.owns(credential.num))
        for _ in range(8):  # the owner is killed: it beats no more
            world.clock.forward(1.0)
            await fleets[1 - owner].beat()
        assert both[1 - owner].room(free)(credential.num) == 1, "its turn is not lost with it"


async def test_a_credential_that_is_being_paused_lets_nothing_through(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates = await some_gates(world)
        with gates.closed(1):
            await gates.refresh(now=True)
            assert (gates.room(free)(1), gates.room(free)(2)) == (0, MANY)
        assert gates.room(free)(1) == MANY


async def test_a_hold_is_never_made_shorter(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates = await some_gates(world)
        gates.refused(1, NotNow(reason="rate_limited", after_s=60.0, whole=True))
        gates.refused(1, NotNow(reason="rate_limited", after_s=1.0, whole=True))
        world.clock.forward(59.0)
        assert gates.room(free)(1) == 0


async def test_as_many_run_as_the_setting_allows(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates = await some_gates(world, concurrency=2)
        assert gates.room(free)(1) == 0, "nothing starts before it was counted"
        await gates.refresh(now=True)
        assert gates.room(free)(1) == 2
        gates.claimed(1)
        assert gates.room(free)(1) == 1
        gates.claimed(1)
        assert (gates.room(free)(1), gates.reason(1)) == (0, "concurrency")
        gates.answered(1)
        gates.answered(1)
        await gates.refresh(now=True)
        assert gates.room(free)(1) == 2, "the database says that none runs"


async def test_a_rate_is_kept(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates = await some_gates(world, rate=2.0)
        assert gates.room(free)(1) == 2
        gates.claimed(1)
        gates.claimed(1)
        assert (gates.room(free)(1), gates.reason(1)) == (0, "rate")
        world.clock.forward(0.5)
        assert gates.room(free)(1) == 1


async def test_one_asks_for_all_while_a_hold_is_tried(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates = await some_gates(world)
        gates.refused(1, NotNow(reason="capacity", whole=True))
        world.clock.forward(FIRST_HOLD_S)
        gates.claimed(1)
        assert (gates.room(free)(1), gates.reason(1)) == (0, "capacity"), "the one that asks has no answer yet"
        gates.answered(1)
        assert gates.room(free)(1) == 1


async def test_submits_that_had_left_together_are_refused_once_and_open_nothing(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates = await some_gates(world)
        for _ in range(16):
            gates.refused(1, NotNow(reason="capacity", whole=True))
        gates.let_in(1)
        assert gates.room(free)(1) == 0
        world.clock.forward(FIRST_HOLD_S)
        assert gates.room(free)(1) == 1


async def test_what_goes_through_unqueued_takes_from_the_rate_and_closes_no_gate(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates = await some_gates(world, concurrency=2, rate=2.0)
        gates.room(free)(1)
        await gates.refresh(now=True)
        gates.started(1)  # its row is there already, and is counted
        assert gates.room(free)(1) == 1, "of the rate"
        world.clock.forward(10)
        assert gates.room(free)(1) == 2, "nothing more will be heard of it"


async def test_paused_credentials_take_no_room_from_others_of_their_provider(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        gates = await some_gates(world)
        flying = InFlight(per_key=16, total=32, group_of=lambda num: "peakmv")
        for num in (1, 2):
            gates.refused(num, NotNow(reason="capacity", whole=True))
        room = gates.room(flying.rooms())
        assert [room(num) for num in (1, 2, 3)] == [0, 0, 16]


async def test_who_does_not_submit_for_a_credential_says_what_it_waits_for_all_the_same(tmp_path: Path) -> None:
    async with opened("postgres", tmp_path) as world:
        credential = Credential(
            num=world.credential, tenant=1, provider="pixverse", source="api", api_key="k", base_url="https://a.example"
        )
        elsewhere = Gates(
            store=world.store,
            fleet=Fleet(clock=world.clock, node=1),  # it never joined
            of={world.credential: credential}.get,
            settings={"pixverse": ProviderSettings(concurrency=1)},
            clock=world.clock,
        )
        assert await elsewhere.explain(world.credential) is None
        await world.processing()
        assert await elsewhere.explain(world.credential) == "concurrency"
        await world.store.pause_credential(credential, "out_of_credit", said("credential.paused"), world.clock.at)
        world.clock.forward(2)
        assert await elsewhere.explain(world.credential) == "credential_paused: out_of_credit"


@pytest.mark.parametrize(
    ("running", "fact", "held"),
    [
        (0, NotNow(reason="capacity", whole=True, while_running=True), False),
        (1, NotNow(reason="capacity", whole=True, while_running=True), True),
        (3, NotNow(reason="capacity", whole=True, while_running=True), True),
        (0, NotNow(reason="capacity", whole=True), True),
        (1, NotNow(reason="provider_error"), False),
    ],
)
async def test_a_limit_on_what_runs_holds_a_credential_only_while_something_runs(
    running: int, fact: NotNow, held: bool, tmp_path: Path
) -> None:
    """With nothing of ours at the provider it is about that one submit, which its own pause keeps back."""
    async with opened("sqlite", tmp_path) as world:
        gates, num = await some_gates(world), world.credential
        for _ in range(running):
            await world.processing()
        await gates.told(num, fact)
        assert gates.room(free)(num) == (0 if held else MANY)
