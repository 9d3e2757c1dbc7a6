"""A refused key pauses its credential, unless the credential has another key by then."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.test_pipeline import receiving
from tests.web.conftest import PEAKMV, Client
from tests.web.sandboxed import running

pytestmark = pytest.mark.anyio
PATH = "/v1/providers/peakmv/credentials"


@pytest.mark.parametrize("changed", [False, True])
async def test_a_refusal_of_the_key_that_was_replaced_meanwhile_pauses_nothing(changed: bool, tmp_path: Path) -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def answer(path: str) -> bytes:
        asked.set()
        await answered.wait()
        body = json.dumps({"error": "Invalid or inactive API Key"}).encode()
        head = b"HTTP/1.1 401 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        return head + body

    async with receiving(answer) as (_, url), running(tmp_path, CALLSHEET_PEAKMV_BASE_URL=url) as service:
        call = Client(service)
        await call.ok("PUT", PATH, json={"api_key": "the-first-key"})
        job = await call.a_job(PEAKMV)
        service.context.loops.start()
        await asyncio.wait_for(asked.wait(), 30)
        if changed:
            await call.ok("PUT", PATH, json={"api_key": "the-second-key"})
        answered.set()
        over = await call.ok("GET", f"/v1/jobs/{job['id']}", headers={"prefer": "wait=30"})
        assert (over["status"], over["error"]["code"]) == ("failed", "authentication")
        await asyncio.sleep(0.3)
        async with asyncio.timeout(30):
            while not changed and (await call.ok("GET", PATH))["paused_at"] is None:  # noqa: ASYNC110 - it comes after the end
                await asyncio.sleep(0.05)
        assert ((await call.ok("GET", PATH))["paused_at"] is None) == changed
        await call.http.aclose()
