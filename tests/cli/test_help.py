"""Help and refused arguments: nothing is started, nothing is called."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from service.cli import NAMES, main

GROUPS = {
    "jobs": "list get timeline cancel resolve erase",
    "endpoints": "create list get update delete rotate test recover",
    "events": "list get replay types",
    "deliveries": "list get retry",
    "keys": "create list revoke",
    "tenants": "create list delete",
    "credentials": "set show delete",
    "budgets": "list set delete",
}
COMMANDS = [[name] for name in NAMES] + [[group, name] for group, names in GROUPS.items() for name in names.split()]
HEAVY = ("httpx2", "aiohttp", "uvicorn", "starlette", "cryptography", "service.app", "service.sandbox")


def invoke(*arguments: str, **more: Any) -> Any:
    return CliRunner().invoke(main, arguments, env={"CALLSHEET_API_KEY": "k" * 32}, **more)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(arguments: list[str]) -> None:
    shown = invoke(*arguments, "--help")
    assert shown.exit_code == 0
    assert "Usage:" in shown.output


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_has_its_commands_and_an_example_of_each_kind(group: str) -> None:
    shown = invoke(group, "--help").output
    assert f"callsheet {group} " in shown
    for name in GROUPS[group].split():
        assert f"\n  {name} " in shown


def test_help_lists_every_command() -> None:
    shown = invoke("--help").output
    assert all(f"\n  {name} " in shown for name in NAMES)


def test_help_imports_nothing_heavy_and_is_quick() -> None:
    ask = (
        "import sys; from service.cli import main; main(['--help'], standalone_mode=False); "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    took = []
    for _ in range(3):
        began = time.monotonic()
        said = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
        took.append(time.monotonic() - began)
    assert said.endswith("[]\n")
    assert min(took) < 0.3


def test_serve_carries_neither_sandbox_nor_demo_nor_their_client() -> None:
    ask = (
        "import sys, service.cli.serving; "
        "print([m for m in sys.modules if m.startswith(('httpx2', 'service.sandbox', 'service.cli.demo'))])"
    )
    said = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["tick", "--budget", "soon"], "'soon' is not a duration: give one like 50s, 2m, 6h or 7d"),
        (["serve", "--role", "boss"], "'boss' is not one of 'all', 'api', 'worker'"),
        (["serve", "--port", "70000"], "70000 is not in the range"),
        (["submit", "p", "o", "-f", "prompt"], "'prompt' is not key=value"),
        (["submit", "p", "o", "-f", "parts=[1,"], "begins like JSON and is none"),
        (["submit", "p", "o", "--input", "nonsense"], "this is not JSON"),
        (["submit", "p", "o", "--input", "[1]"], "give a JSON object"),
        (["submit", "p", "o", "--input", "@missing.json"], "missing.json cannot be read"),
        (["submit", "p", "o", "--follow", "4711", "-f", "a=b"], "--follow takes no input"),
        (["jobs", "resolve", "job_1", "guess"], "'guess' is not one of 'adopt', 'fail', 'resubmit'"),
        (["endpoints", "update", "ep_1"], "nothing to change: name an option"),
        (["sink", "--fail", "often"], "no mode 'often'"),
        (["copy", "--from", "sqlite:///a.db", "--to", "sqlite:///a.db"], "name the same database"),
        (["copy", "--from", "sqlite:///a.db"], "give either --to URL or --take-back"),
    ],
)
def test_a_bad_argument_is_a_sentence_and_exit_code_2(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):  # where no .env is
        refused = invoke(*arguments)
    assert refused.exit_code == 2
    assert sentence in refused.output
    assert "Traceback" not in refused.output
