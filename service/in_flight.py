"""What a loop has under way: who has room, and when anything ends."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger("callsheet.loops")


class InFlight:
    """What is under way, by key (a credential, a lane): who has room, and when anything ends.

    `group_of` puts keys together (credentials of one provider): one group takes at most half of the total.
    """

    def __init__(self, *, per_key: int, total: int, group_of: Callable[[int], str] | None = None):
        self._per_key, self.total = per_key, total
        self._group_of = group_of
        self._counts: dict[int, int] = {}
        self._groups: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._beside: set[asyncio.Task[None]] = set()  # of those: what takes no room

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def free(self) -> int:
        """How many more may start, over all keys: what one claim may take at most."""
        return max(0, self.total - self.counted)

    @property
    def counted(self) -> int:
        """How many are under way that take room."""
        return len(self._tasks) - len(self._beside)

    def count(self, key: int) -> int:
        return self._counts.get(key, 0)

    def rooms(self) -> Callable[[int], int]:
        """How many more may start for a key, asked once for each key of one claim, on the database's thread.

        What a group shares is counted down as it is given.
        """
        given: dict[str, int] = {}

        def room(key: int) -> int:
            free = min(self._per_key - self.count(key), self.free)
            if self._group_of is not None:
                group = self._group_of(key)
                taken = self._groups.get(group, 0) + given.get(group, 0)
                free = min(free, self.total // 2 - taken)
                given[group] = given.get(group, 0) + max(0, free)
            return max(0, free)

        return room

    def start(self, key: int, work: Coroutine[Any, Any, None]) -> None:
        self._count(key, 1)
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(key, done))

    def start_beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Something to be waited for at the end, as the rest, that takes no room."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        self._beside.add(task)
        task.add_done_callback(self._ended_beside)

    def _count(self, key: int, by: int) -> None:
        self._counts[key] = self.count(key) + by
        if not self._counts[key]:
            del self._counts[key]
        if self._group_of is not None:
            group = self._group_of(key)
            self._groups[group] = self._groups.get(group, 0) + by

    def _ended(self, key: int, task: asyncio.Task[None]) -> None:
        self._count(key, -1)
        self._over(task)

    def _ended_beside(self, task: asyncio.Task[None]) -> None:
        self._beside.discard(task)
        self._over(task)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The row keeps its lease and comes back when that ends.
            log.error("a task failed: %s", type(error).__name__, exc_info=error)

    async def any_ended(self, seconds: float) -> None:
        """Return when anything ends, or after that many seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    async def drain(self, seconds: float) -> None:
        """Wait for what is under way, and what that starts; after that many seconds the rest is cancelled."""
        ends = asyncio.get_running_loop().time() + seconds
        while self._tasks and (left := ends - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        late = list(self._tasks)
        for task in late:  # what was sent is learned, or sent again, by whoever claims it next
            task.cancel()
        if late:
            await asyncio.wait(late)
