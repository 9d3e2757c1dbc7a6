"""What a credential may use (its tier, its limits), as its provider says: read now and then, kept in memory."""

import logging
from collections.abc import Mapping
from typing import Any

from service.clock import Clock
from service.conversation import Conversations, Lease, account_call
from service.errors import CallsheetError
from service.facts import NotNow, Unknown
from service.loops import UNLIMITED
from service.models import Credential
from service.providers import Provider
from service.settings import Settings
from service.states import Json

log = logging.getLogger("callsheet.account_facts")

FRESH_S = 300.0
NEW_S = 5.0
AGAIN_S = 10.0  # after a read that failed


class AccountFacts:
    def __init__(
        self, *, conversations: Conversations, providers: Mapping[str, Provider], settings: Settings, clock: Clock
    ):
        self._conversations, self._providers = conversations, providers
        self._settings, self._clock = settings, clock
        self._kept: dict[tuple[int, str], tuple[float, Json | None]] = {}  # by number and key: a new key, a new account

    async def of(self, credential: Credential, *, newer: bool = False) -> Json | None:
        """What the provider said in the last five minutes; None where it does not say, or could not be asked.

        `newer`: in the last five seconds, for who would be refused by what is known.
        """
        provider = self._providers[credential.provider]
        if type(provider).account is Provider.account:
            return None
        which = (credential.num, credential.api_key)
        until, said = self._kept.get(which, (float("-inf"), None))
        if self._clock.monotonic() < until - (FRESH_S - NEW_S if newer and said is not None else 0):
            return said
        found = await self._ask(provider, credential)
        lasts = FRESH_S if found is not None else AGAIN_S
        self._kept[which] = (self._clock.monotonic() + lasts, found if found is not None else said)
        return self._kept[which][1]

    async def _ask(self, provider: Provider, credential: Credential) -> Json | None:
        call = account_call(credential, self._clock.now(), self._settings.options_of(provider.name))
        lease = Lease(None, UNLIMITED, self._clock, within=3.0)
        try:
            found: Any = await self._conversations.hold(provider.account(call), lease)
        except CallsheetError as error:
            log.info("%s did not say what its account may use: %s", provider.name, type(error).__name__)
            return None
        return None if isinstance(found, NotNow | Unknown) else found
