"""What a SQLite file holds and costs, for `doctor`."""

import sqlite3
from typing import Any

from service.stores import Storage, Table
from service.stores.sqlite_rows import SqliteRows

SYNCHRONOUS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}
MEASURED = 1 << 30  # dbstat reads every page: in a larger file the tables' bytes are left out
_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
_BYTES = (
    "SELECT s.tbl_name, SUM(d.pgsize) FROM dbstat d JOIN sqlite_schema s ON s.name = d.name WHERE d.aggregate = 1"
    " GROUP BY s.tbl_name"
)


class StorageVerbs(SqliteRows):
    async def storage(self) -> Storage:
        """Versions, durability, and every table's rows and bytes (its indexes with it)."""
        # Asked of the connection that writes: on others the pragma is another.
        level = SYNCHRONOUS[(await self.write("PRAGMA synchronous"))[0][0]]
        schema = (await self.rows("SELECT MAX(version) FROM migrations"))[0][0]
        sizes = await self._sizes()
        names = [row[0] for row in await self.rows(_TABLES)]
        tables = [Table(name=name, rows=await self._count(name), bytes=sizes.get(name)) for name in names]
        return Storage(
            engine=f"SQLite {sqlite3.sqlite_version}",
            schema=schema,
            durability=f"synchronous={level}",
            durable=level in ("FULL", "EXTRA"),
            tables=tuple(tables),
        )

    async def _count(self, table: str) -> int:
        return int((await self.rows(f"SELECT COUNT(*) FROM {table}"))[0][0])  # noqa: S608 - of the schema itself

    async def _sizes(self) -> dict[str, int]:
        size = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        if (await self.rows(size))[0][0] > MEASURED:
            return {}
        try:
            rows: list[Any] = await self.rows(_BYTES)
        except sqlite3.OperationalError:  # a build without dbstat
            return {}
        return {name: size for name, size in rows}
