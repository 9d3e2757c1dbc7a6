"""The options that `serve` and `sandbox` share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(exists=True, dir_okay=False)


def tls_options(command: F) -> F:
    """--ssl-certfile and --ssl-keyfile."""
    command = click.option("--ssl-keyfile", type=_FILE, help="Its private key (PEM).")(command)
    return click.option("--ssl-certfile", type=_FILE, help="Serve https with this certificate (PEM).")(command)
