"""Runs the command as its users do: as a process, in a folder of its own, with an environment of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

KEY = "an-admin-key-of-the-tests-0123456789"
QUICK = {"duration_s": [0.2, 0.4]}
VIDEO = {"prompt": "a red kite", "model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Folder:
    """A working directory, and the CALLSHEET_ variables of what runs in it."""

    def __init__(self, path: Path, **variables: str) -> None:
        self.path, self.variables = path, variables

    def environment(self, **more: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CALLSHEET_")}
        given = {"STOP_DELAY": "0", **self.variables, **more}  # no proxy has to be told
        return {**inherited, **{f"CALLSHEET_{name}": value for name, value in given.items()}}

    def run(self, *arguments: str, given: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "service", *arguments],
            cwd=self.path,
            env=self.environment(**variables),
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def ok(self, *arguments: str, given: str | None = None, **variables: str) -> str:
        """What it printed; it must have ended well."""
        ended = self.run(*arguments, given=given, **variables)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    @contextmanager
    def listening(self, *arguments: str, **variables: str) -> Iterator["Listening"]:
        log = (self.path / f"{arguments[0]}.log").open("w+")
        process = subprocess.Popen(
            [sys.executable, "-m", "service", *arguments],
            cwd=self.path,
            env=self.environment(**variables),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Listening(process, Path(log.name))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            log.close()


class Listening:
    """A process that serves: what it said, and where it is."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process, self._log = process, log
        self.url = until(self._url)

    def said(self) -> str:
        return self._log.read_text()

    def _url(self) -> str | None:
        assert self.process.poll() is None, self.said()
        line, newline, _ = self.said().partition("\n")
        return line.rpartition("listening on ")[2] if newline and "listening on" in line else None


def until(condition: Callable[[], Any], seconds: float = 40) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.02)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


class World(Folder):
    """A sandbox, a subscriber and a service that know each other."""

    pid = 0  # the service's, where it runs

    def __init__(self, path: Path, sandbox: str, subscriber: str, port: int) -> None:
        url = f"http://127.0.0.1:{port}"
        super().__init__(path, URL=url, PUBLIC_URL=url, SANDBOX_URL=sandbox, API_KEY=KEY, RETRY_SCHEDULE="0,1,1")
        self.sandbox, self.subscriber, self.url, self.port = sandbox, subscriber, url, str(port)

    def faults(self, provider: str, **faults: Any) -> None:
        url = f"{self.sandbox}/_sandbox/{provider}/faults"
        assert httpx2.put(url, json={**QUICK, **faults}).status_code == 200

    def ledger(self, provider: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = httpx2.get(f"{self.sandbox}/_sandbox/{provider}/ledger").json()["data"]
        return rows

    def received(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = httpx2.get(f"{self.subscriber}/_received").json()["data"]
        return rows

    def api(self, method: str, path: str, body: Any = None) -> Any:
        reply = httpx2.request(
            method, self.url + path, json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=60
        )
        assert reply.status_code < 300, reply.text
        return reply.json()


@contextmanager
def neighbours(path: Path) -> Iterator[World]:
    """All but the service, which is not started."""
    port, alone = free_port(), Folder(path)
    with ExitStack() as ends:
        service_url = f"http://127.0.0.1:{port}"
        sandbox = ends.enter_context(alone.listening("sandbox", "--port", "0", "--service-url", service_url))
        subscriber = ends.enter_context(alone.listening("sink", "--port", "0"))
        world = World(path, sandbox.url, subscriber.url, port)
        for provider in ("pixverse", "peakmv"):
            world.faults(provider)
        yield world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Neighbours and a service, shared by the tests."""
    with (
        neighbours(tmp_path_factory.mktemp("world")) as world,
        world.listening("serve", "--port", world.port) as service,
    ):
        world.pid = service.process.pid
        yield world


@pytest.fixture
def asleep(tmp_path: Path) -> Iterator[World]:
    """Neighbours without a service."""
    with neighbours(tmp_path) as world:
        yield world
