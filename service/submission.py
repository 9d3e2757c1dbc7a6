"""Submission: claim -> send -> record. One POST to the provider, at most one charge.

The loop sends what was accepted; where the outcome of a POST is not known, it learns it.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import replace

from service import addresses
from service.accounts import Accounts
from service.clock import Clock
from service.conversation import LEASE_MS, SHORTEST_SUBMIT_S, Conversations, Lease, Stopped, call_for
from service.facts import Accepted, Arrival, Begin, DeadlinePassed, Done, NotNow, SubmitVerdict, Unknown
from service.loops import InFlight, until_kept
from service.models import Credential, Job
from service.providers import Call, Operation, Provider
from service.settings import Settings
from service.states import Source, Work
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
        providers: Mapping[str, Provider],
        settings: Settings,
        clock: Clock,
    ):
        self._store, self._transitions, self._conversations = store, transitions, conversations
        self._accounts, self._providers, self._settings, self._clock = accounts, providers, settings, clock
        self.flying = InFlight(
            per_key=settings.credential_concurrency, total=settings.delivery_concurrency, group_of=accounts.provider_of
        )
        self.wake = asyncio.Event()
        self._overdue_at = 0.0

    async def step(self, budget: float) -> bool:
        """Start what is due, has room, and can end within the budget. What is lost is settled before more is sent."""
        worked = await self._expire_queued()
        if budget < self.needs_s:
            return worked
        for work, send in ((Work.SETTLE, self._settle), (Work.SUBMIT, self._submit)):
            ends = self._clock.monotonic() + LEASE_MS / 1000
            limit = min(CLAIM, self.flying.free)
            claimed = await self._store.claim_jobs(work, room=self.flying.rooms(), lease_ms=LEASE_MS, limit=limit)
            for job, given in claimed:
                lease = Lease(job.lease, ends, self._clock, within=budget)
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
        credential = await self._accounts.credential_by_number(job.credential)
        if credential is None:
            reason = NotNow(reason="the credential is not configured on this node", after_s=NO_CREDENTIAL_S)
            await self._record(job, reason, lease)
            return
        await self._post(job, credential, given, lease, repeat=False)

    async def _settle(self, job: Job, given: bytes | None, lease: Lease) -> None:
        """Learn what became of a POST: by repeating it under the same key, by looking it up, or not at all."""
        credential = await self._accounts.credential_by_number(job.credential)
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
            verdict: Any = await self._conversations.hold(provider.submit(call), lease, begin, self._submit_s(job))
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
        if not operation.callback or credential.callback_secret is None or (given is not None and given.poll):
            return None
        provider_is_here = _is_here(credential.base_url)
        if self._settings.public_is_loopback and not provider_is_here:
            return None  # it could not reach us: polled, and the timeline says so
        return credential.callback_id

    def _submit_s(self, job: Job) -> float:
        operation = self._providers[job.provider].operations[job.operation]
        return operation.quick().submit_s if self._accounts.is_sandbox(job.credential) else operation.submit_s

    async def _record(self, job: Job, verdict: SubmitVerdict | Any, lease: Lease) -> None:
        # That the provider accepted is true whoever holds the lease now; anything else only its holder may say.
        token = None if isinstance(verdict, Accepted | Done) else lease.token
        arrival = Arrival(job=job.num, fact=verdict, source=Source.SUBMIT, lease=token)
        await until_kept(lambda: self._transitions.apply_one(arrival))


def _is_here(base_url: str) -> bool:
    """Whether the provider is on this machine, as a sandbox is: then it reaches a public URL on loopback."""
    return addresses.is_loopback_host(urlsplit(base_url).hostname or "")
