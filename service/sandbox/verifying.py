"""A subscriber's own check of Standard Webhooks signatures; shares no code with the service that signs."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TOLERANCE_S = 300
HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
SYMMETRIC, PUBLIC_KEY = "whsec_", "whpk_"


def verified(secrets: Iterable[str], headers: Mapping[str, str], body: bytes, *, now: float) -> bool:
    """Whether any signature is right by any of the secrets (`whsec_...`, or `whpk_...` for v1a), and fresh."""
    webhook_id, timestamp, signatures = (headers.get(name, "") for name in HEADERS)
    if not (timestamp.isascii() and timestamp.isdigit()) or abs(now - int(timestamp)) > TOLERANCE_S:
        return False
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    found = [signature.partition(",") for signature in signatures.split(" ")]
    return any(_right(secret, version, value, signed) for secret in secrets for version, _, value in found)


def _right(secret: str, version: str, value: str, signed: bytes) -> bool:
    try:
        signature = base64.b64decode(value, validate=True)
        if version == "v1a" and secret.startswith(PUBLIC_KEY):
            key = base64.b64decode(secret.removeprefix(PUBLIC_KEY), validate=True)
            Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
            return True
        if version == "v1" and not secret.startswith(PUBLIC_KEY):
            key = base64.b64decode(secret.removeprefix(SYMMETRIC), validate=True)
            return hmac.compare_digest(signature, hmac.digest(key, signed, hashlib.sha256))
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return False
