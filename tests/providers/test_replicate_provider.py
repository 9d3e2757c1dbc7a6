"""Replicate beyond the contract: its signatures against the reference library, outputs of any shape, what is kept."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import standardwebhooks
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import BadRequest, Invalid, SignatureRefused, Unavailable
from service.facts import Accepted, NotNow, Update
from service.providers import Call, Reply, Request
from service.providers.replicate import PAGES, URL, provider
from service.states import JobStatus

from .cases import drive

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLDER = "whsec_RdvaYFYUXuIFuEbvZHwMfYFhUf7aMYjYcmM24+Aj40c="
NOW = 1_800_000_000
OURS = "https://calls.example.com/v1/callbacks/replicate/a-token-that-nobody-must-read"


def a_call(**given: Any) -> Call:
    fields = {"operation": "prediction", "input": {"version": "v", "input": {}}, "now": NOW * 1000, **given}
    return Call(api_key="k", base_url=provider.base_url, **fields)


def replied(body: Any, status: int = 200) -> Reply:
    return Reply(status=status, headers={}, body=json.dumps(body).encode())


def read(prediction: dict[str, Any], **call: Any) -> Any:
    return drive(provider.status(a_call(**call), "p"), lambda _: replied({"id": "p", **prediction}))[0]


# -- signatures -----------------------------------------------------------------------------------


def signed(body: str, secret: str = SECRET, at: int = NOW, webhook_id: str = "msg_1") -> dict[str, str]:
    """The headers as the reference library makes them."""
    signature = standardwebhooks.Webhook(secret).sign(webhook_id, datetime.fromtimestamp(at, UTC), body)
    return {"webhook-id": webhook_id, "webhook-timestamp": str(at), "webhook-signature": signature}


def verify(headers: dict[str, str], body: str | bytes, *secrets: str) -> bool:
    sent = body.encode() if isinstance(body, str) else body
    return provider.verify_callback(headers, sent, secrets or (SECRET,), NOW)


BODY = json.dumps({"id": "p", "status": "succeeded", "output": "https://replicate.delivery/x.png", "n": 2**63})
BODIES = st.text(max_size=200).filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text))


@given(body=BODIES)
@settings(deadline=None)
def test_what_the_reference_library_signs_verifies_and_nothing_else_does(body: str) -> None:
    headers = signed(body)
    assert verify(headers, body) is True
    with pytest.raises(SignatureRefused):
        verify(headers, body + " ")


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"\xef\xbb\xbf{}", b'{"a":1,"a":2}', b"NaN", b"[" * 10_000, b""])
def test_the_bytes_are_verified_whatever_they_are(body: bytes) -> None:
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    mac = hmac.digest(key, f"msg_1.{NOW}.".encode() + body, hashlib.sha256)
    signature = f"v1,{base64.b64encode(mac).decode()}"
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(NOW), "webhook-signature": signature}
    assert verify(headers, body) is True


def test_any_of_several_signatures_and_of_several_secrets_is_enough() -> None:
    headers = signed(BODY, OLDER)
    right = headers["webhook-signature"]
    headers["webhook-signature"] = f"v1,{base64.b64encode(bytes(32)).decode()} v9,x {right}"
    assert verify(headers, BODY, SECRET, OLDER) is True
    with pytest.raises(SignatureRefused):
        verify(headers, BODY, SECRET)


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook-id": None},
        {"webhook-timestamp": None},
        {"webhook-signature": None},
        {"webhook-id": ""},
        {"webhook-signature": ""},
        {"Webhook-Id": "msg_2"},
        {"Webhook-Timestamp": f"{NOW + 1}"},
        {"webhook-signature": "v1,é"},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": "v1,%%%"},
        {"webhook-signature": "v9,x"},
        {"webhook-timestamp": "soon"},
        {"webhook-timestamp": f"-{NOW}"},
        {"webhook-timestamp": f"+{NOW}"},
        {"webhook-timestamp": "1" * 20},
        {"webhook-timestamp": f"{NOW}000"},
        {"webhook-timestamp": f"{NOW}.0"},
    ],
    ids=repr,
)
def test_malformed_headers_are_a_refusal(changed: dict[str, str | None]) -> None:
    merged: dict[str, str | None] = {**signed(BODY), **changed}
    with pytest.raises(SignatureRefused):
        verify({name: value for name, value in merged.items() if value is not None}, BODY)


@pytest.mark.parametrize("secrets", [(), ("",), ("sandbox-callback-secret",), ("whsec_",), (OLDER,)])
def test_without_the_accounts_secret_nothing_verifies(secrets: tuple[str, ...]) -> None:
    with pytest.raises(SignatureRefused):
        provider.verify_callback(signed(BODY), BODY.encode(), secrets, NOW)


@pytest.mark.parametrize(("age", "found"), [(0, True), (300, True), (301, False), (86_400, False), (-300, True)])
def test_an_old_one_is_a_hint(age: int, found: bool) -> None:
    assert verify(signed(BODY, at=NOW - age), BODY) is found


def test_one_from_the_future_is_forged() -> None:
    with pytest.raises(SignatureRefused):
        verify(signed(BODY, at=NOW + 301), BODY)


# -- our URL is nobody else's ---------------------------------------------------------------------


def test_the_callback_url_is_sent_and_never_kept() -> None:
    prediction = {
        "id": "p",
        "status": "succeeded",
        "output": "x",
        "webhook": OURS,
        "webhook_events_filter": ["completed"],
    }
    call = a_call(callback_url=OURS)
    accepted, (request,) = drive(provider.submit(call), lambda _: replied(prediction, 201))
    assert json.loads(request.body)["webhook"] == OURS
    status, _ = drive(provider.status(call, "p"), lambda _: replied(prediction))
    canceled, _ = drive(provider.cancel(call, "p"), lambda _: replied(prediction))
    callback = provider.read_callback(json.dumps(prediction).encode())
    row = {**prediction, "created_at": "2027-01-15T08:00:00Z"}
    history, _ = drive(provider.history(call, 0), lambda _: replied({"results": [row], "next": None}))
    assert isinstance(accepted, Accepted) and isinstance(status, Update) and len(history) == 1
    for kept in (accepted, status, canceled, callback, history):
        assert b"nobody-must-read" not in msgspec.json.encode(kept)


def test_a_callers_own_webhook_gives_way_to_ours() -> None:
    theirs = {"version": "v", "input": {}, "webhook": "https://theirs.example.com", "webhook_events_filter": ["logs"]}
    _, (request,) = drive(provider.submit(a_call(input=theirs, callback_url=OURS)), lambda _: replied({}, 500))
    sent = json.loads(request.body)
    assert (sent["webhook"], sent["webhook_events_filter"]) == (OURS, ["completed"])


# -- input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "field"), [("model_prediction", "model"), ("deployment_prediction", "deployment")]
)
@pytest.mark.parametrize("name", ["flux", "a/b/c", "../x", "a/..", "/a/b", "a/b/", "a b/c", "https://x.test/a", ""])
def test_a_name_that_would_lead_elsewhere_is_refused(operation: str, field: str, name: str) -> None:
    with pytest.raises(Invalid) as refused:
        provider.operations[operation].validate({field: name, "input": {}})
    assert refused.value.param == f"input.{field}" and "owner/name" in refused.value.detail


def test_a_name_that_passed_unchecked_still_leads_nowhere_else() -> None:
    """A submit is validated first; this is the second lock."""
    call = a_call(operation="model_prediction", input={"model": "../../evil", "input": {}})
    _, (request,) = drive(provider.submit(call), lambda _: replied({}, 500))
    assert request.url == "https://api.replicate.com/v1/models/%2E%2E%2F%2E%2E%2Fevil/predictions"


# -- outputs --------------------------------------------------------------------------------------

TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.sampled_from(["https://a.test/x.png"])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=4)),
    max_leaves=12,
)


def urls_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from urls_in(inner)
    elif isinstance(value, str) and URL.fullmatch(value):
        yield value


@given(output=TREES.filter(lambda tree: tree not in (None, "", [], {})))
@settings(deadline=None)
def test_any_output_is_shown_by_its_urls_or_as_itself(output: Any) -> None:
    update = read({"status": "succeeded", "output": output})
    assert update.status == JobStatus.SUCCEEDED and update.provider_data["output"] == output
    found, expected = [shown.url for shown in update.outputs], list(dict.fromkeys(urls_in(output)))
    words = isinstance(output, list) and all(isinstance(item, str) for item in output)
    if expected and not (words and any(not URL.fullmatch(item) for item in output)):
        assert found == expected
        return
    (shown,) = update.outputs
    content = base64.b64decode(shown.url.partition("base64,")[2])
    assert shown.kind == "text" and shown.bytes == len(content)
    text = output if isinstance(output, str) else "".join(output) if words else None
    assert content.decode() == text if text is not None else json.loads(content) == output


def test_deep_output_is_read() -> None:
    body = b'{"id":"p","status":"succeeded","output":' + b"[" * 400 + b'"https://a.test/x.png"' + b"]" * 400 + b"}"
    assert [shown.url for shown in provider.read_callback(body).update.outputs] == ["https://a.test/x.png"]


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"id":"\xff"}', b"7"])
def test_body_that_cannot_be_read_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest):
        provider.read_callback(body)


def test_numbers_keep_their_digits() -> None:
    update = read({"status": "succeeded", "output": {"seed": 2**63 + 1, "file": "https://a.test/x.png"}})
    assert update.provider_data["output"]["seed"] == 2**63 + 1


@pytest.mark.parametrize("at", [None, 7, "soon", "2027-01-15T08:00:00", "9999-99-99T00:00:00Z"])
def test_end_that_cannot_be_read_gives_no_expiry(at: Any) -> None:
    update = read({"status": "succeeded", "output": ["https://a.test/x.png"], "completed_at": at})
    assert update.outputs[0].expires_at is None


# -- the list -------------------------------------------------------------------------------------


def endless(request: Request) -> Reply:
    page = int(request.url.partition("cursor=")[2] or 0)
    row = {"id": f"p{page}", "created_at": "2027-01-15T08:00:00Z", "status": "starting"}
    return replied({"results": [row], "next": f"https://api.replicate.com/v1/predictions?cursor={page + 1}"})


def test_list_without_end_is_left_after_so_many_pages() -> None:
    verdict, asked = drive(provider.lookup(a_call(callback_url=OURS)), endless)
    assert isinstance(verdict, NotNow) and len(asked) == PAGES
    with pytest.raises(Unavailable):
        drive(provider.history(a_call(), 0), endless)


@pytest.mark.parametrize(
    "url", ["http://api.replicate.com/v1/predictions?cursor=1", "https://api.replicate.com.evil.example/", 7]
)
def test_key_never_follows_the_list_to_another_origin(url: Any) -> None:
    verdict, asked = drive(
        provider.lookup(a_call(callback_url=OURS)), lambda _: replied({"results": [{}], "next": url})
    )
    assert isinstance(verdict, NotNow) and len(asked) == 1


def test_media_of_megabytes_inside_the_body_are_read() -> None:
    url = "data:image/png;base64," + "A" * 6_000_000
    body = json.dumps({"id": "p", "status": "succeeded", "output": [url]}).encode()
    assert len(body) < provider.callback_max_bytes
    (shown,) = provider.read_callback(body).update.outputs
    assert (shown.url, shown.kind, shown.content_type) == (url, "image", "image/png")
