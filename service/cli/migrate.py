"""`callsheet migrate`: the database, made or brought up to date."""

import asyncio
from typing import TYPE_CHECKING

import click

from service.cli.environment import read_settings

if TYPE_CHECKING:
    from service.settings import Settings


@click.command()
def command() -> None:
    """Make the database, or bring its schema up to date. `serve` does so by itself; running it twice is harmless."""
    settings = read_settings()
    version = asyncio.run(_migrate(settings))
    click.echo(f"{settings.database_path or 'the database'} has schema {version}, which is this version's")


async def _migrate(settings: "Settings") -> int:
    from service.cli.database import opened
    from service.stores import DIALECTS
    from service.stores.migrations import migrations

    async with opened(settings):
        dialect = DIALECTS[settings.database_url.partition(":")[0]]
        return migrations(dialect)[-1].version
