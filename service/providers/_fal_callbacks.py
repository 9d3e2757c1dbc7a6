"""fal's callbacks: signed by Ed25519 with keys that are the same for all its customers."""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from service.errors import SignatureRefused
from service.header_lines import items, lines_of, spellings_of_one
from service.signatures import verify_ed25519

TOLERANCE_S = 300
SIGNATURES_TRIED = 10  # one is documented; a gateway may have joined several lines
HEADERS = {
    "x-fal-webhook-request-id": re.compile(r"[!-~]{1,256}"),
    "x-fal-webhook-user-id": re.compile(r"[!-~]{1,256}"),
    "x-fal-webhook-timestamp": re.compile(r"[0-9]{1,12}"),
    "x-fal-webhook-signature": re.compile(r"[0-9a-fA-F]{128}"),
}


def verify(headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: int) -> bool:
    """Whether the callback is fresh. Raises `SignatureRefused` where no key proves it or it is from the future.

    Rule: Ed25519 over request id, user id, timestamp and the body's SHA-256 in hex, joined by line feeds.
    """
    signatures, timestamp, heads = _signed_headers(headers)
    texts = [f"{head}\n{timestamp}\n{hashlib.sha256(body).hexdigest()}".encode() for head in heads]
    keys = [key for secret in secrets if (key := _decoded(secret))]
    tried = product(keys, [bytes.fromhex(signature) for signature in signatures], texts)
    if not any(verify_ed25519(*each) for each in tried):
        raise SignatureRefused("no key of fal's made this signature")
    age_s = now - int(timestamp)
    if age_s < -TOLERANCE_S:
        raise SignatureRefused("the timestamp is in the future")
    return age_s <= TOLERANCE_S


def public_keys(listed: Any) -> list[str]:
    """The Ed25519 keys of a list of JSON Web Keys, in base64url."""
    return [key for item in listed if (key := _public_key(item))] if isinstance(listed, list) else []


def _signed_headers(headers: Mapping[str, str]) -> tuple[list[str], str, list[str]]:
    """The signatures, of which any may be right; the timestamp; what was signed before it, as it may be read."""
    request_ids, user_ids, times, signatures = (_fitting(headers, name) for name in HEADERS)
    return signatures, times[0], [f"{request}\n{user}" for request, user in product(request_ids, user_ids)]


def _fitting(headers: Mapping[str, str], wanted: str) -> list[str]:
    """What a header says, however its lines were folded. Raises `SignatureRefused` where two lines differ."""
    given = lines_of(headers, wanted) or ""
    several = wanted == "x-fal-webhook-signature"
    found = items(given)[:SIGNATURES_TRIED] if several else spellings_of_one(given)
    fits = [one for one in found if HEADERS[wanted].fullmatch(one)]
    if not fits:
        raise SignatureRefused(f"the header {wanted} is missing, there twice or not in its shape")
    return fits


def _public_key(item: Any) -> str | None:
    fits = isinstance(item, dict) and item.get("kty") == "OKP" and item.get("crv") == "Ed25519"
    return item["x"] if fits and isinstance(item.get("x"), str) and _decoded(item["x"]) else None


def _decoded(text: str) -> bytes | None:
    """The 32 bytes of a public key in base64url; None for what is none."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{43}=?", text):
        return None
    try:
        return base64.urlsafe_b64decode(text.rstrip("=") + "=")
    except binascii.Error:
        return None
