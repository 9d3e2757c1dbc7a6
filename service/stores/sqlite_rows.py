"""What SQLite's verbs are made of: statements on the writer's connection, numbers, events and their deliveries."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from service.ids import row_id
from service.models import DueDelivery, Endpoint, File, Job, Target
from service.states import Work
from service.stores import Plan
from service.stores.plain import (
    DELIVERY_NUMBER,
    ENDPOINT_COLUMNS,
    JOB_SELECT,
    PlainRows,
    endpoint_from_row,
    job_from_row,
)
from service.stores.planning import FreshLease, WriteSet
from service.stores.sqlite_clock import Moment
from service.stores.sqlite_files import Files
from service.stores.turns import BY_TIME, BY_TURN

PENDING, DELIVERED, FAILED, CANCELED, HELD = range(len(DELIVERY_NUMBER))
CHUNK = 500  # placeholders in one statement
LEAST_LANE = -(1 << 63)

INSERT_EVENT = (
    "INSERT INTO events (num, tenant, job, type, created_at, body, once, about) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
INSERT_DELIVERY = (
    "INSERT INTO deliveries (num, event, endpoint, tenant, lane, status, due_at, lease, attempts, spent, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?)"
)
TENANT_ENDPOINTS = f"SELECT {', '.join(ENDPOINT_COLUMNS)} FROM endpoints WHERE tenant = ? AND deleted = 0"  # noqa: S608


class SqliteRows(PlainRows):
    def __init__(self, files: Files, *, plan: Plan):
        self._files, self._plan = files, plan
        self.clock = files.clock
        self._endpoints: dict[int, tuple[int, list[Endpoint]]] = {}  # by tenant: version, rows
        self._last_lane = dict.fromkeys((BY_TURN, BY_TIME), LEAST_LANE)  # the last one that a claim looked at, or took
        self._last_credential: dict[tuple[str, Work], int] = {}
        files.rolled_back = self._endpoints.clear
        self.nonce = files.nonce
        self.close = files.close
        self.own_loops = files.own_loops
        self.release_loops = files.release_loops

    def now(self) -> int:
        return self._files.moment().now

    def due(self) -> int:
        return self._files.moment().due

    def listen(self, wake: Callable[[], None]) -> None:
        """Nothing to hear: one process runs the loops, and makes all of their work but what `keys create` does."""

    async def rows(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        return await self._files.read(sql, values)

    async def write(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        return list((await self._files.commit(self._write, [(sql, values)]))[0])

    async def free(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        return list((await self._files.commit_freeing(self._write, [(sql, values)]))[0])

    async def create_file(self, file: File) -> File:
        await self._files.keep_reserve()
        return await super().create_file(file)

    def _write(self, items: list[tuple[str, Sequence[Any]]]) -> list[list[Any]]:
        return [
            self._execute(sql, {str(n): value for n, value in enumerate(values, 1)}).fetchall() for sql, values in items
        ]

    def _execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
        return self._files.db.execute(sql, values)

    def _many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._files.db.executemany(sql, rows)

    def _in(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """All rows of a query whose `{}` is a list of values, in as few statements as SQLite takes."""
        rows: list[Any] = []
        for start in range(0, len(values), CHUNK):
            chunk = values[start : start + CHUNK]
            rows += self._execute(sql.format(", ".join("?" * len(chunk))), chunk).fetchall()
        return rows

    def _next(self, table: str) -> int:
        """The number that the table's next row gets; the transaction is the only writer."""
        row = self._execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
        return int(row[0]) + 1 if row else 1

    def _load_jobs(self, nums: Iterable[int]) -> dict[int, Job]:
        wanted = sorted(nums)
        rows = self._in(JOB_SELECT + " WHERE j.num IN ({})", wanted)
        return {row[0]: job_from_row(row) for row in rows}

    def _load_endpoints(self, tenants: Iterable[int]) -> dict[int, Sequence[Endpoint]]:
        """The tenants' endpoints, from memory where the version that this transaction reads is the same."""
        found: dict[int, Sequence[Endpoint]] = {}
        for tenant in tenants:
            version = self._execute("SELECT endpoints_version FROM tenants WHERE num = ?", (tenant,)).fetchone()[0]
            cached = self._endpoints.get(tenant)
            if cached is None or cached[0] != version:
                rows = self._execute(TENANT_ENDPOINTS, (tenant,)).fetchall()
                cached = self._endpoints[tenant] = (version, [endpoint_from_row(row) for row in rows])
            found[tenant] = cached[1]
        return found

    def _save_events(self, writes: WriteSet, arrivals: int) -> list[list[DueDelivery]]:
        fresh: list[list[DueDelivery]] = [[] for _ in range(arrivals)]
        if not writes.events:
            return fresh
        at, event_num, num = self._files.moment(), self._next("events"), self._next("deliveries")
        now, lease = at.now, FreshLease(at.due, at.monotonic)
        events, deliveries = [], []
        for event_num, event in enumerate(writes.events, event_num):  # noqa: B020 - counts on from the last number
            said, job = event.announcement, event.job
            job_num = job.num if job else None
            columns = (event_num, event.tenant, job_num, said.type, now, said.body, said.once, said.about_endpoint)
            events.append(columns)
            for target in event.targets:
                deliveries.append(_delivery_values(num, event_num, event.tenant, target, lease, at))
                if target.leased:
                    public = row_id("evt", now, self.nonce, event_num)
                    fresh[event.arrival].append(lease.delivery(num, event, public, target))
                num += 1
        self._many(INSERT_EVENT, events)
        self._many(INSERT_DELIVERY, deliveries)
        return fresh


def _delivery_values(
    num: int, event: int, tenant: int, target: Target, lease: FreshLease, at: Moment
) -> tuple[int | None, ...]:
    status = HELD if target.held else PENDING
    due_at = None if target.held else (lease.until if target.leased else at.due)
    token = lease.token if target.leased else None
    return (num, event, target.endpoint, tenant, target.lane, status, due_at, token, at.now)
