"""Who owns what: tenants, their keys, and their credentials for providers."""

from collections.abc import Callable, Mapping

from service import crypto, signatures
from service.clock import Clock
from service.credentials import Credentials
from service.errors import Conflict, Forbidden, Invalid, Missing, Unauthenticated
from service.ids import new_id
from service.models import ApiKey, Tenant
from service.providers import Provider
from service.scopes import SCOPES, granted
from service.sealed import Sealed, SigningSecret, live, rotated
from service.settings import Settings
from service.states import DEFAULT_TENANT, Json, Record
from service.stores import Store
from service.views import instant

KEY_CACHE_S = 5.0  # a revoked key works no longer than this on another node


class Principal(Record, frozen=True, kw_only=True):
    """Who asks: the tenant that the request acts in, and what the key allows."""

    tenant: int
    tenant_name: str
    key_id: str
    scopes: frozenset[str]

    @property
    def admin(self) -> bool:
        return "admin" in self.scopes


class Accounts:
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
        self._keys: dict[str, tuple[float, ApiKey | None]] = {}
        self._tenants: dict[str, Tenant] = {}
        self._secrets: dict[int, tuple[float, tuple[str, ...]]] = {}
        self.credentials = Credentials(
            store=store, sealed=sealed, settings=settings, providers=providers, clock=clock, sandboxed=sandboxed,
            token_of=token_of,
        )  # fmt: skip
        self.credential = self.credentials.credential
        self.credential_by_number = self.credentials.credential_by_number
        self.known, self.provider_of = self.credentials.known, self.credentials.provider_of
        self.beside = self.credentials.beside
        self.is_sandbox = self.credentials.is_sandbox

    async def start(self) -> None:
        """Prove the master keys, make the default tenant, bring the operator's credentials into the database."""
        canary = await self._store.meta("canary")
        if canary is None:
            await self._store.set_meta("canary", self._sealed.seal_canary().hex())
        else:
            self._sealed.check_canary(bytes.fromhex(canary))
        default = self._tenants[DEFAULT_TENANT] = await self.create_tenant(DEFAULT_TENANT)
        await self.credentials.start(default.num)

    # -- tenants

    async def create_tenant(self, name: str) -> Tenant:
        """The tenant of that name, made where there is none."""
        secret = SigningSecret(secret=signatures.new_secret())
        return await self._store.create_tenant(name, self._sealed.seal_secrets((secret,), "tenant", name))

    async def tenant(self, name: str) -> Tenant:
        tenant = self._tenants.get(name) or await self._store.tenant(name)
        if tenant is None:
            raise Missing(f"There is no tenant {name!r}. See GET /v1/tenants.", param="tenant")
        self._tenants[name] = tenant
        return tenant

    async def delete_tenant(self, name: str) -> None:
        tenant = await self.tenant(name)
        if name == DEFAULT_TENANT or not await self._store.delete_tenant(tenant.num):
            raise Conflict("The tenant still has keys, jobs, endpoints, credentials or files.", code="tenant_in_use")
        self._tenants.pop(name, None)

    async def callback_secrets(self, tenant: int) -> tuple[str, ...]:
        """What signs the tenant's callback URLs now, the current one first; at most five seconds old."""
        now = self._clock.monotonic()
        cached = self._secrets.get(tenant)
        if cached is None or now - cached[0] > KEY_CACHE_S:
            row = next((row for row in await self._store.tenants() if row.num == tenant), None)
            if row is None:
                raise Missing("The tenant is gone.", param="tenant")
            secrets = self._sealed.secrets(row.secrets, "tenant", row.name)
            cached = self._secrets[tenant] = (now, live(secrets, self._clock.now()))
        return cached[1]

    async def rotate_callback_secret(self, tenant_name: str, overlap_s: int) -> str:
        tenant = await self._store.tenant(tenant_name)
        if tenant is None:
            raise Missing(f"There is no tenant {tenant_name!r}.", param="tenant")
        secret = signatures.new_secret()
        before = self._sealed.secrets(tenant.secrets, "tenant", tenant.name)
        after = rotated(before, secret, overlap_s, self._clock.now())
        await self._store.set_tenant_secrets(tenant.num, self._sealed.seal_secrets(after, "tenant", tenant.name))
        self._secrets.pop(tenant.num, None)
        return secret

    # -- keys

    async def create_key(self, tenant_name: str, name: str, scopes: tuple[str, ...], expires_at: int | None) -> Json:
        """The key's row and, this once, its text under `key`."""
        tenant = await self.tenant(tenant_name)
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            named = f"There is no scope {unknown[0]!r}" if unknown else "A key needs a scope"
            raise Invalid(f"{named}; there are: {', '.join(SCOPES)}.", param="scopes")
        if "admin" in scopes and tenant.name != DEFAULT_TENANT:
            text = "An admin key acts in every tenant: make it without `tenant`, or give this one other scopes."
            raise Invalid(text, param="scopes")
        made, now = crypto.new_api_key(), self._clock.now()
        key = ApiKey(
            num=0,
            id=new_id("key", now),
            tenant=tenant.num,
            tenant_name=tenant.name,
            name=name,
            scopes=scopes,
            lookup=made.lookup,
            digest=made.digest,
            created_at=now,
            expires_at=expires_at,
        )
        await self._store.create_key(key)
        return {**key_view(key), "key": made.text}

    async def revoke_key(self, key_id: str, tenant: int | None) -> None:
        if not await self._store.revoke_key(key_id, tenant):
            raise Missing(f"There is no key {key_id!r}. See GET /v1/keys.", param="id")
        self._keys.clear()

    async def authenticate(self, authorization: str | None, act_in: str | None = None) -> Principal:
        """Who the `Authorization` header names; an admin acts in the tenant that `Callsheet-Tenant` names."""
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not text:
            raise Unauthenticated("Send `Authorization: Bearer <key>`; `callsheet keys create` makes a key.")
        principal = await self._principal(text.strip())
        if act_in is None or act_in == principal.tenant_name:
            return principal
        if not principal.admin:
            raise Forbidden("Only an admin key may name a tenant.", param="Callsheet-Tenant")
        tenant = await self.tenant(act_in)
        return Principal(tenant=tenant.num, tenant_name=tenant.name, key_id=principal.key_id, scopes=principal.scopes)

    async def _principal(self, text: str) -> Principal:
        own = self._settings.api_key
        if own is not None and crypto.same(text.encode(), own.reveal().encode()):
            tenant = await self.tenant(DEFAULT_TENANT)
            return Principal(tenant=tenant.num, tenant_name=tenant.name, key_id="operator", scopes=granted(("admin",)))
        read = crypto.read_api_key(text)
        key = await self._key(read[0]) if read else None
        if read is None or key is None or not crypto.same(key.digest, read[1]):
            raise Unauthenticated("This is not a key of this service, or it was revoked.")
        if key.expires_at is not None and key.expires_at <= self._clock.now():
            raise Unauthenticated("The key has expired; `callsheet keys create` makes a new one.", code="key_expired")
        return Principal(tenant=key.tenant, tenant_name=key.tenant_name, key_id=key.id, scopes=granted(key.scopes))

    async def _key(self, lookup: str) -> ApiKey | None:
        now = self._clock.monotonic()
        cached = self._keys.get(lookup)
        if cached is None or now - cached[0] > KEY_CACHE_S:
            if len(self._keys) > 10_000:
                self._keys.clear()
            cached = self._keys[lookup] = (now, await self._store.find_key(lookup))
        return cached[1]


def key_view(key: ApiKey) -> Json:
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant_name,
        "scopes": list(key.scopes),
        "prefix": f"cs_sk_{key.lookup}",
        "created_at": instant(key.created_at),
        "expires_at": instant(key.expires_at),
    }
