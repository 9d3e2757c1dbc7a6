"""Deliveries per second: the service's whole way (claim, sign, send, record, synchronous=FULL) against the bare client.

The bare loop posts the same bytes with the same client library, without signature, store or guard.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time

import aiohttp
import uvloop

from service import providers
from service.app import build
from service.models import Announcement
from service.settings import load
from service.views import event_body
from service.web.context import Context

IN_FLIGHT = 64
ENDPOINTS = 8
DATA = {"id": "job_bench", "outputs": [{"url": "https://media.example.com/v.mp4"}], "pad": "x" * 700}


async def bare(port: int, count: int) -> float:
    """Posts per second of a loop of workers over one session."""
    body, left = event_body("job.succeeded", 0, DATA), count

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def worker(n: int) -> None:
            nonlocal left
            url = f"http://127.0.0.1:{port}/{n % ENDPOINTS}"
            while left > 0:
                left -= 1
                async with session.post(url, data=body) as response:
                    await response.read()

        began = time.perf_counter()
        await asyncio.gather(*(worker(n) for n in range(IN_FLIGHT)))
        return count / (time.perf_counter() - began)


async def ours(port: int, count: int) -> float:
    """Deliveries recorded per second, from published events to the last commit."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "CALLSHEET_DATABASE_URL": f"sqlite:///{folder}/bench.db",
            "CALLSHEET_PUBLIC_URL": "http://127.0.0.1:1",
            "CALLSHEET_DELIVERY_CONCURRENCY": str(IN_FLIGHT),
            "CALLSHEET_ENDPOINT_CONCURRENCY": str(IN_FLIGHT),
        }
        # As a node that only accepts would leave them: every delivery is found by the scan.
        service = await build(load(environment, known_providers=providers.names()), role="api")
        try:
            return await measured(service.context, port, count)
        finally:
            await service.close()


async def measured(context: Context, port: int, count: int) -> float:
    tenant = await context.accounts.tenant("default")
    for n in range(ENDPOINTS):
        await context.endpoints.create(tenant.num, {"url": f"http://127.0.0.1:{port}/{n}"})
    said = Announcement(type="job.succeeded", body=event_body("job.succeeded", 0, DATA), data=DATA)
    for _ in range(count // ENDPOINTS // 250):
        await asyncio.gather(*(context.store.publish(tenant.num, said, None) for _ in range(250)))
    made = (count // ENDPOINTS // 250) * 250 * ENDPOINTS
    began = time.perf_counter()
    await context.loops.tick(120)
    rate = made / (time.perf_counter() - began)
    left = await context.store.backlog()
    assert left["deliveries"]["count"] == 0, left
    return rate


async def main(rounds: int, count: int) -> None:
    command = [sys.executable, "-m", "tests.bench.sink", "1"]
    sink = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE, text=True)
    try:
        assert sink.stdout is not None
        port = int(await asyncio.to_thread(sink.stdout.readline))
        await bare(port, 2_000)
        for _ in range(rounds):
            base, own = await bare(port, count), await ours(port, count)
            print(
                f"deliveries  bare client {base:8,.0f}/s   service {own:8,.0f}/s   ratio {own / base:.2f}", flush=True
            )
    finally:
        sink.kill()
        sink.wait()


if __name__ == "__main__":
    os.sched_setaffinity(0, {0})
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, 20_000))
