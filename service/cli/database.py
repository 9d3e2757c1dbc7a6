"""The database, opened by a command beside a running service: short transactions, no loop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from service.app import build
from service.settings import Settings
from service.stores import open_store
from service.web.context import Context


@asynccontextmanager
async def opened(settings: Settings, *, create: bool = True) -> AsyncIterator[Context]:
    """The service's parts over the database, made and migrated where needed.

    Without the settings' credentials, which `serve` alone brings into the database: a shell's may be others.
    """
    bare, database = replace(settings, providers={}, sandbox_url=None), partial(open_store, create=create)
    service = await build(bare, own_loops=False, open_database=database)
    try:
        yield service.context
    finally:
        await service.close()
