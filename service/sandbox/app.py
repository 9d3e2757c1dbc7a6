"""Composes the sandbox: every provider below its name, and the control calls."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Mount

from service.sandbox.aimlapi import AIMLAPI
from service.sandbox.control import Control
from service.sandbox.fal import Fal
from service.sandbox.jobs import Target
from service.sandbox.peakmv import PeakMV
from service.sandbox.pixverse import PixVerse
from service.sandbox.progressiverobot import ProgressiveRobot
from service.sandbox.provider import Provider
from service.sandbox.replicate import Replicate
from service.sandbox.server import serve

PROVIDERS: tuple[type[Provider], ...] = (PeakMV, PixVerse, ProgressiveRobot, AIMLAPI, Replicate, Fal)
WEBHOOK_ID = "sandbox"
SECRET = "sandbox-callback-secret"  # noqa: S105 - public on purpose: it protects nothing but the sandbox


def create_app(*, service_url: str | None = None, base_url: str | None = None, seed: int = 0) -> Starlette:
    """The sandbox as an app.

    With `service_url` the service's callback URL is registered at PixVerse as `sandbox`. `base_url` is what replies
    point to, if not the origin of the request. Must be served by `service.sandbox.server`, which can close
    connections without an answer.
    """
    providers = {kind.name: kind(now=time.time, seed=seed, base_url=base_url) for kind in PROVIDERS}
    if service_url is not None:
        url = f"{service_url.rstrip('/')}/v1/callbacks/pixverse"
        providers["pixverse"].targets[WEBHOOK_ID] = Target(url=url, secret=SECRET)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        for provider in providers.values():
            await provider.callbacks.open()
        yield
        for provider in providers.values():
            await provider.callbacks.close()

    mounts = [Mount(f"/{name}", routes=provider.routes()) for name, provider in providers.items()]
    return Starlette(routes=[*mounts, *Control(providers).routes()], lifespan=lifespan)


def run(
    *,
    host: str = "127.0.0.1",
    port: int = 8090,
    service_url: str | None = None,
    ssl_certfile: str | None = None,
    ssl_keyfile: str | None = None,
    seed: int = 0,
) -> None:
    """Serve the sandbox until a signal."""
    app = create_app(service_url=service_url, seed=seed)
    serve(app, name="sandbox", host=host, port=port, ssl_certfile=ssl_certfile, ssl_keyfile=ssl_keyfile)
