"""Copies of a SQLite database: taken while it is in use, put into place while it is not.

A copy is marked before it gets its name. What it shows as not sent may have been sent since it was taken, so its open
submits have no due time any more: no version of the service can take them up before it has settled the mark.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from service.clock import Clock
from service.errors import CallsheetError, SchemaTooNew
from service.states import Record
from service.stores import COPIED_AT, MOVED_AT
from service.stores.migrations import migrations
from service.stores.sqlite_files import Files, translated

NUMBERED = ("jobs", "events", "deliveries", "attempts")
GAP = 10**9  # numbers left out: a cursor that was given out after the copy stays behind what comes next
OPEN = "status IN ('queued', 'submitting')"
BESIDE = ("-wal", "-shm", "-journal")


class NoCopy(CallsheetError):
    """The file cannot be copied, or the copy cannot be put there."""


class Copied(Record, frozen=True, kw_only=True):
    """What a copy holds. `open`: its jobs that will be `unknown`. `moved`: where the replaced database is now."""

    path: Path
    bytes: int
    jobs: int
    open: int
    moved: Path | None = None


def back_up(database: Path, to: Path, clock: Clock) -> Copied:
    """An online copy as of one moment; whoever writes meanwhile is not held up. Raises `NoCopy`, `StoreUnavailable`."""
    if not database.exists():
        raise NoCopy(f"there is no database at {database}")
    if to.exists():
        raise NoCopy(f"{to} exists already: name another file")
    with _drafted(to) as draft:
        jobs, unsent = _copy(database, draft, clock.now())
        os.link(draft, to)  # never over a file that came meanwhile
    _sync(to.parent)
    return Copied(path=to, bytes=to.stat().st_size, jobs=jobs, open=unsent)


def put_back(copy: Path, database: Path, clock: Clock, *, replace: bool = False) -> Copied:
    """Make a copy of any kind (ours, or a file system's) the database, marked. The one it replaces is kept beside it.

    Raises `NoCopy`, `LockHeld`, `SchemaTooNew`, `StoreUnavailable`.
    """
    if not copy.exists():
        raise NoCopy(f"there is no file {copy}")
    if database.exists() and not replace:
        raise NoCopy(f"{database} exists: --replace sets it aside")
    owner = Files(database, clock=clock)
    owner.own_loops("restore")
    try:
        with _drafted(database) as draft:
            jobs, unsent = _copy(copy, draft, clock.now())
            moved = _set_aside(database, clock.now())
            os.replace(draft, database)
        _sync(database.parent)
    finally:
        owner.release_loops()
    return Copied(path=database, bytes=database.stat().st_size, jobs=jobs, open=unsent, moved=moved)


@contextmanager
def _drafted(to: Path) -> Iterator[Path]:
    """A file of ours alone (0600) beside the one that it is to become; gone at the end."""
    draft = to.with_name(f"{to.name}.{os.getpid()}.part")
    try:
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
        yield draft
    except OSError as error:
        raise NoCopy(f"{to} cannot be written: {error.strerror}") from None
    finally:
        for suffix in ("", *BESIDE):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def _copy(database: Path, draft: Path, now: int) -> tuple[int, int]:
    """How many jobs there are, and how many of them are open submits."""
    with translated(), closing(_connected(database)) as source, closing(_connected(draft)) as target:
        _check_schema(source, database)
        source.backup(target)  # in one step: one moment, under one read lock, which no writer waits for
        target.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
        target.execute("PRAGMA synchronous = EXTRA")
        found = target.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise NoCopy(f"{database} is damaged: {found}")
        return _mark(target, now)


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def _check_schema(db: sqlite3.Connection, path: Path) -> None:
    newest = migrations("sqlite")[-1].version
    try:
        schema = db.execute("SELECT MAX(version) FROM migrations").fetchone()[0]
    except sqlite3.DatabaseError:
        raise NoCopy(f"{path} is no database of Callsheet") from None
    if schema > newest:
        raise SchemaTooNew(f"{path} has schema {schema}, this version knows {newest}: install a newer Callsheet")


def _mark(db: sqlite3.Connection, now: int) -> tuple[int, int]:
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (COPIED_AT, str(now)))
    db.execute("DELETE FROM meta WHERE key = ?", (MOVED_AT,))  # what the first mark says is enough to serve it
    db.execute(f"UPDATE jobs SET due_at = NULL, lease = NULL WHERE {OPEN}")  # noqa: S608
    for table in NUMBERED:
        if not db.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = ?", (GAP, table)).rowcount:
            db.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, GAP))
    jobs, unsent = db.execute(f"SELECT COUNT(*), COUNT(*) FILTER (WHERE {OPEN}) FROM jobs").fetchone()  # noqa: S608
    db.execute("COMMIT")
    return jobs, unsent


def _set_aside(database: Path, now: int) -> Path | None:
    """Rename what is there. A write-ahead log that stayed behind would be taken for the new file's."""
    if not database.exists():
        return None
    aside = database.with_name(f"{database.name}.replaced-{now}")
    try:
        with closing(_connected(database)) as db:
            db.execute("PRAGMA journal_mode = DELETE")  # folds the log in; refused while anybody has it open
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise NoCopy(f"{database} is open elsewhere: stop every process that uses it") from None
    for suffix in ("", *BESIDE):
        part = database.with_name(database.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def _sync(folder: Path) -> None:
    """The names in it, too, are kept when the power goes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
