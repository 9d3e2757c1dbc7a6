"""`callsheet backup`: an online copy of a SQLite database."""

from pathlib import Path

import click

from service.cli.environment import read_settings
from service.cli.failing import Refused
from service.cli.printing import Printer


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(file: Path, as_json: bool) -> None:
    """Copy the database to FILE (0600) as of one moment, checked, while the service goes on. SQLite only.

    The copy is marked: a service that starts on it sends nothing by itself of what was not sent yet.
    The master keys are not in it. Keep them, and keep them elsewhere.

    \b
    callsheet backup /backups/callsheet-$(date +%F).db
    """
    settings = read_settings()
    database = settings.database_path
    if database is None:
        raise Refused("this is for SQLite; of PostgreSQL take a pg_basebackup or pg_dump (deploy/BACKUP.md)")
    from service.clock import SystemClock
    from service.stores.sqlite_copies import back_up

    made = back_up(database, file, SystemClock())
    said = {"file": str(file), "bytes": made.bytes, "jobs": made.jobs, "unknown_when_restored": made.open}
    Printer(as_json=as_json).said(
        said, f"{file}: {made.jobs} jobs, {made.bytes:,} bytes; {made.open} will be unknown when it is restored"
    )
    keys = "CALLSHEET_MASTER_KEYS" if settings.master_keys else f"{database}.key"
    click.echo(f"Not in it: {keys}. Without it no secret in the copy can be opened: keep it elsewhere.", err=True)
