"""Jobs that are submitted by the provider's own API: durable first, forwarded exactly once, then read like any other.

The submission loop never sees them: they are born in `submitting`, leased to the request that forwards them. Where
that request dies the lease runs out, and the outcome is looked up; nobody sends the caller's bytes again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AsyncExitStack
from typing import Any

from msgspec.structs import replace

from service.accounts import Accounts
from service.clock import Clock
from service.conversation import LEASE_MS, MARGIN_S, REPLY_BYTES, Conversations, Lease, call_for
from service.egress import Egress
from service.errors import Conflict, EgressDenied, Invalid, Lost, NotSent, Refusal, ReplyLost, Unavailable
from service.facts import Accepted, Arrival, Begin, Done, JobError, NotNow, Refused, SubmitVerdict, Unknown
from service.framing import Outgoing
from service.gates import Gates
from service.loops import until_kept
from service.models import Job, Unanswered
from service.passthrough.bodies import up_to
from service.passthrough.intents import Intent, new_job
from service.passthrough.repeats import was_not_accepted
from service.pausing import Pausing
from service.providers import Call, Provider, Reply, Request
from service.settings import Settings
from service.spending import over_budget
from service.states import ErrorCode, Record, Source
from service.stores import Store
from service.streams import Streamed
from service.told import masks_of
from service.transitions import Transitions

log = logging.getLogger("callsheet.passthrough")

IDLE_S = 60.0  # between pieces of a reply
WAITS_S = 75.0  # for a reply that the caller asked to come late; less than the lease
REFUSALS_KEPT = 50  # submits under one key of the caller's that the provider refused, before another key is wanted
KEY_REUSED = "This idempotency key was used with another request: send a new key for a new job."
CAPACITY = frozenset({"capacity", "rate_limited"})


class Forwarded(Record, frozen=True, kw_only=True):
    """The provider's reply once its meaning is durable: `head` is all of the body where `whole`, else its start."""

    job: Job
    streamed: Streamed
    head: bytes
    rest: AsyncIterator[bytes]
    whole: bool
    verdict: SubmitVerdict | None = None
    repeats: bool = False  # under a key of the caller's that an earlier job has


class Replayed(Exception):
    """The caller's `Idempotency-Key` is an earlier job's, of an equal submit."""

    def __init__(self, job: Job):
        super().__init__(job.id)
        self.job = job


class PassthroughJobs:
    def __init__(
        self,
        *,
        store: Store,
        transitions: Transitions,
        conversations: Conversations,
        egress: Egress,
        accounts: Accounts,
        gates: Gates,
        pausing: Pausing,
        settings: Settings,
        clock: Clock,
    ):
        self._store, self._transitions, self._conversations = store, transitions, conversations
        self._egress, self._accounts, self._gates, self._pausing = egress, accounts, gates, pausing
        self._settings, self._clock = settings, clock

    async def carry_out(
        self, intent: Intent, outgoing: Outgoing, stack: AsyncExitStack, row: Unanswered, held: Callable[[int], None]
    ) -> Forwarded:
        """Make the job, forward the request once, keep what its reply means; `stack` holds the reply open.

        `row` is kept with the new job, whose number `held` is told. Raises `Replayed` for a key that a job has, 409,
        422 or 429 before anything is sent, 503 where nothing could be sent, 424 (`ReplyLost`) where the reply was
        lost: then the job is settled, or becomes `unknown`, and nothing is sent again.
        """
        job, lease, repeats = await self._made(intent, row)
        if not repeats:
            held(job.num)
        self._gates.started(job.credential)
        call = self._call(intent, job, repeats=repeats)
        steps = intent.provider.submit(call)
        try:
            asked = await self._until_charging(steps, lease)
            if not repeats:
                await self._begin(job, lease, asked)
            try:
                forwarded = await self._forward(intent, job, outgoing, lease, stack)
            except (NotSent, Lost) as error:
                await self._not_read(job, lease, error, repeats=repeats)
                raise _refusal(intent.provider, job, error) from None
            verdict = await self._verdict(steps if asked else None, forwarded, lease)
            verdict = masks_of(intent.credential).inside(verdict)
            await self._record(intent, job, verdict, lease, repeats=repeats)
            return replace(forwarded, verdict=verdict, repeats=repeats)
        finally:
            steps.close()

    # -- the job

    async def _made(self, intent: Intent, row: Unanswered) -> tuple[Job, Lease, bool]:
        """The job, the lease on it, and whether it was there: the caller repeats a request under its own key.

        A key whose submit was refused is free again: that was no intent of which there may be only one.
        """
        for number in range(REFUSALS_KEPT):
            ends = self._clock.monotonic() + LEASE_MS / 1000
            new = replace(new_job(intent, number, self._settings, self._clock.now()), unanswered=row)
            created = (await self._store.create_jobs([new]))[0]
            if created.budget is not None:
                raise over_budget(created.budget, new.job.detail.cost)
            job = created.job
            if created.verdict == "created":
                return job, Lease(job.lease, ends, self._clock), False
            if created.verdict == "key_reused":
                raise Invalid(KEY_REUSED, code="idempotency_key_reused", param="Idempotency-Key")
            if was_not_accepted(job):
                continue
            if intent.idempotency_key is not None:
                raise Replayed(job)
            if self._clock.now() - (job.submitted_at or job.created_at) > intent.operation.settle_s * 1000:
                break
            return job, Lease(None, ends, self._clock), True
        raise _reused(intent, job)

    def _call(self, intent: Intent, job: Job, *, repeats: bool) -> Call:
        options = self._settings.options_of(intent.provider.name)
        return call_for(job, intent.credential, intent.input, self._clock.now(), options=options, repeat=repeats)

    # -- one request

    async def _until_charging(self, steps: Generator[Request, Reply, Any], lease: Lease) -> Request | None:
        """The provider's own request in whose place the caller's goes, after what must be read before it."""
        try:
            found = await self._conversations.hold(_to_charging(steps), lease)
        except Exception:
            log.exception("what the provider's file makes of a passthrough submit cannot be read")
            return None
        return found if isinstance(found, Request) else None

    async def _begin(self, job: Job, lease: Lease, asked: Request | None) -> None:
        told = "passthrough: the caller's own request is forwarded"
        fact = Begin(told=told, keep=asked.keep if asked is not None else None)
        arrival = Arrival(job=job.num, fact=fact, source=Source.SUBMIT, lease=lease.token)
        if (await self._transitions.apply_one(arrival)).verdict != "applied":
            raise Unavailable(f"{job.id} was taken over before it was sent: nothing was sent.", retry_after=1)

    async def _forward(
        self, intent: Intent, job: Job, outgoing: Outgoing, lease: Lease, stack: AsyncExitStack
    ) -> Forwarded:
        deadline = self._submit_s(intent)
        ends = self._clock.monotonic() + deadline
        streaming = self._egress.stream(
            outgoing,
            deadline=deadline,
            idle=IDLE_S,
            trusted=True,
            fresh=True,
            before_first_byte=lease.check(deadline + MARGIN_S),
        )
        streamed = await stack.enter_async_context(streaming)
        rest = streamed.chunks()
        try:
            async with asyncio.timeout(ends - self._clock.monotonic()):
                head, whole = await up_to(rest, REPLY_BYTES)
                head = await streamed.plain(head, REPLY_BYTES) if whole else head
        except TimeoutError:
            raise Lost("timeout") from None
        return Forwarded(job=job, streamed=streamed, head=head, rest=rest, whole=whole)

    def _submit_s(self, intent: Intent) -> float:
        sandbox = self._accounts.is_sandbox(intent.credential.num)
        usual = intent.operation.quick().submit_s if sandbox else intent.operation.submit_s
        return max(usual, WAITS_S) if intent.waits else usual

    # -- what it comes to

    async def _verdict(
        self, steps: Generator[Request, Reply, SubmitVerdict] | None, forwarded: Forwarded, lease: Lease
    ) -> SubmitVerdict:
        if not forwarded.whole or steps is None:
            return Unknown(reason="the reply is larger than is read" if steps else "the reply cannot be read")
        streamed = forwarded.streamed
        reply = Reply(status=streamed.status, headers=streamed.header, body=forwarded.head)
        try:
            found = await self._conversations.hold(_from_reply(steps, reply), lease)
        except Exception as error:
            log.exception("the reply to a passthrough submit cannot be read")
            return Unknown(reason=f"the reply could not be read ({type(error).__name__})")
        return found[0] if isinstance(found, tuple) else Unknown(reason=found.reason)

    async def _not_read(self, job: Job, lease: Lease, error: NotSent | Lost, *, repeats: bool) -> None:
        if repeats:
            return
        if isinstance(error, NotSent):
            message = f"Nothing was sent to the provider ({error.kind})."
            failed = JobError(code=ErrorCode.PROVIDER_ERROR, message=message, retryable=True)
            await self._apply(job, Refused(error=failed), lease)
        else:
            await self._apply(job, Unknown(reason=f"no reply: {error.kind}"), lease)

    async def _record(self, intent: Intent, job: Job, verdict: SubmitVerdict, lease: Lease, *, repeats: bool) -> None:
        """Durable when it returns. An error to a repeat says nothing about the first."""
        if isinstance(verdict, Accepted | Done):
            self._gates.let_in(job.credential)
            await self._pausing.proved(job.credential, job.created_at)
        if repeats and not isinstance(verdict, Accepted | Done):
            return
        fact = _ended(intent.provider, verdict) if isinstance(verdict, NotNow) else verdict
        applied = await self._apply(job, fact, lease)
        if isinstance(verdict, NotNow):
            await self._gates.told(job.credential, verdict)
        if isinstance(fact, Refused) and fact.pauses and applied:
            await self._pausing.pause(job, fact.error, job.created_at, intent.credential.api_key)

    async def _apply(self, job: Job, fact: SubmitVerdict, lease: Lease) -> bool:
        # That the provider accepted is true whoever holds the lease now; anything else only its holder may say.
        token = None if isinstance(fact, Accepted | Done) else lease.token
        arrival = Arrival(job=job.num, fact=fact, source=Source.SUBMIT, lease=token)
        applied = await until_kept(lambda: self._transitions.apply_one(arrival))
        return bool(applied.verdict == "applied")


def _to_charging(steps: Generator[Request, Reply, Any]) -> Generator[Request, Reply, Request | None]:
    try:
        request = next(steps)
        while not request.charges:
            request = steps.send((yield request))
        return request
    except StopIteration:
        return None


def _from_reply(
    steps: Generator[Request, Reply, SubmitVerdict], reply: Reply
) -> Generator[Request, Reply, tuple[SubmitVerdict]]:
    """The rest of the verb, in a tuple: what the conversation itself says when a read fails is no verdict."""
    try:
        request = steps.send(reply)
        while not request.charges:
            request = steps.send((yield request))
        return (Unknown(reason="the provider's file would send another request that charges"),)
    except StopIteration as finished:
        return (finished.value,)


def _ended(provider: Provider, verdict: NotNow) -> Refused:
    """The caller saw the refusal and decides: nothing of its own is queued here."""
    code = ErrorCode.CAPACITY if verdict.reason in CAPACITY else ErrorCode.PROVIDER_ERROR
    message = f"{provider.title} did not take it now: {verdict.reason}."
    return Refused(error=verdict.error or JobError(code=code, message=message, retryable=True))


def _reused(intent: Intent, job: Job) -> Refusal:
    refusal = Conflict(
        f"{intent.provider.correlation_header} was used too often or too long ago for {intent.provider.title} to be"
        f" certain to know it, last by {job.id}: send a new one for a new job.",
        code="correlation_reused",
        param=intent.provider.correlation_header,
    )
    refusal.job = job.id
    return refusal


def _refusal(provider: Provider, job: Job, error: NotSent | Lost) -> Refusal:
    refusal = _told(provider, job, error)
    refusal.job = job.id
    return refusal


def _told(provider: Provider, job: Job, error: NotSent | Lost) -> Refusal:
    if isinstance(error, EgressDenied):
        text = f"This request cannot be sent on, by its URL or a header: {str(error).rstrip('.')}."
        return Invalid(text, code="not_forwarded")
    if isinstance(error, NotSent):
        text = f"{provider.title} cannot be reached now ({error.kind}): nothing was sent, and {job.id} has failed."
        return Unavailable(text, code="provider_unavailable")
    return reply_lost(provider, job, f"its reply was lost ({error.kind})")


def reply_lost(provider: Provider, job: Job, what: str) -> ReplyLost:
    refusal = ReplyLost(
        f"{provider.title} may have accepted it, and {what}. Do not send it again: see GET /v1/jobs/{job.id}, which"
        " finds out or says that it is unknown. If another one is meant, send it with `Callsheet-Repeat: new`."
    )
    refusal.job = job.id
    return refusal
