"""The whole service on PostgreSQL, its loops running: one node, and two that share the work."""

import asyncio
import collections
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service import providers
from service.app import Service, build
from service.clock import Clock
from service.crypto import generate_master_key
from service.settings import load
from service.web.server import create_web
from tests.stores import server
from tests.test_pipeline import receiving, status
from tests.web.served import ADMIN, sandbox_running

pytestmark = pytest.mark.anyio

INPUT = {"model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"}
KEYS = generate_master_key()


@contextlib.asynccontextmanager
async def node(
    url: str, sandbox: str, *, clock: Clock | None = None, role: str = "all", **more: str
) -> AsyncIterator[tuple[Service, httpx2.AsyncClient]]:
    """A node of that database and a client of it. Where its role is `api` its loops run when it is ticked."""
    environment = {
        "CALLSHEET_DATABASE_URL": url,
        "CALLSHEET_API_KEY": ADMIN,
        "CALLSHEET_MASTER_KEYS": KEYS,
        "CALLSHEET_PUBLIC_URL": "http://127.0.0.1:1",
        "CALLSHEET_SANDBOX_URL": sandbox,
        **more,
    }
    service = await build(load(environment, known_providers=providers.names()), role=role, clock=clock)
    if role != "api":
        service.context.loops.start()
    transport = httpx2.ASGITransport(create_web(service.context))
    client = httpx2.AsyncClient(
        transport=transport, base_url="http://callsheet.test", headers={"authorization": f"Bearer {ADMIN}"}
    )
    try:
        yield service, client
    finally:
        await client.aclose()
        await service.close()


async def submit(client: httpx2.AsyncClient, prompt: str, *, key: str | None = None, **more: Any) -> dict[str, Any]:
    body = {"provider": "pixverse", "operation": "text_to_video", "input": {**INPUT, "prompt": prompt}, **more}
    answer = await client.post("/v1/jobs", json=body, headers={"idempotency-key": key} if key is not None else None)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


async def until(count: int, requests: list[Any]) -> None:
    async with asyncio.timeout(45):
        while len(requests) < count:  # noqa: ASYNC110 - a list of what came says nothing by itself
            await asyncio.sleep(0.05)


async def taken(path: str) -> bytes:
    return status(200)


@pytest.mark.parametrize("way", ["direct", "pooled"])
async def test_a_job_is_submitted_and_its_event_delivered(tmp_path: Path, way: str) -> None:
    """Also behind a pooler of transactions, as the README says to do that."""
    with sandbox_running("http://127.0.0.1:1") as sandbox:
        url = await server.database(tmp_path)
        if way == "pooled":
            url = await server.pooled.database(tmp_path, "statement_cache=0&notify=off")
        async with receiving(taken) as (receiver, target), node(url, sandbox) as (_, client):
            endpoint = {"url": f"{target}/in", "event_types": ["job.succeeded"]}
            assert (await client.post("/v1/endpoints", json=endpoint)).status_code == 201
            job = await submit(client, "a cat")
            await until(1, receiver.requests)
            shown = (await client.get(f"/v1/jobs/{job['id']}")).json()
            assert shown["status"] == "succeeded" and shown["outputs"]
            assert (await client.get("/ready")).status_code == 200
            async with asyncio.timeout(20):
                while True:
                    deliveries = (await client.get("/v1/deliveries")).json()["data"]
                    if [delivery["status"] for delivery in deliveries] == ["delivered"]:
                        break
            timeline = (await client.get(f"/v1/jobs/{job['id']}/timeline")).json()["data"]
            assert {"accepted", "submit", "event", "delivery", "attempt"} <= {entry["kind"] for entry in timeline}


async def test_two_nodes_share_the_work_and_submit_nothing_twice(tmp_path: Path) -> None:
    with sandbox_running("http://127.0.0.1:1") as sandbox:
        url, many = await server.database(tmp_path), 60
        async with receiving(taken) as (receiver, target), node(url, sandbox) as (_, ours), node(url, sandbox) as two:
            endpoint = {"url": f"{target}/in", "event_types": ["job.succeeded"]}
            assert (await ours.post("/v1/endpoints", json=endpoint)).status_code == 201
            nonces = [uuid.uuid4().hex for _ in range(many)]
            clients = (ours, two[1])
            jobs = await asyncio.gather(*(submit(clients[n % 2], nonce) for n, nonce in enumerate(nonces)))
            await until(many, receiver.requests)
            ledger = httpx2.get(f"{sandbox}/_sandbox/pixverse/ledger").json()["data"]
            charged = collections.Counter(row["input"]["prompt"] for row in ledger)
            assert charged == dict.fromkeys(nonces, 1)
            sent = [headers["webhook-id"] for _, headers, _ in receiver.requests]
            assert len(set(sent)) == many == len(sent)
            seen = (await two[1].get("/v1/jobs?limit=100&status=succeeded")).json()["data"]
            assert {job["id"] for job in seen} == {job["id"] for job in jobs}
