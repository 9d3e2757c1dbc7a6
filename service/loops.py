"""Loops: each is `step(budget) -> worked`. `serve` runs them for ever, `tick` all of them until nothing is left."""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from service.clock import Clock
from service.errors import StoreUnavailable
from service.in_flight import InFlight

log = logging.getLogger("callsheet.loops")

IDLE_S = 0.25  # between scans that found nothing; a wake-up ends it early
FAILED_S = 1.0  # after a step that failed, so that a fault does not fill the log
LOOK_AGAIN_S = 1.0  # of a tick, while everything that it started is still under way
LET_GO_MS = 1_000  # until what the store failed in the middle of is tried again
TICK_MARGIN_S = 5.0  # how long after its budget a tick still waits for what is under way
UNLIMITED = math.inf  # the budget of a step in a process that stays


class Stage(Protocol):
    """One loop. `flying` is what it has under way; with less budget than `needs_s` seconds it starts nothing."""

    name: str
    needs_s: float
    wake: asyncio.Event
    flying: InFlight

    async def step(self, budget: float) -> bool:
        """Claim and start what is due and can end within `budget` seconds; True where there was anything."""


class Standing(Protocol):
    """What must go on for as long as anything is under way here."""

    settled: bool  # whether the stages may take their work yet

    async def renew(self) -> float:
        """Do what is due; in how many seconds it is due again. Raises `StoreUnavailable`."""


async def until_kept(write: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Write what the world has told us, for as long as the store cannot keep it: it is nowhere else."""
    pause = 0.2
    while True:
        try:
            return await write()
        except StoreUnavailable as error:
            log.log(error.level, "an outcome waits to be written: %s", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)


async def or_let_go(work: Coroutine[Any, Any, None], let_go: Callable[[int], Coroutine[Any, Any, Any]]) -> None:
    """Do the work of a claim. Where the store fails in the middle of it, the claim soon ends, once the store is back.

    For work that writes down itself, by `until_kept`, what came of a request that charges: then nothing is under way
    any more, and whoever claims it next finds what they would find at the lease's own end, much later.
    `let_go` has the claim end that many milliseconds from now.
    """
    try:
        await work
    except StoreUnavailable as error:
        log.log(error.level, "work is let go for now: %s", error)
        await until_kept(lambda: let_go(LET_GO_MS))


class Loops:
    """All stages of one process, run for ever or by ticks. Earlier stages make work for later ones.

    `owned` is what a tick runs inside where the process does not own the database's loops all the time.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        clock: Clock,
        owned: Callable[[], AbstractAsyncContextManager[None]],
        standing: Standing,
    ):
        self._stages, self._clock, self._owned, self._standing = stages, clock, owned, standing
        self._renewing: asyncio.Task[None] | None = None
        self._running: list[asyncio.Task[None]] = []
        self._ticking = asyncio.Lock()
        self._left_at: float | None = None  # when the stop began

    @property
    def alive(self) -> bool:
        return bool(self._running)

    def start(self) -> None:
        """Run every stage until `stop`."""
        self._renewing = asyncio.create_task(self._renew())
        self._running = [asyncio.create_task(self._forever(stage)) for stage in self._stages]

    def wake(self) -> None:
        """Let every stage look now."""
        for stage in self._stages:
            stage.wake.set()

    def leave(self) -> None:
        """Claim nothing more; what is under way goes on."""
        if self._left_at is None:
            self._left_at = self._clock.monotonic()
            self.wake()

    def left(self, seconds: float) -> float:
        """What is left of so many seconds for a stop."""
        gone = self._clock.monotonic() - self._left_at if self._left_at is not None else 0.0
        return max(0.0, seconds - gone)

    async def stop(self, seconds: float) -> None:
        """Claim nothing more; let what is under way end within that many seconds, in the order of the stages."""
        ends = self._clock.monotonic() + seconds
        self.leave()
        if self._running:
            await asyncio.wait(self._running, timeout=seconds / 2)  # a claim that is being committed ends first
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running = []
        for stage in self._stages:
            await stage.flying.drain(max(0.0, ends - self._clock.monotonic()))
        await self._renew_no_more()

    async def tick(self, budget: float) -> dict[str, Any]:
        """Step every stage until nothing is due or `budget` seconds are over; then wait for what is under way.

        Raises `LockHeld` where another process runs the loops of this database.
        """
        async with self._ticking, self._owned(), self._renewed():
            ends, steps, idle = self._clock.monotonic() + budget, 0, False
            try:
                while (left := ends - self._clock.monotonic()) > 0 and self._left_at is None:
                    busy = self._busy()  # what ends during the steps makes room that they have not seen
                    worked = [await stage.step(left) for stage in self._stages]
                    steps += sum(worked)
                    if not self._standing.settled:
                        await asyncio.sleep(min(left, IDLE_S))
                    elif not any(worked) and not busy and not self._busy():
                        idle = left >= max(stage.needs_s for stage in self._stages)
                        break
                    elif not any(worked):
                        await self._any_ended(min(left, LOOK_AGAIN_S))
            finally:
                for stage in self._stages:
                    await stage.flying.drain(max(0.0, ends + TICK_MARGIN_S - self._clock.monotonic()))
            return {"steps": steps, "finished": idle}

    def _busy(self) -> bool:
        return any(len(stage.flying) for stage in self._stages)

    async def _any_ended(self, seconds: float) -> None:
        busy = [asyncio.create_task(stage.flying.any_ended(seconds)) for stage in self._stages if len(stage.flying)]
        if busy:
            _, others = await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)
            for task in others:
                task.cancel()

    @contextlib.asynccontextmanager
    async def _renewed(self) -> AsyncIterator[None]:
        """For a tick where `start` was not called."""
        mine = self._renewing is None
        if mine:
            self._renewing = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            if mine:
                await self._renew_no_more()

    async def _renew(self) -> None:
        while True:
            try:
                pause = await self._standing.renew()
            except StoreUnavailable as error:
                log.log(error.level, "the fleet: %s", error)
                pause = FAILED_S
            except Exception:
                log.exception("the fleet: a step failed")
                pause = FAILED_S
            await asyncio.sleep(pause)

    async def _renew_no_more(self) -> None:
        renewing, self._renewing = self._renewing, None
        if renewing is not None:
            renewing.cancel()
            await asyncio.wait([renewing])

    async def _forever(self, stage: Stage) -> None:
        """One supervised loop: a step that fails is logged and tried again."""
        while self._left_at is None:
            worked, pause = False, IDLE_S
            stage.wake.clear()
            try:
                worked = await stage.step(UNLIMITED)
            except StoreUnavailable as error:
                log.log(error.level, "%s: %s", stage.name, error)
                pause = FAILED_S
            except Exception:
                log.exception("%s: a step failed", stage.name)
                pause = FAILED_S
            if not worked and self._left_at is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stage.wake.wait(), pause)
