"""The database's time, told from memory: every node compares with what other nodes wrote by the same clock."""

import asyncio
from collections.abc import Awaitable, Callable

from service.clock import Clock

REREAD_S = 5.0  # an idle node asks again: clocks drift, are set, and another server may have taken over


class GivenClock:
    """A clock that stands for the database's: what falls due, falls due by it as it is."""

    def __init__(self, clock: Clock):
        self.now, self.due, self.monotonic = clock.now, clock.now, clock.monotonic


class DatabaseClock:
    """Goes on by the node's monotonic clock from what the database said, also while a transaction is open.

    As far off as the quickest answers took, a millisecond or so; until the first one it is the given clock.
    """

    def __init__(self, clock: Clock):
        self.monotonic = clock.monotonic
        self._offset = clock.now() - clock.monotonic() * 1000  # of the database's time from the monotonic clock
        self._read_at = float("-inf")

    def now(self) -> int:
        return int(self.monotonic() * 1000 + self._offset)

    def due(self) -> int:
        """Differs from SQLite because the server's clock is everybody's: all nodes compare by what it says."""
        return self.now()

    def learn(self, at: int, asked: float) -> None:
        """The database said `at`, just now, to a question of the moment `asked`: so the truth is between the two.

        What was known stays where it can be true: a slow answer teaches nothing that a quick one did not.
        """
        self._read_at = self.monotonic()
        self._offset = min(max(self._offset, at - self._read_at * 1000), at + 1 - asked * 1000)

    async def keep(self, ask: Callable[[], Awaitable[None]]) -> None:
        """For ever: `ask`, which ends in `learn`, where no transaction has lately."""
        while True:
            if (wait := self._read_at + REREAD_S - self.monotonic()) <= 0:
                await ask()
                wait = REREAD_S
            await asyncio.sleep(wait)
