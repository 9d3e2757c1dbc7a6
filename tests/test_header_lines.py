"""Signature headers as gateways fold them: several lines, split or joined at commas, for whoever signs callbacks."""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from service.errors import SignatureRefused
from service.header_lines import items, spellings_of_one, tagged_items
from service.providers import load
from service.signatures import sign
from service.web.dispatch import headers_of

NOW = 1_800_000_000
BODY = b'{"id":"p-1","request_id":"p-1","status":"OK"}'
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
Lines = list[tuple[str, str]]


class Signer:
    """What one provider signs: its headers' names, and its signature of a body."""

    def __init__(self, name: str, prefix: str, once: dict[str, str], secret: str, made: Callable[[bytes], str]):
        self.name, self.prefix, self.once, self.secret, self.made = name, prefix, once, secret, made

    def verify(self, lines: Lines, body: bytes = BODY) -> bool:
        """By what reaches the provider's file of lines on the wire."""
        headers = headers_of([(name.encode(), value.encode()) for name, value in lines])
        return load(self.name).verify_callback(headers, body, [self.secret], NOW)

    def lines(self, *signatures: str) -> Lines:
        once = [(f"{self.prefix}-{name}", value) for name, value in self.once.items()]
        return [*once, *((f"{self.prefix}-signature", signature) for signature in signatures)]


def by_fal(body: bytes) -> str:
    return KEY.sign(f"r-1\ngithub|1\n{NOW}\n{hashlib.sha256(body).hexdigest()}".encode()).hex()


def by_pixverse(body: bytes) -> str:
    query = "id=p-1&request_id=p-1&status=OK" if body == BODY else body.decode()
    return base64.b64encode(hmac.digest(b"a secret", f"{NOW}\nnonce,1\n{query}".encode(), "sha256")).decode()


def by_replicate(body: bytes) -> str:
    return sign([base64.b64decode(WHSEC.removeprefix("whsec_"))], event_id="msg_1", timestamp=NOW, body=body)


SIGNERS = [
    Signer("replicate", "webhook", {"id": "msg_1", "timestamp": f"{NOW}"}, WHSEC, by_replicate),
    Signer("replicate", "svix", {"id": "msg_1", "timestamp": f"{NOW}"}, WHSEC, by_replicate),
    Signer("pixverse", "Webhook", {"nonce": "nonce,1", "timestamp": f"{NOW}"}, "a secret", by_pixverse),
    Signer(
        "fal", "X-Fal-Webhook", {"request-id": "r-1", "user-id": "github|1", "timestamp": f"{NOW}"},
        base64.urlsafe_b64encode(KEY.public_key().public_bytes_raw()).decode().rstrip("="), by_fal,
    ),
]  # fmt: skip
FOLDS: dict[str, Callable[[str, str], Sequence[str]]] = {
    "as it is": lambda right, _: [right],
    "two lines, the second right": lambda right, wrong: [wrong, right],
    "two lines, the first right": lambda right, wrong: [right, wrong],
    "three lines, two of them empty": lambda right, _: ["", right, ""],
    "joined by a comma": lambda right, wrong: [f"{wrong},{right}"],
    "joined by a comma and a space": lambda right, wrong: [f"{right}, {wrong}"],
    "joined by blanks and a tab": lambda right, wrong: [f"{wrong} ,\t {right}"],
    "joined by a space": lambda right, wrong: [f"{wrong} {right}"],
    "split at its commas": lambda right, wrong: [*wrong.split(","), *right.split(",")],
    "split and joined with spaces": lambda right, wrong: [", ".join([*right.split(","), *wrong.split(",")])],
    "split, and joined by blanks alone": lambda right, wrong: [" ".join([*wrong.split(","), *right.split(",")])],
    "said twice": lambda right, _: [right, right],
    "with a comma at both ends": lambda right, _: [f",{right},"],
}


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("signer", SIGNERS, ids=lambda signer: f"{signer.name} {signer.prefix}")
def test_a_signature_verifies_however_its_lines_were_folded(signer: Signer, fold: str) -> None:
    right, wrong = signer.made(BODY), signer.made(b"another body")
    assert signer.verify(signer.lines(*FOLDS[fold](right, wrong))) is True
    with pytest.raises(SignatureRefused):
        signer.verify(signer.lines(*FOLDS[fold](wrong, wrong)))


ONCE = [(signer, name) for signer in SIGNERS for name in signer.once]


@pytest.mark.parametrize(
    ("signer", "name"), ONCE, ids=[f"{signer.name} {signer.prefix}-{name}" for signer, name in ONCE]
)
def test_what_is_said_once_may_be_repeated_and_never_changed(signer: Signer, name: str) -> None:
    lines, header = signer.lines(signer.made(BODY)), f"{signer.prefix}-{name}"
    assert signer.verify([*lines, (header, signer.once[name])]) is True
    for other in (f"{NOW + 1}", "x", "nonce,2"):
        for changed in ([*lines, (header, other)], [(header, other), *lines]):
            with pytest.raises(SignatureRefused):
                signer.verify(changed)


@given(st.text(st.sampled_from("a,b\t 1=")))
def test_folding_loses_nothing_and_invents_nothing(value: str) -> None:
    assert "".join(items(value)) == "".join(letter for letter in value if letter not in ",\t ")
    for once in spellings_of_one(value):
        assert once == value or value.replace("\t", "").replace(" ", "").count(once.strip("\t ")) >= 2 or once == ""


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("v1,a v2,b", ["v1,a", "v2,b"]), ("v1, a, b", ["v1,a"]), ("a, v1", []), ("v1 v2 a", ["v2,a"]),
        ("V1,a", []), ("", []),
    ],
)  # fmt: skip
def test_a_text_belongs_to_the_tag_before_it(value: str, found: Any) -> None:

    assert list(tagged_items(value, re.compile("v[0-9]"))) == found
