"""What Progressive Robot charges, by its documents (API docs, "Credit Costs"). Never a guess: None where a quantity
that counts, such as the length of a video that is already there, is not in the input.

The formula of the video models wins over the printed examples, five of which contradict it; where two tables differ
the larger figure is taken.
"""

from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

import msgspec

from service.providers import Documented
from service.providers._reading import number, whole
from service.states import Json

CATALOGS = msgspec.json.decode(
    Path(__file__).with_name("progressiverobot.catalog.json").read_bytes(), type=dict[str, Documented]
)
MODELS: Mapping[str, Json] = {row["id"]: row for row in CATALOGS["models"].data}
IMAGE_MODELS: Mapping[str, Json] = {row["id"]: row for row in CATALOGS["image_models"].data}

# "One or more" images: no document names the field that says how many, so that the usual names are read; none is one.
COUNTS = ("count", "num_images", "batch_size")
AUDIO_CREDITS, AUDIO_S = 8, 30
EDIT_CREDITS, CLIP_CREDITS = 3, 2


def price(operation: str, given: Json) -> str | None:
    """Credits for this input, as decimal text, by a rule; flat prices are in the operation table."""
    rule = RULES.get(operation)
    found = None if rule is None else rule(given)
    return None if found is None else f"{found:f}"


def generation(model: Any, frames: Any, steps: Any) -> Decimal | None:
    """base + frames x per_frame + steps x per_step, rounded up; exact, as the factors are decimal texts."""
    row = MODELS.get(model) if isinstance(model, str) else None
    if row is None:
        return None
    amount = Decimal(row["base"])
    for factor, given in ((row["per_frame"], frames), (row["per_step"], steps)):
        quantity = _count(given)
        if quantity is None and Decimal(factor):
            return None  # the model's default counts then, and is not documented
        amount += Decimal(factor) * (quantity or 0)
    return _rounded_up(amount)


def clips(count: int) -> Decimal:
    """A merge or an export: max(3, 2 x clips), which is never less than the "3 each" of the table of edits."""
    return Decimal(max(EDIT_CREDITS, CLIP_CREDITS * count))


def _generate(given: Json) -> Decimal | None:
    return generation(given.get("model"), given.get("frames"), given.get("steps"))


def _images(given: Json) -> Decimal | None:
    model = given.get("model")
    row = IMAGE_MODELS.get(model) if isinstance(model, str) else None
    asked = [given[name] for name in COUNTS if given.get(name) is not None]
    count = _count(asked[0]) if asked else 1
    return None if row is None or count is None else Decimal(row["credit_cost"]) * count


def _audio(given: Json) -> Decimal | None:
    duration = number(given.get("duration_seconds"))
    return _rounded_up(AUDIO_CREDITS * Decimal(str(duration)) / AUDIO_S) if duration else None


def _merge(given: Json) -> Decimal | None:
    videos = given.get("video_filenames")
    return clips(len(videos)) if isinstance(videos, list) and videos else None


RULES: Mapping[str, Callable[[Json], Decimal | None]] = {
    "generate": _generate,
    "generate_image": _images,
    "generate_audio": _audio,
    "edit_merge": _merge,
}


def _count(value: Any) -> int | None:
    found = whole(value)
    return found if found is not None and 0 <= found <= 10**9 else None


def _rounded_up(amount: Decimal) -> Decimal:
    return amount.to_integral_value(ROUND_CEILING)
