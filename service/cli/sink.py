"""`callsheet sink`: a subscriber that shows what it receives, and misbehaves on request."""

import click


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8099, show_default=True, help="0 takes a free one.")
@click.option("--secret", "secrets", multiple=True, metavar="WHSEC", help="Check signatures with it; may be repeated.")
@click.option("--fail", multiple=True, metavar="MODE:TIMES", help="For the first attempts of each delivery, as 503:2.")
@click.option(
    "--fail-rate", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share that answers 500."
)
@click.option("--seed", default=0, show_default=True, help="Of --fail-rate.")
@click.option("--mode", default="ok", show_default=True, help="A status code, ok, hang, drip or close.")
@click.option("--quiet", is_flag=True, help="Print no line per request.")
def command(
    host: str,
    port: int,
    secrets: tuple[str, ...],
    fail: tuple[str, ...],
    fail_rate: float,
    seed: int,
    mode: str,
    quiet: bool,
) -> None:
    """Receive deliveries at any path, one line each; GET /_received shows them all.

    \b
    callsheet sink --secret whsec_... --fail 503:1
    callsheet endpoints create http://127.0.0.1:8099/
    """
    from service.sandbox.subscriber import run_subscriber

    try:
        run_subscriber(
            host=host, port=port, secrets=secrets, fail=fail, fail_rate=fail_rate, seed=seed, mode=mode, quiet=quiet
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
