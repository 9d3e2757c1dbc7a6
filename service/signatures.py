"""Standard Webhooks, symmetric `v1`: sign what we deliver, verify what is signed the same way.

A key is an object that signs and that recognises its own signatures, so a second scheme is a second class here and
nothing else. Rules: Standard Webhooks 1.0.0; where it is silent, the numbers below say whose they are.
"""

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from service.errors import CallsheetError, SignatureRefused
from service.header_lines import lines_of, spellings_of_one, tagged_items

TOLERANCE_S = 300  # both ways; the specification gives no number, every SDK uses this one
MAX_KEYS = 10  # of one header
MAX_TRIED = 10  # signatures of a scheme that we know
MAX_HEADER_CHARS = 4096
NEW_SECRET_BYTES = 32

# The specification says 24 to 64 and Svix reads up to 75; its suites' unpadded example has 31 characters, which is 23.
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 23, 75

_ID = re.compile(r"[!-\-/-~]+")  # visible ASCII without the full stop that separates the signed parts
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_TAG = re.compile(r"v[0-9]{1,4}[a-z]{0,4}")
_SECRET = re.compile(r"(?:(?:v1,)?whsec_)?([A-Za-z0-9+/]+={0,2})")
_TRIPLES = tuple((f"{name}-id", f"{name}-timestamp", f"{name}-signature") for name in ("webhook", "svix"))


class InvalidSecret(CallsheetError, ValueError):
    """Not the text of a symmetric secret. The message never repeats what was given."""


class StaleSignature(SignatureRefused):
    """The signature is right and its timestamp too old: `verified` says what it proves, a hint at most."""

    def __init__(self, verified: "Verified"):
        super().__init__("timestamp is too old")
        self.verified = verified


class Verified(msgspec.Struct, frozen=True):
    event_id: str
    timestamp: int  # seconds since 1970-01-01 UTC


class Key(Protocol):
    tag: str

    def sign(self, text: bytes) -> str:
        """One item of the signature header, its tag included."""

    def recognises(self, text: bytes, items: Sequence[bytes]) -> bool:
        """Whether any of the items, all of this key's tag, is its signature of the text."""


class HmacKey:
    """HMAC-SHA256, tag `v1`. Worth keeping: a copy of the keyed state saves a quarter of each signature."""

    __slots__ = ("_keyed", "tag")

    def __init__(self, secret: bytes):
        if not secret:
            raise InvalidSecret("A signing secret must not be empty.")
        self.tag = "v1"
        self._keyed = hmac.new(secret, digestmod="sha256")

    def sign(self, text: bytes) -> str:
        mac = self._keyed.copy()
        mac.update(text)
        return "v1," + binascii.b2a_base64(mac.digest(), newline=False).decode()

    def recognises(self, text: bytes, items: Sequence[bytes]) -> bool:
        # Compared as text: base64 has several spellings of the same bytes, and only one of them is a signature.
        expected = self.sign(text).encode()
        return any([hmac.compare_digest(expected, item) for item in items])


def new_secret() -> str:
    """A fresh secret as text: `whsec_` and the padded base64 of 32 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(NEW_SECRET_BYTES)).decode()


def parse_secret(text: str) -> bytes:
    """The key bytes of a secret's text: with or without `whsec_` (or Supabase's `v1,whsec_`), padded or not.

    Raises InvalidSecret for anything else: other prefixes, other alphabets, and lengths outside 23 to 75 bytes.
    """
    match = _SECRET.fullmatch(text)
    if match is None:
        raise InvalidSecret("A signing secret is 'whsec_' followed by base64.")
    digits = match[1].rstrip("=")
    if len(digits) % 4 == 1 or (digits != match[1] and len(match[1]) % 4):
        raise InvalidSecret("The base64 of a signing secret is cut off or wrongly padded.")
    key = base64.b64decode(digits + "=" * (-len(digits) % 4))
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise InvalidSecret(f"A signing secret holds 24 to {MAX_SECRET_BYTES} bytes, this one {len(key)}.")
    return key


def sign(keys: Sequence[bytes | Key], *, event_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` value: one signature per key, newest first by custom, separated by spaces.

    `timestamp` is of the attempt, in seconds. Raises ValueError for no or over 10 keys, for an id that is not visible
    ASCII without a full stop, and for a timestamp that no verifier would read.
    """
    if not 1 <= len(keys) <= MAX_KEYS:
        raise ValueError(f"one to {MAX_KEYS} keys sign, not {len(keys)}")
    if not _ID.fullmatch(event_id):
        raise ValueError("an event id is visible ASCII without a full stop")
    if not 0 <= timestamp < 10**12:
        raise ValueError("a timestamp is whole seconds since 1970")
    text = _signed_text(event_id, str(timestamp), body)
    return " ".join([_as_key(key).sign(text) for key in keys])


def signed_headers(keys: Sequence[bytes | Key], *, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of one attempt. Raises what `sign` raises."""
    signature = sign(keys, event_id=event_id, timestamp=timestamp, body=body)
    return {"webhook-id": event_id, "webhook-timestamp": str(timestamp), "webhook-signature": signature}


def verify(
    keys: Sequence[bytes | Key], headers: Mapping[str, str], body: bytes, *, now: int, tolerance: int = TOLERANCE_S
) -> Verified:
    """What a request proves, if any of its signatures is by any of the keys. `now` and `tolerance` are in seconds.

    Header names in any case, lines as gateways fold them; a whole `webhook-*` triple, else a whole `svix-*` one, never
    parts of both. An id or a timestamp that is there twice with two values is a forgery.
    Raises SignatureRefused and nothing else: more than `tolerance` ahead is a forgery; right but more than
    `tolerance` old is the subclass StaleSignature.
    """
    if not keys or not all(keys):
        raise SignatureRefused("there is no key to verify with")
    event_ids, timestamp, signatures = _read_triple(headers)
    seconds = int(timestamp)
    if seconds > now + tolerance:
        raise SignatureRefused("timestamp is ahead of us")
    items = [item.encode("ascii") for item in tagged_items(signatures, _TAG)]
    signed = [event_id for event_id in event_ids if _is_signed(keys, _signed_text(event_id, timestamp, body), items)]
    if not signed:
        raise SignatureRefused("no signature matches")
    verified = Verified(signed[0], seconds)
    if seconds < now - tolerance:
        raise StaleSignature(verified)
    return verified


def verify_ed25519(key: bytes, signature: bytes, text: bytes) -> bool:
    """Whether it is the text's signature by this public key of 32 bytes; False for what is no key or no signature."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True


def _read_triple(headers: Mapping[str, str]) -> tuple[tuple[str, ...], str, str]:
    for triple in _TRIPLES:
        event_id, timestamp, signatures = (lines_of(headers, name) for name in triple)
        if event_id is not None and timestamp is not None and signatures is not None:
            return _check_triple(event_id, timestamp, signatures)
    raise SignatureRefused("a signature header is missing")


def _check_triple(event_id: str, timestamp: str, signatures: str) -> tuple[tuple[str, ...], str, str]:
    """The ids that the header may mean, the timestamp, all signatures."""
    if max(len(event_id), len(signatures)) > MAX_HEADER_CHARS:
        raise SignatureRefused("a signature header is too long")
    event_ids = tuple(one for one in spellings_of_one(event_id) if _ID.fullmatch(one))
    if not event_ids:
        raise SignatureRefused("the id is not visible ASCII without a full stop, or there twice")
    times = [one for one in spellings_of_one(timestamp) if _TIMESTAMP.fullmatch(one)]
    if not times:
        raise SignatureRefused("the timestamp is not whole seconds, or there twice")
    if not signatures.isascii():
        raise SignatureRefused("the signatures are not ASCII")
    return event_ids, times[0], signatures


def _signed_text(event_id: str, timestamp: str, body: bytes) -> bytes:
    return b"".join((f"{event_id}.{timestamp}.".encode("ascii"), body))


def _as_key(key: bytes | Key) -> Key:
    return HmacKey(key) if isinstance(key, bytes) else key


def _is_signed(keys: Sequence[bytes | Key], text: bytes, items: Sequence[bytes]) -> bool:
    # A list, not a generator: every key is tried, so that the time taken does not tell which one it was.
    return any([_recognises(_as_key(key), text, items) for key in keys])


def _recognises(key: Key, text: bytes, items: Sequence[bytes]) -> bool:
    prefix = key.tag.encode("ascii") + b","
    return key.recognises(text, [item for item in items if item.startswith(prefix)][:MAX_TRIED])
