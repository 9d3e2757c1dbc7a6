"""Lists and settings rows: what both dialects share, as SQL with `$1` placeholders.

A dialect gives `rows` (read), `write` (one short transaction, returns its rows) and the column encodings.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from service.facts import RawCallback, Update
from service.ids import row_id
from service.models import ApiKey, Attempt, Delivery, Detail, Endpoint, Event, Job, Tenant
from service.states import CallbackVerdict, DeliveryStatus, EndpointStatus, JobStatus, Json, Work
from service.stores import Page
from service.stores.plain_credentials import PlainCredentials
from service.stores.plain_files import PlainFiles
from service.stores.plain_money import PlainMoney
from service.stores.plain_reconcile import PlainReconcile
from service.stores.plain_unanswered import PlainUnanswered

JOB_COLUMNS = (
    "num id tenant provider operation credential status reason version sequence work due_at lease tries polls "
    "first_poll_at last_poll_at created_at updated_at submitted_at accepted_at finished_at deadline_at "
    "cancel_requested_at correlation followed"
).split()
# What a decision may change. Naming the others in an UPDATE would rewrite their index entries for nothing.
FIXED_COLUMNS = ("num", "id", "tenant", "provider", "operation", "credential", "created_at", "followed")
MUTABLE_COLUMNS = tuple(name for name in JOB_COLUMNS if name not in FIXED_COLUMNS)
JOB_SELECT = (
    f"SELECT {', '.join('j.' + name for name in JOB_COLUMNS)}, d.metadata, d.detail"  # noqa: S608 - fixed names
    " FROM jobs j JOIN job_details d ON d.job = j.num"
)
ENDPOINT_COLUMNS = (
    "num id tenant status disabled_reason target secrets event_types filter format signature rate timeout_s "
    "description version deleted created_at updated_at"
).split()
KEY_SELECT = (
    "SELECT k.num, k.id, k.tenant, t.name, k.name, k.scopes, k.lookup, k.digest, k.created_at, k.expires_at,"
    " k.revoked_at FROM keys k JOIN tenants t ON t.num = k.tenant"
)
DELIVERY_STATUSES = tuple(DeliveryStatus)  # the stored number is the index
DELIVERY_NUMBER = {status: number for number, status in enumerate(DELIVERY_STATUSES)}

_encode = msgspec.json.encode
_job_values: Callable[[Job], tuple[Any, ...]] = attrgetter(*JOB_COLUMNS)
changed_values: Callable[[Job], tuple[Any, ...]] = attrgetter(*MUTABLE_COLUMNS)
_detail = msgspec.json.Decoder(Detail)
_texts = msgspec.json.Decoder(dict[str, str])
_names = msgspec.json.Decoder(tuple[str, ...])


def job_from_row(row: Sequence[Any]) -> Job:
    """A job from `JOB_SELECT`'s columns."""
    fields = dict(zip(JOB_COLUMNS, row, strict=False))
    fields["status"] = JobStatus(fields["status"])
    fields["work"] = Work(fields["work"]) if fields["work"] else None
    fields["followed"] = bool(fields["followed"])
    return Job(**fields, metadata=_texts.decode(row[-2]), detail=_detail.decode(row[-1]))


def job_values(job: Job) -> tuple[Any, ...]:
    """The values of `JOB_COLUMNS`, in their order."""
    return _job_values(job)


def without_content(detail: Detail) -> Detail:
    """What is left of a detail when its content is erased: ids, states and that a late result was announced."""
    parts = tuple(msgspec.structs.replace(part, update=_emptied(part.update)) for part in detail.parts)
    late = _emptied(detail.late)
    return msgspec.structs.replace(detail, outputs=(), provider_data=None, parts=parts, late=late)


def _emptied(update: Update | None) -> Update | None:
    return None if update is None else msgspec.structs.replace(update, outputs=(), provider_data=None)


def endpoint_from_row(row: Sequence[Any]) -> Endpoint:
    fields = dict(zip(ENDPOINT_COLUMNS, row, strict=True))
    fields["status"] = EndpointStatus(fields["status"])
    fields["event_types"] = _names.decode(fields["event_types"])
    fields["filter"] = msgspec.json.decode(fields["filter"])
    fields["deleted"] = bool(fields["deleted"])
    return Endpoint(**fields)


def endpoint_values(endpoint: Endpoint) -> list[Any]:
    """The values of `ENDPOINT_COLUMNS` after `num`, in their order."""
    values = {name: getattr(endpoint, name) for name in ENDPOINT_COLUMNS[1:]}
    values["event_types"] = _encode(endpoint.event_types).decode()
    values["filter"] = _encode(endpoint.filter).decode()
    values["deleted"] = int(endpoint.deleted)
    return list(values.values())


def _key(row: Sequence[Any]) -> ApiKey:
    names = ("num", "id", "tenant", "tenant_name", "name", "scopes", "lookup", "digest")
    fields = dict(zip((*names, "created_at", "expires_at", "revoked_at"), row, strict=True))
    return ApiKey(**{**fields, "scopes": _names.decode(fields["scopes"])})


def _tenant(row: Sequence[Any]) -> Tenant:
    return Tenant(num=row[0], name=row[1], created_at=row[2], secrets=row[3], endpoints_version=row[4])


class _Where:
    """Collects conditions and their `$n` values."""

    def __init__(self, tenant: int, page: Page, column: str):
        self.clauses, self.values = ["x.tenant = $1"], [tenant]
        self._column = column
        if page.before is not None:
            self.add(f"{column} < {{}}", page.before)

    def add(self, clause: str, *values: Any) -> None:
        marks = []
        for value in values:
            self.values.append(value)
            marks.append(f"${len(self.values)}")
        self.clauses.append(clause.format(*marks))

    def sql(self, limit: int) -> str:
        return f" WHERE {' AND '.join(self.clauses)} ORDER BY {self._column} DESC LIMIT {int(limit)}"


class PlainRows(PlainCredentials, PlainFiles, PlainMoney, PlainReconcile, PlainUnanswered):
    """The verbs that are one statement, or a page of a list."""

    nonce: int

    async def rows(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        raise NotImplementedError

    async def urgent(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        """As `rows`, for what the loops live on: no slow list holds it up."""
        return await self.rows(sql, *values)

    async def write(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        raise NotImplementedError

    def now(self) -> int:
        raise NotImplementedError

    def due(self) -> int:
        """What `due_at` is compared with."""
        return self.now()

    async def check(self) -> None:
        """A real write: a disk that is full or read-only still answers reads."""
        await self.set_meta("checked_at", str(self.now()))

    # -- jobs

    async def job(self, tenant: int, job_id: str) -> Job | None:
        return await self._job(" WHERE j.tenant = $1 AND j.id = $2", tenant, job_id)

    async def job_by_id(self, job_id: str) -> Job | None:
        """Of any tenant: for what proves itself otherwise, a callback's token."""
        return await self._job(" WHERE j.id = $1", job_id)

    async def job_by_number(self, num: int) -> Job | None:
        return await self._job(" WHERE j.num = $1", num)

    async def job_by_key(self, tenant: int, idempotency_key: str, fingerprint: bytes) -> Job | None:
        """The job that this very request has made already."""
        where = " WHERE j.tenant = $1 AND j.idempotency_key = $2 AND j.fingerprint = $3"
        return await self._job(where, tenant, idempotency_key, fingerprint)

    async def job_by_provider_id(self, credential: int, provider_job_id: str) -> Job | None:
        where = " WHERE j.num = (SELECT job FROM provider_ids WHERE credential = $1 AND provider_job_id = $2)"
        return await self._job(where, credential, provider_job_id)

    async def _job(self, where: str, *values: Any) -> Job | None:
        rows = await self.rows(JOB_SELECT + where, *values)
        return job_from_row(rows[0]) if rows else None

    async def job_input(self, num: int) -> bytes | None:
        rows = await self.rows("SELECT input FROM job_details WHERE job = $1", num)
        return bytes(rows[0][0]) if rows and rows[0][0] is not None else None

    async def jobs(self, tenant: int, page: Page, filters: Json) -> list[Job]:
        """Newest first; filters: status, provider, operation, created_after, created_before, metadata (a mapping)."""
        where = _Where(tenant, page, "x.num")
        for name in ("status", "provider", "operation"):
            if filters.get(name) is not None:
                where.add(f"x.{name} = {{}}", filters[name])
        for name, sign in (("created_after", ">"), ("created_before", "<")):
            if filters.get(name) is not None:
                where.add(f"x.created_at {sign} {{}}", filters[name])
        for key, value in (filters.get("metadata") or {}).items():
            clause, values = self.metadata_is(key, value)
            where.add(clause, *values)
        sql = JOB_SELECT.replace("j.", "x.").replace(" jobs j ", " jobs x ") + where.sql(page.limit)
        return [job_from_row(row) for row in await self.rows(sql, *where.values)]

    def metadata_is(self, key: str, value: str) -> tuple[str, tuple[Any, ...]]:
        """A condition on the column `d.metadata`, and its values."""
        return "EXISTS (SELECT 1 FROM json_each(d.metadata) m WHERE m.key = {} AND m.value = {})", (key, value)

    async def renew_lease(self, job: Job, lease_ms: int) -> bool:
        """The lease that the job was claimed with, from now on for so long again; False where it is no more."""
        sql = "UPDATE jobs SET due_at = $1 WHERE num = $2 AND lease = $3 AND due_at IS NOT NULL RETURNING num"
        return bool(await self.write(sql, self.due() + lease_ms, job.num, job.lease))

    async def overdue(self, limit: int) -> list[int]:
        sql = "SELECT num FROM jobs WHERE status = 'queued' AND deadline_at <= $1 ORDER BY deadline_at LIMIT $2"
        return [row[0] for row in await self.urgent(sql, self.now(), limit)]

    async def queued(self, tenant: int, at_most: int) -> int:
        """How many jobs of the tenant wait to be submitted, counted no further than `at_most`."""
        # `+tenant` keeps the planner from the tenant's index: by it, every finished job would be read, too.
        waiting = "SELECT 1 FROM jobs WHERE work = 'submit' AND due_at IS NOT NULL AND status = 'queued'"
        sql = f"SELECT COUNT(*) FROM ({waiting} AND +tenant = $1 LIMIT $2) q"  # noqa: S608 - fixed text
        return int((await self.rows(sql, tenant, at_most))[0][0])

    async def timeline(self, job: Job) -> list[Json]:
        """Everything stored that happened to the job; the order is the web layer's to make."""
        entries = [self._note(row) for row in await self.rows(_NOTES, job.num)]
        entries += [self._callback(row) for row in await self.rows(_CALLBACKS, job.num)]
        entries += [
            {"at": row[2], "kind": "event", "id": row_id("evt", row[2], self.nonce, row[0]), "type": row[1]}
            for row in await self.rows("SELECT num, type, created_at FROM events WHERE job = $1", job.num)
        ]
        for row in await self.rows(_DELIVERIES_OF_JOB, job.num):
            delivery = self._delivery(row)
            entries.append(
                {"at": delivery.created_at, "kind": "delivery", "id": delivery.id, "event": delivery.event_id}
                | {"endpoint": delivery.endpoint_id, "status": delivery.status, "attempts": delivery.attempts}
            )
        for row in await self.rows(_ATTEMPTS_OF_JOB, job.num):
            owner = row_id("dlv", row[9], self.nonce, row[8])
            entries += [{"kind": "attempt", "delivery": owner} | entry for entry in self._attempt_entries(row)]
        return entries

    @staticmethod
    def _note(row: Sequence[Any]) -> Json:
        return {"at": row[0], "kind": row[1], **msgspec.json.decode(row[2])}

    @staticmethod
    def _callback(row: Sequence[Any]) -> Json:
        entry = {"at": row[0], "kind": "callback", "verdict": row[1], "reason": row[2]}
        return entry | {"body": bytes(row[3]).decode("utf-8", "replace")}

    def _attempt_entries(self, row: Sequence[Any]) -> list[Json]:
        """One, after the one on a dead connection that it repeats, if there was one."""
        attempt = self._attempt(row)
        entry: Json = {"at": attempt.at, "id": attempt.id, "number": attempt.number}
        last = {"status_code": attempt.status_code, "error": attempt.error, "duration_ms": attempt.duration_ms}
        first = {"status_code": None, "error": attempt.stale, "duration_ms": 0, "repeated_at_once": True}
        return [entry | last] if attempt.stale is None else [entry | first, entry | last]

    async def rejected_callbacks(self, provider: str) -> list[RawCallback]:
        sql = (
            "SELECT provider, received_at, verdict, reason, body FROM callbacks"
            " WHERE provider = $1 AND job IS NULL ORDER BY num DESC"
        )
        return [
            RawCallback(provider=r[0], received_at=r[1], verdict=CallbackVerdict(r[2]), reason=r[3], body=bytes(r[4]))
            for r in await self.rows(sql, provider)
        ]

    # -- events and deliveries

    settled: Sequence[str] = ()  # conditions on `x.num`: no transaction is open that may add an event below it
    event_select = (
        "SELECT x.num, x.tenant, j.id, x.type, x.created_at, x.body FROM events x LEFT JOIN jobs j ON j.num = x.job"
    )

    async def event(self, tenant: int, num: int) -> Event | None:
        rows = await self.rows(self.event_select + " WHERE x.tenant = $1 AND x.num = $2", tenant, num)
        return self._event(rows[0]) if rows else None

    async def events(self, tenant: int, page: Page, filters: Json) -> list[Event]:
        """Newest first, of those that no event with a lower number can follow any more; filters: type, job."""
        where = _Where(tenant, page, "x.num")
        where.clauses += self.settled
        if filters.get("type") is not None:
            where.add("x.type = {}", filters["type"])
        if filters.get("job") is not None:
            where.add("x.job = (SELECT num FROM jobs WHERE id = {})", filters["job"])
        return [self._event(row) for row in await self.rows(self.event_select + where.sql(page.limit), *where.values)]

    async def events_after(self, tenant: int, after: int, limit: int) -> list[Event]:
        """In commit order: those with a number above `after`."""
        sql = self.event_select + " WHERE x.tenant = $1 AND x.num > $2 ORDER BY x.num LIMIT $3"
        return [self._event(row) for row in await self.rows(sql, tenant, after, limit)]

    def _event(self, row: Sequence[Any]) -> Event:
        num, tenant, job, kind, created_at, body = row
        public = row_id("evt", created_at, self.nonce, num)
        return Event(num=num, id=public, tenant=tenant, job=job, type=kind, created_at=created_at, body=bytes(body))

    async def delivery(self, tenant: int, num: int) -> Delivery | None:
        rows = await self.rows(_DELIVERIES + " WHERE x.tenant = $1 AND x.num = $2", tenant, num)
        return self._delivery(rows[0]) if rows else None

    async def deliveries(self, tenant: int, page: Page, filters: Json) -> list[Delivery]:
        """Newest first; filters: status, endpoint (number), event (number), job (id)."""
        where = _Where(tenant, page, "x.num")
        if filters.get("status") is not None:
            where.add("x.status = {}", DELIVERY_NUMBER[DeliveryStatus(filters["status"])])
        for name in ("endpoint", "event"):
            if filters.get(name) is not None:
                where.add(f"x.{name} = {{}}", filters[name])
        if filters.get("job") is not None:
            where.add("j.id = {}", filters["job"])
        rows = await self.rows(_DELIVERIES + where.sql(page.limit), *where.values)
        return [self._delivery(row) for row in rows]

    def _delivery(self, row: Sequence[Any]) -> Delivery:
        num, created_at, status, attempts, due_at, finished_at, event, event_at, kind, endpoint, job = row
        return Delivery(
            num=num,
            id=row_id("dlv", created_at, self.nonce, num),
            event_id=row_id("evt", event_at, self.nonce, event),
            event_type=kind,
            endpoint_id=endpoint,
            job_id=job,
            status=DELIVERY_STATUSES[status],
            attempts=attempts,
            due_at=None if due_at is None else due_at - self._ahead(),
            created_at=created_at,
            finished_at=finished_at,
        )

    def _ahead(self) -> int:
        """By how much due times are ahead of the wall clock, in whole seconds: what is shown of one stays the same."""
        return round((self.due() - self.now()) / 1000) * 1000

    async def attempts(self, delivery: int) -> list[Attempt]:
        sql = _ATTEMPT_COLUMNS + " FROM attempts a WHERE a.delivery = $1 ORDER BY a.num"
        return [self._attempt(row) for row in await self.rows(sql, delivery)]

    def _attempt(self, row: Sequence[Any]) -> Attempt:
        num, number, at, duration, status_code, error, response, stale = row[:8]
        return Attempt(
            num=num,
            id=row_id("att", at, self.nonce, num),
            number=number,
            at=at,
            duration_ms=duration,
            status_code=status_code,
            error=error,
            response=bytes(response).decode("utf-8", "replace") or None,
            stale=stale,
        )

    # -- tenants, keys, credentials, endpoints

    async def tenant(self, name: str) -> Tenant | None:
        rows = await self.rows(_TENANTS + " WHERE name = $1", name)
        return _tenant(rows[0]) if rows else None

    async def tenants(self) -> list[Tenant]:
        return [_tenant(row) for row in await self.rows(_TENANTS + " ORDER BY num")]

    async def create_tenant(self, name: str, secrets: bytes) -> Tenant:
        """The tenant of that name: made now, or the one that there is."""
        sql = "INSERT INTO tenants (name, created_at, secrets) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING"
        await self.write(sql, name, self.now(), secrets)
        tenant = await self.tenant(name)
        assert tenant is not None  # noqa: S101 - just inserted, or there before
        return tenant

    async def set_tenant_secrets(self, num: int, secrets: bytes) -> None:
        await self.write("UPDATE tenants SET secrets = $1 WHERE num = $2", secrets, num)

    async def delete_tenant(self, num: int) -> bool:
        """False where the tenant still owns anything but revoked keys and deleted credentials that no job names."""
        owns = " AND ".join(
            f"NOT EXISTS (SELECT 1 FROM {table} x WHERE x.tenant = $1)"  # noqa: S608 - fixed names
            for table in ("jobs", "endpoints", "credentials", "events", "files")
        )
        unused = "NOT EXISTS (SELECT 1 FROM jobs j WHERE j.credential = credentials.num)"
        await self.write(f"DELETE FROM credentials WHERE tenant = $1 AND deleted_at IS NOT NULL AND {unused}", num)  # noqa: S608
        live = " AND NOT EXISTS (SELECT 1 FROM keys k WHERE k.tenant = $1 AND k.revoked_at IS NULL)"
        await self.write(f"DELETE FROM keys WHERE tenant = $1 AND revoked_at IS NOT NULL AND {owns}", num)  # noqa: S608
        deleted = f"DELETE FROM tenants WHERE num = $1 AND {owns}{live} RETURNING num"  # noqa: S608
        return bool(await self.write(deleted, num))

    async def create_key(self, key: ApiKey) -> ApiKey:
        sql = (
            "INSERT INTO keys (id, tenant, name, scopes, lookup, digest, created_at, expires_at)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
        )
        scopes = _encode(key.scopes).decode()
        columns = (key.id, key.tenant, key.name, scopes, key.lookup, key.digest, key.created_at, key.expires_at)
        await self.write(sql, *columns)
        return key

    async def find_key(self, lookup: str) -> ApiKey | None:
        rows = await self.rows(KEY_SELECT + " WHERE k.lookup = $1 AND k.revoked_at IS NULL", lookup)
        return _key(rows[0]) if rows else None

    async def keys(self, tenant: int | None) -> list[ApiKey]:
        """The keys that are not revoked, of one tenant or of all."""
        where = " WHERE k.revoked_at IS NULL" + ("" if tenant is None else " AND k.tenant = $1")
        values = () if tenant is None else (tenant,)
        return [_key(row) for row in await self.rows(KEY_SELECT + where + " ORDER BY k.num", *values)]

    async def revoke_key(self, key_id: str, tenant: int | None) -> bool:
        sql = "UPDATE keys SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL"
        values: tuple[Any, ...] = (self.now(), key_id)
        if tenant is not None:
            sql, values = sql + " AND tenant = $3", (*values, tenant)
        return bool(await self.write(sql + " RETURNING num", *values))

    async def endpoint(self, tenant: int, endpoint_id: str) -> Endpoint | None:
        return await self._endpoint(" WHERE tenant = $1 AND id = $2 AND deleted = 0", tenant, endpoint_id)

    async def endpoint_by_number(self, num: int) -> Endpoint | None:
        return await self._endpoint(" WHERE num = $1", num)

    async def _endpoint(self, where: str, *values: Any) -> Endpoint | None:
        rows = await self.rows(_ENDPOINTS + where, *values)
        return endpoint_from_row(rows[0]) if rows else None

    async def endpoints(self, tenant: int, page: Page) -> list[Endpoint]:
        where = _Where(tenant, page, "x.num")
        where.add("x.deleted = {}", 0)
        sql = _ENDPOINTS + " x" + where.sql(page.limit)
        return [endpoint_from_row(row) for row in await self.rows(sql, *where.values)]

    async def meta(self, key: str) -> str | None:
        rows = await self.rows("SELECT value FROM meta WHERE key = $1", key)
        return str(rows[0][0]) if rows else None

    async def set_meta(self, key: str, value: str) -> None:
        sql = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        await self.write(sql, key, value)


_TENANTS = "SELECT num, name, created_at, secrets, endpoints_version FROM tenants"
_ENDPOINTS = f"SELECT {', '.join(ENDPOINT_COLUMNS)} FROM endpoints"  # noqa: S608 - fixed names
_NOTES = "SELECT at, kind, data FROM notes WHERE job = $1 ORDER BY num"
_CALLBACKS = "SELECT received_at, verdict, reason, body FROM callbacks WHERE job = $1 ORDER BY num"
_DELIVERIES = (
    "SELECT x.num, x.created_at, x.status, x.attempts, x.due_at, x.finished_at, x.event, e.created_at, e.type, p.id,"
    " j.id FROM deliveries x JOIN events e ON e.num = x.event LEFT JOIN endpoints p ON p.num = x.endpoint"
    " LEFT JOIN jobs j ON j.num = e.job"
)
_DELIVERIES_OF_JOB = _DELIVERIES + " WHERE e.job = $1 ORDER BY x.num"
_ATTEMPT_COLUMNS = "SELECT a.num, a.number, a.at, a.duration_ms, a.status_code, a.error, a.response, a.stale"
_ATTEMPTS_OF_JOB = (
    _ATTEMPT_COLUMNS + ", x.num, x.created_at FROM attempts a JOIN deliveries x ON x.num = a.delivery"
    " JOIN events e ON e.num = x.event WHERE e.job = $1 ORDER BY a.num"
)
