"""The database goes away in the middle of a submit, before anything that charges, and is back at once.

The job goes on then, not only when its lease ends, and is charged once. Every node says of an outage when it begins, at
most every 30 s that it lasts, and when it is over; and nothing else, however often it asks meanwhile.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service import providers
from service.app import Service, build
from service.conversation import LEASE_MS
from service.crypto import generate_master_key
from service.settings import load
from service.web.server import create_web
from tests.stores import server
from tests.stores.line import Line, Passes
from tests.web.served import ADMIN, sandbox_running

pytestmark = pytest.mark.anyio

KEYS = generate_master_key()
I2V = {"model": "v5", "duration": 5, "quality": "540p", "motion_mode": "normal"}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(1_000)
AWAY_S = 0.3
LONG_S = 6.0  # more than a node that has nothing to do lets pass between two looks at the database


class Outage(Line):
    """When a statement passes for the nth time, every connection ends, and no other one is taken for a while."""

    def __init__(self, url: str, statement: bytes = b"a statement that nobody makes", nth: int = 1):
        super().__init__(url)
        self._statement, self._left = statement, nth
        self._back_at = 0.0
        self.outages = self.refused = 0

    def passing(self) -> tuple[Passes, Passes]:
        return self._passes, self._passes

    def _passes(self, data: bytes) -> bool:
        if self._statement in data:
            self._left -= 1
            if not self._left:
                self.begin(AWAY_S)
                return False
        return True

    def begin(self, seconds: float) -> None:
        self.outages += 1
        self._back_at = asyncio.get_running_loop().time() + seconds
        self.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if asyncio.get_running_loop().time() < self._back_at:
            self.refused += 1
            writer.transport.abort()
        else:
            await super()._serve(reader, writer)


async def made(url: str, sandbox: str, role: str) -> Service:
    environment = {
        "CALLSHEET_DATABASE_URL": url,
        "CALLSHEET_DATABASE_STATEMENT_CACHE": "0",  # each statement's text passes each time
        "CALLSHEET_API_KEY": ADMIN,
        "CALLSHEET_MASTER_KEYS": KEYS,
        "CALLSHEET_PUBLIC_URL": "http://127.0.0.1:1",
        "CALLSHEET_SANDBOX_URL": sandbox,
    }
    return await build(load(environment, known_providers=providers.names()), role=role)


@contextlib.asynccontextmanager
async def api(url: str, sandbox: str) -> AsyncIterator[httpx2.AsyncClient]:
    service = await made(url, sandbox, "api")
    transport, headers = httpx2.ASGITransport(create_web(service.context)), {"authorization": f"Bearer {ADMIN}"}
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://callsheet.test", headers=headers) as client:
            yield client
    finally:
        await service.close()


@contextlib.asynccontextmanager
async def worker(url: str, sandbox: str) -> AsyncIterator[None]:
    service = await made(url, sandbox, "worker")
    service.context.loops.start()
    try:
        yield
    finally:
        await service.close()


async def submitted(client: httpx2.AsyncClient) -> dict[str, Any]:
    """A job whose image is a file of ours, which PixVerse is sent before the POST that charges."""
    uploaded = await client.post("/v1/files", files={"file": ("cat.png", PNG, "image/png")})
    assert uploaded.status_code == 201, uploaded.text
    given = {**I2V, "prompt": "a cat, once", "img_id": uploaded.json()["id"]}
    answer = await client.post("/v1/jobs", json={"provider": "pixverse", "operation": "image_to_video", "input": given})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


async def ended(client: httpx2.AsyncClient, job: dict[str, Any]) -> dict[str, Any]:
    while True:
        shown: dict[str, Any] = (await client.get(f"/v1/jobs/{job['id']}")).json()
        if shown["status"] in ("succeeded", "failed", "canceled", "unknown"):
            return shown
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("statement", "nth"),
    [(b" FROM files WHERE id", 1), (b" FROM files WHERE id", 2), (b"SELECT data FROM file_chunks", 1)],
    ids=["as its input is read", "as the upload begins", "in the middle of the upload"],
)
async def test_a_submit_goes_on_when_the_database_is_back(tmp_path: Path, statement: bytes, nth: int) -> None:
    direct = await server.database(tmp_path)
    outage = Outage(direct, statement, nth)
    with sandbox_running("http://127.0.0.1:1") as sandbox:
        async with outage.running() as way, api(direct, sandbox) as client:
            job = await submitted(client)
            async with worker(way, sandbox):
                async with asyncio.timeout(LEASE_MS / 1000 / 2):
                    shown = await ended(client, job)
            ledger = httpx2.get(f"{sandbox}/_sandbox/pixverse/ledger").json()["data"]
    assert (outage.outages, shown["status"]) == (1, "succeeded") and outage.refused
    assert [row["input"]["prompt"] for row in ledger] == ["a cat, once"]


@pytest.mark.parametrize("role", ["api", "worker"])
async def test_a_node_says_when_the_database_is_away_and_when_it_is_back(
    role: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    direct = await server.database(tmp_path)
    outage = Outage(direct)
    async with outage.running() as way:
        service = await made(way, "http://127.0.0.1:1", role)
        try:
            if role == "worker":
                service.context.loops.start()
            await asyncio.sleep(0.5)
            with caplog.at_level(logging.INFO, "callsheet"):
                outage.begin(LONG_S)
                async with asyncio.timeout(LONG_S + 20):
                    while "again" not in caplog.text:  # noqa: ASYNC110 - a log has no event
                        await asyncio.sleep(0.1)
        finally:
            await service.close()
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert outage.refused and len(said) == 2, said
    assert "the database cannot be used now" in said[0]
    lasted = re.search(r"can be used again, after ([0-9.]+) s", said[1])
    assert lasted is not None and float(lasted[1]) < LONG_S + 10
