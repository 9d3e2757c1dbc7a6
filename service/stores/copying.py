"""A whole database into another one, of the same kind or not: ids, numbers, sealed secrets and due times stay.

Table by table, in the order of their references, in batches by primary key. Each batch and the place that it reached
are one transaction of the target, so a run that was interrupted goes on there, and nothing is there twice. Until all
of it is there and counted, the target keeps a mark by which `open_store` refuses to serve it.

Public ids of events, deliveries and attempts are computed from their numbers and the database's nonce: both are copied.
Sealed secrets are bound to ids and tenants, which stay: they are copied sealed, and need the same master keys.

A source that is itself a backup is marked so (`COPIED_AT`), and the mark is copied first of all: what the target shows
as not sent is not sent from there either. The source of a whole copy is marked, too (`MOVED_AT`), by which a start on
it is refused: both would submit what is queued. A stopped database is no backup, nor is its copy: there it is sent.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from service.clock import Clock
from service.errors import CallsheetError, StoreUnavailable
from service.states import Record
from service.stores import COPIED_AT, DIALECTS, DRIVER, DUE_CLOCK, MOVED_AT, UNFINISHED, UnknownDatabase

NEAR_MS = 1_000  # clocks that are read one after the other are no nearer
FIRST_ROWS, MOST_ROWS, BATCH_BYTES = 64, 5_000, 4 << 20  # of a batch; no single row is larger than a request's body
LOCAL = {
    "partitions",
    "lift",
    "checked_at",
    DUE_CLOCK,
    MOVED_AT,
    UNFINISHED,
}  # keys of `meta` that are of one database alone
NUMBERED = ("jobs", "events", "deliveries")  # by their transaction, on PostgreSQL
# What tells whether anything happened in a source between two runs: whatever does, leaves a higher number or time.
_marks = ["jobs num", "jobs updated_at", "events num", "deliveries num", "attempts num", "notes num", "callbacks num"]
_marks += ["file_chunks num", "keys num", "endpoints updated_at", "credentials updated_at", "budgets updated_at"]
_marked = "(SELECT COALESCE(max({1}), 0) FROM {0})"
MARK = "SELECT " + ", ".join(_marked.format(*pair.split()) for pair in _marks)
ERASED = b'{"type": "erased", "data": {"erased": true}}'


class Table(NamedTuple):
    """`key` orders its batches. `only`: rows that hang on something that is gone are left out."""

    name: str
    key: tuple[str, ...] = ("num",)
    only: str = "TRUE"


TABLES = (
    Table("tenants"),
    Table("keys"),
    Table("credentials"),
    Table("budgets", ("tenant", "provider")),
    Table("jobs"),
    Table("job_details", ("job",)),
    Table("unanswered", ("job",)),
    Table("provider_ids", ("credential", "provider_job_id")),
    Table("notes"),
    Table("callbacks", only="(x.job IS NULL OR EXISTS (SELECT 1 FROM jobs j WHERE j.num = x.job))"),
    Table("dedupe_keys", ("job", "key")),
    Table("charges", ("job",)),
    Table("endpoints"),
    Table("events"),
    Table("deliveries"),
    Table("attempts", only="EXISTS (SELECT 1 FROM deliveries d WHERE d.num = x.delivery)"),
    Table("files"),
    Table("file_chunks"),
)


class CopyRefused(CallsheetError):
    """Nothing was copied: what must change first."""


class Progress(Record, frozen=True, kw_only=True):
    """How far a target is: tables before `table` are whole, and of that one the `rows` up to the key `after`."""

    source: str  # its nonce, its mark as it was when the copy began, and whether it was restored from a backup
    table: int = 0
    after: tuple[int | str, ...] | None = None
    rows: int = 0


class Counted(Record, frozen=True, kw_only=True):
    table: str
    source: int
    target: int


class Source(Protocol):
    async def close(self) -> None: ...
    def now(self) -> int: ...
    def apart(self) -> int:
        """By how many milliseconds what `due_at` is compared with is ahead of `now`."""

    async def meta(self) -> dict[str, str]: ...
    async def mark(self) -> str: ...
    async def columns(self, table: str) -> list[str]: ...
    async def count(self, table: Table) -> int: ...
    async def read(
        self, table: Table, columns: Sequence[str], after: Sequence[Any] | None, limit: int
    ) -> list[Sequence[Any]]: ...
    async def highest(self, table: str) -> int:
        """The highest number that the table has given, also to rows that are gone."""

    async def set_moved(self, at: str) -> None:
        """Mark it as copied away, or with an empty text as not. Ends the reading."""


class Target(Protocol):
    async def close(self) -> None: ...
    def apart(self) -> int: ...
    async def meta(self) -> dict[str, str]: ...
    async def columns(self, table: str) -> list[str]: ...
    async def count(self, table: Table) -> int: ...
    async def begin(self, meta: dict[str, str], progress: str) -> None:
        """Empty it of what its making put there, and take over the source's `meta`; one transaction."""

    async def write(
        self, table: Table, columns: Sequence[str], rows: Sequence[Sequence[Any]], before: str, after: str
    ) -> None:
        """The rows, and the progress that was `before`; one transaction. Raises `CopyRefused` where it was another."""

    async def finish(self, highest: dict[str, int]) -> None:
        """Number on above these, and take the mark away."""


Tell = Callable[[str, int, int], None]  # after each batch: the table, its rows that are there, those of the batch


async def open_source(url: str, *, clock: Clock) -> Source:
    """A database that nobody else uses, for reading. Raises `LockHeld`, `CopyRefused`, `StoreUnavailable`."""
    source: Source = await _dialect(url).open_source(url, clock=clock)
    return source


async def open_target(url: str, *, clock: Clock) -> Target:
    """A database to be filled, made where there is none. Raises as `open_source` does."""
    target: Target = await _dialect(url).open_target(url, clock=clock)
    return target


def _dialect(url: str) -> Any:
    scheme = url.split(":", 1)[0]
    if scheme not in DIALECTS:
        raise UnknownDatabase(f"{scheme!r} is no database: give sqlite:///file.db or postgresql://host/name")
    try:
        return importlib.import_module(f"service.stores.copying_{DIALECTS[scheme]}")
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise UnknownDatabase(DRIVER) from error


async def copy(source: Source, target: Target, *, prove: Callable[[bytes], None], tell: Tell) -> list[Counted]:
    """Copy what is not there yet; the counts of every table on both sides. Where they differ, the mark stays.

    `prove` raises for a canary that the master keys at hand do not open.
    """
    meta = await source.meta()
    if "canary" in meta:
        prove(bytes.fromhex(meta["canary"]))
    progress = await _begin(source, target, meta)
    for index in range(progress.table, len(TABLES)):
        progress = await _copy_table(source, target, TABLES[index], progress, tell)
    counted = [
        Counted(table=table.name, source=await source.count(table), target=await target.count(table))
        for table in TABLES
    ]
    if all(found.source == found.target for found in counted):
        highest = {table.name: await source.highest(table.name) for table in TABLES if table.key == ("num",)}
        await source.set_moved(str(source.now()))  # first: there is no moment in which both may be served
        await target.finish(highest)
    return counted


async def _begin(source: Source, target: Target, meta: dict[str, str]) -> Progress:
    origin = f"{meta['nonce']}:{await source.mark()}:{meta.get(COPIED_AT, '')}"
    found = (await target.meta()).get(UNFINISHED)
    if found is not None:
        progress = msgspec.json.decode(found, type=Progress)
        if progress.source != origin:
            raise CopyRefused(
                "the target has part of a copy of another database, or of this one before it was used again:"
                " empty the target (drop it, and make it again), then copy again"
            )
        return progress
    for table in TABLES:
        count = await target.count(table)
        if count > (table.name == "tenants"):  # the one that its making put there
            raise CopyRefused(f"the target has data already ({count} in {table.name}): give an empty database")
    progress = Progress(source=origin)
    kept = {key: value for key, value in meta.items() if key not in LOCAL}
    await target.begin(kept, _text(progress))
    return progress


async def _copy_table(source: Source, target: Target, table: Table, progress: Progress, tell: Tell) -> Progress:
    columns = await source.columns(table.name)
    if set(columns) != set(await target.columns(table.name)):
        raise StoreUnavailable(f"{table.name} has other columns in the target: `callsheet migrate` both databases")
    limit, places = FIRST_ROWS, [columns.index(name) for name in table.key]
    while rows := await source.read(table, columns, progress.after, limit):
        reached = tuple(rows[-1][place] for place in places)
        grown = msgspec.structs.replace(progress, after=reached, rows=progress.rows + len(rows))
        await target.write(table, columns, _free(rows, columns, source, target), _text(progress), _text(grown))
        progress, limit = grown, _next_limit(rows)
        tell(table.name, progress.rows, len(rows))
    ended = Progress(source=progress.source, table=progress.table + 1)
    await target.write(table, columns, [], _text(progress), _text(ended))
    return ended


def _free(rows: list[Sequence[Any]], columns: Sequence[str], source: Source, target: Target) -> list[Sequence[Any]]:
    """Nobody works on what is copied: what was leased is due now, as after a start. The rest by the target's clock."""
    if "lease" not in columns:
        return rows
    lease, due = columns.index("lease"), columns.index("due_at")
    now, later = source.now() + target.apart(), target.apart() - source.apart()
    freed: list[Sequence[Any]] = []
    for row in rows:
        values = list(row)
        if values[lease] is not None and values[due] is not None:
            values[due] = now
        elif values[due] is not None and abs(later) >= NEAR_MS:
            values[due] += later
        values[lease] = None
        freed.append(values)
    return freed


def _next_limit(rows: list[Sequence[Any]]) -> int:
    """As many rows as come to the batch's bytes if they are as large as these; at most twice as many as these."""
    size = sum(64 + sum(len(value) for value in row if isinstance(value, bytes | str)) for row in rows)
    return max(1, min(MOST_ROWS, 2 * len(rows), len(rows) * BATCH_BYTES // size))


def _text(progress: Progress) -> str:
    return msgspec.json.encode(progress).decode()
