"""`callsheet usage`: what jobs have cost."""

import click

from service.cli.api import Api, calls_api, paged
from service.cli.parameters import SINCE
from service.cli.printing import Printer

AMOUNTS = "unit jobs succeeded failed canceled unknown open amount_reported amount_quoted amount_uncertain"


@click.command()
@click.option("--since", type=SINCE, default="30d", show_default=True, help="Accepted since a time, or as 7d ago.")
@click.option("--until", type=SINCE, help="Accepted before it.")
@click.option("--by", multiple=True, type=click.Choice(["operation", "day"]), help="Tell apart by; may be repeated.")
@click.option("--provider", help="Of this provider.")
@paged
@calls_api
def command(
    api: Api,
    out: Printer,
    limit: int,
    everything: bool,
    since: str,
    until: str | None,
    by: tuple[str, ...],
    provider: str | None,
) -> None:
    """What jobs have cost, by provider and unit. Each job counts once; units are never added up.

    \b
    amount_reported   as the provider said
    amount_quoted     as quoted, for jobs that are open or succeeded and not reported
    amount_uncertain  as quoted, for jobs that may have been charged: their outcome is unknown,
                      or they failed after the provider accepted them

    \b
    callsheet usage --since 7d --by day
    callsheet usage --since 2026-01-01T00:00:00Z --until 2026-02-01T00:00:00Z --by operation --json
    """
    filters = {"since": since, "until": until, "provider": provider, "group_by": ",".join(dict.fromkeys(by)) or None}
    page = api.page("/v1/usage", filters, limit=limit, everything=everything)
    out.page(page, " ".join([*dict.fromkeys(sorted(by)), "provider", AMOUNTS]))
