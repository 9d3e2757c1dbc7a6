"""`callsheet restore`: a copy becomes the database, safely."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.environment import read_settings
from service.cli.failing import Refused
from service.cli.printing import Printer

if TYPE_CHECKING:
    from service.settings import Settings


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--replace", is_flag=True, help="Set the database that is there aside, under another name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(file: Path | None, replace: bool, as_json: bool) -> None:
    """Make FILE the database; without FILE, say that the database there was restored by other means (PostgreSQL).

    Stop the service first. Jobs that were not sent when the copy was taken may have been sent since, so at the next
    start they become `unknown` instead of being sent again: `callsheet reconcile` adopts what the provider lists,
    and `callsheet jobs resolve` settles the rest.

    \b
    callsheet restore /backups/callsheet-2026-11-20.db --replace && callsheet doctor && callsheet serve
    """
    settings = read_settings()
    result = asyncio.run(_mark(settings)) if file is None else _put_back(settings, file, replace)
    Printer(as_json=as_json).said(result, result["said"])
    database = settings.database_path
    if database is not None and settings.master_keys is None and not Path(f"{database}.key").exists():
        click.echo(f"Before it starts: put the key file it was made with at {database}.key", err=True)


def _put_back(settings: "Settings", file: Path, replace: bool) -> dict[str, Any]:
    from service.clock import SystemClock
    from service.stores.sqlite_copies import put_back

    database = settings.database_path
    if database is None:
        raise Refused("restore PostgreSQL with its own tools, then: callsheet restore (without a file)")
    made = put_back(file, database, SystemClock(), replace=replace)
    aside = f"; what was there is {made.moved}" if made.moved else ""
    said = f"{database} is {file} now: {made.jobs} jobs, of which {made.open} become unknown at the next start{aside}"
    kept = {"replaced": str(made.moved) if made.moved else None}
    return {"said": said, "database": str(database), "jobs": made.jobs, "unknown_when_started": made.open, **kept}


async def _mark(settings: "Settings") -> dict[str, Any]:
    from service.cli.database import opened
    from service.fleet import TERM_S
    from service.stores import COPIED_AT, MOVED_AT

    async with opened(settings, create=False) as context:
        context.store.own_loops("restore")  # on SQLite nobody may be sending now
        if nodes := await context.store.nodes(int(TERM_S * 1000)):
            raise Refused(
                f"{nodes} nodes run this database now: what they have queued would become unknown; stop them all"
            )
        await context.store.set_meta(COPIED_AT, str(context.clock.now()))
        await context.store.set_meta(MOVED_AT, "")
    said = "marked as restored: what is not sent yet becomes unknown when the service starts"
    return {"said": said, "database": str(settings.database_path or "PostgreSQL")}
