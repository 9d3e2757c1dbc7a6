"""`callsheet keys`: what opens the API."""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from service.cli.api import Api, calls_api, paged
from service.cli.environment import read_settings
from service.cli.parameters import DURATION
from service.cli.printing import Printer
from service.scopes import DEFAULT_SCOPES, SCOPES, granted

if TYPE_CHECKING:
    from service.settings import Settings


@click.group()
def command() -> None:
    """Make, list and revoke API keys.

    \b
    callsheet keys create --scope admin                  on the machine that has the database
    callsheet keys create --name shop --tenant acme --scope jobs:write --scope jobs:read
    """


def _scopes() -> str:
    """For the help: every scope and what it lets a key do."""
    width = max(map(len, SCOPES))
    rows = (f"  {scope:<{width}}  {meaning}" for scope, meaning in SCOPES.items())
    return "\n".join(
        ("\b", "Scopes (without --scope: " + " ".join(DEFAULT_SCOPES[:3]), f"  {' '.join(DEFAULT_SCOPES[3:])}):", *rows)
    )


@command.command(epilog=_scopes())
@click.option("--name", default="callsheet keys create", show_default=True, help="To know it by in lists.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="May be repeated; see below.")
@click.option("--tenant", default="default", show_default=True, help="Whose key it is.")
@click.option("--expires-in", type=DURATION, help="As 90d; else it works until it is revoked.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def create(name: str, scopes: tuple[str, ...], tenant: str, expires_in: float | None, as_json: bool) -> None:
    """Make a key and show it, this once. Opens the database itself, also beside a running service."""
    made = asyncio.run(_create(read_settings(), name, scopes, tenant, expires_in))
    if as_json:
        Printer(as_json=True).raw(made)
        return
    click.echo(made["key"])
    click.echo(f"{made['id']} of tenant {tenant}, for {' '.join(made['scopes'])}; not shown again", err=True)
    click.echo(_use(tuple(made["scopes"]), read_settings()), err=True)


def _use(scopes: tuple[str, ...], settings: "Settings") -> str:
    """What to do with a key that may do this."""
    ours = any(scope == "admin" or (":" in scope and not scope.startswith("passthrough")) for scope in scopes)
    if ours:
        more = "" if "secrets:read" in granted(scopes) else "; --scope secrets:read shows the callback secret, too"
        return f"to use it here: export CALLSHEET_URL={settings.url} CALLSHEET_API_KEY=<the key>{more}"
    if scopes[0].startswith("passthrough"):
        path = "/v1/providers/<provider>/passthrough"
        return f"to use it: in the place of the provider's key, with the base URL {settings.public_url}{path}"
    method, path = {"tick": ("POST", "/internal/tick"), "metrics": ("GET", "/metrics")}[scopes[0]]
    return f"to use it: {method} {settings.public_url}{path} with the header `Authorization: Bearer <the key>`"


async def _create(
    settings: "Settings", name: str, scopes: tuple[str, ...], tenant: str, expires_in: float | None
) -> dict[str, Any]:
    from service.cli.database import opened

    async with opened(settings) as context:
        expires_at = context.clock.now() + int(expires_in * 1000) if expires_in is not None else None
        return await context.accounts.create_key(tenant, name, scopes or DEFAULT_SCOPES, expires_at)


@command.command("list")
@paged
@calls_api
def list_keys(api: Api, out: Printer, limit: int, everything: bool) -> None:
    """The keys that work; their texts are not kept."""
    out.page(
        api.page("/v1/keys", {}, limit=limit, everything=everything),
        "id name tenant scopes prefix created_at expires_at",
    )


@command.command()
@click.argument("key_id", metavar="KEY_ID")
@calls_api
def revoke(api: Api, out: Printer, key_id: str) -> None:
    """End a key: it is refused within five seconds, on every node."""
    out.said(api.call("DELETE", f"/v1/keys/{key_id}"), f"{key_id} is revoked")
