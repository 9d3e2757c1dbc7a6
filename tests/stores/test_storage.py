"""What the database tells of itself, for `doctor`."""

from random import Random

import pytest

from service.stores.migrations import migrations
from tests.stores.world import World

pytestmark = pytest.mark.anyio


async def test_versions_durability_and_every_table_with_its_rows(world: World, store_name: str) -> None:
    for _ in range(3):
        await world.succeeded()
    found = await world.store.storage()
    tables = {table.name: table for table in found.tables}
    assert found.engine.split(" ")[0].lower().startswith(store_name[:6])
    assert found.engine.split(" ")[1][0].isdigit()
    assert found.schema == migrations(store_name.partition("-")[0])[-1].version
    assert found.durable == (store_name == "sqlite") and "=" in found.durability  # the suite's server does not sync
    assert {"jobs", "job_details", "events", "deliveries", "attempts", "callbacks", "notes", "meta"} <= set(tables)
    assert not [name for name in tables if name.startswith(("sqlite_", "pg_"))]
    assert all(table.bytes is None or table.bytes >= 0 for table in found.tables)


async def test_a_table_grows_in_rows_and_bytes(world: World) -> None:
    before = {table.name: table for table in (await world.store.storage()).tables}
    for number in range(50):
        await world.queued(input=Random(number).randbytes(4_000))  # what cannot be made smaller
    after = {table.name: table for table in (await world.store.storage()).tables}
    assert after["jobs"].rows - before["jobs"].rows == 50
    assert (after["job_details"].bytes or 0) - (before["job_details"].bytes or 0) > 200_000
    assert after["endpoints"] == before["endpoints"]
