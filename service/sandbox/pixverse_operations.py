"""PixVerse's submit calls as data: path, operation, what must be there, and what it costs."""

import math
from typing import Any

import msgspec

SOURCE = ("source_video_id", "video_media_id")
IMAGE = ("img_id", "img_ids")
INTEGERS = ("img_id", "first_frame_img", "last_frame_img", "source_video_id", "video_media_id", "duration", "seed")
OPTIONS = frozenset({"model", "duration", "quality", "aspect_ratio"})

CREDITS_FOR_5_S = {"360p": 45, "540p": 45, "720p": 60, "1080p": 120}
DEFAULT_QUALITY = "540p"
DEFAULT_DURATION_S = 5
SOUND_CREDITS_FOR_5_S = 10


class Operation(msgspec.Struct, frozen=True):
    """One submit call. Of each group in `required` at least one field must be there."""

    name: str
    required: tuple[tuple[str, ...], ...]
    takes_callback: bool = False


def _needs(*groups: str | tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple((group,) if isinstance(group, str) else group for group in groups)


SUBMITS = {
    "video/text/generate": Operation(
        "text_to_video", _needs("prompt", "model", "duration", "quality", "aspect_ratio"), takes_callback=True
    ),
    "video/img/generate": Operation(
        "image_to_video", _needs(IMAGE, "prompt", "model", "duration", "quality"), takes_callback=True
    ),
    "video/transition/generate": Operation(
        "transition", _needs("first_frame_img", "last_frame_img", "prompt", "model", "duration", "quality")
    ),
    "video/multi_transition/generate": Operation("multi_transition", _needs("multi_transition", "model", "quality")),
    "video/lip_sync/generate": Operation("lip_sync", _needs(SOURCE, ("audio_media_id", "lip_sync_tts_content"))),
    "video/fusion/generate": Operation(
        "fusion", _needs("image_references", "prompt", "model", "duration", "quality", "aspect_ratio")
    ),
    "video/restyle/generate": Operation("restyle", _needs(SOURCE, ("restyle_id", "restyle_prompt"))),
    "video/mask/selection": Operation("swap_mask", _needs(SOURCE)),
    "video/swap/generate": Operation("swap", _needs(SOURCE, "mask_id", "img_id")),
    "video/sound_effect/generate": Operation("sound_effect", _needs(SOURCE, ("sound_effect_content", "prompt"))),
    "video/extend/generate": Operation("extend", _needs(SOURCE, "prompt", "model", "duration", "quality")),
    "video/mimic/generate": Operation("mimic", _needs(SOURCE, "img_id", "quality")),
    "video/modify/generate": Operation("modify", _needs(SOURCE, "prompt", "quality")),
    "video/upscale/generate": Operation("upscale", _needs(SOURCE)),
    "video/avatar/generate": Operation("avatar", _needs("img_id", "quality")),
    "video/agent/generate": Operation("agent", _needs("agent_id")),
    "video/music_mv_agent/generate": Operation("music_mv_agent", _needs("audio_media_id")),
    "image/template/generate": Operation("image_template", _needs(IMAGE, "template_id")),
}
TEMPLATE = Operation("template", _needs(IMAGE, "template_id"), takes_callback=True)


def operation_of(path: str, fields: dict[str, Any]) -> Operation:
    """The operation of a submit; an image with a template is an operation of its own on the same path."""
    operation = SUBMITS[path]
    return TEMPLATE if operation.name == "image_to_video" and fields.get("template_id") else operation


def missing(operation: Operation, fields: dict[str, Any], *, options_too: bool) -> str | None:
    """The first thing that must be there and is not; without `options_too` only content counts."""
    for group in operation.required:
        if not options_too and OPTIONS.issuperset(group):
            continue
        if not any(fields.get(name) not in (None, "", []) for name in group):
            return " or ".join(group)
    return None


def mistyped(fields: dict[str, Any]) -> str | None:
    """The first field that holds something other than the integer that it should."""
    for name in INTEGERS:
        value = fields.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            return name
    return None


def cost_of(fields: dict[str, Any]) -> int:
    """Credits, by the list for V5; operations with a list of their own are charged alike here."""
    fives = max(1, math.ceil(int(fields.get("duration") or DEFAULT_DURATION_S) / 5))
    cost = fives * CREDITS_FOR_5_S.get(str(fields.get("quality")), CREDITS_FOR_5_S[DEFAULT_QUALITY])
    if fields.get("motion_mode") == "fast":
        cost *= 2
    return cost + (SOUND_CREDITS_FOR_5_S * fives if fields.get("sound_effect_switch") else 0)
