"""SQLite's verbs: WAL, synchronous=FULL, one writer with group commit, readers beside it."""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from service.clock import Clock
from service.errors import StoreUnavailable
from service.facts import Arrival, RawCallback
from service.ids import new_token
from service.models import Announcement, Applied, Credential, DueDelivery, Job, NewJob
from service.states import Json, Work
from service.stores import Created, Held, Plan, Room
from service.stores.plain import JOB_COLUMNS, MUTABLE_COLUMNS, changed_values, job_values, without_content
from service.stores.plain_unanswered import COLUMNS, KEPT_MS, unanswered_values
from service.stores.planning import Loaded, Planner, WriteSet, ids_to_bind
from service.stores.sqlite_clock import FURTHEST_MS
from service.stores.sqlite_deliveries import DeliveryVerbs
from service.stores.sqlite_files import Connect, Files
from service.stores.sqlite_money import MoneyVerbs
from service.stores.sqlite_rows import CANCELED, HELD, PENDING
from service.stores.sqlite_storage import StorageVerbs
from service.stores.turns import BY_TIME, BY_TURN, CREDENTIALS_PER_CLAIM, DUE_ROWS, behind

_encode = msgspec.json.encode
_places = ", ".join("?" * len(JOB_COLUMNS))
INSERT_JOB = f"INSERT INTO jobs ({', '.join(JOB_COLUMNS)}, idempotency_key, fingerprint) VALUES ({_places}, ?, ?)"  # noqa: S608
INSERT_UNANSWERED = f"INSERT INTO unanswered ({', '.join(COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608
UPDATE_JOB = f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in MUTABLE_COLUMNS)} WHERE num = ?"  # noqa: S608
# Those of what fell due first and last: the one has waited longest, the other hides behind no backlog.
_DUE = "SELECT * FROM (SELECT credential FROM jobs WHERE work = :work AND due_at <= :now ORDER BY due_at{} LIMIT :most)"
DUE_CREDENTIALS = f"SELECT credential, count(*) FROM ({_DUE.format('')} UNION ALL {_DUE.format(' DESC')}) GROUP BY 1"  # noqa: S608
CLOSED = "SELECT 1 FROM credentials WHERE num = ? AND (paused_at IS NOT NULL OR (on_trial = 1 AND ?))"
PRUNE = (  # attempts and callbacks (the oldest only are looked at), held deliveries, finished jobs (with all that
    # hangs on them), events of no job
    "DELETE FROM attempts WHERE num IN (SELECT num FROM (SELECT num, at FROM attempts ORDER BY num LIMIT :limit)"
    " WHERE at < :attempts)",
    "DELETE FROM callbacks WHERE num IN (SELECT num FROM (SELECT num, received_at FROM callbacks ORDER BY num"
    " LIMIT :limit) WHERE received_at < :callbacks)",
    "UPDATE deliveries SET status = 3, finished_at = :now WHERE num IN"
    " (SELECT num FROM deliveries WHERE status = 4 AND created_at < :held LIMIT :limit)",
    "DELETE FROM jobs WHERE num IN (SELECT j.num FROM jobs j WHERE j.work IS NULL AND j.finished_at < :jobs"
    " AND NOT EXISTS (SELECT 1 FROM deliveries x JOIN events e ON e.num = x.event"
    " WHERE e.job = j.num AND x.status IN (0, 4)) ORDER BY j.finished_at LIMIT :limit)",
    "DELETE FROM events WHERE num IN (SELECT e.num FROM events e WHERE e.job IS NULL AND e.created_at < :jobs"
    " AND NOT EXISTS (SELECT 1 FROM deliveries x WHERE x.event = e.num AND x.status IN (0, 4)) LIMIT :limit)",
    f"DELETE FROM unanswered WHERE made_at < :now - {KEPT_MS}",  # noqa: S608
)
_counted = "SELECT COUNT(*), MIN(due_at) FROM (SELECT due_at FROM {} AND due_at IS NOT NULL LIMIT 100000) q"
BACKLOG = {
    "submit": _counted.format("jobs WHERE work = 'submit'"),
    "settle": _counted.format("jobs WHERE work = 'settle'"),
    "poll": _counted.format("jobs WHERE work = 'poll'"),
    "deliveries": _counted.format("deliveries WHERE 1"),
}


async def open_store(
    url: str, *, plan: Plan, clock: Clock, create: bool = True, connect: Connect = sqlite3.connect
) -> "SqliteStore":
    """Open `sqlite:///relative.db` or `sqlite:////absolute.db` and migrate it; `connect` makes its connections."""
    path = Path(url.removeprefix("sqlite:///"))
    if not create and not path.exists():  # noqa: ASYNC240 - once, at start
        raise StoreUnavailable(f"there is no database at {path}; `callsheet migrate` makes one")
    files = Files(path, clock=clock, connect=connect)
    try:
        await files.open()
    except BaseException:
        await files.close()
        raise
    return SqliteStore(files, plan=plan)


class SqliteStore(DeliveryVerbs, MoneyVerbs, StorageVerbs):
    async def beat(self, node: int, giving: Sequence[int], term_ms: int, proving_ms: int) -> Held | None:
        """Differs from PostgreSQL because one process runs the loops, and the lock file sees to it."""
        return None

    async def leave(self, node: int) -> None:
        """Nobody counts nodes."""

    async def nodes(self, term_ms: int) -> int | None:
        return None

    async def check(self) -> None:
        """Write something and wait for its commit, as an accept does."""
        await self.set_meta("checked_at", str(self.now()))

    # -- new jobs

    async def create_jobs(self, jobs: Sequence[NewJob]) -> list[Created]:
        return await self._files.commit(self._create_jobs, jobs)

    def _create_jobs(self, items: list[NewJob]) -> list[Created]:
        return [self._create_job(item) for item in items]

    def _create_job(self, item: NewJob) -> Created:
        earlier = self._earlier(item)
        if earlier is not None:
            return earlier
        budget = self._over_budget(item.job)
        if budget is not None:
            return Created(verdict="over_budget", job=item.job, budget=budget)
        num = self._next("jobs")
        job = msgspec.structs.replace(item.job, num=num, due_at=self._due_by_now(item.job))
        self._execute(INSERT_JOB, (*job_values(job), item.idempotency_key, item.fingerprint))
        metadata, detail = _encode(job.metadata).decode(), _encode(job.detail)
        self._execute("INSERT INTO job_details VALUES (?, ?, ?, ?)", (num, item.input, metadata, detail))
        owned = [(job.credential, provider_job_id, num) for provider_job_id in job.provider_job_ids]
        self._many("INSERT INTO provider_ids VALUES (?, ?, ?)", owned)
        self._many(INSERT_UNANSWERED, [unanswered_values(item, num)] if item.unanswered is not None else [])
        self._charge_new(job)
        loaded = Loaded()
        if item.announcements:
            loaded.endpoints = self._load_endpoints([job.tenant])
        planner = Planner(loaded, self._plan, self.now())
        planner.announce(0, job.tenant, job, item.announcements)
        return Created(verdict="created", job=job, fresh=tuple(self._save(planner.writes, 1)[0]))

    def _due_by_now(self, job: Job) -> int | None:
        """When a job is due that was made by the wall clock: no later than it meant, if that was set back meanwhile."""
        if job.due_at is None:
            return None
        at = self._files.moment()
        return at.due + min(job.due_at - job.created_at, job.due_at - at.now)

    def _earlier(self, item: NewJob) -> Created | None:
        """The job that this key, or this provider id, already has."""
        if item.idempotency_key is not None:
            sql = "SELECT num, fingerprint FROM jobs WHERE tenant = ? AND idempotency_key = ?"
            row = self._execute(sql, (item.job.tenant, item.idempotency_key)).fetchone()
            if row is not None:
                verdict = "replayed" if row[1] == item.fingerprint else "key_reused"
                return Created(verdict=verdict, job=self._load_jobs([row[0]])[row[0]])
        for provider_job_id in item.job.provider_job_ids:
            owner = self._load_owners([(item.job.credential, provider_job_id)])
            for num in owner.values():
                return Created(verdict="followed", job=self._load_jobs([num])[num])
        return None

    # -- what moves a job: load -> plan -> write

    async def apply(self, arrivals: Sequence[Arrival]) -> list[Applied]:
        return await self._files.commit(self._apply, arrivals)

    def _apply(self, arrivals: list[Arrival]) -> list[Applied]:
        at = self._files.moment()
        planner = Planner(self._load(arrivals), self._plan, at.now, at.due)
        applied = [planner.arrive(index, arrival) for index, arrival in enumerate(arrivals)]
        fresh = self._save(planner.writes, len(arrivals))
        return [
            msgspec.structs.replace(result, fresh=tuple(deliveries)) if deliveries else result
            for result, deliveries in zip(applied, fresh, strict=True)
        ]

    def _load(self, arrivals: list[Arrival]) -> Loaded:
        loaded = Loaded()
        named = [(a.credential, a.provider_job_id) for a in arrivals if a.credential is not None]
        loaded.owners = self._load_owners(named)
        wanted = {a.job for a in arrivals if a.job is not None} | set(loaded.owners.values())
        loaded.jobs = self._load_jobs(wanted)
        to_bind = [
            (loaded.jobs[a.job].credential, provider_job_id)
            for a in arrivals
            if a.job in loaded.jobs
            for provider_job_id in ids_to_bind(a)
        ]
        if to_bind:
            loaded.owners |= self._load_owners(to_bind)
            loaded.jobs = self._load_jobs(set(loaded.owners.values()) - wanted) | loaded.jobs
        loaded.seen = self._load_seen(arrivals, loaded)
        loaded.endpoints = self._load_endpoints({job.tenant for job in loaded.jobs.values()})
        return loaded

    def _load_owners(self, keys: Sequence[tuple[Any, Any]]) -> dict[tuple[int, str], int]:
        sql = "SELECT job FROM provider_ids WHERE credential = ? AND provider_job_id = ?"
        found = ((key, self._execute(sql, key).fetchone()) for key in keys)
        return {key: row[0] for key, row in found if row is not None}

    def _load_seen(self, arrivals: list[Arrival], loaded: Loaded) -> set[tuple[int, str]]:
        sql = "SELECT 1 FROM dedupe_keys WHERE job = ? AND key = ?"
        keys = {
            (job.num, arrival.dedupe_key)
            for arrival in arrivals
            if arrival.dedupe_key is not None and (job := loaded.job_of(arrival)) is not None
        }
        return {key for key in keys if self._execute(sql, key).fetchone()}

    def _save(self, writes: WriteSet, arrivals: int) -> list[list[DueDelivery]]:
        """Write a plan; the deliveries born with a lease, by arrival."""
        self._save_jobs(writes)
        self._many("INSERT INTO provider_ids VALUES (?, ?, ?)", [(*key, job) for *key, job in writes.binds])
        self._many("INSERT INTO dedupe_keys VALUES (?, ?)", writes.dedupe)
        notes = [(job, note.at, note.kind, _encode(note.data)) for job, note in writes.notes]
        self._many("INSERT INTO notes (job, at, kind, data) VALUES (?, ?, ?, ?)", notes)
        self._save_callbacks(writes.callbacks)
        for job in writes.stale_progress:
            self._cancel_progress(job)
        return self._save_events(writes, arrivals)

    def _save_jobs(self, writes: WriteSet) -> None:
        changed = list(writes.after.values())
        self._many(UPDATE_JOB, [(*changed_values(job), job.num) for job in changed])
        details = [(_encode(job.detail), job.num) for job in changed if job.detail is not writes.before[job.num].detail]
        self._many("UPDATE job_details SET detail = ? WHERE job = ?", details)
        self._charge_changes(writes)

    def _save_callbacks(self, callbacks: Iterable[tuple[int | None, RawCallback]]) -> None:
        rows = [(job, c.provider, c.received_at, c.verdict, c.reason, c.body) for job, c in callbacks]
        sql = "INSERT INTO callbacks (job, provider, received_at, verdict, reason, body) VALUES (?, ?, ?, ?, ?, ?)"
        self._many(sql, rows)

    def _cancel_progress(self, job: int) -> None:
        sql = (
            "UPDATE deliveries SET status = ?, due_at = NULL, finished_at = ? WHERE status IN (?, ?) AND lease IS NULL"
            " AND event IN (SELECT num FROM events WHERE job = ? AND type = 'job.progress')"
        )
        self._execute(sql, (CANCELED, self.now(), PENDING, HELD, job))

    # -- claims

    async def claim_jobs(
        self, work: Work, *, room: Room, lease_ms: int, limit: int, trials: Collection[int] = ()
    ) -> list[tuple[Job, bytes | None]]:
        claimed = await self._files.commit(self._claim_jobs, [(work, room, lease_ms, limit, trials)])
        return list(claimed[0])

    def _claim_jobs(self, items: list[tuple[Work, Room, int, int, Collection[int]]]) -> list[list[Any]]:
        return [self._claim_work(*item) for item in items]

    def _claim_work(
        self, work: Work, room: Room, lease_ms: int, limit: int, trials: Collection[int]
    ) -> list[tuple[Job, bytes | None]]:
        """First which credentials have due work and room, in turn, then their rows: none starves behind another's."""
        now, taken = self.due(), list[int]()
        for found, credential in self._due_credentials(work, now):
            sql = (
                "SELECT num FROM jobs WHERE work = ? AND credential = ? AND due_at <= ? AND due_at IS NOT NULL"
                " ORDER BY due_at LIMIT ?"
            )
            most = min(room(credential), limit - len(taken))
            if most > 0 and not (work is Work.SUBMIT and self._is_closed(credential, trials)):
                taken += [row[0] for row in self._execute(sql, (work, credential, now, most))]
            if len(taken) >= limit:
                self._last_credential[found, work] = credential
                break
        if not taken:
            return []
        token = new_token()
        leases = [(token, now + lease_ms, num) for num in taken]
        self._many("UPDATE jobs SET lease = ?, due_at = ? WHERE num = ?", leases)
        jobs = self._load_jobs(taken)
        inputs = dict(self._in("SELECT job, input FROM job_details WHERE job IN ({})", taken))
        return [(jobs[num], inputs[num]) for num in taken]

    def _is_closed(self, credential: int, trials: Collection[int]) -> bool:
        return self._execute(CLOSED, (credential, credential not in trials)).fetchone() is not None

    def _due_credentials(self, work: Work, now: int) -> list[tuple[str, int]]:
        """Those of what fell due first and last. Where that is not all, first some of all credentials, in turn."""
        due = dict(self._execute(DUE_CREDENTIALS, {"work": work, "now": now, "most": DUE_ROWS}).fetchall())
        by_time = behind(self._last_credential.get((BY_TIME, work), 0), due)
        if sum(due.values()) < 2 * DUE_ROWS:
            return [(BY_TIME, num) for num in by_time]
        by_turn = [num for num, due_at in self._credentials_in_turn(work) if due_at <= now]
        return [(BY_TURN, num) for num in by_turn] + [(BY_TIME, num) for num in by_time if num not in set(by_turn)]

    def _credentials_in_turn(self, work: Work) -> Iterator[tuple[int, int]]:
        sql = (
            "SELECT credential, due_at FROM jobs WHERE work = ? AND credential > ? AND due_at IS NOT NULL"
            " ORDER BY credential, due_at LIMIT 1"
        )
        start = last = self._last_credential.get((BY_TURN, work), 0)
        wrapped = False
        for _ in range(CREDENTIALS_PER_CLAIM):
            row = self._execute(sql, (work, last)).fetchone()
            if row is None and not wrapped:
                wrapped, row = True, self._execute(sql, (work, 0)).fetchone()
            if row is None or (wrapped and row[0] > start):
                return
            self._last_credential[BY_TURN, work] = last = row[0]
            yield row

    # -- credentials that their provider refuses

    async def pause_credential(
        self, credential: Credential, reason: str, said: Announcement, sent_at: int
    ) -> list[DueDelivery] | None:
        paused = await self._files.commit(self._pause_credentials, [(credential, reason, said, sent_at)])
        return cast(list[DueDelivery] | None, paused[0])

    def _pause_credentials(
        self, items: list[tuple[Credential, str, Announcement, int]]
    ) -> list[list[DueDelivery] | None]:
        return [self._pause_credential(*item) for item in items]

    def _pause_credential(
        self, credential: Credential, reason: str, said: Announcement, sent_at: int
    ) -> list[DueDelivery] | None:
        sql = (
            "UPDATE credentials SET paused_at = ?, paused_reason = ?, on_trial = 0 WHERE num = ? AND paused_at IS NULL"
            " AND (resumed_at IS NULL OR resumed_at <= ? OR resumed_at > ?)"  # the last: the clock was set back
        )
        if not self._execute(sql, (self.now(), reason, credential.num, sent_at, self.now())).rowcount:
            return None
        return self._publish_one(credential.tenant, said, None)[1]

    # -- callbacks that moved nothing, recovery, retention

    async def record_rejected(self, callback: RawCallback, keep: int) -> None:
        """Keep it for the operator: the last `keep` of its provider."""
        await self._files.commit(self._record_rejected, [(callback, keep)])

    def _record_rejected(self, items: list[tuple[RawCallback, int]]) -> list[None]:
        self._save_callbacks([(None, callback) for callback, _ in items])
        for provider, keep in {(callback.provider, keep) for callback, keep in items}:
            sql = (
                "DELETE FROM callbacks WHERE job IS NULL AND provider = ? AND num <= (SELECT num FROM callbacks"
                " WHERE job IS NULL AND provider = ? ORDER BY num DESC LIMIT 1 OFFSET ?)"
            )
            self._execute(sql, (provider, provider, keep))
        return [None] * len(items)

    async def recover_leases(self) -> int:
        """At start, with the loops' lock held: nobody else is running, so every lease is void. How many were."""
        return int((await self._files.commit(self._recover_leases, [None]))[0])

    def _recover_leases(self, items: list[None]) -> list[int]:
        now = self.due()
        sql = "UPDATE jobs SET lease = NULL, due_at = ? WHERE due_at IS NOT NULL AND lease IS NOT NULL"
        jobs = self._execute(sql, (now,))
        sql = "UPDATE deliveries SET lease = NULL, due_at = ? WHERE due_at IS NOT NULL AND lease IS NOT NULL"
        freed = jobs.rowcount + self._execute(sql, (now,)).rowcount
        for table in ("jobs", "deliveries"):
            sql = f"UPDATE {table} SET due_at = ? WHERE due_at IS NOT NULL AND due_at > ?"  # noqa: S608 - fixed names
            self._execute(sql, (now, now + FURTHEST_MS))
        return [freed]

    async def release_leases(self) -> int:
        """Nobody else runs, and who starts finds every lease void.

        Differs from PostgreSQL because other nodes go on there.
        """
        return 0

    async def erase_content(self, job: Job) -> None:
        """Erase input, outputs and bodies; what happened and when stays."""
        await self._files.commit_freeing(self._erase_content, [job])

    def _erase_content(self, jobs: list[Job]) -> list[None]:
        for job in self._load_jobs(job.num for job in jobs).values():
            detail = without_content(job.detail)
            self._execute("UPDATE job_details SET input = NULL, detail = ? WHERE job = ?", (_encode(detail), job.num))
            self._execute("UPDATE callbacks SET body = x'' WHERE job = ?", (job.num,))
            body = b'{"type": "erased", "data": {"id": "%s", "erased": true}}' % job.id.encode()
            self._execute("UPDATE events SET body = ? WHERE job = ?", (body, job.num))
        return [None] * len(jobs)

    async def prune(
        self, *, attempts_before: int, callbacks_before: int, held_before: int, jobs_before: int, limit: int
    ) -> int:
        """Delete up to `limit` rows of each kind past their retention; how many. `unknown` jobs are never deleted."""
        befores = {"attempts": attempts_before, "callbacks": callbacks_before, "held": held_before, "jobs": jobs_before}
        asked = {**befores, "limit": limit, "now": self.now()}
        return int((await self._files.commit_freeing(self._prune, [asked]))[0])

    def _prune(self, items: list[dict[str, int]]) -> list[int]:
        return [sum(self._execute(sql, values).rowcount for sql in PRUNE) for values in items]

    async def backlog(self) -> Json:
        """What waits, for metrics and `doctor`: counts stop at 100,000, ages in milliseconds."""
        now, found = self.due(), {}
        for name, sql in BACKLOG.items():
            count, oldest = (await self.rows(sql))[0]
            found[name] = {"count": count, "oldest_ms": max(0, now - oldest) if oldest is not None else 0}
        return found
