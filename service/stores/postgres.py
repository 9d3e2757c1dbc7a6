"""PostgreSQL's verbs, 13 or later: any number of nodes on one database, each with one writer and group commit.

Leases use the database's clock: every transaction asks it once. `?notify=off&advisory=off&partitions=off` in the URL
does without what distributed databases that speak its protocol may lack; NOTIFY is a hint only, anyway.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, cast

import msgspec

from service.clock import Clock
from service.facts import Arrival, RawCallback
from service.ids import new_token
from service.models import Announcement, Applied, Credential, CredentialRow, DueDelivery, Job, NewJob
from service.spending import charge_of
from service.states import Json, Work
from service.stores import Created, Plan, Room
from service.stores.plain import JOB_COLUMNS, MUTABLE_COLUMNS, changed_values, job_values
from service.stores.plain_unanswered import COLUMNS, unanswered_values
from service.stores.planning import Loaded, Planner, WriteSet, ids_to_bind
from service.stores.postgres_deliveries import DeliveryVerbs
from service.stores.postgres_money import MoneyVerbs, follow
from service.stores.postgres_nodes import NodeVerbs
from service.stores.postgres_partitions import DAY_MS, Partitions
from service.stores.postgres_pool import CLOCK, Again, Pool, Times, writing
from service.stores.postgres_retention import RetentionVerbs
from service.stores.postgres_rows import CANCELED, HELD, PENDING, insert, update
from service.stores.postgres_schema import migrate
from service.stores.postgres_storage import StorageVerbs
from service.stores.turns import BY_TIME, BY_TURN, CREDENTIALS_PER_CLAIM, DUE_ROWS, behind

CLOCKS_APART_MS = 30_000  # two nodes' clocks, and their transactions' ends: what was changed lately is read again
_encode = msgspec.json.encode
INSERT_JOB = insert("jobs", f"{' '.join(JOB_COLUMNS)} idempotency_key fingerprint") + " ON CONFLICT DO NOTHING"
INSERT_DETAIL = insert("job_details", "job input metadata detail")
INSERT_OWNER = insert("provider_ids", "credential provider_job_id job") + " ON CONFLICT DO NOTHING"
INSERT_DEDUPE = insert("dedupe_keys", "job key")
INSERT_NOTE = insert("notes", "job at kind data")
INSERT_CALLBACK = insert("callbacks", "job provider received_at verdict reason body")
INSERT_UNANSWERED = insert("unanswered", " ".join(COLUMNS))
UPDATE_JOB = update("jobs", "num", MUTABLE_COLUMNS)
UPDATE_DETAIL = update("job_details", "job", ["detail"])
KEYS = (
    "SELECT j.tenant, j.idempotency_key, j.num, j.fingerprint FROM unnest($1::bigint[], $2::text[]) k (tenant, key)"
    " JOIN jobs j ON j.tenant = k.tenant AND j.idempotency_key = k.key"
)
OWNERS = (
    "SELECT p.credential, p.provider_job_id, p.job FROM unnest($1::bigint[], $2::text[]) k (credential, id)"
    " JOIN provider_ids p ON p.credential = k.credential AND p.provider_job_id = k.id"
)
SEEN = (
    "SELECT d.job, d.key FROM unnest($1::bigint[], $2::text[]) k (job, key)"
    " JOIN dedupe_keys d ON d.job = k.job AND d.key = k.key"
)
CANCEL_PROGRESS = (
    "UPDATE deliveries SET status = $1, due_at = NULL, finished_at = $2 WHERE num IN (SELECT x.num FROM deliveries x"
    " JOIN events e ON e.num = x.event WHERE e.job = ANY($3::bigint[]) AND e.type = 'job.progress'"
    " AND x.status = ANY($4::int[]) AND x.lease IS NULL ORDER BY x.num FOR UPDATE OF x) AND lease IS NULL"
)
CREDENTIALS = (
    "WITH RECURSIVE c (credential, due_at) AS ((SELECT credential, due_at FROM jobs WHERE work = $1 AND due_at IS NOT"
    " NULL AND credential > $2 ORDER BY credential, due_at LIMIT 1) UNION ALL SELECT n.credential, n.due_at FROM c"
    " CROSS JOIN LATERAL (SELECT j.credential, j.due_at FROM jobs j WHERE j.work = $1 AND j.due_at IS NOT NULL AND"
    " j.credential > c.credential ORDER BY j.credential, j.due_at LIMIT 1) n)"
    " SELECT credential, due_at FROM c LIMIT $3"
)
_DUE = "SELECT credential FROM jobs WHERE work = $1 AND due_at <= {} AND due_at IS NOT NULL AND credential > 0"
ANY_DUE = _DUE.format(f"COALESCE($2::bigint, ({CLOCK}))") + " ORDER BY due_at LIMIT 1"
# Those of what fell due first and last: the one has waited longest, the other hides behind no backlog.
DUE_CREDENTIALS = (
    f"SELECT credential, count(*) FROM (({_DUE.format('$2')} ORDER BY due_at LIMIT $3) UNION ALL"  # noqa: S608
    f" ({_DUE.format('$2')} ORDER BY due_at DESC LIMIT $3)) d GROUP BY credential"
)
CLAIM = (
    "SELECT num FROM jobs WHERE work = $1 AND credential = $2 AND due_at <= $3 AND due_at IS NOT NULL ORDER BY due_at"
    " LIMIT $4 FOR UPDATE SKIP LOCKED"
)
CLAIM_OPEN = CLAIM.replace(
    " ORDER BY",
    " AND NOT EXISTS (SELECT 1 FROM credentials WHERE num = $2 AND (paused_at IS NOT NULL OR (on_trial = 1 AND $5)))"
    " ORDER BY",
)
LEASE = "UPDATE jobs SET lease = $1, due_at = $2 WHERE num = ANY($3::bigint[])"
PAUSE = (
    "UPDATE credentials SET paused_at = $1, paused_reason = $2, on_trial = 0 WHERE num = $3 AND paused_at IS NULL"
    " AND (resumed_at IS NULL OR resumed_at <= $4 OR resumed_at > $1)"  # the last: the clock was set back
)


async def open_store(
    url: str,
    *,
    plan: Plan,
    clock: Clock,
    create: bool = True,
    ask_time: bool = True,
    partition_ms: int = DAY_MS,
    times: Times | None = None,
) -> "PostgresStore":
    """Open `postgresql://...` and migrate it. Without `ask_time` the time is the given clock's, not the database's."""
    pool = Pool(url, clock=clock, ask_time=ask_time, times=times)
    try:
        await pool.open()
        nonce, lift = await migrate(pool, create=create)
        partitions = Partitions(pool, partition_ms)
        await partitions.open()
    except BaseException:
        await pool.close()
        raise
    pool.outage.watch()
    return PostgresStore(pool, partitions, plan=plan, nonce=nonce, lift=lift)


class PostgresStore(DeliveryVerbs, MoneyVerbs, NodeVerbs, RetentionVerbs, StorageVerbs):
    def own_loops(self, who: str) -> None:
        """Any number of nodes may run the loops: leases keep them apart.

        Differs from SQLite because there one process is simpler and faster.
        """

    def release_loops(self) -> None:
        """Nothing is held."""

    # -- new jobs

    async def create_jobs(self, jobs: Sequence[NewJob]) -> list[Created]:
        made: list[Created] = await self._pool.commit(self._create_jobs, jobs)
        return made

    @writing
    async def _create_jobs(self, items: list[NewJob]) -> list[Created]:
        budgets = await self._budgets({item.job.tenant for item in items})
        known, earlier = await self._known(items), {}  # behind the lock: what another node made meanwhile is known
        before, made = dict(budgets), dict[int, NewJob]()
        results: list[Created | None] = [None] * len(items)
        for index, item in enumerate(items):
            found = known.find(item)
            if found is not None:
                earlier[index] = found
            elif (budget := await self._over_budget(item.job, budgets)) is not None:
                results[index] = Created(verdict="over_budget", job=item.job, budget=budget)
            else:
                job = msgspec.structs.replace(item.job, num=await self._take_number())
                made[index] = msgspec.structs.replace(item, job=job)
                known.add(made[index])
                follow(budgets, (None, None), charge_of(job))
        await self._set_changed(before, budgets)
        for index, created in zip(made, await self._make(list(made.values())), strict=True):
            results[index] = created
        jobs = await self._load_jobs({num for _, num in earlier.values()}, lock=False)
        for index, (verdict, num) in earlier.items():
            results[index] = Created(verdict=verdict, job=jobs[num])
        return cast(list[Created], results)

    async def _known(self, items: list[NewJob]) -> "_Known":
        """The jobs that these items' keys and provider ids already have."""
        known = _Known()
        keys = [(item.job.tenant, item.idempotency_key) for item in items if item.idempotency_key is not None]
        if keys:
            for tenant, key, num, fingerprint in await self._rows(KEYS, *map(list, zip(*keys, strict=True))):
                known.keys[tenant, key] = num, fingerprint
        ids = [(item.job.credential, named) for item in items for named in item.job.provider_job_ids]
        known.owners = await self._load_owners(ids)
        return known

    async def _take_number(self) -> int:
        return (await self._numbers(1))[0]

    async def _make(self, items: list[NewJob]) -> list[Created]:
        if not items:
            return []
        jobs = [item.job for item in items]
        await self._need_credentials({job.credential for job in jobs})
        rows = [(*_row(job_values(item.job)), item.idempotency_key, item.fingerprint) for item in items]
        if await self._many(INSERT_JOB, rows) < len(rows):
            raise Again("another node was first with a key")
        details = [(i.job.num, i.input, _encode(i.job.metadata).decode(), _encode(i.job.detail)) for i in items]
        await self._many(INSERT_DETAIL, details)
        await self._bind([(job.credential, named, job.num) for job in jobs for named in job.provider_job_ids])
        waiting = [unanswered_values(item, item.job.num) for item in items if item.unanswered is not None]
        await self._many(INSERT_UNANSWERED, waiting)
        await self._charge_new(jobs)
        loaded = Loaded()
        loaded.endpoints = await self._load_endpoints({i.job.tenant for i in items if i.announcements})
        planner = Planner(loaded, self._plan, self.now())
        for index, item in enumerate(items):
            planner.announce(index, item.job.tenant, item.job, item.announcements)
        self._pool.news = True
        fresh = await self._save(planner.writes, len(items))
        return [Created(verdict="created", job=job, fresh=tuple(found)) for job, found in zip(jobs, fresh, strict=True)]

    async def _need_credentials(self, nums: set[int]) -> None:
        """A reference would lock the credential's row in every transaction of every node; none is ever deleted."""
        rows = await self._rows("SELECT num FROM credentials WHERE num = ANY($1::bigint[])", list(nums))
        if missing := nums - {row[0] for row in rows}:
            raise LookupError(f"there is no credential {min(missing)}")

    async def _bind(self, owners: list[tuple[int, str, int]]) -> None:
        if await self._many(INSERT_OWNER, owners) < len(owners):
            raise Again("another node bound a provider's id first")

    # -- what moves a job: load -> plan -> write

    async def apply(self, arrivals: Sequence[Arrival]) -> list[Applied]:
        applied: list[Applied] = await self._pool.commit(self._apply, arrivals)
        for arrival, result in zip(arrivals, applied, strict=True):
            if arrival.lease is not None and result.job is not None and result.job.lease is None:
                self._leases["jobs"].pop(result.job.num, None)
        return applied

    @writing
    async def _apply(self, arrivals: list[Arrival]) -> list[Applied]:
        planner = Planner(await self._load(arrivals), self._plan, self.now())
        applied = [planner.arrive(index, arrival) for index, arrival in enumerate(arrivals)]
        fresh = await self._save(planner.writes, len(arrivals))
        return [
            msgspec.structs.replace(result, fresh=tuple(deliveries)) if deliveries else result
            for result, deliveries in zip(applied, fresh, strict=True)
        ]

    async def _load(self, arrivals: list[Arrival]) -> Loaded:
        loaded = Loaded()
        named = [(a.credential, a.provider_job_id) for a in arrivals if a.credential is not None]
        loaded.owners = await self._load_owners(key for key in named if key[1] is not None)
        wanted = {a.job for a in arrivals if a.job is not None} | set(loaded.owners.values())
        loaded.jobs = await self._load_jobs(wanted)
        to_bind = [
            (loaded.jobs[a.job].credential, provider_job_id)
            for a in arrivals
            if a.job in loaded.jobs
            for provider_job_id in ids_to_bind(a)
        ]
        if to_bind:
            loaded.owners |= await self._load_owners(to_bind)
            others = set(loaded.owners.values()) - wanted
            loaded.jobs = await self._load_jobs(others, lock=False) | loaded.jobs  # only named, not moved
        loaded.seen = await self._load_seen(arrivals, loaded)
        loaded.endpoints = await self._load_endpoints({job.tenant for job in loaded.jobs.values()})
        return loaded

    async def _load_owners(self, keys: Iterable[tuple[Any, Any]]) -> dict[tuple[int, str], int]:
        pairs = list(keys)
        rows = await self._rows(OWNERS, *map(list, zip(*pairs, strict=True))) if pairs else []
        return {(credential, named): job for credential, named, job in rows}

    async def _load_seen(self, arrivals: list[Arrival], loaded: Loaded) -> set[tuple[int, str]]:
        keys = {
            (job.num, arrival.dedupe_key)
            for arrival in arrivals
            if arrival.dedupe_key is not None and (job := loaded.job_of(arrival)) is not None
        }
        rows = await self._rows(SEEN, *map(list, zip(*keys, strict=True))) if keys else []
        return {(job, key) for job, key in rows}

    async def _save(self, writes: WriteSet, arrivals: int) -> list[list[DueDelivery]]:
        """Write a plan; the deliveries born with a lease, by arrival."""
        await self._save_jobs(writes)
        await self._bind(writes.binds)
        await self._many(INSERT_DEDUPE, writes.dedupe)
        await self._many(INSERT_NOTE, [(job, note.at, note.kind, _encode(note.data)) for job, note in writes.notes])
        await self._save_callbacks(writes.callbacks)
        if writes.stale_progress:
            stale = sorted(set(writes.stale_progress))
            await self._run(CANCEL_PROGRESS, CANCELED, self.now(), stale, [PENDING, HELD])
        return await self._save_events(writes, arrivals)

    async def _save_jobs(self, writes: WriteSet) -> None:
        changed = list(writes.after.values())
        await self._many(UPDATE_JOB, [(*_row(changed_values(job)), job.num) for job in changed])
        details = [(_encode(job.detail), job.num) for job in changed if job.detail is not writes.before[job.num].detail]
        await self._many(UPDATE_DETAIL, details)
        await self._charge_changes(writes)

    async def _save_callbacks(self, callbacks: Iterable[tuple[int | None, RawCallback]]) -> None:
        rows = [(job, c.provider, c.received_at, c.verdict, c.reason, c.body) for job, c in callbacks]
        await self._partitions.ensure("callbacks", (row[2] for row in rows))
        await self._many(INSERT_CALLBACK, rows)

    # -- claims

    async def claim_jobs(
        self, work: Work, *, room: Room, lease_ms: int, limit: int, trials: Collection[int] = ()
    ) -> list[tuple[Job, bytes | None]]:
        if not await self.urgent(ANY_DUE, work, self._pool.given_time()):  # most scans: one statement, no transaction
            return []
        return list((await self._pool.commit(self._claim_jobs, [(work, room, lease_ms, limit, trials)]))[0])

    async def _claim_jobs(self, items: list[tuple[Work, Room, int, int, Collection[int]]]) -> list[list[Any]]:
        return [await self._claim_work(*item) for item in items]

    async def _claim_work(
        self, work: Work, room: Room, lease_ms: int, limit: int, trials: Collection[int]
    ) -> list[tuple[Job, bytes | None]]:
        """First which credentials have due work and room, in turn, then their rows: none starves behind another's."""
        now, taken = self.now(), list[int]()
        for found, credential in await self._due_credentials(work, now):
            most = min(room(credential), limit - len(taken))
            if most > 0:
                asked: tuple[Any, ...] = (work, credential, now, most)
                sql, more = (CLAIM_OPEN, (credential not in trials,)) if work is Work.SUBMIT else (CLAIM, ())
                taken += [row[0] for row in await self._rows(sql, *asked, *more)]
            if len(taken) >= limit:
                self._last_credential[found, work] = credential
                break
        if not taken:
            return []
        token, until = new_token(), now + lease_ms
        await self._run(LEASE, token, until, taken)
        self._hold("jobs", ((num, token) for num in taken), until)
        jobs = await self._load_jobs(taken, lock=False)
        sql = "SELECT job, input FROM job_details WHERE job = ANY($1::bigint[])"
        inputs = {job: given for job, given in await self._rows(sql, taken)}
        return [(jobs[num], inputs[num]) for num in taken]

    async def _due_credentials(self, work: Work, now: int) -> list[tuple[str, int]]:
        """Those of what fell due first and last. Where that is not all, first some of all credentials, in turn."""
        due = await self._rows(DUE_CREDENTIALS, work, now, DUE_ROWS)
        by_time = behind(self._last_credential.get((BY_TIME, work), 0), (row[0] for row in due))
        if sum(row[1] for row in due) < 2 * DUE_ROWS:
            return [(BY_TIME, num) for num in by_time]
        start = self._last_credential.get((BY_TURN, work), 0)
        looked = await self._rows(CREDENTIALS, work, start, CREDENTIALS_PER_CLAIM)
        if len(looked) < CREDENTIALS_PER_CLAIM:
            again = await self._rows(CREDENTIALS, work, 0, CREDENTIALS_PER_CLAIM - len(looked))
            looked += [row for row in again if row[0] <= start]
        self._last_credential[BY_TURN, work] = looked[-1][0] if looked else 0
        by_turn = [num for num, due_at in looked if due_at <= now]
        return [(BY_TURN, num) for num in by_turn] + [(BY_TIME, num) for num in by_time if num not in set(by_turn)]

    # -- credentials

    async def pause_credential(
        self, credential: Credential, reason: str, said: Announcement, sent_at: int
    ) -> list[DueDelivery] | None:
        paused: list[DueDelivery] | None = (
            await self._pool.commit(self._pause_credentials, [(credential, reason, said, sent_at)])
        )[0]
        return paused

    async def _pause_credentials(
        self, items: list[tuple[Credential, str, Announcement, int]]
    ) -> list[list[DueDelivery] | None]:
        return [await self._pause_credential(*item) for item in items]

    async def _pause_credential(
        self, credential: Credential, reason: str, said: Announcement, sent_at: int
    ) -> list[DueDelivery] | None:
        if not await self._run(PAUSE, self.now(), reason, credential.num, sent_at):
            return None
        return (await self._publish_one(credential.tenant, said, None))[1]

    async def credentials(self, changed_since: int = 0) -> list[CredentialRow]:
        """All, also the deleted ones that jobs name; or those that were changed at or after a moment, or just before.

        Differs from SQLite because a change with an earlier time may have been kept later.
        """
        return await super().credentials(changed_since - CLOCKS_APART_MS)

    # -- figures

    async def backlog(self) -> Json:
        """What waits, for metrics and `doctor`: counts stop at 100,000, ages in milliseconds."""
        now, found = self.now(), {}
        for name, sql in BACKLOG.items():
            count, oldest = (await self.rows(sql))[0]
            found[name] = {"count": count, "oldest_ms": max(0, now - oldest) if oldest is not None else 0}
        return found


_counted = "SELECT COUNT(*), MIN(due_at) FROM (SELECT due_at FROM {} due_at IS NOT NULL LIMIT 100000) q"
BACKLOG = {
    "submit": _counted.format("jobs WHERE work = 'submit' AND"),
    "settle": _counted.format("jobs WHERE work = 'settle' AND"),
    "poll": _counted.format("jobs WHERE work = 'poll' AND"),
    "deliveries": _counted.format("deliveries WHERE"),
}


class _Known:
    """Which job a new one would be again: in the database, or earlier in its own batch."""

    def __init__(self) -> None:
        self.keys: dict[tuple[int, str], tuple[int, bytes]] = {}
        self.owners: dict[tuple[int, str], int] = {}

    def find(self, item: NewJob) -> tuple[str, int] | None:
        """(verdict, job) where there is one."""
        if item.idempotency_key is not None:
            key = (item.job.tenant, item.idempotency_key)
            if key in self.keys:
                num, fingerprint = self.keys[key]
                return "replayed" if fingerprint == item.fingerprint else "key_reused", num
        for named in item.job.provider_job_ids:
            if (item.job.credential, named) in self.owners:
                return "followed", self.owners[item.job.credential, named]
        return None

    def add(self, item: NewJob) -> None:
        if item.idempotency_key is not None:
            self.keys[item.job.tenant, item.idempotency_key] = item.job.num, item.fingerprint
        self.owners |= {(item.job.credential, named): item.job.num for named in item.job.provider_job_ids}


def _row(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """A text cannot hold the character 0 here, which only a provider's words could bring."""
    return tuple(value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in values)
