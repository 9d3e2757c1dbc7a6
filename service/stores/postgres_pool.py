"""The PostgreSQL server: its connections, group commits that survive a lost one, news from other nodes.

One writer per node, as on SQLite: concurrent callers ride in one transaction, so that more writers would only share
the same commits among more of them. Reads go beside it.

A transaction that the server undid to end a deadlock, or because it lost a race, is run again. A connection that is
lost before COMMIT was sent: run again. Lost after that: every transaction that wrote has left a row with a token of
its own, so whether it was kept is read before anything is repeated.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from service.clock import Clock
from service.errors import StoreUnavailable
from service.ids import new_token
from service.states import Record
from service.stores.group_commit import GroupCommit, Outcome, Verb
from service.stores.postgres_clock import DatabaseClock

T = TypeVar("T")
V = TypeVar("V", bound=Callable[..., Any])
AsyncVerb = Callable[[list[Any]], Awaitable[list[Any]]]
log = logging.getLogger("callsheet.stores")

CONNECT_S = 5.0
STATEMENT_S = 30.0  # no statement of ours takes as long: the connection is taken for dead
RUNS = 10  # of one transaction
SETTLE_S = 15.0  # how long the outcome of a lost COMMIT is asked for; then the caller hears "not now"
NEWS_EVERY_S = 0.05
CHANNEL = "callsheet"
CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
MARK = "INSERT INTO commits (token, at) VALUES ($1, {}) RETURNING {}pg_current_xact_id()::text::bigint"
BEGIN = MARK.format(f"COALESCE($2::bigint, ({CLOCK}))", "at, ")
LOST = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # its state is no longer known
    asyncpg.PostgresConnectionError,
    TimeoutError,
)
LOST_CODES = ("57P01", "57P02", "57P03", "25P03", "25P04", "57P05")  # the server is going down, or ended the session
FULL_CODES = ("53", "25006", "58")  # out of disk, memory or connections; read-only; its own disk failed
RERUN = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.UniqueViolationError,  # another node was first: read again what it wrote
    asyncpg.InvalidCachedStatementError,  # another node migrated
    asyncpg.LockNotAvailableError,
    asyncpg.CheckViolationError,  # no partition for the row: another node dropped it, or has yet to make it
)


def writing(verb: V) -> V:
    """Mark a verb that always writes: its transaction asks for the time and leaves its token in one statement."""
    verb.writes = True  # type: ignore[attr-defined]
    return verb


class Again(Exception):
    """What was read has changed meanwhile: run the transaction again."""


class Options(Record, frozen=True, kw_only=True):
    """What the URL's query says to us; the rest of it is the driver's."""

    notify: bool = True
    advisory: bool = True
    partitions: bool = True
    statement_cache: int = 100
    pool: int = 5


def read_url(url: str) -> tuple[str, Options]:
    """The driver's URL without our own options, and those. Flags are `on` or `off`."""
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query))
    ours = {name: given.pop(name) for name in Options.__struct_fields__ if name in given}
    read: dict[str, Any] = {
        name: int(value) if name in ("statement_cache", "pool") else value != "off" for name, value in ours.items()
    }
    return urlunsplit(parts._replace(query=urlencode(given))), Options(**read)


class Pool:
    """The connections of one process. `commit` runs verbs in group commits; `read` runs a query beside them."""

    def __init__(self, url: str, *, clock: Clock, ask_time: bool = True):
        self.dsn, self.options = read_url(url)
        self._clock, self.asks_time = clock, ask_time
        self._told = DatabaseClock(clock)
        self.clock: Clock = self._told if ask_time else clock
        self._timing: asyncio.Task[None] | None = None
        self._group = GroupCommit(self._commit_calls)
        self._writer: Any = None
        self._listening: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._tell_at = 0.0
        self.rolled_back: Callable[[], None] = lambda: None  # what was read in a transaction that is undone
        self.statements = 0
        # Of the transaction under way:
        self._token = 0
        self._marked = False
        self._base: int | None = None
        self.news = False
        self._at: tuple[int, float] = (clock.now(), clock.monotonic())
        self._inside = False

    async def open(self) -> None:
        with translated():
            self._pool = await asyncpg.create_pool(
                self.dsn,
                min_size=0,
                max_size=max(2, self.options.pool),
                statement_cache_size=self.options.statement_cache,
                command_timeout=STATEMENT_S,
                timeout=CONNECT_S,
                connection_class=_Connection,
                reset=_nothing,  # nothing of ours outlives a transaction; one round trip less
            )
            self._at = await self._read_clock(self)
        if self.asks_time:
            self._timing = asyncio.create_task(self._told.keep(self._ask_time))

    async def close(self) -> None:
        """Wait for what is being written, close every connection."""
        await self._group.drained()
        for task in (self._listening, self._telling, self._timing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._release_writer()
        if hasattr(self, "_pool"):
            self._pool.terminate()  # nothing is under way, and a farewell to a dead server would fail
            await asyncio.sleep(0)

    # -- time

    def now(self) -> int:
        """The database's time: inside a transaction as it began, else as it goes on."""
        return self._at[0] if self._inside and self.asks_time else self.clock.now()

    def monotonic(self) -> float:
        """This node's monotonic clock just before the transaction asked for the time: no lease seems longer here."""
        return self._at[1] if self._inside and self.asks_time else self._clock.monotonic()

    def given_time(self) -> int | None:
        """For statements that ask for the time themselves: None, or the given clock's."""
        return None if self.asks_time else self._clock.now()

    async def _read_clock(self, db: Any) -> tuple[int, float]:
        before = self._clock.monotonic()
        if not self.asks_time:
            return self._clock.now(), before
        at = (await db.fetch(CLOCK))[0][0]
        self._told.learn(at, before)
        return at, before

    async def _ask_time(self) -> None:
        with suppress(asyncpg.PostgresError, *LOST):
            async with self._lent() as db:
                await self._read_clock(db)

    # -- reading

    async def fetch(self, sql: str, *values: Any) -> list[Any]:
        """All rows of one query beside the writer; asked once more where the connection was lost."""
        with translated():
            for last in (False, True):
                try:
                    self.statements += 1
                    async with self._lent() as db:
                        return list(await db.fetch(sql, *values))
                except (asyncpg.PostgresError, *LOST) as error:
                    if last or not (_lost(error) or isinstance(error, asyncpg.InvalidCachedStatementError)):
                        raise
                    await self._pool.expire_connections()
        raise AssertionError

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[Any]:
        """A connection beside the writer's, in a transaction of its own."""
        with translated():
            async with self._lent() as db, db.transaction():
                yield db

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[Any]:
        """One of the pool's. Whoever is cancelled ends it, and does not wait for a server that may not answer."""
        db = await self._pool.acquire()
        try:
            yield db
        except asyncio.CancelledError:
            db.terminate()
            raise
        finally:
            await self._pool.release(db)

    # -- inside a transaction

    async def rows(self, sql: str, *values: Any) -> list[Any]:
        self.statements += 1
        return list(await self._writer.fetch(sql, *values))

    async def run(self, sql: str, *values: Any) -> int:
        """A statement that writes; how many rows it changed."""
        self.statements += 1
        if not self._marked:
            await self._mark()
        said: str = await self._writer.execute(sql, *values)
        tail = said.rpartition(" ")[2]
        return int(tail) if tail.isdigit() else 0

    async def number(self) -> int:
        """The transaction's own number, of 64 bits: later transactions have higher ones."""
        if self._base is None:
            await self._mark()
        assert self._base is not None  # noqa: S101 - just read
        return self._base

    async def _mark(self) -> None:
        self._marked = True
        self.statements += 1
        self._base = await self._writer.fetchval(MARK.format("$2", ""), self._token, self.now())

    # -- committing

    async def commit(self, verb: Any, items: Sequence[Any]) -> list[Any]:
        """The verb's results, once they are durable."""
        return await self._group.run(verb, items)

    async def _commit_calls(self, calls: list[tuple[Verb, Sequence[Any]]]) -> list[Outcome]:
        try:
            writes = any(getattr(verb, "writes", False) for verb, _ in calls)
            return await self.durable(partial(_run_grouped, calls), writes=writes)
        except StoreUnavailable as error:
            return [error] * len(calls)
        except Exception as error:
            if len(calls) == 1 and len(calls[0][1]) == 1:
                return [error]
            return [await self._call_singly(verb, items) for verb, items in calls]

    async def _call_singly(self, verb: Any, items: Sequence[Any]) -> Outcome:
        """After a poisoned transaction: every item in one of its own, so that only the poison fails."""
        results: list[Any] = []
        failure: BaseException | None = None
        for item in items:
            try:
                results += await self.durable(partial(verb, [item]))
            except Exception as error:
                failure = failure or error
        return failure or results

    async def durable(self, work: Callable[[], Awaitable[T]], *, writes: bool = False) -> T:
        """Run the work in a transaction, as often as it takes until it is known to be kept, once.

        `writes`: it always writes.
        """
        with translated():
            for run in range(1, RUNS + 1):
                try:
                    return await self._transaction(work, writes)
                except _Committing as lost:
                    if await self._was_kept():
                        return lost.result  # type: ignore[no-any-return]
                except (Again, *RERUN) as error:
                    if run == (3 if isinstance(error, asyncpg.IntegrityConstraintViolationError) else RUNS):
                        raise
                    await asyncio.sleep(random.random() * min(0.1, 0.002 * 2**run))  # noqa: S311 - apart from other nodes
                except (asyncpg.PostgresError, *LOST) as error:
                    if not _lost(error) or run > 1:
                        raise
        raise StoreUnavailable("the database was lost again and again")

    async def _transaction(self, work: Callable[[], Awaitable[T]], writes: bool) -> T:
        self._token, self._marked, self._base, self.news = new_token(), False, None, False
        try:
            if self._writer is None:
                self._writer = await self._pool.acquire(timeout=CONNECT_S)
            await self._writer.execute("BEGIN")
            self._at, self._inside = await self._begin(writes), True
            self.statements += 3
            result = await work()
        except BaseException as error:
            self._inside = False
            self.rolled_back()
            await self._undo(error)
            raise
        self._inside = False
        await self._finish(result)
        self._tell()
        return result

    async def _begin(self, writes: bool) -> tuple[int, float]:
        """What time it is; one that writes leaves its token in the same statement."""
        if not writes:
            return await self._read_clock(self._writer)
        before, given = self._clock.monotonic(), self.given_time()
        self._marked = True
        row = await self._writer.fetchrow(BEGIN, self._token, given)
        self._base = row[1]
        self._told.learn(row[0], before)
        return row[0], before

    async def _finish(self, result: Any) -> None:
        try:
            await self._writer.execute("COMMIT")
        except BaseException as error:
            self.rolled_back()
            kept = self._marked and _lost(error)
            await self._undo(error)
            if kept:
                raise _Committing(result) from error
            raise

    async def _undo(self, error: BaseException) -> None:
        if self._writer is None:
            return
        if not _lost(error) and not isinstance(error, asyncio.CancelledError):
            with suppress(*LOST, asyncpg.PostgresError):
                await self._writer.execute("ROLLBACK")
                return
        with suppress(*LOST):  # the pool may have taken it back already
            self._writer.terminate()
        await self._pool.expire_connections()  # the others are likely to be as dead
        await self._release_writer()

    async def _release_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(*LOST, asyncpg.PostgresError):
                await self._pool.release(writer)

    async def _was_kept(self) -> bool:
        """Whether the transaction with this token was kept. Nothing that is asked for is left open.

        Inserting the token again waits for that transaction, where it is still ending, and fails once it is kept; where
        it was not, it never will be.
        """
        token, ends = self._token, asyncio.get_running_loop().time() + SETTLE_S
        sql = "INSERT INTO commits (token, at) VALUES ($1, $2) ON CONFLICT (token) DO NOTHING RETURNING token"
        while True:
            try:
                async with self._lent() as db:
                    return not await db.fetch(sql, token, self.now())
            except (asyncpg.PostgresError, *LOST) as error:
                if not _unavailable(error) or asyncio.get_running_loop().time() > ends:
                    raise
                await asyncio.sleep(0.2)

    # -- news: only a hint, as every loop also looks by itself

    def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` when another node has made work that is due now."""
        if self.options.notify and self._listening is None:
            self._listening = asyncio.create_task(self._listen(wake))

    async def _listen(self, wake: Callable[[], None]) -> None:
        while True:
            try:
                db = await asyncpg.connect(self.dsn, timeout=CONNECT_S, statement_cache_size=0)
                try:
                    ended = asyncio.Event()
                    db.add_termination_listener(lambda _, ended=ended: ended.set())
                    await db.add_listener(CHANNEL, lambda *_: wake())
                    await ended.wait()
                finally:
                    db.terminate()
            except (asyncpg.PostgresError, *LOST) as error:
                log.info("no news from other nodes for now: %s", error)
            await asyncio.sleep(CONNECT_S)

    def _tell(self) -> None:
        """After the commit and beside it, at most 20 times a second: NOTIFY in a transaction takes a global lock."""
        if not (self.news and self.options.notify) or (self._telling is not None and not self._telling.done()):
            return
        self._telling = asyncio.create_task(self._notify())

    async def _notify(self) -> None:
        with suppress(asyncpg.PostgresError, *LOST):
            async with self._lent() as db:
                await db.execute("SELECT pg_notify($1, '')", CHANNEL)
        await asyncio.sleep(NEWS_EVERY_S)


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # the driver has no types
    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the driver's signature
        """Also where the server is gone: the driver closes what has expired in a task whose error nobody reads."""
        with suppress(*LOST):
            await super().close(timeout=timeout)


class _Committing(Exception):
    """The connection was lost between COMMIT and its answer."""

    def __init__(self, result: Any):
        super().__init__("the outcome of a commit is not known")
        self.result = result


async def _nothing(_: Any) -> None:
    return None


async def _run_grouped(calls: list[tuple[Any, Sequence[Any]]]) -> list[Outcome]:
    """Run calls of one verb together, inside the transaction; results in the order of the calls."""
    grouped: dict[Any, list[int]] = {}
    for index, (verb, _) in enumerate(calls):
        grouped.setdefault(verb, []).append(index)
    outcomes: list[Outcome] = [[] for _ in calls]
    for verb, indexes in grouped.items():
        results = iter(await verb([item for index in indexes for item in calls[index][1]]))
        for index in indexes:
            outcomes[index] = [next(results) for _ in calls[index][1]]
    return outcomes


class translated:
    """The driver's "not now" errors become ours; its other errors are bugs and stay what they are."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, Exception) and _unavailable(error):
            raise StoreUnavailable(f"the database cannot be used now: {error or type(error).__name__}") from error


def _unavailable(error: BaseException) -> bool:
    code = getattr(error, "sqlstate", None) or ""
    return _lost(error) or code.startswith(FULL_CODES) or code in ("40P01", "40001", "55P03")


def _lost(error: BaseException) -> bool:
    if isinstance(error, asyncpg.DataError):  # a value that the driver cannot send: our fault, not the line's
        return False
    return isinstance(error, LOST) or (getattr(error, "sqlstate", None) or "") in LOST_CODES
