"""AI/ML API's submit calls as data: where each is, what it needs and costs, and which dialect its replies speak."""

import re
import secrets
import string
import uuid
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

Fields = dict[str, Any]

VENDORS = ("kling", "alibaba", "google", "bytedance", "runway", "pixverse", "minimax")
VIDEO_PATHS = ("/v2/video/generations", "/v1/video/generations", "/video/generations")
LEGACY_VIDEO_PATHS = tuple(f"/v2/generate/video/{vendor}/generation" for vendor in VENDORS)
MUSIC_PATHS = ("/v2/generate/audio", "/v2/generate/audio/minimax/generate")
SPEAKERS = frozenset(
    "Harper Ava Isabella Sophia Emily Chloe Julia Mason Jack Liam James Oliver Adrian Ethan Auto".split()
)
RESOLUTIONS = {"360p": 0.75, "540p": 0.75, "720p": 1.0, "1080p": 2.0}
UNFIT_FOR_ID = re.compile(r"[^A-Za-z0-9._/-]")
NANOID = string.ascii_letters + string.digits + "_-"

LISTED = frozenset({"video", "music"})  # whose models the documents list: any other is refused

CREDITS_PER_DOLLAR = 2_000_000  # every sample that names both agrees
VIDEO_CREDITS_PER_S = 84_000  # so that the sample's 5 seconds cost its 420000
LIP_SYNC_CREDITS = 2_000_000  # as in the other sample
CREDITS = {"music": 120_000, "speech_to_text": 12_000, "image": 107_341, "speech": 11_000}


CATALOG = Path(__file__).parents[1] / "providers" / "aimlapi.catalog.json"  # the documents' list, as of its day


@cache
def known_models() -> dict[str, dict[str, str]]:
    """The models of the documents by their name, each with its operation and path."""
    return {row["model"]: row for row in msgspec.json.decode(CATALOG.read_bytes())["models"]["data"]}


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How a model's replies differ from another's, as the samples do."""

    id_field: str = "id"
    short_id: bool = False  # a nanoid, in place of a UUID with the model's name
    success: str = "completed"
    usage: str = "credits_used"
    described: bool = True  # the video's content type, name and size


def dialect_of(operation: str, fields: Fields, path: str) -> Dialect:
    """Speech in a video answers as the newer sample, other PixVerse videos as the older one."""
    id_field = "generation_id" if operation == "speech_to_text" or "/minimax/" in path else "id"
    if speaks(fields):
        return Dialect(id_field=id_field, short_id=True, success="succeeded", described=False)
    return Dialect(id_field=id_field, usage="tokens_used" if operation == "video" else "credits_used")


def speaks(fields: Fields) -> bool:
    """Whether somebody in the video is to speak."""
    return fields.get("model") == "pixverse/lip-sync" or "lip_sync_tts_content" in fields


def new_id(operation: str, fields: Fields, dialect: Dialect) -> str:
    """`<uuid>:<model>`, with the slashes of the model's name; a nanoid; or a plain UUID for transcripts."""
    if dialect.short_id or operation in ("image", "speech"):
        return "".join(secrets.choice(NANOID) for _ in range(21))
    if operation == "speech_to_text":
        return str(uuid.uuid4())
    return f"{uuid.uuid4()}:{UNFIT_FOR_ID.sub('-', fields['model'])[:100]}"


def cost_of(operation: str, fields: Fields) -> int:
    """Credits. The price list is not public: the figures are the samples'."""
    if operation != "video":
        return CREDITS[operation] * pictures(fields) if operation == "image" else CREDITS[operation]
    if speaks(fields):
        return LIP_SYNC_CREDITS
    return int(VIDEO_CREDITS_PER_S * float(fields.get("duration") or 5) * RESOLUTIONS.get(resolution(fields), 1.0))


def resolution(fields: Fields) -> str:
    return str(fields.get("resolution") or "720p")


def pictures(fields: Fields) -> int:
    """How many pictures are asked for."""
    return int(fields.get("n") or fields.get("num_images") or 1)


# -- what is wrong with a submit ------------------------------------------------------------------

Problem = tuple[str, str]  # field, what is wrong with it


def problem_of(operation: str, fields: Fields) -> Problem | None:
    """The first thing that is wrong."""
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        return "model", "Required"
    if operation in LISTED and known_models().get(model, {}).get("operation") != operation:
        return "model", f"Invalid discriminator value. There is no model {model} for this call"
    if operation == "video":
        return _pixverse(model, fields) if model.startswith("pixverse/") else _number(fields, "duration")
    if operation == "speech_to_text":
        return None if ("url" in fields) != ("audio" in fields) else ("url", "Provide either url or audio")
    if operation == "image":
        return _pictures(fields)
    needed = "text" if operation == "speech" and "script" not in fields else ""
    return (needed, "Required") if needed and not fields.get(needed) else None


def _pixverse(model: str, fields: Fields) -> Problem | None:
    if model == "pixverse/lip-sync":
        return _lip_sync(fields)
    needed = ["prompt"]
    needed += ["image_url"] if model.endswith(("/image-to-video", "/transition")) else []
    needed += ["tail_image_url"] if model.endswith("/transition") else []
    for name in needed:
        if not fields.get(name):
            return name, "Required"
    if resolution(fields) not in RESOLUTIONS:
        return "resolution", f"Invalid enum value. Expected {' | '.join(RESOLUTIONS)}"
    if fields.get("duration", 5) not in ((5, 8, 10) if "/v5.5/" in model else (5, 8)):
        return "duration", "Invalid enum value"
    if fields.get("duration") == 8 and resolution(fields) == "1080p":
        return "duration", "1080p does not support 8-second videos"
    return _speaker(fields)


def _lip_sync(fields: Fields) -> Problem | None:
    if not fields.get("video_url"):
        return "video_url", "Required"
    speech = [name for name in ("lip_sync_tts_speaker", "lip_sync_tts_content") if fields.get(name)]
    if fields.get("audio_url"):
        return ("audio_url", "Not together with lip_sync_tts_speaker and lip_sync_tts_content") if speech else None
    return _speaker(fields) if len(speech) == 2 else ("audio_url", "Required without a speaker and content")


def _speaker(fields: Fields) -> Problem | None:
    speaker = fields.get("lip_sync_tts_speaker")
    return None if speaker is None or str(speaker) in SPEAKERS else ("lip_sync_tts_speaker", "Invalid enum value")


def _pictures(fields: Fields) -> Problem | None:
    for name in ("n", "num_images"):
        value = fields.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10):
            return name, "Expected a number from 1 to 10"
    return None


def _number(fields: Fields, name: str) -> Problem | None:
    try:
        return None if 0 < float(fields.get(name) or 5) <= 60 else (name, "Expected a number of seconds")
    except (TypeError, ValueError):
        return name, "Expected a number of seconds"
