"""The service on a real socket, in a thread with its own event loop; the sandbox in a process of its own."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from service import providers
from service.app import Service, build
from service.settings import Settings, load
from service.web.connection import protocol
from service.web.door import Door, Limits
from service.web.server import create_web

ADMIN = "an-admin-key-that-the-operator-gave-us-00"


@contextmanager
def sandbox_running(service_url: str) -> Iterator[str]:
    """The sandbox's URL."""
    command = [sys.executable, "-m", "service.sandbox", "--port", "0", "--service-url", service_url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip().rsplit(" ", 1)[1]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


class Served:
    """A service that answers at `url`; its loops run only when ticked. `run` runs a coroutine where it lives."""

    def __init__(self, folder: Path, limits: Limits = Limits(), **more: str):  # noqa: B008 - it is frozen
        self._folder, self._limits, self._more = folder, limits, more  # `more`: settings beyond those below
        # With its protocol named, or asyncio leaves Nagle's algorithm on and each answer takes 40 ms.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._loop = uvloop.new_event_loop()
        self._ready = threading.Event()
        self.settings: Settings
        self.service: Service
        self.door: Door
        self._server: uvicorn.Server

    @contextmanager
    def running(self, sandbox_url: str) -> Iterator["Served"]:
        self.settings = load(
            {
                "CALLSHEET_DATABASE_URL": f"sqlite:///{self._folder}/callsheet.db",
                "CALLSHEET_API_KEY": ADMIN,
                "CALLSHEET_PUBLIC_URL": self.url,
                "CALLSHEET_SANDBOX_URL": sandbox_url,
                **self._more,
            },
            known_providers=providers.names(),
        )
        thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        thread.start()
        assert self._ready.wait(30)
        try:
            yield self
        finally:
            self._server.should_exit = True
            thread.join(30)
            self._loop.close()

    async def _serve(self) -> None:
        self.service = await build(self.settings)
        app = create_web(self.service.context)
        self.door = Door(self._limits)
        http = protocol(self.door, self._limits, self.url)
        self._server = uvicorn.Server(
            uvicorn.Config(app, http=http, ws="none", log_level="error", access_log=False, lifespan="off")
        )
        self._socket.listen()  # what is called before the server is up waits in the backlog
        self._ready.set()
        await self._server.serve(sockets=[self._socket])
        await self.service.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)
