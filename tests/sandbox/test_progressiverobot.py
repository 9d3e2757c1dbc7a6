"""Progressive Robot: credits, tiers, refusals, the course of its jobs, and faults with the ledger as the truth."""

import json
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from .studio import CLIP, PICTURE, PNG, TWO_PICTURES, WEBP, Studio, said

Until = Callable[[Callable[[], Any]], Any]


COSTS = {  # for 41 frames and 4 steps: the formula, rounded up; the page's examples differ in the five marked
    "wan-t2v": 21,
    "ltx-t2v": 16,
    "ltx-quality": 27,
    "hunyuan-t2v": 22,
    "hunyuan15-t2v": 22,
    "hunyuan15-i2v": 28,
    "ltx-i2v": 22,
    "cogvideo-t2v": 22,
    "animatediff": 12,  # 9
    "svd-i2v": 18,
    "wan-i2v": 23,
    "ltx-flf": 20,  # 19
    "wan-s2v": 28,
    "wan-flf": 23,
    "ltx-camera": 18,  # 17.35, printed as 17.15
    "ltx-control": 20,  # 19
    "wan-vace": 28,
    "wan-animate": 33,
    "liveportrait": 13,
    "hunyuan3d": 24,
    "dreamidv": 25,
    "echomimic": 20,  # 19
}


@pytest.mark.parametrize(("model", "cost"), COSTS.items())
def test_a_video_costs_what_the_formula_says(studio: Studio, model: str, cost: int) -> None:
    before, asked = studio.credits, {"model": model, "frames": 41, "steps": 4}
    assert studio.get("/api/generation-cost", params=asked)["cost"] == cost
    made = studio.post("/api/generate", prompt="a cat", **asked)
    assert made["credits_used"] == cost == studio.ledger[0]["charged"] == before - studio.credits


def test_all_models_have_a_price_and_a_row_in_the_catalog(studio: Studio) -> None:
    assert {model["id"] for model in studio.get("/api/models")["models"]} == set(COSTS)
    images = {model["id"]: model["credit_cost"] for model in studio.get("/api/image-models")["models"]}
    assert images == {"sd15": 2, "flux": 5, "flux-dev": 8, "flux-edit": 6}
    assert studio.get("/api/generation-cost", params={"model": "wan-t2v", "frames": 81, "steps": 20})["cost"] == 37
    assert studio.get("/api/generation-cost", params={"model": "ltx-t2v", "frames": 80, "steps": 10})["cost"] == 23
    assert studio.call("GET", "/api/generation-cost", params={"model": "nope"}).status_code == 400
    assert studio.call("GET", "/api/generation-cost", params={"model": "v2v", "frames": "x"}).status_code == 400


PRICES = [
    ("generate-image", {"prompt": "x", "model": "flux"}, 5),
    ("generate-image", {"prompt": "x", "model": "flux-dev", "count": 3}, 24),
    ("generate-image", {"prompt": "x"}, 2),
    ("generate-audio", {"prompt": "x", "duration_seconds": 30}, 8),
    ("generate-audio", {"prompt": "x", "duration_seconds": 45}, 12),
    ("generate-audio", {"prompt": "x", "duration_seconds": 31}, 9),
    ("tts/generate", {"text": "word " * 150}, 6),
    ("tts/generate", {"text": "word"}, 1),
    ("tts/generate", {"text": "word " * 150, "speed": 2}, 3),
    ("edit/merge", {"video_filenames": ["a.mp4", "b.mp4"]}, 4),
    ("edit/merge", {"video_filenames": [f"{number}.mp4" for number in range(20)]}, 40),
    ("edit/trim", {**CLIP, "start_seconds": 0, "end_seconds": 2.5}, 3),
    ("edit/speed", {**CLIP, "speed_factor": 2}, 3),
    ("edit/crop", {**CLIP, "x": 0, "y": 0, "width": 10, "height": 10}, 3),
    ("edit/resize", {**CLIP, "width": 10, "height": 10}, 3),
    ("edit/text-overlay", {**CLIP, "text": "x"}, 3),
    ("subtitles/generate", CLIP, 5),
    ("subtitles/translate", {"srt_filename": "a.srt", "target_language": "fr"}, 5),
    ("tools/extract-frames", CLIP, 1),
    ("tools/trim-video", {**CLIP, "start_time": 0, "end_time": 1}, 1),
    ("tools/video-to-gif", CLIP, 1),
    ("tools/upscale-video", CLIP, 2),
    ("generate-v2v", {**CLIP, "prompt": "x"}, 3),
    ("extend-video", CLIP, 0),
]


@pytest.mark.parametrize(("path", "body", "cost"), PRICES)
def test_other_work_costs_what_the_page_says(studio: Studio, path: str, body: dict[str, Any], cost: int) -> None:
    before = studio.credits
    assert studio.post(f"/api/{path}", **body)["credits_used"] == cost
    assert sum(row["charged"] for row in studio.ledger) == before - studio.credits == cost
    assert {row["operation"] for row in studio.ledger} == {path.replace("/", "_").replace("-", "_")}


def test_long_videos_cost_more_where_the_page_prices_by_length(studio: Studio) -> None:
    long = {"video_filename": studio.ended(studio.generate(frames=481, frame_rate=24))["filename"]}  # 20.04 s
    assert studio.post("/api/generate-v2v", **long, prompt="x")["credits_used"] == 7
    assert studio.post("/api/tools/upscale-video", **long)["credits_used"] == 5


@pytest.mark.parametrize("fault", ["fail", "moderation"])
def test_what_fails_is_given_back(studio: Studio, fault: str) -> None:
    before = studio.credits
    studio.faults(**{fault: 1})
    failed = studio.ended(studio.generate(frames=41, steps=4))
    assert failed["status"] == "error" and failed["error"] and "filename" not in failed
    assert failed["credits_used"] == 0 and studio.credits == before
    lines = studio.get("/api/credits/history")["transactions"]
    assert [(line["type"], line["amount"], line["balance"]) for line in lines] == [
        ("refund", 21, before),
        ("charge", -21, before - 21),
    ]
    assert {line["job_id"] for line in lines} == {failed["job_id"]} == {row["provider_job_id"] for row in studio.ledger}
    assert studio.happened[fault] == 1
    assert studio.get("/api/generations")["generations"][0]["status"] == "error"


def test_without_credits_nothing_is_made(studio: Studio) -> None:
    studio.account(credits=20)
    reply = studio.call("POST", "/api/generate", json={"prompt": "x", "frames": 41, "steps": 4})
    assert (reply.status_code, reply.json()) == (
        403,
        {"error": "Insufficient credits", "required": 21, "available": 20},
    )
    assert studio.call("POST", "/api/generate-image", json={"prompt": "x", "count": 11}).json()["required"] == 22
    assert studio.ledger == [] and studio.credits == 20
    assert studio.post("/api/credits/topup", credits=100) == {"credits": 120, "purchased": 100, "amount_pence": 100}
    assert studio.post("/api/generate", prompt="x")["credits_used"] == 21
    for wrong in (99, 50_001, "500", True, None):
        assert studio.call("POST", "/api/credits/topup", json={"credits": wrong}).status_code == 400


# -- tiers --

LIMITS = [
    ("free", {"frames": 81}, None),
    ("free", {"frames": 82}, "starter"),
    ("free", {"frames": 122}, "creator"),
    ("starter", {"frames": 202}, "pro"),
    ("pro", {"frames": 302}, "enterprise"),
    ("enterprise", {"frames": 999}, None),
    ("free", {"width": 854, "height": 480}, None),
    ("free", {"width": 1920}, None),  # the height stays the default
    ("free", {"width": 512, "height": 512}, None),  # fewer pixels than 854 x 480
    ("free", {"width": 720, "height": 1280}, "starter"),
    ("starter", {"width": 1920, "height": 1080}, None),
    ("starter", {"width": 3840, "height": 2160}, "creator"),
]


@pytest.mark.parametrize(("tier", "fields", "needed"), LIMITS)
def test_a_tier_limits_frames_and_resolution(
    studio: Studio, tier: str, fields: dict[str, int], needed: str | None
) -> None:
    studio.account(tier=tier)
    reply = studio.call("POST", "/api/generate", json={"prompt": "x", **fields})
    assert (reply.status_code, reply.json().get("required_tier")) == (403 if needed else 200, needed)
    assert len(studio.ledger) == (0 if needed else 1)


FEATURES = {
    "starter": ["tts/generate", "tts/add-to-video", "tools/upscale-video", "stock/download"],
    "creator": [
        "tools/face-swap",
        "subtitles/translate",
        "hosting/pages",
        "orgs",
        "brand-kits",
        "brand-kits/1/apply",
        "brand-kits/1/upload-logo",
        "orgs/1/invite",
    ],
}


@pytest.mark.parametrize(("tier", "path"), [(tier, path) for tier, paths in FEATURES.items() for path in paths])
def test_features_need_their_tier(studio: Studio, tier: str, path: str) -> None:
    studio.account(tier=tier)
    reply = studio.call("POST", f"/api/{path}", json={})
    needed = {"starter": "creator", "creator": "pro"}[tier]
    assert (reply.status_code, reply.json()["required_tier"]) == (403, needed)
    studio.account(tier=needed)
    assert studio.call("POST", f"/api/{path}", json={}).status_code in (400, 404)
    assert studio.ledger == []


def test_the_tier_is_told_with_its_limits(studio: Studio) -> None:
    studio.account(tier="free", credits=10)
    check = studio.get("/api/auth/check")
    assert (check["authenticated"], check["tier"], check["credits"]) == (True, "free", 10)
    assert check["limits"] == {
        "monthly_credits": 150,
        "max_resolution": "480p",
        "max_frames": 81,
        "watermark": True,
        "features": [],
    }
    assert studio.get("/api/credits") == {"credits": 10, "tier": "free", "monthly_allowance": 150}
    tiers = {tier["id"]: tier["max_frames"] for tier in studio.get("/api/pricing", key=None)["tiers"]}
    assert tiers == {"free": 81, "starter": 121, "creator": 201, "pro": 301, "studio": 301, "enterprise": 999}
    refused = studio.sandbox.http.put("/_sandbox/progressiverobot/account", json={"tier": "golden"})
    assert refused.status_code == 422


# -- input --

WRONG = [
    ("generate", {}, "prompt"),
    ("generate", {"prompt": ""}, "prompt"),
    ("generate", {"prompt": "x" * 2001}, "prompt"),
    ("generate", {"prompt": ["x"]}, "prompt"),
    ("generate", {"prompt": "x", "model": "nope"}, "model"),
    ("generate", {"prompt": "x", "model": ["wan-t2v"]}, "model"),
    ("generate", {"prompt": "x", "frames": "41"}, "frames"),
    ("generate", {"prompt": "x", "frames": 41.5}, "frames"),
    ("generate", {"prompt": "x", "frames": 0}, "frames"),
    ("generate", {"prompt": "x", "frames": 1000}, "frames"),
    ("generate", {"prompt": "x", "steps": True}, "steps"),
    ("generate-image", {"prompt": "x", "count": 0}, "count"),
    ("generate-image", {"prompt": "x", "model": "wan-t2v"}, "model"),
    ("generate-v2v", {"prompt": "x"}, "video_filename"),
    ("generate-v2v", {**CLIP, "prompt": "x", "strength": 2}, "strength"),
    ("generate-audio", {"prompt": "x", "duration_seconds": -1}, "duration_seconds"),
    ("tts/generate", {"text": 5}, "text"),
    ("tts/generate", {"text": "x", "voice_id": "nobody"}, "voice_id"),
    ("edit/speed", {**CLIP, "speed_factor": 5}, "speed_factor"),
    ("edit/trim", {**CLIP, "start_seconds": 3, "end_seconds": 2}, "end_seconds"),
    ("edit/resize", CLIP, "preset"),
    ("edit/merge", {"video_filenames": ["a.mp4"]}, "video_filenames"),
    ("edit/merge", {"video_filenames": [1, 2]}, "video_filenames"),
    ("edit/trim", {"video_filename": 1, "start_seconds": 0, "end_seconds": 2}, "video_filename"),
    ("tools/upscale-video", {**CLIP, "scale_factor": 5}, "scale_factor"),
    ("tools/extract-frames", {**CLIP, "mode": "all"}, "mode"),
    ("subtitles/burn", {**CLIP, "srt_filename": "a.srt", "style": "loud"}, "style"),
    ("studio/script-to-shots", {}, "script"),
]


@pytest.mark.parametrize(("path", "body", "field"), WRONG)
def test_wrong_input_is_400_that_names_the_field(studio: Studio, path: str, body: dict[str, Any], field: str) -> None:
    reply = studio.call("POST", f"/api/{path}", json=body)
    assert reply.status_code == 400 and reply.json()["field"] == field and field in reply.json()["error"]
    assert studio.ledger == []


@pytest.mark.parametrize("body", [b"not json", b"[]", b'"text"'])
def test_a_body_that_is_no_object_is_400(studio: Studio, body: bytes) -> None:
    assert studio.call("POST", "/api/generate", content=body).json() == {"error": "Request body must be a JSON object"}


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"GIF89a", "PNG, JPEG or WebP"), (b"RIFF\0\0\0\0WAVE", "PNG, JPEG or WebP"), (PNG + bytes(10 << 20), "10 MB")],
)
def test_an_upload_is_checked_by_its_bytes_and_size(studio: Studio, content: bytes, why: str) -> None:
    reply = studio.call("POST", "/api/upload-image", files={"image": ("x.png", content, "image/png")})
    assert reply.status_code == 400 and why in reply.json()["error"]
    assert studio.call("POST", "/api/upload-image").json() == {"error": "image is required"}


def test_forms_are_kept_in_the_ledger_by_fields_and_sizes(studio: Studio) -> None:
    form = {**TWO_PICTURES, "note": (None, "nonce-1")}
    job_id = said(studio.call("POST", "/api/tools/face-swap", files=form))["job_id"]
    assert studio.ledger[0]["input"] == {
        "note": "nonce-1",
        "source_image": {"filename": "a.png", "bytes": len(PNG)},
        "target_image": {"filename": "b.webp", "bytes": len(WEBP)},
    }
    name = studio.ended(job_id)["filename"]
    assert studio.call("GET", f"/api/image/{name}").headers["content-type"] == "image/png"
    one = studio.call("POST", "/api/tools/face-swap", files=PICTURE)
    assert (one.status_code, one.json()) == (400, {"error": "2 image files are required"})
    same = [("images", ("a.png", PNG, "image/png")), ("images", ("b.png", PNG, "image/png"))]
    assert "job_id" in said(studio.call("POST", "/api/tools/face-swap", files=same))


def test_files_must_be_there_only_if_the_account_is_strict(studio: Studio) -> None:
    assert studio.post("/api/edit/speed", **CLIP, speed_factor=2)["filename"].endswith(".mp4")
    studio.account(require_files=True)
    reply = studio.call("POST", "/api/edit/speed", json={**CLIP, "speed_factor": 2})
    assert (reply.status_code, reply.json()) == (404, {"error": "File not found"})
    merge = {"video_filenames": ["clip.mp4", "other.mp4"]}
    assert studio.call("POST", "/api/edit/merge", json=merge).status_code == 404
    project = studio.post("/api/projects", name="x")["id"]
    assert studio.call("POST", f"/api/projects/{project}/export", json={}).status_code == 400
    assert len(studio.ledger) == 1


# -- jobs --


def test_a_job_waits_works_and_is_completed_with_a_file(studio: Studio) -> None:
    studio.faults(duration_s=[1.5, 1.5])
    job_id, seen = studio.generate(), []
    while (found := studio.status(job_id))["status"] != "completed":
        seen.append(found)
        time.sleep(0.005)
    assert list(dict.fromkeys(state["status"] for state in seen)) == ["queued", "processing"]
    assert {state.get("position") for state in seen if state["status"] == "queued"} == {1}
    progress = [state["progress"] for state in seen]
    assert progress == sorted(progress) and 0 <= progress[0] < 50 < progress[-1] < 100
    assert found == {
        "job_id": job_id,
        "status": "completed",
        "progress": 100,
        "credits_used": 21,
        "filename": f"generate_{job_id}.mp4",
    }
    assert studio.call("GET", f"/api/video/{found['filename']}").content[4:8] == b"ftyp"


def test_the_queue_shows_who_waits_and_where(studio: Studio) -> None:
    studio.faults(duration_s=[60, 60])
    jobs = [studio.generate() for _ in range(3)]
    queue = studio.get("/api/queue")
    assert (queue["length"], queue["position"]) == (3, 1)
    assert [(job["job_id"], job["position"]) for job in queue["active_jobs"]] == list(zip(jobs, (1, 2, 3), strict=True))
    studio.post("/api/cancel", job_id=jobs[0])
    assert [studio.status(job_id)["position"] for job_id in jobs[1:]] == [1, 2]
    assert studio.get("/api/comfyui/status")["online"] is True


@pytest.mark.parametrize("wanted", ["queued", "processing"])
def test_cancel_ends_a_job_and_gives_its_credits_back(studio: Studio, until: Until, wanted: str) -> None:
    before = studio.credits
    studio.faults(duration_s=[60, 60] if wanted == "queued" else [5, 5])
    job_id = studio.generate()
    until(lambda: studio.status(job_id)["status"] == wanted)
    assert studio.post("/api/cancel", job_id=job_id) == {
        "success": True,
        "job_id": job_id,
        "status": "cancelled",
        "credits_refunded": 21,
    }
    ended = studio.status(job_id)
    assert ended == {"job_id": job_id, "status": "cancelled", "progress": 0, "credits_used": 0}
    assert studio.credits == before and [row["charged"] for row in studio.ledger] == [21]
    assert studio.get("/api/generations")["generations"][0]["status"] == "cancelled"
    assert studio.get("/api/queue") == {"length": 0, "active_jobs": [], "position": 0}
    again = studio.call("POST", "/api/cancel", json={"job_id": job_id})
    assert (again.status_code, again.json()["job_status"]) == (400, "cancelled")
    assert studio.credits == before, "given back once"


def test_cancel_of_what_is_over_or_unknown_is_refused(studio: Studio) -> None:
    job_id = studio.generate()
    studio.ended(job_id)
    assert studio.call("POST", "/api/cancel", json={"job_id": job_id}).status_code == 400
    assert studio.call("POST", "/api/cancel", json={"job_id": "nope"}).status_code == 404
    assert studio.call("POST", "/api/cancel", json={}).status_code == 400
    assert studio.call("GET", "/api/status", params={"job_id": "nope"}).json() == {"error": "Job not found"}
    assert studio.call("GET", "/api/status").status_code == 400
    assert studio.status(job_id)["status"] == "completed"


@pytest.mark.parametrize("field", ["count", "num_images", "batch_size"])
def test_each_id_of_a_batch_has_a_course_of_its_own(studio: Studio, field: str) -> None:
    studio.faults(fail=0.5, seed=3)
    made = studio.post("/api/generate-image", prompt="nonce", model="flux", **{field: 8})
    assert len(set(made["job_ids"])) == 8 and made["credits_used"] == 40
    ends = [studio.ended(job_id)["status"] for job_id in made["job_ids"]]
    assert {*ends} == {"completed", "error"}
    assert [row["provider_job_id"] for row in studio.ledger] == made["job_ids"]
    assert {(row["operation"], row["charged"]) for row in studio.ledger} == {("generate_image", 5)}
    rows = studio.get("/api/image-generations")
    assert rows["total"] == 8 and [row["job_id"] for row in rows["generations"]] == made["job_ids"][::-1]
    assert [row["status"] for row in rows["generations"]] == ends[::-1]
    assert studio.credits == 1_000_000_000 - 5 * ends.count("completed")


def test_a_full_account_is_429_with_seconds_to_wait(studio: Studio) -> None:
    studio.account(concurrency=2, retry_after_seconds=42)
    studio.faults(duration_s=[60, 60])
    reply = studio.call("POST", "/api/generate-image", json={"prompt": "x", "count": 3})
    assert (reply.status_code, reply.json()) == (429, {"error": "Rate limit exceeded", "retry_after_seconds": 42})
    assert studio.ledger == []
    job_id, _ = studio.generate(), studio.generate()
    assert studio.call("POST", "/api/generate", json={"prompt": "x"}).status_code == 429
    studio.post("/api/cancel", job_id=job_id)
    assert studio.generate()


IMMEDIATE = [
    ("extend-video", CLIP, "png", "input-image"),
    ("video/add-audio", {**CLIP, "audio_filename": "a.mp3"}, "mp4", "video"),
    ("tts/generate", {"text": "good morning"}, "mp3", "audio"),
    ("subtitles/generate", CLIP, "srt", "subtitles"),
    ("subtitles/translate", {"srt_filename": "a.srt", "target_language": "fr"}, "srt", "subtitles"),
    ("edit/merge", {"video_filenames": ["a.mp4", "b.mp4"]}, "mp4", "video"),
    ("tools/extract-frames", CLIP, "png", "image"),
    ("tools/video-to-gif", CLIP, "gif", "image"),
    ("tools/video-to-gif", CLIP, "gif", "video"),
]
STARTS = {"png": b"\x89PNG", "mp4": b"\0\0\0", "mp3": b"\xff", "srt": b"1\n00:00", "gif": b"GIF89a"}


@pytest.mark.parametrize(("path", "body", "kind", "folder"), IMMEDIATE)
def test_what_is_made_at_once_can_be_downloaded_at_once(
    studio: Studio, path: str, body: dict[str, Any], kind: str, folder: str
) -> None:
    made = studio.post(f"/api/{path}", **body)
    field = {"subtitles/generate": "srt_filename", "tools/extract-frames": "filenames"}.get(path, "filename")
    assert set(made) == {field, "credits_used"}
    name = made[field][0] if field == "filenames" else made[field]
    assert name.endswith(f".{kind}")
    file = studio.call("GET", f"/api/{folder}/{name}")
    assert file.status_code == 200 and file.content.startswith(STARTS[kind])
    assert len(studio.ledger) == 1 and studio.ledger[0]["input"] == body
    assert studio.ledger[0]["provider_job_id"] in name, "the ledger's row can be found by the file"


def test_frames_shots_and_prompts(studio: Studio) -> None:
    long = studio.ended(studio.generate(frames=72, frame_rate=24))["filename"]
    frames = studio.post("/api/tools/extract-frames", video_filename=long, mode="all_1fps")["filenames"]
    assert len(set(frames)) == 3
    shots = studio.post("/api/studio/script-to-shots", script="A door opens.\n\nA cat walks in.")["shots"]
    assert [shot["prompt"] for shot in shots] == ["A door opens.", "A cat walks in."]
    assert "a cat at night" in studio.post("/api/generate-prompt", idea="a cat at night")["prompt"]
    assert [row["operation"] for row in studio.ledger][1:] == [
        "tools_extract_frames",
        "studio_script_to_shots",
        "generate_prompt",
    ]


@pytest.mark.parametrize(("fault", "status"), [("fail", 500), ("moderation", 400)])
def test_what_fails_at_once_says_so_and_is_given_back(studio: Studio, fault: str, status: int) -> None:
    before = studio.credits
    studio.faults(**{fault: 1})
    reply = studio.call("POST", "/api/subtitles/generate", json=CLIP)
    assert reply.status_code == status and reply.json()["error"]
    assert studio.happened[fault] == len(studio.ledger) == 1 and studio.credits == before


def test_a_three_dimensional_model_is_one(studio: Studio) -> None:
    name = studio.ended(studio.generate(model="hunyuan3d"))["filename"]
    file = studio.call("GET", f"/api/video/{name}")
    assert name.endswith(".glb") and file.content.startswith(b"glTF")
    assert file.headers["content-type"] == "model/gltf-binary"


# -- faults --


@pytest.mark.parametrize("path", ["generate", "generate-image", "edit/speed"])
def test_a_dropped_reply_leaves_a_charge_and_a_way_to_find_it(studio: Studio, path: str) -> None:
    studio.faults(drop_reply_after_accept=1)
    body = {**CLIP, "prompt": "nonce-7", "seed": 4711, "speed_factor": 2}
    with pytest.raises(httpx2.RemoteProtocolError):
        studio.call("POST", f"/api/{path}", json=body)
    assert [row["input"] for row in studio.ledger] == [body] and studio.ledger[0]["reference"] is None
    assert studio.happened["drop_reply_after_accept"] == 1
    if path == "generate":
        [row] = studio.get("/api/generations")["generations"]
        assert (row["prompt"], row["seed"], row["job_id"]) == ("nonce-7", 4711, studio.ledger[0]["provider_job_id"])


def test_a_hung_reply_is_charged_too(studio: Studio) -> None:
    studio.faults(hang_after_accept=1)
    body = json.dumps({"prompt": "x"})
    address = urlsplit(studio.sandbox.url)
    assert address.hostname and address.port
    start = "POST /progressiverobot/api/generate HTTP/1.1\r\nHost: sandbox\r\nAuthorization: Bearer sandbox\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=0.3) as connection:
        connection.sendall(f"{start}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert len(studio.ledger) == studio.happened["hang_after_accept"] == 1


def test_errors_after_acceptance_come_as_a_gateways_page(studio: Studio) -> None:
    studio.faults(error_after_accept={"502": 1})
    reply = studio.call("POST", "/api/generate", json={"prompt": "x"})
    assert reply.status_code == 502 and reply.headers["content-type"].startswith("text/html")
    assert len(studio.ledger) == studio.happened["error_after_accept.502"] == 1


@pytest.mark.parametrize("code", ["400", "401", "403", "429", "500"])
def test_errors_before_acceptance_are_the_providers_own_and_cost_nothing(studio: Studio, code: str) -> None:
    studio.faults(error_before_accept={code: 1})
    for path in ("generate", "generate-image", "subtitles/generate"):
        reply = studio.call("POST", f"/api/{path}", json={**CLIP, "prompt": "x"})
        assert reply.status_code == int(code) and isinstance(reply.json()["error"], str)
    more = {"429": "retry_after_seconds", "403": "required_tier"}.get(code)
    assert more is None or reply.json()[more]
    assert studio.ledger == [] and studio.happened[f"error_before_accept.{code}"] == 3
    assert studio.get("/api/generations")["total"] == 0 and studio.credits == 1_000_000_000


def test_status_regresses_after_the_end(studio: Studio) -> None:
    job_id = studio.generate()
    studio.ended(job_id)
    studio.faults(status_regress=0.5, seed=1)
    seen = [studio.status(job_id) for _ in range(40)]
    assert {state["status"] for state in seen} == {"completed", "processing"}
    assert all(state["progress"] < 100 for state in seen if state["status"] == "processing")
    assert studio.happened["status_regress"] == [state["status"] for state in seen].count("processing")


def test_many_lost_replies_are_all_in_the_ledger_once(studio: Studio) -> None:
    studio.faults(drop_reply_after_accept=0.3, error_after_accept={"500": 0.05}, seed=5)
    answered = 0
    for number in range(100):
        try:
            answered += studio.call("POST", "/api/generate", json={"prompt": f"nonce-{number}"}).status_code == 200
        except httpx2.RemoteProtocolError:
            continue
    lost = studio.happened["drop_reply_after_accept"] + studio.happened["error_after_accept.500"]
    assert lost > 20 and answered == 100 - lost
    assert [row["input"]["prompt"] for row in studio.ledger] == [f"nonce-{number}" for number in range(100)]
    assert studio.get("/api/generations")["total"] == 100
