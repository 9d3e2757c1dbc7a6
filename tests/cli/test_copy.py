"""`callsheet copy`, as a process."""

import sqlite3
from pathlib import Path

import pytest

from service.crypto import generate_master_key
from tests.cli.conftest import KEY, Folder, free_port
from tests.stores import server


def filled(folder: Folder) -> str:
    """The API key that a served SQLite database has."""
    folder.ok("tenants", "create", "acme")
    key = folder.ok("keys", "create", "--name", "shop", "--tenant", "acme", DATABASE_URL="sqlite:///old.db")
    return key.strip()


def test_a_database_is_copied_and_the_copy_served(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    folder = Folder(tmp_path, URL=url, PUBLIC_URL=url, API_KEY=KEY)
    copy = ["copy", "--from", "sqlite:///old.db", "--to", "sqlite:///new.db"]
    with folder.listening("serve", "--port", str(port), DATABASE_URL="sqlite:///old.db"):
        key = filled(folder)
        refused = folder.run(*copy)
        assert refused.returncode == 2 and "stop it, then copy again" in refused.stderr
        assert not (tmp_path / "new.db").exists()
    said = folder.ok(*copy)
    assert "tenants: 2 rows" in said and "rows/s" in said
    counts = {line.split()[0]: line.split()[1:] for line in said.splitlines() if len(line.split()) == 3}
    assert counts["tenants"] == ["2", "2"] and counts["keys"] == ["1", "1"] and counts["jobs"] == ["0", "0"]
    assert "never the source again" in said and "cp old.db.key new.db.key" in said
    (tmp_path / "new.db.key").write_bytes((tmp_path / "old.db.key").read_bytes())
    with folder.listening("serve", "--port", str(port), DATABASE_URL="sqlite:///new.db"):
        assert "acme" in folder.ok("tenants", "list")
        assert folder.run("jobs", "list", API_KEY=key).returncode == 0
    again = folder.run(*copy)
    assert again.returncode == 2 and "has data already" in again.stderr


@pytest.mark.anyio
async def test_postgresql_is_filled_and_one_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.ok("migrate", DATABASE_URL="sqlite:///old.db")
    goal = await server.database(tmp_path)
    missing = folder.run("copy", "--from", "sqlite:///old.db", "--to", goal.replace("/callsheet_", "/missing_"))
    assert missing.returncode == 2 and "does not exist" in missing.stderr and "Traceback" not in missing.stderr
    nowhere = folder.run("copy", "--from", "sqlite:///old.db", "--to", "postgresql://127.0.0.1:1/callsheet")
    assert nowhere.returncode == 2 and "goes on there" in nowhere.stderr, nowhere.stderr
    said = folder.ok("copy", "--from", "sqlite:///old.db", "--to", goal)
    assert "CALLSHEET_MASTER_KEYS=$(cat old.db.key)" in said
    keys = (tmp_path / "old.db.key").read_text().strip()
    assert "PostgreSQL" in folder.ok("copy", "--help")
    folder.ok("migrate", DATABASE_URL=goal, MASTER_KEYS=keys)


def refused(folder: Folder, **variables: str) -> None:
    for command in (("serve", "--port", "0"), ("serve", "--role", "api", "--port", "0"), ("tick",)):
        ended = folder.run(*command, **variables)
        assert ended.returncode == 2 and "was copied into another one at 2" in ended.stderr, ended.stderr
        assert "--take-back" in ended.stderr and "`callsheet restore`" in ended.stderr


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_what_was_copied_away_is_not_served_again_by_mistake(kind: str, tmp_path: Path) -> None:
    folder, keys = Folder(tmp_path), generate_master_key()
    origin = "sqlite:///old.db" if kind == "sqlite" else await server.database(tmp_path)
    given = {"DATABASE_URL": origin, "MASTER_KEYS": keys}
    folder.ok("migrate", **given)
    for number in range(2):  # a second copy is not refused, and what was copied before is not marked itself
        folder.ok("copy", "--from", origin, "--to", f"sqlite:///new{number}.db", MASTER_KEYS=keys)
        folder.ok("tick", DATABASE_URL=f"sqlite:///new{number}.db", MASTER_KEYS=keys)
    refused(folder, **given)
    assert "was copied into another one" in folder.run("doctor", **given).stdout
    both = folder.run("copy", "--from", origin, "--to", "sqlite:///new.db", "--take-back", MASTER_KEYS=keys)
    neither = folder.run("copy", "--from", origin, MASTER_KEYS=keys)
    assert both.returncode == neither.returncode == 2 and "--to" in both.stderr and "--to" in neither.stderr
    refused(folder, **given)
    assert "may be served again" in folder.ok("copy", "--from", origin, "--take-back", MASTER_KEYS=keys)
    folder.ok("tick", **given)
    folder.ok("copy", "--from", origin, "--to", "sqlite:///last.db", MASTER_KEYS=keys)
    refused(folder, **given)
    folder.ok("restore", **given)
    folder.ok("tick", **given)


def test_a_backup_of_what_was_copied_away_is_restored_as_any_other(tmp_path: Path) -> None:
    folder = Folder(tmp_path, DATABASE_URL="sqlite:///old.db")
    folder.ok("migrate")
    folder.ok("copy", "--from", "sqlite:///old.db", "--to", "sqlite:///new.db")
    folder.ok("backup", "copy.db")
    folder.ok("restore", "copy.db", "--replace")
    folder.ok("tick")


@pytest.mark.anyio
async def test_the_other_spelling_of_postgresql_is_taken_too(tmp_path: Path) -> None:
    """As hosts of databases hand it out, and PostgreSQL's own programs take it."""
    folder = Folder(tmp_path)
    folder.ok("migrate", DATABASE_URL="sqlite:///old.db")
    goal = (await server.database(tmp_path)).replace("postgresql://", "postgres://")
    assert "every row is there" in folder.ok("copy", "--from", "sqlite:///old.db", "--to", goal)
    keys = (tmp_path / "old.db.key").read_text().strip()
    assert "has schema" in folder.ok("migrate", DATABASE_URL=goal, MASTER_KEYS=keys)


def test_refusals_are_sentences(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.ok("migrate", DATABASE_URL="sqlite:///old.db")
    cases = {
        ("sqlite:///old.db", "sqlite:///old.db"): "the same database",
        ("sqlite:///none.db", "sqlite:///new.db"): "there is no none.db.key",
        ("sqlite:///old.db", "mysql://host/name"): "is no database",
        ("postgresql://host/name", "sqlite:///new.db"): "CALLSHEET_MASTER_KEYS is not set",
    }
    for (origin, goal), sentence in cases.items():
        refused = folder.run("copy", "--from", origin, "--to", goal)
        assert refused.returncode == 2 and sentence in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr
    wrong = folder.run(
        "copy", "--from", "sqlite:///old.db", "--to", "sqlite:///new.db", MASTER_KEYS=generate_master_key()
    )
    assert wrong.returncode == 2 and "master key" in wrong.stderr.lower()
    with sqlite3.connect(tmp_path / "new.db") as new:
        assert new.execute("SELECT COUNT(*) FROM tenants").fetchone() == (0,)


def test_tables_that_differ_are_exit_code_1(tmp_path: Path) -> None:
    """A row that something else puts into the target while it is filled."""
    folder = Folder(tmp_path)
    folder.ok("migrate", DATABASE_URL="sqlite:///old.db")
    folder.ok("migrate", DATABASE_URL="sqlite:///new.db")
    with sqlite3.connect(tmp_path / "new.db") as new:
        new.execute(
            "CREATE TRIGGER stray AFTER INSERT ON tenants BEGIN"
            " INSERT INTO charges (job, tenant, provider, operation, credential, at, outcome)"
            " VALUES (1, 1, 'pixverse', 'x', 1, 1, 'open'); END"
        )
    (tmp_path / "new.db.key").write_bytes((tmp_path / "old.db.key").read_bytes())
    differs = folder.run("copy", "--from", "sqlite:///old.db", "--to", "sqlite:///new.db")
    assert differs.returncode == 1 and "the target differs in charges" in differs.stderr
    refused = folder.run("migrate", DATABASE_URL="sqlite:///new.db")
    assert refused.returncode == 2 and "has not ended" in refused.stderr
