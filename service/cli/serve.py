"""`callsheet serve`: the service, until a signal."""

import click

from service.cli.environment import read_settings
from service.cli.serving_options import tls_options


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option(
    "--role",
    type=click.Choice(["all", "api", "worker"]),
    default="all",
    show_default=True,
    help="api runs no loop, worker is for nodes beside others.",
)
@tls_options
def command(host: str, port: int, role: str, ssl_certfile: str | None, ssl_keyfile: str | None) -> None:
    """Run the service: the API, the providers' callbacks, and the loops that submit, poll and deliver.

    \b
    callsheet serve                       on this machine, SQLite in the working directory
    callsheet serve --host 0.0.0.0        behind a proxy that CALLSHEET_PUBLIC_URL names
    callsheet serve --role api            no loop here: call POST /internal/tick on a schedule

    Stops within 25 seconds of SIGTERM: what is under way ends, the rest is taken up at the next start.
    """
    settings = read_settings()
    from service.cli.serving import run_serve  # after the settings: what is wrong with them is said at once

    run_serve(settings, host=host, port=port, role=role, ssl_certfile=ssl_certfile, ssl_keyfile=ssl_keyfile)
