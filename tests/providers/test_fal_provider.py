"""fal beyond the contract: its signatures made with real keys, where its key may go, outputs of any shape."""

import base64
import hashlib
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import BadRequest, Invalid, SignatureRefused
from service.facts import NotFound
from service.providers import Call, Reply
from service.providers.fal import provider
from service.states import JobStatus

from .cases import drive

NOW = 1_800_000_000
KEY, OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32))), Ed25519PrivateKey.generate()
BODY = b'{"request_id":"r-1","status":"OK","payload":{"seed":9223372036854775809}}'


def public(key: Ed25519PrivateKey) -> str:
    return base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).decode().rstrip("=")


def signed(body: bytes = BODY, key: Ed25519PrivateKey = KEY, at: int | str = NOW, **named: str) -> dict[str, str]:
    """Headers by the documented rule, written a second time."""
    request_id, user_id = named.get("request_id", "r-1"), named.get("user_id", "github|12345")
    text = f"{request_id}\n{user_id}\n{at}\n{hashlib.sha256(body).hexdigest()}".encode()
    return {
        "X-Fal-Webhook-Request-Id": request_id,
        "X-Fal-Webhook-User-Id": user_id,
        "X-Fal-Webhook-Timestamp": str(at),
        "X-Fal-Webhook-Signature": key.sign(text).hex(),
    }


def verify(headers: dict[str, str], body: bytes = BODY, *keys: str) -> bool:
    return provider.verify_callback(headers, body, keys or (public(KEY),), NOW)


# -- signatures -----------------------------------------------------------------------------------


def test_the_vector_of_the_formula_is_reproduced() -> None:
    body = b'{"request_id":"r1","status":"OK"}'
    assert public(KEY) == "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg"
    assert hashlib.sha256(body).hexdigest() == "14e62706497d1fdd02ed952d3e701883357241940e9a25c79f9d74d85379bbac"
    assert signed(body, request_id="r1", user_id="u1")["X-Fal-Webhook-Signature"] == (
        "87d413a8e25d2ff8202a2871d64c9ed430912d8470f230bfddd50f60c23b0015"
        "eb6cfc42b8e7235d3b58833bffa8eca0a000b3e4b37adff327abe17d14e28d01"
    )


@given(body=st.binary(max_size=300), seed=st.binary(min_size=32, max_size=32))
@settings(deadline=None)
def test_any_body_that_a_key_signed_verifies_and_no_other_does(body: bytes, seed: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    headers = signed(body, key)
    assert verify(headers, body, public(OTHER), public(key)) is True
    for other in (body + b" ", b"{}" if body != b"{}" else b"[]"):
        with pytest.raises(SignatureRefused):
            verify(headers, other, public(key))
    with pytest.raises(SignatureRefused):
        verify(headers, body, public(OTHER))


@given(data=st.data())
@settings(deadline=None)
def test_a_flipped_bit_anywhere_never_verifies(data: st.DataObject) -> None:
    headers = signed()
    part = data.draw(st.sampled_from([*headers, "body"]))
    raw = bytearray(BODY if part == "body" else headers[part].encode())
    # In hex a letter has two spellings, one bit apart, and both are the signature.
    bits = (0, 1, 2, 3, 4, 6, 7) if part == "X-Fal-Webhook-Signature" else range(8)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.sampled_from(bits))
    spoilt = headers if part == "body" else {**headers, part: raw.decode("latin-1")}
    with pytest.raises(SignatureRefused):
        verify(spoilt, bytes(raw) if part == "body" else BODY)


@pytest.mark.parametrize(
    "changed",
    [
        {"X-Fal-Webhook-Request-Id": None},
        {"X-Fal-Webhook-User-Id": None},
        {"X-Fal-Webhook-Timestamp": None},
        {"X-Fal-Webhook-Signature": None},
        {"X-Fal-Webhook-Request-Id": ""},
        {"X-Fal-Webhook-User-Id": "é"},
        {"X-Fal-Webhook-User-Id": "x" * 257},
        {"x-fal-webhook-request-id": "r-2"},
        {"x-fal-webhook-user-id": "another"},
        {"x-fal-webhook-timestamp": f"{NOW + 1}"},
        {"X-Fal-Webhook-Signature": ""},
        {"X-Fal-Webhook-Signature": "00" * 63},
        {"X-Fal-Webhook-Signature": "00" * 65},
        {"X-Fal-Webhook-Signature": "zz" * 64},
        {"X-Fal-Webhook-Signature": "\u0661" * 128},
        {"X-Fal-Webhook-Timestamp": "soon"},
        {"X-Fal-Webhook-Timestamp": "1" * 20},
        {"X-Fal-Webhook-Timestamp": f"{NOW}000"},
    ],
    ids=lambda changed: repr(changed)[:60],
)
def test_malformed_headers_are_a_refusal(changed: dict[str, str | None]) -> None:
    merged: dict[str, str | None] = {**signed(), **changed}
    with pytest.raises(SignatureRefused):
        verify({name: value for name, value in merged.items() if value is not None})


@pytest.mark.parametrize("at", [f"+{NOW}", f"-{NOW}", f" {NOW}", f"{NOW}.0", "1_800_000_000", ""])
def test_timestamp_in_another_notation_is_refused_whatever_its_signature(at: str) -> None:
    with pytest.raises(SignatureRefused):
        verify(signed(at=at))


def test_line_feed_in_a_header_moves_no_line_of_what_is_signed() -> None:
    headers = signed(request_id="r-1\ngithub|12345", user_id="x")
    with pytest.raises(SignatureRefused):
        verify(headers)


@pytest.mark.parametrize(("age", "found"), [(0, True), (300, True), (301, False), (7200, False), (-300, True)])
def test_an_old_one_is_a_hint(age: int, found: bool) -> None:
    assert verify(signed(at=NOW - age)) is found


def test_one_from_the_future_is_forged() -> None:
    with pytest.raises(SignatureRefused):
        verify(signed(at=NOW + 301))


@pytest.mark.parametrize("keys", [("",), ("no key",), (public(KEY)[:-1],), (public(KEY) + "A",), ("\u0661" * 43,)])
def test_what_is_no_key_proves_nothing(keys: tuple[str, ...]) -> None:
    with pytest.raises(SignatureRefused):
        verify(signed(), BODY, *keys)
    with pytest.raises(SignatureRefused):
        provider.verify_callback(signed(), BODY, (), NOW)


def test_hex_in_capitals_and_headers_in_any_case_are_the_same() -> None:
    headers = {name.lower(): value for name, value in signed().items()}
    headers["x-fal-webhook-signature"] = headers["x-fal-webhook-signature"].upper()
    assert verify({**headers, "Content-Type": "é", "content-type": "twice"}) is True


# -- outputs of every shape -------------------------------------------------------------------------

VIDEO, THUMB = "https://v3.fal.media/a.mp4", "https://v3.fal.media/t.png"


@pytest.mark.parametrize(
    ("payload", "wanted"),
    [
        ({"video_url": VIDEO, "thumbnail": {"url": THUMB, "width": 4}}, [VIDEO, THUMB]),
        ({"video": {"url": VIDEO, "thumbnail_url": THUMB}}, [VIDEO, THUMB]),
        ({"video": {"url": VIDEO, "poster": {"url": THUMB}}, "text": "a kite"}, [VIDEO, THUMB]),
        ({"frames": [THUMB, {"url": VIDEO}], "seed": 7}, [THUMB, VIDEO]),
        ({"video_url": VIDEO, "video": {"url": VIDEO, "content_type": "video/mp4"}}, [VIDEO]),
        ({"video_url": VIDEO, "request": {"image_urls": [THUMB], "image": {"url": THUMB}}}, [VIDEO]),
        ({"input": {"image_url": THUMB}}, [THUMB]),
        ([[VIDEO], {"more": {"deep": [{"x": THUMB}]}}], [VIDEO, THUMB]),
        ({"url": "no URL", "video_url": VIDEO}, [VIDEO]),
    ],
)
def test_no_shape_hides_another(payload: Any, wanted: list[str]) -> None:
    assert [shown.url for shown in called_back(status="OK", payload=payload).update.outputs] == wanted


def test_a_description_says_more_than_the_bare_url() -> None:
    payload = {"video_url": VIDEO, "video": {"url": VIDEO, "content_type": "video/webm", "file_size": 9}}
    (shown,) = called_back(status="OK", payload=payload).update.outputs
    assert (shown.content_type, shown.bytes) == ("video/webm", 9)


# -- where the key goes ---------------------------------------------------------------------------


def a_call(**given: Any) -> Call:
    fields = {"operation": "queue", "input": {"model": "fal-ai/flux/dev", "input": {}}, "now": NOW * 1000, **given}
    return Call(api_key="a-key", base_url=fields.pop("base_url", provider.base_url), **fields)


ELSEWHERE = [
    "https://evil.example/fal-ai/flux/requests/r1/status",
    "http://queue.fal.run/fal-ai/flux/requests/r1/status",
    "https://queue.fal.run:8443/fal-ai/flux/requests/r1/status",
    "https://queue.fal.run@evil.example/requests/r1/status",
    "https://queue.fal.run.evil.example/requests/r1/status",
    "//queue.fal.run/requests/r1/status",
    "https://queue.fal.run\\.evil.example/requests/r1",
    "https://[/requests/r1",
    7,
    None,
]


@pytest.mark.parametrize("url", ELSEWHERE)
def test_urls_of_another_origin_are_built_from_the_model_instead(url: Any) -> None:
    data = dict.fromkeys(("status_url", "response_url", "cancel_url"), url)
    done = Reply(status=200, headers={}, body=b'{"status":"COMPLETED"}')
    call = a_call(provider_data=data)
    for verb in (provider.status, provider.cancel):
        _, asked = drive(verb(call, "r1"), lambda _: done)
        assert asked and all(sent.url.startswith("https://queue.fal.run/fal-ai/flux/requests/r1") for sent in asked)


def test_a_base_url_with_a_prefix_keeps_it() -> None:
    call = a_call(
        base_url="http://127.0.0.1:9/fal", provider_data={"status_url": "http://127.0.0.1:9/x/requests/r1/status"}
    )
    _, (asked,) = drive(
        provider.status(call, "r1"), lambda _: Reply(status=202, headers={}, body=b'{"status":"IN_QUEUE"}')
    )
    assert asked.url == "http://127.0.0.1:9/fal/fal-ai/flux/requests/r1/status"


def test_public_keys_are_asked_for_without_ours_wherever_they_are() -> None:
    for call in (a_call(), a_call(base_url="http://127.0.0.1:9/fal"), a_call(options={"keys_url": "https://x.test/k"})):
        request = next(provider.keys(call))
        assert "a-key" not in f"{request.headers} {request.url}" and "Authorization" not in request.headers


def test_followed_request_is_named_below_its_model_or_nowhere() -> None:
    call = a_call(input={})
    verdict, asked = drive(provider.status(call, "r1"), lambda _: Reply(status=500, headers={}, body=b""))
    assert isinstance(verdict, NotFound) and asked == [] and "<owner>/<name>/requests/<id>" in verdict.reason
    for hostile in ("../x/requests/r1", "https://evil.example/requests/r1", "a b/c/requests/r1"):
        verdict, asked = drive(provider.status(call, hostile), lambda _: Reply(status=500, headers={}, body=b""))
        assert isinstance(verdict, NotFound) and asked == []


# -- input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        "flux",
        "",
        "/fal-ai/flux",
        "fal-ai/flux/",
        "fal-ai//flux",
        "../x/y",
        "fal-ai/..",
        "a b/c",
        "https://x.test/a",
        "a/b?c=d",
        "workflows/someone",
        "comfy/x",
        "12-",
        "fal.run/flux",
        "fal.run/fal.run/fal-ai/flux",
        "api.fal.ai/v1/models",
    ],
)
def test_a_model_that_would_lead_elsewhere_is_refused(model: str) -> None:
    with pytest.raises(Invalid) as refused:
        provider.operations["queue"].validate({"model": model, "input": {}})
    assert refused.value.param == "input.model" and "fal-ai/flux/dev" in refused.value.detail


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("123-clip-maker", "123/clip-maker"),
        ("workflows/a/b", "workflows/a/b"),
        ("comfy/a/b/c", "comfy/a/b/c"),
        ("workflows-x/a", "workflows-x/a"),
        ("fal-ai/flux", "fal-ai/flux"),
    ],
)
def test_models_of_every_notation_are_taken(model: str, path: str) -> None:
    provider.operations["queue"].validate({"model": model, "input": {}})
    request = next(provider.submit(a_call(input={"model": model, "input": {}})))
    assert request.url == f"https://queue.fal.run/{path}"


@pytest.mark.parametrize("named", ["r1", "fal-ai/requests/r1", "workflows/a/requests/r1", "fal-ai/flux/requests/"])
def test_an_id_that_says_no_app_cannot_be_followed(named: str) -> None:
    with pytest.raises(Invalid):
        provider.follows("queue", named)
    for whole in ("fal-ai/flux/requests/r1", "workflows/a/b/requests/r1", "12-foo/requests/r1"):
        provider.follows("queue", whole)


def test_our_url_survives_the_query() -> None:
    url = "https://calls.example.com/v1/callbacks/fal/a+b&c=d#e?f g"
    request = next(provider.submit(a_call(callback_url=url)))
    assert parse_qs(urlsplit(request.url).query) == {"fal_webhook": [url]}


# -- callbacks and outputs ------------------------------------------------------------------------


def called_back(**said: Any) -> Any:
    return provider.read_callback(json.dumps({"request_id": "r1", **said}).encode())


@pytest.mark.parametrize(("other", "also"), [("g1", ("g1",)), ("r1", ()), (None, ()), (7, ("7",)), ("", ())])
def test_the_gateways_id_is_another_name_of_the_same_work(other: Any, also: tuple[str, ...]) -> None:
    read = called_back(gateway_request_id=other, status="OK", payload={"seed": 1})
    assert (read.provider_job_id, read.also) == ("r1", also)


def test_ok_without_a_payload_leaves_the_end_to_be_read_and_to_be_called_back_again() -> None:
    open_ended = called_back(status="OK", payload=None, payload_error="too odd")
    whole = called_back(status="OK", payload={"video": {"url": "https://v3.fal.media/x.mp4"}})
    assert open_ended.update.status == JobStatus.PROCESSING and whole.update.status == JobStatus.SUCCEEDED
    assert open_ended.dedupe_key != whole.dedupe_key


@pytest.mark.parametrize("word", ["PENDING", "ok?", "IN_PROGRESS"])
def test_word_that_nobody_documented_is_no_end(word: str) -> None:
    assert called_back(status=word, payload={"seed": 1}).update.status == JobStatus.PROCESSING


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("Request was canceled", "canceled"),
        ("a prompt about cancelled shows, quoted, is no cancel", "failed"),
        ("client_cancelled", "canceled"),
        ("noise cancellation broke", "failed"),
    ],
)
def test_only_what_was_canceled_is_canceled(text: str, status: str) -> None:
    assert called_back(status="ERROR", error=text, payload=None).update.status == status


@pytest.mark.parametrize(
    "payload",
    ["text", ["a", 1], 7, True, {}, {"detail": 7}, {"detail": [7, {"loc": "x", "msg": None}]}, {"detail": {}}],
)
def test_error_of_any_shape_is_an_error(payload: Any) -> None:
    update = called_back(status="ERROR", error=7, payload=payload).update
    assert update.status == JobStatus.FAILED and update.error is not None and update.error.message


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"request_id":"\xff"}'])
def test_body_that_cannot_be_read_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest):
        provider.read_callback(body)


def test_deep_payload_is_read_in_the_documents_order() -> None:
    deep = b"[" * 400 + b'{"url":"https://a.test/2.png"}' + b"]" * 400
    body = b'{"request_id":"r","status":"OK","payload":{"a":{"url":"https://a.test/1.png"},"b":' + deep + b"}}"
    assert [shown.url[-5:] for shown in provider.read_callback(body).update.outputs] == ["1.png", "2.png"]


@pytest.mark.parametrize(
    ("described", "kind"),
    [
        ({"url": "https://a.test/x", "content_type": "video/mp4; codecs=x"}, "video"),
        ({"url": "https://a.test/x.gif", "content_type": "image/gif"}, "gif"),
        ({"url": "https://a.test/x.bin", "content_type": "model/gltf-binary"}, "model_3d"),
        ({"url": "https://a.test/x.bin", "content_type": "text/vtt"}, "subtitle"),
        ({"url": "https://a.test/x", "file_name": "sound.OGG"}, "audio"),
        ({"url": "https://a.test/x.webp?y=1.mp4"}, "image"),
        ({"url": "data:audio/wav;base64,AAAA"}, "audio"),
        ({"url": "https://a.test/x.safetensors", "content_type": "application/octet-stream"}, "file"),
        ({"url": "https://a.test/"}, "file"),
    ],
)
def test_kind_is_by_content_type_then_by_name(described: dict[str, Any], kind: str) -> None:
    (shown,) = called_back(status="OK", payload={"file": described}).update.outputs
    assert (shown.url, shown.kind) == (described["url"], kind)


@pytest.mark.parametrize("size", [-1, 0, None, "9", 1e300, True, float("nan")])
def test_sizes_that_are_none_are_left_out(size: Any) -> None:
    described = {"url": "https://a.test/x.png", "file_size": size, "width": size, "height": size}
    (shown,) = called_back(status="OK", payload=described).update.outputs
    assert (shown.bytes, shown.width, shown.height) == (None, None, None)


def test_media_of_megabytes_inside_the_body_are_read() -> None:
    url = "data:image/png;base64," + "A" * 6_000_000
    body = json.dumps({"request_id": "r1", "status": "OK", "payload": {"image": {"url": url}}}).encode()
    assert len(body) < provider.callback_max_bytes
    (shown,) = provider.read_callback(body).update.outputs
    assert (shown.url, shown.kind, shown.content_type) == (url, "image", "image/png")
