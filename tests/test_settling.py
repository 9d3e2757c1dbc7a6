"""A submit whose reply was lost, the provider's or ours, where its file is gone by the time it is asked for again."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.sandbox.replies import FILES
from tests.web.sandboxed import QUICK, Sandboxed, calling

pytestmark = pytest.mark.anyio


@pytest.fixture
async def call(tmp_path: Path, sandbox_url: str) -> AsyncIterator[Sandboxed]:
    async with calling(tmp_path, sandbox_url, names=("aimlapi", "pixverse")) as made:
        yield made


PAINTED = {
    "aimlapi": ("video", {"model": "pixverse/v5/image-to-video", "prompt": "a cat"}, "image_url"),
    "pixverse": (
        "image_to_video", {"prompt": "a cat", "model": "v5", "duration": 5, "quality": "540p"}, "img_id",
    ),
}  # fmt: skip


@pytest.mark.parametrize("provider", sorted(PAINTED))
async def test_lost_submit_is_settled_though_its_file_is_gone(call: Sandboxed, provider: str) -> None:
    operation, given, field = PAINTED[provider]
    await call.control("PUT", provider, "faults", **QUICK, drop_reply_after_accept=1)
    picture = {"file": ("a.png", FILES["png"].read_bytes(), "image/png")}
    file = (await call.ok("POST", "/v1/files", files=picture))["id"]
    body = {"provider": provider, "operation": operation, "input": {**given, field: file}}
    job = await call.a_job(body)
    await call.ok("POST", "/internal/tick", json={"budget_seconds": 20})
    lost: dict[str, Any] = await call.ok("GET", f"/v1/jobs/{job['id']}")
    assert lost["status"] == "submitting", "the reply was not dropped"
    await call.ok("DELETE", f"/v1/files/{file}")
    done = await call.ended(job["id"])
    assert done["status"] == "succeeded", done
    assert len(await call.ledger(provider)) == 1


async def test_the_same_request_again_is_the_same_job_though_its_file_is_gone(call: Sandboxed) -> None:
    operation, given, field = PAINTED["pixverse"]
    picture = {"file": ("a.png", FILES["png"].read_bytes(), "image/png")}
    file = (await call.ok("POST", "/v1/files", files=picture))["id"]
    body = {"provider": "pixverse", "operation": operation, "input": {**given, field: file}}
    key = {"headers": {"idempotency-key": "once"}}
    job = await call.a_job(body, **key)
    await call.ok("DELETE", f"/v1/files/{file}")
    again = await call("POST", "/v1/jobs", json=body, **key)
    assert (again.status_code, again.json()["id"]) == (202, job["id"])
    assert again.headers["idempotent-replayed"] == "true"
    other = await call("POST", "/v1/jobs", json=body, headers={"idempotency-key": "another"})
    assert other.status_code == 422
