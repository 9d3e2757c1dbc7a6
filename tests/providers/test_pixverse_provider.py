"""PixVerse beyond the contract: every reading of its signature rule, trace ids, and input that depends on input."""

import base64
import hashlib
import hmac
import json
import uuid
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Invalid, SignatureRefused
from service.providers import Call, Reply, Request
from service.providers.pixverse import provider

from . import cases

SECRET = "test-secret"
NOW = 1_800_000_000
NONCE = "0123456789abcdef0123456789abcdef"


def signed(query: str, at: int | str = NOW) -> dict[str, str]:
    """Headers for a form-encoded query: the documented formula, written a second time."""
    text = f"{at}\n{NONCE}\n{query}".encode()
    signature = base64.b64encode(hmac.new(SECRET.encode(), text, hashlib.sha256).digest()).decode()
    return {"Webhook-Timestamp": str(at), "Webhook-Nonce": NONCE, "Webhook-Signature": signature}


def verify(headers: dict[str, str], body: str | bytes) -> bool:
    return provider.verify_callback(headers, body.encode() if isinstance(body, str) else body, [SECRET], NOW)


READINGS = [
    ('{"url":"a b","id":"5"}', "id=5&url=a+b"),
    ('{"url":"a b","id":"5"}', "id=5&url=a%20b"),
    ('{"url":"a b","id":"5"}', "url=a+b&id=5"),
    ('{"url":"a b","id":"5"}', "url=a%20b&id=5"),
    ('{"t":"1+1 =2&"}', "t=1%2B1+%3D2%26"),
    ('{"t":"1+1 =2&"}', "t=1%2B1%20%3D2%26"),
    ('{"size":10.50}', "size=10.50"),
    ('{"size":10.50}', "size=10.5"),
    ('{"size":10.0}', "size=10"),
    ('{"size":1e3}', "size=1e3"),
    ('{"size":1e3}', "size=1000"),
    ('{"size":0.00001}', "size=0.00001"),
    ('{"id":627410861853514292}', "id=627410861853514292"),
    ('{"ok":true,"no":false}', "no=false&ok=true"),
    ('{"t":"\\u00e9"}', "t=%C3%A9"),
    ("{}", ""),
]


@pytest.mark.parametrize(("body", "query"), READINGS)
def test_every_reading_that_the_documents_leave_open_verifies(body: str, query: str) -> None:
    assert verify(signed(query), body) is True


AMBIGUOUS = [
    ('{"a":{"b":1}}', "a=map%5Bb%3A1%5D"),
    ('{"a":[1]}', "a=1"),
    ('{"a":[["b","c"]]}', "a=b"),
    ('{"a":null}', "a="),
    ('{"a":1,"a":1}', "a=1"),
    ('{"a":1,"a":2}', "a=1&a=2"),
    ('{"a":NaN}', "a=NaN"),
    ('{"a":Infinity}', "a=Infinity"),
    ('\ufeff{"a":1}', "a=1"),
    ('[["a","1"]]', "a=1"),
    ("[]", ""),
    ('"a"', "a"),
    ("", ""),
    ('{"a":"\\ud800"}', "a=%EF%BF%BD"),
    ('{"a":1} x', "a=1"),
    ('{"a":' * 5000 + "1" + "}" * 5000, "a=1"),
]


@pytest.mark.parametrize(("body", "query"), AMBIGUOUS, ids=range(len(AMBIGUOUS)))
def test_body_that_no_form_carries_unambiguously_is_refused_whatever_its_signature(body: str, query: str) -> None:
    with pytest.raises(SignatureRefused):
        verify(signed(query), body)


@pytest.mark.parametrize("body", [b'{"a":"\xff"}', '{"a":1}'.encode("utf-16")])
def test_body_that_is_not_utf8_is_refused(body: bytes) -> None:
    with pytest.raises(SignatureRefused):
        verify(signed("a=1"), body)


FIELDS = st.dictionaries(st.text(max_size=5), st.one_of(st.text(max_size=9), st.booleans(), st.integers()), max_size=5)


@given(fields=FIELDS.filter(lambda fields: not holds_surrogates(fields)), plus=st.booleans(), ordered=st.booleans())
@settings(deadline=None)
def test_any_flat_body_verifies_and_any_change_of_a_value_does_not(
    fields: dict[str, Any], plus: bool, ordered: bool
) -> None:
    encode = quote_plus if plus else lambda text: quote(text, safe="")
    texts = {name: json.dumps(value) if not isinstance(value, str) else value for name, value in fields.items()}
    pairs = sorted(texts.items()) if ordered else list(texts.items())
    headers = signed("&".join(f"{encode(name)}={encode(text)}" for name, text in pairs))
    assert verify(headers, json.dumps(fields)) is True
    for name, text in texts.items():
        with pytest.raises(SignatureRefused):
            verify(headers, json.dumps({**fields, name: f"{text}x"}))


def holds_surrogates(fields: dict[str, Any]) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in f"{fields}")


@pytest.mark.parametrize(
    "at", ["+1800000000", "-1", " 1800000000", "1_800_000_000", "1800000000000", "1800000000.0", ""]
)
def test_timestamp_in_another_notation_is_refused_whatever_its_signature(at: str) -> None:
    with pytest.raises(SignatureRefused):
        verify(signed("a=1", at), '{"a":1}')


@pytest.mark.parametrize("text", ["\udce9", "\u0661\u0668", "a\nb", "", "x" * 10_000])
@pytest.mark.parametrize("header", ["Webhook-Timestamp", "Webhook-Nonce", "Webhook-Signature"])
def test_header_that_is_not_ascii_text_of_its_shape_is_refused(header: str, text: str) -> None:
    with pytest.raises(SignatureRefused):
        verify({**signed("a=1"), header: text}, '{"a":1}')


def test_empty_secret_proves_nothing() -> None:
    text = f"{NOW}\n{NONCE}\na=1".encode()
    signature = base64.b64encode(hmac.new(b"", text, hashlib.sha256).digest()).decode()
    headers = {**signed("a=1"), "Webhook-Signature": signature}
    with pytest.raises(SignatureRefused):
        provider.verify_callback(headers, b'{"a":1}', ["", ""], NOW)


def test_largest_body_is_refused_and_one_of_many_fields_unread() -> None:
    body = json.dumps({"id": "1", "url": "é " * 15_000, "n": 1.5}, ensure_ascii=False).encode()
    assert len(body) < provider.callback_max_bytes
    with pytest.raises(SignatureRefused, match="no secret"):
        verify(signed("a=1"), body.decode())
    with pytest.raises(SignatureRefused, match="flat"):
        verify(signed("a=1"), json.dumps({str(n): n for n in range(65)}))


# -- trace ids and input --------------------------------------------------------------------------


def a_call(**given: Any) -> Call:
    known = {"operation": "text_to_video", "input": {}, "api_key": "k", "base_url": provider.base_url}
    return Call(**{**known, "correlation": "the-correlation", "now": NOW * 1000, "submitted_at": NOW * 1000, **given})


def trace_of(request: Request) -> str:
    return request.headers["Ai-trace-id"]


def test_submit_and_its_repeat_carry_the_jobs_own_trace_id_and_the_same_bytes() -> None:
    first, repeat = next(provider.submit(a_call())), next(provider.submit(a_call(repeat=True, now=NOW * 1000 + 5000)))
    assert trace_of(first) == trace_of(repeat) == "the-correlation"
    assert first == repeat


def test_every_other_request_has_a_trace_id_of_its_own() -> None:
    steps = provider.lookup(a_call())
    page = b'{"ErrCode":0,"ErrMsg":"success","Resp":{"items":[],"has_more":true,"next_cursor":"c"}}'
    requests = [next(steps), steps.send(Reply(status=200, headers={}, body=page))]
    requests += [next(provider.status(a_call(now=at), "5")) for at in (1, 2)]
    requests += [next(provider.status(a_call(), "6")), next(provider.check(a_call(correlation="")))]
    traces = [trace_of(request) for request in requests]
    assert len({"the-correlation", *traces}) == len(traces) + 1
    assert all(str(uuid.UUID(trace)) == trace for trace in traces)


def test_lookup_of_a_list_without_end_comes_to_an_end() -> None:
    steps = provider.lookup(a_call())
    page = b'{"ErrCode":0,"ErrMsg":"success","Resp":{"items":[],"has_more":true,"next_cursor":"c"}}'
    next(steps)
    with pytest.raises(StopIteration):
        for _ in range(100):
            steps.send(Reply(status=200, headers={}, body=page))


I2V = {"prompt": "a cat", "model": "v5", "duration": 5, "quality": "540p"}


def test_image_to_video_wants_an_image() -> None:
    operation = provider.operations["image_to_video"]
    with pytest.raises(Invalid) as refused:
        operation.validate(I2V)
    assert refused.value.param == "input.img_id"
    assert "img_ids" in refused.value.detail
    for image in ({"img_id": 5}, {"img_id": "file_1"}, {"img_ids": [627410861853514292, 6]}):
        operation.validate({**I2V, **image})


SPEECH = {"lip_sync_tts_speaker_id": "auto", "lip_sync_tts_content": "Hello"}
SOURCE = {"source_video_id": 1}
REFUSED = [
    # operation, input, the field that is named
    ("lip_sync", {}, "source_video_id"),
    ("lip_sync", {**SOURCE}, "lip_sync_tts_speaker_id"),
    ("lip_sync", {**SOURCE, "lip_sync_tts_speaker_id": "auto"}, "lip_sync_tts_content"),
    ("lip_sync", {**SOURCE, **SPEECH, "audio_media_id": 2}, "lip_sync_tts_speaker_id"),
    ("lip_sync", {**SOURCE, "audio_media_id": 2, "lip_sync_tts_content": "Hello"}, "lip_sync_tts_content"),
    ("lip_sync", {**SOURCE, **SPEECH, "lip_sync_tts_content": "x" * 201}, "lip_sync_tts_content"),
    ("avatar", {"img_id": 1, "quality": "540p"}, "lip_sync_tts_speaker_id"),
    ("avatar", {"img_id": 1, "quality": "540p", **SPEECH, "audio_media_id": 2}, "lip_sync_tts_speaker_id"),
    ("restyle", {**SOURCE}, "restyle_id"),
    ("restyle", {**SOURCE, "restyle_id": 1, "restyle_prompt": "clay"}, "restyle_id"),
    ("sound_effect", {**SOURCE}, "sound_effect_content"),
    ("swap", {**SOURCE, "mask_id": "1", "img_id": 2, "quality": "1080p"}, "quality"),
    ("modify", {**SOURCE, "prompt": "x", "quality": "1080p"}, "quality"),
    ("modify", {**SOURCE, "prompt": "x", "quality": "720p", "mask_ids": [1, 2, 3, 4]}, "mask_ids"),
    ("mimic", {**SOURCE, "img_id": 1, "quality": "1080p"}, "quality"),
    ("template", {"template_id": 1}, "img_id"),
    ("template", {"template_id": 1, "img_id": 2, "camera_movement": "zoom_in"}, "camera_movement"),
    ("image_template", {"template_id": 1}, "img_ids"),
    ("image_template", {"template_id": 1, "img_ids": []}, "img_ids"),
    ("agent", {"agent_id": "viral"}, "agent_id"),
    ("extend", {**SOURCE, "prompt": "x", "model": "v5", "duration": 5, "quality": "540p", "seed": -1}, "seed"),
]


@pytest.mark.parametrize(("operation", "given", "field"), REFUSED)
def test_what_pixverse_would_refuse_is_refused_by_its_field(operation: str, given: Any, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        provider.operations[operation].validate(given)
    assert refused.value.param == f"input.{field}"


FROM_VIDEO = [name for name, row in provider.operations.items() if "video_media_id" in row.input_schema["properties"]]


@pytest.mark.parametrize("operation", FROM_VIDEO)
def test_one_source_and_not_two(operation: str) -> None:
    row = provider.operations[operation]
    example = {name: value for name, value in row.input_schema["examples"][0].items() if "video" not in name}
    for source in ({"source_video_id": "627410861853514292"}, {"video_media_id": "file_1"}, {"video_media_id": 7}):
        row.validate({**example, **source})
    for sources in ({}, {"source_video_id": 1, "video_media_id": 2}, {"source_video_id": "file_1"}):
        with pytest.raises(Invalid) as refused:
            row.validate({**example, **sources})
        assert refused.value.param == "input.source_video_id"


def test_there_are_nine_operations_on_a_video_and_nineteen_in_all() -> None:
    assert len(FROM_VIDEO) == 9
    assert len(provider.operations) == 19


@pytest.mark.parametrize("frames", [1, 8])
def test_multi_transition_takes_two_to_seven_frames(frames: int) -> None:
    row = provider.operations["multi_transition"]
    with pytest.raises(Invalid) as refused:
        row.validate({"multi_transition": [{"img_id": 1}] * frames, "model": "v5", "quality": "540p"})
    assert refused.value.param == "input.multi_transition"
    with pytest.raises(Invalid) as refused:
        row.validate({"multi_transition": [{"img_id": 1}, {"prompt": "x"}], "model": "v5", "quality": "540p"})
    assert refused.value.param == "input.multi_transition.1.img_id"


@pytest.mark.parametrize(("model", "most"), [("v5", 3), ("v4.5", 3), ("v5.5", 10), ("v6", 10)])
def test_fusion_takes_as_many_references_as_the_model_may(model: str, most: int) -> None:
    row = provider.operations["fusion"]
    given = {**row.input_schema["examples"][0], "model": model}
    references = given["image_references"]
    row.validate({**given, "image_references": references * most})
    with pytest.raises(Invalid) as refused:
        row.validate({**given, "image_references": references * (most + 1)})
    assert refused.value.param == "input.image_references"
    with pytest.raises(Invalid) as refused:
        row.validate({**given, "image_references": [{**references[0], "ref_name": "x" * 31}]})
    assert refused.value.param == "input.image_references.0.ref_name"


def test_price_is_known_for_v5_of_5_seconds_alone() -> None:
    row = provider.operations["text_to_video"]
    for quality, amount in (("360p", "45"), ("540p", "45"), ("720p", "60"), ("1080p", "120")):
        price = row.price({"model": "v5", "duration": 5, "quality": quality})
        assert price is not None and (price.amount, price.unit, price.source) == (amount, "credits", "quoted")
    for other in ({"model": "v6"}, {"duration": 8}, {"quality": "4k"}, {"sound_effect_switch": True}):
        assert row.price({"model": "v5", "duration": 5, "quality": "540p", **other}) is None


def test_what_the_documents_contradict_themselves_about_is_left_to_pixverse() -> None:
    given = {"prompt": "x" * 6000, "model": "v99", "duration": 60, "quality": "4320p", "aspect_ratio": "1:2"}
    provider.operations["text_to_video"].validate(given)


CALLED_BACK = (
    "text_to_video image_to_video template transition lip_sync extend sound_effect fusion restyle multi_transition swap"
    " mimic modify upscale".split()
)
SWAP = {"source_video_id": 1, "img_id": 2, "quality": "540p"}
FUSION = {"prompt": "a cat", "model": "v6", "duration": 0, "quality": "540p", "aspect_ratio": "16:9"}


@pytest.mark.parametrize("operation", sorted(provider.operations))
def test_every_endpoint_that_the_page_on_webhooks_names_is_told_whom_to_call(operation: str) -> None:
    ids = json.dumps({"ErrCode": 0, "Resp": {"img_id": 1, "media_id": 2}}).encode()

    def uploaded(_: Request) -> Reply:
        return Reply(status=200, headers={}, body=ids)

    call = cases.a_call(provider, {**cases.example_call("pixverse", operation), "callback_id": "wh-1"})
    _, asked = cases.drive(provider.submit(call), uploaded)
    request = next(request for request in asked if request.charges)
    assert ("webhook_id" in json.loads(request.body)) == (operation in CALLED_BACK)


@pytest.mark.parametrize(
    ("operation", "given"),
    [
        ("swap", SWAP),
        ("swap", {**SWAP, "keyframe_id": 1}),
        ("fusion", {**FUSION, "video_references": [{"img_id": 1}]}),
        ("fusion", {**FUSION, "image_references": [{"img_id": 1}], "duration": 5}),
        ("multi_transition", {"multi_transition": [{"img_id": 1, "duration": 5}, {"img_id": 2, "duration": 0}],
                              "model": "v5", "quality": "540p"}),
    ],
)  # fmt: skip
def test_what_the_guide_calls_optional_is(operation: str, given: dict[str, Any]) -> None:
    provider.operations[operation].validate(given)


OK = {"ErrCode": 0, "ErrMsg": "success"}
FIRST, AGAIN = "627410861853514292", "627410861853514294"


def row_of(video_id: str, trace: str = "the-correlation") -> dict[str, Any]:
    return {"video_id": int(video_id), "trace_id": trace, "credits": 45, "credits_status": "consume"}


def status_of(repeated: bool, waited_ms: int, rows: list[dict[str, Any]], first: dict[str, Any]) -> tuple[Any, int]:
    """The verdict on a video that stays under way, and how many requests it took."""
    data = {"accepted_on_repeat": True} if repeated else {}

    def answer(request: Request) -> Reply:
        if "usage-detail" in request.url:
            said: Any = {"items": rows, "has_more": False}
        else:
            said = first if request.url.endswith(FIRST) else {"id": int(AGAIN), "status": 5, "url": ""}
        return Reply(status=200, headers={}, body=json.dumps({**OK, "Resp": said}).encode())

    call = a_call(now=NOW * 1000 + waited_ms, provider_data=data)
    verdict, asked = cases.drive(provider.status(call, AGAIN), answer)
    assert not any(request.charges for request in asked)
    return verdict, len(asked)


DONE = {"id": int(FIRST), "status": 1, "url": "https://media.example/v.mp4"}


@pytest.mark.parametrize(
    ("rows", "first", "status"),
    [
        ([row_of(FIRST)], DONE, "succeeded"),
        ([row_of(AGAIN), row_of(FIRST)], DONE, "succeeded"),
        ([row_of(FIRST)], {"id": int(FIRST), "status": 7, "url": ""}, "failed"),
        ([row_of(FIRST)], {"id": int(FIRST), "status": 5, "url": ""}, "processing"),
        ([row_of(FIRST, trace="another")], DONE, "processing"),
        ([row_of(AGAIN)], DONE, "processing"),
        ([], DONE, "processing"),
    ],
)
def test_an_accepted_repeat_that_stays_open_is_looked_up_by_its_first_id(
    rows: list[dict[str, Any]], first: dict[str, Any], status: str
) -> None:
    verdict, _ = status_of(True, 301_000, rows, first)
    assert verdict.status == status
    assert status == "processing" or verdict.provider_data["first_id"] == FIRST


@pytest.mark.parametrize(("repeated", "waited_ms"), [(False, 3_000_000), (True, 0), (True, 299_000)])
def test_nothing_is_looked_up_of_a_first_submit_or_a_young_one(repeated: bool, waited_ms: int) -> None:
    verdict, asked = status_of(repeated, waited_ms, [row_of(FIRST)], DONE)
    assert (verdict.status, asked) == ("processing", 1)


def test_the_answer_to_a_repeat_is_marked_as_one() -> None:
    reply = Reply(status=200, headers={}, body=json.dumps({**OK, "Resp": {"video_id": int(AGAIN)}}).encode())
    first, _ = cases.drive(provider.submit(a_call()), lambda _: reply)
    repeat, _ = cases.drive(provider.submit(a_call(repeat=True)), lambda _: reply)
    assert (first.provider_data, repeat.provider_data) == (None, {"accepted_on_repeat": True})
