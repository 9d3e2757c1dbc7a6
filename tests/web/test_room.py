"""Large bodies in memory: those that come and those that go, counted until they are sent."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service import providers
from service.app import build
from service.errors import TooMany
from service.settings import load
from service.web.replies import PIECE_BYTES, Reply, send_reply
from service.web.room import Room
from service.web.server import create_web
from tests.web.conftest import ADMIN, environment

pytestmark = pytest.mark.anyio

MB = 1024 * 1024


async def test_no_tenant_takes_more_than_half_and_all_together_no_more_than_there_is() -> None:
    room = Room(8 * MB)
    with room.held(1) as one, room.held(1) as other, room.held(2) as theirs, room.held(3) as third:
        one.grow(MB)  # small: not counted
        one.grow(3 * MB)
        one.grow(2 * MB)  # it holds the larger one still
        with pytest.raises(TooMany) as refused:
            other.grow(2 * MB)
        assert refused.value.retry_after
        theirs.grow(4 * MB)
        third.grow(MB)
        with pytest.raises(TooMany):
            third.grow(3 * MB)
    assert not room._taken
    with room.held(1) as again:
        again.grow(4 * MB)


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    service = await build(load(environment(tmp_path), known_providers=providers.names()), role="api")
    app = create_web(service.context, room=Room(8 * MB))
    headers = {"authorization": f"Bearer {ADMIN}", "content-type": "application/json"}
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://callsheet.test", headers=headers
    ) as client:
        yield client
    await service.close()


def a_submit(size: int) -> bytes:
    given = {"model": "kling-video/v1/standard/image-to-video", "prompt": "x", "image_url": "data:image/png;base64,"}
    given["image_url"] += "A" * size
    return json.dumps({"provider": "aimlapi", "operation": "video", "input": given}).encode()


async def test_jobs_with_large_bodies_wait_for_each_other(http: Any) -> None:
    body, come = a_submit(3 * MB), asyncio.Event()
    half = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield body[: 2 * MB]
        half.set()
        await come.wait()
        yield body[2 * MB :]

    first = asyncio.create_task(http.post("/v1/jobs", content=slowly()))
    await half.wait()
    refused = await http.post("/v1/jobs", content=body)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many") and refused.headers["retry-after"]
    small = await http.post("/v1/jobs", content=a_submit(1000))
    assert small.status_code == 202, small.text
    come.set()
    made = await first
    assert made.status_code == 202, made.text[:500]
    assert (await http.post("/v1/jobs", content=body)).status_code == 202
    read = await http.get(f"/v1/jobs/{made.json()['id']}")
    assert read.status_code == 200 and len(read.content) == int(read.headers["content-length"]) > 3 * MB


async def test_a_large_reply_goes_out_piece_by_piece() -> None:
    """So that a client that takes nothing is cut like that of any stream."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    body = bytes(range(256)) * 4096
    await send_reply(Reply(status=200, body=body), {"type": "http", "method": "GET"}, asyncio.Event().wait, send)  # type: ignore[arg-type]
    pieces = [message.get("body", b"") for message in sent[1:]]
    assert b"".join(pieces) == body and max(map(len, pieces)) <= PIECE_BYTES < len(body)
    assert (b"content-length", b"%d" % len(body)) in sent[0]["headers"]
