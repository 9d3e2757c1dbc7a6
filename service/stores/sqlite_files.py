"""The SQLite file: its connections and threads, migrations, group commit, the lock of the loops.

The standard library's driver on threads of our own: one hop per batch, not three per statement.
"""

import asyncio
import contextlib
import fcntl
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from service.clock import Clock
from service.errors import LockHeld, SchemaTooNew, StoreUnavailable
from service.stores.group_commit import GroupCommit, Outcome, Verb, run_grouped, run_singly
from service.stores.migrations import migrations
from service.stores.sqlite_clock import LOOK_EVERY_S, Moment, SteadyClock
from service.stores.sqlite_reserve import STEPS, Reserve

T = TypeVar("T")
Connect = Callable[..., sqlite3.Connection]

READERS = 2
BUSY_MS = 5_000  # how long another process (keys create, doctor) may hold the write lock
WAL_TRIES = 50
WAL_PAGES = 4_000  # checkpoint at about 16 MB
FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}  # ENOSPC; what else keeps a file from growing
UNAVAILABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
}


class Files:
    """One database file. `commit` runs verbs in group commits; `read` runs a query beside them."""

    def __init__(self, path: Path, *, clock: Clock, connect: Connect = sqlite3.connect):
        self._path, self.clock, self._connect = path, SteadyClock(clock), connect
        self._writer = ThreadPoolExecutor(1, "sqlite-writer")
        self._readers = ThreadPoolExecutor(READERS, "sqlite-reader")
        self._reading, self._writing = threading.local(), threading.local()
        self._looked_at = float("-inf")  # when the kept time was looked at last
        self._opened: list[sqlite3.Connection] = []
        self._group = GroupCommit(self._commit_in_writer)
        self._reserve = Reserve(path)
        self._lock: int | None = None
        self.rolled_back: Callable[[], None] = lambda: None  # what was read in a transaction that is undone
        self.db: sqlite3.Connection  # the writer's; used on its thread alone
        self.nonce = 0

    async def open(self) -> None:
        """Open the writer's connection and bring the schema up to date."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self._open)

    async def close(self) -> None:
        """Wait for what is being written, close every connection, give the lock back."""
        await self._group.drained()
        self._readers.shutdown()
        self._writer.shutdown()
        for db in reversed(self._opened):
            db.close()
        self.release_loops()

    def own_loops(self, who: str) -> None:
        """Take the lock beside the file: one process runs its loops. Raises `LockHeld` that says who does.

        Differs from PostgreSQL because leases there keep nodes apart; here one process is simpler and faster.
        """
        file = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(file, 200).decode(errors="replace").strip()
            os.close(file)
            raise LockHeld(f"{self._path} is in use by {holder or 'another process'}") from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} ({who})".encode(), 0)
        self._lock = file

    def release_loops(self) -> None:
        """Give the lock back; without it, nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def commit(self, verb: Verb, items: Sequence[Any]) -> list[Any]:
        """The verb's results, once they are durable."""
        return await self._group.run(verb, items)

    async def commit_freeing(self, verb: Verb, items: Sequence[Any]) -> list[Any]:
        """As `commit`, for what makes room: on a disk that is full it has what was kept for that."""
        for make_room in (self._checkpoint, *[self._reserve.give_up] * STEPS):
            try:
                return await self.commit(verb, items)
            except StoreUnavailable as refused:
                full = getattr(refused.__cause__, "sqlite_errorcode", 0) & 0xFF in FULL
                if not full or not await asyncio.get_running_loop().run_in_executor(self._writer, make_room):
                    raise
        return await self.commit(verb, items)

    def _checkpoint(self) -> bool:
        """What is in the database is written over in the log."""
        with contextlib.suppress(sqlite3.Error):
            self.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return True

    async def keep_reserve(self) -> None:
        """Room for deletions from now on, where there is some."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self._reserve.keep)

    async def read(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """All rows of one query with `$n` placeholders."""
        query = partial(self._read, sql, {str(n): value for n, value in enumerate(values, 1)})
        rows: list[Any] = await asyncio.get_running_loop().run_in_executor(self._readers, query)
        return rows

    def _read(self, sql: str, values: dict[str, Any]) -> list[Any]:
        with translated():
            db = getattr(self._reading, "db", None)
            if db is None:
                db = self._reading.db = self._dial()
                db.execute("PRAGMA query_only = ON")
            return db.execute(sql, values).fetchall()

    def _open(self) -> None:
        with translated():
            self._make_private()
            self.db = db = self._dial()
            self._use_wal(db)
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA cache_size = -64000")
            db.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
            self.transact(self._migrate)
            self.nonce = int(db.execute("SELECT value FROM meta WHERE key = 'nonce'").fetchone()[0])

    def _make_private(self) -> None:
        """A new file is readable by its owner alone, and so are the log and the index that SQLite puts beside it."""
        with contextlib.suppress(OSError):  # SQLite says better what is wrong with the place
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

    @staticmethod
    def _use_wal(db: sqlite3.Connection) -> None:
        """Several processes may be opening a new file at once, and for this change SQLite does not wait by itself."""
        for last in (False,) * WAL_TRIES + (True,):
            try:
                db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if last:
                    raise
                time.sleep(BUSY_MS / 1000 / WAL_TRIES)

    def _dial(self) -> sqlite3.Connection:
        db = self._connect(self._path, isolation_level=None, check_same_thread=False, cached_statements=256)
        db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        self._opened.append(db)
        return db

    def _migrate(self) -> None:
        """Whoever comes second waits for the write lock and finds nothing left to do."""
        db, known = self.db, migrations("sqlite")
        db.execute("CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, name TEXT, applied_at INTEGER)")
        current = db.execute("SELECT COALESCE(MAX(version), 0) FROM migrations").fetchone()[0]
        if current > known[-1].version:
            raise SchemaTooNew(
                f"{self._path} has schema {current}, this version knows {known[-1].version}: install a newer Callsheet"
            )
        for migration in (migration for migration in known if migration.version > current):
            for statement in _statements(migration.sql):
                db.execute(statement)
            applied = (migration.version, migration.name, self.clock.now())
            db.execute("INSERT INTO migrations VALUES (?, ?, ?)", applied)
        db.execute("INSERT OR IGNORE INTO meta VALUES ('nonce', ?)", (str(secrets.randbits(16)),))
        self.clock.begin(db)

    async def _commit_in_writer(self, calls: list[tuple[Verb, Sequence[Any]]]) -> list[Outcome]:
        work = partial(self._commit_calls, calls)
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    def _commit_calls(self, calls: list[tuple[Verb, Sequence[Any]]]) -> list[Outcome]:
        self._keep_time()
        try:
            return self.transact(partial(run_grouped, calls))
        except StoreUnavailable as error:
            return [error] * len(calls)
        except Exception as error:
            if len(calls) == 1 and len(calls[0][1]) == 1:
                return [error]
            return run_singly(calls, lambda verb, item: self.transact(lambda: verb([item])[0]))

    def moment(self) -> Moment:
        """Inside a transaction as it began, so that all its rows and answers say the same; else now."""
        begun: Moment | None = getattr(self._writing, "moment", None)
        return begun or self.clock.read()

    def _keep_time(self) -> None:
        """Now and then. In a transaction of its own: a full disk must not take others down with it."""
        if self.clock.monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = self.clock.monotonic()
            with contextlib.suppress(StoreUnavailable), translated():
                if self.clock.differs(self.db):
                    self.transact(self._follow_time)

    def _follow_time(self) -> None:
        """Where another process is ahead, what is leased here keeps its end on the monotonic clock."""
        ahead = self.clock.keep(self.db)
        for table in ("jobs", "deliveries") if ahead and self._lock is not None else ():
            sql = f"UPDATE {table} SET due_at = due_at + ? WHERE due_at IS NOT NULL AND lease IS NOT NULL"  # noqa: S608
            self.db.execute(sql, (ahead,))

    def transact(self, work: Callable[[], T]) -> T:
        with translated():
            self.db.execute("BEGIN IMMEDIATE")
            self._writing.moment = self.clock.read()
            try:
                result = work()
                self.db.execute("COMMIT")
                return result
            except BaseException:
                self.rolled_back()
                if self.db.in_transaction:  # a full disk may have rolled it back already
                    self.db.execute("ROLLBACK")
                raise
            finally:
                self._writing.moment = None


@contextmanager
def translated() -> Iterator[None]:
    """The driver's "not now" errors become ours; its other errors are bugs and stay what they are."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in UNAVAILABLE:
            raise StoreUnavailable(f"the database cannot be used now: {error}") from error
        raise


def _statements(script: str) -> Iterator[str]:
    """The statements of a script: `executescript` would commit the transaction that they belong to."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
