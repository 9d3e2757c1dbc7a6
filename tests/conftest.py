"""What every test may use. Nothing here replaces a part of the product."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.stores import server
from tests.web.sandboxed import Sandboxed, calling
from tests.web.served import sandbox_running


def pytest_sessionstart(session: pytest.Session) -> None:
    """A server that is given is one that can be used: said once, before any test."""
    if not hasattr(session.config, "workerinput"):
        server.check_given()


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    """The service runs on asyncio with uvloop, and so do its tests."""
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture(scope="module")
def sandbox_url() -> Iterator[str]:
    """A sandbox that calls nobody back: nobody is at the service's address."""
    with sandbox_running("http://127.0.0.1:9") as url:
        yield url


@pytest.fixture
async def sandboxed(tmp_path: Path, sandbox_url: str) -> AsyncIterator[Sandboxed]:
    """A client of a service beside that sandbox."""
    async with calling(tmp_path, sandbox_url) as made:
        yield made
