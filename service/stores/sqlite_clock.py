"""When things fall due in a SQLite database: by a time of its own, which never steps back.

The wall clock of a machine may be set back by a day, or set a year ahead by mistake and then put right. Retries, reads
and queued submits wait by the monotonic clock instead, and the database keeps how far its time has come, so that the
next process goes on from there. Between processes the wall clock tells how long nobody ran: no time at all where it
stepped back.
Differs from PostgreSQL because there the server's clock is every node's, and whoever sets it is no user of ours.
"""

import sqlite3
from typing import NamedTuple

from service.clock import Clock
from service.stores import DUE_CLOCK

KEPT_EVERY_MS = 10_000  # as much is waited for again after a crash of the process and a step of the clock together
LOOK_EVERY_S = 1.0
FURTHEST_MS = (
    75 * 86_400_000
)  # more than twice the longest step of a schedule: due later only by a clock that was wrong
NEAR_MS = 100  # two processes read their clocks at different moments
LAST = (
    "SELECT MAX(at) FROM (SELECT * FROM (SELECT at FROM notes ORDER BY num DESC LIMIT 1) UNION ALL"
    " SELECT * FROM (SELECT at FROM attempts ORDER BY num DESC LIMIT 1) UNION ALL"
    " SELECT * FROM (SELECT created_at FROM events ORDER BY num DESC LIMIT 1))"
)


class Moment(NamedTuple):
    """One reading of the clocks: whatever a transaction writes or compares is of this one."""

    now: int  # milliseconds of the wall clock: for what is kept and shown
    due: int  # milliseconds of the database's own time: for what falls due
    monotonic: float


class SteadyClock:
    """The given clock, and `due` beside it, which goes on by the monotonic clock alone."""

    def __init__(self, clock: Clock):
        self.now, self.monotonic = clock.now, clock.monotonic
        self._offset = clock.now() - clock.monotonic() * 1000  # of the database's time from the monotonic clock

    def due(self) -> int:
        return round(self.monotonic() * 1000 + self._offset)

    def read(self) -> Moment:
        monotonic = self.monotonic()
        return Moment(self.now(), round(monotonic * 1000 + self._offset), monotonic)

    def apart(self) -> int:
        """By how many milliseconds the database's time is ahead of the wall clock."""
        at = self.read()
        return at.due - at.now

    def begin(self, db: sqlite3.Connection) -> None:
        """Go on from what the database has kept, or else from its last row; called inside a transaction."""
        due, wall = _kept(db) or (db.execute(LAST).fetchone()[0] or 0,) * 2
        self._offset = due + max(0, self.now() - wall) - self.monotonic() * 1000

    def differs(self, db: sqlite3.Connection) -> bool:
        """Whether `keep` would change anything."""
        kept = _kept(db)
        return kept is None or not -KEPT_EVERY_MS < kept[0] - self.due() < NEAR_MS

    def keep(self, db: sqlite3.Connection) -> int:
        """Keep how far the time has come, or follow another process that is ahead: by so many milliseconds."""
        at, kept = self.read(), _kept(db)
        ahead = kept[0] - at.due if kept is not None else 0
        if kept is None or -ahead >= KEPT_EVERY_MS:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (DUE_CLOCK, f"{at.due} {at.now}"))
        if ahead < NEAR_MS:
            return 0
        self._offset += ahead
        return ahead


def _kept(db: sqlite3.Connection) -> tuple[int, int] | None:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (DUE_CLOCK,)).fetchone()
    if row is None:
        return None
    due, wall = row[0].split()
    return int(due), int(wall)
