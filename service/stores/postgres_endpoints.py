"""PostgreSQL's verbs for endpoints, and for events that are published to them."""

import msgspec

from service.ids import row_id
from service.models import Announcement, DueDelivery, Endpoint, Event, Target
from service.states import EndpointStatus
from service.stores.plain import ENDPOINT_COLUMNS, endpoint_values
from service.stores.planning import Loaded, PlannedEvent, Planner
from service.stores.postgres_rows import PostgresRows

COLUMNS = ENDPOINT_COLUMNS[1:]
INSERT_ENDPOINT = (
    f"INSERT INTO endpoints ({', '.join(COLUMNS)})"  # noqa: S608 - fixed names
    f" VALUES ({', '.join(f'${n}' for n in range(1, len(COLUMNS) + 1))}) RETURNING num"
)
UPDATE_ENDPOINT = (
    f"UPDATE endpoints SET {', '.join(f'{name} = ${n}' for n, name in enumerate(COLUMNS, 1))}"  # noqa: S608
    f" WHERE num = ${len(COLUMNS) + 1} AND version = ${len(COLUMNS) + 2}"
)
DISABLE = (
    "UPDATE endpoints SET status = 'disabled', disabled_reason = $1, version = version + 1, updated_at = $2"
    " WHERE num = $3 AND status <> 'disabled'"
)
CANCELED_AT_ONCE = 2_000  # in one transaction: their senders wait for it
_CANCEL = "UPDATE deliveries SET status = 3, due_at = NULL, finished_at = $1 WHERE num IN (SELECT num FROM deliveries "
CANCEL_OWED = (
    _CANCEL + "WHERE lane = $2 AND due_at IS NOT NULL AND lease IS NULL LIMIT $3 FOR UPDATE SKIP LOCKED)",
    _CANCEL + "WHERE endpoint = $2 AND status = 4 LIMIT $3 FOR UPDATE SKIP LOCKED)",
)


class EndpointVerbs(PostgresRows):
    async def create_endpoint(self, endpoint: Endpoint) -> Endpoint:
        made: Endpoint = (await self._pool.commit(self._create_endpoints, [endpoint]))[0]
        return made

    async def _create_endpoints(self, items: list[Endpoint]) -> list[Endpoint]:
        made = []
        for endpoint in items:
            await self._bump_version(endpoint.tenant)
            num = (await self._rows(INSERT_ENDPOINT, *endpoint_values(endpoint)))[0][0]
            made.append(msgspec.structs.replace(endpoint, num=num))
        return made

    async def update_endpoint(self, endpoint: Endpoint) -> Endpoint | None:
        changed: Endpoint | None = (await self._pool.commit(self._update_endpoints, [endpoint]))[0]
        return changed

    async def _update_endpoints(self, items: list[Endpoint]) -> list[Endpoint | None]:
        changed: list[Endpoint | None] = []
        for endpoint in items:
            newer = msgspec.structs.replace(endpoint, version=endpoint.version + 1, updated_at=self.now())
            await self._bump_version(endpoint.tenant)
            done = await self._run(UPDATE_ENDPOINT, *endpoint_values(newer), endpoint.num, endpoint.version)
            changed.append(newer if done else None)
            if done and newer.deleted:
                await self._cancel_some_owed(newer.num)
        return changed

    async def cancel_owed(self, endpoint: int) -> int:
        return int((await self._pool.commit(self._cancel_owed, [endpoint]))[0])

    async def _cancel_owed(self, endpoints: list[int]) -> list[int]:
        return [await self._cancel_some_owed(endpoint) for endpoint in endpoints]

    async def _cancel_some_owed(self, endpoint: int) -> int:
        return sum([await self._run(sql, self.now(), endpoint, CANCELED_AT_ONCE) for sql in CANCEL_OWED])

    async def _disable(self, tenant: int, endpoint: int, reason: str) -> bool:
        """False where it is disabled already: then nothing is announced again."""
        await self._bump_version(tenant)
        return bool(await self._run(DISABLE, reason, self.now(), endpoint))

    # -- publishing

    async def publish(
        self, tenant: int, announcement: Announcement, only_endpoint: int | None
    ) -> tuple[Event, list[DueDelivery]]:
        published = (await self._pool.commit(self._publish, [(tenant, announcement, only_endpoint)]))[0]
        return published[0], published[1]

    async def _publish(
        self, items: list[tuple[int, Announcement, int | None]]
    ) -> list[tuple[Event, list[DueDelivery]]]:
        return [await self._publish_one(*item) for item in items]

    async def _publish_one(self, tenant: int, said: Announcement, only: int | None) -> tuple[Event, list[DueDelivery]]:
        now, loaded = self.now(), Loaded()
        loaded.endpoints = await self._load_endpoints([tenant])
        planner = Planner(loaded, self._plan, now)
        if only is None:
            planner.announce(0, tenant, None, [said])
        else:
            active = any(e.num == only and e.status is EndpointStatus.ACTIVE for e in loaded.endpoints[tenant])
            target = Target(endpoint=only, lane=only, held=not active)
            planner.writes.events.append(PlannedEvent(0, tenant, None, said, [target]))
        num = await self._next_number()
        fresh = (await self._save_events(planner.writes, 1))[0]
        public = row_id("evt", now, self.nonce, num)
        event = Event(num=num, id=public, tenant=tenant, job=None, type=said.type, created_at=now, body=said.body)
        return event, fresh
