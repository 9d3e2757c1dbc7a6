"""The demo's three processes: sandbox, subscriber and service, real ones, in a folder of their own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import service
from service.cli.failing import Failed
from service.crypto import Secret, new_api_key
from service.settings import Settings

SERVICE_PORT, SANDBOX_PORT, SUBSCRIBER_PORT = 8080, 8090, 8099  # where they are free
START_S = 45.0
STOP_S = 8.0  # then they are killed
LOOK_S = 0.02
LISTENING = "listening on "
TAKEN = "address already in use"


class DidNotStart(Failed):
    """One of the processes ended, or said nothing in time."""


def free_port(preferred: int) -> int:
    """That one, or any other that is free now. Raises `DidNotStart`."""
    for port in (preferred, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)) as listener:
            number: int = listener.getsockname()[1]
            return number
    raise DidNotStart("no port of 127.0.0.1 can be listened on")


class Processes:
    """`choose` gives a free port, the preferred one where it can."""

    def __init__(self, folder: Path, *, choose: Callable[[int], int] = free_port):
        self._folder, self._choose = folder, choose
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.key = new_api_key().text
        self._choose_ports()

    def _choose_ports(self) -> None:
        self.service, self.sandbox, self.subscriber = (
            f"http://127.0.0.1:{self._choose(port)}" for port in (SERVICE_PORT, SANDBOX_PORT, SUBSCRIBER_PORT)
        )

    @property
    def settings(self) -> Settings:
        """What the command line needs to reach the service."""
        return Settings(url=self.service, api_key=Secret(self.key), given=frozenset({"CALLSHEET_URL"}))

    def start(self) -> None:
        """Start all three, and return when each takes requests; on other ports where somebody else was quicker.

        Raises `DidNotStart`.
        """
        for last in (False, False, True):
            try:
                self._start_all()
                return
            except DidNotStart as error:
                if last or TAKEN not in str(error).lower():
                    raise
            self.stop()
            self._choose_ports()

    def _start_all(self) -> None:
        self._start("sandbox", "sandbox", "--port", _port(self.sandbox), "--service-url", self.service)
        self._start("subscriber", "sink", "--port", _port(self.subscriber), "--fail-rate", "0.3", "--seed", "1")
        self._start("service", "serve", "--port", _port(self.service))
        for name in self._running:
            self._await(name)

    def check(self) -> None:
        """Raise `DidNotStart` where one has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise DidNotStart(f"the {name} ended with exit code {process.returncode}:\n{self._log(name)}")

    def stop(self) -> None:
        """End all of them, and whatever they started, whatever it takes."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        self._signal(signal.SIGKILL)
        for process in self._running.values():
            process.wait()

    def _start(self, name: str, *arguments: str) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "service", *arguments],
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own: Ctrl-C is ours to pass on
            )

    def _environment(self) -> Mapping[str, str]:
        """Of the caller's environment without its settings: no key of theirs is used, nothing of theirs is touched."""
        package = Path(service.__file__).parent.parent
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("CALLSHEET_")},
            "PYTHONPATH": os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH")))),
            "CALLSHEET_DATABASE_URL": "sqlite:///demo.db",
            "CALLSHEET_PUBLIC_URL": self.service,
            "CALLSHEET_SANDBOX_URL": self.sandbox,
            "CALLSHEET_API_KEY": self.key,
            "CALLSHEET_RETRY_SCHEDULE": "0,1,2,5",
        }

    def _await(self, name: str) -> None:
        deadline = time.monotonic() + START_S
        while LISTENING not in self._log(name):
            self.check()
            if time.monotonic() > deadline:
                raise DidNotStart(f"the {name} said nothing for {START_S:.0f} s:\n{self._log(name)}")
            time.sleep(LOOK_S)

    def _log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def _signal(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):  # all of its group have ended
                os.killpg(process.pid, number)


def _port(url: str) -> str:
    return url.rpartition(":")[2]
