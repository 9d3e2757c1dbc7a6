"""PostgreSQL's migrations: run once, by whoever is first; the others wait for its lock and find nothing left to do.

Other nodes serve meanwhile, with older code. A table that is altered is locked for a moment, and whoever comes after
a lock that is waited for waits as well: so one is waited for shortly, and asked for again after a pause in which the
others go on. Each migration has a transaction of its own, so that no lock is kept while another is waited for.
"""

import asyncio
import itertools
import logging
import random
import re
import secrets
from collections.abc import Sequence
from typing import Any

import asyncpg

from service.errors import SchemaTooNew, StoreUnavailable
from service.stores.migrations import Migration, migrations
from service.stores.postgres_pool import CLOCK, Pool

log = logging.getLogger("callsheet.stores")

LOCK_WAIT_S = 2.0  # longer than deadlock_timeout (1 s), after which the server ends an autovacuum that is in the way
TRIES = 20
PAUSE_S = 0.5  # at least that much, at most twice, for those who queued behind us
PATIENCE_S = 120.0  # then the start is refused, and whoever watches the process starts it again
STATEMENT_S = 3600.0  # of a migration: an index of a large table takes longer than any statement of the service
FIRST_AT_ONCE = (asyncpg.UniqueViolationError, asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError)
IN_THE_WAY = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
TABLE = (
    "CREATE TABLE IF NOT EXISTS migrations (version BIGINT PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL)"
)
LOCK = "LOCK TABLE migrations IN EXCLUSIVE MODE"
SHIFT = 20  # of a transaction's number, for what it numbers: a million rows
# A database that was restored on another server may have numbers that this one's transactions have yet to reach.
LIFT = (
    "INSERT INTO meta (key, value) SELECT 'lift', (w.most - w.here + 1)::text FROM"  # noqa: S608
    f" (SELECT GREATEST((SELECT max(num) FROM jobs), (SELECT max(num) FROM events), (SELECT max(num) FROM deliveries),"
    f" 0) >> {SHIFT} AS most, pg_current_xact_id()::text::bigint AS here) w"
    " WHERE w.most > w.here + COALESCE((SELECT value::bigint FROM meta WHERE key = 'lift'), 0)"
    " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)


async def migrate(
    pool: Pool, *, create: bool, known: Sequence[Migration] | None = None, patience_s: float = PATIENCE_S
) -> tuple[int, int]:
    """Bring the schema up to date: (the database's nonce, what is added to its transactions' numbers).

    `known`: all migrations, where they are not this version's own.
    Raises `SchemaTooNew`, and `StoreUnavailable` where nothing is there and nothing may be made, or where a lock was
    not to be had for `patience_s` seconds.
    """
    current = await _current(pool)
    if current is None and not create:
        raise StoreUnavailable("the database has no tables of ours; `callsheet migrate` makes them")
    known, ends = known or migrations("postgres"), asyncio.get_running_loop().time() + patience_s
    while await _patiently(pool, known, ends):
        pass
    async with pool.beside() as db:  # a new number, higher than that of any row that it can see
        await db.execute(LOCK)
        await db.execute(LIFT)
    rows = await pool.fetch("SELECT key, value FROM meta WHERE key IN ('nonce', 'lift')")
    found = {key: int(value) for key, value in rows}
    return found["nonce"], found.get("lift", 0)


async def _patiently(pool: Pool, known: Sequence[Migration], ends: float) -> bool:
    """One migration, tried until its locks are to be had; False where none is left."""
    for tries in itertools.count(1):
        try:
            async with pool.beside() as db:
                return await _migrate(db, known, partitions=pool.options.partitions)
        except FIRST_AT_ONCE:
            if tries == TRIES:  # two who make the first table at once: the second fails, and finds it there
                raise
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, IN_THE_WAY) or asyncio.get_running_loop().time() > ends:
                raise
            log.warning("a migration waits for who holds its table: %s", error)
            await asyncio.sleep(PAUSE_S * (1 + random.random()))  # noqa: S311 - apart from other nodes
    raise AssertionError


async def _current(pool: Pool) -> int | None:
    try:
        return int((await pool.fetch("SELECT COALESCE(max(version), 0) FROM migrations"))[0][0])
    except asyncpg.UndefinedTableError:
        return None


async def _migrate(db: Any, known: Sequence[Migration], *, partitions: bool) -> bool:
    """The next migration, if there is one."""
    await db.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S:g}s'")
    await db.execute(TABLE)
    await db.execute(LOCK)
    current = await db.fetchval("SELECT COALESCE(max(version), 0) FROM migrations")
    if current > known[-1].version:
        raise SchemaTooNew(
            f"the database has schema {current}, this version knows {known[-1].version}: install a newer Callsheet"
        )
    if current == 0:
        partitions = partitions and int(await db.fetchval("SHOW server_version_num")) >= 110000
    else:
        partitions = await db.fetchval("SELECT value FROM meta WHERE key = 'partitions'") == "on"
    migration = next((migration for migration in known if migration.version > current), None)
    if migration is None:
        return False
    await db.execute(_dialect(migration.sql, partitions=partitions), timeout=STATEMENT_S)
    applied = (migration.version, migration.name, await db.fetchval(CLOCK))
    await db.execute("INSERT INTO migrations VALUES ($1, $2, $3)", *applied)
    if current == 0:
        sql = "INSERT INTO meta VALUES ('nonce', $1), ('partitions', $2) ON CONFLICT DO NOTHING"
        await db.execute(sql, str(secrets.randbits(16)), "on" if partitions else "off")
    return True


def _dialect(sql: str, *, partitions: bool) -> str:
    """With or without what only a partitioned database has."""
    return re.sub(r"/\* partitioned: (.*?) :partitioned \*/", r"\1" if partitions else "", sql)
