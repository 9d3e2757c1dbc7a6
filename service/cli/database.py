"""The database, opened by a command beside a running service: short transactions, no loop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from service.app import build
from service.settings import Settings
from service.web.context import Context


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Context]:
    """The service's parts over the database, made and migrated where needed.

    Without the settings' credentials, which `serve` alone brings into the database: a shell's may be others.
    """
    service = await build(replace(settings, providers={}, sandbox_url=None), own_loops=False)
    try:
        yield service.context
    finally:
        await service.close()
