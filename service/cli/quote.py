"""`callsheet quote`: what a job would cost."""

import click

from service.cli.api import Api, calls_api
from service.cli.parameters import PAIR, read_json_argument, typed
from service.cli.printing import Printer


@click.command()
@click.argument("provider")
@click.argument("operation")
@click.option("--input", "given", metavar="JSON|@FILE|-", help="The input: JSON, a file, or stdin.")
@click.option("-f", "--field", "fields", type=PAIR, multiple=True, help="A field of the input; may be repeated.")
@calls_api
def command(
    api: Api, out: Printer, provider: str, operation: str, given: str | None, fields: tuple[tuple[str, str], ...]
) -> None:
    """Ask what a job would cost at PROVIDER. Makes no job and spends nothing.

    Takes the input as `callsheet submit` does. The price is the provider's own where it quotes, else what its
    documents say, and none where neither does: nothing is guessed.

    \b
    callsheet quote pixverse text_to_video -f prompt="a red kite" -f model=v5 -f duration=5 \\
        -f quality=540p -f aspect_ratio=16:9
    callsheet quote peakmv generate --input @song.json --json
    """
    whole = read_json_argument(given, param="--input") if given else {}
    body = {"operation": operation, "input": {**whole, **typed(fields, param="--field")}}
    quote = api.call("POST", f"/v1/providers/{provider}/quote", body)
    cost = quote["cost"]
    out.said(quote, f"{cost['amount']} {cost['unit']}" if cost else "no price is known")
    if quote["reason"] and not out.as_json:
        click.echo(quote["reason"], err=True)
