"""Progressive Robot: every row of its page is answered, and only the public ones without a key."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from .studio import CLIP, PICTURE, PNG, TWO_PICTURES, WEBP, Studio, said

ROWS = [(row["method"], row["path"]) for row in json.loads(Path(__file__).with_name("s001_rows.json").read_bytes())]
PUBLIC = {
    ("GET", "/api/share/{token}"),
    ("GET", "/api/gallery/community"),
    ("GET", "/api/community/prompts"),
    ("POST", "/api/signup"),
    ("POST", "/api/login"),
    ("POST", "/api/password-reset/request"),
    ("POST", "/api/password-reset/reset"),
    ("GET", "/api/pricing"),
    ("GET", "/api/stripe/config"),
}
BODIES: dict[str, Any] = {
    "POST /api/generate": {
        **{"prompt": "a cat", "model": "ltx-t2v", "negative_prompt": "dogs", "width": 832, "height": 480, "frames": 41},
        **{"steps": 4, "cfg": 1.5, "seed": -1, "sampler": "euler", "scheduler": "beta", "shift": 5, "frame_rate": 24},
        "project_id": 1,
    },
    "POST /api/cancel": lambda make: {"job_id": make.running_job()},
    "POST /api/extend-video": {**CLIP, "generation_id": 1},
    "POST /api/generate-v2v": {**CLIP, "prompt": "as a drawing", "strength": 0.6},
    "POST /api/generate-image": {"prompt": "a cat"},
    "POST /api/upload-image": PICTURE,
    "POST /api/generate-audio": {"prompt": "rain", "duration_seconds": 10, "tags": "calm"},
    "POST /api/video/add-audio": {**CLIP, "audio_filename": "a.mp3"},
    "POST /api/subtitles/generate": {**CLIP, "language": "en"},
    "POST /api/subtitles/burn": {**CLIP, "srt_filename": "a.srt", "style": "minimal"},
    "POST /api/subtitles/translate": {"srt_filename": "a.srt", "target_language": "fr"},
    "POST /api/tts/generate": {"text": "good morning", "voice_id": "en_gb_male", "speed": 1.0},
    "POST /api/tts/add-to-video": {**CLIP, "tts_filename": "a.mp3", "offset_seconds": 1, "volume": 0.5},
    "POST /api/edit/trim": {**CLIP, "start_seconds": 0, "end_seconds": 2.5},
    "POST /api/edit/speed": {**CLIP, "speed_factor": 2},
    "POST /api/edit/crop": {**CLIP, "x": 0, "y": 0, "width": 64, "height": 64},
    "POST /api/edit/resize": {**CLIP, "preset": "720p"},
    "POST /api/edit/text-overlay": {**CLIP, "text": "hello", "position": "top", "start_time": 0, "end_time": 1},
    "POST /api/edit/merge": {"video_filenames": ["a.mp4", "b.mp4"]},
    "POST /api/tools/remove-background": PICTURE,
    "POST /api/tools/upscale-video": {**CLIP, "scale_factor": 2},
    "POST /api/tools/face-swap": TWO_PICTURES,
    "POST /api/tools/extract-frames": {**CLIP, "mode": "first"},
    "POST /api/tools/trim-video": {**CLIP, "start_time": 0, "end_time": 1},
    "POST /api/tools/video-to-gif": {**CLIP, "width": 320, "fps": 10},
    "POST /api/tools/add-watermark": {**PICTURE, "video_filename": (None, "clip.mp4"), "type": (None, "image")},
    "POST /api/studio/script-to-shots": {"script": "A door opens.\nA cat walks in."},
    "POST /api/projects": {"name": "My Film"},
    "PUT /api/projects/{id}": {"name": "Our Film", "model": "wan-t2v"},
    "POST /api/projects/{id}/export": {"resolution": "1080p"},
    "POST /api/projects/{id}/shots": {"prompt": "a door", "duration": 4},
    "PUT /api/projects/{id}/shots/{shotId}": {"filename": "a.mp4"},
    "POST /api/projects/{id}/shots/reorder": lambda make: {"order": [make.ids["shotId"]]},
    "POST /api/projects/{id}/elements": {"name": "the cat", "type": "character"},
    "PUT /api/projects/{id}/elements/{eid}": {"name": "the dog"},
    "POST /api/projects/{id}/comments": {"text": "more light", "shot_id": 1},
    "POST /api/hosting/pages": {"video_filename": "clip.mp4", "title": "Watch"},
    "PUT /api/hosting/pages/{id}": {"title": "Look"},
    "POST /api/community/prompts": {"prompt": "a cat", "model": "wan-t2v", "title": "Cat", "tags": ["cinematic"]},
    "POST /api/community/prompts/{id}/vote": {"vote": 1},
    "POST /api/stock/download": {"url": "https://media.example.com/a.mp4", "type": "video"},
    "POST /api/orgs": {"name": "My Team"},
    "POST /api/orgs/{id}/invite": {"email": "b@example.com", "role": "reviewer"},
    "POST /api/orgs/accept-invite": lambda make: {"token": make.invitation()},
    "PUT /api/orgs/{id}/members/{uid}/role": {"role": "admin"},
    "POST /api/orgs/{id}/projects": {"name": "Team Project"},
    "POST /api/brand-kits": {"name": "Ours", "primary_color": "#102030"},
    "PUT /api/brand-kits/{id}": {"font": "Inter"},
    "POST /api/brand-kits/{id}/upload-logo": {"logo": ("logo.png", PNG, "image/png")},
    "POST /api/brand-kits/{id}/upload-intro": {"intro": ("intro.mp4", b"clip", "video/mp4")},
    "POST /api/brand-kits/{id}/apply": CLIP,
    "POST /api/generate-prompt": {"idea": "a cat at night"},
    "POST /api/templates": {"name": "Cat", "prompt": "a cat", "model": "wan-t2v"},
    "POST /api/signup": {"username": "ada", "password": "long enough", "email": "ada@example.com"},
    "POST /api/login": {"username": "sandbox", "password": "sandbox"},
    "POST /api/password-reset/request": {"username": "sandbox"},
    "POST /api/password-reset/reset": {"token": "sandbox", "new_password": "long enough"},
    "POST /api/profile": {"display_name": "Ada", "bio": "", "profile_public": True},
    "POST /api/profile/avatar": {"avatar": ("me.webp", WEBP, "image/webp")},
    "POST /api/settings/change-password": {"current_password": "sandbox", "new_password": "long enough"},
    "POST /api/settings/email": {"email": "ada@example.com"},
    "POST /api/settings/theme": {"theme": "light"},
    "POST /api/credits/topup": {"credits": 500},
    "POST /api/stripe/create-checkout": {"tier": "creator"},
    "POST /api/keys": {"name": "My App"},
}
QUERIES = {
    "GET /api/status": lambda make: {"job_id": make.running_job()},
    "GET /api/generation-cost": {"model": "wan-t2v", "frames": 41, "steps": 4},
    "GET /api/generations": {"limit": 10, "offset": 0},
    "GET /api/community/prompts": {"sort": "popular", "tag": "cinematic", "model": "wan-t2v", "page": 1},
    "GET /api/stock/videos": {"query": "cat", "page": 2, "per_page": 30},
    "GET /api/stock/images": {"query": "cat"},
    "GET /api/stock/music": {"query": "rain"},
    "GET /api/prompts/autocomplete": {"q": "a"},
}
PARENTS = {
    "/api/projects/{id}": ("POST", "/api/projects", {"name": "My Film"}),
    "/api/hosting/pages/{id}": ("POST", "/api/hosting/pages", CLIP),
    "/api/community/prompts/{id}": ("POST", "/api/community/prompts", {"prompt": "a cat"}),
    "/api/orgs/{id}": ("POST", "/api/orgs", {"name": "My Team"}),
    "/api/brand-kits/{id}": ("POST", "/api/brand-kits", {"name": "Ours"}),
    "/api/templates/{id}": ("POST", "/api/templates", {"name": "Cat", "prompt": "a cat"}),
    "/api/keys/{id}": ("POST", "/api/keys", {"name": "My App"}),
}


class Making:
    """Creates what a path names, so that the row has something to work on."""

    def __init__(self, studio: Studio, path: str) -> None:
        self.studio, self.ids = studio, dict[str, Any]()
        for start, (_, collection, body) in PARENTS.items():
            if path.startswith(start):
                self.ids["id"] = studio.post(collection, **body)["id"]
        inner = {"shotId": "shots", "eid": "elements", "cid": "comments"}
        for name, collection in inner.items():
            if f"{{{name}}}" in path or (name == "shotId" and path.endswith("reorder")):
                row = studio.post(f"/api/projects/{self.ids['id']}/{collection}", name="x", text="x", prompt="x")
                self.ids[name] = row["id"]
        if "{uid}" in path:
            self.ids["uid"] = studio.get(f"/api/orgs/{self.ids['id']}/members")["members"][0]["id"]
        self.finish(path)

    def finish(self, path: str) -> None:
        """Files, histories and share tokens."""
        match path.split("/")[2]:
            case "video":
                self.ids["filename"] = self.video()
            case "image" | "audio" as kind if "{" in path:
                made = self.studio.post(f"/api/generate-{kind}", prompt="x")
                job_id = made["job_id"] if kind == "audio" else made["job_ids"][0]
                self.ids["filename"] = self.studio.ended(job_id)["filename"]
            case "input-image":
                self.ids["filename"] = said(self.studio.call("POST", "/api/upload-image", files=PICTURE))["filename"]
            case "subtitles":
                made = self.studio.post("/api/subtitles/generate", **CLIP)
                self.ids["name"] = made["srt_filename"].removesuffix(".srt")
            case "generations" | "share":
                self.video()
                self.ids["id"] = self.studio.get("/api/generations")["generations"][0]["id"]
                shared = self.studio.post(f"/api/generations/{self.ids['id']}/share")
                self.ids["token"] = shared["share_token"]
            case "image-generations" | "audio-generations" as history:
                self.studio.post(f"/api/generate-{history.split('-')[0]}", prompt="x")
                self.ids["id"] = self.studio.get(f"/api/{history}")["generations"][0]["id"]

    def video(self) -> str:
        return str(self.studio.ended(self.studio.generate())["filename"])

    def running_job(self) -> str:
        self.studio.faults(duration_s=[60, 60])
        return self.studio.generate()

    def invitation(self) -> str:
        org = self.studio.post("/api/orgs", name="x")["id"]
        return str(self.studio.post(f"/api/orgs/{org}/invite", email="b@example.com", role="member")["token"])


def ask(studio: Studio, method: str, path: str, *, key: str | None) -> httpx2.Response:
    """A row's call, with all that it needs to succeed."""
    make = Making(studio, path)
    body, query = BODIES.get(f"{method} {path}"), QUERIES.get(f"{method} {path}")
    more: dict[str, Any] = {}
    if body is not None:
        body = body(make) if callable(body) else body
        form = any(isinstance(value, tuple) for value in body.values())
        more["files" if form else "json"] = body
    if query is not None:
        more["params"] = query(make) if callable(query) else query
    return studio.call(method, path.format(**make.ids), key=key, **more)


def test_the_rows_are_those_of_the_page() -> None:
    assert len(ROWS) == len(set(ROWS)) == 129
    assert {f"{method} {path}" for method, path in ROWS} >= {*BODIES, *QUERIES}


@pytest.mark.parametrize(("method", "path"), ROWS, ids=[" ".join(row) for row in ROWS])
def test_every_row_is_answered(studio: Studio, method: str, path: str) -> None:
    reply = ask(studio, method, path, key="sandbox")
    assert reply.status_code == 200, reply.text
    if reply.headers["content-type"] == "application/json":
        assert "error" not in reply.json()
    else:
        assert "{filename}" in path or path.endswith(".srt")


@pytest.mark.parametrize(("method", "path"), ROWS, ids=[" ".join(row) for row in ROWS])
def test_only_public_rows_are_answered_without_a_key(studio: Studio, method: str, path: str) -> None:
    reply = ask(studio, method, path, key=None)
    if (method, path) in PUBLIC:
        assert reply.status_code == 200
    else:
        assert (reply.status_code, reply.json()) == (401, {"error": "Invalid or missing API key"})


def test_what_the_page_does_not_have_is_404(studio: Studio) -> None:
    for method, path in (("GET", "/api/nothing"), ("PUT", "/api/generate"), ("DELETE", "/api/credits")):
        reply = studio.call(method, path)
        assert reply.status_code == 404 and reply.json()["error"].startswith("No such endpoint")


def test_unknown_ids_are_404(studio: Studio) -> None:
    tried = 0
    for method, path in ROWS:
        if "{" not in path or path in ("/api/generations/{id}", "/api/image-generations/{id}"):
            continue
        body = {} if f"{method} {path}".startswith("GET") else {"json": {"video_filename": "x", "name": "x"}}
        for wrong in ("999999", "x", "0", "9" * 5000):
            ids = dict.fromkeys(("id", "shotId", "eid", "cid", "uid", "filename", "name", "token"), wrong)
            reply = studio.call(method, path.format(**ids), **body)
            assert reply.status_code == 404 and reply.json()["error"].endswith("not found"), (method, path, reply.text)
            tried += 1
    assert tried > 150 and studio.ledger == []


STRANGE: list[Any] = [None, True, -1, 0, 2**70, 1.5, "", "x" * 3000, "😀", [], [{}], {}, {"a": [1]}]
LISTS = [path for method, path in ROWS if method == "GET" and "{" not in path and path != "/api/status"]


@pytest.mark.parametrize("row", [row for row in BODIES if isinstance(BODIES[row], dict)])
def test_no_value_of_a_field_is_a_servers_fault(studio: Studio, row: str) -> None:
    method, path = row.split()
    ids, tried = Making(studio, path).ids, 0
    for field in BODIES[row]:
        for value in STRANGE:
            body = {name: given for name, given in BODIES[row].items() if not isinstance(given, tuple)}
            reply = studio.call(method, path.format(**ids), json={**body, field: value})
            assert reply.status_code in (200, 400, 401, 403, 404), (field, value, reply.text)
            tried += 1
    for path in LISTS:
        reply = studio.call("GET", path, params={"q": "x", "tag": "x", "model": "wan-t2v", "sort": "popular"})
        assert reply.status_code == 200, (path, reply.text)
    assert tried >= len(STRANGE)
