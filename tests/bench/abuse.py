"""A healthy client beside clients that abuse connections: its p99 as a ratio to what it is without them, and memory.

Usage: python -m tests.bench.abuse [ROUNDS]

`callsheet serve` on CPU 0; the client and, at the lowest priority, the abuse on the last one. The client reads a list
with its key, on a new connection every tenth time. Before each kind of abuse the same is measured without it.
"""

import contextlib
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.callbacks import SERVE, environment, free_port, running

SECONDS = 4.0  # of each measurement
LIST = b"GET /v1/jobs?limit=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bench-admin-key-0123456789abcdefghij\r\n\r\n"
HALF = b"POST /v1/callbacks/pixverse HTTP/1.1\r\nHost: x\r\n"
Sockets = list[socket.socket]


def connect(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), 10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


# -- abuse: each goes on for ever, in a process of its own; `ready` says when it is at its height


def silent(port: int, count: int, ready: Callable[[], None]) -> None:
    """Connections without a byte, and every second one with half of a head; those that are ended are made anew."""
    held: Sockets = []
    while True:
        while len(held) < count:
            held.append(connect(port))
            if len(held) % 2:
                with contextlib.suppress(OSError):
                    held[-1].sendall(HALF)
        ready()
        time.sleep(0.5)
        held = [one for one in held if not _ended(one)]


def dripped(port: int, count: int, ready: Callable[[], None]) -> None:
    """Heads of which a byte comes ten times a second."""
    held: Sockets = []
    while True:
        while len(held) < count:
            held.append(connect(port))
            held[-1].sendall(HALF)
        ready()
        for one in list(held):
            with contextlib.suppress(OSError):
                one.sendall(b"x")
            time.sleep(0.1 / count)
        held = [one for one in held if not _ended(one)]


def lines(port: int, count: int, ready: Callable[[], None]) -> None:
    """Requests of so many header lines, one after the other."""
    _one_after_the_other(port, HALF + b"a: b\r\n" * count + b"\r\n", ready)


def header(port: int, count: int, ready: Callable[[], None]) -> None:
    """Requests with a header of so many MB, one after the other."""
    _one_after_the_other(port, HALF + b"a: " + b"b" * count * 1_000_000 + b"\r\n\r\n", ready)


def _one_after_the_other(port: int, request: bytes, ready: Callable[[], None]) -> None:
    while True:
        with contextlib.suppress(OSError), connect(port) as one:
            ready()
            one.sendall(request)
            one.shutdown(socket.SHUT_WR)
            while one.recv(65_536):
                pass
        time.sleep(0.05)


def _ended(one: socket.socket) -> bool:
    """Whether the service has ended it; then it is closed here, too."""
    one.setblocking(False)
    try:
        while one.recv(4096):
            pass
        ended = True
    except BlockingIOError:
        ended = False
    except OSError:
        ended = True
    one.settimeout(10)
    if ended:
        one.close()
    return ended


ABUSE = {"silent": silent, "dripped": dripped, "lines": lines, "header": header}
KINDS = {"silent": 4_100, "dripped": 300, "lines": 200_000, "header": 50}  # as often, or as large


@contextlib.contextmanager
def abused(kind: str, port: int, size: int) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.bench.abuse", kind, str(port), str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            yield
        finally:
            process.kill()


# -- what is measured


def client(port: int, seconds: float) -> list[float]:
    """Seconds of each request. Raises where one is not answered 200."""
    took: list[float] = []
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        began = time.perf_counter()
        with connect(port) as one:
            for _ in range(10):
                one.sendall(LIST)
                got = one.recv(65_536)
                while got and not got.endswith(b"}"):
                    got += one.recv(65_536)
                assert got.startswith(b"HTTP/1.1 200"), got[:200]
                took.append(time.perf_counter() - began)
                time.sleep(0.001)
                began = time.perf_counter()
    return took


def p99(took: list[float]) -> float:
    return sorted(took)[int(len(took) * 0.99)]


def memory(pid: int, row: str) -> float:
    """MB that it has (VmRSS), or had at most since `forget` (VmHWM); proc(5)."""
    found = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(row))
    return int(found.split()[1]) / 1024


def forget(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def beside(kind: str, pid: int, port: int, size: int, seconds: float = SECONDS) -> tuple[float, float, float]:
    """p99 without it and beside it, in seconds, and by how many MB the memory grew at most."""
    client(port, seconds / 4)
    base, before = p99(client(port, seconds)), memory(pid, "VmRSS")
    forget(pid)
    with abused(kind, port, size):
        own = p99(client(port, seconds))
    return base, own, memory(pid, "VmHWM") - before


@contextlib.contextmanager
def serving() -> Iterator[tuple[int, int]]:
    """The process id and the port of a service."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        arguments = ["serve", "--host", "127.0.0.1", "--port", str(port), "--role", "api"]
        with running(SERVE, arguments, environment(folder, port), port) as pid:
            yield pid, port


def main(rounds: int = 3) -> None:
    os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
    for kind, size in KINDS.items():
        with serving() as (pid, port):
            measured = [beside(kind, pid, port, size) for _ in range(rounds)]
        ratio = statistics.median(own / base for base, own, _ in measured)
        shown = "  ".join(f"{base * 1000:.1f} -> {own * 1000:.1f} ms" for base, own, _ in measured)
        grown = max(more for _, _, more in measured)
        print(f"{size:7,} {kind:8} p99 ratio {ratio:5.2f}   memory {grown:+6.1f} MB   ({shown})", flush=True)


def abuse(kind: str, port: int, size: int) -> None:
    """The process of one kind of abuse."""
    os.nice(19)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(size + 1000, hard)), hard))
    said: list[bool] = []

    def ready() -> None:
        if not said:
            said.append(True)
            print("ready", flush=True)

    ABUSE[kind](port, size, ready)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        abuse(sys.argv[1], *map(int, sys.argv[2:]))
    else:
        main(*map(int, sys.argv[1:]))
