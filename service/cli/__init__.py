"""The command `callsheet`. Each command is a module of its name, imported when it is asked for.

So `callsheet --help` is quick, and `serve` carries neither the sandbox nor the demo nor their client.
"""

import importlib
import io
import sys
from typing import Any

import click

from service import __version__
from service.cli.failing import Refused
from service.errors import CallsheetError, StoreUnavailable

SECTIONS = {
    "To begin": {
        "init": "Write .env with keys made for it.",
        "demo": "Show the whole of it on this machine, without keys or costs.",
        "serve": "Run the service.",
    },
    "To use it": {
        "submit": "Submit a job, or follow one submitted elsewhere.",
        "jobs": "See, cancel, settle and erase jobs.",
        "files": "Upload what jobs name; see and delete it.",
        "endpoints": "Say where events are delivered.",
        "events": "See and replay what happened.",
        "deliveries": "See and retry what was sent.",
        "catalog": "See the models, voices, styles, ... of a provider.",
        "quote": "Ask what a job would cost.",
        "balance": "Ask what is left at a provider.",
        "usage": "See what jobs have cost.",
    },
    "To develop against it": {
        "sandbox": "Play the providers over real HTTP.",
        "sink": "Receive deliveries, and misbehave on request.",
    },
    "To run it": {
        "keys": "Make, list and revoke API keys.",
        "tenants": "Make, list and delete tenants.",
        "credentials": "Give a tenant its own keys for providers.",
        "budgets": "Limit what a tenant's jobs may cost.",
        "reconcile": "Compare a provider's own books with the jobs here.",
        "tick": "Run every loop once, where nothing may run for ever.",
        "migrate": "Make the database, or bring it up to date.",
        "backup": "Copy the database while the service runs.",
        "restore": "Make a copy the database; nothing is sent twice.",
        "copy": "Copy the database into another one, such as SQLite into PostgreSQL.",
        "doctor": "Check settings, database and providers; spends nothing.",
    },
}
NAMES = [name for section in SECTIONS.values() for name in section]


class Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are needed."""
        return NAMES

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in NAMES:
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By section, from the table: the help imports no command."""
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(section.items()))

    def main(self, *args: Any, **extra: Any) -> Any:
        """What a terminal has no letters for is shown escaped; by itself Python would end with a traceback."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """An error of ours is a sentence and exit code 2, never a traceback."""
        try:
            return super().invoke(ctx)
        except CallsheetError as error:
            where = "CALLSHEET_DATABASE_URL" if isinstance(error, StoreUnavailable) else None
            param = getattr(error, "param", None) or where
            raise Refused(f"{error} ({param})" if param else str(error)) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="callsheet")
def main() -> None:
    """Submit a paid AI media job once; every URL that asked gets one signed event.

    \b
    callsheet demo                    see it work, without keys or costs
    callsheet init && callsheet serve run it
    callsheet submit pixverse text_to_video -f prompt="a red kite" ... --wait

    Settings come from CALLSHEET_ variables and from .env in the working directory. `serve`, `tick`, `keys create`,
    `migrate`, `backup`, `restore`, `copy` and `doctor` open the database; the rest talk to CALLSHEET_URL with
    CALLSHEET_API_KEY.

    Exit codes: 0 done, 1 tried and failed, or refused by the service, 2 settings or arguments that must change first.
    """
