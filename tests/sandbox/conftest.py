"""Starts the sandbox and a subscriber as the processes that they are; tests speak to them over sockets."""

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from .studio import Studio

QUICK = {"duration_s": [0.05, 0.1]}
MINIMAL = {"prompt": "a cat", "model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"}


@contextmanager
def listening(*command: str) -> Iterator[str]:
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        yield line.strip().rsplit(" ", 1)[1]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


class Sandbox:
    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx2.Client(base_url=url, timeout=10)

    def control(self, method: str, path: str, **body: Any) -> Any:
        reply = self.http.request(method, f"/_sandbox/{path}", json=body or {})
        assert reply.status_code == 200, reply.text
        return reply.json()

    def faults(self, provider: str, **faults: Any) -> None:
        self.control("PUT", f"{provider}/faults", **{**QUICK, **faults})

    def happened(self, provider: str) -> dict[str, int]:
        found: dict[str, int] = self.http.get(f"/_sandbox/{provider}/faults").json()["happened"]
        return found

    def ledger(self, provider: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.http.get(f"/_sandbox/{provider}/ledger").json()["data"]
        return rows

    def peakmv(self, method: str, path: str, *, key: str = "sandbox", **more: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key}", **more.pop("headers", {})}
        return self.http.request(method, f"/peakmv/api/{path}", headers=headers, **more)

    def generate(self, **fields: Any) -> httpx2.Response:
        return self.peakmv("POST", "v2/generate", json={"audio_url": "https://example.com/song.mp3", **fields})

    def pixverse(
        self, method: str, path: str, *, key: str = "sandbox", trace: str | None = None, **more: Any
    ) -> httpx2.Response:
        headers = {"API-KEY": key, "Ai-trace-id": trace or str(uuid.uuid4())}
        return self.http.request(method, f"/pixverse/openapi/v2/{path}", headers=headers, **more)

    def text_to_video(self, *, trace: str | None = None, **fields: Any) -> httpx2.Response:
        return self.pixverse("POST", "video/text/generate", trace=trace, json={**MINIMAL, **fields})


class Receiver:
    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx2.Client(base_url=url, timeout=10)

    def received(self, path: str = "/") -> list[dict[str, Any]]:
        return [row for row in self.http.get("/_received").json()["data"] if row["path"].startswith(path)]

    def behave(self, **behaviour: Any) -> None:
        reply = self.http.put("/_behaviour", json=behaviour)
        assert reply.status_code == 200, reply.text


@pytest.fixture(scope="session")
def running_sandbox() -> Iterator[Sandbox]:
    with listening("service.sandbox", "--port", "0", "--service-url", "http://127.0.0.1:9") as url:
        sandbox = Sandbox(url)
        yield sandbox
        sandbox.http.close()


@pytest.fixture(scope="session")
def running_receiver() -> Iterator[Receiver]:
    with listening("service.sandbox.subscriber", "--port", "0", "--quiet") as url:
        receiver = Receiver(url)
        yield receiver
        receiver.http.close()


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Sandbox:
    for provider in ("peakmv", "pixverse"):
        running_sandbox.control("POST", f"{provider}/reset")
        running_sandbox.faults(provider)
    return running_sandbox


@pytest.fixture
def studio(running_sandbox: Sandbox) -> Studio:
    running_sandbox.control("POST", "progressiverobot/reset")
    running_sandbox.faults("progressiverobot")
    return Studio(running_sandbox)


@pytest.fixture
def receiver(running_receiver: Receiver) -> Receiver:
    running_receiver.http.delete("/_received")
    running_receiver.behave(
        mode="ok", fail=[], fail_rate=0, seed=0, secrets=[], hang_s=600, delay_s=0, drip_s=0.2, drip_bytes=1000
    )
    return running_receiver


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    def wait(condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 30
        while not (found := condition()):
            assert time.monotonic() < deadline, "waited 30 s in vain"
            time.sleep(0.01)
        return found

    return wait


@pytest.fixture
def same_shape() -> Callable[[Any, Any], bool]:
    """Whether the sample's fields are there, with values of the sample's types."""

    def check(found: Any, sample: Any) -> bool:
        if isinstance(sample, dict):
            return isinstance(found, dict) and all(
                name in found and check(found[name], sample[name]) for name in sample
            )
        if isinstance(sample, float) or (isinstance(sample, int) and not isinstance(sample, bool)):
            return isinstance(found, int | float) and not isinstance(found, bool)
        return isinstance(found, type(sample))

    return check
