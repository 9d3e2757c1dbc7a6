"""Polling: claim -> send -> record. For jobs that nobody calls us about, or too late.

One due-scan over the database; no thing in memory per job.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from service.accounts import Accounts
from service.clock import Clock
from service.conversation import LEASE_MS, Conversations, Lease, Oversized, call_for
from service.facts import Arrival, CancelSent, DeadlinePassed, Fact, JobError, NotNow, Unknown, Update
from service.in_flight import InFlight
from service.loops import or_let_go, until_kept
from service.models import Credential, Job
from service.providers import Asking, Call, Provider
from service.settings import Settings
from service.states import TERMINAL, ErrorCode, JobStatus, Source, Work
from service.stores import Store
from service.transitions import Transitions

log = logging.getLogger("callsheet.polling")

CLAIM = 256
NO_CREDENTIAL_S = 300.0
PATIENCE_MS = 120_000  # past its deadline, for a job that cannot be read


class Polling:
    name = "polling"
    needs_s = 2.0

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
        lease_ms: int = LEASE_MS,
    ):
        self._store, self._transitions, self._conversations = store, transitions, conversations
        self._accounts, self._providers, self._settings, self._clock = accounts, providers, settings, clock
        self.flying = InFlight(
            per_key=settings.credential_concurrency, total=settings.delivery_concurrency, group_of=accounts.provider_of
        )
        self.wake = asyncio.Event()
        self._lease_ms = lease_ms

    async def step(self, budget: float) -> bool:
        """Start the reads that are due."""
        ends = self._clock.monotonic() + self._lease_ms / 1000
        limit, room = min(CLAIM, self.flying.free), self.flying.rooms()
        claimed = await self._store.claim_jobs(Work.POLL, room=room, lease_ms=self._lease_ms, limit=limit)
        for job, given in claimed:
            lease = Lease(job.lease, ends, self._clock, within=budget)
            let_go = partial(self._store.renew_lease, job)
            self.flying.start(job.credential, or_let_go(self._read(job, given, lease), let_go))
        return bool(claimed)

    async def _read(self, job: Job, given: bytes | None, lease: Lease) -> None:
        """Ask for every id that is not over yet, then let the deadline have its say, all in one transaction."""
        credential = await self._accounts.credential_by_number(job.credential)
        facts: list[tuple[str | None, Fact]] = []
        if credential is None:
            reason = NotNow(reason="the credential is not configured on this node", after_s=NO_CREDENTIAL_S)
            facts.append((None, reason))
        else:
            call = self._call(job, credential, given)
            if self._must_cancel(job):
                facts += await self._cancel(job, call, lease)
            for named in _to_ask(job):
                facts.append((named, await self._ask(job, call, named, lease)))
        if not facts:
            facts.append((None, NotNow(reason="no provider id is known")))
        if self._is_over(job, [fact for _, fact in facts]):
            facts.append((None, DeadlinePassed()))
        arrivals = [self._arrival(job, named, fact, lease) for named, fact in facts]
        await until_kept(lambda: self._transitions.apply(arrivals))
        self.wake.set()

    def _is_over(self, job: Job, facts: list[Fact]) -> bool:
        """Whether the deadline ends it: not by a read that failed, unless reads go on failing."""
        if job.deadline_at is None or job.terminal:
            return False
        late = self._clock.now() - job.deadline_at
        heard = not all(isinstance(fact, NotNow | CancelSent) for fact in facts)
        return late >= 0 and (heard or late >= PATIENCE_MS)

    @staticmethod
    def _arrival(job: Job, named: str | None, fact: Fact, lease: Lease) -> Arrival:
        source = Source.CLOCK if isinstance(fact, DeadlinePassed) else Source.POLL
        return Arrival(job=job.num, provider_job_id=named, fact=fact, source=source, lease=lease.token)

    def _call(self, job: Job, credential: Credential, given: bytes | None) -> Call:
        options = self._settings.options_of(job.provider)
        return call_for(job, credential, json.loads(given or b"{}"), self._clock.now(), options=options)

    async def _ask(self, job: Job, call: Call, provider_job_id: str, lease: Lease) -> Any:
        return await self._hold(job, self._providers[job.provider].status(call, provider_job_id), lease)

    def _must_cancel(self, job: Job) -> bool:
        """Once, where somebody asked for it or the deadline is over: the provider may stop what nobody waits for."""
        if job.detail.cancel_sent_at is not None or not self._providers[job.provider].operations[job.operation].cancel:
            return False
        overdue = job.deadline_at is not None and self._clock.now() >= job.deadline_at
        return not job.terminal and (job.cancel_requested_at is not None or overdue)

    async def _cancel(self, job: Job, call: Call, lease: Lease) -> list[tuple[str | None, Fact]]:
        """Ask the provider to stop; what it says is news like any other. Not sent is tried at the next read."""
        provider, facts = self._providers[job.provider], list[tuple[str | None, Fact]]()
        sent = False
        for named in _to_ask(job):
            answer = await self._hold(job, provider.cancel(call, named), lease)
            sent = sent or not isinstance(answer, NotNow)
            if isinstance(answer, Update) and answer.status in TERMINAL:
                facts.append((named, answer))
        return [(None, CancelSent()), *facts] if sent else facts

    async def _hold(self, job: Job, steps: Asking, lease: Lease) -> Any:
        try:
            verdict = await self._conversations.hold(steps, lease)
        except Exception as error:
            log.exception("%s could not be read", job.id)
            return NotNow(reason=f"the reply could not be read ({type(error).__name__})")
        if isinstance(verdict, Oversized):
            return _unread(verdict)
        return NotNow(reason=verdict.reason) if isinstance(verdict, Unknown) else verdict


def _unread(verdict: Oversized) -> Update:
    """It ends: whatever it came to stands in a reply that is larger than is ever read, and where that is, is kept."""
    message = f"{verdict.reason[:1].upper()}{verdict.reason[1:]}, and was not read: {verdict.url} has it."
    error = JobError(code=ErrorCode.PROVIDER_ERROR, message=message)
    return Update(status=JobStatus.FAILED, error=error, provider_data={"result_url": verdict.url})


def _to_ask(job: Job) -> list[str]:
    """The ids that are not over yet; all of them where the job ended by our own deadline."""
    return [
        part.provider_job_id
        for part in job.detail.parts
        if part.update is None or part.update.status not in TERMINAL or job.terminal
    ]
