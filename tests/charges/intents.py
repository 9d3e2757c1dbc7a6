"""One intent per provider: the smallest job that it takes, with the nonce where the provider keeps it."""

from collections.abc import Callable
from typing import Any, NamedTuple

Given = dict[str, Any]


class Intent(NamedTuple):
    operation: str
    given: Callable[[str], Given]
    settles: bool  # whether every submit whose reply was lost is settled without a person


def _pixverse(nonce: str) -> Given:
    return {"prompt": nonce, "model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"}


INTENTS = {
    "aimlapi": Intent("video", lambda nonce: {"model": "pixverse/v5/text-to-video", "prompt": nonce}, True),
    "fal": Intent("queue", lambda nonce: {"model": "fal-ai/fast-sdxl", "input": {"prompt": nonce}}, True),
    "peakmv": Intent("generate", lambda nonce: {"audio_url": f"https://media.example.com/{nonce}.mp3"}, False),
    "pixverse": Intent("text_to_video", _pixverse, True),
    "progressiverobot": Intent("generate", lambda nonce: {"prompt": nonce, "model": "wan-t2v"}, True),
    "replicate": Intent("prediction", lambda nonce: {"version": "a" * 64, "input": {"prompt": nonce}}, True),
}
