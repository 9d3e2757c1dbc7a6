"""Recording: what attempts came to, written together, and what is due next claimed in the same transaction.

A transaction costs the database the same for one outcome as for sixty. So an outcome waits for others: until enough
have come, or nothing else is under way, or `WAIT_S` is over. Its slot is free meanwhile; its lease is long.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from service.in_flight import InFlight
from service.loops import until_kept
from service.models import AttemptResult, DueDelivery
from service.stores import Store

log = logging.getLogger("callsheet.recording")

WAIT_S = 0.02  # far less than subscribers take, and enough for those that were asked together
ENOUGH = 64  # more in one transaction gain less than a tenth
MOST = 512


class Recording:
    """`hand_over` gets the deliveries that the outcomes themselves caused; `claim` is begun with each write."""

    def __init__(
        self,
        *,
        store: Store,
        flying: InFlight,
        hand_over: Callable[[Sequence[DueDelivery]], None],
        claim: Callable[[], Awaitable[None]],
    ):
        self._store, self._flying, self._hand_over, self._claim = store, flying, hand_over, claim
        self._waiting: list[AttemptResult] = []
        self._enough = asyncio.Event()
        self.writing = False

    def add(self, result: AttemptResult) -> None:
        """Called by an attempt that is at its end."""
        self._waiting.append(result)
        if len(self._waiting) >= ENOUGH or self._flying.counted <= 1:
            self._enough.set()
        if not self.writing:
            self.writing = True
            self._flying.start_beside(self._write())

    async def _write(self) -> None:
        try:
            while self._waiting:
                await self._gathered()
                results, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                claiming = asyncio.create_task(self._claim_beside())  # first: it then rides in the same commit
                await self._record(results)
                await claiming
        finally:
            self.writing = False

    async def _gathered(self) -> None:
        if len(self._waiting) < ENOUGH and self._flying.counted > 1:
            self._enough.clear()
            try:
                async with asyncio.timeout(WAIT_S):
                    await self._enough.wait()
            except TimeoutError:
                pass

    async def _record(self, results: list[AttemptResult]) -> None:
        try:
            self._hand_over(await until_kept(lambda: self._store.record_attempts(results)))
        except Exception:
            log.exception("outcomes could not be written")  # their rows keep their leases and come back with the end

    async def _claim_beside(self) -> None:
        try:
            await self._claim()
        except Exception as error:  # the next step of the loop asks again
            log.log(getattr(error, "level", logging.WARNING), "a claim failed: %s", error)
