"""`callsheet demo`: shows all of it, and leaves nothing behind."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest

from service.cli.demo_processes import DidNotStart, Processes
from tests.cli.conftest import Folder, free_port, until

pytestmark = pytest.mark.xdist_group("demo")  # two at a time would look for the same free ports


def children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@contextmanager
def start(folder: Folder, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """The demo, gone at the end whatever a test found."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "service", "demo", *options],
        cwd=folder.path,
        env=folder.environment() | {"TMPDIR": str(folder.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what runs in its background with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with demo:
        try:
            yield demo
        finally:
            for process in [*children(demo.pid), demo] if demo.poll() is None else []:
                process.kill()


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
        "signature right, says standardwebhooks",
        "Every event has arrived and verified",
    ):
        assert words in said
    assert re.search(r"attempt [2-9]: accepted", said)  # of one that was refused
    assert not [process for process in started if process.is_running()]
    assert not list(folder.path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_its_processes_too(folder: Folder, number: signal.Signals) -> None:
    with start(folder) as demo:
        started = until(lambda: len(found := children(demo.pid)) >= 3 and found)
        assert demo.stdout is not None
        line = demo.stdout.readline()
        assert line.startswith("service "), line or demo.communicate()  # all three listen
        demo.send_signal(number)
        demo.communicate(timeout=60)
    assert demo.returncode == (128 + number if number == signal.SIGTERM else 0)
    assert not [process for process in started if process.is_running()]
    assert not list(folder.path.iterdir())


@pytest.mark.parametrize("place", range(3), ids=["service", "sandbox", "subscriber"])
def test_a_port_that_somebody_else_took_meanwhile_is_left_to_them(place: int, tmp_path: Path) -> None:
    asked = list[int]()
    with socket.create_server(("127.0.0.1", 0)) as somebody:

        def choose(preferred: int) -> int:
            asked.append(preferred)
            return somebody.getsockname()[1] if len(asked) == place + 1 else free_port()

        processes = Processes(tmp_path, choose=choose)
        try:
            processes.start()
            assert len(asked) == 6, "once more, all of them"
            httpx2.get(f"{processes.service}/ready").raise_for_status()
            httpx2.get(f"{processes.sandbox}/_sandbox/pixverse/ledger").raise_for_status()
        finally:
            processes.stop()


def test_ports_that_are_always_taken_are_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        processes = Processes(tmp_path, choose=lambda _: int(somebody.getsockname()[1]))
        try:
            with pytest.raises(DidNotStart, match=r"(?i)address already in use"):
                processes.start()
        finally:
            processes.stop()
