"""PixVerse's callbacks are signed over the body's fields, not over its bytes: what the signature may have been made of.

Rule: base64 of HMAC-SHA256 over timestamp, nonce and the form-encoded fields, joined by line feeds. What the documents
leave open is tried in every reading. Facts: https://docs.platform.pixverse.ai/webhook-integration-1905378m0.
"""

import base64
import hmac
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import quote_plus

from service.errors import BadRequest, SignatureRefused
from service.header_lines import items, lines_of, spellings_of_one
from service.states import Json

CALLBACK_TOLERANCE_S = 300
SIGNATURES_TRIED = 10  # one is documented; a gateway may have joined several lines
CALLBACK_FIELDS = 64  # six are documented
CALLBACK_HEADERS = {
    "webhook-timestamp": re.compile(r"[0-9]{1,12}"),
    "webhook-nonce": re.compile(r"[!-~]{1,128}"),  # 32 characters, say the documents
    "webhook-signature": re.compile(r"[A-Za-z0-9+/]{43}="),
}


def verify(headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: int) -> bool:
    """Whether the callback is fresh. Raises `SignatureRefused` where no secret proves it or it is from the future."""
    timestamp, nonces, signatures = _signed_headers(headers)
    heads = [f"{timestamp}\n{nonce}\n".encode() for nonce in nonces]
    # Each is compared in constant time; which reading of the rule fits is no secret.
    texts = (head + query for query in _queries(body) for head in heads)
    made = (_sign(key, text) for text in texts for key in secrets if key)
    if not any(hmac.compare_digest(one, signature) for one in made for signature in signatures):
        raise SignatureRefused("no secret that we have makes this signature")
    age_s = now - int(timestamp)
    if age_s < -CALLBACK_TOLERANCE_S:
        raise SignatureRefused("the timestamp is in the future")
    return age_s <= CALLBACK_TOLERANCE_S


def read_fields(body: bytes) -> Json:
    """The body's fields, unambiguously. Raises `BadRequest`."""
    try:
        said = json.loads(body.decode(), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not one JSON object") from None
    if not isinstance(said, dict):
        raise BadRequest("the body is not one JSON object")
    return said


class Digits(str):
    """A number as it was written: formatting it again could change what was signed."""

    __slots__ = ()


class Pairs(tuple[tuple[str, Any], ...]):
    """A JSON object in the order of the document."""

    __slots__ = ()


def _signed_headers(headers: Mapping[str, str]) -> tuple[str, Sequence[str], Sequence[bytes]]:
    """The timestamp, what the nonce may be, and the signatures, of which any may be right."""
    given = {name: lines_of(headers, name) or "" for name in CALLBACK_HEADERS}
    found = {name: spellings_of_one(value) for name, value in given.items()}
    found["webhook-signature"] = tuple(items(given["webhook-signature"])[:SIGNATURES_TRIED])
    fits = {name: [one for one in found[name] if shape.fullmatch(one)] for name, shape in CALLBACK_HEADERS.items()}
    for name, values in fits.items():
        if not values:
            raise SignatureRefused(f"the header {name} is missing, there twice or not in its shape")
    signatures = [signature.encode() for signature in fits["webhook-signature"]]
    return fits["webhook-timestamp"][0], fits["webhook-nonce"], signatures


def _sign(secret: str, text: bytes) -> bytes:
    return base64.b64encode(hmac.digest(secret.encode(), text, "sha256"))


def _queries(body: bytes) -> Iterator[bytes]:
    """Every reading of "the fields as key=value, URL-encoded, joined with &" that the documents leave open.

    Order: sorted (Go's and three independent implementations), or the document's. A space: `+`, or `%20`.
    Numbers: their literal digits, or as a Go server would format a float again. The likeliest comes first.
    """
    try:
        fields, made = _flat_fields(body), set()
        for render in (_literal, _shortest):
            pairs = [(key, f"{_quoted(key)}={_quoted(render(value))}") for key, value in fields]
            for order in (sorted(pairs), pairs):
                form = "&".join(pair for _, pair in order)
                # A plus sign in a value is encoded itself, so that every `+` of a form is a space.
                for text in (form, form.replace("+", "%20")):
                    if text not in made:
                        made.add(text)
                        yield text.encode()
    except (ValueError, RecursionError):
        raise SignatureRefused("the body is not one flat JSON object") from None


def _flat_fields(body: bytes) -> Pairs:
    """Raises ValueError for anything that a form could not carry unambiguously."""
    fields = json.loads(
        body.decode(), object_pairs_hook=Pairs, parse_int=Digits, parse_float=Digits, parse_constant=_refuse_constant
    )
    if not isinstance(fields, Pairs) or len(fields) > CALLBACK_FIELDS:
        raise ValueError("not one small object")
    if not all(isinstance(value, str | bool) for _, value in fields):
        raise ValueError("not one flat object")
    _without_duplicates(fields)
    return fields


def _quoted(text: str) -> str:
    return text if text.isascii() and text.isalnum() else quote_plus(text)  # most need none, and it is not free


def _literal(value: str | bool) -> str:
    return str(value) if isinstance(value, str) else str(value).lower()


def _shortest(value: str | bool) -> str:
    if isinstance(value, Digits) and re.search(r"[.eE]", value):
        whole, _, fraction = f"{Decimal(repr(float(value))):f}".partition(".")
        return f"{whole}.{fraction}".rstrip("0").rstrip(".") if fraction else whole
    return _literal(value)


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> Json:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
