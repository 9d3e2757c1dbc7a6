"""Callbacks: verify -> read -> apply. What the provider is told leaves only after the transaction committed."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from service.accounts import Accounts
from service.callback_keys import CallbackKeys
from service.clock import Clock
from service.crypto import Vault
from service.errors import BadRequest, Missing, SignatureRefused, Unauthenticated
from service.facts import Arrival, Hint, RawCallback
from service.masking import Masks
from service.models import Applied, Credential, Job
from service.providers import Provider, ReadCallback
from service.states import DEFAULT_TENANT, CallbackVerdict, Record, Source
from service.stores import Store
from service.told import MUCH_BYTES, masks_of
from service.transitions import Transitions

REJECTED_KEPT = 20  # per provider, for the operator; the rest are counted
REJECTED_BYTES = 2_048


class Answer(Record, frozen=True, kw_only=True):
    """What the provider is told, in its own terms."""

    status: int
    content_type: str
    body: bytes


class _Addressee(Record, frozen=True, kw_only=True):
    """Whose callback URL was called: a credential's, and a job's where the URL is per job.

    `masks` are of what its provider knows of us: it verifies and is read as it came, and is kept without it.
    """

    credential: Credential
    masks: Masks
    job: Job | None = None


class Callbacks:
    def __init__(
        self,
        *,
        store: Store,
        transitions: Transitions,
        accounts: Accounts,
        providers: Mapping[str, Provider],
        vault: Vault,
        keys: CallbackKeys,
        clock: Clock,
        count: Callable[[str, str], Any],
    ):
        self._store, self._transitions, self._accounts, self._keys = store, transitions, accounts, keys
        self._providers, self._vault, self._clock, self._count = providers, vault, clock, count

    def max_bytes(self, provider: str) -> int:
        """The largest body that this provider may send. Raises `Missing` for no such provider."""
        return self._provider(provider).callback_max_bytes

    async def receive(self, name: str, token: str | None, headers: Mapping[str, str], body: bytes) -> Answer:
        """Durable when it returns. Raises 401 not authentic, 400 unreadable, 404 no such job, 503 not now."""
        provider = self._provider(name)
        to = await self._addressee(name, token)
        fresh = await self._verify(provider, to, headers, body)
        read = await self._read(provider, to, body)
        kept = await asyncio.to_thread(to.masks.data, body) if len(body) > MUCH_BYTES else to.masks.data(body)
        if kept is not body:
            read = replace(read, update=to.masks.inside(read.update))
        applied = await self._apply(to, self._arrival(provider, to, read, kept, fresh=fresh))
        self._count(name, applied.verdict)
        if applied.verdict == "missing":
            raise Missing("No job has this id yet: send it again.", code="unknown_job")
        status, content_type, text = provider.callback_reply
        return Answer(status=status, content_type=content_type, body=text)

    def _provider(self, name: str) -> Provider:
        provider = self._providers.get(name)
        if provider is None:
            raise Missing(f"There is no provider {name!r}.", param="provider")
        return provider

    async def _addressee(self, name: str, token: str | None) -> _Addressee:
        if token is None:
            tenant = await self._accounts.tenant(DEFAULT_TENANT)
            default = await self._accounts.credential(tenant.num, name)
            return _Addressee(credential=default, masks=masks_of(default))
        subject = self._vault.read_token(token)
        job = credential = None
        if subject is not None and subject.startswith("job_"):
            job = await self._store.job_by_id(subject)
            credential = await self._accounts.credential_by_number(job.credential) if job is not None else None
        elif subject is not None and subject.startswith("credential-"):
            credential = await self._accounts.credential_by_number(int(subject.removeprefix("credential-")))
        if credential is None or credential.provider != name:
            self._count(name, "rejected")
            raise Missing("This callback URL is not one of ours.", code="unknown_callback_url")
        return _Addressee(credential=credential, masks=masks_of(credential, token), job=job)

    async def _verify(self, provider: Provider, to: _Addressee, headers: Mapping[str, str], body: bytes) -> bool:
        """True: authentic and fresh. False: it proves nothing about now, the status is read back."""
        try:
            return await self._verified(provider, to.credential, headers, body)
        except SignatureRefused as refused:
            await self._reject(to, refused.reason, body)
            raise Unauthenticated("The signature does not verify.", code="bad_signature") from None

    async def _verified(
        self, provider: Provider, credential: Credential, headers: Mapping[str, str], body: bytes
    ) -> bool:
        """With the keys that we have, then with newer ones where the provider has changed them."""
        keys = await self._keys.of(provider, credential)
        if not keys and provider.callback_signed:
            raise SignatureRefused("no callback secret is configured")
        now_s = self._clock.now() // 1000
        try:
            return provider.verify_callback(headers, body, keys, now_s)
        except SignatureRefused:
            newer = await self._keys.newer(provider, credential, keys)
            if newer is None:
                raise
            return provider.verify_callback(headers, body, newer, now_s)

    async def _read(self, provider: Provider, to: _Addressee, body: bytes) -> ReadCallback:
        try:
            return provider.read_callback(body)
        except BadRequest as refused:
            await self._reject(to, refused.detail, body)
            raise

    async def _reject(self, to: _Addressee, reason: str, body: bytes) -> None:
        self._count(to.credential.provider, "rejected")
        kept = RawCallback(
            provider=to.credential.provider,
            received_at=self._clock.now(),
            verdict=CallbackVerdict.REJECTED,
            reason=reason,
            body=to.masks.head(body, REJECTED_BYTES),
        )
        await self._store.record_rejected(kept, REJECTED_KEPT)

    def _arrival(self, provider: Provider, to: _Addressee, read: ReadCallback, kept: bytes, *, fresh: bool) -> Arrival:
        named = _named(to.job, read)
        proves = fresh and provider.callback_signed
        if provider.callback_keys == "provider" and (to.job is None or named not in to.job.provider_job_ids):
            proves = False  # any customer of theirs can have this signed: it binds nothing, our own key asks first
        raw = RawCallback(
            provider=provider.name,
            received_at=self._clock.now(),
            verdict=CallbackVerdict.VERIFIED if proves else CallbackVerdict.HINT,
            reason=None if proves else "not fresh" if not fresh else "it proves nothing by itself",
            body=kept,
        )
        return Arrival(
            fact=read.update if proves else Hint(claims=named if to.job is not None else None),
            source=Source.CALLBACK,
            job=to.job.num if to.job is not None else None,
            credential=to.credential.num,
            provider_job_id=named,
            dedupe_key=read.dedupe_key if proves else None,
            callback=raw,
        )

    async def _apply(self, to: _Addressee, arrival: Arrival) -> Applied:
        """Where the URL names a job whose ids are known, the body must name one of them."""
        job = to.job
        if job is not None and job.provider_job_ids and arrival.provider_job_id not in job.provider_job_ids:
            await self._reject(to, "it names another job", b"")
            raise Missing("The body names another job than the URL.", code="unknown_job")
        return await self._transitions.apply_one(arrival)


def _named(job: Job | None, read: ReadCallback) -> str:
    """Of the ids by which the body names the work, the one that the job has; else the first."""
    known = job.provider_job_ids if job is not None else ()
    return next((name for name in (read.provider_job_id, *read.also) if name in known), read.provider_job_id)
