"""Numbered SQL files, forward only: `NNNN_name.<dialect>.sql`.

While a fleet is replaced node by node, the code of the version before reads and writes the schema of this one. So a
migration only adds: a column that may be NULL or has a constant default, a table, an index. What is not used any more
goes in a later version; a column is renamed by adding one, writing both, and dropping the old one later. A column's
type is not changed, nor a constraint added that the older code may break.

On PostgreSQL a migration waits two seconds at a time for the tables that it alters, and everybody waits with it, so it
alters one table, and moves no rows: what must be filled is filled by the service, in batches. An index stops writes to
its table while it is made: for a large one, write CREATE INDEX IF NOT EXISTS, and say in the changelog that operators
run CREATE INDEX CONCURRENTLY with that name before.
"""

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
