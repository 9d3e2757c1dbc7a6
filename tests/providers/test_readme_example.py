"""A provider written by following the README alone, in a folder of its own, passes the contract suite as it is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .cases import HERE
from .operation_table import README

ROOT = HERE.parents[1]
FILES = re.compile(r"^#### `([\w./]+)`\n\n```\w+\n(.*?)^```$", re.M | re.S)
CONTRACT = sorted(HERE.glob("test_contract*.py"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The README's own example, written down."""
    printed = FILES.findall(README.read_text(encoding="utf-8"))
    assert {name for name, _ in printed} == {"mine.py", "mine.json", "cases/all.json"}
    for name, text in printed:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def suite_on(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *map(str, CONTRACT)]
    environment = {**os.environ, "PROVIDERS_PATH": str(folder)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_example_of_the_readme_passes_the_contract_suite(folder: Path) -> None:
    ended = suite_on(folder)
    assert ended.returncode == 0, ended.stdout
    counts = re.search(r"(\d+) passed", ended.stdout)
    assert counts is not None and int(counts[1]) > 100, ended.stdout
    assert "mine" not in {path.stem for path in README.parent.iterdir()}


SPOILT = [
    ("mine.py", "charges=True", "charges=False", "charges"),
    ("mine.py", "return not_accepted(", "return own or not_accepted(", "no refusal of the first"),
    ("mine.py", 'if word == "done" and url:', 'if word == "done":', "isinstance(output.url, str)"),
    ("mine.py", "{path_part(provider_job_id)}", "?id={provider_job_id}", "recognised as"),
    ("mine.json", '"required": ["prompt"],', '"required": ["text"],', "required"),
    ("cases/all.json", '"whole": true', '"at_most": null', "no recorded case of `submit`"),
]


@pytest.mark.parametrize(("name", "right", "wrong", "said"), SPOILT, ids=[wrong for _, _, wrong, _ in SPOILT])
def test_a_mistake_in_it_is_found(folder: Path, name: str, right: str, wrong: str, said: str) -> None:
    text = (folder / name).read_text(encoding="utf-8")
    assert right in text
    (folder / name).write_text(text.replace(right, wrong), encoding="utf-8")
    ended = suite_on(folder)
    assert ended.returncode == 1, ended.stdout
    assert said in ended.stdout
