"""What a tier of Progressive Robot allows, by its documents (API docs, "Subscription Tiers")."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from service.errors import Invalid
from service.providers._progressiverobot_money import CATALOGS
from service.providers._reading import whole
from service.states import Json

TIERS: Mapping[str, Json] = {row["id"]: row for row in CATALOGS["tiers"].data}  # from the least to the greatest
RANKS = {name: rank for rank, name in enumerate(TIERS)}
# The documents name resolutions only. A size is beyond one where it has more pixels and its shorter side is longer
# too: 512x512 and 864x480, which models make by themselves, pass as 480p. "4K" is read as the wider of its two sizes.
SIZES = {"480p": (854, 480), "1080p": (1920, 1080), "4K": (4096, 2160)}
LINES = {"2k": 1440, "4k": 2160, "8k": 4320}


def tier_of(account: Json | None) -> str | None:
    """The account's tier; None where it is not known, or where no tier binds it (an administrator's)."""
    said = account or {}
    named = said.get("tier")
    word = named.strip().lower() if isinstance(named, str) else ""
    return word if word in TIERS and not said.get("admin") else None


def title(tier: str) -> str:
    return f"{tier.capitalize()} tier"


def check(account: Json | None, operation: str, least: str, given: Json) -> None:
    """Raise `Invalid` that names the field (or `operation`) and the least tier that would allow it."""
    tier = tier_of(account)
    if tier is None:
        return
    if RANKS.get(least, 0) > RANKS[tier]:
        said = f"`{operation}` needs Progressive Robot's {title(least)} or a higher one: this credential has the"
        raise Invalid(f"{said} {title(tier)}.", param="operation")
    if operation == "generate":
        _check_frames(account or {}, tier, given)
        _check_size(tier, given)
    if operation == "projects_export":
        _check_lines(tier, given)


def _check_frames(account: Json, tier: str, given: Json) -> None:
    frames = whole(given.get("frames"))
    limits = account.get("limits")
    own = whole(limits.get("max_frames")) if isinstance(limits, dict) else None  # the provider's word for this account
    most = own if own is not None else TIERS[tier]["max_frames"]
    if frames is not None and frames > most:
        said = f"{frames} frames are beyond the {title(tier)}, which allows {most}"
        raise _beyond(said, "frames", _least(tier, lambda name: frames <= TIERS[name]["max_frames"]))


def _check_size(tier: str, given: Json) -> None:
    sides = {side: whole(given.get(side)) for side in ("width", "height")}
    known = {side: pixels for side, pixels in sides.items() if pixels is not None}
    if known and not _fits(list(known.values()), tier):
        shown = " x ".join(str(pixels) for pixels in known.values())
        said = f"{shown} pixels are beyond the {title(tier)}, which allows {TIERS[tier]['max_resolution']}"
        needed = _least(tier, lambda name: _fits(list(known.values()), name))
        raise _beyond(said, max(known, key=lambda side: known[side]), needed)


def _fits(sides: list[int], tier: str) -> bool:
    long, short = SIZES[TIERS[tier]["max_resolution"]]
    if len(sides) == 1:
        return sides[0] <= long  # whatever the other one is
    return sides[0] * sides[1] <= long * short or min(sides) <= short


def _check_lines(tier: str, given: Json) -> None:
    lines = _lines(given.get("resolution"))
    if lines is not None and lines > _most_lines(tier):
        said = f"{given['resolution']} is beyond the {title(tier)}, which allows {TIERS[tier]['max_resolution']}"
        raise _beyond(said, "resolution", _least(tier, lambda name: lines <= _most_lines(name)))


def _most_lines(tier: str) -> int:
    return SIZES[TIERS[tier]["max_resolution"]][1]


def _lines(resolution: Any) -> int | None:
    word = resolution.strip().lower() if isinstance(resolution, str) else ""
    return int(word[:-1]) if re.fullmatch(r"[0-9]{3,4}p", word) else LINES.get(word)


def _least(above: str, allows: Callable[[str], bool]) -> str | None:
    """The least tier above this one that allows it."""
    return next((name for name in TIERS if RANKS[name] > RANKS[above] and allows(name)), None)


def _beyond(said: str, field: str, needed: str | None) -> Invalid:
    remedy = f"the {title(needed)} allows it" if needed else "no tier allows it"
    return Invalid(f"{said}: {remedy}.", param=f"input.{field}")
