"""PostgreSQL's migrations: run once, by whoever is first; the others wait for its lock and find nothing left to do."""

import re
import secrets
from typing import Any

import asyncpg

from service.errors import SchemaTooNew, StoreUnavailable
from service.stores.migrations import Migration, migrations
from service.stores.postgres_pool import CLOCK, Pool

TRIES = 20
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


async def migrate(pool: Pool, *, create: bool) -> tuple[int, int]:
    """Bring the schema up to date: (the database's nonce, what is added to its transactions' numbers).

    Raises `SchemaTooNew`, and `StoreUnavailable` where nothing is there and nothing may be made.
    """
    current = await _current(pool)
    if current is None and not create:
        raise StoreUnavailable("the database has no tables of ours; `callsheet migrate` makes them")
    known = migrations("postgres")
    for last in (False,) * TRIES + (True,):
        try:
            async with pool.beside() as db:
                await _migrate(db, known, partitions=pool.options.partitions)
            async with pool.beside() as db:  # a new number, higher than that of any row that it can see
                await db.execute(LOCK)
                await db.execute(LIFT)
            break
        except (asyncpg.UniqueViolationError, asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError):
            if last:  # two who make the first table at once: the second fails, and finds it there
                raise
    rows = await pool.fetch("SELECT key, value FROM meta WHERE key IN ('nonce', 'lift')")
    found = {key: int(value) for key, value in rows}
    return found["nonce"], found.get("lift", 0)


async def _current(pool: Pool) -> int | None:
    if (await pool.fetch("SELECT to_regclass('migrations') IS NULL"))[0][0]:
        return None
    return int((await pool.fetch("SELECT COALESCE(max(version), 0) FROM migrations"))[0][0])


async def _migrate(db: Any, known: list[Migration], *, partitions: bool) -> None:
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
    for migration in known:
        if migration.version > current:
            await db.execute(_dialect(migration.sql, partitions=partitions))
            applied = (migration.version, migration.name, await db.fetchval(CLOCK))
            await db.execute("INSERT INTO migrations VALUES ($1, $2, $3)", *applied)
    if current == 0:
        sql = "INSERT INTO meta VALUES ('nonce', $1), ('partitions', $2) ON CONFLICT DO NOTHING"
        await db.execute(sql, str(secrets.randbits(16)), "on" if partitions else "off")


def _dialect(sql: str, *, partitions: bool) -> str:
    """With or without what only a partitioned database has."""
    return re.sub(r"/\* partitioned: (.*?) :partitioned \*/", r"\1" if partitions else "", sql)
