"""Time as an argument: nobody below the composition root asks the operating system."""

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> int:
        """Milliseconds since 1970-01-01 UTC: for what is stored and shown."""

    def monotonic(self) -> float:
        """Seconds that never go back: for leases and deadlines inside one process."""


class DueClock(Clock, Protocol):
    """A store's: what is kept there falls due by it."""

    def due(self) -> int:
        """Milliseconds as of `now`, from a clock that is not set back: for `due_at`, and nothing that is shown."""


# What waits comes nearer while a machine sleeps, too: Linux has a clock of its own that counts it (clock_gettime(2)).
_COUNTS_SLEEP: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The node's own. Stages are given their store's, which on PostgreSQL is the database's (`Store.clock`)."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.clock_gettime(_COUNTS_SLEEP)
