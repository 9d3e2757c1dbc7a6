"""When to try again: schedules, jitter and `Retry-After`. Pure: time and chance are arguments.

Jitter only ever adds (1.0 to 1.2 of a step), so that no attempt is earlier than the schedule or the receiver said
and what fell due together does not come back together.
"""

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

JITTER = 0.2  # of the step; Svix spreads as widely, to both sides
MAX_RETRY_AFTER_S = 86_400.0  # a receiver cannot push us further out than this
MAX_STEP_S = 30 * 86_400.0
MAX_STEPS = 50
MAX_JOB_WAIT_S = 3_600.0  # nor a provider one job
MAX_HOLD_S = 900.0  # nor what else is submitted under its credential
THROTTLED_FACTOR = 2.0  # Svix also lets an overloaded receiver stretch a step to at most twice itself

_SECONDS = re.compile(r"[0-9]{1,15}")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_IMF_FIXDATE = re.compile(
    rf"({'|'.join(_DAYS)}), ([0-9]{{2}}) ({'|'.join(_MONTHS)}) ([0-9]{{4}}) ([0-9]{{2}}):([0-9]{{2}}):([0-9]{{2}}) GMT"
)


def parse_schedule(text: str) -> tuple[float, ...]:
    """Seconds before each attempt, the first one included, from text like `0,5,300`.

    Raises ValueError, with the remedy, for no steps, over 50, and any that is not between 0 and 30 days.
    """
    steps = text.split(",")
    if not 1 <= len(steps) <= MAX_STEPS:
        raise ValueError(f"it has {len(steps)} steps: give 1 to {MAX_STEPS}")
    return tuple(_parse_step(step.strip()) for step in steps)


def _parse_step(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,6})?", text):
        raise ValueError(f"{text!r} is not a number of seconds: write it like 0,5,300")
    seconds = float(text)
    if seconds > MAX_STEP_S:
        raise ValueError(f"{text} seconds is over 30 days: give {MAX_STEP_S:.0f} or less")
    return seconds


def retry_after(value: str | None, *, now: int) -> float | None:
    """Seconds from `now` (in seconds since 1970) that a `Retry-After` asks for, 0 to 86,400; None if it asks nothing.

    Whole seconds or an IMF-fixdate (RFC 9110 10.2.3). A date that has passed asks for 0; signs, fractions, impossible
    dates and anything else count as absent.
    """
    text = (value or "").strip(" \t")
    if _SECONDS.fullmatch(text):
        return min(float(text), MAX_RETRY_AFTER_S)
    at = http_date(text)
    return None if at is None else min(max(float(at - now), 0.0), MAX_RETRY_AFTER_S)


def http_date(value: str | None) -> int | None:
    """Seconds since 1970 of an IMF-fixdate (RFC 9110 5.6.7); None for anything else."""
    date = _IMF_FIXDATE.fullmatch((value or "").strip(" \t"))
    at = _timestamp(date) if date else None
    return None if at is None else int(at)


def _timestamp(date: re.Match[str]) -> float | None:
    weekday, day, month, year, hour, minute, second = date.groups()
    try:
        at = datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError:
        return None
    return at.timestamp() if at.weekday() == _DAYS.index(weekday) else None


def named_wait(seconds: float | None, most: float) -> float:
    """What somebody else asks us to wait, in seconds: 0 to `most`. Nothing, negative or no number (NaN) asks for 0."""
    return min(seconds, most) if seconds is not None and seconds > 0 else 0.0


def next_attempt(
    schedule: Sequence[float],
    attempts_made: int,
    *,
    retry_after: float | None,
    throttled: bool,
    random: Callable[[], float],
) -> float | None:
    """Seconds until the next attempt; None when the schedule is used up. `random` returns 0 to 1.

    A `Retry-After` counts where it is longer than our own step, up to 24 hours. Without one a throttled receiver
    (429, 502, 504: Standard Webhooks asks to slow down) is given twice the step. Jitter comes on top of either.
    """
    if attempts_made >= len(schedule):
        return None
    step = schedule[attempts_made]
    if retry_after is not None:
        step = max(step, min(retry_after, MAX_RETRY_AFTER_S))
    elif throttled:
        step *= THROTTLED_FACTOR
    return _jittered(step, random)


def backoff(n: int, *, first: float, factor: float, cap: float, random: Callable[[], float]) -> float:
    """Seconds to wait after failure number `n` (from 0): `first * factor ** n`, at most `cap`, and jitter on top."""
    try:
        step = first * factor**n
    except OverflowError:
        step = math.inf
    return _jittered(min(step, cap), random)


def _jittered(step: float, random: Callable[[], float]) -> float:
    return step * (1.0 + JITTER * random())
