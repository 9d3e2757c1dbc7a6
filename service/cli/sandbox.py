"""`callsheet sandbox`: every provider over real HTTP, in a process of its own."""

import click

from service.cli.serving_options import tls_options


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8090, show_default=True, help="0 takes a free one.")
@click.option("--service-url", metavar="URL", help="Register this service's callback URL at PixVerse.")
@click.option("--seed", default=0, show_default=True, help="Of the faults, until some are set.")
@tls_options
def command(
    host: str, port: int, service_url: str | None, seed: int, ssl_certfile: str | None, ssl_keyfile: str | None
) -> None:
    """Play every provider, as its documents describe it: nothing is charged, faults come on request.

    \b
    callsheet sandbox --service-url http://127.0.0.1:8080
    CALLSHEET_SANDBOX_URL=http://127.0.0.1:8090 callsheet serve
    curl http://127.0.0.1:8090/_sandbox              what can be changed and read
    """
    from service.sandbox import run

    run(host=host, port=port, service_url=service_url, ssl_certfile=ssl_certfile, ssl_keyfile=ssl_keyfile, seed=seed)
