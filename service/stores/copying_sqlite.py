"""Copying from and to a SQLite file. Its loops' lock keeps services away, a write transaction everybody else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.clock import Clock
from service.errors import LockHeld, StoreUnavailable
from service.stores import MOVED_AT, UNFINISHED
from service.stores.copying import MARK, CopyRefused, Table
from service.stores.sqlite_files import Files, translated


async def open_source(url: str, *, clock: Clock) -> "SqliteSide":
    """Nothing writes to it until it is closed."""
    if not _path(url).exists():
        raise StoreUnavailable(f"there is no database at {_path(url)}")
    side = await open_target(url, clock=clock)
    try:
        with translated():
            side.db.execute("BEGIN IMMEDIATE")
    except StoreUnavailable as error:
        await side.close()
        raise LockHeld(f"something writes to {_path(url)}: stop it, then copy again ({error})") from None
    return side


async def open_target(url: str, *, clock: Clock) -> "SqliteSide":
    files = Files(_path(url), clock=clock)
    try:
        files.own_loops("copy")
        await files.open()
    except LockHeld as error:
        await files.close()
        raise LockHeld(f"{error}: stop it, then copy again") from None
    except BaseException:
        await files.close()
        raise
    return SqliteSide(files, clock)


def _path(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


class SqliteSide:
    def __init__(self, files: Files, clock: Clock):
        self._files, self.db, self.now, self.apart = files, files.db, clock.now, files.clock.apart

    async def close(self) -> None:
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")
        await self._files.close()

    async def meta(self) -> dict[str, str]:
        return dict(self.db.execute("SELECT key, value FROM meta").fetchall())

    async def mark(self) -> str:
        return ".".join(map(str, self.db.execute(MARK).fetchone()))

    async def columns(self, table: str) -> list[str]:
        return [row[0] for row in self.db.execute("SELECT name FROM pragma_table_info(?)", (table,))]

    async def count(self, table: Table) -> int:
        sql = f"SELECT COUNT(*) FROM {table.name} x WHERE {table.only}"  # noqa: S608 - fixed names
        return int(self.db.execute(sql).fetchone()[0])

    async def read(
        self, table: Table, columns: Sequence[str], after: Sequence[Any] | None, limit: int
    ) -> list[Sequence[Any]]:
        key, marks = ", ".join(f"x.{name}" for name in table.key), ", ".join("?" * len(table.key))
        above = f" AND ({key}) > ({marks})" if after is not None else ""
        names = ", ".join(f"x.{name}" for name in columns)
        sql = f"SELECT {names} FROM {table.name} x WHERE {table.only}{above} ORDER BY {key} LIMIT ?"  # noqa: S608
        with translated():
            return self.db.execute(sql, (*(after or ()), limit)).fetchall()

    async def highest(self, table: str) -> int:
        sql = f"SELECT MAX((SELECT COALESCE(MAX(num), 0) FROM {table}), COALESCE(MAX(seq), 0)) FROM sqlite_sequence"  # noqa: S608
        return int(self.db.execute(f"{sql} WHERE name = ?", (table,)).fetchone()[0])

    async def set_moved(self, at: str) -> None:
        with translated():
            self.db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (MOVED_AT, at))
            self.db.execute("COMMIT")

    # -- as a target

    async def begin(self, meta: dict[str, str], progress: str) -> None:
        def work() -> None:
            self.db.execute("DELETE FROM tenants")
            rows = list({**meta, UNFINISHED: progress}.items())
            self.db.executemany("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", rows)

        self._files.transact(work)

    async def write(
        self, table: Table, columns: Sequence[str], rows: Sequence[Sequence[Any]], before: str, after: str
    ) -> None:
        def work() -> None:
            moved = self.db.execute(
                "UPDATE meta SET value = ? WHERE key = ? AND value = ?", (after, UNFINISHED, before)
            )
            if moved.rowcount != 1:
                raise CopyRefused("another copy writes to the target: let it end")
            names, marks = ", ".join(columns), ", ".join("?" * len(columns))
            self.db.executemany(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", rows)  # noqa: S608

        self._files.transact(work)

    async def finish(self, highest: dict[str, int]) -> None:
        """Only the tables that never give a number again have a row in `sqlite_sequence`."""

        def work() -> None:
            for table, number in highest.items():
                counts = self.db.execute(
                    "SELECT 1 FROM sqlite_master WHERE name = ? AND sql LIKE '%AUTOINCREMENT%'", (table,)
                )
                if counts.fetchone() and number:
                    self.db.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
                    self.db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, number))
            self.db.execute("DELETE FROM meta WHERE key = ?", (UNFINISHED,))

        self._files.transact(work)
