"""Every store by its name, and a world on each."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.stores import server
from tests.stores.world import STORES, World, opened


@pytest.fixture(scope="session", autouse=True)
def databases() -> Iterator[None]:
    """What the tests made on a server that was given is dropped at their end."""
    yield
    server.clear_given()


@pytest.fixture(params=STORES)
def store_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def world(store_name: str, tmp_path: Path) -> AsyncIterator[World]:
    """A store with the real plan; no sender offers itself unless the test says so (`world.slots`)."""
    async with opened(store_name, tmp_path) as made:
        yield made
