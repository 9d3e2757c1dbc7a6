"""How a command fails: one sentence on stderr, and an exit code that says whose turn it is."""

from typing import Any

import click


class Failed(click.ClickException):
    """It was tried and did not work: the service refused, or did not answer. Exit code 1."""

    def show(self, file: Any = None) -> None:
        """On stderr."""
        click.echo(f"error: {self.message}", err=True)


class Refused(Failed):
    """It was not tried: settings, a lock, a database or an argument must change first. Exit code 2."""

    exit_code = 2
