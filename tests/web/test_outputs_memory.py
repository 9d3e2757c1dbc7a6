"""A result of 300 MB through the service, in processes of their own: its memory hardly grows, whatever the provider
knows of ranges and lengths, and however slowly the client reads.
"""

import hashlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psutil
import pytest

from tests.keyed import BLOCK, content

MB = 1024 * 1024
SIZE = 300 * MB + 12_345
ROOM = 16 * MB
BEHAVIOURS = ("ranges", "ignores", "unknown")
START = 1_234_567  # so that what is cut begins and ends inside a piece


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


class Running:
    """The service's process, and the stable URL of an output of each behaviour."""

    def __init__(self, pid: int, urls: list[str]):
        self.process = psutil.Process(pid)
        self.urls = dict(zip(BEHAVIOURS, urls, strict=True))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("streaming")
    with started("tests.keyed") as server:
        assert server.stdout is not None
        origin = server.stdout.readline().rsplit(" ", 1)[1].strip()
        outputs = [f"{origin}/{behaviour}/{SIZE}" for behaviour in BEHAVIOURS]
        with started("tests.web.streaming_service", str(folder), origin, *outputs) as service:
            assert service.stdout is not None
            found = Running(service.pid, [service.stdout.readline().strip() for _ in outputs])
            for url in found.urls.values():  # what is made once, is made before anything is measured
                assert read(url, "bytes=0-100000").size == 100_001
            yield found


class Got:
    """What came: its status line, how many bytes, and their digest."""

    def __init__(self, status: int, size: int, digest: str, length: int | None):
        self.status, self.size, self.digest, self.length = status, size, digest, length


def read(url: str, asked: str, *, pause_s: float = 0.0) -> Got:
    """The body, read by a plain socket: nothing of it is kept. `pause_s`: how long it reads nothing, early on."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        head = f"GET {parts.path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: {asked}\r\n\r\n"
        connection.sendall(head.encode())
        stream = connection.makefile("rb", buffering=MB)
        status = int(stream.readline().split()[1])
        headers = dict(line.decode().strip().lower().split(": ", 1) for line in iter(stream.readline, b"\r\n"))
        assert headers.get("transfer-encoding") != "chunked", "a part always has a length"
        digest, size = hashlib.blake2b(), 0
        while piece := stream.read(MB):
            digest.update(piece)
            size += len(piece)
            if pause_s and size == 4 * MB:
                time.sleep(pause_s)
        return Got(status, size, digest.hexdigest(), int(headers["content-length"]))


def expected(start: int, end: int) -> str:
    digest = hashlib.blake2b()
    while start < end:
        piece = content(start, min(end, start + 16 * len(BLOCK)))
        digest.update(piece)
        start += len(piece)
    return digest.hexdigest()


@contextmanager
def watched(process: psutil.Process) -> Iterator[list[int]]:
    """The process's memory, again and again, while the block runs."""
    seen, over = [process.memory_info().rss], threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_large_result_takes_no_memory(running: Running, behaviour: str) -> None:
    with watched(running.process) as seen:
        got = read(running.urls[behaviour], f"bytes={START}-")
    assert (got.status, got.size, got.length) == (206, SIZE - START, SIZE - START)
    assert got.digest == expected(START, SIZE)
    assert len(seen) > 20 and max(seen) - seen[0] < ROOM, f"{(max(seen) - seen[0]) / MB:.1f} MB"


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_client_that_reads_slowly_takes_no_memory_either(running: Running, behaviour: str) -> None:
    with watched(running.process) as seen:
        got = read(running.urls[behaviour], f"bytes={START}-{START + 40 * MB - 1}", pause_s=0.5)
    assert (got.status, got.size) == (206, 40 * MB)
    assert len(seen) > 20 and max(seen) - seen[0] < ROOM, f"{(max(seen) - seen[0]) / MB:.1f} MB"


def test_several_at_once_take_little(running: Running) -> None:
    """Six clients, of whom none reads: what waits is bounded for each."""
    with watched(running.process) as seen:
        with socket_clients(running, 6):
            time.sleep(1.0)
    assert max(seen) - seen[0] < 2 * ROOM, f"{(max(seen) - seen[0]) / MB:.1f} MB"


@contextmanager
def socket_clients(running: Running, count: int) -> Iterator[None]:
    clients = []
    for number in range(count):
        parts = urlsplit(running.urls[BEHAVIOURS[number % 3]])
        client = socket.create_connection((parts.hostname, parts.port), timeout=60)
        client.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        clients.append(client)
    try:
        yield
    finally:
        for client in clients:
            client.close()
