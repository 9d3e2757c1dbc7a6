"""Tenants' credentials for providers: given by API, else by settings, else a sandbox's.

What other processes change is seen within a second: rows that were touched lately are read again.
"""

import contextlib
from collections.abc import Callable, Mapping

from service.clock import Clock
from service.errors import Invalid, Missing, StoreUnavailable
from service.models import Credential, CredentialRow
from service.providers import Provider
from service.sealed import CredentialSecrets, Sealed
from service.settings import ProviderSettings, Settings
from service.stores import Store
from service.told import of_secret

REREAD_S = 1.0
OVERLAP_MS = 10_000  # what was touched this long ago is read again: clocks differ, and commits come late
API, ENVIRONMENT, SANDBOX = "api", "environment", "sandbox"
SANDBOX_KEY, SANDBOX_CALLBACK_ID, SANDBOX_SECRET = "sandbox", "sandbox", "sandbox-callback-secret"


class Credentials:
    """One process's view. A replaced key keeps its number: the jobs that name it go on with the new one."""

    def __init__(
        self,
        *,
        store: Store,
        sealed: Sealed,
        settings: Settings,
        providers: Mapping[str, Provider],
        clock: Clock,
        sandboxed: set[int],
        token_of: Callable[[str], str],
    ):
        self._store, self._sealed, self._settings, self._clock = store, sealed, settings, clock
        self._providers, self._sandboxed = providers, sandboxed  # the credentials that are a sandbox's
        self._token_of = token_of
        self._default: int | None = None  # the tenant that settings are for
        self._by_number: dict[int, Credential] = {}
        self._beside: dict[str, str] = {}  # callback secrets, by the API key that they go with
        self._given: dict[tuple[int, str], Credential] = {}  # by API
        self._brought: dict[tuple[int, str], Credential] = {}  # by this process's settings
        self._read_at, self._newest = float("-inf"), 0

    async def start(self, default: int) -> None:
        """Read what there is, and bring what the settings give into the database. Raises `WrongMasterKey`."""
        self._default = default
        await self._reread()
        for name in self._providers:
            await self._bring(default, name)

    async def credential(self, tenant: int, provider: str) -> Credential:
        """What the tenant's new submits to this provider use. Raises `Invalid` with the remedy where there is none."""
        with contextlib.suppress(StoreUnavailable):  # what is known goes on
            await self._reread_in_time()
        key = (tenant, provider)
        found = self._given.get(key) or self._brought.get(key) or await self._bring(tenant, provider)
        if found is None:
            raise Invalid(
                f"There is no credential for {provider}: give one with PUT /v1/providers/{provider}/credentials or"
                f" CALLSHEET_{provider.upper()}_API_KEY, or set CALLSHEET_SANDBOX_URL to try it without one.",
                code="no_credential",
                param="provider",
            )
        return found

    async def credential_by_number(self, num: int) -> Credential | None:
        """The credential that a job names; one that another process made is read from the database."""
        if num not in self._by_number:
            await self._reread()
        else:
            with contextlib.suppress(StoreUnavailable):
                await self._reread_in_time()
        return self._by_number.get(num)

    def known(self, num: int) -> Credential | None:
        """The credential of that number, where this process has read it already."""
        return self._by_number.get(num)

    def provider_of(self, num: int) -> str:
        """Whose credential it is, for counting what is under way; empty where it is not known here."""
        found = self._by_number.get(num)
        return found.provider if found is not None else ""

    def beside(self, api_key: str) -> tuple[str, ...]:
        """What the provider of this key knows of us beside it."""
        return tuple(of_secret(self._beside[api_key])) if api_key in self._beside else ()

    def is_sandbox(self, num: int) -> bool:
        return num in self._sandboxed

    # -- by API

    async def put(self, tenant: int, provider: str, secrets: CredentialSecrets) -> CredentialRow:
        """Give the tenant a credential, or replace the one it was given. Ends a pause, too.

        What waits in the queue under the one from the settings goes on with this one: nothing of it was sent.
        """
        before = None
        with contextlib.suppress(Invalid):
            before = await self.credential(tenant, provider)
        sealed = self._sealed.seal_credential(secrets, tenant, provider, API)
        row = await self._store.put_credential(_opened(0, tenant, provider, API, secrets), sealed)
        self._take(row)
        if before is not None and before.num != row.num:
            await self._store.move_queued(before.num, row.num)
        return row

    async def drop(self, tenant: int, provider: str) -> None:
        """New submits use it no more; the jobs that name it go on with it. Raises `Missing` where none was given."""
        await self._reread()
        found = self._given.get((tenant, provider))
        if found is None or not await self._store.drop_credential(found.num):
            raise Missing(f"No credential for {provider} was given by API: what settings give stays.", param="provider")
        self._given.pop((tenant, provider), None)

    async def row(self, tenant: int, provider: str) -> CredentialRow:
        """The row of what the tenant's new submits use, as it is now. Raises `Missing` where there is none."""
        try:
            found = await self.credential(tenant, provider)
        except Invalid as refused:
            raise Missing(refused.detail, param="provider") from None
        row = await self._store.credential(found.num)
        if row is None:
            raise Missing("The credential is gone.", param="provider")
        return row

    def base_url(self, provider: str) -> str:
        """Where a credential that was given by API is used: never a place that its giver names."""
        return self._of(provider).base_url or self._providers[provider].base_url

    def callback_url(self, row: CredentialRow) -> str | None:
        """What is to be registered with a provider that calls one URL per account: the default tenant's is short,
        any other's names the credential. None for providers that are told a URL with each job, or none.
        """
        if not self._providers[row.provider].callback_per_account:
            return None
        url = f"{self._settings.public_url}/v1/callbacks/{row.provider}"
        return url if row.tenant == self._default else f"{url}/{self._token_of(f'credential-{row.num}')}"

    # -- reading

    async def _reread_in_time(self) -> None:
        if self._clock.monotonic() - self._read_at >= REREAD_S:
            await self._reread()

    async def _reread(self) -> None:
        """Take what was touched since the last time; since now, where the clock was set back behind that."""
        self._read_at = self._clock.monotonic()
        since = min(self._newest, self._clock.now()) - OVERLAP_MS
        for row in await self._store.credentials(max(0, since)):
            self._newest = max(self._newest, row.updated_at)
            self._take(row)

    def _take(self, row: CredentialRow) -> None:
        key = (row.tenant, row.provider)
        if row.source == API and row.deleted_at is not None:
            self._given.pop(key, None)
        if key in self._brought and self._brought[key].num == row.num:
            return  # this process's settings say what it is
        credential = self._open(row)
        self._keep(credential)
        if row.source == API and row.deleted_at is None:
            self._given[key] = credential

    def _open(self, row: CredentialRow) -> Credential:
        secrets = self._sealed.credential(row.sealed, row.tenant, row.provider, row.source)
        opened = _opened(row.num, row.tenant, row.provider, row.source, secrets)
        if row.source != API or row.provider not in self._providers:
            return opened
        return _opened(row.num, row.tenant, row.provider, row.source, secrets, self.base_url(row.provider))

    def _keep(self, credential: Credential) -> None:
        self._by_number[credential.num] = credential
        if credential.callback_secret is not None:
            self._beside[credential.api_key] = credential.callback_secret  # the last that was seen
        if credential.source == SANDBOX:
            self._sandboxed.add(credential.num)

    # -- by settings

    async def _bring(self, tenant: int, provider: str) -> Credential | None:
        """The credential that settings give this tenant, kept in the database so that jobs can name it.

        Written only where it is new or differs: writing is what ends a pause.
        """
        found = self._from_settings(tenant, provider)
        if found is None:
            return None
        source, secrets = found
        kept = next((one for one in self._by_number.values() if _same(one, tenant, provider, source, secrets)), None)
        if kept is None:
            sealed = self._sealed.seal_credential(secrets, tenant, provider, source)
            row = await self._store.put_credential(_opened(0, tenant, provider, source, secrets), sealed)
            kept = _opened(row.num, tenant, provider, source, secrets)
        self._keep(kept)
        self._brought[tenant, provider] = kept
        return kept

    def _from_settings(self, tenant: int, provider: str) -> tuple[str, CredentialSecrets] | None:
        given = self._of(provider)
        base_url = given.base_url or self._providers[provider].base_url
        default = self._default is None or self._default == tenant
        if given.api_key is not None and default:
            secret = given.callback_secret.reveal() if given.callback_secret else None
            return ENVIRONMENT, CredentialSecrets(
                api_key=given.api_key.reveal(), base_url=base_url, callback_secret=secret, callback_id=given.callback_id
            )
        if self._settings.sandbox_url is None:
            return None
        return SANDBOX, CredentialSecrets(
            api_key=SANDBOX_KEY,
            base_url=given.base_url or f"{self._settings.sandbox_url}/{provider}",
            # What is fetched from the provider is fetched from the sandbox, too.
            callback_secret=SANDBOX_SECRET if self._providers[provider].callback_keys == "credential" else None,
            # The sandbox calls one URL, which is the default tenant's: the others are polled.
            callback_id=SANDBOX_CALLBACK_ID if default else None,
        )

    def _of(self, provider: str) -> ProviderSettings:
        return self._settings.providers.get(provider, ProviderSettings())


def _same(one: Credential, tenant: int, provider: str, source: str, secrets: CredentialSecrets) -> bool:
    return one == _opened(one.num, tenant, provider, source, secrets)


def _opened(
    num: int, tenant: int, provider: str, source: str, secrets: CredentialSecrets, base_url: str | None = None
) -> Credential:
    return Credential(
        num=num,
        tenant=tenant,
        provider=provider,
        source=source,
        api_key=secrets.api_key,
        base_url=base_url if base_url is not None else secrets.base_url,
        callback_secret=secrets.callback_secret,
        callback_id=secrets.callback_id,
    )
