"""The deployment files, read strictly: a form that is not known here is an error, not a guess."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click
from ruamel.yaml import YAML

from service import providers
from service.cli import main
from service.settings import Settings, load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
SECRETS = {"CALLSHEET_MASTER_KEYS": f"a:{'A' * 43}=", "CALLSHEET_API_KEY": "k" * 40}


class Instruction(NamedTuple):
    word: str
    text: str

    @property
    def form(self) -> list[str]:
        """The arguments of an exec form."""
        found: list[str] = json.loads(self.text)
        return found


def dockerfile() -> list[list[Instruction]]:
    """The stages, each its instructions."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text()).replace("\\\n", " ")
    stages: list[list[Instruction]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        assert word.isupper(), line
        if word == "FROM":
            stages.append([])
        stages[-1].append(Instruction(word, rest.strip()))
    return stages


def compose() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(DEPLOY / "compose.yaml")
    return found


class Unit(dict[str, dict[str, list[str]]]):
    """Section -> key -> its values, in order."""

    def one(self, section: str, key: str) -> str:
        (value,) = self[section][key]
        return value


def unit(name: str = "callsheet.service") -> Unit:
    found, section = Unit(), ""
    for line in (DEPLOY / name).read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line.strip("[]")
            found[section] = {}
            continue
        key, equals, value = line.partition("=")
        assert equals and re.fullmatch(r"[A-Z]\w+", key), line
        found[section].setdefault(key, []).append(value)
    return found


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What the command line makes of these arguments. Raises click's usage errors."""
    name, *rest = arguments
    command = main.get_command(click.Context(main), name)
    assert command is not None, f"there is no command {name}"
    return {"command": name, **command.make_context(name, rest).params}


def settings(environment: dict[str, str]) -> Settings:
    """Raises `SettingsError` for a variable that is not known."""
    return load({**SECRETS, **environment}, known_providers=providers.names())


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)


def words(text: str) -> list[str]:
    return shlex.split(text)
