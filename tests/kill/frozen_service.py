"""A worker in a process of its own, whose leases last as long as its starter says, and which can freeze at the door.

Usage: python -m tests.kill.frozen_service PORT LEASE_S ARMED_FILE

While ARMED_FILE is there, what is about to be sent to a provider for money, or to a subscriber, waits; when there are
as many of these as the file says, the process stops itself (SIGSTOP), and they go on when somebody resumes it.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from service import providers
from service.app import build
from service.cli.stopping import StoppingServer
from service.egress import Answer, Egress
from service.framing import Outgoing
from service.settings import load
from service.web.server import create_web


class FreezingEgress(Egress):
    armed: Path

    def __init__(self, **how: Any):
        super().__init__(**how)
        self._waiting, self._frozen = 0, asyncio.Event()

    async def send(self, request: Outgoing, *, trusted: bool = False, fresh: bool = False, **how: Any) -> Answer:
        if (fresh or not trusted) and self.armed.exists():
            self._waiting += 1
            if self._waiting == int(self.armed.read_text()):
                self.armed.unlink()
                os.kill(os.getpid(), signal.SIGSTOP)
                self._frozen.set()
            await self._frozen.wait()
        return await super().send(request, trusted=trusted, fresh=fresh, **how)


async def main(port: int, lease_s: int, armed: Path) -> None:
    def make_egress(**how: Any) -> Egress:
        egress = FreezingEgress(**how)
        egress.armed = armed
        return egress

    settings = load(os.environ, known_providers=providers.names())
    service = await build(settings, role="worker", make_egress=make_egress, lease_ms=lease_s * 1000)
    service.context.loops.start()
    config = uvicorn.Config(
        create_web(service.context), host="127.0.0.1", port=port, log_level="warning", lifespan="off"
    )
    await StoppingServer(config, [], service.leave, 0).serve()
    await service.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
