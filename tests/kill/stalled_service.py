"""The real service in a process of its own, which stops itself (SIGSTOP) when a charging POST is about to leave.

Usage: python -m tests.kill.stalled_service PORT HOURS_FILE (stops | recovers)

HOURS_FILE holds the seconds by which this node's clocks are ahead: what a long stop looks like, without the wait.
`recovers` runs the loops beside the one that is stopped, as another node of a fleet would.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from service import providers
from service.app import build
from service.clock import SystemClock
from service.egress import Answer, Egress
from service.framing import Outgoing
from service.settings import load
from service.web.server import create_web


class AheadClock(SystemClock):
    def __init__(self, file: Path):
        self._file = file

    def _ahead(self) -> float:
        return float(self._file.read_text() or 0) if self._file.exists() else 0.0

    def now(self) -> int:
        return super().now() + int(self._ahead() * 1000)

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead()


class StallingEgress(Egress):
    async def send(
        self, request: Outgoing, *, fresh: bool = False, before_first_byte: Any = None, **how: Any
    ) -> Answer:
        def stop_then_ask() -> None:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGSTOP)
            before_first_byte()

        ask = stop_then_ask if fresh else before_first_byte
        return await super().send(request, fresh=fresh, before_first_byte=ask, **how)


async def main(port: int, ahead: Path, stops: bool) -> None:
    service = await build(
        load(os.environ, known_providers=providers.names()),
        clock=AheadClock(ahead),
        make_egress=StallingEgress if stops else Egress,
        own_loops=stops,
    )
    service.context.loops.start()
    app = create_web(service.context)
    await uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off")).serve()
    await service.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "stops"))
