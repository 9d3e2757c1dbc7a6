"""What PostgreSQL's verbs are made of: bulk statements, numbers in commit order, events and their deliveries.

Numbers. A job, an event and a delivery are numbered `transaction * 2**20 + n`, n counting within the transaction.
Several nodes commit in another order than they began, so whoever reads events by a cursor (a stream, the pages
of their list) stops below the oldest transaction that is still open: what is there below it is all that will
ever be, and a cursor skips nobody. That needs no lock and no row that every transaction writes. A long transaction that
writes, of anything on the same server, makes these wait for it, and nothing else: claims and deliveries do not look at
it, nor do the lists of jobs and of deliveries, where whoever has just made a row expects to see it.
Differs from SQLite because there one writer numbers and commits in one order.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.json import encode

from service.ids import row_id
from service.models import DueDelivery, Endpoint, Event, Job, Target
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
from service.stores.postgres_partitions import Partitions
from service.stores.postgres_pool import Pool
from service.stores.postgres_schema import SHIFT
from service.stores.turns import BY_TIME, BY_TURN

PENDING, DELIVERED, FAILED, CANCELED, HELD = range(len(DELIVERY_NUMBER))
LEAST_LANE = -(1 << 63)
ADVISORY = 0x63616C6C  # our first key of two, apart from other programs' locks in the same database
TYPES = (
    dict.fromkeys(
        "id provider operation status reason work correlation idempotency_key metadata provider_job_id kind verdict key"
        " type once error outcome unit amount standing".split(),
        "text",
    )
    | dict.fromkeys("fingerprint digest input detail data body response".split(), "bytea")
    | {"number": "int", "status_code": "int"}
)
HORIZON = f"((pg_snapshot_xmin(pg_current_snapshot())::text::bigint + {{}}) << {SHIFT})"


def _unnest(columns: Sequence[str], types: Mapping[str, str]) -> str:
    return ", ".join(f"${n}::{types.get(name, 'bigint')}[]" for n, name in enumerate(columns, 1))


def insert(table: str, columns: str, **types: str) -> str:
    """INSERT of any number of rows, as one array per column."""
    names = columns.split()
    return f"INSERT INTO {table} ({', '.join(names)}) SELECT * FROM unnest({_unnest(names, TYPES | types)})"  # noqa: S608


def update(table: str, key: str, columns: Sequence[str], **types: str) -> str:
    """UPDATE of any number of rows by their key, which is the last column."""
    names, marks = [*columns, key], _unnest([*columns, key], TYPES | types)
    sets = ", ".join(f"{name} = v.{name}" for name in columns)
    return f"UPDATE {table} x SET {sets} FROM unnest({marks}) v ({', '.join(names)}) WHERE x.{key} = v.{key}"  # noqa: S608


INSERT_EVENT = insert("events", "num tenant job type created_at once about")
INSERT_BODY = insert("event_bodies", "event created_at body")
INSERT_DELIVERY = insert(
    "deliveries", "num event endpoint tenant lane status due_at lease attempts spent created_at", status="smallint"
)
BUMP_VERSION = "UPDATE tenants SET endpoints_version = endpoints_version + 1 WHERE num = $1"
TENANT_ENDPOINTS = f"SELECT {', '.join(ENDPOINT_COLUMNS)} FROM endpoints WHERE tenant = $1 AND deleted = 0"  # noqa: S608
VERSIONS = "SELECT num, endpoints_version FROM tenants WHERE num = ANY($1::bigint[])"
ERASED = '{"type": "erased", "data": {"erased": true}}'


class PostgresRows(PlainRows):
    def __init__(self, pool: Pool, partitions: Partitions, *, plan: Plan, nonce: int, lift: int):
        self._pool, self._partitions, self._plan, self.clock = pool, partitions, plan, pool.clock
        self._endpoints: dict[int, tuple[int, list[Endpoint]]] = {}  # by tenant: version, rows
        self._last_lane = dict.fromkeys((BY_TURN, BY_TIME), LEAST_LANE)  # the last one that a claim looked at, or took
        self._last_credential: dict[tuple[str, Work], int] = {}
        self._lift, self._numbered, self._given = lift, -1, 0  # which transaction, and how many numbers it was given
        self._leases: dict[str, dict[int, tuple[int, int]]] = {"jobs": {}, "deliveries": {}}  # ours: token, end
        pool.rolled_back = self._rolled_back
        self.nonce = nonce
        self.settled = (f"x.num < {self._horizon()}",)
        self.close = pool.close
        self.listen = pool.listen

    def _rolled_back(self) -> None:
        self._endpoints.clear()
        self._partitions.forget()

    def now(self) -> int:
        return self._pool.now()

    async def rows(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        return await self._pool.fetch(sql, *values)

    async def urgent(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        return await self._pool.fetch(sql, *values, urgent=True)

    async def write(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        return list((await self._pool.commit(self._write, [(sql, values)]))[0])

    async def _write(self, items: list[tuple[str, Sequence[Any]]]) -> list[list[Any]]:
        await self._pool.number()
        return [await self._pool.rows(sql, *values) for sql, values in items]

    async def _rows(self, sql: str, *values: Any) -> list[Any]:
        return await self._pool.rows(sql, *values)

    async def _run(self, sql: str, *values: Any) -> int:
        return await self._pool.run(sql, *values)

    async def _many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """A statement of `insert` or `update`, for these rows; how many it changed."""
        return await self._run(sql, *map(list, zip(*rows, strict=True))) if rows else 0

    async def _numbers(self, count: int) -> list[int]:
        """Numbers for so many new rows. Raises OverflowError where one transaction would make too many."""
        first = await self._next_number()
        self._given += count
        if self._given >> SHIFT:
            raise OverflowError(f"one transaction cannot make more than {1 << SHIFT} rows")
        return list(range(first, first + count))

    async def _next_number(self) -> int:
        base = ((await self._pool.number()) + self._lift) << SHIFT
        if self._numbered != base:
            self._numbered, self._given = base, 0
        return base + self._given

    def _horizon(self) -> str:
        """SQL for the number below which no transaction is open any more."""
        return HORIZON.format(self._lift)

    async def _load_jobs(self, nums: Iterable[int], *, lock: bool = True) -> dict[int, Job]:
        """Locked, in the order of their numbers: the version that is read stays the last one."""
        wanted = sorted(nums)
        if not wanted:
            return {}
        if lock:
            await self._rows("SELECT num FROM jobs WHERE num = ANY($1::bigint[]) ORDER BY num FOR UPDATE", wanted)
        rows = await self._rows(JOB_SELECT + " WHERE j.num = ANY($1::bigint[])", wanted)
        return {row[0]: job_from_row(row) for row in rows}

    async def _load_endpoints(self, tenants: Iterable[int]) -> dict[int, Sequence[Endpoint]]:
        """The tenants' endpoints, from memory where the version that this transaction reads is the same.

        Whoever changes an endpoint waits for those who read them here, so that no event of theirs misses it.
        """
        wanted = sorted(tenants)
        if not wanted:
            return {}
        sql = VERSIONS
        if self._pool.options.advisory:
            locks = "SELECT pg_advisory_xact_lock_shared($1, t::int) FROM unnest($2::bigint[]) t"
            await self._rows(locks, ADVISORY, [tenant % (1 << 31) for tenant in wanted])
        else:
            sql += " ORDER BY num FOR SHARE"
        found: dict[int, Sequence[Endpoint]] = {}
        for tenant, version in await self._rows(sql, wanted):
            cached = self._endpoints.get(tenant)
            if cached is None or cached[0] != version:
                rows = await self._rows(TENANT_ENDPOINTS, tenant)
                cached = self._endpoints[tenant] = (version, [endpoint_from_row(row) for row in rows])
            found[tenant] = cached[1]
        return found

    async def _bump_version(self, tenant: int) -> None:
        """Say that the tenant's endpoints change, before they do; waits for those who are reading them."""
        if self._pool.options.advisory:
            await self._rows("SELECT pg_advisory_xact_lock($1, $2)", ADVISORY, tenant % (1 << 31))
        await self._run(BUMP_VERSION, tenant)

    async def _save_events(self, writes: WriteSet, arrivals: int) -> list[list[DueDelivery]]:
        fresh: list[list[DueDelivery]] = [[] for _ in range(arrivals)]
        if not writes.events:
            return fresh
        now = self.now()
        lease = FreshLease(now, self._pool.monotonic())
        numbers = iter(await self._numbers(sum(1 + len(event.targets) for event in writes.events)))
        events, bodies, deliveries = [], [], []
        for event in writes.events:
            said, num = event.announcement, next(numbers)
            job = event.job.num if event.job else None
            events.append((num, event.tenant, job, said.type, now, said.once, said.about_endpoint))
            bodies.append((num, now, said.body))
            for target in event.targets:
                delivery = next(numbers)
                deliveries.append(_delivery_values(delivery, num, event.tenant, target, lease, now))
                if target.leased:
                    public = row_id("evt", now, self.nonce, num)
                    fresh[event.arrival].append(lease.delivery(delivery, event, public, target))
        self._hold("deliveries", ((due.num, due.lease) for born in fresh for due in born), lease.until)
        await self._partitions.ensure("event_bodies", [now])
        await self._many(INSERT_EVENT, events)
        await self._many(INSERT_BODY, bodies)
        await self._many(INSERT_DELIVERY, deliveries)
        self._pool.news = self._pool.news or any(row[6] == now for row in deliveries)
        return fresh

    # -- what this node holds, so that it can give it back

    def _hold(self, table: str, rows: Iterable[tuple[int, int]], until: int) -> None:
        """Noted inside the transaction: whoever asked for it may be gone when it is kept. No other row has the token,
        where it is not kept.
        """
        held, now = self._leases[table], self.now()
        held.update((num, (token, until)) for num, token in rows)
        if len(held) > 10_000:
            self._leases[table] = {num: lease for num, lease in held.items() if lease[1] > now}

    # -- shared SQL that is other SQL here

    event_select = (
        "SELECT x.num, x.tenant, j.id, x.type, x.created_at,"  # noqa: S608
        f" COALESCE(b.body, convert_to('{ERASED}', 'UTF8')) FROM events x"
        " LEFT JOIN event_bodies b ON b.event = x.num AND b.created_at = x.created_at LEFT JOIN jobs j ON j.num = x.job"
    )

    def metadata_is(self, key: str, value: str) -> tuple[str, tuple[Any, ...]]:
        """By the text of the JSON: every quote inside of a key or value has a backslash before it."""
        pair = encode({key: value}).decode()[1:-1]
        return "(position({} IN d.metadata) > 0 OR position({} IN d.metadata) > 0)", ("{" + pair, "," + pair)

    async def events_after(self, tenant: int, after: int, limit: int) -> list[Event]:
        """In commit order: those with a number above `after`, as far as no open transaction may still add any."""
        sql = f"{self.event_select} WHERE x.tenant = $1 AND x.num > $2 AND {self.settled[0]}"
        return [self._event(row) for row in await self.rows(sql + " ORDER BY x.num LIMIT $3", tenant, after, limit)]


def _delivery_values(
    num: int, event: int, tenant: int, target: Target, lease: FreshLease, now: int
) -> tuple[int | None, ...]:
    status = HELD if target.held else PENDING
    due_at = None if target.held else (lease.until if target.leased else now)
    token = lease.token if target.leased else None
    return (num, event, target.endpoint, tenant, target.lane, status, due_at, token, 0, 0, now)
