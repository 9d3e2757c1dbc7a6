"""Progressive Robot's calls that make something, as data: path, what must be there, what it costs and gives."""

from typing import Any

import msgspec

from service.sandbox import progressiverobot_prices as prices
from service.sandbox.accounts import Number
from service.sandbox.progressiverobot_calls import Call, Refused
from service.sandbox.progressiverobot_prices import Price, flat, per_clip, per_ten_seconds

Range = tuple[Number, Number]
LONGEST_PROMPT = 2000
LARGEST_BATCH = 100  # the page names no limit
BATCH_FIELDS = ("count", "num_images", "batch_size")  # the page does not name the field
INTEGERS = ("width", "height", "frames", "steps", "seed", "frame_rate", "project_id", *BATCH_FIELDS)
TEXTS = ("prompt", "text", "script", "idea", "target_language")
RANGES: dict[str, Range] = {
    "cfg": (0, 100),
    "shift": (0, 100),
    "strength": (0, 1),
    "speed_factor": (0.25, 4),
    "scale_factor": (2, 4),
    "duration_seconds": (1, 3600),
    "speed": (0.25, 4),
    "frames": (1, prices.TIERS["enterprise"].frames),
    "steps": (1, 1000),
    "frame_rate": (1, 240),
    **dict.fromkeys(("width", "height"), (1, 8192)),
    **dict.fromkeys(BATCH_FIELDS, (1, LARGEST_BATCH)),
}
TIMES = (("start_seconds", "end_seconds"), ("start_time", "end_time"))


class Making(msgspec.Struct, frozen=True, kw_only=True):
    """One such call. Of each group in `needs` one field must be there; `gives` is the field of the reply that tells
    of the result: `job_id` and `job_ids` are polled, all others are the result."""

    needs: tuple[str | tuple[str, ...], ...] = ()
    cost: Price = flat(0)  # the page names none
    gives: str = "filename"
    kind: str = "mp4"
    tier: str = ""
    pictures: int = 0  # how many the form must carry
    choices: dict[str, tuple[str, ...]] = {}
    history: str = ""


VIDEO = "video_filename"
EDIT, TOOL = flat(3), flat(1)
TRANSLATION, HOSTED = prices.FEATURES["subtitle_translation"], prices.FEATURES["brand_kits"]
VIDEO_MODELS, IMAGE_MODELS = tuple(prices.MODELS), tuple(prices.IMAGE_MODELS)

MAKINGS = {
    "generate": Making(
        needs=("prompt",), cost=prices.video, gives="job_id", choices={"model": VIDEO_MODELS}, history="generations"
    ),
    "generate-image": Making(
        needs=("prompt",),
        cost=prices.image,
        gives="job_ids",
        kind="png",
        choices={"model": IMAGE_MODELS},
        history="image-generations",
    ),
    "generate-v2v": Making(
        needs=(VIDEO, "prompt"),
        cost=per_ten_seconds(prices.VIDEO_TO_VIDEO_CREDITS),
        gives="job_id",
        history="generations",
    ),
    "extend-video": Making(needs=(VIDEO,), kind="png"),
    "generate-audio": Making(
        needs=("prompt",), cost=prices.audio, gives="job_id", kind="mp3", history="audio-generations"
    ),
    "video/add-audio": Making(needs=(VIDEO, "audio_filename")),
    "tts/generate": Making(
        needs=("text",),
        cost=prices.speech,
        kind="mp3",
        tier=prices.FEATURES["tts"],
        choices={"voice_id": tuple(prices.VOICES)},
    ),
    "tts/add-to-video": Making(needs=(VIDEO, "tts_filename"), tier=prices.FEATURES["tts"]),
    "subtitles/generate": Making(needs=(VIDEO,), cost=flat(5), gives="srt_filename", kind="srt"),
    "subtitles/burn": Making(needs=(VIDEO, "srt_filename"), choices={"style": ("default", "bold-yellow", "minimal")}),
    "subtitles/translate": Making(
        needs=("srt_filename", "target_language"), cost=flat(5), kind="srt", tier=TRANSLATION
    ),
    "edit/trim": Making(needs=(VIDEO, ("start_seconds", "end_seconds")), cost=EDIT),
    "edit/speed": Making(needs=(VIDEO, "speed_factor"), cost=EDIT),
    "edit/crop": Making(needs=(VIDEO, ("x", "y", "width", "height")), cost=EDIT),
    "edit/resize": Making(
        needs=(VIDEO, ("preset", "width"), ("preset", "height")), cost=EDIT, choices={"preset": ("1080p", "720p")}
    ),
    "edit/text-overlay": Making(needs=(VIDEO, "text"), cost=EDIT),
    "edit/merge": Making(needs=("video_filenames",), cost=per_clip),
    "tools/remove-background": Making(cost=TOOL, kind="png", pictures=1),
    "tools/upscale-video": Making(
        needs=(VIDEO,), cost=per_ten_seconds(2), gives="job_id", tier=prices.FEATURES["upscale"]
    ),
    "tools/face-swap": Making(cost=TOOL, gives="job_id", kind="png", pictures=2, tier=prices.FEATURES["face_swap"]),
    "tools/extract-frames": Making(
        needs=(VIDEO,),
        cost=TOOL,
        gives="filenames",
        kind="png",
        choices={"mode": ("first", "last", "middle", "all_1fps")},
    ),
    "tools/trim-video": Making(needs=(VIDEO, ("start_time", "end_time")), cost=TOOL),
    "tools/video-to-gif": Making(needs=(VIDEO,), cost=TOOL, kind="gif"),
    "tools/add-watermark": Making(needs=(VIDEO, ("text", "image")), cost=TOOL, choices={"type": ("text", "image")}),
    "studio/script-to-shots": Making(needs=(("script", "text"),), gives="shots"),
    "projects/{project}/export": Making(cost=per_clip, gives="job_id"),
    "brand-kits/{kit}/apply": Making(needs=(VIDEO,), tier=HOSTED),
    "generate-prompt": Making(needs=(("idea", "prompt"),), gives="prompt"),
}


def name_of(path: str) -> str:
    """The operation's name: its path without ids, in one word."""
    parts = [part for part in path.split("/") if not part.startswith("{")]
    return "_".join(parts).replace("-", "_")


def check(making: Making, call: Call) -> None:
    """400 for what is missing or out of its range; it names the field."""
    for group in making.needs:
        names = (group,) if isinstance(group, str) else group
        if not any(_given(call, name) for name in names):
            raise Refused(400, f"{' or '.join(names)} is required", field=names[0])
    if making.pictures:
        call.images(making.pictures)
    for name, allowed in making.choices.items():
        if call.fields.get(name) is not None:
            call.choose(name, allowed)
    if problem := _out_of_range(call.fields):
        raise Refused(400, f"{problem[0]} {problem[1]}", field=problem[0])


def check_tier(making: Making, fields: dict[str, Any], tier: str) -> None:
    """403 where the tier allows fewer frames, or a smaller picture; it names the tier needed."""
    if making.gives not in ("job_id", "job_ids"):
        return
    frames = fields.get("frames") or 0 if making.history == "generations" else 0
    held = prices.TIERS[tier]
    if prices.fits(held, fields, frames=frames):
        return
    what = f"at most {held.frames} frames" if frames > held.frames else f"at most {held.resolution}"
    needed = prices.tier_for(fields, frames=frames)
    raise Refused(403, f"Your tier allows {what}", **({"required_tier": needed} if needed else {}))


def count_of(making: Making, fields: dict[str, Any]) -> int:
    """How many jobs a submit makes."""
    given = (fields[name] for name in BATCH_FIELDS if fields.get(name))
    return int(next(given, 1)) if making.gives == "job_ids" else 1


def _given(call: Call, name: str) -> bool:
    return call.fields.get(name) not in (None, "", []) or any(part.name == name for part in call.files)


def _out_of_range(fields: dict[str, Any]) -> tuple[str, str] | None:
    """The first field that holds what it cannot, and why."""
    for name in fields:
        value = fields[name]
        if name in INTEGERS and value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            return name, "must be an integer"
        if name in RANGES and value is not None and not _within(value, RANGES[name]):
            low, high = RANGES[name]
            return name, f"must be between {low} and {high}"
        if (name in TEXTS or name.endswith("_filename")) and not isinstance(value, str):
            return name, "must be a text"
    if len(fields.get("prompt", "")) > LONGEST_PROMPT:
        return "prompt", f"must be at most {LONGEST_PROMPT} characters"
    if not _several(fields.get("video_filenames", ["", ""])):
        return "video_filenames", "must be an array of 2 to 20 names"
    for start, end in TIMES:
        if start in fields and end in fields and not _earlier(fields[start], fields[end]):
            return end, f"must be greater than {start}"
    return None


def _several(names: Any) -> bool:
    return isinstance(names, list) and 2 <= len(names) <= 20 and all(isinstance(name, str) for name in names)


def _within(value: Any, bounds: Range) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and bounds[0] <= value <= bounds[1]


def _earlier(start: Any, end: Any) -> bool:
    return isinstance(start, int | float) and isinstance(end, int | float) and 0 <= start < end
