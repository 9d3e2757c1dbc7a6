"""`callsheet reconcile`: a provider's own books against ours."""

from typing import Any

import click

from service.cli.api import Api, calls_api
from service.cli.parameters import SINCE
from service.cli.printing import Printer, cell, table

WAIT_S = 300.0  # the provider's whole list is read first
TABLES = (
    ("adopted", "adopted: the submit was lost, the job is followed now", "job provider_job_ids status"),
    ("updated", "updated: news that had not arrived", "job provider_job_id status read_now"),
    ("charges_without_job", "charges without a job", "provider_job_id at operation cost.amount cost.unit correlation"),
    ("jobs_without_charge", "jobs without a charge", "job provider_job_ids operation status"),
)


@click.command()
@click.option("--provider", required=True, metavar="NAME", help="Whose books to read.")
@click.option("--since", type=SINCE, default="6h", show_default=True, help="A time, or how long ago: 6h, 7d.")
@calls_api
def command(api: Api, out: Printer, provider: str, since: str) -> None:
    """Read a provider's own list of what it charged, and compare it with the jobs here.

    Adopts jobs whose submit was lost, applies news that did not arrive, lists what does not match. It sends no submit
    and charges nothing, so it may be run again at any time.

    \b
    callsheet reconcile --provider pixverse --since 6h
    """
    path = f"/v1/providers/{provider}/reconcile"
    report = api.call("POST", path, {"since": since}, repeat=True, timeout=WAIT_S)
    if out.as_json:
        out.raw(report)
        return
    counts = ", ".join(f"{len(report[name])} {name.replace('_', ' ')}" for name, _, _ in TABLES)
    click.echo(f"read {report['read']} rows since {report['since']}: {counts}")
    for name, title, columns in TABLES:
        _show(report[name], title, columns.split())


def _show(rows: list[dict[str, Any]], title: str, names: list[str]) -> None:
    if rows:
        lines = [[cell(row, name) for name in names] for row in rows]
        click.echo(f"\n{title}\n" + table([name.upper() for name in names], lines))
