"""deploy/BACKUP.md: its lines run as the unit's user, with the unit's settings, and are commands that there are."""

import itertools
import re
import shlex
import subprocess
from pathlib import Path

from tests.deploy.reading import DEPLOY, parsed, unit

BLOCKS = re.findall(r"^```\n(.*?)^```$", (DEPLOY / "BACKUP.md").read_text(), re.MULTILINE | re.DOTALL)
RUN_AS = BLOCKS[0]
SHARED = ("DynamicUser", "User", "UMask", "StateDirectory", "StateDirectoryMode", "WorkingDirectory")


def asked(folder: Path, line: str) -> list[str]:
    """What systemd-run would be asked for: the shell's own reading of the page, with a program that prints."""
    (folder / "systemd-run").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (folder / "systemd-run").chmod(0o755)
    command = ["sh", "-ec", f"{RUN_AS}\n{line}"]
    ended = subprocess.run(command, env={"PATH": f"{folder}:/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    return ended.stdout.splitlines()


def test_a_command_has_the_units_user_folder_and_settings(tmp_path: Path) -> None:
    words = asked(tmp_path, 'callsheet backup "a file.db"')
    given = dict(word.split("=", 1) for before, word in itertools.pairwise(words) if before == "-p")
    service = unit()
    for key in (*SHARED, "Environment", "EnvironmentFile"):
        assert given[key] == service.one("Service", key), key
    assert set(given) == {*SHARED, "Environment", "EnvironmentFile"}
    program = shlex.split(service.one("Service", "ExecStart"))[0]
    assert words[-3:] == [program, "backup", "a file.db"]


def test_its_commands_are_there() -> None:
    lines = [line for block in BLOCKS[1:] for line in block.splitlines() if line.startswith("callsheet ")]
    assert {parsed(shlex.split(line, comments=True)[1:])["command"] for line in lines} >= {"backup", "restore"}


def test_what_is_named_in_the_units_folder_is_where_its_user_may_write() -> None:
    folder = unit().one("Service", "WorkingDirectory")
    said = [shlex.split(line, comments=True) for block in BLOCKS[1:] for line in block.splitlines()]
    files = [line[2] for line in said if line[:1] == ["callsheet"] and len(line) > 2]
    assert files and all(file.startswith(f"{folder}/") for file in files)
