"""`callsheet balance`: what is left at a provider."""

import click

from service.cli.api import Api, calls_api
from service.cli.printing import Printer


@click.command()
@click.argument("provider")
@calls_api
def command(api: Api, out: Printer, provider: str) -> None:
    """Ask PROVIDER what is left of the balance, in its own unit.

    \b
    callsheet balance pixverse
    callsheet balance pixverse --json                    all that the provider says
    """
    balance = api.get(f"/v1/providers/{provider}/balance")
    out.said(balance, f"{balance['amount']} {balance['unit']}")
