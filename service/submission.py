"""Submission: claim -> send -> record. One POST to the provider, at most one charge.

`accept` makes the job durable. The loop sends it; where the outcome of a POST is not known, it learns it.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from service import addresses, signatures
from service.accounts import Accounts, Principal
from service.clock import Clock
from service.conversation import LEASE_MS, Conversations, Lease, Stopped, call_for
from service.endpoints import lane_of
from service.errors import Conflict, Invalid, TooMany
from service.loops import InFlight
from service.models import (
    Accepted,
    Announcement,
    Arrival,
    Begin,
    Credential,
    DeadlinePassed,
    Detail,
    Done,
    DueDelivery,
    Job,
    JobStatus,
    Json,
    NewJob,
    NotNow,
    Part,
    Record,
    Source,
    SubmitVerdict,
    Unknown,
    Work,
    new_correlation,
    new_id,
)
from service.outcomes import announced
from service.providers import Call, Operation, Provider
from service.sealed import Sealed
from service.settings import Settings
from service.stores import Created, Store
from service.transitions import Transitions

log = logging.getLogger("callsheet.submission")

CLAIM = 64
OVERDUE_EVERY_S = 1.0
FULL_CHECK_S = 1.0  # how old the count of a tenant's queued jobs may be
NO_CREDENTIAL_S = 60.0


class Submit(Record, frozen=True, kw_only=True):
    """A checked request for a job, from the web layer. `input_json` is `input` as it was received."""

    provider: str
    operation: str
    input: Json | None
    input_json: bytes
    fingerprint: bytes
    provider_job_id: str | None = None
    callback_url: str | None = None
    callback_secret: str | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    deadline_seconds: int | None = None
    idempotency_key: str | None = None
    traceparent: str | None = None


class Accepting:
    """Makes jobs durable: what is accepted here is never lost and never charged twice."""

    def __init__(
        self,
        *,
        store: Store,
        accounts: Accounts,
        sealed: Sealed,
        providers: Mapping[str, Provider],
        policy: addresses.Policy,
        settings: Settings,
        clock: Clock,
        wake: Callable[[], None],
        hand_over: Callable[[Sequence[DueDelivery]], None],
    ):
        self._store, self._accounts, self._sealed = store, accounts, sealed
        self._providers, self._policy, self._settings = providers, policy, settings
        self._clock, self._wake, self._hand_over = clock, wake, hand_over
        self._queued: dict[int, tuple[float, int]] = {}

    async def accept(self, principal: Principal, asked: Submit) -> tuple[Job, bool]:
        """The job, durable, and whether it was there before (same idempotency key). Raises `Refusal`."""
        operation = self._operation(asked)
        if asked.input is not None:
            operation.validate(asked.input)
        credential = await self._accounts.credential(principal.tenant, asked.provider)
        await self._check_room(principal.tenant)
        created = (await self._store.create_jobs([self._new_job(principal, asked, operation, credential)]))[0]
        return self._answer(created)

    def _operation(self, asked: Submit) -> Operation:
        provider = self._providers.get(asked.provider)
        if provider is None:
            known = ", ".join(sorted(self._providers))
            raise Invalid(f"There is no provider {asked.provider!r}; there are: {known}.", param="provider")
        operation = provider.operations.get(asked.operation)
        if operation is None:
            known = ", ".join(sorted(provider.operations))
            raise Invalid(f"{provider.title} has no operation {asked.operation!r}; it has: {known}.", param="operation")
        return operation

    async def _check_room(self, tenant: int) -> None:
        """Past the ceiling a submit is refused before it is accepted. The count may be a second old."""
        at, count = self._queued.get(tenant, (-FULL_CHECK_S, 0))
        if self._clock.monotonic() - at >= FULL_CHECK_S:
            count = await self._store.queued(tenant, self._settings.max_pending_jobs)
            self._queued[tenant] = (self._clock.monotonic(), count)
        if count >= self._settings.max_pending_jobs:
            raise TooMany(
                f"{count} jobs wait to be submitted, the most that CALLSHEET_MAX_PENDING_JOBS allows: try again later.",
                code="too_many_pending_jobs",
                retry_after=10,
            )

    def _new_job(self, principal: Principal, asked: Submit, operation: Operation, credential: Credential) -> NewJob:
        now = self._clock.now()
        job_id = new_id("job", now)
        follows = asked.provider_job_id is not None
        deadline_s = asked.deadline_seconds if asked.deadline_seconds is not None else operation.deadline_s
        job = Job(
            num=0,
            id=job_id,
            tenant=principal.tenant,
            provider=asked.provider,
            operation=asked.operation,
            credential=credential.num,
            status=JobStatus.PROCESSING if follows else JobStatus.QUEUED,
            reason=None,
            version=1,
            sequence=0,
            work=Work.POLL if follows else Work.SUBMIT,
            due_at=now,
            lease=None,
            tries=0,
            polls=0,
            first_poll_at=None,
            last_poll_at=None,
            created_at=now,
            updated_at=now,
            submitted_at=None,
            accepted_at=now if follows else None,
            finished_at=None,
            deadline_at=now + deadline_s * 1000,
            cancel_requested_at=None,
            correlation=new_correlation(),
            followed=follows,
            metadata=asked.metadata,
            detail=self._detail(asked, job_id, principal.tenant),
        )
        announcements: tuple[Announcement, ...] = ()
        if follows:
            decision = announced(job, now, "job.processing")
            assert decision.job is not None  # noqa: S101 - `announced` always gives one
            job, announcements = decision.job, decision.announcements
        return NewJob(
            job=job,
            input=asked.input_json,
            idempotency_key=asked.idempotency_key,
            fingerprint=asked.fingerprint,
            announcements=announcements,
        )

    def _detail(self, asked: Submit, job_id: str, tenant: int) -> Detail:
        parts = (Part(provider_job_id=asked.provider_job_id),) if asked.provider_job_id is not None else ()
        detail = Detail(parts=parts, traceparent=asked.traceparent, callback_token_base=self._settings.public_url)
        if asked.callback_url is None:
            return detail
        try:
            url = addresses.check_url(asked.callback_url, self._policy)
        except addresses.UrlRefused as refused:
            refused.param = "callback_url"
            raise
        split = urlsplit(url)
        secret = self._checked_secret(asked.callback_secret)
        return replace(
            detail,
            callback_url=self._sealed.seal_text(url, "callback_url", job_id, tenant),
            callback_secret=self._sealed.seal_text(secret, "callback_secret", job_id, tenant) if secret else None,
            callback_origin=f"{split.scheme}://{split.netloc}",
            callback_lane=lane_of(tenant, url),
        )

    @staticmethod
    def _checked_secret(secret: str | None) -> str | None:
        if secret is None:
            return None
        try:
            signatures.parse_secret(secret)
        except signatures.InvalidSecret as error:
            raise Invalid(
                f"{error}. Leave it out to sign with GET /v1/callback-secret.", param="callback_secret"
            ) from None
        return secret

    def _answer(self, created: Created) -> tuple[Job, bool]:
        if created.verdict == "key_reused":
            raise Invalid(
                "This idempotency key was used with another body: send a new key for a new job.",
                code="idempotency_key_reused",
                param="Idempotency-Key",
            )
        if created.verdict == "followed":
            raise Conflict(f"{created.job.id} follows this already.", code="already_followed", param="provider_job_id")
        self._hand_over(created.fresh)
        self._wake()
        return created.job, created.verdict == "replayed"


class Submission:
    """The loop: queued jobs are sent, submits of unknown outcome are settled, overdue queued jobs fail."""

    name = "submission"

    def __init__(
        self,
        *,
        store: Store,
        transitions: Transitions,
        conversations: Conversations,
        accounts: Accounts,
        providers: Mapping[str, Provider],
        settings: Settings,
        clock: Clock,
    ):
        self._store, self._transitions, self._conversations = store, transitions, conversations
        self._accounts, self._providers, self._settings, self._clock = accounts, providers, settings, clock
        self.flying = InFlight(per_key=settings.credential_concurrency, total=settings.delivery_concurrency)
        self.wake = asyncio.Event()
        self._overdue_at = 0.0

    async def step(self, budget: float) -> bool:
        """Start what is due and has room."""
        worked = await self._expire_queued()
        for work, send in ((Work.SUBMIT, self._submit), (Work.SETTLE, self._settle)):
            ends = self._clock.monotonic() + LEASE_MS / 1000
            limit = min(CLAIM, self.flying.free)
            claimed = await self._store.claim_jobs(work, room=self.flying.room, lease_ms=LEASE_MS, limit=limit)
            for job, given in claimed:
                lease = Lease(job.lease, ends, self._clock)
                self.flying.start(job.credential, self._wake_after(send(job, given, lease)))
            worked = worked or bool(claimed)
        return worked

    async def _wake_after(self, work: Any) -> None:
        try:
            await work
        finally:
            self.wake.set()  # a slot is free

    async def _expire_queued(self) -> bool:
        if self._clock.monotonic() - self._overdue_at < OVERDUE_EVERY_S:
            return False
        self._overdue_at = self._clock.monotonic()
        overdue = await self._store.overdue(CLAIM)
        fact = DeadlinePassed()
        await self._transitions.apply([Arrival(job=num, fact=fact, source=Source.CLOCK) for num in overdue])
        return bool(overdue)

    async def _submit(self, job: Job, given: bytes | None, lease: Lease) -> None:
        credential = self._accounts.credential_by_number(job.credential)
        if credential is None:
            reason = NotNow(reason="the credential is not configured on this node", after_s=NO_CREDENTIAL_S)
            await self._record(job, reason, lease)
            return
        await self._post(job, credential, given, lease, repeat=False)

    async def _settle(self, job: Job, given: bytes | None, lease: Lease) -> None:
        """Learn what became of a POST: by repeating it under the same key, by looking it up, or not at all."""
        credential = self._accounts.credential_by_number(job.credential)
        provider = self._providers[job.provider]
        operation = provider.operations[job.operation]
        repeat_until = (job.submitted_at or 0) + int(operation.settle_s * 1000)
        if credential is None or operation.settled_by in ("person", "token"):
            await self._record(job, Unknown(reason="the provider's reply was never read"), lease)
        elif operation.settled_by == "same_key" and self._clock.now() < repeat_until:
            await self._post(job, credential, given, lease, repeat=True)
        else:
            call = self._call(job, credential, given, operation)
            verdict = await self._conversations.hold(provider.lookup(call), lease)
            still = Unknown(reason=f"looked up: {verdict.reason}") if isinstance(verdict, NotNow) else verdict
            await self._record(job, still, lease)

    async def _post(self, job: Job, credential: Credential, given: bytes | None, lease: Lease, *, repeat: bool) -> None:
        provider = self._providers[job.provider]
        operation = provider.operations[job.operation]
        call = replace(self._call(job, credential, given, operation), repeat=repeat)
        called_back = call.callback_id is not None or call.callback_url is not None
        told = "the provider calls back" if called_back else "polled: the provider is given nothing to call"

        async def begin() -> bool:
            fact = Begin(called_back=called_back, told=told)
            arrival = Arrival(job=job.num, fact=fact, source=Source.SUBMIT, lease=lease.token)
            return (await self._transitions.apply_one(arrival)).verdict == "applied"

        try:
            verdict: Any = await self._conversations.hold(provider.submit(call), lease, begin)
        except Stopped:
            return
        except Exception as error:
            log.exception("%s could not be submitted", job.id)
            verdict = Unknown(reason=f"the reply could not be read ({type(error).__name__})")
        if repeat and not isinstance(verdict, Accepted | Done):
            # An error to a repeat is no refusal of the first POST.
            verdict = Unknown(reason=getattr(verdict, "reason", "the repeat was refused"))
        await self._record(job, verdict, lease)

    def _call(self, job: Job, credential: Credential, given: bytes | None, operation: Operation) -> Call:
        told = self._callback_for(credential, operation)
        options = self._settings.providers[job.provider].options if job.provider in self._settings.providers else {}
        now = self._clock.now()
        return call_for(job, credential, json.loads(given or b"{}"), now, callback_id=told, options=options)

    def _callback_for(self, credential: Credential, operation: Operation) -> str | None:
        """The id under which the provider knows our URL; None where it is polled instead."""
        given = self._settings.providers.get(credential.provider)
        if not operation.callback or (given is not None and given.poll):
            return None
        provider_is_here = _is_here(credential.base_url)
        if self._settings.public_is_loopback and not provider_is_here:
            return None  # it could not reach us: polled, and the timeline says so
        return credential.callback_id

    async def _record(self, job: Job, verdict: SubmitVerdict | Any, lease: Lease) -> None:
        # That the provider accepted is true whoever holds the lease now; anything else only its holder may say.
        token = None if isinstance(verdict, Accepted | Done) else lease.token
        await self._transitions.apply_one(Arrival(job=job.num, fact=verdict, source=Source.SUBMIT, lease=token))


def _is_here(base_url: str) -> bool:
    """Whether the provider is on this machine, as a sandbox is: then it reaches a public URL on loopback."""
    host = urlsplit(base_url).hostname or ""
    ip = addresses.parse_address(host)
    return addresses.is_loopback_name(host) if ip is None else ip.is_loopback
