"""The composition root: settings -> store, egress, providers, stages. Only here is anything constructed."""

import asyncio
import contextlib
import random as system_random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

from service import addresses, providers
from service.accounts import Accounts
from service.clock import Clock, SystemClock
from service.conversation import LEASE_MS
from service.egress import Egress
from service.endpoints import FanOut
from service.errors import StoreUnavailable
from service.fleet import Fleet
from service.ids import new_correlation, new_token
from service.lanes import Lanes
from service.links import stable_links
from service.models import Job
from service.own_requests import OwnRequests
from service.providers import Operation, Provider
from service.restoring import settle_copy
from service.sealed import Sealed
from service.settings import Settings, load_vault
from service.stores import Offer, Plan, Store, open_store
from service.transitions import Rules
from service.web.context import Context
from service.wiring import Parts

OpenStore = Callable[..., Any]
MakeEgress = Callable[..., Egress]
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
STOP_S = 20.0  # for what is under way, of the 25 s that a stop may take
GIVE_BACK_S, CLOSE_S = 2.5, 1.0  # for the database to answer, after that


class Planning:
    """What the store asks inside its transactions: the rules for jobs, the fan-out for events."""

    def __init__(self, rules: Rules, fan_out: FanOut):
        self.decide = rules.decide
        self.targets = fan_out.targets
        self.offer: Callable[[], Offer] = fan_out.offer


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process of the service. `context` is what requests use."""

    context: Context
    egress: Egress
    fleet: Fleet
    restored: int | None = None  # jobs of a copy that became `unknown` at this start

    async def settle_copy(self) -> int | None:
        """Where the database is a copy, first of all: nothing of it is sent again. How many jobs; None where it is not.

        Raises `StoreUnavailable`.
        """
        return await settle_copy(self.context.store, self.context.transitions, self.context.clock.now())

    def leave(self) -> None:
        """The stop begins: nothing more is claimed, whoever waits is answered, `/ready` says no."""
        self.context.delivery.claim_no_more()
        self.context.waiting.release()
        self.context.loops.leave()

    async def close(self) -> None:
        """Finish what is under way, then close connections and the database; within `STOP_S` of `leave`."""
        self.leave()
        left = self.context.loops.left(STOP_S)
        await asyncio.gather(self.context.loops.stop(left), self.context.passthrough.drain(left))
        await self.egress.close()
        # A database that does not answer keeps the leases until they end.
        for last, seconds in ((self._give_back, GIVE_BACK_S), (self.context.store.close, CLOSE_S)):
            with contextlib.suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(seconds):
                    await last()

    async def _give_back(self) -> None:
        await self.context.store.release_leases()
        await self.fleet.leave()


async def build(
    settings: Settings,
    *,
    role: str = "all",
    clock: Clock | None = None,
    random: Callable[[], float] = system_random.random,
    make_egress: MakeEgress = Egress,
    open_database: OpenStore = open_store,
    wrap_plan: Callable[[Plan], Plan] = lambda plan: plan,
    own_loops: bool = True,
    lease_ms: int = LEASE_MS,
) -> Service:
    """Everything of one process, ready but with no loop running. `role` is all, api or worker.

    The other arguments are seams for tests. Stages have the store's clock; what is made before it measures spans alone.
    Raises `SettingsError`, `WrongMasterKey`, `SchemaTooNew`, `LockHeld`, `StoreUnavailable`.
    """
    clock = clock or SystemClock()
    vault, policy = load_vault(settings), policy_of(settings, clock)
    sealed, known = Sealed(vault), {name: providers.load(name) for name in providers.names()}
    fleet = Fleet(clock=clock, node=new_token())
    lanes = Lanes(
        per_lane=settings.endpoint_concurrency, total=settings.delivery_concurrency, clock=clock,
        sending=role != "api", fleet=fleet,
    )  # fmt: skip
    sandboxed: set[int] = set()
    rules = Rules(
        operation_of=partial(_operation_of, known, sandboxed), random=random, correlate=new_correlation,
        link=stable_links(vault, settings.public_url),
    )  # fmt: skip
    plan = wrap_plan(Planning(rules, FanOut(offer=lanes.offer, operator=settings.operator_url is not None)))
    store: Store = await open_database(settings.database, plan=plan, clock=clock)
    try:
        if own_loops and role != "api":  # an api node runs loops only while it is ticked
            store.own_loops(f"--role {role}")
            await store.recover_leases()
        accounts = Accounts(
            store=store, sealed=sealed, settings=settings, providers=known, clock=store.clock, sandboxed=sandboxed,
            token_of=vault.callback_token,
        )  # fmt: skip
        await accounts.start()
        if own_loops and role != "api":
            await fleet.join(store)  # last: a start that fails takes nothing from the others
    except BaseException:
        await store.close()
        raise
    egress = make_egress(
        policy=policy, trusted=_base_urls(settings, known), proxy=settings.egress_proxy, mark=OwnRequests(vault).mark
    )
    owned = contextlib.nullcontext if role != "api" else partial(_owned_while_ticking, store, fleet)
    parts = Parts(
        settings, store.clock, random, vault, sealed, known, store, accounts, policy, egress, fleet, lanes, owned,
        lease_ms,
    )  # fmt: skip
    service = Service(context=parts.context(), egress=egress, fleet=fleet)
    try:
        if role != "api":
            store.listen(service.context.loops.wake)
        return replace(service, restored=await service.settle_copy()) if own_loops else service
    except BaseException:
        await service.close()
        raise


@contextlib.asynccontextmanager
async def _owned_while_ticking(store: Store, fleet: Fleet) -> AsyncIterator[None]:
    store.own_loops("a tick")
    try:
        await store.recover_leases()
        await fleet.join(store)
        yield
    finally:
        with contextlib.suppress(StoreUnavailable):
            await fleet.leave()
        store.release_loops()


def policy_of(settings: Settings, clock: Clock) -> addresses.Policy:
    """The address rules: on a loopback public URL, loopback endpoints are allowed over plain http."""
    allow = (*settings.egress_allow, *(LOOPBACK if settings.public_is_loopback else ()))
    public = urlsplit(settings.public_url)
    port = public.port or (443 if public.scheme == "https" else 80)
    return addresses.Policy(
        allow=allow,
        own_addresses=addresses.OwnAddresses(clock),
        forbidden=frozenset({((public.hostname or "").strip("[]"), port)}),
    )


def _operation_of(known: Mapping[str, Provider], sandboxed: set[int], job: Job) -> Operation:
    """The job's operation; against a sandbox, at the sandbox's pace."""
    operation = known[job.provider].operations[job.operation]
    return operation.quick() if job.credential in sandboxed else operation


def _base_urls(settings: Settings, known: Mapping[str, Provider]) -> list[str]:
    given = [provider.base_url for provider in settings.providers.values() if provider.base_url]
    sandbox = [settings.sandbox_url] if settings.sandbox_url else []
    return [provider.base_url for provider in known.values()] + given + sandbox
