"""Waiting for a job's end: `Prefer: wait` and the command line."""

import asyncio
import contextlib
from collections.abc import Callable

from service.models import Job
from service.stores import Store

LOOK_EVERY_S = 1.0  # another node may have moved the job


class Waiting:
    def __init__(self, store: Store):
        self._store = store
        self._waiters: dict[int, set[asyncio.Event]] = {}
        self.released = False

    def tell(self, job: Job) -> None:
        """A job changed on this node."""
        for event in self._waiters.get(job.num, ()):
            event.set()

    def release(self) -> None:
        """The service stops: whoever waits is answered with the job as it is."""
        self.released = True
        for events in self._waiters.values():
            for event in events:
                event.set()

    async def until_terminal(self, job: Job, seconds: float) -> Job:
        """The job once it is terminal, or as it is after that many seconds."""
        return await self.until(job, seconds, lambda seen: seen.terminal)

    async def until(self, job: Job, seconds: float, over: Callable[[Job], bool]) -> Job:
        """The job once it is as asked for, or as it is after that many seconds."""
        ends = asyncio.get_running_loop().time() + seconds
        event = asyncio.Event()
        self._waiters.setdefault(job.num, set()).add(event)
        try:
            while not over(job) and not self.released and (left := ends - asyncio.get_running_loop().time()) > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), min(left, LOOK_EVERY_S))
                event.clear()
                job = await self._store.job_by_number(job.num) or job
            return job
        finally:
            self._waiters[job.num].discard(event)
            if not self._waiters[job.num]:
                del self._waiters[job.num]
