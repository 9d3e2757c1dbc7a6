"""`callsheet init`: keys that work, and nothing lost."""

import re
import stat

from tests.cli.conftest import Folder


def master_keys(folder: Folder) -> str:
    found = re.search(r"^CALLSHEET_MASTER_KEYS=(.+)$", (folder.path / ".env").read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_it_writes_settings_that_are_its_owners_alone(folder: Folder) -> None:
    said = folder.ok("init")
    file = folder.path / ".env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "callsheet serve" in said
    assert "cs_sk_" not in said  # a terminal's history is no place for it
    assert "\nCALLSHEET_API_KEY=cs_sk_" in file.read_text()
    assert "schema" in folder.ok("migrate")  # they are read, and accepted


def test_it_replaces_nothing_unless_told(folder: Folder) -> None:
    (folder.path / ".env").write_text("CALLSHEET_LOG_LEVEL=ERROR\n")
    refused = folder.run("init")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--force" in refused.stderr
    assert (folder.path / ".env").read_text() == "CALLSHEET_LOG_LEVEL=ERROR\n"


def test_force_keeps_a_copy_and_the_master_keys(folder: Folder) -> None:
    folder.ok("init")
    before = (folder.path / ".env").read_text()
    keys = master_keys(folder)
    folder.ok("init", "--force")
    assert (folder.path / ".env.old").read_text() == before
    assert (folder.path / ".env").read_text() != before
    assert master_keys(folder) == keys


def test_a_database_made_before_it_still_opens(folder: Folder) -> None:
    folder.ok("migrate")  # makes callsheet.db.key
    folder.ok("init")
    assert master_keys(folder) == (folder.path / "callsheet.db.key").read_text().strip()
    folder.ok("keys", "create", "--name", "me")
