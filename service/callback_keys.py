"""Keys that prove callbacks: from settings, or fetched from the provider, kept, and fetched again when they changed."""

import asyncio
from typing import Any

from service.clock import Clock
from service.conversation import Conversations, Lease, account_call
from service.errors import CallsheetError, Unavailable
from service.facts import NotNow, Unknown
from service.loops import UNLIMITED
from service.models import Credential
from service.providers import Provider
from service.settings import Settings

FRESH_S = 3600.0
KEPT_S = 24 * 3600.0  # the last good ones serve this long where no new ones are to be had (fal: at most 24 h)
AGAIN_S = 60.0  # a forged call must not make us fetch more often than this
WITHOUT_S = 2.0  # the same while we have none, and answer 503


class _Kept:
    __slots__ = ("asked_at", "fetched_at", "keys", "lock")

    def __init__(self) -> None:
        self.keys: tuple[str, ...] = ()
        self.fetched_at = self.asked_at = float("-inf")
        self.lock = asyncio.Lock()


class CallbackKeys:
    def __init__(self, *, conversations: Conversations, settings: Settings, clock: Clock):
        self._conversations, self._settings, self._clock = conversations, settings, clock
        self._kept: dict[tuple[str, str, str], _Kept] = {}

    async def of(self, provider: Provider, credential: Credential) -> tuple[str, ...]:
        """What verifies this credential's callbacks; empty where nothing was configured. Raises `Unavailable`."""
        own = (credential.callback_secret,) if credential.callback_secret is not None else ()
        if provider.callback_keys == "credential" or (own and provider.callback_keys == "account"):
            return own
        kept = self._entry(provider, credential)
        async with kept.lock:
            if self._clock.monotonic() - kept.fetched_at > FRESH_S:
                await self._fetch(provider, credential, kept)
        if not kept.keys or self._clock.monotonic() - kept.fetched_at > KEPT_S:
            raise Unavailable("The keys that would prove this callback are not to be had now: send it again.")
        return kept.keys

    async def newer(self, provider: Provider, credential: Credential, than: tuple[str, ...]) -> tuple[str, ...] | None:
        """Other keys than those, where the provider has changed them; asked for at most once a minute."""
        if provider.callback_keys == "credential" or than == (credential.callback_secret,):
            return None
        kept = self._entry(provider, credential)
        async with kept.lock:
            if kept.keys == than:
                await self._fetch(provider, credential, kept)
        return kept.keys if kept.keys != than else None

    def _entry(self, provider: Provider, credential: Credential) -> _Kept:
        whose = credential.api_key if provider.callback_keys == "account" else ""
        return self._kept.setdefault((provider.name, credential.base_url, whose), _Kept())

    async def _fetch(self, provider: Provider, credential: Credential, kept: _Kept) -> None:
        now = self._clock.monotonic()
        if now - kept.asked_at < (AGAIN_S if kept.keys else WITHOUT_S):
            return
        kept.asked_at = now
        call = account_call(credential, self._clock.now(), self._settings.options_of(provider.name))
        lease = Lease(None, UNLIMITED, self._clock)
        try:
            found: Any = await self._conversations.hold(provider.keys(call), lease)
        except CallsheetError:
            return
        if not isinstance(found, NotNow | Unknown) and found:
            kept.keys, kept.fetched_at = tuple(found), now
