"""`callsheet catalog`: what a provider lets one choose from."""

from collections import Counter

import click

from service.cli.api import Api, Json, calls_api
from service.cli.printing import Printer

COLUMNS = 6  # of a table, or it is wider than a screen


@click.command()
@click.argument("provider")
@click.argument("kind", required=False)
@calls_api
def command(api: Api, out: Printer, provider: str, kind: str | None) -> None:
    """List what PROVIDER has: its models, voices, styles, tiers, ... Without KIND: which lists there are.

    A list is the provider's own where it can be asked, else that of its documents; which, and of when, is said.

    \b
    callsheet catalog progressiverobot
    callsheet catalog progressiverobot voices
    callsheet catalog aimlapi models --json | jq -r '.data[].model'
    """
    path = f"/v1/providers/{provider}/catalog"
    if kind is None:
        out.page(api.get(path), "kind documented as_of")
        return
    found = api.get(f"{path}/{kind}")
    out.page(found, " ".join(_columns(found["data"])))
    if not out.as_json:
        click.echo(f"{found['source']}, as of {found['as_of']}", err=True)


def _columns(rows: list[Json]) -> list[str]:
    """The fields that most rows have, first come first; what is nested is for --json."""
    counted = Counter(name for row in rows for name, value in row.items() if not isinstance(value, dict))
    return [name for name, count in counted.items() if count * 2 > len(rows)][:COLUMNS] or ["name"]
