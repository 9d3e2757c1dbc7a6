"""Faults of the sandbox: which may happen, how likely, and how often each has."""

import random
from collections import Counter
from collections.abc import Mapping
from typing import Annotated

import msgspec

Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class CallbackFaults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong with callbacks. `duplicate` is how many copies are sent in all."""

    duplicate: Annotated[int, msgspec.Meta(ge=0, le=100)] = 1
    before_reply: Probability = 0.0
    lose: Probability = 0.0
    forge: Probability = 0.0
    delay_s: tuple[Seconds, Seconds] = (0.0, 0.0)
    retry_s: tuple[Seconds, ...] | None = None  # None: the provider's own schedule


class Faults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `PUT /_sandbox/{p}/faults`; whatever is not named does not happen."""

    seed: int = 0
    drop_reply_after_accept: Probability = 0.0
    hang_after_accept: Probability = 0.0
    hang_s: Seconds = 600.0
    error_before_accept: dict[str, Probability] = {}
    error_after_accept: dict[str, Probability] = {}
    callback: CallbackFaults = msgspec.field(default_factory=CallbackFaults)
    status_regress: Probability = 0.0
    duration_s: tuple[Seconds, Seconds] = (1.0, 3.0)
    fail: Probability = 0.0
    moderation: Probability = 0.0


AFTER_ACCEPT_STATUSES = frozenset({"500", "502", "503", "504"})
COUNTED = (
    "drop_reply_after_accept",
    "hang_after_accept",
    "status_regress",
    "fail",
    "moderation",
    "callback.duplicate",
    "callback.before_reply",
    "callback.lose",
    "callback.forge",
)


def read_faults(body: bytes, *, refusals: frozenset[str]) -> Faults:
    """Read a fault configuration; `msgspec.ValidationError` names what is unknown or out of range."""
    faults = msgspec.json.decode(body or b"{}", type=Faults)
    _only(faults.error_before_accept, refusals, "error_before_accept")
    _only(faults.error_after_accept, AFTER_ACCEPT_STATUSES, "error_after_accept")
    return faults


def _only(chances: Mapping[str, float], known: frozenset[str], field: str) -> None:
    if unknown := sorted(set(chances) - known):
        raise msgspec.ValidationError(f"unknown {field} {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    if sum(chances.values()) > 1:
        raise msgspec.ValidationError(f"{field} adds up to more than 1")


class Dice:
    """Rolls for faults. Each fault has a stream of its own, so that one fault does not shift another's sequence."""

    def __init__(self, seed: int, happened: Counter[str]) -> None:
        self._seed = seed
        self._happened = happened
        self._streams: dict[str, random.Random] = {}

    def strikes(self, name: str, probability: float) -> bool:
        """Whether the fault happens now; counted if it does."""
        if not probability or self._stream(name).random() >= probability:
            return False
        self.note(name)
        return True

    def choose(self, name: str, chances: Mapping[str, float]) -> str | None:
        """Which one of several exclusive faults happens now, if any; counted as `name.choice`."""
        if not chances:
            return None
        left = self._stream(name).random()
        for choice, probability in chances.items():
            left -= probability
            if left < 0:
                self.note(f"{name}.{choice}")
                return choice
        return None

    def between(self, name: str, bounds: tuple[float, float]) -> float:
        """A uniform draw."""
        return self._stream(name).uniform(*bounds)

    def note(self, name: str, times: int = 1) -> None:
        """Count a fault that was decided elsewhere."""
        self._happened[name] += times

    def _stream(self, name: str) -> random.Random:
        if name not in self._streams:
            self._streams[name] = random.Random(f"{self._seed}:{name}")  # noqa: S311 - repeatable, not secret
        return self._streams[name]


def new_count(refusals: frozenset[str]) -> Counter[str]:
    """Counts at zero, with every fault's name in it, so that a reader sees what did not happen."""
    before = [f"error_before_accept.{code}" for code in sorted(refusals)]
    after = [f"error_after_accept.{status}" for status in sorted(AFTER_ACCEPT_STATUSES)]
    return Counter(dict.fromkeys([*COUNTED, *before, *after], 0))
