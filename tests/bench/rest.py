"""Start-up time and memory at rest of `callsheet serve`, against a bare Starlette application on the same server."""

import re
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.callbacks import BARE, SERVE, environment, free_port, running


def resident_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def started(code: str, arguments: list[str], more: dict[str, str], port: int) -> tuple[float, float]:
    """Seconds until it takes connections, and its memory two seconds later."""
    began = time.perf_counter()
    with running(code, arguments, more, port) as pid:
        took = time.perf_counter() - began
        time.sleep(2)
        return took, resident_mb(pid)


def main(rounds: int = 3) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            port, bare_port = free_port(), free_port()
            base = started(BARE, [str(bare_port)], {}, bare_port)
            own = started(SERVE, ["serve", "--port", str(port)], environment(folder, port), port)
            print(
                f"start       bare {base[0]:5.2f} s {base[1]:5.0f} MB   service {own[0]:5.2f} s {own[1]:5.0f} MB   "
                f"ratio {own[0] / base[0]:.2f} {own[1] / base[1]:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
