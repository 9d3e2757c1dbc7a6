"""Uploads before a submit may take longer than one lease: it is renewed, and what was lost of it is not sent."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.app import Service
from service.clock import SystemClock
from service.sandbox.replies import FILES
from tests.test_pipeline import Receiver, receiving
from tests.web.conftest import Client
from tests.web.sandboxed import running

pytestmark = pytest.mark.anyio
INPUT = {"model": "v5", "prompt": "a cat", "duration": 5, "quality": "540p"}
UPLOAD_TOOK_S = 40.0


class Ahead(SystemClock):
    """The system's clock, set ahead as if time had passed."""

    by_s = 0.0

    def now(self) -> int:
        return super().now() + int(self.by_s * 1000)

    def monotonic(self) -> float:
        return super().monotonic() + self.by_s


def said(resp: dict[str, Any]) -> bytes:
    body = json.dumps({"ErrCode": 0, "ErrMsg": "success", "Resp": resp}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@asynccontextmanager
async def submitting(
    folder: Path, clock: Ahead, meanwhile: Callable[[Service], Any]
) -> AsyncIterator[tuple[Service, Receiver, dict[str, Any]]]:
    """A job with two pictures, each of which takes PixVerse 40 seconds; `meanwhile` is told of each upload."""
    running_service: list[Service] = []

    async def answer(path: str) -> bytes:
        if path.endswith("/image/upload"):
            clock.by_s += UPLOAD_TOOK_S
            await meanwhile(running_service[0])
            return said({"img_id": 7})
        return said({"video_id": 4711}) if path.endswith("/generate") else said({"status": 5})

    async with receiving(answer) as (receiver, url):
        more = {"CALLSHEET_PIXVERSE_API_KEY": "k", "CALLSHEET_PIXVERSE_BASE_URL": url}
        async with running(folder, clock, **more) as service:
            running_service.append(service)
            call = Client(service)
            pictures = [FILES["png"].read_bytes(), FILES["png"].read_bytes()]
            files = [
                await call.ok("POST", "/v1/files", files={"file": ("a.png", one, "image/png")}) for one in pictures
            ]
            given = {**INPUT, "first_frame_img": files[0]["id"], "last_frame_img": files[1]["id"]}
            job = await call.a_job({"provider": "pixverse", "operation": "transition", "input": given})
            service.context.loops.start()
            yield service, receiver, job
            await call.http.aclose()


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(40):
        while not await true():  # noqa: ASYNC110 - what is waited for is on the other side of a socket
            await asyncio.sleep(0.05)


async def test_slow_uploads_are_followed_by_the_one_submit(tmp_path: Path) -> None:
    async def nothing(_: Service) -> None:
        pass

    async with submitting(tmp_path, Ahead(), nothing) as (service, receiver, job):

        async def accepted() -> bool:
            found = await service.context.store.job_by_id(job["id"])
            return found is not None and found.status == "processing"

        await until(accepted)
        uploads = [path for path in receiver.arrivals.elements() if path.endswith("/upload")]
        submits = [path for path in receiver.arrivals.elements() if path.endswith("/generate")]
        assert (len(uploads), len(submits)) == (2, 1)


async def test_nothing_is_sent_once_the_job_was_canceled_meanwhile(tmp_path: Path) -> None:
    async def cancel(service: Service) -> None:
        call = Client(service)
        (job,) = (await call.ok("GET", "/v1/jobs"))["data"]
        if job["status"] == "queued":
            await call.ok("POST", f"/v1/jobs/{job['id']}/cancel")
        await call.http.aclose()

    async with submitting(tmp_path, Ahead(), cancel) as (service, receiver, job):

        async def over() -> bool:
            found = await service.context.store.job_by_id(job["id"])
            return found is not None and found.terminal and not len(service.context.loops._stages[0].flying)

        await until(over)
        assert [path for path in receiver.arrivals.elements() if path.endswith("/generate")] == []
