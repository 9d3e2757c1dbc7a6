"""Where outputs can be had: the stable URL that each of them has here, and their providers' links made anew."""

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from service.accounts import Accounts
from service.clock import Clock
from service.conversation import Conversations, Lease, call_for
from service.crypto import Vault
from service.facts import NotNow, Output, Unknown, Update
from service.loops import UNLIMITED
from service.models import Credential, Detail, Job
from service.once import Once
from service.providers import Call, Provider
from service.settings import Settings
from service.states import JobStatus
from service.stores import Store
from service.views import Link

log = logging.getLogger("callsheet.links")

EVERY_S = 10.0  # the links of one job are asked for no more often
AT_ONCE = 16  # of all jobs together
KEPT = 512  # jobs whose links were asked for lately


def stable_links(vault: Vault, public_url: str) -> Link:
    """Of a job's id and an output's place: the same URL each time, so that events may carry it."""

    def link(job_id: str, place: int) -> str:
        return f"{public_url}/v1/outputs/{vault.callback_token(f'output-{job_id}-{place}')}"

    return link


class Links:
    """Asks providers for newer links, by the status call that they have for the job."""

    def __init__(
        self,
        *,
        store: Store,
        accounts: Accounts,
        providers: Mapping[str, Provider],
        conversations: Conversations,
        settings: Settings,
        clock: Clock,
    ):
        self._store, self._accounts, self._providers = store, accounts, providers
        self._conversations, self._settings, self._clock = conversations, settings, clock
        self._once: Once[int, tuple[Job, bool]] = Once(clock, lambda _: EVERY_S, most=KEPT)
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def renewed(self, job: Job) -> tuple[Job, bool]:
        """The job with its provider's newest links, kept; False where the provider could not be asked now.

        Asked once in ten seconds for a job: who comes meanwhile gets the same.
        """
        return await self._once.get(job.num, lambda: self._ask_in_turn(job))

    async def _ask_in_turn(self, job: Job) -> tuple[Job, bool]:
        async with self._slots:
            try:
                return await self._ask(job)
            except Exception:
                log.exception("the links of %s could not be renewed", job.id)
                return job, False

    async def _ask(self, job: Job) -> tuple[Job, bool]:
        credential = await self._accounts.credential_by_number(job.credential)
        if credential is None:
            return job, False
        detail, reached = job.detail, True
        for part in job.detail.parts:
            if part.update is None or not part.update.outputs:
                continue
            verdict = await self._status(job, credential, part.provider_job_id)
            reached = reached and not isinstance(verdict, NotNow | Unknown)
            if isinstance(verdict, Update) and verdict.status is JobStatus.SUCCEEDED:
                detail = with_links(detail, part.provider_job_id, verdict.outputs)
        if detail == job.detail:
            return job, reached
        kept = await self._store.refresh_outputs(job, detail)
        now = replace(job, detail=detail) if kept else await self._store.job_by_number(job.num)
        return now or job, reached

    async def _status(self, job: Job, credential: Credential, provider_job_id: str) -> Any:
        call = await self.call(job, credential)
        lease = Lease(None, UNLIMITED, self._clock)
        return await self._conversations.hold(self._providers[job.provider].status(call, provider_job_id), lease)

    async def call(self, job: Job, credential: Credential) -> Call:
        """What the provider's verbs may know of a job that is over."""
        given = await self._store.job_input(job.num)
        options = self._settings.options_of(job.provider)
        return call_for(job, credential, json.loads(given or b"{}"), self._clock.now(), options=options)


def with_links(detail: Detail, provider_job_id: str, newer: tuple[Output, ...]) -> Detail:
    """The same outputs of this provider id, with the links of `newer`, place by place."""
    renewed: dict[Output, Output] = {}
    parts = []
    for part in detail.parts:
        if part.provider_job_id == provider_job_id and part.update is not None:
            for old, new in zip(part.update.outputs, newer, strict=False):
                renewed[old] = replace(old, url=new.url, expires_at=new.expires_at, needs_key=new.needs_key)
            outputs = tuple(renewed.get(output, output) for output in part.update.outputs)
            part = replace(part, update=replace(part.update, outputs=outputs))
        parts.append(part)
    outputs = tuple(renewed.get(output, output) for output in detail.outputs)
    return replace(detail, parts=tuple(parts), outputs=outputs)
