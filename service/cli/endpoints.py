"""`callsheet endpoints`: where events are delivered."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from service.cli.api import Api, calls_api, paged
from service.cli.parameters import DURATION, PAIR, SINCE, typed
from service.cli.printing import Printer

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def command() -> None:
    """Say where events are delivered.

    \b
    callsheet endpoints create https://hooks.example.com/callsheet --type job.succeeded --type job.failed
    callsheet endpoints test ep_...
    callsheet endpoints recover ep_... --since 6h         what it missed, again
    """


def described(command: F) -> F:
    """The options that say how an endpoint is to be."""
    for option in reversed(
        (
            click.option("--type", "event_types", multiple=True, help="As job.succeeded or job.*; may be repeated."),
            click.option(
                "--filter",
                "filters",
                type=PAIR,
                multiple=True,
                help="Only events whose field has this value, as status=failed or metadata.order=1042.",
            ),
            click.option("--header", "headers", type=PAIR, multiple=True, help="Sent with each delivery; write-only."),
            click.option("--rate", type=float, help="Attempts a second, at most."),
            click.option("--timeout-seconds", type=float, help="For one attempt."),
            click.option("--description", help="For people."),
        )
    ):
        command = option(command)
    return command


def _body(given: dict[str, Any]) -> dict[str, Any]:
    """What was given, under the API's names."""
    body = {name: value for name, value in given.items() if value is not None and value != ()}
    if "filters" in body:
        body["filter"] = _filter(body.pop("filters"))
    if "headers" in body:
        body["headers"] = dict(body["headers"])
    return body


def _filter(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Metadata has texts: `metadata.order=1042` is compared as one. All else is read as in `submit -f`."""
    texts = {path: value for path, value in pairs if path.startswith("metadata.")}
    return texts | typed(((path, value) for path, value in pairs if path not in texts), param="--filter")


@command.command()
@click.argument("url")
@described
@calls_api
def create(api: Api, out: Printer, **given: Any) -> None:
    """Deliver events to a URL; its signing secret is shown this once."""
    made = api.call("POST", "/v1/endpoints", _body(given))
    if not out.as_json:
        click.echo("`secret` is not shown again: the receiver needs it to check signatures", err=True)
    out.record(made)


@command.command("list")
@paged
@calls_api
def list_endpoints(api: Api, out: Printer, limit: int, everything: bool) -> None:
    """The endpoints, newest first."""
    page = api.page("/v1/endpoints", {}, limit=limit, everything=everything)
    out.page(page, "id status url event_types disabled_reason created_at")


@command.command()
@click.argument("endpoint_id", metavar="ENDPOINT_ID")
@calls_api
def get(api: Api, out: Printer, endpoint_id: str) -> None:
    """One endpoint, whole."""
    out.record(api.get(f"/v1/endpoints/{endpoint_id}"))


@command.command()
@click.argument("endpoint_id", metavar="ENDPOINT_ID")
@click.option("--url", help="Where to deliver from now on.")
@click.option("--status", type=click.Choice(["active", "paused", "disabled"]), help="active releases what was held.")
@described
@calls_api
def update(api: Api, out: Printer, endpoint_id: str, **given: Any) -> None:
    """Change what is named; all else stays."""
    body = _body(given)
    if not body:
        raise click.UsageError("nothing to change: name an option")
    out.record(api.call("PATCH", f"/v1/endpoints/{endpoint_id}", body))


@command.command()
@click.argument("endpoint_id", metavar="ENDPOINT_ID")
@calls_api
def delete(api: Api, out: Printer, endpoint_id: str) -> None:
    """Delete an endpoint: no new attempt starts."""
    out.said(api.call("DELETE", f"/v1/endpoints/{endpoint_id}"), f"{endpoint_id} is deleted")


@command.command()
@click.argument("endpoint_id", metavar="ENDPOINT_ID")
@click.option("--overlap", type=DURATION, default="24h", show_default=True, help="How long the old secret signs too.")
@calls_api
def rotate(api: Api, out: Printer, endpoint_id: str, overlap: float) -> None:
    """Make a new signing secret and show it, this once."""
    path = f"/v1/endpoints/{endpoint_id}/secret/rotate"
    out.record(api.call("POST", path, {"overlap_seconds": int(overlap)}))


@command.command()
@click.argument("endpoint_id", metavar="ENDPOINT_ID")
@calls_api
def test(api: Api, out: Printer, endpoint_id: str) -> None:
    """Send an endpoint.test event."""
    event = api.call("POST", f"/v1/endpoints/{endpoint_id}/test")
    out.said(event, f"{event['id']} is on its way: callsheet deliveries list --event {event['id']}")


@command.command()
@click.argument("endpoint_id", metavar="ENDPOINT_ID")
@click.option("--since", type=SINCE, required=True, help="A time, or as 6h ago.")
@calls_api
def recover(api: Api, out: Printer, endpoint_id: str, since: str) -> None:
    """Deliver again what an endpoint did not take since a time."""
    reply = api.call("POST", f"/v1/endpoints/{endpoint_id}/recover", {"since": since})
    out.said(reply, f"{reply['deliveries']} deliveries are due again")
