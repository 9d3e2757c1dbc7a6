"""Replies in another coding of the same bytes: gzip and deflate, inflated under a cap. Pure.

We ask for `identity`, which a provider, or a proxy before it, may ignore (RFC 9110 section 12.5.3).
"""

import zlib
from collections.abc import Mapping

KNOWN = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's window bits; names by RFC 9110 section 8.4.1
RAW = -15  # deflate without zlib's header, as some servers send it
MOST_CODINGS = 3


class NotInflated(Exception):
    """In a coding that is not read here, damaged, or larger than is taken."""


def codings_of(headers: Mapping[str, str]) -> list[str]:
    """What was done to the body, in this order, by headers with lower-case names."""
    named = (name.strip().lower() for name in headers.get("content-encoding", "").split(","))
    return [name for name in named if name not in ("", "identity")]


def inflated(body: bytes, codings: list[str], most: int) -> bytes:
    """The body as it was before. Raises `NotInflated`."""
    if len(codings) > MOST_CODINGS:
        raise NotInflated("it has too many codings")
    for name in reversed(codings):
        if name not in KNOWN:
            raise NotInflated(f"it is in the coding {name[:32]!a}")
        body = _inflate(body, name, most)
    return body


def _inflate(body: bytes, name: str, most: int) -> bytes:
    if not body:
        return body
    try:
        return _members(body, KNOWN[name], most)
    except zlib.error:
        if name != "deflate":
            raise NotInflated(f"its {name} is damaged") from None
    try:
        return _members(body, RAW, most)
    except zlib.error:
        raise NotInflated("its deflate is damaged") from None


def _members(body: bytes, bits: int, most: int) -> bytes:
    """A gzip file may have several members one after the other; what follows the last is left."""
    made = bytearray()
    while body:
        inflater = zlib.decompressobj(bits)
        made += inflater.decompress(body, most + 1 - len(made))
        if len(made) > most:
            raise NotInflated("it is larger than is read")
        if not inflater.eof:
            raise zlib.error("it ends too early")
        body = inflater.unused_data if bits == KNOWN["gzip"] and inflater.unused_data[:2] == b"\x1f\x8b" else b""
    return bytes(made)
