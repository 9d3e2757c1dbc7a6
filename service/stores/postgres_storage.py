"""What a PostgreSQL database holds and costs, for `doctor`."""

from service.stores import Storage, Table
from service.stores.postgres_rows import PostgresRows

# Rows as the server estimates them; a partitioned table is the sum of its partitions.
COUNTED_BYTES = 64 << 20  # of a table with its indexes: read in a moment
TABLES = (
    "SELECT COALESCE(p.relname, c.relname), SUM(GREATEST(c.reltuples, pg_stat_get_live_tuples(c.oid)))::bigint,"
    " SUM(pg_total_relation_size(c.oid))::bigint FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid"
    " LEFT JOIN pg_class p ON p.oid = i.inhparent WHERE c.relkind IN ('r', 'p')"
    " AND c.relnamespace = current_schema()::regnamespace GROUP BY 1 ORDER BY 1"
)


class StorageVerbs(PostgresRows):
    async def storage(self) -> Storage:
        """Versions, durability, and every table's rows and bytes, its indexes with it.

        Rows are counted in small tables; in large ones they are the server's own estimate, which ANALYZE renews.
        """
        version = (await self.rows("SHOW server_version"))[0][0]
        synchronous, fsync = [(await self.rows(f"SHOW {name}"))[0][0] for name in ("synchronous_commit", "fsync")]
        schema = (await self.rows("SELECT MAX(version) FROM migrations"))[0][0]
        return Storage(
            engine=f"PostgreSQL {version}",
            schema=schema,
            durability=f"synchronous_commit={synchronous}, fsync={fsync}",
            durable=synchronous != "off" and fsync == "on",
            tables=tuple([await self._table(*row) for row in await self.rows(TABLES)]),
        )

    async def _table(self, name: str, estimate: int, size: int) -> Table:
        if size > COUNTED_BYTES:
            return Table(name=name, rows=estimate, bytes=size)
        quoted = name.replace('"', '""')
        rows = (await self.rows(f'SELECT count(*) FROM "{quoted}"'))[0][0]  # noqa: S608 - a name of the catalog
        return Table(name=name, rows=rows, bytes=size)
