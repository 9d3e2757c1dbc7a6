"""`callsheet init`: a `.env` with keys made for it."""

import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.cli.environment import DOTENV, read_settings
from service.cli.failing import Refused

if TYPE_CHECKING:
    from service.settings import Settings

MADE = ("CALLSHEET_API_KEY", "CALLSHEET_MASTER_KEYS", "CALLSHEET_URL")
_SET = re.compile(r"^\s*(?:export\s+)?CALLSHEET_", re.MULTILINE)
HEAD = """\
# Callsheet's settings, read by `callsheet` from the working directory. Variables of the environment win over these.
# An admin key: what the command line and your own backend use. It shows the callback secret, too.
CALLSHEET_API_KEY={api_key}
# What seals secrets in the database. Without it they are lost: keep a copy where the database's backups are not.
CALLSHEET_MASTER_KEYS={master_keys}
# Where the command line finds the service, and sends its key.
CALLSHEET_URL={url}

# All else, at its default.

"""


@click.command()
@click.option("--force", is_flag=True, help="Replace Callsheet's settings; .env.old has them, the master keys stay.")
def command(force: bool) -> None:
    """Write .env (0600) in the working directory, with an admin key and master keys made for it.

    Beside another program's settings in that file ours are added, and nothing of theirs is changed.
    Master keys that already sealed a database here are taken over, so that it still opens.
    """
    from service.settings import env_example

    before, examples = _read(DOTENV), env_example()
    if _SET.search(before) and not force:
        raise Refused(".env has Callsheet's settings already; --force replaces them and keeps a copy as .env.old")
    theirs = _without_ours(before, examples) if force else before
    settings = _settings()
    ours = HEAD.format(api_key=_new_api_key(), master_keys=_master_keys(settings), url=settings.url)
    ours += "\n\n".join(block for block in examples.split("\n\n") if not any(f"#{name}=" in block for name in MADE))
    if force and before:
        _write(Path(".env.old"), before)
    _write(DOTENV, f"{theirs.rstrip()}\n\n{ours}" if theirs.strip() else ours)
    beside = "; what another program has in it stayed" if theirs.strip() else ""
    click.echo(f"Wrote .env: an admin key and master keys, readable by you alone{beside}. Next:")
    click.echo("  callsheet sandbox --service-url http://127.0.0.1:8080    providers to try it with, at no cost")
    click.echo("  CALLSHEET_SANDBOX_URL=http://127.0.0.1:8090 callsheet serve")
    click.echo("or put CALLSHEET_PIXVERSE_API_KEY=... or another provider's key into .env, and: callsheet serve")


def _without_ours(text: str, examples: str) -> str:
    """Another program's lines: without settings of ours, and without what this command writes about them."""
    made = {line for line in (HEAD + examples).splitlines() if line}
    lines = (line for line in text.splitlines() if line not in made and not _SET.match(line.lstrip("#")))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _read(path: Path) -> str:
    """What is there; nothing where there is no file."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror})") from None


def _write(path: Path, text: str) -> None:
    """Whole or not at all, for its owner alone; a link stays one."""
    target = path.resolve()
    draft = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise Refused(f"{path} cannot be written ({error.strerror})") from None


def _settings() -> "Settings":
    """Those that there are; the defaults where they cannot be used, as they are to be replaced."""
    from service.settings import Settings, SettingsError

    try:
        return read_settings()
    except SettingsError:
        return Settings()


def _new_api_key() -> str:
    from service.crypto import new_api_key

    return new_api_key().text


def _master_keys(before: "Settings") -> str:
    """Those of the settings there are, or of the database's own key file, or new ones."""
    from service.crypto import generate_master_key

    if before.master_keys is not None:
        return before.master_keys.reveal()
    path = before.database_path
    if path is not None and (key_file := path.with_name(f"{path.name}.key")).exists():
        return key_file.read_text(encoding="ascii").strip()
    return generate_master_key()
