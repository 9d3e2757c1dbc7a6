"""`python -m service.sandbox`: the sandbox in a process of its own."""

import click

from service.sandbox.app import run


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8090, show_default=True, help="0 takes a free one")
@click.option("--service-url", help="register this service's callback URL at PixVerse")
@click.option("--ssl-certfile", type=click.Path(exists=True))
@click.option("--ssl-keyfile", type=click.Path(exists=True))
@click.option("--seed", default=0, show_default=True, help="of the faults, until some are set")
def main(
    host: str, port: int, service_url: str | None, ssl_certfile: str | None, ssl_keyfile: str | None, seed: int
) -> None:
    """Play every provider over real HTTP."""
    run(host=host, port=port, service_url=service_url, ssl_certfile=ssl_certfile, ssl_keyfile=ssl_keyfile, seed=seed)


if __name__ == "__main__":
    main()
