"""How a text of the environment becomes a setting: one reader per kind, each refusal a sentence with its remedy."""

import contextlib
import ipaddress
import re
from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from service.crypto import Secret, Vault

MIN_API_KEY_CHARS = 32
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
FLAGS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
URL = re.compile(r"https?://(?:[^\s/?#@]+@)?(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?(?:[/?#][!-~]*)?")


def flag(value: str) -> bool:
    if value.lower() not in FLAGS:
        raise ValueError("it is neither true nor false: give one of these")
    return FLAGS[value.lower()]


def whole(low: int, high: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", value) or not low <= int(value) <= high:
            raise ValueError(f"it is not a whole number from {low} to {high}: give one")
        return int(value)

    return read


def rate(value: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (rate := float(value)) <= 10_000:
            return rate
    raise ValueError("it is not a number above 0 and at most 10000: give one, such as 0.5")


def level(value: str) -> str:
    if value.upper() not in LOG_LEVELS:
        raise ValueError(f"it is not a level: give one of {', '.join(LOG_LEVELS)}")
    return value.upper()


def api_key(value: str) -> Secret:
    if len(value) < MIN_API_KEY_CHARS or not re.fullmatch(r"[!-~]+", value):
        raise ValueError(f"it is too short or has spaces: give {MIN_API_KEY_CHARS} visible ASCII characters or more")
    return Secret(value)


def master_keys(value: str) -> Secret:
    Vault.parse(value)
    return Secret(value)


def url(value: str) -> str:
    with contextlib.suppress(ValueError):  # of a port or a bracketed address that cannot be
        if URL.fullmatch(value) and urlsplit(value).port != 0:
            return value
    raise ValueError("it is not an http or https URL: give one like https://callsheet.example")


def origin(value: str) -> str:
    parts = urlsplit(url(value))
    if parts.query or parts.fragment or "@" in parts.netloc or value.endswith(("/", "?", "#")):
        raise ValueError("it must be an origin and at most a prefix: remove user, query, fragment and last slash")
    return value


def database_url(value: str) -> str:
    """`postgres://`, as hosts of databases hand it out, is `postgresql://`."""
    value = re.sub(r"^postgres://", "postgresql://", value)
    form = r"sqlite:///[^?#]*[^?#/]|postgresql://[^/?#\s]*/[^?#\s]+\S*"
    if re.fullmatch(form, value) and ":memory:" not in value:
        return value
    raise ValueError("it is no database: give sqlite:///file.db, sqlite:////absolute/file.db or postgresql://host/name")


def networks(value: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(item.strip()) for item in value.split(",") if value)
    except ValueError as error:
        raise ValueError(f"{error}: give networks like 127.0.0.0/8,::1/128") from None


def knob(default: str | None, read: Callable[[str], Any], unit: str, doc: str, *, secret: bool = False) -> Any:
    """One row of the table. A secret is left out of repr and errors, and may be given by a file (`X_FILE`)."""
    value = None if default is None else read(default)
    unit = f"{unit}, or X_FILE" if secret else unit
    return field(default=value, repr=not secret, metadata={"text": default, "read": read, "unit": unit, "doc": doc})


secret_knob = partial(knob, secret=True)
