"""Reconciling: a provider's own books against ours. It reads, adopts what was lost, and tells what does not match.

It sends no submit: a request that charges has nobody here to begin it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from service.accounts import Accounts
from service.calling import Calling
from service.clock import Clock
from service.conversation import Conversations, Lease, account_call, call_for
from service.errors import Invalid, Missing, Unavailable
from service.facts import Accepted, Arrival, Candidates, Done, Hint, NotNow, Unknown
from service.loops import UNLIMITED
from service.models import Credential
from service.providers import HistoryRow, Provider
from service.settings import Settings
from service.states import TERMINAL, JobStatus, Json, Record, Source
from service.stores import Booked, Store
from service.transitions import Transitions
from service.views import cost_view, instant

READ_S = 240.0  # for all pages of the provider's list
MARGIN_MS = 10 * 60_000  # our clock and theirs may differ
LISTED_MS = 60_000  # what was submitted so lately need not be in the list yet
JOBS = 1_000  # of ours in one read
BATCH = 200  # facts applied in one transaction
LOOKUPS = 100  # jobs that are looked up one by one in a run; the next run takes on
FOUND = "found in the provider's history"
COUNTED = (JobStatus.PROCESSING, JobStatus.SUCCEEDED)  # states in which the provider should know the job


class Report(Record, frozen=True, kw_only=True):
    """What a run read and did. Lists of `{"job", "provider_job_id(s)", ...}`."""

    since: int
    read: int  # rows of the provider's list
    adopted: Sequence[Json]  # lost submits that are followed now
    updated: Sequence[Json]  # news that had not reached us: applied, or being read now
    charges_without_job: Sequence[Json]
    jobs_without_charge: Sequence[Json]


class Reconciling:
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
        calling: Calling,
        wake: Callable[[], None],
    ):
        self._store, self._transitions, self._conversations = store, transitions, conversations
        self._accounts, self._providers, self._settings = accounts, providers, settings
        self._clock, self._calling, self._wake = clock, calling, wake

    async def run(self, tenant: int, name: str, since: int) -> Report:
        """Compare what the tenant's credential was charged for since then (milliseconds) with its jobs.

        Raises `Missing` for no such provider, `Invalid` where it lists no history or there is no credential,
        `Unavailable` where it cannot be asked now. May be run again at any time.
        """
        provider = self._with_history(name)
        credential = await self._accounts.credential(tenant, name)
        until = self._clock.now() - LISTED_MS
        rows = await self._history(provider, credential, since - MARGIN_MS)
        adopted = await self._adopt(credential, rows, since)
        adopted += await self._look_up(provider, credential, since)
        owned = _by_id(await self._store.owners(credential.num, [row.provider_job_id for row in rows]))
        updated = await self._tell(rows, owned, {said["job"] for said in adopted})
        self._wake()
        return Report(
            since=since,
            read=len(rows),
            adopted=adopted,
            updated=updated,
            charges_without_job=[_charge(row) for row in rows if _is_stray(row, owned, since)],
            jobs_without_charge=[_job(job) for job in await self._uncharged(credential, rows, (since, until))],
        )

    def _with_history(self, name: str) -> Provider:
        provider = self._providers.get(name)
        if provider is None:
            known = ", ".join(sorted(self._providers))
            raise Missing(f"There is no such provider; there are: {known}.", param="provider")
        if not provider.reads_history:
            raise Invalid(
                f"{provider.title} lists no history, so there is nothing to compare with: look at its dashboard and"
                " settle each job of GET /v1/jobs?status=unknown with POST /v1/jobs/{id}/resolve.",
                code="no_history",
                param="provider",
            )
        return provider

    async def _history(self, provider: Provider, credential: Credential, since: int) -> list[HistoryRow]:
        call = account_call(credential, self._clock.now(), self._settings.options_of(provider.name))
        try:
            async with asyncio.timeout(READ_S):
                found: Any = await self._conversations.hold(provider.history(call, max(since, 0)), self._lease())
        except TimeoutError:
            found = NotNow(reason=f"reading its list took longer than {READ_S:.0f} seconds: give a later `since`")
        if isinstance(found, NotNow | Unknown):
            raise Unavailable(f"{provider.title} could not be asked: {found.reason}.", code="provider_unavailable")
        return list(found)

    def _lease(self) -> Lease:
        return Lease(None, UNLIMITED, self._clock)

    # -- adopting

    async def _adopt(self, credential: Credential, rows: Sequence[HistoryRow], since: int) -> list[Json]:
        """Bind rows that carry the correlation of a job that has no id yet."""
        owned = _by_id(await self._store.owners(credential.num, [row.provider_job_id for row in rows]))
        carried: dict[str, list[HistoryRow]] = {}
        for row in rows:
            if row.correlation and row.provider_job_id not in owned:
                carried.setdefault(row.correlation, []).append(row)
        adopted: list[Json] = []
        async for job in self._jobs(credential, since):
            found = carried.get(job.correlation, []) if not job.provider_job_ids else []
            if len({row.provider_job_id for row in found}) == 1:  # of several a person must say which is this one's
                ids = (found[0].provider_job_id,)
                adopted += await self._bind(job, Accepted(provider_job_ids=ids, cost=found[0].cost, note=FOUND))
        return adopted

    async def _look_up(self, provider: Provider, credential: Credential, since: int) -> list[Json]:
        """Jobs that no row names by its correlation: each is looked for by what tells it from others."""
        lost = [job async for job in self._jobs(credential, since) if self._is_looked_up(provider, job)]
        adopted: list[Json] = []
        for job in lost[:LOOKUPS]:
            fact = await self._found(provider, credential, job)
            if fact is not None:
                adopted += await self._bind(job, fact)
        return adopted

    @staticmethod
    def _is_looked_up(provider: Provider, job: Booked) -> bool:
        if job.status is not JobStatus.UNKNOWN or job.operation not in provider.operations:
            return False
        return provider.operations[job.operation].settled_by in ("lookup", "token")

    async def _found(self, provider: Provider, credential: Credential, booked: Booked) -> Accepted | Done | None:
        """What the provider's list has of this submit; None where nothing does, or more than one row may be it."""
        job, given = await self._store.job_by_number(booked.num), await self._store.job_input(booked.num)
        if job is None:
            return None
        options = self._settings.options_of(provider.name)
        operation = provider.operations[job.operation]  # by the URL that it was told, too, a submit can be found
        told = None if job.detail.passthrough else self._calling.url_for(job, credential, operation)
        more: Json = {"options": options, "callback_url": told, "repeat": True}
        call = call_for(job, credential, json.loads(given or b"{}"), self._clock.now(), **more)
        verdict: Any = await self._conversations.hold(provider.lookup(call), self._lease())
        if isinstance(verdict, Candidates):
            taken = _by_id(await self._store.owners(credential.num, verdict.provider_job_ids))
            free = tuple(row for row in verdict.provider_job_ids if row not in taken)
            return Accepted(provider_job_ids=free, note=verdict.note or FOUND) if len(free) == 1 else None
        return verdict if isinstance(verdict, Accepted | Done) else None

    async def _bind(self, job: Booked, fact: Accepted | Done) -> list[Json]:
        applied = await self._transitions.apply_one(Arrival(job=job.num, fact=fact, source=Source.POLL))
        if applied.verdict not in ("applied", "late") or applied.job is None:
            return []
        return [{"job": job.id, "provider_job_ids": list(applied.job.provider_job_ids), "status": applied.job.status}]

    # -- telling

    async def _tell(
        self, rows: Sequence[HistoryRow], owned: Mapping[str, Booked], adopted: Collection[str]
    ) -> list[Json]:
        """Apply how the provider says that work ended; where it does not say, open jobs are read now."""
        news = [(row, owned[row.provider_job_id]) for row in rows if row.provider_job_id in owned]
        arrivals = [arrival for row, job in news if (arrival := _arrival(row, job)) is not None]
        updated: list[Json] = []
        for start in range(0, len(arrivals), BATCH):
            batch = arrivals[start : start + BATCH]
            for arrival, result in zip(batch, await self._transitions.apply(batch), strict=True):
                if result.verdict in ("applied", "late") and result.job is not None:
                    read_now = isinstance(arrival.fact, Hint)
                    if read_now and result.job.id in adopted:
                        continue  # told already
                    said = {"job": result.job.id, "provider_job_id": arrival.provider_job_id}
                    updated.append(said | {"status": result.job.status, "read_now": read_now})
        return updated

    async def _uncharged(
        self, credential: Credential, rows: Sequence[HistoryRow], period: tuple[int, int]
    ) -> list[Booked]:
        known = {row.provider_job_id for row in rows}
        return [
            job
            async for job in self._jobs(credential, period[0])
            if job.status in COUNTED and job.provider_job_ids and known.isdisjoint(job.provider_job_ids)
            if period[0] <= (job.submitted_at or job.accepted_at or 0) <= period[1]
        ]

    async def _jobs(self, credential: Credential, since: int) -> AsyncIterator[Booked]:
        """The credential's jobs of the period, a page at a time."""
        after = 0
        while page := await self._store.booked(credential.num, since=since, after=after, limit=JOBS):
            for job in page:
                yield job
            after = page[-1].num


def _by_id(jobs: Iterable[Booked]) -> dict[str, Booked]:
    return {provider_job_id: job for job in jobs for provider_job_id in job.provider_job_ids}


def _arrival(row: HistoryRow, job: Booked) -> Arrival | None:
    """The news in a row; a hint where it only says that there is something to read."""
    over = row.update is not None and row.update.status in TERMINAL
    if over and row.update is not None and row.update.status != job.status:
        fact: Any = row.update
    elif not over and job.status is JobStatus.PROCESSING:
        fact = Hint()
    else:
        return None
    return Arrival(job=job.num, provider_job_id=row.provider_job_id, fact=fact, source=Source.POLL)


def _is_stray(row: HistoryRow, owned: Mapping[str, Booked], since: int) -> bool:
    """A charge of the period that belongs to no job; what was given back is none."""
    if row.provider_job_id in owned or (row.at is not None and row.at < since):
        return False
    return row.cost is None or Decimal(row.cost.amount) > 0


def _charge(row: HistoryRow) -> Json:
    return {
        "provider_job_id": row.provider_job_id,
        "at": instant(row.at),
        "operation": row.operation,
        "correlation": row.correlation,
        "cost": cost_view(row.cost),
        "about": row.about,
    }


def _job(job: Booked) -> Json:
    ids = list(job.provider_job_ids)
    return {"job": job.id, "provider_job_ids": ids, "operation": job.operation, "status": job.status}
