"""Submission: claim -> send -> record. One POST to the provider, at most one charge.

The loop sends what was accepted; where the outcome of a POST is not known, it learns it.
"""

import asyncio
import json
import logging
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any

from msgspec.structs import replace

from service.account_facts import AccountFacts
from service.accounts import Accounts
from service.calling import Calling
from service.clock import Clock
from service.conversation import LEASE_MS, SHORTEST_SUBMIT_S, Conversations, Lease, Stopped, call_for
from service.errors import Refusal, StoreUnavailable
from service.facts import (
    Accepted,
    Arrival,
    Begin,
    Candidates,
    DeadlinePassed,
    Done,
    JobError,
    NotFound,
    NotNow,
    Refused,
    SubmitVerdict,
    Unknown,
    Update,
)
from service.files import FileRefs
from service.gates import Gates, Sent
from service.in_flight import InFlight
from service.loops import or_let_go, until_kept
from service.models import Credential, Job
from service.pausing import Pausing
from service.providers import Call, Operation, Provider, Request
from service.settings import Settings
from service.states import ErrorCode, Json, Source, Work
from service.stores import Store
from service.transitions import Transitions

log = logging.getLogger("callsheet.submission")

CLAIM = 64
OVERDUE_EVERY_S = 1.0
NO_CREDENTIAL_S = 60.0


class Submission:
    """The loop: queued jobs are sent, submits of unknown outcome are settled, overdue queued jobs fail."""

    name = "submission"
    needs_s = SHORTEST_SUBMIT_S

    def __init__(
        self,
        *,
        store: Store,
        transitions: Transitions,
        conversations: Conversations,
        accounts: Accounts,
        account_facts: AccountFacts,
        calling: Calling,
        refs: FileRefs,
        gates: Gates,
        pausing: Pausing,
        providers: Mapping[str, Provider],
        settings: Settings,
        clock: Clock,
        lease_ms: int = LEASE_MS,
    ):
        self._store, self._transitions, self._conversations = store, transitions, conversations
        self._accounts, self._account_facts, self._calling, self._refs = accounts, account_facts, calling, refs
        self._gates, self._pausing = gates, pausing
        self._providers, self._settings, self._clock = providers, settings, clock
        self.flying = InFlight(
            per_key=settings.credential_concurrency, total=settings.delivery_concurrency, group_of=accounts.provider_of
        )
        self.wake = asyncio.Event()
        self._overdue_at, self._lease_ms = 0.0, lease_ms

    async def step(self, budget: float) -> bool:
        """Start what is due, has room, and can end within the budget. What is lost is settled before more is sent."""
        worked = await self._expire_queued()
        if budget < self.needs_s:
            return worked
        await self._gates.refresh()
        for work in (Work.SETTLE, Work.SUBMIT):
            ends = self._clock.monotonic() + self._lease_ms / 1000
            limit = min(CLAIM, self.flying.free)
            room = self._gates.room(self.flying.rooms()) if work is Work.SUBMIT else self.flying.rooms()
            claimed = await self._store.claim_jobs(
                work, room=room, lease_ms=self._lease_ms, limit=limit, trials=self._gates.trials
            )
            for job, given in claimed:
                if work is Work.SUBMIT and not self._gates.ours(job.credential):  # the commit took long
                    self.flying.start(job.credential, until_kept(partial(self._store.renew_lease, job, 0)))
                    continue
                renew = partial(self._store.renew_lease, job, self._lease_ms) if work is Work.SUBMIT else None
                renew_s = self._lease_ms / 1000
                lease = Lease(job.lease, ends, self._clock, within=budget, renew=renew, renew_s=renew_s)
                self.flying.start(job.credential, self._begun(work, job, given, lease))
            worked = worked or bool(claimed)
        return self._gates.met_uncounted() or worked

    def _begun(self, work: Work, job: Job, given: bytes | None, lease: Lease) -> Coroutine[Any, Any, None]:
        """A submit is counted at its gate from now on, not only when it gets its turn."""
        if work is Work.SUBMIT:
            sending = self._submit(job, given, lease, self._gates.claimed(job.credential))
        else:
            sending = self._settle(job, given, lease)

        async def counted() -> None:
            try:
                await or_let_go(sending, partial(self._store.renew_lease, job))
            finally:
                if work is Work.SUBMIT:
                    self._gates.answered(job.credential)
                self.wake.set()  # a slot is free

        return counted()

    async def _expire_queued(self) -> bool:
        if self._clock.monotonic() - self._overdue_at < OVERDUE_EVERY_S:
            return False
        self._overdue_at = self._clock.monotonic()
        overdue = await self._store.overdue(CLAIM)
        fact = DeadlinePassed()
        await self._transitions.apply([Arrival(job=num, fact=fact, source=Source.CLOCK) for num in overdue])
        return bool(overdue)

    # -- sending

    async def _submit(self, job: Job, given: bytes | None, lease: Lease, sent: Sent) -> None:
        credential = await self._accounts.credential_by_number(job.credential)
        if credential is None:
            reason = NotNow(reason="the credential is not configured on this node", after_s=NO_CREDENTIAL_S)
            await self._record(job, reason, lease)
            return
        try:
            call = await self._call(job, credential, given)
            self._providers[job.provider].allows(call)
        except StoreUnavailable:  # that is no word about the job
            raise
        except Refusal as refused:  # a file is gone, or the account allows less than when the job was accepted
            error = JobError(code=ErrorCode.INVALID_INPUT, message=refused.detail)
            await self._record(job, Refused(error=error), lease)
            return
        await self._post(job, call, lease, sent)

    async def _post(self, job: Job, call: Call, lease: Lease, sent: Sent) -> None:
        provider = self._providers[job.provider]
        called_back = call.callback_id is not None or call.callback_url is not None
        told = "the provider calls back" if called_back else "polled: the provider is given nothing to call"

        async def begin(request: Request) -> bool:
            fact = Begin(called_back=called_back, told=told, keep=request.keep)
            arrival = Arrival(job=job.num, fact=fact, source=Source.SUBMIT, lease=lease.token)
            return (await self._transitions.apply_one(arrival)).verdict == "applied"

        try:
            verdict: Any = await self._conversations.hold(provider.submit(call), lease, begin, self._submit_s(job))
        except Stopped:
            return
        except Exception as error:
            log.exception("%s could not be submitted", job.id)
            verdict = Unknown(reason=f"the reply could not be read ({type(error).__name__})")
        if call.repeat and not isinstance(verdict, Accepted | Done):
            # An error to a repeat is no refusal of the first POST.
            verdict = Unknown(reason=getattr(verdict, "reason", "the repeat was refused"))
        await self._record(job, verdict, lease, replace(sent, api_key=call.api_key))

    async def _call(self, job: Job, credential: Credential, given: bytes | None, *, repeat: bool = False) -> Call:
        """To submit by. Raises `Refusal` where the input names a file that is not to be had."""
        decoded = json.loads(given or b"{}")
        kept = job.detail.kept if repeat else None
        uses = self._operation(job).files(decoded) if kept is None else []
        files = await self._refs(job.tenant, uses, credential) if uses else {}
        account = await self._account_facts.of(credential)
        return self._asking(job, credential, decoded, files=files, account=account, repeat=repeat, kept=kept)

    def _asking(self, job: Job, credential: Credential, decoded: Json, **more: Any) -> Call:
        """To ask by: what became of a submit needs no file that may be gone by now."""
        operation, ours = self._operation(job), not job.detail.passthrough
        return call_for(
            job,
            credential,
            decoded,
            self._clock.now(),
            callback_id=self._calling.id_for(credential, operation) if ours else None,
            callback_url=self._calling.url_for(job, credential, operation) if ours else None,
            options=self._settings.options_of(job.provider),
            **more,
        )

    def _operation(self, job: Job) -> Operation:
        return self._providers[job.provider].operations[job.operation]

    def _submit_s(self, job: Job) -> float:
        operation = self._operation(job)
        return operation.quick().submit_s if self._accounts.is_sandbox(job.credential) else operation.submit_s

    # -- learning what became of a POST

    async def _settle(self, job: Job, given: bytes | None, lease: Lease) -> None:
        """Whatever goes wrong with it is written down, so that the time which it may take comes to its end."""
        try:
            await self._learn(job, given, lease)
        except StoreUnavailable:
            raise
        except Refusal as refused:
            await self._record(job, Unknown(reason=refused.detail), lease)
        except Exception as error:
            log.exception("what became of %s could not be asked", job.id)
            await self._record(job, Unknown(reason=f"it could not be looked up ({type(error).__name__})"), lease)

    async def _learn(self, job: Job, given: bytes | None, lease: Lease) -> None:
        """By reading an id that somebody named, by repeating the POST under the same key, or by looking it up."""
        credential = await self._accounts.credential_by_number(job.credential)
        operation = self._operation(job)
        since = self._clock.now() - (job.submitted_at or 0)  # below 0 the clock was set back, and nobody knows
        remembered = operation.settled_by == "same_key" and 0 <= since < operation.settle_s * 1000
        if credential is None:
            await self._record(job, Unknown(reason="the credential is not configured on this node"), lease)
            return
        asking = self._asking(job, credential, json.loads(given or b"{}"), repeat=True)
        if job.detail.claimed is not None:
            await self._read_claimed(job, asking, lease)
        elif operation.settled_by == "person":
            await self._record(job, Unknown(reason="the provider's reply was never read"), lease)
        elif remembered and not job.detail.passthrough:
            call = await self._call(job, credential, given, repeat=True)
            await self._post(job, call, lease, Sent(at=job.submitted_at or 0))
        else:
            await self._look_up(job, asking, lease)

    async def _look_up(self, job: Job, call: Call, lease: Lease) -> None:
        verdict: Any = await self._conversations.hold(self._providers[job.provider].lookup(call), lease)
        if isinstance(verdict, Candidates):
            verdict = await self._unbound(job, verdict)
        still = Unknown(reason=f"looked up: {verdict.reason}") if isinstance(verdict, NotNow) else verdict
        await self._record(job, still, lease)

    async def _unbound(self, job: Job, rows: Candidates) -> SubmitVerdict | NotFound:
        """The one row that belongs to no job; a person must choose where there are several."""
        owners = {row: await self._store.job_by_provider_id(job.credential, row) for row in rows.provider_job_ids}
        free = [row for row, owner in owners.items() if owner is None or owner.num == job.num]
        if len(free) == 1:
            return Accepted(provider_job_ids=(free[0],), note=rows.note or "found in the provider's list")
        if free:  # a callback may still say which
            hopeless = not job.detail.called_back
            return NotFound(reason=f"{len(free)} rows of the provider's list fit this submit", hopeless=hopeless)
        return NotFound(reason="the rows of the provider's list that fit belong to other jobs")

    async def _read_claimed(self, job: Job, call: Call, lease: Lease) -> None:
        """The status of the claimed id, asked with our own key: where the provider knows it, it is this job's."""
        claimed = job.detail.claimed or ""
        verdict: Any = await self._conversations.hold(self._providers[job.provider].status(call, claimed), lease)
        if not isinstance(verdict, Update):  # a status that cannot be read now says nothing about the submit
            still = Unknown(reason=f"read back: {verdict.reason}") if isinstance(verdict, NotNow) else verdict
            await self._record(job, still, lease)
            return
        await self._record(job, Accepted(provider_job_ids=(claimed,), note="a callback named it"), lease)
        news = Arrival(job=job.num, provider_job_id=claimed, fact=verdict, source=Source.POLL)
        await until_kept(lambda: self._transitions.apply_one(news))

    async def _record(self, job: Job, verdict: SubmitVerdict | Any, lease: Lease, sent: Sent | None = None) -> None:
        """Durable when it returns; `sent` is not known of what was sent by an earlier claim."""
        if isinstance(verdict, Refused) and verdict.pauses and sent is not None:
            with self._gates.closed(job.credential):
                if await self._apply(job, replace(verdict, probe=sent.probe), lease):
                    await self._pausing.pause(job, verdict.error, sent.at, sent.api_key)
            return
        await self._apply(job, verdict, lease)
        if isinstance(verdict, Accepted | Done):
            self._gates.let_in(job.credential)
            await self._pausing.proved(job.credential, sent.at if sent is not None else job.submitted_at or 0)
        elif isinstance(verdict, NotNow):
            await self._gates.told(job.credential, verdict)

    async def _apply(self, job: Job, verdict: SubmitVerdict | Any, lease: Lease) -> bool:
        # That the provider accepted is true whoever holds the lease now; anything else only its holder may say.
        token = None if isinstance(verdict, Accepted | Done) else lease.token
        arrival = Arrival(job=job.num, fact=verdict, source=Source.SUBMIT, lease=token)
        applied = await until_kept(lambda: self._transitions.apply_one(arrival))
        return bool(applied.verdict == "applied")
