"""Progressive Robot's models, credit arithmetic and subscription tiers, as its page (S001) states them.

Where the page gives two figures the larger is charged: the formula, rounded up, rather than the printed examples;
video-to-video by its seconds rather than flat; a merge by its clips rather than as an edit.
"""

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

FRAMES, STEPS = 41, 4  # of the page's example; what a submit that does not say is charged for
WIDTH, HEIGHT, FRAME_RATE = 832, 480, 24  # of a submit that does not say
WORDS_PER_MINUTE = 150  # of speech, whose length is known only once it is made
AUDIO_S = 30
UNKNOWN_S = 10.0  # how long a video is that we have never seen
PENCE_PER_CREDIT = 1


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What a price may depend on besides the fields: the length of the videos named, and how many clips."""

    seconds: float = UNKNOWN_S
    clips: int = 0


Price = Callable[[dict[str, Any], Source], int]


class Model(msgspec.Struct, frozen=True):
    """A video model and its row of the price list, in credits."""

    name: str
    kind: str
    base: str
    per_frame: str = "0"
    per_step: str = "0"

    def cost(self, frames: int, steps: int) -> int:
        """base + frames x per frame + steps x per step, rounded up."""
        return math.ceil(Decimal(self.base) + frames * Decimal(self.per_frame) + steps * Decimal(self.per_step))


TEXT, IMAGE, KEYFRAMES, SOUND, SPECIAL = (
    "text-to-video",
    "image-to-video",
    "first-last-frame",
    "sound-to-video",
    "specialised",
)
DEFAULT_MODEL = "wan-t2v"
MODELS = {
    "wan-t2v": Model("WAN 2.2", TEXT, "10", "0.20", "0.50"),
    "ltx-t2v": Model("LTX 2.3", TEXT, "8", "0.15", "0.30"),
    "ltx-quality": Model("LTX Quality", TEXT, "15", "0.25", "0.40"),
    "hunyuan-t2v": Model("Hunyuan", TEXT, "12", "0.20", "0.40"),
    "hunyuan15-t2v": Model("Hunyuan 1.5", TEXT, "12", "0.20", "0.40"),
    "cogvideo-t2v": Model("CogVideoX 1.5", TEXT, "12", "0.20", "0.40"),
    "animatediff": Model("AnimateDiff", TEXT, "6", "0.10", "0.30"),
    "ltx-camera": Model("LTX Camera Control", TEXT, "10", "0.15", "0.30"),
    "ltx-control": Model("LTX ControlNet", TEXT, "12", "0.15", "0.30"),
    "wan-vace": Model("WAN VACE", TEXT, "15", "0.25", "0.50"),
    "wan-animate": Model("WAN Animate", TEXT, "18", "0.30", "0.50"),
    "hunyuan15-i2v": Model("Hunyuan 1.5 I2V", IMAGE, "15", "0.25", "0.50"),
    "ltx-i2v": Model("LTX 2.3 I2V", IMAGE, "12", "0.20", "0.40"),
    "svd-i2v": Model("SVD XT I2V", IMAGE, "10", "0.15", "0.40"),
    "wan-i2v": Model("WAN 2.2 I2V", IMAGE, "12", "0.20", "0.50"),
    "ltx-flf": Model("LTX 2.3 First-Last Frame", KEYFRAMES, "12", "0.15", "0.30"),
    "wan-flf": Model("WAN 2.2 First-Last Frame", KEYFRAMES, "12", "0.20", "0.50"),
    "wan-s2v": Model("WAN 2.2 Sound-to-Video", SOUND, "15", "0.25", "0.50"),
    "liveportrait": Model("LivePortrait", SPECIAL, "8", "0.10"),
    "dreamidv": Model("DreamID-V", SPECIAL, "15", "0.20", "0.40"),
    "echomimic": Model("EchoMimic", SPECIAL, "12", "0.15", "0.30"),
    "hunyuan3d": Model("Hunyuan3D v2", SPECIAL, "20", "0", "0.80"),
}
VIDEO_TO_VIDEO = "v2v"  # has a row of the price list, but is no model to choose
VIDEO_TO_VIDEO_CREDITS = 3
DEFAULT_IMAGE_MODEL = "sd15"
IMAGE_MODELS = {
    "sd15": ("Stable Diffusion 1.5", 2),
    "flux": ("Flux 2 Klein", 5),
    "flux-dev": ("Flux 2 Dev", 8),
    "flux-edit": ("Flux 2 Image Edit", 6),
}
VOICES = {
    "en_gb_male": "British English — Male",
    "en_gb_female": "British English — Female",
    "en_us_male": "American English — Male",
    "en_us_female": "American English — Female",
}
RULES = {  # the page's other prices, in its words
    "audio": "8 per 30 seconds (pro-rated)",
    "tts": "6 per minute (pro-rated)",
    "subtitles": "5 flat",
    "subtitle_translation": "5 flat",
    "video_edit": "3 each",
    "tools": "1",
    "upscale": "~2 per 10 seconds (min 2)",
    "video_to_video": "~3 per 10 seconds (min 3)",
    "project_export": "max(3, 2 × clip count)",
    "merge": "max(3, 2 × clip count)",
}


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscription allows: credits per month, the largest picture, the longest video."""

    credits: int
    resolution: str
    frames: int
    watermark: bool = False


TIERS = {  # from the least to the greatest
    "free": Tier(credits=150, resolution="480p", frames=81, watermark=True),
    "starter": Tier(credits=500, resolution="1080p", frames=121),
    "creator": Tier(credits=1_500, resolution="4K", frames=201),
    "pro": Tier(credits=5_000, resolution="4K", frames=301),
    "studio": Tier(credits=15_000, resolution="4K", frames=301),
    "enterprise": Tier(credits=50_000, resolution="4K", frames=999),
}
RANKS = {name: rank for rank, name in enumerate(TIERS)}
FEATURES = {  # and the least tier that has each
    "stock": "creator",
    "tts": "creator",
    "upscale": "creator",
    "face_swap": "pro",
    "subtitle_translation": "pro",
    "hosting": "pro",
    "organisations": "pro",
    "brand_kits": "pro",
}
SIZES = {"480p": (854, 480), "1080p": (1920, 1080), "4K": (4096, 2160)}
LINES = {"480p": 480, "720p": 720, "1080p": 1080, "1440p": 1440, "2160p": 2160, "4k": 2160}


def reaches(tier: str, least: str) -> bool:
    """Whether a tier is the least one or above it."""
    return not least or RANKS[tier] >= RANKS[least]


def fits(tier: Tier, fields: dict[str, Any], *, frames: int) -> bool:
    """Whether a tier allows so many frames, and the picture asked for.

    The page gives resolutions only. A picture is beyond one where it has more pixels and is longer on its shorter
    side, too: 512 x 512 passes as 480p. A resolution may also be named, as for an export.
    """
    width, height = fields.get("width") or WIDTH, fields.get("height") or HEIGHT
    widest, lines = SIZES[tier.resolution]
    larger = width * height > widest * lines and min(width, height) > lines
    named = LINES.get(str(fields.get("resolution", "")).lower(), 0)
    return frames <= tier.frames and not larger and named <= lines


def tier_for(fields: dict[str, Any], *, frames: int) -> str | None:
    """The least tier that allows so much; None where none does."""
    return next((name for name, tier in TIERS.items() if fits(tier, fields, frames=frames)), None)


# -- prices --


def flat(credits: int) -> Price:
    """The same for each."""
    return lambda fields, source: credits


def video(fields: dict[str, Any], source: Source) -> int:
    """A generated video."""
    model = MODELS[fields.get("model") or DEFAULT_MODEL]
    return model.cost(fields.get("frames") or FRAMES, fields.get("steps") or STEPS)


def image(fields: dict[str, Any], source: Source) -> int:
    """One picture."""
    return IMAGE_MODELS[fields.get("model") or DEFAULT_IMAGE_MODEL][1]


def audio(fields: dict[str, Any], source: Source) -> int:
    """Music or an effect: 8 per 30 s, pro-rated."""
    return math.ceil(8 * (fields.get("duration_seconds") or AUDIO_S) / 30)


def speech(fields: dict[str, Any], source: Source) -> int:
    """A voice: 6 per minute, pro-rated."""
    return max(1, math.ceil(6 * speech_minutes(fields)))


def speech_minutes(fields: dict[str, Any]) -> float:
    """How long a text takes to say."""
    return len(fields["text"].split()) / WORDS_PER_MINUTE / (fields.get("speed") or 1)


def per_ten_seconds(credits: int) -> Price:
    """By the length of the video given, at least once."""
    return lambda fields, source: max(credits, math.ceil(credits * source.seconds / 10))


def per_clip(fields: dict[str, Any], source: Source) -> int:
    """max(3, 2 x clips)."""
    return max(3, 2 * source.clips)
