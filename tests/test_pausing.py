"""A refused key pauses its credential, unless the credential has another key, or was resumed, by then."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.test_pipeline import receiving, serving
from tests.web.conftest import ADMIN, PEAKMV, Client

pytestmark = pytest.mark.anyio
PATH = "/v1/providers/peakmv/credentials"


def reply(status: int, **said: object) -> bytes:
    body = json.dumps(said).encode()
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    return head + body


@pytest.mark.parametrize("since", ["nothing", "another key", "a resume"])
async def test_a_refusal_from_before_a_change_pauses_nothing(since: str, tmp_path: Path) -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def answer(path: str) -> bytes:
        if asked.is_set() and path.endswith("/generate"):
            return reply(200, success=True, job_id="j1", cost_credits=1)
        asked.set()
        await answered.wait()
        return reply(401, error="Invalid or inactive API Key")

    given = {"CALLSHEET_API_KEY": ADMIN}
    async with receiving(answer) as (_, url), serving(tmp_path, **given, CALLSHEET_PEAKMV_BASE_URL=url) as service:
        call = Client(service)
        await call.ok("PUT", PATH, json={"api_key": "the-first-key"})
        job = await call.a_job(PEAKMV)
        await asyncio.wait_for(asked.wait(), 30)
        if since == "another key":
            await call.ok("PUT", PATH, json={"api_key": "the-second-key"})
        elif since == "a resume":
            await call.ok("POST", f"{PATH}/resume")
        answered.set()
        wanted = ("queued", "credential_paused: authentication") if since == "nothing" else ("processing", None)
        async with asyncio.timeout(30):
            while True:
                now = await call.ok("GET", f"/v1/jobs/{job['id']}")
                paused = (await call.ok("GET", PATH))["paused_at"] is not None
                if (now["status"], now["reason"], paused) == (*wanted, since == "nothing"):
                    break
                await asyncio.sleep(0.05)
        await call.http.aclose()
