"""A service in process whose providers are a sandbox in a process of its own: real sockets between them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from service import providers
from service.app import Service, build
from service.clock import Clock
from service.settings import load
from tests.web.conftest import Client, environment

QUICK = {"duration_s": [0.02, 0.05]}


@asynccontextmanager
async def running(tmp_path: Path, clock: Clock | None = None, **settings: str) -> AsyncIterator[Service]:
    """A service on the database in `tmp_path`; its loops run when it is ticked."""
    given = load(environment(tmp_path, **settings), known_providers=providers.names())
    service = await build(given, role="api", clock=clock)
    try:
        yield service
    finally:
        await service.close()


@asynccontextmanager
async def calling(
    tmp_path: Path,
    sandbox_url: str,
    names: Sequence[str] = ("pixverse", "peakmv"),
    clock: Clock | None = None,
    **settings: str,
) -> AsyncIterator["Sandboxed"]:
    """Such a service beside that sandbox, which has forgotten these providers' jobs and does new ones at once."""
    more = {"CALLSHEET_SANDBOX_URL": sandbox_url, **settings}
    async with running(tmp_path, clock, **more) as service, httpx2.AsyncClient(base_url=sandbox_url) as sandbox:
        call = Sandboxed(service, sandbox)
        for provider in names:
            await call.control("POST", provider, "reset")
            await call.control("PUT", provider, "faults", **QUICK)
        try:
            yield call
        finally:
            await call.http.aclose()


class Sandboxed(Client):
    """A client of the service that also holds the sandbox's strings."""

    def __init__(self, service: Service, sandbox: httpx2.AsyncClient):
        super().__init__(service)
        self.service, self._sandbox = service, sandbox

    async def control(self, method: str, provider: str, what: str, **body: Any) -> Any:
        reply = await self._sandbox.request(method, f"/_sandbox/{provider}/{what}", json=body or {})
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def ledger(self, provider: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = (await self._sandbox.get(f"/_sandbox/{provider}/ledger")).json()["data"]
        return rows

    async def ended(self, job_id: str) -> dict[str, Any]:
        """The job, once ticks have brought it to its end."""
        async with asyncio.timeout(30):
            while True:
                await self.ok("POST", "/internal/tick", json={"budget_seconds": 30})
                job: dict[str, Any] = await self.ok("GET", f"/v1/jobs/{job_id}")
                if job["status"] in ("succeeded", "failed", "canceled", "unknown"):
                    return job
                await asyncio.sleep(0.1)  # the next read is not due yet
