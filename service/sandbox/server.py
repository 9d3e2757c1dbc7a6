"""Runs an app of the sandbox on a socket, such that a reply can be a closed connection."""

from socket import socket

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

IDLE_CONNECTION_S = 75
GRACE_S = 1  # a fault may hold requests open for ever, so a stop does not wait for them


class ClosableProtocol(HttpToolsProtocol):
    """Gives each request its connection, as `scope["state"]["transport"]`."""

    def on_message_begin(self) -> None:
        """Add the connection to a new request."""
        super().on_message_begin()
        self.scope["state"]["transport"] = self.transport


class AnnouncingServer(uvicorn.Server):
    """Prints one line once it accepts connections, so that a starter learns the port."""

    def __init__(self, config: uvicorn.Config, *, name: str) -> None:
        super().__init__(config)
        self.name = name

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen, then say where."""
        await super().startup(sockets=sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            scheme = "https" if self.config.is_ssl else "http"
            print(f"{self.name} listening on {scheme}://{self.config.host}:{port}", flush=True)


def serve(
    app: ASGIApp, *, name: str, host: str, port: int, ssl_certfile: str | None = None, ssl_keyfile: str | None = None
) -> None:
    """Serve until a signal; port 0 takes a free one."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=ClosableProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        timeout_keep_alive=IDLE_CONNECTION_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    try:
        AnnouncingServer(config, name=name).run()
    except KeyboardInterrupt:
        return
