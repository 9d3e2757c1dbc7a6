"""Ids: sortable by time, some random, some computed from a row's number; and cursors over them."""

import base64
import secrets

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_LENGTH = 26


def new_id(prefix: str, now: int) -> str:
    """`prefix_` and 26 letters: 48 bits of milliseconds, 80 random bits. Sorts by time."""
    return f"{prefix}_{_encode(now << 80 | secrets.randbits(80))}"


def row_id(prefix: str, now: int, nonce: int, num: int) -> str:
    """The public id of a numbered row, computed and not stored: milliseconds, the database's nonce, the number.

    The nonce (16 random bits made with the database) keeps a new database from repeating ids that a
    subscriber has already seen and would drop as duplicates.
    """
    return f"{prefix}_{_encode(now << 80 | nonce << 64 | num)}"


def row_number(prefix: str, text: str, nonce: int) -> int | None:
    """The number inside a `row_id`; None where the text is not an id of this kind from this database."""
    head, _, tail = text.partition("_")
    if head != prefix or len(tail) != _LENGTH or any(letter not in _VALUES for letter in tail):
        return None
    value = 0
    for letter in tail:
        value = value << 5 | _VALUES[letter]
    number = value & (1 << 64) - 1
    return number if value >> 64 & 0xFFFF == nonce and number < 1 << 63 else None


def _encode(value: int) -> str:
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def new_token() -> int:
    """A fencing token: positive, 62 random bits."""
    return secrets.randbits(62) | 1


def new_correlation() -> str:
    """A random UUID as text, made without the uuid module's cost."""
    raw = bytearray(secrets.token_bytes(16))
    raw[6], raw[8] = raw[6] & 0x0F | 0x40, raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def encode_cursor(num: int) -> str:
    """An opaque cursor for lists that are ordered by row number."""
    return base64.urlsafe_b64encode(b"c1:%d" % num).decode().rstrip("=")


def decode_cursor(text: str) -> int | None:
    """The number inside a cursor; None where it is not one of ours."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None
    tail = raw.removeprefix(b"c1:")
    return int(tail) if raw != tail and tail.isdigit() and len(tail) < 20 and int(tail) < 1 << 63 else None
