"""Accepting: a job made durable. What is accepted here is never lost and never charged twice."""

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from service import addresses, signatures
from service.account_facts import AccountFacts
from service.accounts import Accounts, Principal
from service.calling import Calling
from service.clock import Clock
from service.conversation import account_call
from service.endpoints import lane_of
from service.errors import Conflict, Invalid, Refusal, TooMany
from service.files import FileRefs
from service.ids import new_correlation, new_id
from service.models import Announcement, Credential, Detail, DueDelivery, Job, NewJob, Part
from service.outcomes import announced
from service.providers import Call, Operation, Provider
from service.sealed import Sealed
from service.settings import Settings
from service.spending import over_budget
from service.states import JobStatus, Json, Record, Work
from service.stores import Created, Store

FULL_CHECK_S = 1.0  # how old the count of a tenant's queued jobs may be


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
        refs: FileRefs,
        account_facts: AccountFacts,
        calling: Calling,
        settings: Settings,
        clock: Clock,
        wake: Callable[[], None],
        hand_over: Callable[[Sequence[DueDelivery]], None],
    ):
        self._store, self._accounts, self._sealed = store, accounts, sealed
        self._providers, self._policy, self._settings = providers, policy, settings
        self._refs, self._account_facts, self._calling = refs, account_facts, calling
        self._clock, self._wake, self._hand_over = clock, wake, hand_over
        self._queued: dict[int, tuple[float, int]] = {}

    async def accept(self, principal: Principal, asked: Submit) -> tuple[Job, bool]:
        """The job, durable, and whether it was there before (same idempotency key). Raises `Refusal`."""
        try:
            new = await self._prepared(principal, asked)
        except Refusal:
            earlier = await self._earlier(principal.tenant, asked)
            if earlier is None:
                raise
            return earlier, True  # it was right when it was accepted: a file may be gone by now, a ceiling reached
        return self._answer((await self._store.create_jobs([new]))[0])

    async def _earlier(self, tenant: int, asked: Submit) -> Job | None:
        if asked.idempotency_key is None:
            return None
        return await self._store.job_by_key(tenant, asked.idempotency_key, asked.fingerprint)

    async def _prepared(self, principal: Principal, asked: Submit) -> NewJob:
        """Checked and priced. Raises `Refusal`."""
        operation = self._operation(asked)
        if asked.input is not None:
            operation.validate(asked.input)
        if asked.provider_job_id is not None:
            self._providers[asked.provider].follows(asked.operation, asked.provider_job_id)
        credential = await self._accounts.credential(principal.tenant, asked.provider)
        await self._check_room(principal.tenant)
        new = self._new_job(principal, asked, operation, credential)
        if asked.input is not None:
            call = await self._checked(principal.tenant, asked, operation, credential)
            new = _priced(new, self._providers[asked.provider], call)
        return new

    async def _checked(self, tenant: int, asked: Submit, operation: Operation, credential: Credential) -> Call:
        """The input with its files and what the account allows, refused here rather than by the provider."""
        given = asked.input or {}
        call = account_call(
            credential,
            self._clock.now(),
            self._settings.options_of(asked.provider),
            operation=asked.operation,
            input=given,
            files=await self._refs(tenant, operation.files(given), credential),
            account=await self._account_facts.of(credential),
        )
        provider = self._providers[asked.provider]
        try:
            provider.allows(call)
        except Invalid:  # by what was known of the account, which may have changed since
            newer = await self._account_facts.of(credential, newer=True)
            if newer == call.account:
                raise
            provider.allows(call := replace(call, account=newer))
        return call

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
            detail=replace(
                self._detail(asked, job_id, principal.tenant),
                # It may have been told our URL where that is one for all of the account; a URL per job it was not.
                called_back=follows and self._calling.id_for(credential, operation) is not None,
            ),
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
        if created.budget is not None:
            raise over_budget(created.budget, created.job.detail.cost)
        if created.verdict == "followed":
            raise Conflict(f"{created.job.id} follows this already.", code="already_followed", param="provider_job_id")
        self._hand_over(created.fresh)
        self._wake()
        return created.job, created.verdict == "replayed"


def _priced(new: NewJob, provider: Provider, call: Call) -> NewJob:
    """With the documented price, so that the job shows it at once and a budget can hold it back."""
    detail = replace(new.job.detail, cost=provider.price(call), free_if_failed=provider.free_if_failed)
    return replace(new, job=replace(new.job, detail=detail))
