"""`callsheet credentials`: a tenant's own keys for providers."""

from typing import Any

import click

from service.cli.api import Api, calls_api
from service.cli.parameters import read_secret
from service.cli.printing import Printer


@click.group()
def command() -> None:
    """Give a tenant its own key for a provider (scope credentials:write).

    A key is asked for, or read from a file or stdin: on a command line others could read it. It comes before
    CALLSHEET_<PROVIDER>_API_KEY, and is never shown again.

    \b
    callsheet credentials set pixverse --tenant acme
    callsheet credentials set pixverse --api-key-file key.txt --callback-secret-file secret.txt --callback-id 4711
    callsheet credentials show pixverse                  which is used, and whether it is paused
    callsheet credentials resume pixverse                the bill is paid, the key works again; or wait no longer
    """


@command.command("set")
@click.argument("provider")
@click.option("--api-key-file", metavar="FILE|-", help="Where the key stands; else it is asked for.")
@click.option("--callback-secret-file", metavar="FILE|-", help="Where the secret of its callbacks stands.")
@click.option("--callback-id", help="The provider's id of our callback URL (PixVerse: webhook_id).")
@calls_api
def set_credential(
    api: Api,
    out: Printer,
    provider: str,
    api_key_file: str | None,
    callback_secret_file: str | None,
    callback_id: str | None,
) -> None:
    """Give a key, or replace the one that was given; what is not named here is removed. Ends a pause, too.

    Jobs that were sent with the key before it go on with the new one.
    """
    if api_key_file == callback_secret_file == "-":
        raise click.UsageError("only one of the two can come from stdin")
    if api_key_file is None:
        key = click.prompt("API key", hide_input=True)
    else:
        key = read_secret(api_key_file, param="--api-key-file")
    secret = read_secret(callback_secret_file, param="--callback-secret-file") if callback_secret_file else None
    body: dict[str, Any] = {"api_key": key, "callback_secret": secret, "callback_id": callback_id}
    given = {name: value for name, value in body.items() if value is not None}
    made = api.call("PUT", f"/v1/providers/{provider}/credentials", given)
    out.said(made, f"new jobs use this key for {provider}")
    if made["callback_url"] and not out.as_json:
        click.echo(f"{provider} shall call {made['callback_url']}: register it there", err=True)


@command.command()
@click.argument("provider")
@calls_api
def show(api: Api, out: Printer, provider: str) -> None:
    """Which credential new jobs use, where it is from, whether it is paused. Never the key."""
    out.record(api.get(f"/v1/providers/{provider}/credentials"))


@command.command()
@click.argument("provider")
@calls_api
def resume(api: Api, out: Printer, provider: str) -> None:
    """End what holds its jobs back: a pause, once the bill is paid or the key works again, and any wait.

    One job is sent to try it, the others follow once one is accepted.
    """
    reply = api.call("POST", f"/v1/providers/{provider}/credentials/resume")
    out.said(reply, f"what waits for {provider} is submitted again")


@command.command()
@click.argument("provider")
@click.confirmation_option(prompt="New jobs will not use this key any more. Delete it?")
@calls_api
def delete(api: Api, out: Printer, provider: str) -> None:
    """Use a given key for no new job; jobs that were sent with it go on with it."""
    reply = api.call("DELETE", f"/v1/providers/{provider}/credentials")
    out.said(reply, f"new jobs use what the settings give for {provider}")
