"""Every operation of PeakMV and PixVerse over real sockets: from a client's input, files among it, to its result."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from service import providers
from service.sandbox.replies import FILES
from tests.providers.cases import example_call
from tests.web.sandboxed import QUICK, Sandboxed
from tests.web.served import Served

pytestmark = pytest.mark.anyio

I2V = {"prompt": "a cat", "model": "v5", "duration": 5, "quality": "540p"}
MEDIA = {"png": "image/png", "mp4": "video/mp4", "mp3": "audio/mpeg"}


@pytest.mark.parametrize("name", ["peakmv", "pixverse"])
async def test_every_operation_ends_with_an_output_of_its_kind_and_one_charge(sandboxed: Sandboxed, name: str) -> None:
    rows = providers.load(name).operations.values()
    given = {row.name: example_call(name, row.name)["input"] for row in rows}
    bodies = [{"provider": name, "operation": row.name, "input": given[row.name]} for row in rows]
    jobs = [await sandboxed.a_job(body) for body in bodies]
    charged = {row["operation"]: row["charged"] for row in await ledger_of(sandboxed, name, len(jobs))}
    for row, job in zip(rows, jobs, strict=True):
        done = await sandboxed.ended(job["id"])
        assert done["status"] == "succeeded", (row.name, done["error"])
        assert done["outputs"][0]["kind"] == row.output
        assert done["cost"]["amount"] == str(charged[row.name])
    assert len(await sandboxed.ledger(name)) == len(jobs)


async def ledger_of(sandboxed: Sandboxed, name: str, size: int) -> list[dict[str, Any]]:
    await sandboxed.ok("POST", "/internal/tick", json={"budget_seconds": 30})
    rows = await sandboxed.ledger(name)
    assert len(rows) == size
    return rows


async def uploaded(sandboxed: Sandboxed, kind: str) -> str:
    content = FILES[kind].read_bytes()
    reply = await sandboxed.ok("POST", "/v1/files", files={"file": (f"a.{kind}", content, MEDIA[kind])})
    return str(reply["id"])


WITH_FILES = [
    ("image_to_video", {"img_id": "png", **I2V}),
    ("image_template", {"img_ids": ["png", "png"], "template_id": 5}),
    ("lip_sync", {"video_media_id": "mp4", "audio_media_id": "mp3"}),
    ("fusion", {
        "image_references": [{"type": "subject", "img_id": "png", "ref_name": "cat"}], **I2V, "aspect_ratio": "1:1",
    }),
    ("multi_transition", {
        "multi_transition": [{"img_id": "png", "duration": 5}, {"img_id": "png"}], "model": "v5", "quality": "540p",
    }),
]  # fmt: skip


def with_files(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: with_files(inner, ids) for name, inner in value.items()}
    if isinstance(value, list):
        return [with_files(inner, ids) for inner in value]
    return ids.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("drop", [0, 1], ids=["answered", "reply dropped"])
@pytest.mark.parametrize(("operation", "given"), WITH_FILES, ids=[operation for operation, _ in WITH_FILES])
async def test_files_are_uploaded_to_pixverse_before_the_one_charge(
    sandboxed: Sandboxed, operation: str, given: Any, drop: int
) -> None:
    await sandboxed.control("PUT", "pixverse", "account", known_uploads_only=True)
    await sandboxed.control("PUT", "pixverse", "faults", **QUICK, drop_reply_after_accept=drop)
    ids = {kind: await uploaded(sandboxed, kind) for kind in MEDIA}
    body = {"provider": "pixverse", "operation": operation, "input": with_files(given, ids)}
    done = await sandboxed.ended((await sandboxed.a_job(body))["id"])
    assert done["status"] == "succeeded", done["error"]
    (charged,) = await sandboxed.ledger("pixverse")
    assert "file_" not in str(charged["input"])
    dropped = (await sandboxed.control("GET", "pixverse", "faults"))["happened"]["drop_reply_after_accept"]
    assert dropped == drop


async def test_wrong_kind_of_file_is_refused_by_its_field_before_anything_is_sent(sandboxed: Sandboxed) -> None:
    song = await uploaded(sandboxed, "mp3")
    body = {"provider": "pixverse", "operation": "image_to_video", "input": {**I2V, "img_id": song}}
    said = await sandboxed("POST", "/v1/jobs", json=body)
    assert said.status_code == 422 and said.json()["param"] == "input.img_id"
    assert await sandboxed.ledger("pixverse") == []


def test_peakmv_fetches_a_song_of_ours_by_its_url(tmp_path: Path, sandbox_url: str) -> None:
    with Served(tmp_path).running(sandbox_url) as served, httpx2.Client(base_url=sandbox_url) as sandbox:
        sandbox.post("/_sandbox/peakmv/reset", json={})
        assert sandbox.put("/_sandbox/peakmv/account", json={"fetch_inputs": True}).status_code == 200
        http = httpx2.Client(
            base_url=served.url, headers={"Authorization": f"Bearer {served.settings.api_key.reveal()}"}
        )
        song = http.post("/v1/files", files={"file": ("a.mp3", FILES["mp3"].read_bytes(), "audio/mpeg")}).json()
        body = {"provider": "peakmv", "operation": "generate", "input": {"audio_url": song["id"]}}
        job = http.post("/v1/jobs", json=body).json()
        http.post("/internal/tick", json={"budget_seconds": 30}, timeout=60)
        found = http.get(f"/v1/jobs/{job['id']}").json()
        assert found["status"] == "processing", found
        (charged,) = sandbox.get("/_sandbox/peakmv/ledger").json()["data"]
        assert charged["input"]["audio_url"].startswith(f"{served.url}/v1/files/")
        http.close()
