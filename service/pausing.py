"""Pausing: a credential that its provider refuses submits nothing more until it is changed or resumed.

Then it is on trial: one submit at a time tries it, until one is accepted.
"""

import logging
from collections.abc import Callable, Sequence

from service.accounts import Accounts
from service.clock import Clock
from service.facts import JobError
from service.gates import Gates
from service.loops import until_kept
from service.models import Announcement, DueDelivery, Job
from service.stores import Store
from service.views import event_body

log = logging.getLogger("callsheet.pausing")


class Pausing:
    def __init__(
        self,
        *,
        store: Store,
        accounts: Accounts,
        gates: Gates,
        hand_over: Callable[[Sequence[DueDelivery]], None],
        clock: Clock,
    ):
        self._store, self._accounts, self._gates = store, accounts, gates
        self._hand_over, self._clock = hand_over, clock

    async def pause(self, job: Job, error: JobError, sent_at: int, api_key: str | None = None) -> None:
        """Hold what is queued beside this job, which the provider refused for its credential, and announce it once.

        `sent_at` and `api_key`: when, and with what, it was sent. Where the credential was resumed or changed since,
        another one was refused than is used now.
        """
        credential = await self._accounts.credential_by_number(job.credential)
        if credential is None or api_key not in (None, credential.api_key):
            return
        data = {"provider": job.provider, "credential": credential.source, "reason": error.code, "job": job.id}
        data |= {"message": error.message}
        body = event_body("credential.paused", self._clock.now(), data)
        said = Announcement(type="credential.paused", body=body, data=data)
        fresh = await until_kept(lambda: self._store.pause_credential(credential, error.code, said, sent_at))
        await self._gates.refresh(now=True)
        if fresh is not None:
            log.warning("%s refuses its credential (%s): submits wait until it is changed", job.provider, error.code)
            self._hand_over(fresh)

    async def proved(self, num: int, sent_at: int) -> None:
        """A submit that left at that time was accepted: a trial of its credential is over."""
        if num in self._gates.trials:
            await until_kept(lambda: self._store.prove_credential(num, sent_at))
            await self._gates.refresh(now=True)
