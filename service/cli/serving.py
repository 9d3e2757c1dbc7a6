"""One process of the service on a socket: build, listen, run the loops, stop in time."""

import asyncio
import contextlib
import gc
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
import uvloop
from starlette.applications import Starlette

from service.app import Service, build
from service.cli.logs import configure_logging
from service.cli.saying import facts, restored
from service.cli.stopping import CUT_S, StoppingServer
from service.errors import CallsheetError, LockHeld
from service.settings import Settings
from service.web.connection import protocol
from service.web.door import Door, Limits
from service.web.server import create_web

IDLE_CONNECTION_S = 5
CONNECTIONS = 4_000  # open at once; past it those that ask nothing are ended, and then the answer is 503
FILES = 65_536  # descriptors: connections in and out, where the system's own limit is lower
BACKLOG = 2_048
# Requests make few cycles: collect rarely, and never look again at what the start made.
GC_THRESHOLDS = (50_000, 50, 100)


class CannotServe(CallsheetError):
    """The address, the certificate or the role cannot be used."""


def run_serve(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    role: str = "all",
    ssl_certfile: str | None = None,
    ssl_keyfile: str | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Prints `callsheet listening on URL` once requests are taken.

    Raises `CallsheetError` where it cannot start.
    """
    if role == "worker" and settings.database_path is not None:
        raise CannotServe("SQLite runs its loops in one process: use --role all, or PostgreSQL for workers")
    _check_certificate(ssl_certfile, ssl_keyfile)
    configure_logging(settings)
    limits = _limits(settings, _raise_file_limit())
    listener = _listen(host, port)
    scheme = "https" if ssl_certfile else "http"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(_serve(settings, limits, role, listener, url, ssl_certfile, ssl_keyfile))


class Loop(uvloop.Loop):
    """A TLS handshake is given as long as a head: nothing of ours sees the connection before it is done."""

    async def create_server(self, *given: Any, ssl: Any = None, **more: Any) -> Any:
        if ssl is not None:
            more["ssl_handshake_timeout"] = Limits().head_s
        return await super().create_server(*given, ssl=ssl, **more)


def _limits(settings: Settings, files: int) -> Limits:
    most = min(CONNECTIONS, files // 2)  # the other half is for what we connect to
    return Limits(connections=most, per_peer=settings.peer_connections, proxies=settings.trusted_proxies)


async def _serve(
    settings: Settings,
    limits: Limits,
    role: str,
    listener: socket.socket,
    url: str,
    ssl_certfile: str | None,
    ssl_keyfile: str | None,
) -> None:
    try:
        service = await build(settings, role=role)
    except LockHeld as held:
        raise CannotServe(f"{held}: stop that one, or give this one another CALLSHEET_DATABASE_URL") from None
    config = uvicorn.Config(
        _web(service, role),
        http=protocol(Door(limits), limits, settings.public_url),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # what a proxy says of a request decides nothing here
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_CONNECTION_S,
        timeout_graceful_shutdown=CUT_S,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
    )
    said = [f"callsheet listening on {url}", *await facts(service.context, url, alone=role == "all")]
    if service.restored is not None:
        said += restored(service.restored)
    await StoppingServer(config, said, service.leave, settings.stop_delay).serve(sockets=[listener])


def _web(service: Service, role: str) -> Starlette:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if role != "api":
            service.context.loops.start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        try:
            yield
        finally:
            await service.close()

    return create_web(service.context, lifespan=lifespan)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise CannotServe(f"{host} port {port} cannot be listened on ({error.strerror}): give another --port") from None


def _check_certificate(certfile: str | None, keyfile: str | None) -> None:
    if certfile is None:
        if keyfile is not None:
            raise CannotServe("--ssl-keyfile is given without --ssl-certfile")
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certfile, keyfile)
    except OSError as error:  # ssl.SSLError is one
        raise CannotServe(f"--ssl-certfile and --ssl-keyfile cannot be used: {error}") from None


def _raise_file_limit() -> int:
    """How many descriptors there are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a sandboxed process keeps what it has
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return soft
