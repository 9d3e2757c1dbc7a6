"""Offers: what a provider would ask, what is left of the balance, what there is to choose from. Nothing here charges.

A provider is asked under the tenant's credential, for ten seconds at most; what its documents say needs none.
"""

import asyncio
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TypeVar

from service.accounts import Accounts
from service.clock import Clock
from service.conversation import Conversations, Lease, account_call
from service.errors import Invalid, Missing, Refusal, Unavailable
from service.facts import Cost, NotNow, Unknown
from service.loops import UNLIMITED
from service.models import Credential
from service.providers import Call, Documented, Operation, Provider, Reply, Request
from service.settings import Settings
from service.states import Json, Record
from service.views import instant

log = logging.getLogger("callsheet.offers")
V = TypeVar("V")
Verb = Callable[[Call], Generator[Request, Reply, V]]

ASK_S = 10.0
CATALOG_S = 600.0  # how long a live list is kept
AGAIN_S = 15.0  # after a list that could not be read
MOST_CATALOGS = 1_000


class Quote(Record, frozen=True, kw_only=True):
    """A price, or why there is none; `reason` beside a price says that it is not the provider's own word."""

    cost: Cost | None
    reason: str | None = None


class Catalog(Record, frozen=True, kw_only=True):
    data: Sequence[Json]
    source: str  # live or documented
    as_of: str


class Offers:
    def __init__(
        self,
        *,
        accounts: Accounts,
        providers: Mapping[str, Provider],
        conversations: Conversations,
        settings: Settings,
        clock: Clock,
    ):
        self._accounts, self._providers, self._conversations = accounts, providers, conversations
        self._settings, self._clock = settings, clock
        self._catalogs: dict[tuple[int, str, str], tuple[float, Catalog | Refusal | None]] = {}

    def provider(self, name: str) -> Provider:
        """Raises `Missing` that names those there are."""
        found = self._providers.get(name)
        if found is None:
            known = ", ".join(sorted(self._providers))
            raise Missing(f"There is no such provider; there are: {known}.", param="provider")
        return found

    async def quote(self, tenant: int, name: str, operation: str, given: Json) -> Quote:
        """The provider's own price, else the documented one, never a guess. Raises `Invalid` for a wrong input."""
        provider = self.provider(name)
        row = _operation(provider, operation)
        row.validate(given)
        about = Call(operation=operation, input=given, api_key="", base_url=provider.base_url)
        try:
            cost = await self._ask(provider, await self._credential(tenant, name), provider.quote, about)
        except Unavailable as refused:
            documented = provider.price(about)
            if documented is None:
                raise
            return Quote(cost=documented, reason=f"{refused.detail} This is what its documents say.")
        if cost is not None:
            return Quote(cost=cost)
        return Quote(cost=None, reason=f"{provider.title} says no price for this input before the work is done.")

    async def balance(self, tenant: int, name: str) -> Json:
        """`{"amount", "unit"}` and what else the provider says. Raises `Invalid` (`no_balance`), `Unavailable`."""
        provider = self.provider(name)
        about = Call(operation="", input={}, api_key="", base_url=provider.base_url)
        return await self._ask(provider, await self._credential(tenant, name), provider.balance, about)

    def kinds(self, name: str) -> dict[str, Documented | None]:
        """The catalogs that a provider has; None where its documents list nothing."""
        provider = self.provider(name)
        return {**dict.fromkeys(provider.live_catalogs), **provider.catalogs}

    async def catalog(self, tenant: int, name: str, kind: str) -> Catalog:
        """The live list, at most ten minutes old; the documented one where there is none or it cannot be read.

        Raises `Missing` that names the kinds, and what the provider raises of a list that no document has.
        """
        provider = self.provider(name)
        live = await self._live(provider, await self._credential(tenant, name), kind)
        if isinstance(live, Catalog):
            return live
        if (documented := provider.catalogs.get(kind)) is not None:
            return Catalog(data=documented.data, source="documented", as_of=documented.as_of)
        if live is not None:
            raise live.with_traceback(None)
        known = ", ".join(sorted(self.kinds(name))) or "none"
        raise Missing(f"{provider.title} has no such catalog; there are: {known}.", param="kind")

    async def _live(self, provider: Provider, credential: Credential | None, kind: str) -> Catalog | Refusal | None:
        """As it was read lately, or why it could not be; None where the provider has none of this kind."""
        key = (credential.num if credential is not None else 0, provider.name, kind)
        until, found = self._catalogs.get(key, (float("-inf"), None))
        if self._clock.monotonic() < until:
            return found
        if len(self._catalogs) >= MOST_CATALOGS:
            self._catalogs.clear()
        found = await self._read(provider, credential, kind)
        lasts = CATALOG_S if isinstance(found, Catalog) else AGAIN_S
        self._catalogs[key] = (self._clock.monotonic() + lasts, found)
        return found

    async def _read(self, provider: Provider, credential: Credential | None, kind: str) -> Catalog | Refusal | None:
        about = Call(operation="", input={}, api_key="", base_url=provider.base_url)
        try:
            rows = await self._ask(provider, credential, lambda call: provider.catalog(call, kind), about)
        except Refusal as refused:
            log.info("%s did not list its %s: %s", provider.name, kind, refused.code)
            return refused
        if rows is None:
            return None
        return Catalog(data=rows, source="live", as_of=instant(self._clock.now()) or "")

    # -- asking

    async def _credential(self, tenant: int, name: str) -> Credential | None:
        try:
            return await self._accounts.credential(tenant, name)
        except Invalid:
            return None

    async def _ask(self, provider: Provider, credential: Credential | None, verb: Verb[V], about: Call) -> V:
        """The verb's answer. Raises what it raises, and `Unavailable` where the provider does not answer now."""
        if credential is None:
            return _unasked(provider, verb(about))
        options = self._settings.options_of(provider.name)
        call = account_call(credential, self._clock.now(), options, operation=about.operation, input=about.input)
        lease = Lease(None, UNLIMITED, self._clock, within=ASK_S)
        try:
            async with asyncio.timeout(ASK_S):
                answer = await self._conversations.hold(verb(call), lease)  # no `begin`: what charges is not sent
        except TimeoutError:
            answer = NotNow(reason=f"it took longer than {ASK_S:.0f} seconds")
        if isinstance(answer, NotNow | Unknown):
            raise Unavailable(f"{provider.title} could not be asked: {answer.reason}.", code="provider_unavailable")
        return answer


def _operation(provider: Provider, name: str) -> Operation:
    found = provider.operations.get(name)
    if found is None:
        known = ", ".join(sorted(provider.operations))
        raise Invalid(f"{provider.title} has no operation {name!r}; it has: {known}.", param="operation")
    return found


def _unasked(provider: Provider, steps: Generator[Request, Reply, V]) -> V:
    """The verb's answer where it needs nobody's: raises `Invalid` where the provider must be asked."""
    try:
        next(steps)
    except StopIteration as finished:
        answer: V = finished.value
        return answer
    steps.close()
    raise Invalid(
        f"{provider.title} must be asked for this, and there is no credential for it: give one with PUT"
        f" /v1/providers/{provider.name}/credentials.",
        code="no_credential",
        param="provider",
    )
