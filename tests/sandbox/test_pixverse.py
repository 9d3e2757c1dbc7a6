"""PixVerse, against the shapes of its documents."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from .conftest import MINIMAL, Sandbox

Until = Callable[[Callable[[], Any]], Any]
SameShape = Callable[[Any, Any], bool]

SUBMITTED = {"ErrCode": 0, "ErrMsg": "success", "Resp": {"video_id": 627410861853514292, "credits": 45}}
RUNNING = {"ErrCode": 0, "ErrMsg": "success", "Resp": {"id": 627410861853514292, "status": 5, "url": ""}}
DOCUMENTED = {
    "create_time": "string", "id": 0, "modify_time": "string", "negative_prompt": "string", "outputHeight": 0,
    "outputWidth": 0, "prompt": "string", "resolution_ratio": 0, "seed": 0, "size": 0, "status": 1,
    "style": "string", "url": "string", "has_audio": True, "credits": 45,
}  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def refused(reply: Any) -> int:
    assert reply.status_code == 200, "PixVerse's errors come with HTTP 200"
    body = reply.json()
    assert set(body) == {"ErrCode", "ErrMsg", "Resp"} and body["Resp"] is None and body["ErrCode"] != 0
    return int(body["ErrCode"])


def result(sandbox: Sandbox, video_id: int) -> dict[str, Any]:
    found: dict[str, Any] = sandbox.pixverse("GET", f"video/result/{video_id}").json()
    return found


def test_submit_answers_a_64_bit_id(sandbox: Sandbox, same_shape: SameShape) -> None:
    reply = sandbox.text_to_video().json()
    assert same_shape(reply, SUBMITTED) and set(reply["Resp"]) == {"video_id", "credits"}
    video_id = reply["Resp"]["video_id"]
    assert 2**53 < video_id < 2**63 and int(float(video_id)) != video_id
    assert reply["Resp"]["credits"] == 45


def test_video_goes_from_5_to_1_with_a_file(sandbox: Sandbox, until: Until, same_shape: SameShape) -> None:
    sandbox.faults("pixverse", duration_s=[1, 1])
    video_id = sandbox.text_to_video(prompt="a cat", seed=7).json()["Resp"]["video_id"]
    running = result(sandbox, video_id)
    assert same_shape(running, RUNNING) and running["Resp"]["status"] == 5 and running["Resp"]["url"] == ""
    done = until(lambda: (found := result(sandbox, video_id)["Resp"])["status"] == 1 and found)
    assert same_shape(done, DOCUMENTED)
    assert (done["id"], done["prompt"], done["seed"]) == (video_id, "a cat", 7)
    assert len(sandbox.http.get(done["url"]).content) == done["size"]


@pytest.mark.parametrize(("fault", "status"), [("fail", 8), ("moderation", 7)])
def test_failure_has_its_number_and_gives_the_credits_back(
    sandbox: Sandbox, until: Until, fault: str, status: int
) -> None:
    before = sandbox.control("GET", "pixverse/account")["credits"]
    sandbox.faults("pixverse", **{fault: 1})
    video_id = sandbox.text_to_video().json()["Resp"]["video_id"]
    done = until(lambda: (found := result(sandbox, video_id)["Resp"])["status"] != 5 and found)
    assert (done["status"], done["url"]) == (status, "")
    assert sandbox.control("GET", "pixverse/account")["credits"] == before
    assert sandbox.ledger("pixverse")[0]["charged"] == 45


def test_same_trace_id_is_one_video_and_one_charge(sandbox: Sandbox) -> None:
    trace = str(uuid.uuid4())
    first, again = (sandbox.text_to_video(trace=trace, prompt=text).json() for text in ("one", "another"))
    assert first == again
    assert [row["reference"] for row in sandbox.ledger("pixverse")] == [trace]
    assert sandbox.text_to_video().json()["Resp"]["video_id"] != first["Resp"]["video_id"]


def test_trace_id_is_forgotten_after_its_time(sandbox: Sandbox) -> None:
    sandbox.control("PUT", "pixverse/account", trace_memory_s=0)
    for _ in range(2):
        sandbox.text_to_video(trace="the same")
    assert len(sandbox.ledger("pixverse")) == 2


def test_refused_trace_id_may_be_used_again(sandbox: Sandbox) -> None:
    assert refused(sandbox.text_to_video(trace="t", prompt="")) == 400011
    assert sandbox.text_to_video(trace="t").json()["ErrCode"] == 0


def test_every_call_needs_key_and_trace_id(sandbox: Sandbox) -> None:
    calls = [("POST", "video/text/generate"), ("GET", "video/result/1"), ("GET", "account/balance")]
    for method, path in [*calls, ("POST", "image/upload"), ("POST", "account/billing/usage-detail")]:
        assert refused(sandbox.pixverse(method, path, key="wrong")) == 10001
        url = f"/pixverse/openapi/v2/{path}"
        assert refused(sandbox.http.request(method, url, headers={"API-KEY": "sandbox"})) == 400011
    assert sandbox.ledger("pixverse") == []


@pytest.mark.parametrize("field", ["prompt", "model", "duration", "quality", "aspect_ratio"])
def test_missing_field_is_refused(sandbox: Sandbox, field: str) -> None:
    body = {name: MINIMAL[name] for name in MINIMAL if name != field}
    assert refused(sandbox.pixverse("POST", "video/text/generate", json=body)) == 400011
    sandbox.control("PUT", "pixverse/account", require_options=False)
    assert (sandbox.pixverse("POST", "video/text/generate", json=body).json()["ErrCode"] == 0) == (field != "prompt")


def test_wrong_types_and_unknown_webhook_are_refused(sandbox: Sandbox) -> None:
    assert refused(sandbox.text_to_video(duration="5")) == 400013
    assert refused(sandbox.pixverse("POST", "video/text/generate", content=b"{")) == 400013
    assert refused(sandbox.text_to_video(webhook_id="nobody's")) == 400017
    assert refused(sandbox.text_to_video(webhook_id={})) == 400017
    assert sandbox.ledger("pixverse") == []


def test_full_account_is_500044_and_empty_one_is_refused(sandbox: Sandbox) -> None:
    sandbox.control("PUT", "pixverse/account", concurrency=1)
    sandbox.text_to_video()
    assert refused(sandbox.text_to_video()) == 500044
    sandbox.control("PUT", "pixverse/account", concurrency=9, credits=44)
    assert refused(sandbox.text_to_video()) == 500090
    assert len(sandbox.ledger("pixverse")) == 1


def test_unknown_video_is_refused(sandbox: Sandbox) -> None:
    assert refused(sandbox.pixverse("GET", "video/result/1")) == 500008


def test_image_upload_then_image_to_video_then_template(sandbox: Sandbox) -> None:
    uploaded = sandbox.pixverse("POST", "image/upload", files={"image": ("a.png", PNG, "image/png")}).json()["Resp"]
    assert set(uploaded) == {"img_id", "img_url"}
    assert sandbox.http.get(uploaded["img_url"]).headers["content-type"] == "image/png"
    fields = {"img_id": uploaded["img_id"], "prompt": "go", "model": "v5", "duration": 5, "quality": "720p"}
    assert sandbox.pixverse("POST", "video/img/generate", json=fields).json()["Resp"]["credits"] == 60
    sandbox.pixverse("POST", "video/img/generate", json={**fields, "template_id": 3})
    assert [row["operation"] for row in sandbox.ledger("pixverse")] == ["image_to_video", "template"]


def test_upload_without_image_is_refused(sandbox: Sandbox) -> None:
    assert (
        refused(sandbox.pixverse("POST", "image/upload", files={"image": ("a.txt", b"text", "text/plain")})) == 500032
    )
    assert refused(sandbox.pixverse("POST", "image/upload", files={"other": ("a.png", PNG, "image/png")})) == 400011
    assert refused(sandbox.pixverse("POST", "image/upload", content=b"x")) == 400011


def test_media_upload_and_lip_sync(sandbox: Sandbox) -> None:
    files = {"file": ("a.mp3", b"\xff\xfb", "audio/mpeg")}
    media = sandbox.pixverse("POST", "media/upload", files=files, data={"media_type": "audio"}).json()["Resp"]
    assert media["media_type"] == "audio" and media["url"].endswith(".mp3")
    body = {"source_video_id": 1, "audio_media_id": media["media_id"]}
    assert sandbox.pixverse("POST", "video/lip_sync/generate", json=body).json()["ErrCode"] == 0


def test_mask_is_there_at_once_and_image_template_has_an_image(sandbox: Sandbox, until: Until) -> None:
    mask = sandbox.pixverse("POST", "video/mask/selection", json={"source_video_id": 1}).json()["Resp"]
    assert set(mask) == {"keyframe_id", "keyframe_url", "credits", "mask_info"}
    body = {"img_ids": [1], "template_id": 2}
    image_id = sandbox.pixverse("POST", "image/template/generate", json=body).json()["Resp"]["image_id"]
    image = until(
        lambda: (f := sandbox.pixverse("GET", f"image/result/{image_id}").json()["Resp"])["status"] == 1 and f
    )
    assert set(image) == {"image_id", "status", "url"}


def test_balance_falls_by_what_is_charged(sandbox: Sandbox) -> None:
    sandbox.control("PUT", "pixverse/account", credits=1000)
    sandbox.text_to_video(quality="1080p", motion_mode="fast")
    balance = sandbox.pixverse("GET", "account/balance").json()["Resp"]
    assert balance == {"account_id": 1, "credit_monthly": 760, "credit_package": 0}


def test_usage_detail_pages_through_charges_and_refunds(sandbox: Sandbox, until: Until) -> None:
    ids = [sandbox.text_to_video().json()["Resp"]["video_id"] for _ in range(3)]
    sandbox.faults("pixverse", fail=1)
    ids.append(sandbox.text_to_video().json()["Resp"]["video_id"])
    until(lambda: result(sandbox, ids[-1])["Resp"]["status"] == 8)
    now = datetime.now(UTC)
    period = {"start_time": f"{now - timedelta(hours=1):%Y-%m-%d %H:%M:%S}", "end_time": f"{now:%Y-%m-%d %H:%M:%S}"}
    items: list[dict[str, Any]] = []
    cursor, more = None, True
    while more:
        body = {**period, "limit": 2, **({"cursor": cursor} if cursor else {})}
        page = sandbox.pixverse("POST", "account/billing/usage-detail", json=body).json()["Resp"]
        items += page["items"]
        cursor, more = page["next_cursor"], page["has_more"]
    assert [item["video_id"] for item in items] == [ids[3], *reversed(ids)]
    assert [item["credits_status"] for item in items] == ["refund"] + ["consume"] * 4
    only = {**period, "credits_status": "refund"}
    refunds = sandbox.pixverse("POST", "account/billing/usage-detail", json=only).json()["Resp"]["items"]
    assert [item["credits"] for item in refunds] == [45]
    assert refused(sandbox.pixverse("POST", "account/billing/usage-detail", json={**period, "limit": 101})) == 400017
    assert refused(sandbox.pixverse("POST", "account/billing/usage-detail", json={})) == 400013


def test_ids_go_on_rising_over_a_reset(sandbox: Sandbox) -> None:
    first = sandbox.text_to_video().json()["Resp"]["video_id"]
    sandbox.control("POST", "pixverse/reset")
    assert sandbox.ledger("pixverse") == []
    assert sandbox.text_to_video().json()["Resp"]["video_id"] > first


def upload(sandbox: Sandbox, path: str, field: str, content: bytes, **fields: str) -> Any:
    return sandbox.pixverse("POST", path, files={field: ("a.bin", content, "application/octet-stream")}, data=fields)


def test_uploads_are_checked_for_form_and_size(sandbox: Sandbox) -> None:
    wide = PNG[:8] + b"\x00\x00\x00\rIHDR" + (10_001).to_bytes(4) + (1).to_bytes(4) + bytes(9)
    assert refused(upload(sandbox, "image/upload", "image", wide)) == 500030
    assert refused(upload(sandbox, "image/upload", "image", PNG + bytes(20_000_000))) == 500030
    assert refused(upload(sandbox, "image/upload", "image", b"RIFF\x00\x00\x00\x00WAVE")) == 500032
    assert upload(sandbox, "image/upload", "image", b"RIFF\x00\x00\x00\x00WEBP").json()["ErrCode"] == 0
    assert refused(upload(sandbox, "media/upload", "file", b"\xff\xfb", media_type="video")) == 500033
    assert refused(upload(sandbox, "media/upload", "file", PNG, media_type="audio")) == 500033
    assert refused(upload(sandbox, "media/upload", "file", b"\xff\xfb", media_type="smell")) == 400017
    assert upload(sandbox, "media/upload", "file", bytes(4) + b"ftypmp42", media_type="video").json()["ErrCode"] == 0


def test_account_may_insist_on_ids_of_its_own_uploads(sandbox: Sandbox) -> None:
    sandbox.control("PUT", "pixverse/account", known_uploads_only=True)
    picture = upload(sandbox, "image/upload", "image", PNG).json()["Resp"]["img_id"]
    sound = upload(sandbox, "media/upload", "file", b"ID3", media_type="audio").json()["Resp"]["media_id"]

    def asked(path: str, **fields: Any) -> int:
        return int(sandbox.pixverse("POST", path, json=fields).json()["ErrCode"])

    assert asked("image/template/generate", img_ids=[picture], template_id=1) == 0
    assert asked("image/template/generate", img_ids=[picture, 7], template_id=1) == 500008
    assert asked("video/lip_sync/generate", source_video_id=1, audio_media_id=sound) == 0
    assert asked("video/lip_sync/generate", source_video_id=1, audio_media_id=picture) == 500008
    assert asked("video/lip_sync/generate", video_media_id=sound, audio_media_id=sound) == 500008
    assert len(sandbox.ledger("pixverse")) == 2


@pytest.mark.parametrize(
    ("path", "fields", "code"),
    [
        ("video/upscale/generate", {"source_video_id": 1, "video_media_id": 2}, 400017),
        ("video/lip_sync/generate", {"source_video_id": 1, "lip_sync_tts_content": "Hello"}, 400017),
        ("video/avatar/generate", {"img_id": 1, "quality": "540p"}, 400011),
        ("video/restyle/generate", {"source_video_id": 1, "restyle_id": 1, "restyle_prompt": "clay"}, 400017),
        ("video/swap/generate", {"source_video_id": 1, "mask_id": "1", "img_id": 1, "quality": "1080p"}, 400017),
        ("video/multi_transition/generate", {"multi_transition": [{}], "model": "v5", "quality": "540p"}, 400017),
    ],
)
def test_what_excludes_each_other_or_is_too_much_is_refused(
    sandbox: Sandbox, path: str, fields: dict[str, Any], code: int
) -> None:
    assert refused(sandbox.pixverse("POST", path, json=fields)) == code
    assert sandbox.ledger("pixverse") == []


def test_speakers_styles_and_effects_are_listed_in_pages(sandbox: Sandbox) -> None:
    def listed(path: str, **params: Any) -> Any:
        return sandbox.pixverse("GET", path, params=params).json()["Resp"]

    first = listed("video/tts_speaker", page_num=1, page_size=5)
    assert len(first["data"]) == 5 and first["data"][0] == {"speaker_id": "auto", "name": "Auto"}
    assert (
        listed("video/lip_sync/tts_list", page_num=3, page_size=5)["data"] == listed("video/tts_speaker")["data"][10:]
    )
    assert {"restyle_id", "name"} <= set(listed("video/restyle/list")["data"][0])
    kinds = [listed("video/effects/templates/list", type=kind, page=1, pageSize=100)["data"] for kind in (1, 2)]
    assert {row["type"] for row in kinds[0]} == {1} and {row["type"] for row in kinds[1]} == {2}
    for path, params in (("video/tts_speaker", {"page_num": "x"}), ("video/effects/templates/list", {"type": "3"})):
        assert refused(sandbox.pixverse("GET", path, params=params)) in (400013, 400017)


def test_own_voice_is_added_and_deleted(sandbox: Sandbox) -> None:
    before = sandbox.pixverse("GET", "video/tts_speaker").json()["Resp"]["total"]
    voice = sandbox.pixverse("POST", "video/tts_speaker", json={"name": "Mine"}).json()["Resp"]
    assert sandbox.pixverse("GET", "video/tts_speaker").json()["Resp"]["total"] == before + 1
    gone = sandbox.pixverse("DELETE", "video/tts_speaker", params={"speaker_id": voice["speaker_id"]})
    assert gone.json()["ErrCode"] == 0
    assert sandbox.pixverse("GET", "video/tts_speaker").json()["Resp"]["total"] == before


def test_usage_detail_carries_the_trace_unless_told_otherwise(sandbox: Sandbox) -> None:
    now = datetime.now(UTC)
    period = {"start_time": f"{now - timedelta(hours=1):%Y-%m-%d %H:%M:%S}"}
    period["end_time"] = f"{now + timedelta(hours=1):%Y-%m-%d %H:%M:%S}"

    def items() -> list[dict[str, Any]]:
        reply = sandbox.pixverse("POST", "account/billing/usage-detail", json=period).json()
        found: list[dict[str, Any]] = reply["Resp"]["items"]
        return found

    sandbox.text_to_video(trace="t-1")
    body = {"img_ids": [1], "template_id": 2}
    image = sandbox.pixverse("POST", "image/template/generate", json=body, trace="t-2").json()["Resp"]["image_id"]
    rows = {row["trace_id"]: row for row in items()}
    assert "video_id" in rows["t-1"] and "image_id" not in rows["t-1"]
    assert rows["t-2"]["image_id"] == image and "video_id" not in rows["t-2"]
    sandbox.control("PUT", "pixverse/account", usage_trace_id=False)
    sandbox.text_to_video(trace="t-3")
    assert "t-3" not in {row.get("trace_id") for row in items()} and len(items()) == 3


AVATAR = {"img_id": 1, "quality": "540p", "audio_media_id": 2}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("image/upload", {"image_url": "https://example.com/a.png"}),
        ("media/upload", {"file_url": "https://example.com/a.mp4"}),
        ("media/upload", {"file_url": "https://example.com/a.mp3", "media_type": "audio"}),
    ],
)
def test_upload_by_url_in_an_urlencoded_form(sandbox: Sandbox, path: str, fields: dict[str, str]) -> None:
    said = sandbox.pixverse("POST", path, data=fields).json()
    assert said["ErrCode"] == 0 and said["Resp"].keys() & {"img_id", "media_id"}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("video/transition/generate", {"first_frame_img": 1, "last_frame_img": 2, **MINIMAL}),
        ("video/upscale/generate", {"source_video_id": 1}),
        ("video/swap/generate", {"source_video_id": 1, "img_id": 2, "quality": "540p"}),
        ("video/fusion/generate", {**MINIMAL, "video_references": [{"img_id": 1}], "duration": 0}),
    ],
)
def test_every_documented_endpoint_takes_a_webhook_id(sandbox: Sandbox, path: str, fields: dict[str, Any]) -> None:
    sandbox.control("PUT", "pixverse/callbacks", webhook_id="wh-9", url="http://127.0.0.1:9/", secret="s")
    assert sandbox.pixverse("POST", path, json={**fields, "webhook_id": "wh-9"}).json()["ErrCode"] == 0
    assert refused(sandbox.pixverse("POST", "video/avatar/generate", json={**AVATAR, "webhook_id": "wh-9"})) == 400017


def test_a_repeat_may_get_an_id_whose_video_stays_under_way(sandbox: Sandbox, until: Until) -> None:
    sandbox.control("PUT", "pixverse/account", repeat_stays_open=True)
    first, again = (sandbox.text_to_video(trace="the same").json()["Resp"]["video_id"] for _ in range(2))
    assert first != again and len(sandbox.ledger("pixverse")) == 1
    until(lambda: result(sandbox, first)["Resp"]["status"] == 1)
    assert result(sandbox, again)["Resp"]["status"] == 5


def test_500044_may_come_without_any_load(sandbox: Sandbox) -> None:
    sandbox.faults("pixverse", error_before_accept={"500044": 1})
    assert refused(sandbox.text_to_video()) == 500044
    assert sandbox.ledger("pixverse") == []
