"""`callsheet copy`: a whole database into another one."""

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.cli.environment import read_settings
from service.cli.failing import Refused
from service.cli.printing import table
from service.errors import StoreUnavailable, WrongMasterKey

if TYPE_CHECKING:
    from service.crypto import Vault
    from service.settings import Settings
    from service.stores.copying import Counted

EVERY_S = 1.0  # one line of progress


@click.command()
@click.option("--from", "origin", required=True, metavar="URL", help="The database to read. Its rows stay as they are.")
@click.option("--to", "goal", metavar="URL", help="An empty database; a SQLite file is made.")
@click.option("--take-back", is_flag=True, help="Instead of --to: no copy of it was ever served, so serve it again.")
def command(origin: str, goal: str | None, take_back: bool) -> None:
    """Copy a database into an empty one: jobs, events, deliveries, files, keys, secrets, everything.

    \b
    callsheet copy --from sqlite:///callsheet.db --to postgresql://me:secret@host/callsheet

    \b
    1. Stop every `callsheet serve` on the source. A source in use is refused.
    2. Copy. Interrupted? Run the same command again: it goes on where it was.
    3. Set CALLSHEET_DATABASE_URL to the target, CALLSHEET_MASTER_KEYS as before, and serve.
    4. The source is not served again: both would submit and send the same. It is marked, and `serve` refuses it.

    Ids stay, those of events and deliveries too; so do due times, idempotency keys, secrets and attempts. Subscribers
    see nothing, and no job is submitted twice. Secrets are copied sealed: the target needs the master keys of the
    source, from CALLSHEET_MASTER_KEYS or, where that is not set, from the file `<database>.key` beside a SQLite source.
    Both databases are first brought to this version's schema. The target cannot be served before all of it is there.

    Directions: SQLite and PostgreSQL, each into each. A PostgreSQL database must have no other connections,
    and is best named itself, not by way of PgBouncer.

    Prints progress, then the rows of every table on both sides. Exit code 1 where they differ, 2 where it was refused.
    """
    if take_back == (goal is not None):
        raise Refused("give either --to URL or --take-back")
    if goal is None:
        asyncio.run(_take_back(origin))
        click.echo("it may be served again. Throw its copies away: none of them may be served now")
        return
    if origin == goal:
        raise Refused("--from and --to name the same database")
    settings = read_settings()
    vault, key_file = _master_keys(settings, origin)
    try:
        counted = asyncio.run(_copy(origin, goal, vault))
    except WrongMasterKey as error:
        keys = key_file or "CALLSHEET_MASTER_KEYS"
        raise Refused(f"{keys} has other master keys than those that the source was served with: {error}") from None
    except StoreUnavailable as error:
        raise Refused(f"{error}; what was copied stays, and the same command goes on there") from None
    click.echo(table(("TABLE", "SOURCE", "TARGET"), [(row.table, str(row.source), str(row.target)) for row in counted]))
    if different := [row.table for row in counted if row.source != row.target]:
        click.echo(f"error: the target differs in {', '.join(different)}; it cannot be served", err=True)
        sys.exit(1)
    _say_what_next(goal, key_file)


def _master_keys(settings: "Settings", origin: str) -> "tuple[Vault, Path | None]":
    """The source's, and the file that they came from."""
    from service.crypto import Vault
    from service.settings import load_vault

    if settings.master_keys:
        return Vault.parse(settings.master_keys.reveal()), None
    of_source = replace(settings, database_url=origin, public_url="http://127.0.0.1")
    path = of_source.database_path
    if path is None:
        raise Refused("CALLSHEET_MASTER_KEYS is not set: give the keys that the source was served with")
    file = path.with_name(f"{path.name}.key")
    if not file.exists():
        raise Refused(f"there is no {file}: give the source's keys as CALLSHEET_MASTER_KEYS")
    return load_vault(of_source), file


async def _copy(origin: str, goal: str, vault: "Vault") -> "list[Counted]":
    from service.clock import SystemClock
    from service.sealed import Sealed
    from service.stores import copying

    clock = SystemClock()
    source = await copying.open_source(origin, clock=clock)
    try:
        target = await copying.open_target(goal, clock=clock)
        try:
            return await copying.copy(source, target, prove=Sealed(vault).check_canary, tell=_Progress())
        finally:
            await target.close()
    finally:
        await source.close()


async def _take_back(origin: str) -> None:
    from service.clock import SystemClock
    from service.stores import copying

    source = await copying.open_source(origin, clock=SystemClock())
    try:
        await source.set_moved("")
    finally:
        await source.close()


class _Progress:
    """Says where it is, at each table and at most once a second, and how fast this run is."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()
        self._copied, self._table = 0, ""

    def __call__(self, name: str, there: int, added: int) -> None:
        self._copied += added
        now = time.monotonic()
        if name != self._table or now - self._said >= EVERY_S:
            self._said, self._table = now, name
            click.echo(f"{name}: {there} rows, {self._copied / max(now - self._began, 0.001):.0f} rows/s")


def _say_what_next(goal: str, key_file: Path | None) -> None:
    click.echo("every row is there. Serve the target, and never the source again, which `serve` refuses now.")
    if key_file is not None and goal.startswith("sqlite:"):
        click.echo(f"its master keys: cp {key_file} {goal.removeprefix('sqlite:///')}.key")
    elif key_file is not None:
        click.echo(f"its master keys: CALLSHEET_MASTER_KEYS=$(cat {key_file})")
