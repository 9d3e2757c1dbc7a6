"""Copying from and to PostgreSQL. No lock keeps services away there: nobody else may be connected at the start."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from service.clock import Clock
from service.errors import LockHeld
from service.stores import MOVED_AT, UNFINISHED
from service.stores.copying import ERASED, MARK, NUMBERED, CopyRefused, Table
from service.stores.postgres_lost import translated
from service.stores.postgres_partitions import COLUMN, Partitions
from service.stores.postgres_pool import Pool
from service.stores.postgres_schema import SHIFT, migrate
from service.stores.postgres_url import read_url

GONE_S = 5.0  # a process that has just ended may still seem to be connected
OTHERS = (
    "SELECT count(*), min(COALESCE(host(client_addr), 'this machine')) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)
COLUMNS = (
    "SELECT column_name FROM information_schema.columns WHERE table_name = $1 AND table_schema = current_schema()"
    " ORDER BY ordinal_position"
)
BODIES = " LEFT JOIN event_bodies b ON b.event = x.num AND b.created_at = x.created_at"
PUT_META = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
MOVE = "UPDATE meta SET value = $1 WHERE key = $2 AND value = $3"
LIFTED = "COALESCE((SELECT value::bigint FROM meta WHERE key = 'lift'), 0)"
LIFT = (
    f"INSERT INTO meta (key, value) SELECT 'lift', (($1::bigint >> {SHIFT}) - here + 1)::text"  # noqa: S608
    f" FROM (SELECT pg_current_xact_id()::text::bigint AS here) w WHERE ($1::bigint >> {SHIFT}) > w.here + {LIFTED}"
    " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
SET_SEQUENCE = "SELECT setval(pg_get_serial_sequence($1, 'num'), $2)"


async def open_source(url: str, *, clock: Clock) -> "PostgresSide":
    """One snapshot of it, until it is closed."""
    side = await open_target(url, clock=clock, create=False)
    await side.db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    return side


async def open_target(url: str, *, clock: Clock, create: bool = True) -> "PostgresSide":
    db = await _connect(url)
    pool = Pool(url, clock=clock)
    try:
        await _need_nobody(db)
        await pool.open()
        await migrate(pool, create=create)
        partitions = Partitions(pool)
        await partitions.open()
    except BaseException:
        await pool.close()
        await db.close()
        raise
    return PostgresSide(db, pool, partitions)


async def _connect(url: str) -> Any:
    dsn, options = read_url(url)
    try:
        with translated():
            return await asyncpg.connect(
                dsn, timeout=options.connect_timeout, statement_cache_size=options.statement_cache
            )
    except (asyncpg.InvalidCatalogNameError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise CopyRefused(f"PostgreSQL refuses: {error}") from None


async def _need_nobody(db: Any) -> None:
    ends = asyncio.get_running_loop().time() + GONE_S
    while True:
        count, where = await db.fetchrow(OTHERS)
        if not count:
            return
        if asyncio.get_running_loop().time() > ends:
            raise LockHeld(
                f"the PostgreSQL database has {count} other connections, from {where}:"
                " stop the nodes and close what else is connected, then copy again"
            )
        await asyncio.sleep(0.1)


class PostgresSide:
    def __init__(self, db: Any, pool: Pool, partitions: Partitions):
        self.db, self._pool, self._partitions, self.now = db, pool, partitions, pool.now

    def apart(self) -> int:
        return 0

    async def close(self) -> None:
        await self._pool.close()
        self.db.terminate()

    async def meta(self) -> dict[str, str]:
        return dict(await self._fetch("SELECT key, value FROM meta"))

    async def mark(self) -> str:
        return ".".join(map(str, (await self._fetch(MARK))[0]))

    async def columns(self, table: str) -> list[str]:
        names = [row[0] for row in await self._fetch(COLUMNS, table)]
        return [*names, "body"] if table == "events" else names

    async def count(self, table: Table) -> int:
        sql = f"SELECT count(*) FROM {table.name} x WHERE {table.only}"  # noqa: S608 - fixed names
        return int((await self._fetch(sql))[0][0])

    async def read(
        self, table: Table, columns: Sequence[str], after: Sequence[Any] | None, limit: int
    ) -> list[Sequence[Any]]:
        """Events with their bodies; where retention or an erasure took one, with what says so."""
        key, marks = ", ".join(f"x.{name}" for name in table.key), ", ".join(f"${n + 2}" for n in range(len(table.key)))
        above = f" AND ({key}) > ({marks})" if after is not None else ""
        names, joined = ", ".join(f"x.{name}" for name in columns), ""
        if table.name == "events":
            names = names.replace("x.body", f"COALESCE(b.body, convert_to('{ERASED.decode()}', 'UTF8'))")
            joined = BODIES
        sql = f"SELECT {names} FROM {table.name} x{joined} WHERE {table.only}{above} ORDER BY {key} LIMIT $1"  # noqa: S608
        return await self._fetch(sql, limit, *(after or ()))

    async def highest(self, table: str) -> int:
        if table in NUMBERED:
            sql = f"SELECT (pg_snapshot_xmax(pg_current_snapshot())::text::bigint + {LIFTED}) << {SHIFT}"
            return int((await self._fetch(sql))[0][0])
        sql = "SELECT COALESCE(pg_sequence_last_value(pg_get_serial_sequence($1, 'num')::regclass), 0)"
        return int((await self._fetch(sql, table))[0][0])

    async def _fetch(self, sql: str, *values: Any) -> list[Any]:
        with translated():
            return [tuple(row) for row in await self.db.fetch(sql, *values)]

    async def set_moved(self, at: str) -> None:
        with translated():
            await self.db.execute(PUT_META, MOVED_AT, at)
            await self.db.execute("COMMIT")

    # -- as a target

    async def begin(self, meta: dict[str, str], progress: str) -> None:
        with translated():
            async with self.db.transaction():
                await self.db.execute("DELETE FROM tenants")
                await self.db.executemany(PUT_META, list({**meta, UNFINISHED: progress}.items()))

    async def write(
        self, table: Table, columns: Sequence[str], rows: Sequence[Sequence[Any]], before: str, after: str
    ) -> None:
        with translated():
            await self._make_partitions(table, columns, rows)
            async with self.db.transaction():
                if await self.db.execute(MOVE, after, UNFINISHED, before) != "UPDATE 1":
                    raise CopyRefused("another copy writes to the target: let it end")
                if rows:
                    await self._put(table, columns, rows)

    async def _make_partitions(self, table: Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        parted = "event_bodies" if table.name == "events" else table.name
        if parted in COLUMN:
            place = columns.index(COLUMN[parted])
            await self._partitions.ensure(parted, {row[place] for row in rows})

    async def _put(self, table: Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if table.name == "events":
            await self._load("event_bodies", ["event", "created_at", "body"], _only(rows, columns, _BODY))
            kept = [name for name in columns if name != "body"]
            columns, rows = kept, _only(rows, columns, kept)
        await self._load(table.name, columns, rows)

    async def _load(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        await self.db.copy_records_to_table(table, columns=list(columns), records=[_storable(row) for row in rows])

    async def finish(self, highest: dict[str, int]) -> None:
        """Above the copied numbers, whether a sequence gives them or this server's transactions do."""
        with translated():
            async with self.db.transaction():
                await self.db.execute(LIFT, max(highest[table] for table in NUMBERED))
                for table, number in highest.items():
                    if table not in NUMBERED and number:
                        await self.db.execute(SET_SEQUENCE, table, number)
                await self.db.execute("DELETE FROM meta WHERE key = $1", UNFINISHED)
        await self.db.execute("ANALYZE")


_BODY = ("num", "created_at", "body")


def _only(rows: Sequence[Sequence[Any]], columns: Sequence[str], names: Sequence[str]) -> list[Sequence[Any]]:
    places = [columns.index(name) for name in names]
    return [[row[place] for place in places] for row in rows]


def _storable(row: Sequence[Any]) -> tuple[Any, ...]:
    """PostgreSQL's text has no NUL."""
    return tuple(value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value for value in row)
