"""Every store by its name, and a world on each."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.stores.world import STORES, World, opened


@pytest.fixture(params=STORES)
def store_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def world(store_name: str, tmp_path: Path) -> AsyncIterator[World]:
    """A store with the real plan; no sender offers itself unless the test says so (`world.slots`)."""
    async with opened(store_name, tmp_path) as made:
        yield made
