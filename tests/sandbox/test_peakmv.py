"""PeakMV, against the literal samples of its page."""

import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Sandbox

Until = Callable[[Callable[[], Any]], Any]
SameShape = Callable[[Any, Any], bool]

SUBMITTED = {
    "success": True,
    "project_id": "a1b2",
    "job_id": "a1b2",
    "status_url": "u",
    "message": "m",
    "cost_credits": 18,
}
READY = {
    "id": "a1b2c3d4-...",
    "status": "ready",
    "video_url": "https://auth.peakmv.com/.../video.mp4",
    "created_at": "2026-02-21T12:00:00Z",
    "duration_seconds": 185,
    "clips_generated": 6,
}
PROJECT_READY = {**{name: READY[name] for name in READY if name != "clips_generated"}, "project_page_url": "u"}


def test_submit_answers_the_documented_fields_and_one_uuid(sandbox: Sandbox, same_shape: SameShape) -> None:
    reply = sandbox.generate()
    found = reply.json()
    assert reply.status_code == 200
    assert same_shape(found, SUBMITTED) and set(found) == set(SUBMITTED)
    assert found["job_id"] == found["project_id"] == str(uuid.UUID(found["job_id"]))
    assert found["status_url"] == f"{sandbox.url}/peakmv/api/v2/jobs/{found['job_id']}"


def test_job_moves_to_ready_with_a_playable_file(sandbox: Sandbox, until: Until, same_shape: SameShape) -> None:
    sandbox.faults("peakmv", duration_s=[1.5, 1.5])
    submitted = sandbox.generate(duration=185, lipsync=True).json()
    seen: list[str] = []

    def ready() -> dict[str, Any] | None:
        job: dict[str, Any] = sandbox.peakmv("GET", f"v2/jobs/{submitted['job_id']}").json()
        seen.append(job["status"])
        return job if job["status"] == "ready" else None

    job = until(ready)
    assert list(dict.fromkeys(seen)) == ["queued", "processing", "ready"]
    assert same_shape(job, READY) and job["lipsync_seconds_billed"] == 185 and job["duration_seconds"] == 185
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", job["created_at"])
    file = sandbox.http.get(job["video_url"])
    assert file.headers["content-type"] == "video/mp4" and file.content[4:8] == b"ftyp"
    part = sandbox.http.get(job["video_url"], headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_project_has_a_page_to_share(sandbox: Sandbox, until: Until, same_shape: SameShape, version: str) -> None:
    body = {"audio_url": "https://example.com/song.mp3"}
    submitted = sandbox.peakmv("POST", f"{version}/generate", json=body).json()
    assert f"/api/{version}/jobs/" in submitted["status_url"]
    path = f"{version}/projects/{submitted['project_id']}"
    project = until(lambda: (found := sandbox.peakmv("GET", path).json())["status"] == "ready" and found)
    assert same_shape(project, PROJECT_READY) and set(project) == set(PROJECT_READY)
    assert sandbox.http.get(project["project_page_url"]).status_code == 200


def test_classic_pipeline_shows_no_clips(sandbox: Sandbox, until: Until) -> None:
    job_id = sandbox.generate(version="v1").json()["job_id"]
    job = until(lambda: (found := sandbox.peakmv("GET", f"v2/jobs/{job_id}").json())["status"] == "ready" and found)
    assert "clips_generated" not in job


@pytest.mark.parametrize(
    "fields",
    [
        {"audio_url": ""},
        {"video_quality": "480p"},
        {"version": "v3"},
        {"version": "v1", "lipsync": True},
        {"version": "v1", "artist_face_image_url": "https://example.com/face.jpg"},
        {"duration": "long"},
        {"duration": 301},
    ],
)
def test_wrong_input_is_400_and_accepts_nothing(sandbox: Sandbox, fields: dict[str, Any]) -> None:
    reply = sandbox.generate(**fields)
    assert reply.status_code == 400 and set(reply.json()) == {"error"}
    assert sandbox.ledger("peakmv") == []


@pytest.mark.parametrize("body", [b"", b"[]", b"not json", b"{}"])
def test_missing_audio_url_has_the_documented_text(sandbox: Sandbox, body: bytes) -> None:
    reply = sandbox.peakmv("POST", "v2/generate", content=body)
    assert (reply.status_code, reply.json()) == (400, {"error": "audio_url is required"})


def test_v1_path_forbids_v2_fields(sandbox: Sandbox) -> None:
    body = {"audio_url": "https://example.com/song.mp3", "lipsync": True}
    assert sandbox.peakmv("POST", "v1/generate", json=body).status_code == 400


def test_wrong_key_is_401(sandbox: Sandbox) -> None:
    for method, path in (("POST", "v2/generate"), ("GET", "v2/jobs/x"), ("GET", "v1/projects/x")):
        reply = sandbox.peakmv(method, path, key="wrong")
        assert (reply.status_code, reply.json()) == (401, {"error": "Invalid or inactive API Key"})


def test_too_few_credits_is_402_with_the_figures(sandbox: Sandbox) -> None:
    sandbox.control("PUT", "peakmv/account", credits=5.5)
    reply = sandbox.generate(duration=180)
    assert (reply.status_code, reply.json()) == (
        402,
        {"error": "Insufficient credits", "required": 18, "available": 5.5},
    )
    assert sandbox.ledger("peakmv") == []


def test_unknown_project_is_404(sandbox: Sandbox) -> None:
    for path in ("v2/jobs/nope", "v1/projects/nope"):
        reply = sandbox.peakmv("GET", path)
        assert (reply.status_code, reply.json()) == (404, {"error": "Project not found"})


def test_full_account_is_429_with_seconds_to_wait(sandbox: Sandbox) -> None:
    sandbox.control("PUT", "peakmv/account", concurrency=1, retry_after_seconds=42)
    assert sandbox.generate().status_code == 200
    reply = sandbox.generate()
    assert (reply.status_code, reply.json()) == (429, {"error": "Rate limit exceeded", "retry_after_seconds": 42})


def test_every_submit_is_charged_and_in_the_ledger(sandbox: Sandbox) -> None:
    before = sandbox.control("GET", "peakmv/account")["credits"]
    body = b'{ "audio_url": "https://example.com/a.mp3", "big": 9007199254740993, "duration": 30 }'
    first = sandbox.peakmv("POST", "v2/generate", content=body, headers={"X-Client-Request-Id": "ours"}).json()
    sandbox.peakmv("POST", "v2/generate", content=body)
    rows = sandbox.ledger("peakmv")
    assert [row["reference"] for row in rows] == ["ours", None]
    assert rows[0]["provider_job_id"] == first["job_id"] and rows[0]["operation"] == "generate"
    assert rows[0]["charged"] == first["cost_credits"] == 3
    assert rows[0]["input"] == {"audio_url": "https://example.com/a.mp3", "big": 9007199254740993, "duration": 30}
    assert sandbox.control("GET", "peakmv/account")["credits"] == before - 6


@pytest.mark.parametrize("fault", ["fail", "moderation"])
def test_failed_job_says_why(sandbox: Sandbox, until: Until, fault: str) -> None:
    sandbox.faults("peakmv", **{fault: 1})
    path = f"v2/jobs/{sandbox.generate().json()['job_id']}"
    job = until(lambda: (found := sandbox.peakmv("GET", path).json())["status"] == "failed" and found)
    assert job["error"] and "video_url" not in job
    assert sandbox.happened("peakmv")[fault] == 1


def test_account_may_really_fetch_what_it_is_given(sandbox: Sandbox) -> None:
    sandbox.control("PUT", "peakmv/account", fetch_inputs=True)
    song = f"{sandbox.url}/peakmv/media/song.mp3"
    assert sandbox.generate(audio_url=song).status_code == 200
    for url in (f"{sandbox.url}/peakmv/media/song.xyz", "http://127.0.0.1:9/song.mp3", "not a URL"):
        reply = sandbox.generate(audio_url=song, artist_face_image_url=url)
        assert (reply.status_code, reply.json()) == (400, {"error": "artist_face_image_url could not be fetched"})
    assert len(sandbox.ledger("peakmv")) == 1


def test_files_at_the_root_need_no_key(sandbox: Sandbox) -> None:
    described = sandbox.http.get("/peakmv/openapi.json").json()
    assert "/api/v2/generate" in described["paths"]
    assert "status_url" in sandbox.http.get("/peakmv/llms.txt").text
