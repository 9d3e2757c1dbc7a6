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
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import Any, TypeVar

import asyncpg

from service.clock import Clock, DueClock
from service.errors import StoreUnavailable
from service.ids import new_token
from service.states import Record
from service.stores import UnknownDatabase
from service.stores.group_commit import GroupCommit, Outcome, Verb
from service.stores.postgres_clock import DatabaseClock, GivenClock
from service.stores.postgres_lost import LOST, RERUN, Busy, lost, translated, unavailable, waited
from service.stores.postgres_outage import Outage
from service.stores.postgres_url import CONNECT_S, check_encoding, read_url

T = TypeVar("T")
V = TypeVar("V", bound=Callable[..., Any])
log = logging.getLogger("callsheet.stores")

RUNS = 10  # of one transaction
SETTLE_S = 15.0  # how long the outcome of a lost COMMIT is asked for; then the caller hears "not now"
NEWS_EVERY_S = 0.05
CHANNEL = "callsheet"
CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
MARK = "INSERT INTO commits (token, at) VALUES ($1, {}) RETURNING {}pg_current_xact_id()::text::bigint"
BEGIN = MARK.format(f"COALESCE($2::bigint, ({CLOCK}))", "at, ")
# A statement waits less than the client, who would leave it waiting at the server. A node that stopped, or has a dead
# line, is put out of its transaction, and its locks are free; one that merely was slow runs it again. All in the
# statement that begins it, and for this transaction alone: nothing is left to whoever gets the connection next.
LOCK_MS = 2_000  # longer than deadlock_timeout (1 s): a deadlock is seen as one
IDLE_MS = 10_000  # more than a pause of this process; less than SETTLE_S
SINGLY_MS = (400, 200, 100, 50, 25)  # for each item alone, after that: less with each that waited in vain
LIMITED = (
    "BEGIN; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = 25000;"
    f" SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS}"
)


def writing(verb: V) -> V:
    """Mark a verb that always writes: its transaction asks for the time and leaves its token in one statement."""
    verb.writes = True  # type: ignore[attr-defined]
    return verb


class Again(Exception):
    """What was read has changed meanwhile: run the transaction again."""


class Times(Record, frozen=True, kw_only=True):
    """Seconds."""

    statement: float = 30.0  # no statement of ours takes as long: the connection is taken for dead
    wait: float = 5.0  # of a read, for its turn; then the caller hears "not now"
    begin: float = 5.0  # and what else is always quick: a line without an answer for so long is dead, and said nothing
    hear: float = 15.0  # between questions to the server on the line of the news, which is silent while there are none


class Pool:
    """The connections of one process. `commit` runs verbs in group commits; `read` runs a query beside them."""

    def __init__(self, url: str, *, clock: Clock, ask_time: bool = True, times: Times | None = None):
        self.dsn, self.options = read_url(url)
        self._clock, self.asks_time, self._times = clock, ask_time, times or Times()
        self._size = max(3, self.options.pool)
        self._readers = asyncio.Semaphore(self._size - 2)  # without the writer's, and one for what is urgent
        self._told, self.outage = DatabaseClock(clock), Outage(clock.monotonic)
        self.clock: DueClock = self._told if ask_time else GivenClock(clock)
        self._timing: asyncio.Task[None] | None = None
        self._group = GroupCommit(self._commit_calls)
        self._writer: Any = None
        self._listening: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._untold = False  # there are news since the last were told
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
        """Raises `StoreUnavailable`, and `UnknownDatabase` where the URL itself is wrong."""
        try:
            await self._connect()
        except (ValueError, asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError) as error:
            raise UnknownDatabase(f"CALLSHEET_DATABASE_URL cannot be used: {error}") from error
        if self.asks_time:
            self._timing = asyncio.create_task(self._told.keep(self._ask_time))

    async def _connect(self) -> None:
        with translated():
            self._pool = await asyncpg.create_pool(
                self.dsn,
                min_size=0,
                max_size=self._size,
                statement_cache_size=self.options.statement_cache,
                command_timeout=self._times.statement,
                timeout=self.options.connect_timeout,
                connection_class=_Connection,
                reset=_nothing,  # nothing of ours outlives a transaction; one round trip less
            )
            check_encoding((await self.fetch("SHOW server_encoding"))[0][0])
            self._at = await self._read_clock(self)

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
        return self._at[0] if self._inside else self.clock.now()

    def monotonic(self) -> float:
        """This node's monotonic clock just before the transaction asked for the time: no lease seems longer here."""
        return self._at[1] if self._inside else self._clock.monotonic()

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
        with suppress(asyncpg.PostgresError, StoreUnavailable, *LOST), self.outage, translated():
            async with self._lent() as db:
                await self._read_clock(db)

    # -- reading

    async def fetch(self, sql: str, *values: Any, urgent: bool = False) -> list[Any]:
        """All rows of one query beside the writer; asked once more where the connection was lost.

        One that takes too long is canceled at the server, too, before its connection is anybody else's. `urgent`: what
        the loops live on, always quick, which no number of slow lists may hold up.
        """
        with self.outage, translated():
            for last in (False, True):
                try:
                    self.statements += 1
                    async with nullcontext() if urgent else self._turn(), self._lent() as db:
                        return list(await db.fetch(sql, *values, timeout=self._times.begin if urgent else None))
                except (asyncpg.PostgresError, *LOST) as error:
                    if lost(error):
                        await self._pool.expire_connections()
                    again = lost(error) and (urgent or not isinstance(error, TimeoutError))
                    if last or not (again or isinstance(error, asyncpg.InvalidCachedStatementError)):
                        raise
        raise AssertionError

    @asynccontextmanager
    async def beside(self, *, idle_ms: int = IDLE_MS) -> AsyncIterator[Any]:
        """A connection beside the writer's, in a transaction; nobody waits for a ROLLBACK of one that got no answer."""
        with translated():
            async with self._lent() as db:
                transaction = db.transaction()
                await transaction.start()
                try:
                    await db.execute(f"SET LOCAL idle_in_transaction_session_timeout = {idle_ms}")
                    yield db
                except Exception as error:
                    with suppress(*LOST):  # the server, or the pool, may have ended it already
                        db.terminate() if lost(error) else await transaction.rollback()
                    raise
                await transaction.commit()

    async def quick(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """A short transaction beside the writer; run once more, on a new connection, where it got no answer."""
        idle_ms = int(self._times.begin * 400)  # what the first one locked is free by then: its server was told nothing
        with self.outage:
            for last in (False, True):
                try:
                    async with asyncio.timeout(self._times.begin), self.beside(idle_ms=idle_ms) as db:
                        return await work(db)
                except (StoreUnavailable, TimeoutError) as error:
                    await self._pool.expire_connections()
                    if last:
                        raise StoreUnavailable(f"the database does not answer: {error}") from error
        raise AssertionError

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """The turn of a read that may be slow: such hold all connections but two."""
        try:
            async with asyncio.timeout(self._times.wait):
                await self._readers.acquire()
        except TimeoutError:
            raise Busy("the database has too many slow reads") from None
        try:
            yield
        finally:
            self._readers.release()

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[Any]:
        """One of the pool's. Whoever is cancelled ends it, and does not wait for a server that may not answer."""
        try:
            db = await self._pool.acquire(timeout=self._times.wait + CONNECT_S)
        except TimeoutError:
            raise StoreUnavailable("no connection to the database was to be had") from None
        try:
            yield db
        except asyncio.CancelledError:
            with suppress(*LOST):  # the server may have ended it already
                db.terminate()
            raise
        finally:
            await self._pool.release(db, timeout=CONNECT_S)

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
        except Exception as error:
            alone = len(calls) == 1 and len(calls[0][1]) == 1
            if alone or (isinstance(error, StoreUnavailable) and not waited(error)):
                return [error] * len(calls)
            patience = list(SINGLY_MS)
            return [await self._call_singly(verb, items, patience) for verb, items in calls]

    async def _call_singly(self, verb: Any, items: Sequence[Any], patience: list[int]) -> Outcome:
        """After a poisoned transaction: every item in one of its own, so that only the poison fails.

        The poison may be a row that somebody has locked. The first of `patience` is how long an item waits for one.
        """
        results: list[Any] = []
        failure: BaseException | None = None
        for item in items:
            try:
                results += await self.durable(partial(verb, [item]), lock_ms=patience[0])
            except Exception as error:
                failure = failure or error
                if waited(error) and len(patience) > 1:
                    patience.pop(0)
        return failure or results

    async def durable(self, work: Callable[[], Awaitable[T]], *, writes: bool = False, lock_ms: int = LOCK_MS) -> T:
        """Run the work in a transaction, as often as it takes until it is known to be kept, once.

        `writes`: it always writes. `lock_ms`: how long it waits for each lock; then `StoreUnavailable`.
        """
        with self.outage, translated():
            for run in range(1, RUNS + 1):
                try:
                    return await self._transaction(work, writes, lock_ms)
                except _Committing as committing:
                    if await self._was_kept():
                        return committing.result  # type: ignore[no-any-return]
                except (Again, *RERUN) as error:
                    if run == (3 if isinstance(error, asyncpg.IntegrityConstraintViolationError) else RUNS):
                        raise
                    await asyncio.sleep(random.random() * min(0.1, 0.002 * 2**run))  # noqa: S311 - apart from other nodes
                except (asyncpg.PostgresError, *LOST) as error:
                    if not lost(error) or run > 1:
                        raise
        raise StoreUnavailable("the database was lost again and again")

    async def _transaction(self, work: Callable[[], Awaitable[T]], writes: bool, lock_ms: int) -> T:
        self._token, self._marked, self._base, self.news = new_token(), False, None, False
        try:
            if self._writer is None:
                self._writer = await self._pool.acquire(timeout=CONNECT_S)
            await self._writer.execute(LIMITED.format(lock_ms), timeout=self._times.begin)
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
            kept = self._marked and lost(error)
            await self._undo(error)
            if kept:
                raise _Committing(result) from error
            raise

    async def _undo(self, error: BaseException) -> None:
        if self._writer is None:
            return
        if not lost(error) and not isinstance(error, asyncio.CancelledError):
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
            except (asyncpg.PostgresError, StoreUnavailable, *LOST) as error:
                if not unavailable(error) or asyncio.get_running_loop().time() > ends:
                    raise
                await asyncio.sleep(0.2)

    # -- news: only a hint, as every loop also looks by itself

    def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` when another node has made work that is due now."""
        if self.options.notify and self._listening is None:
            self._listening = asyncio.create_task(self._listen(wake))

    async def _listen(self, wake: Callable[[], None]) -> None:
        while True:
            said: object = None
            try:
                db = await asyncpg.connect(self.dsn, timeout=self.options.connect_timeout, statement_cache_size=0)
                try:
                    ended = asyncio.Event()
                    db.add_termination_listener(lambda _, ended=ended: ended.set())
                    await db.add_listener(CHANNEL, lambda *_: wake())
                    await self._attend(db, ended)
                finally:
                    db.terminate()
            except (asyncpg.PostgresError, *LOST) as error:
                said = error
            await asyncio.sleep(CONNECT_S)
            if said is not None and not self.outage.lasts:
                log.info("no news from other nodes for now: %s", said)

    async def _attend(self, db: Any, ended: asyncio.Event) -> None:
        """Return once the line has ended. Raises TimeoutError where it does not answer: nothing else would tell."""
        while not ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), self._times.hear)
                return
            await db.fetchval("SELECT 1", timeout=self._times.begin)

    def _tell(self) -> None:
        """After the commit and beside it, at most 20 times a second: NOTIFY in a transaction takes a global lock."""
        if self.news and self.options.notify:
            self._untold = True
            if self._telling is None or self._telling.done():
                self._telling = asyncio.create_task(self._notify())

    async def _notify(self) -> None:
        while self._untold:
            self._untold = False
            with suppress(asyncpg.PostgresError, StoreUnavailable, *LOST):
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
