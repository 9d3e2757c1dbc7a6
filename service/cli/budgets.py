"""`callsheet budgets`: the most that a tenant's jobs may cost."""

import click

from service.cli.api import Api, calls_api
from service.cli.printing import Printer

COLUMNS = "provider period amount unit left reserved spent uncertain since"


@click.group()
def command() -> None:
    """Limit what a tenant's jobs may cost at a provider (admin keys set, others see).

    A job's price is reserved when it is accepted and replaced by what the provider reports. One that does not fit is
    refused with `over_budget`; one of unknown price is accepted until nothing is left.

    \b
    callsheet budgets set pixverse 5000 --tenant acme    credits a month
    callsheet budgets set aimlapi 5000000 --total
    callsheet budgets list --tenant acme                 what is left
    """


@command.command("list")
@calls_api
def list_budgets(api: Api, out: Printer) -> None:
    """The budgets, with what is left of each now."""
    out.page(api.get("/v1/budgets"), COLUMNS)


@command.command("set")
@click.argument("provider")
@click.argument("amount")
@click.option("--total", is_flag=True, help="In all, and not anew each month (in UTC).")
@click.option("--unit", help="Of the provider's money; else its usual one.")
@calls_api
def set_budget(api: Api, out: Printer, provider: str, amount: str, total: bool, unit: str | None) -> None:
    """Set a provider's budget, or change it. What the period's jobs cost so far counts."""
    body = {"amount": amount, "period": "total" if total else "month", **({"unit": unit} if unit else {})}
    made = api.call("PUT", f"/v1/budgets/{provider}", body)
    span = "in all" if total else "a month"
    out.said(made, f"{made['amount']} {made['unit']} {span} for {provider}; {made['left']} left")


@command.command()
@click.argument("provider")
@calls_api
def delete(api: Api, out: Printer, provider: str) -> None:
    """Limit a provider no more."""
    out.said(api.call("DELETE", f"/v1/budgets/{provider}"), f"{provider} has no budget")
