"""Numbered SQL files, forward only: `NNNN_name.<dialect>.sql`."""

from importlib import resources
from typing import NamedTuple


class Migration(NamedTuple):
    version: int
    name: str
    sql: str


def migrations(dialect: str) -> list[Migration]:
    """Every migration of the dialect, in the order of their numbers."""
    found = []
    for file in resources.files(__name__).iterdir():
        stem, _, rest = file.name.partition(".")
        if rest == f"{dialect}.sql":
            found.append(Migration(int(stem[:4]), stem[5:], file.read_text(encoding="utf-8")))
    return sorted(found)
