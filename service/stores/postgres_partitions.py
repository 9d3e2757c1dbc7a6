"""Tables partitioned by time: attempts, raw callbacks, event bodies. Made ahead, and dropped whole when they are old.

A database is partitioned or not from its beginning, as its first opening said.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress

import asyncpg

from service.errors import StoreUnavailable
from service.stores.postgres_pool import Pool

log = logging.getLogger("callsheet.stores")
DAY_MS = 86_400_000
DROP_MS = 100  # for the lock that it takes to drop a partition
AHEAD = 3  # partitions that there are before they are needed
COLUMN = {"attempts": "at", "callbacks": "received_at", "event_bodies": "created_at"}
ADVISORY = 0x63616C70  # our first key of two for whoever makes a partition
MADE = (asyncpg.DuplicateTableError, asyncpg.UniqueViolationError, asyncpg.DuplicateObjectError)
CHILDREN = (
    "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent"
    " WHERE p.relname = $1 AND pg_table_is_visible(p.oid)"
)


class Partitions:
    """Names say their range: `attempts_1800000000000_1800086400000`."""

    def __init__(self, pool: Pool, span_ms: int = DAY_MS):
        self._pool, self._span = pool, span_ms
        self._known: set[tuple[str, int]] = set()
        self.used = False

    async def open(self) -> None:
        """Learn whether the database is partitioned."""
        rows = await self._pool.fetch("SELECT value FROM meta WHERE key = 'partitions'")
        self.used = bool(rows) and rows[0][0] == "on"
        await self.make_ahead()

    async def make_ahead(self) -> None:
        now = self._pool.now()
        for table in COLUMN:
            await self.ensure(table, (now + n * self._span for n in range(AHEAD if self._span == DAY_MS else 1)))

    async def ensure(self, table: str, moments: Iterable[int]) -> None:
        """Make what rows of these moments need. Asks nothing where this node knows them all."""
        if not self.used:
            return
        wanted = {(table, at - at % self._span) for at in moments} - self._known
        if wanted:
            names = {name for (name,) in await self._pool.fetch(CHILDREN, table, urgent=True)}
            for _, start in sorted(wanted):
                if self._name(table, start) not in names:
                    await self._make(table, start)
            self._known |= wanted

    def _name(self, table: str, start: int) -> str:
        return f"{table}_{start}_{start + self._span}"

    async def _make(self, table: str, start: int) -> None:
        """Made apart and then attached: that waits for no transaction that writes. One node at a time does it.

        Without advisory locks two may try at once; then one of them fails, which is an error in the server's log alone.
        """
        name, end = self._name(table, start), start + self._span
        with suppress(*MADE):
            async with self._pool.beside() as db:
                if self._pool.options.advisory:
                    await db.execute("SELECT pg_advisory_xact_lock($1, 0)", ADVISORY)
                    if name in {row[0] for row in await db.fetch(CHILDREN, table)}:
                        return
                await db.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)")
                await db.execute(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({start}) TO ({end})")

    def forget(self) -> None:
        """Another node may have dropped what this one knows."""
        self._known.clear()

    async def drop(self, table: str, before: int, *, unless: str | None = None) -> int:
        """Drop what ended before that moment; how many had rows. Where the query `unless` finds any, it stays.

        Whoever writes to the table waits behind the one who drops, and that one behind all who read it. So it gives up
        soon, and leaves the rest for the next time, too.
        """
        if not self.used:
            return 0
        dropped = 0
        for (name,) in await self._pool.fetch(CHILDREN, table, urgent=True):
            if int(name.rpartition("_")[2]) <= before:
                try:
                    dropped += await self._drop(name, unless)
                except StoreUnavailable as error:
                    log.info("%s stays for now: %s", name, error)
                    break
        return dropped

    async def _drop(self, name: str, unless: str | None) -> bool:
        with suppress(asyncpg.UndefinedTableError):
            async with self._pool.beside() as db:
                await db.execute(f"SET LOCAL lock_timeout = {DROP_MS}")
                if unless is not None and await db.fetch(unless.format(name)):
                    return False
                held = await db.fetchval(f"SELECT EXISTS (SELECT 1 FROM {name})")  # noqa: S608
                await db.execute(f"DROP TABLE {name}")
                return bool(held)
        return False
