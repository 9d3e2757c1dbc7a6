"""A node that stalls between its commit and its POST, and wakes after another has taken the job over: one charge."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from service.conversation import LEASE_MS
from tests.charges.intents import INTENTS
from tests.kill.test_kill import free_port
from tests.web.served import ADMIN, sandbox_running

pytestmark = [pytest.mark.kill, pytest.mark.xdist_group("kill")]


def ask(method: str, url: str, **how: Any) -> httpx2.Response:
    return httpx2.request(method, url, timeout=10, headers={"Authorization": f"Bearer {ADMIN}"}, **how)


@contextmanager
def node(folder: Path, sandbox: str, kind: str) -> Iterator[tuple[psutil.Process, str, Path]]:
    """One node of two on one database: its process, URL and the file that sets its clocks."""
    port, ahead = free_port(), folder / f"{kind}.ahead"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CALLSHEET_")},
        "CALLSHEET_DATABASE_URL": f"sqlite:///{folder}/callsheet.db",
        "CALLSHEET_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "CALLSHEET_SANDBOX_URL": sandbox,
        "CALLSHEET_API_KEY": ADMIN,
    }
    command = [sys.executable, "-m", "tests.kill.stalled_service", str(port), str(ahead), kind]
    process = subprocess.Popen(command, env=environment)
    try:
        yield psutil.Process(process.pid), f"http://127.0.0.1:{port}", ahead
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def until(what: Callable[[], Any], within: float = 60.0) -> Any:
    ends = time.monotonic() + within
    while time.monotonic() < ends:
        try:
            if found := what():
                return found
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def job(url: str, job_id: str) -> Any:
    return ask("GET", f"{url}/v1/jobs/{job_id}").json()


@pytest.mark.parametrize(("provider", "ends", "charged"), [("pixverse", "succeeded", 1), ("peakmv", "unknown", 0)])
def test_a_node_that_wakes_too_late_does_not_send(provider: str, ends: str, charged: int, tmp_path: Path) -> None:
    with sandbox_running("http://127.0.0.1:9") as sandbox, node(tmp_path, sandbox, "stops") as (stalled, url, ahead):
        until(lambda: ask("GET", f"{url}/ready").status_code == 200)
        intent = INTENTS[provider]
        body = {"provider": provider, "operation": intent.operation, "input": intent.given("nonce-000001")}
        job_id = ask("POST", f"{url}/v1/jobs", json=body).json()["id"]
        until(lambda: stalled.status() == psutil.STATUS_STOPPED)
        assert ledger(sandbox, provider) == []
        late = LEASE_MS / 1000 + 1
        (tmp_path / "recovers.ahead").write_text(str(late))
        with node(tmp_path, sandbox, "recovers") as (_, second, _):
            assert until(lambda: job(second, job_id))["status"] in ("submitting", ends, "processing")
            until(lambda: job(second, job_id)["status"] == ends)
            assert len(ledger(sandbox, provider)) == charged
            ahead.write_text(str(late))
            stalled.resume()
            until(lambda: stalled.status() != psutil.STATUS_STOPPED)
            until(lambda: ask("GET", f"{url}/health").status_code == 200)
            time.sleep(1)  # it would have sent long since
            assert len(ledger(sandbox, provider)) == charged
            assert job(second, job_id)["status"] == ends


def ledger(sandbox: str, provider: str) -> list[Any]:
    rows: list[Any] = httpx2.get(f"{sandbox}/_sandbox/{provider}/ledger").json()["data"]
    return rows
