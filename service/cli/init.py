"""`callsheet init`: a `.env` with keys made for it."""

import os

import click

from service.cli.environment import DOTENV, read_settings
from service.cli.failing import Refused

MADE = ("CALLSHEET_API_KEY", "CALLSHEET_MASTER_KEYS")
HEAD = """\
# Callsheet's settings, read by `callsheet` from the working directory. Variables of the environment win over these.
# An admin key: what the command line and your own backend use.
CALLSHEET_API_KEY={api_key}
# What seals secrets in the database. Without it they are lost: keep a copy where the database's backups are not.
CALLSHEET_MASTER_KEYS={master_keys}

# All else, at its default.

"""


@click.command()
@click.option("--force", is_flag=True, help="Replace the .env there is; it becomes .env.old, its master keys stay.")
def command(force: bool) -> None:
    """Write .env (0600) in the working directory, with an admin key and master keys made for it.

    Master keys that already sealed a database here are taken over, so that it still opens.
    """
    if DOTENV.exists() and not force:
        raise Refused(".env exists already; --force replaces it and keeps a copy as .env.old")
    text = HEAD.format(api_key=_new_api_key(), master_keys=_master_keys()) + _examples()
    if DOTENV.exists():
        DOTENV.replace(".env.old")
    descriptor = os.open(DOTENV, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    click.echo("Wrote .env: an admin key and master keys, readable by you alone. Next:")
    click.echo("  callsheet sandbox --service-url http://127.0.0.1:8080    providers to try it with, at no cost")
    click.echo("  CALLSHEET_SANDBOX_URL=http://127.0.0.1:8090 callsheet serve")
    click.echo("or put CALLSHEET_PIXVERSE_API_KEY=... or another provider's key into .env, and: callsheet serve")


def _new_api_key() -> str:
    from service.crypto import new_api_key

    return new_api_key().text


def _master_keys() -> str:
    """Those of the .env there is, or of the database's own key file, or new ones."""
    from service.crypto import generate_master_key
    from service.settings import Settings, SettingsError

    try:
        before = read_settings()
    except SettingsError:  # of the .env that is to be replaced
        before = Settings()
    if before.master_keys is not None:
        return before.master_keys.reveal()
    path = before.database_path
    if path is not None and (key_file := path.with_name(f"{path.name}.key")).exists():
        return key_file.read_text(encoding="ascii").strip()
    return generate_master_key()


def _examples() -> str:
    from service.settings import env_example

    blocks = env_example().split("\n\n")
    return "\n\n".join(block for block in blocks if not any(f"#{name}=" in block for name in MADE))
