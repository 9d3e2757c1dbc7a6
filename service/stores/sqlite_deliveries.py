"""SQLite's verbs for events, deliveries, attempts and the endpoints that they go to."""

from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from service.ids import new_token, row_id
from service.models import Announcement, AttemptResult, DueDelivery, Endpoint, Event, Job, Target
from service.states import DeliveryStatus, EndpointStatus
from service.stores import Room
from service.stores.plain import DELIVERY_NUMBER, ENDPOINT_COLUMNS, endpoint_values
from service.stores.planning import Loaded, PlannedEvent, Planner, due_delivery
from service.stores.sqlite_rows import CANCELED, FAILED, HELD, LEAST_LANE, PENDING, SqliteRows
from service.stores.turns import BY_TIME, BY_TURN, DUE_ROWS, behind

HOUR_MS = 3_600_000
RECOVER_SPACING_MS = 5
LANES_PER_CLAIM = 4_096  # looked at: one claim's cost is bounded, the next goes on where it stopped
LANES_AT_ONCE = 64  # share what one claim may take
TEST_TYPE = "endpoint.test"  # goes to the one endpoint that it was made for, and to no other later
DUE_DELIVERIES = (
    "SELECT x.num, x.tenant, x.event, e.created_at, e.type, e.body, x.endpoint, x.lane, x.attempts - x.spent, j.id,"
    " d.detail FROM deliveries x JOIN events e ON e.num = x.event LEFT JOIN jobs j ON j.num = e.job"
    " LEFT JOIN job_details d ON d.job = e.job WHERE x.num IN ({})"
)
# The lanes of what fell due first and last: the one has waited longest, the other hides behind no backlog.
DUE_LANES = (
    "SELECT lane, count(*) FROM ("
    "SELECT * FROM (SELECT lane FROM deliveries WHERE due_at <= :now ORDER BY due_at LIMIT :most) UNION ALL "
    "SELECT * FROM (SELECT lane FROM deliveries WHERE due_at <= :now ORDER BY due_at DESC LIMIT :most)) GROUP BY lane"
)
# Back to pending, with its schedule from the start; one that is being sent right now is left alone.
RESEND = (
    "UPDATE deliveries SET status = 0, due_at = ?, lease = NULL, spent = attempts, finished_at = NULL"
    " WHERE num = ? AND lease IS NULL"
    " AND NOT EXISTS (SELECT 1 FROM endpoints p WHERE p.num = deliveries.endpoint AND p.deleted = 1)"
)
NEXT_HELD = (
    "SELECT x.endpoint, p.status, p.deleted FROM deliveries x JOIN endpoints p ON p.num = x.endpoint"
    " WHERE x.status = 4 AND x.endpoint > ? ORDER BY x.endpoint LIMIT 1"
)
CANCELED_AT_ONCE = 2_000  # in one transaction: others wait for it
CANCEL = "UPDATE deliveries SET status = 3, due_at = NULL, finished_at = ? WHERE num IN (SELECT num FROM deliveries "
CANCEL_OWED = (
    CANCEL + "WHERE lane = ? AND due_at IS NOT NULL AND lease IS NULL LIMIT ?)",
    CANCEL + "WHERE endpoint = ? AND status = 4 LIMIT ?)",
)
# Tried while its endpoint was deleted: there is no next time.
CANCEL_TRIED = (
    "UPDATE deliveries SET status = 3, due_at = NULL, finished_at = ? WHERE num = ?"
    " AND EXISTS (SELECT 1 FROM endpoints p WHERE p.num = deliveries.endpoint AND p.deleted = 1)"
)
BUMP_VERSION = "UPDATE tenants SET endpoints_version = endpoints_version + 1 WHERE num = ?"


class DeliveryVerbs(SqliteRows):
    # -- claims

    async def claim_deliveries(self, *, room: Room, lease_ms: int, limit: int) -> list[DueDelivery]:
        claimed = await self._files.commit(self._claim_deliveries, [(room, lease_ms, limit)])
        return list(claimed[0])

    def _claim_deliveries(self, items: list[tuple[Room, int, int]]) -> list[list[DueDelivery]]:
        return [self._claim_due(*item) for item in items]

    def _claim_due(self, room: Room, lease_ms: int, limit: int) -> list[DueDelivery]:
        """First the lanes with due work and room, in turn, then their rows: none starves behind another's."""
        at = self._files.moment()
        now, ends = at.due, at.monotonic + lease_ms / 1000
        taken: list[int] = []
        for found, page in self._lane_pages(now):
            taken += self._claim_page(page, room, now, limit - len(taken), found)
            if len(taken) >= limit:
                break
        if not taken:
            return []
        token = new_token()
        leases = [(token, now + lease_ms, num) for num in taken]
        self._many("UPDATE deliveries SET lease = ?, due_at = ? WHERE num = ?", leases)
        return [due_delivery(row, token, ends, self.nonce) for row in self._in(DUE_DELIVERIES, taken)]

    def _lane_pages(self, now: int) -> Iterator[tuple[str, list[int]]]:
        """Lanes with due work, each once, beginning behind the one that was looked at last.

        Where there are many, those of what fell due first and last come second, so that a lane which is due does not
        wait until the turn has gone round all that are not. The turn sees to those that are hidden there.
        """
        turn = self._lanes_in_turn()
        page = list(islice(turn, LANES_AT_ONCE))
        yield BY_TURN, [lane for lane, due_at in page if due_at <= now]
        if len(page) < LANES_AT_ONCE:
            return
        seen = {lane for lane, _ in page}
        due = dict(self._execute(DUE_LANES, {"now": now, "most": DUE_ROWS}).fetchall())
        yield BY_TIME, behind(self._last_lane[BY_TIME], due.keys() - seen)
        if sum(due.values()) < 2 * DUE_ROWS:  # that was all
            return
        seen.update(due)
        rest = (lane for lane, due_at in turn if due_at <= now and lane not in seen)
        while found := list(islice(rest, LANES_AT_ONCE)):
            yield BY_TURN, found

    def _claim_page(self, lanes: list[int], room: Room, now: int, limit: int, found: str) -> list[int]:
        """Rows of these lanes: each lane's share at first; what then is left goes to those that have more."""
        ready = [(lane, most) for lane in lanes if (most := room(lane)) > 0 and self._open_lane(lane, now)]
        share, taken, more = max(1, limit // max(1, len(ready))), list[int](), []
        sql = "SELECT num FROM deliveries WHERE lane = ? AND due_at <= ? ORDER BY due_at LIMIT ? OFFSET ?"
        for lane, most in ready:
            rows = self._execute(sql, (lane, now, min(most, share, limit - len(taken)), 0)).fetchall()
            taken += [row[0] for row in rows]
            if len(taken) == limit:
                self._last_lane[found] = lane
                return taken
            if most > share == len(rows):
                more.append((lane, most - share))
        for lane, most in more:
            rows = self._execute(sql, (lane, now, min(most, limit - len(taken)), share)).fetchall()
            taken += [row[0] for row in rows]
        return taken

    def _lanes_in_turn(self) -> Iterator[tuple[int, int]]:
        """Lanes, each once, with when their first row is due, beginning behind the one that was looked at last."""
        sql = "SELECT lane, due_at FROM deliveries WHERE due_at IS NOT NULL AND lane > ? ORDER BY lane, due_at LIMIT 1"
        start = last = self._last_lane[BY_TURN]
        wrapped = False
        for _ in range(LANES_PER_CLAIM):
            row = self._execute(sql, (last,)).fetchone()
            if row is None and not wrapped:
                wrapped, row = True, self._execute(sql, (LEAST_LANE,)).fetchone()
            if row is None or (wrapped and row[0] > start):
                return
            self._last_lane[BY_TURN] = last = row[0]
            yield row

    def _open_lane(self, lane: int, now: int) -> bool:
        """False where the lane's endpoint takes nothing now: then what is due of it is held or canceled."""
        if lane <= 0:
            return True
        row = self._execute("SELECT status, deleted FROM endpoints WHERE num = ?", (lane,)).fetchone()
        if row == (EndpointStatus.ACTIVE, 0):
            return True
        status = HELD if row is not None and not row[1] else CANCELED
        sql = (
            "UPDATE deliveries SET status = ?, due_at = NULL, lease = NULL, finished_at = ? WHERE num IN"
            " (SELECT num FROM deliveries WHERE lane = ? AND due_at <= ? ORDER BY due_at LIMIT 1000)"
        )
        self._execute(sql, (status, self.now() if status == CANCELED else None, lane, now))
        return False

    # -- attempts

    async def record_attempts(self, results: Sequence[AttemptResult]) -> list[DueDelivery]:
        recorded = await self._files.commit(self._record_attempts, results)
        return [delivery for fresh in recorded for delivery in fresh]

    def _record_attempts(self, results: list[AttemptResult]) -> list[list[DueDelivery]]:
        """Only the holder of a delivery's lease can write to it, once: what a stalled sender brings late is dropped."""
        sql = "SELECT num, lease, attempts, tenant FROM deliveries WHERE num IN ({})"
        held = {row[0]: row for row in self._in(sql, [result.delivery for result in results])}
        valid: dict[int, tuple[int, AttemptResult]] = {}
        for index, result in enumerate(results):
            if result.delivery in held and held[result.delivery][1] == result.lease:
                valid.setdefault(result.delivery, (index, result))
        self._many(
            "INSERT INTO attempts (delivery, number, at, duration_ms, status_code, error, response, stale)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (num, held[num][2] + 1, r.at, r.duration_ms, r.status_code, r.error, r.response, r.stale)
                for num, (_, r) in valid.items()
                if r.counts
            ],
        )
        self._many(
            "UPDATE deliveries SET status = ?, due_at = ?, lease = NULL, attempts = attempts + ?, finished_at = ?"
            " WHERE num = ?",
            [(*_recorded(result), num) for num, (_, result) in valid.items()],
        )
        ongoing = [num for num, (_, r) in valid.items() if r.status in (DeliveryStatus.PENDING, DeliveryStatus.HELD)]
        self._many(CANCEL_TRIED, [(self.now(), num) for num in ongoing])
        said = [(index, r, held[num][3]) for num, (index, r) in valid.items() if r.announce or r.disable]
        return self._consequences(said, len(results))

    def _consequences(self, said: list[tuple[int, AttemptResult, int]], results: int) -> list[list[DueDelivery]]:
        """An endpoint that said 410 is disabled; a delivery that used up its schedule is announced."""
        loaded = Loaded()
        loaded.endpoints = self._load_endpoints({tenant for _, _, tenant in said})
        planner = Planner(loaded, self._plan, self.now())
        for index, result, tenant in said:
            disabled = result.disable is None or self._disable(result)
            if result.announce is not None and disabled:
                planner.announce(index, tenant, None, [result.announce])
        return self._save_events(planner.writes, results)

    def _disable(self, result: AttemptResult) -> bool:
        """False where it is disabled already: then nothing is announced again."""
        sql = (
            "UPDATE endpoints SET status = 'disabled', disabled_reason = ?, version = version + 1, updated_at = ?"
            " WHERE num = (SELECT endpoint FROM deliveries WHERE num = ?) AND status <> 'disabled' RETURNING tenant"
        )
        row = self._execute(sql, (result.disable, self.now(), result.delivery)).fetchone()
        if row is not None:
            self._execute(BUMP_VERSION, (row[0],))
        return row is not None

    # -- publishing and sending again

    async def publish(
        self, tenant: int, announcement: Announcement, only_endpoint: int | None
    ) -> tuple[Event, list[DueDelivery]]:
        published = (await self._files.commit(self._publish, [(tenant, announcement, only_endpoint)]))[0]
        return published[0], published[1]

    def _publish(self, items: list[tuple[int, Announcement, int | None]]) -> list[tuple[Event, list[DueDelivery]]]:
        return [self._publish_one(*item) for item in items]

    def _publish_one(self, tenant: int, said: Announcement, only: int | None) -> tuple[Event, list[DueDelivery]]:
        now, num, loaded = self.now(), self._next("events"), Loaded()
        loaded.endpoints = self._load_endpoints([tenant])
        planner = Planner(loaded, self._plan, now)
        if only is None:
            planner.announce(0, tenant, None, [said])
        else:
            active = any(e.num == only and e.status is EndpointStatus.ACTIVE for e in loaded.endpoints[tenant])
            target = Target(endpoint=only, lane=only, held=not active)
            planner.writes.events.append(PlannedEvent(0, tenant, None, said, [target]))
        fresh = self._save_events(planner.writes, 1)[0]
        public = row_id("evt", now, self.nonce, num)
        event = Event(num=num, id=public, tenant=tenant, job=None, type=said.type, created_at=now, body=said.body)
        return event, fresh

    async def resend(self, tenant: int, *, event: int, endpoint: int | None, delivery: int | None) -> int:
        """Put deliveries back to pending, and make those that a matching endpoint has not; how many are due now."""
        return int((await self._files.commit(self._resend, [(tenant, event, endpoint, delivery)]))[0])

    def _resend(self, items: list[tuple[int, int, int | None, int | None]]) -> list[int]:
        return [self._resend_one(*item) for item in items]

    def _resend_one(self, tenant: int, event: int, endpoint: int | None, delivery: int | None) -> int:
        now = self.due()
        if delivery is not None:
            return self._execute(RESEND + " AND tenant = ?", (now, delivery, tenant)).rowcount
        sql = "SELECT num, endpoint FROM deliveries WHERE event = ? AND tenant = ? AND (? IS NULL OR endpoint = ?)"
        existing = self._execute(sql, (event, tenant, endpoint, endpoint)).fetchall()
        again = sum(self._execute(RESEND, (now, num)).rowcount for num, _ in existing)
        return again + self._make_missing(tenant, event, endpoint, {row[1] for row in existing}, now)

    def _make_missing(self, tenant: int, event: int, endpoint: int | None, have: set[int], due_at: int) -> int:
        sql = "SELECT type, body, job, about FROM events WHERE num = ? AND tenant = ? AND type <> ?"
        row = self._execute(sql, (event, tenant, TEST_TYPE)).fetchone()
        if row is None:
            return 0
        data = msgspec.json.decode(row[1]).get("data", {})
        said = Announcement(type=row[0], body=row[1], data=data, about_endpoint=row[3])
        job: Job | None = self._load_jobs([row[2]]).get(row[2]) if row[2] is not None else None
        targets = self._plan.targets(said, job, self._load_endpoints([tenant])[tenant])
        missing = [t for t in targets if t.endpoint not in have and endpoint in (None, t.endpoint)]
        sql = (
            "INSERT INTO deliveries (event, endpoint, tenant, lane, status, due_at, attempts, spent, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?)"
        )
        for target in missing:
            status, due = (HELD, None) if target.held else (PENDING, due_at)
            self._execute(sql, (event, target.endpoint, tenant, target.lane, status, due, self.now()))
        return len(missing)

    async def recover(self, endpoint: Endpoint, *, since: int, after: int, limit: int) -> tuple[int, int | None]:
        """Send again what the endpoint did not get of the events since then: (how many, the last event looked at)."""
        found = (await self._files.commit(self._recover, [(endpoint, since, after, limit)]))[0]
        return found[0], found[1]

    def _recover(self, items: list[tuple[Endpoint, int, int, int]]) -> list[tuple[int, int | None]]:
        return [self._recover_page(*item) for item in items]

    def _recover_page(self, endpoint: Endpoint, since: int, after: int, limit: int) -> tuple[int, int | None]:
        sql = (
            "SELECT e.num, e.type, x.num, x.status FROM events e"
            " LEFT JOIN deliveries x ON x.event = e.num AND x.endpoint = ?"
            " WHERE e.tenant = ? AND e.num > ? AND e.created_at >= ? ORDER BY e.num LIMIT ?"
        )
        start = after or self._last_event_before(since)
        rows = self._execute(sql, (endpoint.num, endpoint.tenant, start, since, limit)).fetchall()
        count = 0
        for place, (event, kind, delivery, status) in enumerate(rows):
            due_at = self.due() + place * RECOVER_SPACING_MS
            if delivery is None:
                count += self._make_missing(endpoint.tenant, event, endpoint.num, set(), due_at)
            elif status in (FAILED, HELD) or (status == CANCELED and kind != "job.progress"):  # superseded progress
                count += self._execute(RESEND, (due_at, delivery)).rowcount
        return count, rows[-1][0] if rows else None

    def _last_event_before(self, since: int) -> int:
        """The number before which all events are older, found by halving: numbers and times rise together.

        A clock that was set back makes it stop early, never late: the margin is an hour.
        """
        sql = "SELECT created_at FROM events WHERE num >= ? ORDER BY num LIMIT 1"
        low, high = 0, self._next("events")
        while high - low > 1:
            middle = (low + high) // 2
            row = self._execute(sql, (middle,)).fetchone()
            low, high = (middle, high) if row is not None and row[0] < since - HOUR_MS else (low, middle)
        return low

    # -- endpoints

    async def create_endpoint(self, endpoint: Endpoint) -> Endpoint:
        made: Endpoint = (await self._files.commit(self._create_endpoints, [endpoint]))[0]
        return made

    def _create_endpoints(self, items: list[Endpoint]) -> list[Endpoint]:
        columns = ENDPOINT_COLUMNS[1:]
        sql = f"INSERT INTO endpoints ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
        made = []
        for endpoint in items:
            num = self._execute(sql, endpoint_values(endpoint)).lastrowid
            self._execute(BUMP_VERSION, (endpoint.tenant,))
            made.append(msgspec.structs.replace(endpoint, num=num))
        return made

    async def update_endpoint(self, endpoint: Endpoint) -> Endpoint | None:
        changed: Endpoint | None = (await self._files.commit(self._update_endpoints, [endpoint]))[0]
        return changed

    def _update_endpoints(self, items: list[Endpoint]) -> list[Endpoint | None]:
        columns = ENDPOINT_COLUMNS[1:]
        sql = f"UPDATE endpoints SET {', '.join(c + ' = ?' for c in columns)} WHERE num = ? AND version = ?"  # noqa: S608
        changed: list[Endpoint | None] = []
        for endpoint in items:
            newer = msgspec.structs.replace(endpoint, version=endpoint.version + 1, updated_at=self.now())
            done = self._execute(sql, (*endpoint_values(newer), endpoint.num, endpoint.version)).rowcount
            self._execute(BUMP_VERSION, (endpoint.tenant,))
            changed.append(newer if done else None)
            if done and newer.deleted:
                self._cancel_some_owed(newer.num)
        return changed

    async def cancel_owed(self, endpoint: int) -> int:
        return int((await self._files.commit(self._cancel_owed, [endpoint]))[0])

    def _cancel_owed(self, endpoints: list[int]) -> list[int]:
        return [self._cancel_some_owed(endpoint) for endpoint in endpoints]

    def _cancel_some_owed(self, endpoint: int) -> int:
        values = (self.now(), endpoint, CANCELED_AT_ONCE)
        return sum(self._execute(sql, values).rowcount for sql in CANCEL_OWED)

    async def release_held(self, *, limit: int, spread_ms: int) -> int:
        """Make due what was held for endpoints that are active again, spread out; how many."""
        return int((await self._files.commit(self._release_held, [(limit, spread_ms)]))[0])

    def _release_held(self, items: list[tuple[int, int]]) -> list[int]:
        return [self._release(*item) for item in items]

    def _release(self, limit: int, spread_ms: int) -> int:
        """Endpoint by endpoint, so that the many rows held for a dead one are not read each time."""
        nums: list[int] = []
        last, sql = 0, "SELECT num FROM deliveries WHERE status = 4 AND endpoint = ? LIMIT ?"
        while len(nums) < limit and (row := self._execute(NEXT_HELD, (last,)).fetchone()) is not None:
            last = row[0]
            if row[1:] == (EndpointStatus.ACTIVE, 0):
                nums += [num for (num,) in self._execute(sql, (last, limit - len(nums)))]
        now, step = self.due(), spread_ms / max(limit, 1)
        rows = [(now + int(place * step), num) for place, num in enumerate(nums)]
        self._many("UPDATE deliveries SET status = 0, due_at = ? WHERE num = ?", rows)
        return len(nums)


def _recorded(result: AttemptResult) -> tuple[int, int | None, int, int | None]:
    over = result.status not in (DeliveryStatus.PENDING, DeliveryStatus.HELD)
    finished = result.at + result.duration_ms if over else None
    return DELIVERY_NUMBER[result.status], result.due_at, int(result.counts), finished
