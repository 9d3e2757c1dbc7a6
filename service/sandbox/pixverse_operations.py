"""PixVerse's submit calls as data: path, operation, what must be there, and what it costs."""

import math
from typing import Any

import msgspec

SOURCE = ("source_video_id", "video_media_id")
IMAGE = ("img_id", "img_ids")
SPEECH = ("audio_media_id", "lip_sync_tts_content")
REFERENCES = ("image_references", "video_references")
RESTYLE = ("restyle_id", "restyle_prompt")
NOT_CALLED_BACK = frozenset({"swap_mask", "avatar", "agent", "music_mv_agent", "image_template"})
INTEGERS = (
    "img_id", "first_frame_img", "last_frame_img", "source_video_id", "video_media_id", "audio_media_id", "duration",
    "seed", "template_id", "restyle_id", "agent_id",
)  # fmt: skip
LENGTHS = {"multi_transition": (2, 7), "image_references": (1, 10), "mask_ids": (0, 3), "mask_urls": (0, 3)}
OPTIONS = frozenset({"model", "duration", "quality", "aspect_ratio"})

CREDITS_FOR_5_S = {"360p": 45, "540p": 45, "720p": 60, "1080p": 120}
DEFAULT_QUALITY = "540p"
DEFAULT_DURATION_S = 5
SOUND_CREDITS_FOR_5_S = 10


class Operation(msgspec.Struct, frozen=True):
    """One submit call. Of each group in `required` at least one field must be there."""

    name: str
    required: tuple[tuple[str, ...], ...]
    exclusive: tuple[tuple[str, ...], ...] = ()  # of each group at most one
    best_quality: str = "1080p"

    @property
    def takes_callback(self) -> bool:
        """By its page on webhooks, which names 13 endpoints."""
        return self.name not in NOT_CALLED_BACK


def _needs(*groups: str | tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple((group,) if isinstance(group, str) else group for group in groups)


SUBMITS = {
    "video/text/generate": Operation("text_to_video", _needs("prompt", "model", "duration", "quality", "aspect_ratio")),
    "video/img/generate": Operation("image_to_video", _needs(IMAGE, "prompt", "model", "duration", "quality")),
    "video/transition/generate": Operation(
        "transition", _needs("first_frame_img", "last_frame_img", "prompt", "model", "duration", "quality")
    ),
    "video/multi_transition/generate": Operation("multi_transition", _needs("multi_transition", "model", "quality")),
    "video/lip_sync/generate": Operation("lip_sync", _needs(SOURCE, SPEECH), exclusive=(SOURCE, SPEECH)),
    "video/fusion/generate": Operation(
        "fusion", _needs(REFERENCES, "prompt", "model", "duration", "quality", "aspect_ratio")
    ),
    "video/restyle/generate": Operation("restyle", _needs(SOURCE, RESTYLE), exclusive=(SOURCE, RESTYLE)),
    "video/mask/selection": Operation("swap_mask", _needs(SOURCE), exclusive=(SOURCE,)),
    "video/swap/generate": Operation(
        "swap", _needs(SOURCE, "img_id", "quality"), exclusive=(SOURCE,), best_quality="720p"
    ),
    "video/sound_effect/generate": Operation(
        "sound_effect", _needs(SOURCE, ("sound_effect_content", "prompt")), exclusive=(SOURCE,)
    ),
    "video/extend/generate": Operation(
        "extend", _needs(SOURCE, "prompt", "model", "duration", "quality"), exclusive=(SOURCE,)
    ),
    "video/mimic/generate": Operation(
        "mimic", _needs(SOURCE, "img_id", "quality"), exclusive=(SOURCE,), best_quality="720p"
    ),
    "video/modify/generate": Operation(
        "modify", _needs(SOURCE, "prompt", "quality"), exclusive=(SOURCE,), best_quality="720p"
    ),
    "video/upscale/generate": Operation("upscale", _needs(SOURCE), exclusive=(SOURCE,)),
    "video/avatar/generate": Operation("avatar", _needs("img_id", "quality", SPEECH), exclusive=(SPEECH,)),
    "video/agent/generate": Operation("agent", _needs("agent_id")),
    "video/music_mv_agent/generate": Operation("music_mv_agent", ()),  # what it takes is not documented
    "image/template/generate": Operation("image_template", _needs(IMAGE, "template_id")),
}
TEMPLATE = Operation("template", _needs(IMAGE, "template_id"))


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


def unusable(operation: Operation, fields: dict[str, Any]) -> str | None:
    """The first field that holds too much: two where one is wanted, a quality or a length beyond what there is."""
    for group in operation.exclusive:
        given = [name for name in group if fields.get(name) not in (None, "", [])]
        if len(given) > 1:
            return given[1]
    for name, (least, most) in LENGTHS.items():
        if name in fields and not (isinstance(fields[name], list) and least <= len(fields[name]) <= most):
            return name
    if (
        SPEECH in operation.required
        and fields.get("lip_sync_tts_content")
        and not fields.get("lip_sync_tts_speaker_id")
    ):
        return "lip_sync_tts_speaker_id"
    return "quality" if operation.best_quality == "720p" and fields.get("quality") == "1080p" else None


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
