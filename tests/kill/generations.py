"""Newer versions of the code: copies of the `service` package, each with more migrations than the one before."""

import re
import shutil
from pathlib import Path

import service
from service.stores.migrations import migrations

PACKAGE = Path(service.__file__).parent
LAST = migrations("postgres")[-1].version
# What a version adds that the one before it can live with: the first half of "expand, then contract".
EXPANSIONS = (
    "ALTER TABLE jobs ADD COLUMN planted_{n} BIGINT;",
    "CREATE TABLE planted_{n} (num BIGINT PRIMARY KEY, tenant BIGINT NOT NULL REFERENCES tenants, said TEXT);",
    "ALTER TABLE deliveries ADD COLUMN planted_{n} TEXT;",
    "CREATE INDEX planted_{n} ON deliveries (created_at) WHERE status = 0;",
    "ALTER TABLE jobs ADD COLUMN planted_{n} BIGINT NOT NULL DEFAULT {n};",
)


def name_of(generation: int) -> str:
    """The version that `/health` says."""
    return f"{service.__version__}+{generation}" if generation else service.__version__


def generation(folder: Path, number: int) -> Path:
    """A folder with the code of this generation: `number` migrations more than here."""
    code = folder / f"code-{number}"
    shutil.copytree(PACKAGE, code / "service")  # with what is compiled
    first = code / "service" / "__init__.py"
    first.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{name_of(number)}"', first.read_text()))
    for n in range(1, number + 1):
        for dialect in ("sqlite", "postgres"):
            planted = code / "service/stores/migrations" / f"{LAST + n:04d}_planted_{n}.{dialect}.sql"
            planted.write_text(EXPANSIONS[(n - 1) % len(EXPANSIONS)].format(n=n) + "\n")
    return code
