"""The rows of the documents that the product was asked for, as data, and what one of them needs to be carried out.

Of a row: `operation` is the one that it maps to, `account` marks those that want a scope of their own, `status` those
that move a job. `{name}` in a body or a query, and what `fill` names for a part of the path, is something that other
calls of the same API have made before; any other `{part}` is the id of a row that its collection's POST makes.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2

from service.sandbox.replies import FILES
from tests.through import Client

FOLDER = Path(__file__).parent
DOCUMENTS: dict[str, Any] = {
    document["document"]: document for document in (json.loads(path.read_bytes()) for path in FOLDER.glob("s*.json"))
}
ATTACHED = {"@picture": ("picture.png", FILES["png"], "image/png"), "@clip": ("clip.mp4", FILES["mp4"], "video/mp4")}
Row = Mapping[str, Any]


def name_of(row: Row) -> str:
    return f"{row['method']} {row['path']}"


class Carrying:
    """Carries rows out through the service; what they need is made once, by other calls of the same API."""

    def __init__(self, client: Client, document: str):
        self.client, self.rows = client, {name_of(row): row for row in DOCUMENTS[document]["rows"]}
        self._made: dict[str, Any] = {}

    def carry_out(self, row: Row) -> httpx2.Response:
        """The row's own call, filled in."""
        more: dict[str, Any] = {}
        if "body" in row:
            more["json"] = self._filled(row["body"])
        if "query" in row:
            more["params"] = self._filled(row["query"])
        if "form" in row:
            more["files"] = {field: self._part(value) for field, value in row["form"].items()}
        headers = {"ai-trace-id": str(time.monotonic_ns())} if self.client.provider == "pixverse" else {}
        return self.client(row["method"], self._path(row), headers=headers, **more)

    def _path(self, row: Row) -> str:
        path = str(row["path"])
        for part in re.findall(r"{(\w+)}", path):
            value = self._thing(row["fill"][part]) if part in row.get("fill", {}) else self._row_of(path, part)
            path = path.replace(f"{{{part}}}", str(value))
        return path

    def _row_of(self, path: str, part: str) -> Any:
        """The id of a new row of the list whose rows have this path."""
        collection = path.partition(f"/{{{part}}}")[0]
        shown = re.sub(r"/[0-9]+(?=/|$)", "/{id}", collection)
        reply = self.carry_out({**self.rows[f"POST {shown}"], "path": collection})
        assert reply.status_code < 300, reply.text
        return first(reply.json(), "id")

    def _filled(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._filled(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._filled(inner) for inner in value]
        named = re.fullmatch(r"{(\w+)}", value) if isinstance(value, str) else None
        return self._thing(named[1]) if named else value

    def _part(self, value: str) -> Any:
        if value in ATTACHED:
            name, path, kind = ATTACHED[value]
            return (name, path.read_bytes(), kind)
        return (None, str(self._filled(value)))

    def _thing(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = MAKERS[self.client.provider][name](self)
        return self._made[name]

    # -- what the makers use

    def ask(self, name: str, **changes: Any) -> Any:
        """What a row's call says."""
        reply = self.carry_out({**self.rows[name], **changes})
        assert reply.status_code < 300, reply.text
        return reply.json()

    def ended(self, job_id: str) -> Any:
        """A job's status at its end."""
        deadline = time.monotonic() + 30
        while (said := self.ask("GET /api/status", query={"job_id": job_id}))["status"] != "completed":
            assert time.monotonic() < deadline, said
            time.sleep(0.02)
        return said


def first(said: Any, field: str) -> Any:
    """The first value of that name, however deep."""
    if isinstance(said, dict) and said.get(field) is not None:
        return said[field]
    inner = said.values() if isinstance(said, dict) else said if isinstance(said, list) else ()
    return next((found for value in inner if (found := first(value, field)) is not None), None)


def _video_of(carrying: Carrying) -> Any:
    return carrying.ended(carrying._thing("job"))["filename"]


def _kept(name: str, field: str, before: str = "") -> Callable[[Carrying], Any]:
    """A field of what a row's call says, once another thing is there."""

    def make(carrying: Carrying) -> Any:
        if before:
            carrying._thing(before)
        return first(carrying.ask(name), field)

    return make


def _project_with_a_shot(carrying: Carrying) -> Any:
    project = first(carrying.ask("POST /api/projects"), "id")
    path = f"/api/projects/{project}/shots"
    shot = first(carrying.ask("POST /api/projects/{id}/shots", path=path), "id")
    carrying._made["shot"] = shot
    carrying.ask("PUT /api/projects/{id}/shots/{shotId}", path=f"{path}/{shot}")
    return project


def _password(carrying: Carrying) -> Any:
    row = "POST /api/password-reset/reset"
    carrying.ask(row)
    return carrying.rows[row]["body"]["new_password"]


def _invited(carrying: Carrying) -> Any:
    path = f"/api/orgs/{carrying._thing('org')}/invite"
    return first(carrying.ask("POST /api/orgs/{id}/invite", path=path), "token")


def _member(carrying: Carrying) -> Any:
    members = carrying.ask("GET /api/orgs/{id}/members", path=f"/api/orgs/{carrying._thing('org')}/members")
    return members["members"][-1]["id"]


def _pixverse_image(carrying: Carrying) -> Any:
    body = {"img_ids": [carrying._thing("img")], "template_id": 302325299692608}
    return first(carrying.ask("POST /openapi/v2/image/template/generate", body=body), "image_id")


def _legacy(carrying: Carrying) -> Any:
    return first(carrying.ask("POST /v2/generate/video/pixverse/generation"), "id")


_IMAGE, _AUDIO = "POST /api/generate-image", "POST /api/generate-audio"
MAKERS: Mapping[str, Mapping[str, Callable[[Carrying], Any]]] = {
    "peakmv": {"job": _kept("POST /api/v2/generate", "job_id")},
    "pixverse": {
        "img": _kept("POST /openapi/v2/image/upload", "img_id"),
        "video": _kept("POST /openapi/v2/video/text/generate", "video_id"),
        "image": _pixverse_image,
    },
    "aimlapi": {"job": _kept("POST /v2/video/generations", "id"), "legacy": _legacy},
    "progressiverobot": {
        "job": _kept("POST /api/generate", "job_id"),
        "running": _kept("POST /api/generate", "job_id"),
        "video": _video_of,
        "image": lambda carrying: carrying.ended(first(carrying.ask(_IMAGE), "job_ids")[0])["filename"],
        "audio": lambda carrying: carrying.ended(first(carrying.ask(_AUDIO), "job_id"))["filename"],
        "srt": _kept("POST /api/subtitles/generate", "srt_filename"),
        "srt_stem": lambda carrying: carrying._thing("srt").removesuffix(".srt"),
        "input_image": _kept("POST /api/upload-image", "filename"),
        "generation": _kept("GET /api/generations", "id", before="video"),
        "image_generation": _kept("GET /api/image-generations", "id", before="image"),
        "audio_generation": _kept("GET /api/audio-generations", "id", before="audio"),
        "share": _kept("POST /api/generations/{id}/share", "share_token"),
        "org": _kept("POST /api/orgs", "id"),
        "password": _password,
        "invite": _invited,
        "member": _member,
        "shot_project": _project_with_a_shot,
        "shot": lambda carrying: carrying._thing("shot_project") and carrying._made["shot"],
    },
}
