"""One question, many askers: it is asked once, and its answer holds for a while."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from service.clock import Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Once(Generic[K, V]):
    """Answers by key, in memory. `holds(answer)` is for how many seconds; at most `most` answers are kept."""

    def __init__(self, clock: Clock, holds: Callable[[V], float], *, most: int = 4096):
        self._clock, self._holds, self._most = clock, holds, most
        self._asked: dict[K, asyncio.Task[V]] = {}
        self._known: dict[K, tuple[float, V]] = {}  # until when, and what; oldest first

    async def get(self, key: K, ask: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """What is known, or what `ask` says. Raises what `ask` raises, to everybody who waits for it."""
        known = self._known.get(key)
        if known is not None and self._clock.monotonic() < known[0]:
            return known[1]
        if key not in self._asked:
            task = self._asked[key] = asyncio.create_task(ask())
            task.add_done_callback(lambda done: self._answered(key, done))
        return await asyncio.shield(self._asked[key])  # whoever leaves, the others still wait for it

    def _answered(self, key: K, task: asyncio.Task[V]) -> None:
        self._asked.pop(key, None)
        self._known.pop(key, None)
        if task.cancelled() or task.exception() is not None:
            return
        self._known[key] = (self._clock.monotonic() + self._holds(task.result()), task.result())
        while len(self._known) > self._most:
            self._known.pop(next(iter(self._known)))
