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


THEIRS = "# of another program\nDATABASE_URL=postgres://x\nexport SECRET='a b'\n\n\nNAME=caf\xe9\n".encode("latin-1")


def test_beside_another_programs_settings_it_adds_its_own(folder: Folder) -> None:
    file = folder.path / ".env"
    file.write_bytes(THEIRS)
    file.chmod(0o644)
    assert "another program" in folder.ok("init")
    assert file.read_bytes().startswith(THEIRS.rstrip() + b"\n\n# Callsheet's settings")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not (folder.path / ".env.old").exists()
    again = folder.run("init")
    assert again.returncode == 2 and "--force" in again.stderr


def test_force_replaces_only_its_own_settings(folder: Folder) -> None:
    file = folder.path / ".env"
    file.write_bytes(b"NAME=x\n")
    folder.ok("init")
    with file.open("a") as more:
        more.write("CALLSHEET_LOG_LEVEL=ERROR\nOTHER=y\n")
    sizes, keys = [], master_keys(folder)
    for _ in range(3):
        folder.ok("init", "--force")
        sizes.append(len(file.read_text()))
    text = file.read_text()
    assert len(set(sizes)) == 1
    assert text.startswith("NAME=x\n") and "\nOTHER=y\n" in text and "LOG_LEVEL=ERROR" not in text
    assert master_keys(folder) == keys


def test_a_link_stays_a_link_and_an_unreadable_file_is_a_sentence(folder: Folder) -> None:
    real = folder.path / "shared.env"
    real.write_text("NAME=x\n")
    (folder.path / ".env").symlink_to(real)
    folder.ok("init")
    assert (folder.path / ".env").is_symlink() and "CALLSHEET_API_KEY=" in real.read_text()
    (folder.path / ".env").unlink()
    (folder.path / ".env").mkdir()
    refused = folder.run("init")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
