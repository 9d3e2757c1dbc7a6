"""`callsheet events`: what happened, as it was published."""

import click

from service.cli.api import Api, calls_api, paged
from service.cli.printing import Printer


@click.group()
def command() -> None:
    """See and replay what happened.

    \b
    callsheet events list --type job.succeeded
    callsheet events replay evt_...
    """


@command.command("list")
@click.option("--type", help="As job.succeeded.")
@click.option("--job", metavar="JOB_ID", help="Of this job.")
@paged
@calls_api
def list_events(api: Api, out: Printer, limit: int, everything: bool, type: str | None, job: str | None) -> None:
    """The events, newest first."""
    page = api.page("/v1/events", {"type": type, "job": job}, limit=limit, everything=everything)
    out.page(page, "id type job data.status timestamp")


@command.command()
@click.argument("event_id", metavar="EVENT_ID")
@calls_api
def get(api: Api, out: Printer, event_id: str) -> None:
    """One event, whole."""
    out.record(api.get(f"/v1/events/{event_id}"))


@command.command()
@click.argument("event_id", metavar="EVENT_ID")
@calls_api
def replay(api: Api, out: Printer, event_id: str) -> None:
    """Deliver an event again to every endpoint that takes it, under the same id."""
    reply = api.call("POST", f"/v1/events/{event_id}/replay")
    out.said(reply, f"{reply['deliveries']} deliveries are due again")


@command.command()
@calls_api
def types(api: Api, out: Printer) -> None:
    """Every type there is, and what it says."""
    out.page(api.get("/v1/event-types"), "type description")
