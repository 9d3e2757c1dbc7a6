"""PostgreSQL's verbs for deliveries: claims, attempts, sending again."""

import collections
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from service.ids import new_token
from service.models import Announcement, AttemptResult, DueDelivery, Endpoint, Job
from service.states import DeliveryStatus, EndpointStatus
from service.stores import Room
from service.stores.plain import DELIVERY_NUMBER
from service.stores.planning import Loaded, Planner, due_delivery
from service.stores.postgres_endpoints import EndpointVerbs
from service.stores.postgres_pool import writing
from service.stores.postgres_rows import CANCELED, ERASED, FAILED, HELD, LEAST_LANE, PENDING, insert, update
from service.stores.turns import BY_TIME, BY_TURN, DUE_ROWS, behind

HOUR_MS = 3_600_000
RECOVER_SPACING_MS = 5
LANES_PER_CLAIM = 4_096  # looked at: one claim's cost is bounded, the next goes on where it stopped
LANES_AT_FIRST = 64  # most claims find all they want in the first page
TEST_TYPE = "endpoint.test"  # goes to the one endpoint that it was made for, and to no other later
# One probe of the index per lane, however many rows wait in each.
LANES = (
    "WITH RECURSIVE l (lane, due_at) AS ((SELECT lane, due_at FROM deliveries WHERE due_at IS NOT NULL AND lane > $1"
    " ORDER BY lane, due_at LIMIT 1) UNION ALL SELECT n.lane, n.due_at FROM l CROSS JOIN LATERAL"
    " (SELECT x.lane, x.due_at FROM deliveries x WHERE x.due_at IS NOT NULL AND x.lane > l.lane"
    " ORDER BY x.lane, x.due_at LIMIT 1) n) SELECT q.lane, q.due_at, p.status, p.deleted, p.version"
    " FROM (SELECT lane, due_at FROM l LIMIT $2) q LEFT JOIN endpoints p ON p.num = q.lane ORDER BY q.lane"
)
# The lanes of what fell due first and last: the one has waited longest, the other hides behind no backlog.
DUE_LANES = (
    "SELECT q.lane, q.due_at, p.status, p.deleted, p.version, q.count FROM (SELECT lane, min(due_at) AS due_at,"
    " count(*) FROM ((SELECT lane, due_at FROM deliveries WHERE due_at <= $1 AND due_at IS NOT NULL AND status = 0"
    " ORDER BY due_at LIMIT $2) UNION ALL (SELECT lane, due_at FROM deliveries WHERE due_at <= $1 AND due_at IS NOT"
    " NULL AND status = 0 ORDER BY due_at DESC LIMIT $2)) d GROUP BY lane) q LEFT JOIN endpoints p ON p.num = q.lane"
)
# What is updated and joined hangs on an array, whose length no plan takes for a part of the table.
CLAIM = (
    "WITH c AS MATERIALIZED (SELECT x.num FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY w (lane, most, place)"  # noqa: S608 - fixed text, here and below
    " CROSS JOIN LATERAL (SELECT num FROM deliveries WHERE lane = w.lane AND due_at <= $3 AND due_at IS NOT NULL"
    " ORDER BY due_at LIMIT w.most FOR UPDATE SKIP LOCKED) x LIMIT $4), u AS (UPDATE deliveries SET lease = $5,"
    " due_at = $6 WHERE num = ANY(ARRAY(SELECT num FROM c)) RETURNING num, tenant, event, endpoint, lane,"
    " attempts - spent AS made) SELECT u.num, u.tenant, u.event, e.created_at, e.type,"
    f" COALESCE(b.body, convert_to('{ERASED}', 'UTF8')), u.endpoint, u.lane, u.made, j.id, d.detail"
    " FROM u JOIN events e ON e.num = u.event"
    " LEFT JOIN event_bodies b ON b.event = e.num AND b.created_at = e.created_at"
    " LEFT JOIN jobs j ON j.num = e.job LEFT JOIN job_details d ON d.job = e.job"
)
CLOSE = (
    "UPDATE deliveries SET status = $1, due_at = NULL, lease = NULL, finished_at = $2 WHERE num IN"
    " (SELECT num FROM deliveries WHERE lane = $3 AND due_at <= $4 AND due_at IS NOT NULL ORDER BY due_at LIMIT 1000"
    " FOR UPDATE SKIP LOCKED)"
)
# Only the holder of a lease writes, once; locked in the order of the numbers. The first two arrays are sorted.
RECORD = (
    "WITH v AS MATERIALIZED (SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::bigint[], $5::int[],"
    " $6::bigint[], $7::bigint[], $8::bigint[], $9::int[], $10::text[], $11::bytea[], $12::text[])"
    " v (num, lease, status, due_at, counted, finished_at, at, duration_ms, status_code, error, response, stale)),"
    " l AS MATERIALIZED (SELECT num FROM deliveries WHERE num = ANY($1::bigint[]) ORDER BY num FOR UPDATE),"
    " x AS (UPDATE deliveries x SET status = v.status, due_at = v.due_at, lease = NULL,"
    " attempts = x.attempts + v.counted, finished_at = v.finished_at FROM v"
    " WHERE x.num = v.num AND x.lease = v.lease AND x.num = ANY(ARRAY(SELECT num FROM l))"
    " RETURNING x.num, x.tenant, x.endpoint, x.attempts),"
    " a AS (INSERT INTO attempts (delivery, number, at, duration_ms, status_code, error, response, stale)"
    " SELECT x.num, x.attempts, v.at, v.duration_ms, v.status_code, v.error, v.response, v.stale FROM x"
    " JOIN v ON v.num = x.num WHERE v.counted = 1) SELECT num, tenant, endpoint FROM x"
)
# Tried while its endpoint was deleted: there is no next time.
CANCEL_TRIED = (
    "UPDATE deliveries x SET status = 3, due_at = NULL, finished_at = $1 FROM endpoints p"
    " WHERE x.num = ANY($2::bigint[]) AND p.num = x.endpoint AND p.deleted = 1"
)
# Back to pending, with its schedule from the start; one that is being sent right now is left alone.
RESEND = (
    "UPDATE deliveries x SET status = 0, due_at = v.due_at, lease = NULL, spent = x.attempts, finished_at = NULL"
    " FROM unnest($1::bigint[], $2::bigint[]) v (due_at, num) WHERE x.num = v.num AND x.lease IS NULL"
    " AND NOT EXISTS (SELECT 1 FROM endpoints p WHERE p.num = x.endpoint AND p.deleted = 1)"
)
EVENT = (
    f"SELECT e.type, COALESCE(b.body, convert_to('{ERASED}', 'UTF8')), e.job, e.about FROM events e"  # noqa: S608
    " LEFT JOIN event_bodies b ON b.event = e.num AND b.created_at = e.created_at"
    " WHERE e.num = $1 AND e.tenant = $2 AND e.type <> $3"
)
OF_EVENT = (
    "SELECT num, endpoint FROM deliveries WHERE event = $1 AND tenant = $2 AND ($3::bigint IS NULL OR endpoint = $3)"
    " ORDER BY num FOR UPDATE"
)
INSERT_MISSING = insert(
    "deliveries", "num event endpoint tenant lane status due_at attempts spent created_at", status="smallint"
)
_NEXT_HELD = "SELECT endpoint FROM deliveries WHERE status = 4 AND endpoint > {} ORDER BY endpoint LIMIT 1"
HELD_ENDPOINTS = (
    "WITH RECURSIVE h (endpoint) AS"  # noqa: S608
    f" (({_NEXT_HELD.format('0')}) UNION ALL SELECT n.endpoint FROM h CROSS JOIN LATERAL"
    f" ({_NEXT_HELD.format('h.endpoint')}) n) SELECT p.num FROM h JOIN endpoints p ON p.num = h.endpoint"
    " WHERE p.status = 'active' AND p.deleted = 0 ORDER BY p.num"
)
NEXT_HELD = "SELECT num FROM deliveries WHERE status = 4 AND endpoint = $1 LIMIT $2 FOR UPDATE SKIP LOCKED"
RELEASE = update("deliveries", "num", ["due_at"]).replace(" SET ", " SET status = 0, ")


class DeliveryVerbs(EndpointVerbs):
    # -- claims

    async def claim_deliveries(self, *, room: Room, lease_ms: int, limit: int) -> list[DueDelivery]:
        if limit <= 0:
            return []
        return list((await self._pool.commit(self._claim_deliveries, [(room, lease_ms, limit)]))[0])

    async def _claim_deliveries(self, items: list[tuple[Room, int, int]]) -> list[list[DueDelivery]]:
        return [await self._claim_due(*item) for item in items]

    async def _claim_due(self, room: Room, lease_ms: int, limit: int) -> list[DueDelivery]:
        """First the lanes with due work and room, in turn, then their rows: none starves behind another's."""
        lease, ends = (new_token(), self.now() + lease_ms), self._pool.monotonic() + lease_ms / 1000
        taken: list[DueDelivery] = []
        async with aclosing(self._lane_pages()) as pages:
            async for found, page in pages:
                versions = {row[0]: row[4] for row in page}
                rows = await self._claim_page(page, room, lease, limit - len(taken), found)
                taken += [due_delivery(row, lease[0], ends, self.nonce, versions[row[7]]) for row in rows]
                if len(taken) >= limit:
                    break
        self._hold("deliveries", ((due.num, due.lease) for due in taken), lease[1])
        return taken

    async def _lane_pages(self) -> AsyncGenerator[tuple[str, list[Any]], None]:
        """Lanes, each once, beginning behind the one that was looked at last; those that wait for later among them.

        Where there are many, those of what fell due first and last come second, so that a lane which is due does not
        wait until the turn has gone round all that are not. The turn sees to those that are hidden there.
        """
        start = after = self._last_lane[BY_TURN]
        seen: set[int] = set()
        left, most, wrapped = LANES_PER_CLAIM, LANES_AT_FIRST, start == LEAST_LANE
        while left > 0:
            found = await self._rows(LANES, after, min(most, left))
            page = [row for row in found if row[0] <= start] if wrapped and start > LEAST_LANE else found
            ended = len(page) < min(most, left)
            if page:
                self._last_lane[BY_TURN] = after = page[-1][0]
                yield BY_TURN, [row for row in page if row[0] not in seen]
            if ended and wrapped:
                return
            if not ended and not seen:
                seen = {row[0] for row in page}
                due = {row[0]: row for row in await self._rows(DUE_LANES, self.now(), DUE_ROWS)}
                yield BY_TIME, [due[lane] for lane in behind(self._last_lane[BY_TIME], due.keys() - seen)]
                if sum(row[5] for row in due.values()) < 2 * DUE_ROWS:  # that was all
                    return
                seen.update(due)
            left, most = left - len(page), most * 4
            if ended:
                wrapped, after = True, LEAST_LANE

    async def _claim_page(
        self, page: list[Any], room: Room, lease: tuple[int, int], limit: int, found: str
    ) -> list[Any]:
        """Rows of these lanes: each lane's share at first; what then is left goes to those that have more."""
        now = self.now()
        due = {lane: (status, deleted) for lane, due_at, status, deleted, *_ in page if due_at <= now}
        ready = await self._open_lanes([(lane, most) for lane in due if (most := room(lane)) > 0], due)
        if not ready:
            return []
        share = max(1, limit // len(ready))
        rows = await self._take([(lane, min(most, share)) for lane, most in ready], lease, limit)
        if len(rows) >= limit:
            self._last_lane[found] = rows[-1][7]
            return rows
        taken = collections.Counter(row[7] for row in rows)
        more = [(lane, most - share) for lane, most in ready if most > share == taken[lane]]
        return rows + (await self._take(more, lease, limit - len(rows)) if more else [])

    async def _take(self, lanes: list[tuple[int, int]], lease: tuple[int, int], limit: int) -> list[Any]:
        """Lease at most so many rows of each lane, in the order of the lanes, together at most `limit`."""
        rows = await self._rows(CLAIM, *map(list, zip(*lanes, strict=True)), self.now(), limit, *lease)
        place = {lane: n for n, (lane, _) in enumerate(lanes)}
        return sorted(rows, key=lambda row: place[row[7]])

    async def _open_lanes(
        self, lanes: list[tuple[int, int]], states: dict[int, tuple[str | None, int | None]]
    ) -> list[tuple[int, int]]:
        """Without those whose endpoint takes nothing now: what is due of them is held or canceled."""
        closed = {lane for lane, _ in lanes if lane > 0 and states[lane] != (EndpointStatus.ACTIVE, 0)}
        for lane in sorted(closed):
            status = HELD if states[lane][1] == 0 else CANCELED
            await self._run(CLOSE, status, self.now() if status == CANCELED else None, lane, self.now())
        return [(lane, most) for lane, most in lanes if lane not in closed]

    # -- attempts

    async def record_attempts(self, results: Sequence[AttemptResult]) -> list[DueDelivery]:
        recorded = await self._pool.commit(self._record_attempts, results)
        for result in results:
            self._leases["deliveries"].pop(result.delivery, None)
        return [delivery for fresh in recorded for delivery in fresh]

    @writing
    async def _record_attempts(self, results: list[AttemptResult]) -> list[list[DueDelivery]]:
        """Only the holder of a delivery's lease can write to it, once: what a stalled sender brings late is dropped."""
        first: dict[int, tuple[int, AttemptResult]] = {}
        for index, result in enumerate(results):
            first.setdefault(result.delivery, (index, result))
        await self._partitions.ensure("attempts", (r.at for _, r in first.values() if r.counts))
        values = [(num, r.lease, *_recorded(r), *_tried(r)) for num, (_, r) in sorted(first.items())]
        rows = await self._rows(RECORD, *map(list, zip(*values, strict=True)))
        ongoing = [row[0] for row in rows if first[row[0]][1].status in (DeliveryStatus.PENDING, DeliveryStatus.HELD)]
        if ongoing:
            await self._run(CANCEL_TRIED, self.now(), ongoing)
        said = [
            (index, r, tenant, endpoint)
            for num, tenant, endpoint in sorted(rows)
            for index, r in (first[num],)
            if r.announce or r.disable
        ]
        return await self._consequences(said, len(results))

    async def _consequences(
        self, said: list[tuple[int, AttemptResult, int, int]], results: int
    ) -> list[list[DueDelivery]]:
        """An endpoint that said 410 is disabled; a delivery that used up its schedule is announced."""
        if not said:
            return [[] for _ in range(results)]
        disabled = {
            index: result.disable is None or await self._disable(tenant, endpoint, result.disable)
            for index, result, tenant, endpoint in said
        }
        loaded = Loaded()
        loaded.endpoints = await self._load_endpoints({tenant for _, _, tenant, _ in said})
        planner = Planner(loaded, self._plan, self.now())
        for index, result, tenant, _ in said:
            if result.announce is not None and disabled[index]:
                planner.announce(index, tenant, None, [result.announce])
        return await self._save_events(planner.writes, results)

    # -- sending again

    async def resend(self, tenant: int, *, event: int, endpoint: int | None, delivery: int | None) -> int:
        """Put deliveries back to pending, and make those that a matching endpoint has not; how many are due now."""
        return int((await self._pool.commit(self._resend, [(tenant, event, endpoint, delivery)]))[0])

    async def _resend(self, items: list[tuple[int, int, int | None, int | None]]) -> list[int]:
        self._pool.news = True
        return [await self._resend_one(*item) for item in items]

    async def _resend_one(self, tenant: int, event: int, endpoint: int | None, delivery: int | None) -> int:
        now = self.now()
        if delivery is not None:
            return await self._run(RESEND + " AND x.tenant = $3", [now], [delivery], tenant)
        existing = await self._rows(OF_EVENT, event, tenant, endpoint)
        again = await self._many(RESEND, [(now, num) for num, _ in existing])
        return again + await self._make_missing(tenant, event, endpoint, {row[1] for row in existing}, now)

    async def _make_missing(self, tenant: int, event: int, endpoint: int | None, have: set[int], due_at: int) -> int:
        found = await self._rows(EVENT, event, tenant, TEST_TYPE)
        if not found:
            return 0
        kind, body, job_num, about = found[0]
        data = msgspec.json.decode(body).get("data", {})
        said = Announcement(type=kind, body=body, data=data, about_endpoint=about)
        jobs: dict[int, Job] = await self._load_jobs([job_num], lock=False) if job_num is not None else {}
        targets = self._plan.targets(said, jobs.get(job_num), (await self._load_endpoints([tenant]))[tenant])
        missing = [t for t in targets if t.endpoint not in have and endpoint in (None, t.endpoint)]
        if not missing:
            return 0
        now = self.now()
        rows = [
            (num, event, t.endpoint, tenant, t.lane, HELD if t.held else PENDING, None if t.held else due_at, 0, 0, now)
            for num, t in zip(await self._numbers(len(missing)), missing, strict=True)
        ]
        return await self._many(INSERT_MISSING + " ON CONFLICT (event, endpoint) DO NOTHING", rows)

    async def recover(self, endpoint: Endpoint, *, since: int, after: int, limit: int) -> tuple[int, int | None]:
        """Send again what the endpoint did not get of the events since then: (how many, the last event looked at)."""
        found = (await self._pool.commit(self._recover, [(endpoint, since, after, limit)]))[0]
        return found[0], found[1]

    async def _recover(self, items: list[tuple[Endpoint, int, int, int]]) -> list[tuple[int, int | None]]:
        self._pool.news = True
        return [await self._recover_page(*item) for item in items]

    async def _recover_page(self, endpoint: Endpoint, since: int, after: int, limit: int) -> tuple[int, int | None]:
        """An event that commits later with a number below `after` needs no recovering: it has its delivery by itself.

        Its transaction wrote that with it, and what that transaction did not know of the endpoint came later: whoever
        makes or changes an endpoint waits for those who have read it without. So this waits for nobody.
        """
        sql = (
            "SELECT e.num, e.type, x.num, x.status FROM events e LEFT JOIN deliveries x ON x.event = e.num"
            " AND x.endpoint = $1 WHERE e.tenant = $2 AND e.num > $3 AND e.created_at >= $4 ORDER BY e.num LIMIT $5"
        )
        start = after or await self._last_event_before(since)
        rows = await self._rows(sql, endpoint.num, endpoint.tenant, start, since, limit)
        again, count = [], 0
        for place, (event, kind, delivery, status) in enumerate(rows):
            due_at = self.now() + place * RECOVER_SPACING_MS
            if delivery is None:
                count += await self._make_missing(endpoint.tenant, event, endpoint.num, set(), due_at)
            elif status in (FAILED, HELD) or (status == CANCELED and kind != "job.progress"):  # superseded progress
                again.append((due_at, delivery))
        return count + await self._many(RESEND, again), rows[-1][0] if rows else None

    async def _last_event_before(self, since: int) -> int:
        """The number before which all events are older, found by halving: numbers and times rise together.

        A clock that was set back, or a transaction that took long, makes it stop early, never late: the margin is an
        hour.
        """
        sql = "SELECT num, created_at FROM events WHERE num >= $1 ORDER BY num LIMIT 1"
        first = await self._rows(sql, 0)
        low, high = (
            first[0][0] if first else 0,
            (await self._rows("SELECT COALESCE(max(num), 0) + 1 FROM events"))[0][0],
        )
        if first and first[0][1] >= since - HOUR_MS:
            return 0
        while high - low > 1:
            middle = (low + high) // 2
            row = await self._rows(sql, middle)
            low, high = (row[0][0], high) if row and row[0][1] < since - HOUR_MS else (low, middle)
        return int(low)

    # -- what was held

    async def release_held(self, *, limit: int, spread_ms: int) -> int:
        """Make due what was held for endpoints that are active again, spread out; how many."""
        if not await self.urgent(HELD_ENDPOINTS):
            return 0
        return int((await self._pool.commit(self._release_held, [(limit, spread_ms)]))[0])

    async def _release_held(self, items: list[tuple[int, int]]) -> list[int]:
        return [await self._release(*item) for item in items]

    async def _release(self, limit: int, spread_ms: int) -> int:
        """Endpoint by endpoint, so that the many rows held for a dead one are not read each time."""
        nums: list[int] = []
        for (endpoint,) in await self._rows(HELD_ENDPOINTS):
            if len(nums) < limit:
                nums += [row[0] for row in await self._rows(NEXT_HELD, endpoint, limit - len(nums))]
        now, step = self.now(), spread_ms / max(limit, 1)
        return await self._many(RELEASE, [(now + int(place * step), num) for place, num in enumerate(nums)])


def _recorded(result: AttemptResult) -> tuple[int, int | None, int, int | None]:
    over = result.status not in (DeliveryStatus.PENDING, DeliveryStatus.HELD)
    finished = result.at + result.duration_ms if over else None
    return DELIVERY_NUMBER[result.status], result.due_at, int(result.counts), finished


def _tried(result: AttemptResult) -> tuple[int, int, int | None, str | None, bytes, str | None]:
    return result.at, result.duration_ms, result.status_code, result.error, result.response, result.stale
