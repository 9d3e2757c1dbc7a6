"""Reading what providers say, tolerantly: a reply that costs money is never lost to a surprise in its shape."""

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeGuard
from urllib.parse import quote, unquote, urlsplit

from service.retries import http_date, retry_after
from service.states import Json

LARGEST_NUMBER = 10**9  # of seconds, credits or pixels; NaN and infinity fail the comparison, too
MAX_ID_CHARS = 256
MAX_QUOTED_CHARS = 1000  # of a provider's text in our records
URL = re.compile(r"[!-\[\]-~]+")  # visible ASCII; browsers and libraries disagree about a backslash

ACCOUNT_WORDS = frozenset(
    "account accounts admin administrator administrators admins apikey apikeys auth billing checkout credential"
    " credentials invitation invitations invite invites invoice invoices key keys login logout member members oauth org"
    " organisation organisations organization organizations orgs password passwords payment payments profile profiles"
    " register session sessions signin signout signup sso stripe subscription subscriptions team teams token tokens"
    " user users wallet wallets whoami".split()
)

# A status that proves nothing about this request, whatever the body says (DESIGN section 3.1).
AMBIGUOUS = frozenset({408, 409, 424, 425})

# How providers and their public clients spell an end, as `plain_word` gives a word.
DONE_WORDS = frozenset("complete completed done finished ok ready succeeded success successful successfully".split())
FAILED_WORDS = frozenset("aborted error errored expired fail failed failure rejected timedout timeout".split())
CANCELED_WORDS = frozenset("canceled cancelled".split())


def read_json(body: bytes) -> Any:
    """The decoded body, or None where it is not JSON. Integers keep all their digits.

    In UTF-8, or UTF-16 and UTF-32 as the first bytes tell; with a byte order mark or without (RFC 8259 section 8.1).

    Halves of surrogate pairs (a prompt cut inside an emoji) become U+FFFD: a reply must not be lost for one.
    Nor for NaN, Infinity or 1e999, as Python services write them: they are null, so that what is made of a reply is
    JSON to every reader.
    """
    try:
        text = body.decode(json.detect_encoding(body))
        if "\\ud" in text or "\\uD" in text:
            text = _ESCAPES.sub(_without_half, text)
        return json.loads(text, parse_constant=_nothing, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def _nothing(_constant: str) -> None:
    return None


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


# A whole pair, a half of one, or any other escape: read in this order, so that `\\ud83d` in a text stays what it is.
_ESCAPES = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\.", re.S
)


def _without_half(escape: re.Match[str]) -> str:
    text = escape[0]
    return "\\ufffd" if len(text) == 6 and text[1] == "u" and text[2] in "dD" else text


def read_object(body: bytes) -> Json:
    """The body's JSON object; an empty one stands for whatever is none."""
    said = read_json(body)
    return said if isinstance(said, dict) else {}


def text_of(value: Any) -> str | None:
    """A text that says something, cut to what we keep of a provider's words."""
    return value[:MAX_QUOTED_CHARS] if isinstance(value, str) and value else None


def said_text(value: Any) -> str | None:
    """What a provider says as a text, whatever JSON it is: the message inside an object, else the JSON itself."""
    if isinstance(value, dict):
        named = (text_of(value.get(name)) for name in ("message", "msg", "detail", "error"))
        return next(filter(None, named), None) or _as_json(value)
    return text_of(value) if isinstance(value, str) else _as_json(value)


def _as_json(value: Any) -> str | None:
    return None if value in (None, False, {}, []) else text_of(json.dumps(value, ensure_ascii=False))


def is_said(text: str | None, documented: frozenset[str]) -> bool:
    """Whether this is one of the documented texts, whole: a word of it could come from the caller's own input, which
    providers quote. The documented ones in small letters and without a full stop at their end.
    """
    return " ".join((text or "").lower().split()).rstrip(".") in documented


def plain_word(value: Any) -> str:
    """A word as words are compared: without case, blanks and what joins two; "" for what is none."""
    return re.sub(r"[\s_-]+", "", value).lower()[:MAX_QUOTED_CHARS] if isinstance(value, str) else ""


def id_text(value: Any) -> str | None:
    """A provider's id with all its digits, as text; None where it can be none (a JSON float has lost some)."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return text if isinstance(text, str) and text.isprintable() and 0 < len(text.strip()) <= MAX_ID_CHARS else None


def number(value: Any) -> int | float | None:
    """A number that can be a size, a price or a duration; not a bool, not negative, not NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value <= LARGEST_NUMBER else None


def whole(value: Any) -> int | None:
    """A whole number, also as text, as which codes and statuses may arrive."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def seconds(value: Any) -> float | None:
    found = number(value)
    return None if found is None else float(found)


def decimal_text(value: Any) -> str | None:
    """Money as decimal text, from a JSON number or from text."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", value):
        return value
    found = number(value)
    return None if found is None else f"{Decimal(str(found)):f}"


def header_wait(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` in seconds, a day at most; None where it asks for nothing.

    A date counts from the reply's own `Date`, by the clock of whoever wrote both: ours may be wrong. Without one a
    date is not understood.
    """
    given, written_at = headers.get("retry-after"), http_date(headers.get("date"))
    if http_date(given) is not None and written_at is None:
        return None
    return retry_after(given, now=written_at or 0)


def path_part(text: str) -> str:
    """An id as one part of a path: nothing in it can climb to another path."""
    return quote(text, safe="").replace(".", "%2E")


def on_origin(url: Any, base_url: str) -> TypeGuard[str]:
    """Whether the URL is on the origin that the key belongs to; anything else would leak it."""
    if not isinstance(url, str) or not URL.fullmatch(url):
        return False
    try:
        asked, ours = urlsplit(url), urlsplit(base_url)
        same = (asked.scheme, asked.hostname, asked.port) == (ours.scheme, ours.hostname, ours.port)
    except ValueError:
        return False
    return same and "@" not in asked.netloc


def path_parts(path: str) -> tuple[str, ...]:
    """The decoded parts of a request's path, as a server routes it: no empty ones."""
    return tuple(unquote(part) for part in path.split("/") if part)


def is_account_root(path: str) -> bool:
    """The same of where a path begins alone, for services below whose paths anybody may choose names."""
    parts = [part.lower() for part in path_parts(path)]
    while parts and re.fullmatch(r"api|rest|v[0-9]+", parts[0]):
        parts = parts[1:]
    word = re.match(r"[a-z]*", parts[0] if parts else "")
    return word is not None and word[0] in ACCOUNT_WORDS and not re.match(r"[\w-]", (parts or [""])[0][word.end() :])


def is_account_path(path: str) -> bool:
    """Whether a path of a provider's own API is about an account, keys, billing, a login or an organisation.

    By the words of its parts, so that what a provider adds there one day is not open to everybody.
    """
    words = re.findall(r"[a-z]+", unquote(unquote(path)).lower())
    return not ACCOUNT_WORDS.isdisjoint(words)
