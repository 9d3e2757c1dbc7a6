"""PixVerse's callbacks: the body, and the signature over its fields in form encoding."""

import base64
import hashlib
import hmac
import json
import random
import secrets
import uuid
from collections.abc import Callable
from typing import Literal
from urllib.parse import quote, quote_plus

import msgspec

from service.sandbox.jobs import Job, Outcome
from service.sandbox.replies import SIZES

Order = Literal["sorted", "document"]
Space = Literal["+", "%20"]

FALSE_URL = "https://media.example.test/forged.mp4"
STATUSES = {Outcome.SUCCEEDED: 1, Outcome.MODERATED: 7, Outcome.FAILED: 8}
FAILURES = {Outcome.FAILED: "generation failed", Outcome.MODERATED: "content moderation failed"}


class CallbackBody(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The documented fields, in the documented order; `size` is in KiB here, its unit is not documented."""

    id: str
    status: int
    url: str
    size: float
    has_audio: bool
    credits: int | float
    fail_reason: str | None = None


def body_of(job: Job) -> bytes:
    """The callback that a finished job sends, success or not."""
    succeeded = job.outcome is Outcome.SUCCEEDED
    body = CallbackBody(
        id=job.id,
        status=STATUSES[job.outcome],
        url=f"{job.submit.origin}/media/{job.id}.mp4" if succeeded else "",
        size=round(SIZES["mp4"] / 1024, 1) if succeeded else 0.0,
        has_audio=succeeded,
        credits=job.submit.cost,
        fail_reason=FAILURES.get(job.outcome),
    )
    return msgspec.json.encode(body)


def forged_body_of(job: Job) -> bytes:
    """What an attacker would have us believe: a failure, or a success with a URL of his own."""
    if job.outcome is not Outcome.SUCCEEDED or random.random() < 0.5:  # noqa: S311 - not secret
        forged = CallbackBody(id=job.id, status=1, url=FALSE_URL, size=1.5, has_audio=True, credits=job.submit.cost)
    else:
        reason = FAILURES[Outcome.FAILED]
        forged = CallbackBody(
            id=job.id, status=8, url="", size=0.0, has_audio=False, credits=job.submit.cost, fail_reason=reason
        )
    return msgspec.json.encode(forged)


class Signing(msgspec.Struct, frozen=True, kw_only=True):
    """How one callback is signed. The documents leave order and space open, so the account chooses them."""

    secret: str
    order: Order
    space: Space
    trace_id: str | None
    now: Callable[[], float]

    def headers(self, body: bytes) -> dict[str, str]:
        """The headers of one attempt: a fresh time, nonce and signature."""
        timestamp, nonce = str(int(self.now())), secrets.token_hex(16)
        return {
            "Webhook-Timestamp": timestamp,
            "Webhook-Nonce": nonce,
            "Webhook-Signature": sign(self.secret, timestamp, nonce, body, order=self.order, space=self.space),
            "Ai-Trace-Id": self.trace_id or str(uuid.uuid4()),
        }


def sign(secret: str, timestamp: str, nonce: str, body: bytes, *, order: Order = "sorted", space: Space = "+") -> str:
    """`Webhook-Signature`: Base64 of HMAC-SHA256 over time, nonce and the form-encoded fields."""
    text = f"{timestamp}\n{nonce}\n{form_of(body, order=order, space=space)}"
    return base64.b64encode(hmac.digest(secret.encode(), text.encode(), hashlib.sha256)).decode()


def form_of(body: bytes, *, order: Order, space: Space) -> str:
    """The body's fields as `key=value&...`; numbers keep the digits that they have in the JSON text."""
    pairs: list[tuple[str, object]] = json.loads(body, parse_int=str, parse_float=str, object_pairs_hook=list)
    if order == "sorted":
        pairs.sort(key=lambda pair: pair[0])
    encode = quote_plus if space == "+" else _percent
    return "&".join(f"{encode(key)}={encode(_text(value))}" for key, value in pairs)


def _percent(text: str) -> str:
    return quote(text, safe="")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
