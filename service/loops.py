"""Loops: each is `step(budget) -> worked`. `serve` runs them for ever, `tick` all of them until nothing is left."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from service.clock import Clock
from service.errors import StoreUnavailable

log = logging.getLogger("callsheet.loops")

IDLE_S = 0.25  # between scans that found nothing; a wake-up ends it early
FAILED_S = 1.0  # after a step that failed, so that a fault does not fill the log


class Stage(Protocol):
    """One loop. `flying` is what it has under way."""

    name: str
    wake: asyncio.Event
    flying: "InFlight"

    async def step(self, budget: float) -> bool:
        """Claim and start what is due; True where there was anything. Waits no longer than `budget` seconds."""


class InFlight:
    """What is under way, by key (a credential, a lane): who has room, and when anything ends."""

    def __init__(self, *, per_key: int, total: int):
        self._per_key, self._total = per_key, total
        self._counts: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def free(self) -> int:
        """How many more may start, over all keys: what one claim may take at most."""
        return max(0, self._total - len(self._tasks))

    def count(self, key: int) -> int:
        return self._counts.get(key, 0)

    def room(self, key: int) -> int:
        """How many more may start for this key. Asked on other threads, too: it only reads."""
        return max(0, min(self._per_key - self.count(key), self.free))

    def start(self, key: int, work: Coroutine[Any, Any, None]) -> None:
        self._counts[key] = self.count(key) + 1
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(key, done))

    def _ended(self, key: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            # The row keeps its lease and comes back when that ends.
            log.error("a task failed: %s", type(error).__name__, exc_info=error)

    async def any_ended(self, seconds: float) -> None:
        """Return when anything ends, or after that many seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    async def drain(self, seconds: float) -> None:
        """Wait for what is under way; after that many seconds the rest is cancelled and its leases run out."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)


class Loops:
    """All stages of one process, run for ever or by ticks; never both at once."""

    def __init__(self, stages: Sequence[Stage], clock: Clock):
        self._stages, self._clock = stages, clock
        self._running: list[asyncio.Task[None]] = []
        self._ticking = asyncio.Lock()
        self._stopping = False

    @property
    def alive(self) -> bool:
        return bool(self._running)

    def start(self) -> None:
        """Run every stage until `stop`."""
        self._running = [asyncio.create_task(self._forever(stage)) for stage in self._stages]

    async def stop(self, seconds: float) -> None:
        """Claim nothing more; let what is under way end within that many seconds."""
        self._stopping = True
        for task in self._running:
            task.cancel()
        for task in self._running:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._running = []
        await asyncio.gather(*(stage.flying.drain(seconds) for stage in self._stages))

    async def tick(self, budget: float) -> dict[str, Any]:
        """Step every stage until nothing is due or `budget` seconds are over; then wait for what is under way."""
        async with self._ticking:
            ends, steps = self._clock.monotonic() + budget, 0
            while (left := ends - self._clock.monotonic()) > 0:
                worked = [await stage.step(left) for stage in self._stages]
                steps += sum(worked)
                if not any(worked):
                    if not any(len(stage.flying) for stage in self._stages):
                        break
                    await self._any_ended(left)
            for stage in self._stages:
                await stage.flying.drain(70.0)  # longer than any request may take
            return {"steps": steps, "finished": left > 0}

    async def _any_ended(self, seconds: float) -> None:
        busy = [asyncio.create_task(stage.flying.any_ended(seconds)) for stage in self._stages if len(stage.flying)]
        _, others = await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()

    async def _forever(self, stage: Stage) -> None:
        """One supervised loop: a step that fails is logged and tried again."""
        while not self._stopping:
            worked, pause = False, IDLE_S
            stage.wake.clear()
            try:
                worked = await stage.step(1.0)
            except StoreUnavailable as error:
                log.warning("%s: %s", stage.name, error)
                pause = FAILED_S
            except Exception:
                log.exception("%s: a step failed", stage.name)
                pause = FAILED_S
            if not worked:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stage.wake.wait(), pause)
