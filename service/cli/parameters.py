"""Kinds of arguments: durations, key=value pairs, JSON from text, file or stdin."""

import json
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd]?)")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
# What is read as JSON in -f key=value: numbers, true, false, null, and anything quoted or bracketed.
_JSON = re.compile(r"""-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null|[\[{"].*""", re.DOTALL)


class Duration(click.ParamType[float]):
    """Seconds, from `50s`, `2m`, `6h`, `7d` or plain seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, int | float):
            return float(value)
        match = _DURATION.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is not a duration: give one like 50s, 2m, 6h or 7d", param, ctx)
        return float(match[1]) * SECONDS[match[2]]


class Since(click.ParamType[str]):
    """A time in RFC 3339, also given as how long ago it was, or as a date: its beginning in UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The time in RFC 3339; what is none of these is the service's to refuse."""
        text = " ".join(str(value).lower().split())
        if _DATE.fullmatch(text):
            return f"{text}T00:00:00Z"
        match = _DURATION.fullmatch(text.removesuffix("ago").replace(" ", ""))
        if match is None or not match[2]:
            return str(value)
        ago = timedelta(seconds=float(match[1]) * SECONDS[match[2]])
        try:
            return (datetime.now(UTC) - ago).isoformat().replace("+00:00", "Z")
        except OverflowError:
            self.fail(f"{value!r} ago is before the year 1: give less", param, ctx)


class Pair(click.ParamType[tuple[str, str]]):
    """`key=value`."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """(key, value), both as they were typed."""
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not equals or not key:
            self.fail(f"{value!r} is not key=value", param, ctx)
        return key, text


DURATION, SINCE, PAIR = Duration(), Since(), Pair()


def typed(pairs: Iterable[tuple[str, str]], *, param: str) -> dict[str, Any]:
    """The pairs with their values read: JSON where it looks like JSON, else text. `"42"` in quotes stays text."""
    return {key: _value(text, param) if _JSON.fullmatch(text) else text for key, text in pairs}


def _value(text: str, param: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} begins like JSON and is none; put text in quotes", param_hint=param
        ) from None


def read_json_argument(given: str, *, param: str) -> dict[str, Any]:
    """A JSON object from text, `@file` or `-` (stdin)."""
    try:
        text = sys.stdin.read() if given == "-" else Path(given[1:]).read_text("utf-8") if given[:1] == "@" else given
        value = json.loads(text)
    except OSError as error:
        raise click.BadParameter(f"{given[1:]} cannot be read: {error.strerror}", param_hint=param) from None
    except ValueError as error:
        raise click.BadParameter(f"this is not JSON: {error}", param_hint=param) from None
    if not isinstance(value, dict):
        raise click.BadParameter('give a JSON object, like {"prompt": "a red kite"}', param_hint=param)
    return value


def read_secret(given: str, *, param: str) -> str:
    """A secret from a file or `-` (stdin), without the line end that editors add."""
    try:
        text = sys.stdin.read() if given == "-" else Path(given).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise click.BadParameter(f"{given} cannot be read: {reason}", param_hint=param) from None
    if not text.strip():
        raise click.BadParameter(f"{given} is empty", param_hint=param)
    return text.strip()
