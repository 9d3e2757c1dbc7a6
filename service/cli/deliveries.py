"""`callsheet deliveries`: what was sent, and what came back."""

from typing import Any

import click

from service.cli.api import Api, calls_api, paged
from service.cli.printing import Printer, cell, table

ATTEMPT_COLUMNS = ("number", "at", "status_code", "error", "duration_ms", "response")


@click.group()
def command() -> None:
    """See and retry what was sent.

    \b
    callsheet deliveries list --status failed
    callsheet deliveries get dlv_...                      with its attempts
    callsheet deliveries retry dlv_...
    """


@command.command("list")
@click.option("--status", help="pending, delivered, failed, canceled or held.")
@click.option("--endpoint", metavar="ENDPOINT_ID", help="To this endpoint.")
@click.option("--event", metavar="EVENT_ID", help="Of this event.")
@click.option("--job", metavar="JOB_ID", help="Of this job.")
@paged
@calls_api
def list_deliveries(api: Api, out: Printer, limit: int, everything: bool, **filters: Any) -> None:
    """The deliveries, newest first."""
    page = api.page("/v1/deliveries", filters, limit=limit, everything=everything)
    out.page(page, "id status type event endpoint attempt_count next_attempt_at finished_at")


@command.command()
@click.argument("delivery_id", metavar="DELIVERY_ID")
@calls_api
def get(api: Api, out: Printer, delivery_id: str) -> None:
    """One delivery with its attempts."""
    delivery = api.get(f"/v1/deliveries/{delivery_id}")
    if out.as_json:
        out.raw(delivery)
        return
    attempts = delivery.pop("attempts")
    out.record(delivery)
    rows = [[cell(attempt, name) for name in ATTEMPT_COLUMNS] for attempt in attempts]
    click.echo("\n" + table([name.upper() for name in ATTEMPT_COLUMNS], rows))


@command.command()
@click.argument("delivery_id", metavar="DELIVERY_ID")
@calls_api
def retry(api: Api, out: Printer, delivery_id: str) -> None:
    """Make a delivery due now, with its schedule from the start."""
    out.said(api.call("POST", f"/v1/deliveries/{delivery_id}/retry"), f"{delivery_id} is due now")
