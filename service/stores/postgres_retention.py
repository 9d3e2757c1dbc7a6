"""What goes from PostgreSQL: leases that are given back, erased content, rows past their retention."""

from typing import Any

import msgspec

from service.facts import RawCallback
from service.models import Job
from service.stores.plain import without_content
from service.stores.plain_unanswered import KEPT_MS
from service.stores.postgres_rows import PostgresRows

KEPT_COMMITS_MS = 3_600_000
COMMITS_AT_ONCE, COMMITS_BATCHES = 10_000, 20  # of one pruning: more than are made between two of them
_encode = msgspec.json.encode
GIVE_BACK = (
    "UPDATE {} x SET lease = NULL, due_at = $3 FROM unnest($1::bigint[], $2::bigint[]) v (num, lease)"
    " WHERE x.num = v.num AND x.lease = v.lease AND x.due_at IS NOT NULL"
)
LAST_REJECTED = (
    "DELETE FROM callbacks WHERE job IS NULL AND provider = $1 AND num <= (SELECT num FROM callbacks"
    " WHERE job IS NULL AND provider = $1 ORDER BY num DESC LIMIT 1 OFFSET $2)"
)
OLD_COMMITS = (
    "WITH gone AS (DELETE FROM commits WHERE ctid = ANY(ARRAY(SELECT ctid FROM commits WHERE at < $1 ORDER BY at"
    " LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING 1) SELECT count(*) FROM gone"
)
OLD_ATTEMPTS = (
    "DELETE FROM attempts WHERE num IN (SELECT num FROM (SELECT num, at FROM attempts ORDER BY num LIMIT $2) q"
    " WHERE at < $1)"
)
OLD_CALLBACKS = (
    "DELETE FROM callbacks WHERE num IN (SELECT num FROM (SELECT num, received_at FROM callbacks ORDER BY num LIMIT $2)"
    " q WHERE received_at < $1)"
)
OLD_HELD = (
    "UPDATE deliveries SET status = 3, finished_at = $3 WHERE num IN (SELECT num FROM deliveries WHERE status = 4"
    " AND created_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)"
)
OLD_JOBS = (
    "SELECT num FROM jobs j WHERE j.work IS NULL AND j.finished_at < $1 AND NOT EXISTS (SELECT 1 FROM deliveries x"
    " JOIN events e ON e.num = x.event WHERE e.job = j.num AND x.status IN (0, 4)) ORDER BY j.finished_at LIMIT $2"
    " FOR UPDATE SKIP LOCKED"
)
OLD_EVENTS = (
    "SELECT num FROM events e WHERE e.job IS NULL AND e.created_at < $1 AND NOT EXISTS (SELECT 1 FROM deliveries x"
    " WHERE x.event = e.num AND x.status IN (0, 4)) LIMIT $2 FOR UPDATE SKIP LOCKED"
)
# What no reference deletes, as references to partitioned tables would lock them against new partitions.
EVENTS_OF = "SELECT num FROM events WHERE job = ANY($1::bigint[])"
BODIES_OF_EVENTS = "SELECT 1 FROM {} b JOIN events e ON e.num = b.event LIMIT 1"
OF_EVENTS = (
    "DELETE FROM attempts WHERE delivery IN (SELECT num FROM deliveries WHERE event = ANY($1::bigint[]))",
    "DELETE FROM event_bodies WHERE event = ANY($1::bigint[])",
    "DELETE FROM events WHERE num = ANY($1::bigint[])",
)


class RetentionVerbs(PostgresRows):
    async def recover_leases(self) -> int:
        """At start: this node holds none yet, and a node that died holds its own until they end.

        Differs from SQLite because there every lease is void when a process starts: nobody else runs.
        """
        return await self.release_leases()

    async def release_leases(self) -> int:
        """Give back what this node holds, so that others need not wait for its leases' ends; how many."""
        return int((await self._pool.commit(self._give_back, [None]))[0])

    async def _give_back(self, items: list[None]) -> list[int]:
        given = 0
        for table, leases in self._leases.items():
            held = [(num, token) for num, (token, _) in sorted(leases.items())]
            if held:
                given += await self._run(GIVE_BACK.format(table), *map(list, zip(*held, strict=True)), self.now())
        self._pool.news = self._pool.news or given > 0
        return [given] + [0] * (len(items) - 1)

    async def record_rejected(self, callback: RawCallback, keep: int) -> None:
        """Keep it for the operator: the last `keep` of its provider."""
        await self._pool.commit(self._record_rejected, [(callback, keep)])

    async def _record_rejected(self, items: list[tuple[RawCallback, int]]) -> list[None]:
        await self._save_callbacks([(None, callback) for callback, _ in items])
        for provider, keep in sorted({(callback.provider, keep) for callback, keep in items}):
            await self._run(LAST_REJECTED, provider, keep)
        return [None] * len(items)

    async def _save_callbacks(self, callbacks: Any) -> None:
        raise NotImplementedError

    async def erase_content(self, job: Job) -> None:
        """Erase input, outputs and bodies; what happened and when stays."""
        await self._pool.commit(self._erase_content, [job])

    async def _erase_content(self, jobs: list[Job]) -> list[None]:
        for job in (await self._load_jobs({job.num for job in jobs})).values():
            detail = _encode(without_content(job.detail))
            await self._run("UPDATE job_details SET input = NULL, detail = $1 WHERE job = $2", detail, job.num)
            await self._run("UPDATE callbacks SET body = '' WHERE job = $1", job.num)
            body = b'{"type": "erased", "data": {"id": "%s", "erased": true}}' % job.id.encode()
            sql = "UPDATE event_bodies SET body = $1 WHERE event IN (SELECT num FROM events WHERE job = $2)"
            await self._run(sql, body, job.num)
        return [None] * len(jobs)

    async def prune(
        self, *, attempts_before: int, callbacks_before: int, held_before: int, jobs_before: int, limit: int
    ) -> int:
        """Delete up to `limit` rows of each kind past their retention; how many. `unknown` jobs are never deleted.

        Where attempts, callbacks and bodies are partitioned, whole partitions go, of attempts each counted as one. A
        partition of bodies stays for as long as one of its events does: of an unknown job, or still to be delivered.
        """
        dropped = await self._partitions.drop("attempts", attempts_before)
        await self._partitions.drop("callbacks", callbacks_before)
        await self._partitions.drop("event_bodies", jobs_before, unless=BODIES_OF_EVENTS)
        await self._partitions.make_ahead()
        await self._prune_commits()
        befores = (attempts_before, callbacks_before, held_before, jobs_before)
        deleted = await self._pool.commit(self._prune, [(befores, limit)])
        return dropped + int(deleted[0])

    async def _prune_commits(self) -> None:
        """Beside the writer, a statement for each batch: whatever has piled up, each ends soon and frees its rows."""
        for _ in range(COMMITS_BATCHES):
            found = await self._pool.fetch(OLD_COMMITS, self.now() - KEPT_COMMITS_MS, COMMITS_AT_ONCE)
            if found[0][0] < COMMITS_AT_ONCE:
                return

    async def _prune(self, items: list[tuple[tuple[int, int, int, int], int]]) -> list[int]:
        return [await self._prune_one(*item) for item in items]

    async def _prune_one(self, befores: tuple[int, int, int, int], limit: int) -> int:
        attempts_before, callbacks_before, held_before, jobs_before = befores
        now = self.now()
        deleted = 0 if self._partitions.used else await self._run(OLD_ATTEMPTS, attempts_before, limit)
        if not self._partitions.used:
            deleted += await self._run(OLD_CALLBACKS, callbacks_before, limit)
        deleted += await self._run(OLD_HELD, held_before, limit, now)
        deleted += await self._run("DELETE FROM unanswered WHERE made_at < $1", now - KEPT_MS)
        jobs = [row[0] for row in await self._rows(OLD_JOBS, jobs_before, limit)]
        jobless = [row[0] for row in await self._rows(OLD_EVENTS, jobs_before, limit)]
        events = [row[0] for row in await self._rows(EVENTS_OF, jobs)] + jobless
        for sql in OF_EVENTS if events else ():
            if not (self._partitions.used and "event_bodies" in sql):  # those go with their partition
                await self._run(sql, events)
        if jobs:
            await self._run("DELETE FROM callbacks WHERE job = ANY($1::bigint[])", jobs)
            await self._run("DELETE FROM jobs WHERE num = ANY($1::bigint[])", jobs)
        return deleted + len(jobs) + len(jobless)
