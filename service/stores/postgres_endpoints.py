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
        """Write it if nobody else has since it was read (`version` is the one read); None where somebody has."""
        changed: Endpoint | None = (await self._pool.commit(self._update_endpoints, [endpoint]))[0]
        return changed

    async def _update_endpoints(self, items: list[Endpoint]) -> list[Endpoint | None]:
        changed: list[Endpoint | None] = []
        for endpoint in items:
            newer = msgspec.structs.replace(endpoint, version=endpoint.version + 1, updated_at=self.now())
            await self._bump_version(endpoint.tenant)
            done = await self._run(UPDATE_ENDPOINT, *endpoint_values(newer), endpoint.num, endpoint.version)
            changed.append(newer if done else None)
        return changed

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
