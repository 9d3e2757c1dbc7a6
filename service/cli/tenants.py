"""`callsheet tenants`: who owns jobs, endpoints and credentials."""

import click

from service.cli.api import Api, calls_api, paged
from service.cli.printing import Printer


@click.group()
def command() -> None:
    """Make, list and delete tenants (admin keys).

    \b
    callsheet tenants create acme
    callsheet jobs list --tenant acme
    """


@command.command()
@click.argument("name")
@calls_api
def create(api: Api, out: Printer, name: str) -> None:
    """Make a tenant."""
    out.said(api.call("POST", "/v1/tenants", {"name": name}), f"there is a tenant {name}")


@command.command("list")
@paged
@calls_api
def list_tenants(api: Api, out: Printer, limit: int, everything: bool) -> None:
    """All tenants."""
    out.page(api.page("/v1/tenants", {}, limit=limit, everything=everything), "name created_at")


@command.command()
@click.argument("name")
@calls_api
def delete(api: Api, out: Printer, name: str) -> None:
    """Delete a tenant that owns nothing any more."""
    out.said(api.call("DELETE", f"/v1/tenants/{name}"), f"{name} is deleted")
