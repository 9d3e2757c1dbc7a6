"""Pruning: what is past its retention goes, in batches that never hold the writer for long."""

import asyncio

from service.clock import Clock
from service.in_flight import InFlight
from service.settings import Settings
from service.stores import Store

EVERY_S = 60.0
BATCH = 500
FILE_CHUNKS = 64  # 16 MB, which the writer reads to free them
DAY_MS = 86_400_000


class Pruning:
    name = "pruning"
    needs_s = 0.0

    def __init__(self, *, store: Store, settings: Settings, clock: Clock):
        self._store, self._settings, self._clock = store, settings, clock
        self.flying = InFlight(per_key=1, total=1)
        self.wake = asyncio.Event()
        self._due = 0.0

    async def step(self, budget: float) -> bool:
        """Delete one batch of each kind; at once again while there was more."""
        if self._clock.monotonic() < self._due:
            return False
        chunks = await self._store.prune_files(FILE_CHUNKS)  # first: what was deleted by hand makes room soonest
        now, settings = self._clock.now(), self._settings
        deleted = await self._store.prune(
            attempts_before=now - settings.retention_attempts_days * DAY_MS,
            callbacks_before=now - settings.retention_callbacks_days * DAY_MS,
            held_before=now - settings.retention_held_days * DAY_MS,
            jobs_before=now - settings.retention_jobs_days * DAY_MS,
            limit=BATCH,
        )
        if deleted < BATCH and chunks < FILE_CHUNKS:
            self._due = self._clock.monotonic() + EVERY_S
        return deleted + chunks > 0
