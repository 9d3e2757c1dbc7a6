"""What every test may use. Nothing here replaces a part of the product."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    """The service runs on asyncio with uvloop, and so do its tests."""
    return ("asyncio", {"use_uvloop": True})
