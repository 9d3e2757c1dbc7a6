"""`callsheet doctor`: what is well, and what is not."""

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from service.cli.environment import read_settings
from service.cli.printing import Printer, table

if TYPE_CHECKING:
    from service.cli.finding import Finding

MARKS = {"ok": "ok", "warning": "warning", "failed": "FAILED"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def command(as_json: bool) -> None:
    """Check settings, database, master keys, the public URL and each provider. Spends nothing.

    Shows versions, tables, what is due the longest, free disk and who runs the loops; warns of what is unsafe.
    Each configured provider gets one free call with its key. Works beside a running service.
    Exit code 1 where anything failed; warnings alone are 0.
    """
    from service.cli.checks import examine
    from service.cli.finding import Finding
    from service.settings import SettingsError

    try:
        findings = asyncio.run(examine(read_settings()))
    except SettingsError as error:
        findings = [Finding("settings", "failed", line) for line in str(error).splitlines()]
    failed = any(finding.state == "failed" for finding in findings)
    if as_json:
        Printer(as_json=True).raw({"ok": not failed, "checks": [_view(finding) for finding in findings]})
    else:
        rows = [(finding.check, MARKS[finding.state], finding.detail) for finding in findings]
        click.echo(table(("CHECK", "STATE", "DETAIL"), rows))
    sys.exit(1 if failed else 0)


def _view(finding: "Finding") -> dict[str, Any]:
    shown = {"check": finding.check, "state": finding.state, "detail": finding.detail}
    return shown if finding.data is None else {**shown, "data": finding.data}
