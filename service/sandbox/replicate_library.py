"""What Replicate keeps beside predictions: models with their versions, collections, deployments, hardware, files."""

import base64
import hashlib
import json
import re
import secrets
from typing import Any

import msgspec

from service.sandbox import replicate_views as views
from service.sandbox.multipart import Part, read_form
from service.sandbox.provider import rfc3339

TYPE = re.compile(rb"^content-type: *([^\r\n]+)", re.IGNORECASE | re.MULTILINE)

BEGAN = "2024-01-01T00:00:00.000000Z"
VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
# Those that are listed; by its name every other model is there, too.
FEATURED = ("sandbox/picture", "sandbox/video", "sandbox/music", "sandbox/llama", "sandbox/mesh")
HARDWARE = (("CPU", "cpu"), ("Nvidia T4 GPU", "gpu-t4"), ("Nvidia L40S GPU", "gpu-l40s"), ("Nvidia A100", "gpu-a100"))
FILE_LIFE_S = 24 * 3600.0


class File(msgspec.Struct, kw_only=True):
    """An uploaded file."""

    id: str
    name: str
    content_type: str
    content: bytes
    metadata: dict[str, Any]
    created_at: float


def read_file(content_type: str, body: bytes, now: float) -> File | None:
    """The file of an upload's form: `content`, and beside it `filename`, `type` and `metadata`; None without one."""
    form = read_form(content_type, body)
    content = form.get("content")
    if content is None:
        return None
    named = _text(form, "filename") or content.file_name or "file"
    try:
        metadata = json.loads(_text(form, "metadata") or "{}")
    except ValueError:
        return None
    return File(
        id=base64.b32encode(secrets.token_bytes(30)).decode().lower(),
        name=named,
        content_type=_text(form, "type") or _type_of(content),
        content=content.content,
        metadata=metadata if isinstance(metadata, dict) else {},
        created_at=now,
    )


def _type_of(content: Part) -> str:
    said = TYPE.search(content.head)
    return said[1].decode(errors="replace").strip() if said else "application/octet-stream"


def _text(form: dict[str, Part], name: str) -> str:
    return form[name].text if name in form else ""


def file(kept: File, origin: str) -> dict[str, Any]:
    """A file as it is shown; its URL is what a prediction's input names."""
    digest = hashlib.sha256(kept.content).hexdigest()
    return {
        "id": kept.id,
        "name": kept.name,
        "content_type": kept.content_type,
        "size": len(kept.content),
        "etag": digest[:32],
        "checksums": {"sha256": digest},
        "metadata": kept.metadata,
        "created_at": rfc3339(kept.created_at),
        "expires_at": rfc3339(kept.created_at + FILE_LIFE_S),
        "urls": {"get": f"{origin}/v1/files/{kept.id}"},
    }


def page(rows: list[Any]) -> dict[str, Any]:
    """A list that fits on one page."""
    return {"previous": None, "next": None, "results": rows}


def model(owner: str, name: str, origin: str) -> dict[str, Any]:
    """A model."""
    return {
        "url": f"{origin}/{owner}/{name}",
        "owner": owner,
        "name": name,
        "description": f"{name}, as the sandbox plays it",
        "visibility": "public",
        "is_official": False,
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 1,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": version(name, VERSION),
    }


def featured(origin: str, word: str = "") -> list[dict[str, Any]]:
    """The models that are listed, or those whose name has this word."""
    named = (name.partition("/") for name in FEATURED if word.lower() in name)
    return [model(owner, name, origin) for owner, _, name in named]


def version(name: str, version_id: str) -> dict[str, Any]:
    """A version of a model; its schema says whether its output comes in pieces."""
    words: dict[str, Any] = {"type": "array", "items": {"type": "string"}, "x-cog-array-type": "iterator"}
    shapes: dict[str, dict[str, Any]] = {
        "words": {**words, "x-cog-array-display": "concatenate"},
        "images": {"type": "array", "items": {"type": "string", "format": "uri"}},
        "object": {"type": "object"},
    }
    output = shapes.get(views.makes_of(name, {}), {"type": "string", "format": "uri"})
    given = {"type": "object", "properties": {"prompt": {"type": "string"}}}
    schemas = {"Input": given, "Output": {"title": "Output", **output}}
    return {
        "id": version_id,
        "created_at": BEGAN,
        "cog_version": "0.14.1",
        "openapi_schema": {"openapi": "3.0.2", "info": {"title": "Cog"}, "components": {"schemas": schemas}},
    }


def collection(origin: str) -> dict[str, Any]:
    """The one collection."""
    about = {"name": "Sandbox", "slug": "sandbox", "description": "What the sandbox plays"}
    return {**about, "models": featured(origin)}


def deployment(owner: str, name: str, account: str) -> dict[str, Any]:
    """A deployment."""
    by = {"type": "organization", "username": account, "name": account, "github_url": f"https://github.com/{account}"}
    release = {
        "number": 1,
        "model": FEATURED[0],
        "version": VERSION,
        "created_at": BEGAN,
        "created_by": by,
        "configuration": {"hardware": "gpu-t4", "min_instances": 0, "max_instances": 1},
    }
    return {"owner": owner, "name": name, "current_release": release}
