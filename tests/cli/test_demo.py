"""`callsheet demo`: shows all of it, and leaves nothing behind."""

import signal
import subprocess
import sys

import psutil
import pytest

from tests.cli.conftest import Folder, until

pytestmark = pytest.mark.xdist_group("demo")  # two at a time would look for the same free ports


def children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def start(folder: Folder, *options: str) -> "subprocess.Popen[str]":
    environment = folder.environment() | {"TMPDIR": str(folder.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "service", "demo", *options],
        cwd=folder.path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_once_shows_every_step_and_leaves_no_process(folder: Folder) -> None:
    with start(folder, "--once") as demo:
        started = until(lambda: len(found := children(demo.pid)) >= 3 and found)
        said, errors = demo.communicate(timeout=90)
    assert demo.returncode == 0, errors
    for words in (
        "callback verified",
        "callback ignored: a duplicate",
        "event job.succeeded",
        "refused with 500",
        "attempt 2: accepted",
        "signature right, says standardwebhooks",
        "Every event has arrived and verified",
    ):
        assert words in said
    assert not [process for process in started if process.is_running()]
    assert not list(folder.path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_its_processes_too(folder: Folder, number: signal.Signals) -> None:
    with start(folder) as demo:
        started = until(lambda: len(found := children(demo.pid)) >= 3 and found)
        assert demo.stdout is not None
        assert demo.stdout.readline().startswith("service ")  # all three listen
        demo.send_signal(number)
        demo.communicate(timeout=20)
    assert demo.returncode == (128 + number if number == signal.SIGTERM else 0)
    assert not [process for process in started if process.is_running()]
    assert not list(folder.path.iterdir())
