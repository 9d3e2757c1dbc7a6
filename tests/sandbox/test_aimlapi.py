"""AI/ML API, against the literal samples of its pages."""

import base64
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from .conftest import QUICK, Sandbox

Until = Callable[[Callable[[], Any]], Any]
SameShape = Callable[[Any, Any], bool]
Json = dict[str, Any]

VIDEO = "/v2/video/generations"
PATHS = (
    VIDEO, "/v1/video/generations", "/video/generations",
    *(f"/v2/generate/video/{v}/generation"
      for v in ("kling", "alibaba", "google", "bytedance", "runway", "pixverse", "minimax")),
)  # fmt: skip
MONA_LISA = {
    "model": "pixverse/v5/image-to-video",
    "prompt": "Mona Lisa puts on glasses with her hands.",
    "image_url": "https://s2-111386.kwimgs.com/bs2/mmu-aiplatform-temp/kling/20240620/1.jpeg",
    "duration": 5,
}
NEWS = {
    "model": "pixverse/v5/image-to-video",
    "prompt": "A young news presenter standing in the studio",
    "image_url": "https://raw.githubusercontent.com/aimlapi/api-docs/main/reference-files/news-presenter.jpg",
    "lip_sync_tts_content": "Hello and welcome.",
    "lip_sync_tts_speaker": "Chloe",
}
TALK = {"model": "nova-3-general", "url": "https://audio-samples.github.io/samples/mp3/blizzard_primed/sample-0.mp3"}
SONG = {"model": "minimax/music-2.0", "prompt": "a calm piano"}
# The samples' own replies.
QUEUED = {
    "id": "8ac142d3-7c9f-4071-bdc6-d0f2d3d9b327:pixverse/v5/image-to-video",
    "status": "queued",
    "meta": {"usage": {"tokens_used": 420000}},
}
COMPLETED = {
    "id": "8ac142d3-7c9f-4071-bdc6-d0f2d3d9b327:pixverse/v5/image-to-video",
    "status": "completed",
    "video": {
        "url": "https://cdn.aimlapi.com/eagle/files/elephant/uCLDKRtL_AeOrRAwiR8UH_output.mp4",
        "content_type": "video/mp4",
        "file_name": "output.mp4",
        "file_size": 4259218,
    },
}
SPOKEN = {"id": "3yFHGAkECD5RPnpL11mHe", "status": "queued", "meta": {"usage": {"credits_used": 2000000}}}
SUCCEEDED = {
    "id": "3yFHGAkECD5RPnpL11mHe",
    "status": "succeeded",
    "video": {"url": "https://cdn.aimlapi.com/panda/pixverse%2Fmp4%2Fmedia.mp4"},
}
PROBLEM = {"message": "m", "path": VIDEO, "requestId": "r", "statusCode": "403", "timestamp": "t"}
LOG_ROW = {
    "created": "2026-07-02T03:04:05.000Z",
    "status": "succeeded",
    "origin": "api",
    "model": "openai/gpt-5",
    "cost": {"usd": 0.25, "credits": 500000},
    "tokens": {"input": 10, "output": 20, "total": 30},
    "request_id": "req-1",
    "inference_id": "inf-1",
    "client_request_id": "customer-42",
}


class AIML:
    def __init__(self, sandbox: Sandbox, until: Until) -> None:
        self.sandbox, self.until = sandbox, until

    def __call__(self, method: str, path: str, *, key: str = "sandbox", **more: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key}", **more.pop("headers", {})}
        return self.sandbox.http.request(method, f"/aimlapi{path}", headers=headers, **more)

    def submit(self, fields: Json, path: str = VIDEO, reference: str | None = None) -> httpx2.Response:
        return self("POST", path, json=fields, headers={"X-Client-Request-Id": reference} if reference else {})

    def fetch(self, generation_id: str, path: str = VIDEO) -> Json:
        reply = self("GET", path, params={"generation_id": generation_id})
        assert reply.status_code == 200, reply.text
        found: Json = reply.json()
        return found

    def finished(self, generation_id: str, path: str = VIDEO) -> Json:
        def done() -> Json | None:
            shown = self.fetch(generation_id, path)
            return None if shown["status"] in ("queued", "generating", "processing") else shown

        found: Json = self.until(done)
        return found

    def logs(self, **query: Any) -> Json:
        reply = self("GET", "/v2/logs", params={"period": "24h", **query})
        assert reply.status_code == 200, reply.text
        found: Json = reply.json()
        return found

    @property
    def ledger(self) -> list[Json]:
        return self.sandbox.ledger("aimlapi")

    def faults(self, **faults: Any) -> None:
        self.sandbox.faults("aimlapi", **faults)

    def account(self, **changes: Any) -> Json:
        found: Json = self.sandbox.control("PUT", "aimlapi/account", **changes)
        return found


@pytest.fixture
def aiml(running_sandbox: Sandbox, until: Until) -> Iterator[AIML]:
    running_sandbox.control("POST", "aimlapi/reset")
    running_sandbox.control("PUT", "aimlapi/faults", **QUICK)
    yield AIML(running_sandbox, until)


def is_problem(reply: httpx2.Response, status: int) -> Json:
    found: Json = reply.json()
    assert reply.status_code == status and found["statusCode"] == str(status)
    assert set(PROBLEM) <= set(found) and all(isinstance(found[name], str) for name in PROBLEM)
    return found


# -- videos ---------------------------------------------------------------------------------------


def test_first_sample_goes_from_queued_to_completed_with_a_playable_file(aiml: AIML, same_shape: SameShape) -> None:
    aiml.faults(duration_s=[1.5, 1.5])
    reply = aiml.submit(MONA_LISA)
    found = reply.json()
    assert reply.status_code == 200
    assert same_shape(found, QUEUED) and set(found) == set(QUEUED) and found["meta"] == QUEUED["meta"]
    assert re.fullmatch(r"[0-9a-f-]{36}:pixverse/v5/image-to-video", found["id"])
    seen: list[str] = []

    def done() -> Json | None:
        shown = aiml.fetch(found["id"])
        seen.append(shown["status"])
        return shown if shown["status"] == "completed" else None

    shown = aiml.until(done)
    assert list(dict.fromkeys(seen)) == ["queued", "generating", "completed"]
    assert same_shape(shown, COMPLETED) and set(shown) == set(COMPLETED) and shown["id"] == found["id"]
    assert set(shown["video"]) == set(COMPLETED["video"])  # type: ignore[call-overload]
    file = aiml.sandbox.http.get(shown["video"]["url"])
    assert file.headers["content-type"] == "video/mp4" and file.content[4:8] == b"ftyp"
    assert shown["video"]["file_size"] == len(file.content)


def test_second_sample_has_a_short_id_and_succeeds_with_only_a_url(aiml: AIML, same_shape: SameShape) -> None:
    found = aiml.submit(NEWS).json()
    assert same_shape(found, SPOKEN) and set(found) == set(SPOKEN) and found["meta"] == SPOKEN["meta"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{21}", found["id"])
    shown = aiml.finished(found["id"])
    assert shown["status"] == "succeeded" and set(shown) == set(SUCCEEDED) and set(shown["video"]) == {"url"}


@pytest.mark.parametrize("path", PATHS)
def test_every_name_of_the_video_call_submits_and_fetches(aiml: AIML, path: str) -> None:
    found = aiml.submit({"model": "alibaba/wan-2-7-t2v", "prompt": "a cat"}, path).json()
    id_field = "generation_id" if "minimax" in path else "id"
    assert aiml.finished(found[id_field], path)["status"] == "completed"
    assert aiml.fetch(found[id_field])["id"] == found[id_field], "and by the universal path"
    assert [row["operation"] for row in aiml.ledger] == ["video"]


def test_lip_sync_takes_sound_or_words(aiml: AIML) -> None:
    lips = {"model": "pixverse/lip-sync", "video_url": "data:video/mp4;base64,AAAA"}
    for speech in ({"audio_url": "data:audio/mpeg;base64,SUQz"},
                   {"lip_sync_tts_speaker": "Auto", "lip_sync_tts_content": "Hi"}):  # fmt: skip
        assert aiml.finished(aiml.submit({**lips, **speech}).json()["id"])["status"] == "succeeded"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "model"),
        ({"model": ""}, "model"),
        ({"model": "pixverse/v5/text-to-video"}, "prompt"),
        ({"model": "pixverse/v5/image-to-video", "prompt": "x"}, "image_url"),
        ({"model": "pixverse/v5/transition", "prompt": "x", "image_url": "u"}, "tail_image_url"),
        ({**MONA_LISA, "duration": 8, "resolution": "1080p"}, "duration"),
        ({**MONA_LISA, "duration": 10}, "duration"),
        ({**MONA_LISA, "resolution": "4k"}, "resolution"),
        ({**NEWS, "lip_sync_tts_speaker": "Nobody"}, "lip_sync_tts_speaker"),
        ({"model": "pixverse/lip-sync", "audio_url": "u"}, "video_url"),
        ({"model": "pixverse/lip-sync", "video_url": "u"}, "audio_url"),
        ({"model": "pixverse/lip-sync", "video_url": "u", "lip_sync_tts_content": "Hi"}, "audio_url"),
        ({"model": "pixverse/lip-sync", "video_url": "u", "audio_url": "u", "lip_sync_tts_content": "Hi"}, "audio_url"),
        ({"model": "alibaba/wan-2-7-t2v", "duration": "long"}, "duration"),
    ],
)
def test_wrong_input_is_400_and_accepts_nothing(aiml: AIML, fields: Json, field: str) -> None:
    found = is_problem(aiml.submit(fields), 400)
    assert found["errors"][0]["path"] == [field] and found["path"] == VIDEO
    assert aiml.ledger == []


@pytest.mark.parametrize("body", [b"", b"[]", b"not json"])
def test_what_is_no_object_is_400(aiml: AIML, body: bytes) -> None:
    assert is_problem(aiml("POST", VIDEO, content=body), 400)["message"] == "Body validation error!"


def test_unknown_generation_is_404_and_none_named_400(aiml: AIML) -> None:
    is_problem(aiml("GET", VIDEO, params={"generation_id": "nope:x/y"}), 404)
    is_problem(aiml("GET", VIDEO), 400)
    is_problem(aiml("GET", "/v1/stt/nope"), 404)


def test_failure_has_a_name_and_moderation_a_list(aiml: AIML) -> None:
    aiml.faults(fail=1)
    shown = aiml.finished(aiml.submit(MONA_LISA).json()["id"])
    assert (shown["status"], shown["video"], set(shown["error"])) == ("error", None, {"name", "message"})
    aiml.faults(moderation=1)
    shown = aiml.finished(aiml.submit(MONA_LISA).json()["id"])
    assert set(shown["error"]["detail"][0]) == {"loc", "msg", "type", "input"}
    assert shown["error"]["detail"][0]["input"] == MONA_LISA["prompt"]


def test_what_failed_is_not_charged(aiml: AIML) -> None:
    before = aiml.account()["credits"]
    aiml.faults(fail=1)
    aiml.finished(aiml.submit(MONA_LISA).json()["id"])
    assert aiml.account()["credits"] == before
    aiml.faults()
    aiml.finished(aiml.submit(MONA_LISA).json()["id"])
    assert aiml.account()["credits"] == before - 420000


# -- music, transcripts ---------------------------------------------------------------------------


def test_music_has_its_file_in_audio_file_behind_a_link_that_ends(aiml: AIML) -> None:
    found = aiml.submit(SONG, "/v2/generate/audio").json()
    shown = aiml.finished(found["id"], "/v2/generate/audio")
    assert shown["status"] == "completed" and set(shown["audio_file"]) == {"url"}
    ends = int(parse_qs(urlsplit(shown["audio_file"]["url"]).query)["Expires"][0])
    assert 86_000 < ends - datetime.now(UTC).timestamp() <= 86_400
    assert aiml.sandbox.http.get(shown["audio_file"]["url"]).headers["content-type"] == "audio/mpeg"


@pytest.mark.parametrize("model", ["minimax/h3", "bytedance/seedance-2-5", "alibaba/wan-2-7-t2v"])
def test_link_that_has_ended_opens_nothing(aiml: AIML, model: str) -> None:
    aiml.account(result_life_s=0)
    url = aiml.finished(aiml.submit({"model": model, "prompt": "a cat"}).json()["id"])["video"]["url"]
    assert "xpires" in url and aiml.until(lambda: aiml.sandbox.http.get(url).status_code == 403)
    aiml.account(result_life_s=600)
    url = aiml.finished(aiml.submit({"model": model, "prompt": "a cat"}).json()["id"])["video"]["url"]
    assert aiml.sandbox.http.get(url).status_code == 200


def test_older_music_call_answers_with_generation_id(aiml: AIML) -> None:
    path = "/v2/generate/audio/minimax/generate"
    found = aiml.submit({"model": "music-01", "lyrics": "la"}, path).json()
    assert "id" not in found and aiml.finished(found["generation_id"], path)["audio_file"]


@pytest.mark.parametrize("model", ["nova-3-general", "aai/slam-1"])
def test_transcript_is_fetched_by_its_path(aiml: AIML, model: str) -> None:
    aiml.faults(duration_s=[1.5, 1.5])
    found = aiml.submit({**TALK, "model": model}, "/v1/stt/create").json()
    assert found == {"generation_id": str(uuid.UUID(found["generation_id"]))}
    seen: list[str] = []

    def done() -> Json | None:
        shown = aiml("GET", f"/v1/stt/{found['generation_id']}").json()
        seen.append(shown["status"])
        return shown if shown["status"] == "completed" else None

    result = aiml.until(done)["result"]
    assert list(dict.fromkeys(seen)) == ["queued", "processing", "completed"]
    words = result.get("text") or result["results"]["channels"][0]["alternatives"][0]["transcript"]
    assert words == "This is what the sandbox heard."


@pytest.mark.parametrize("fields", [{"model": "nova-3-general"}, {**TALK, "audio": "AAAA"}])
def test_transcript_wants_one_recording(aiml: AIML, fields: Json) -> None:
    is_problem(aiml.submit(fields, "/v1/stt/create"), 400)


# -- what comes at once ---------------------------------------------------------------------------


def test_images_come_at_once_with_their_price(aiml: AIML, same_shape: SameShape) -> None:
    reply = aiml.submit({"model": "openai/gpt-image-2", "prompt": "x", "n": 2}, "/v1/images/generations", "ours")
    found = reply.json()
    sample = {"data": [], "meta": {"usage": {"credits_used": 107341, "usd_spent": 0.0536705}}}
    assert same_shape(found, sample) and len(found["data"]) == 2
    assert found["meta"]["usage"] == {"credits_used": 214682, "usd_spent": 0.107341}
    assert reply.headers["x-aimlapi-credits-used"] == "214682"
    assert reply.headers["x-aimlapi-usd-spent"] == "0.107341000"
    assert reply.headers["x-client-request-id"] == "ours"
    urls = [image["url"] for image in found["data"]]
    assert len(set(urls)) == 2 and aiml.sandbox.http.get(urls[0]).content.startswith(b"\x89PNG")
    assert aiml.ledger[0]["provider_job_id"] == reply.headers["x-inference-id"]


def test_flux_names_its_images_twice_and_base64_is_to_be_had(aiml: AIML) -> None:
    flux = {"model": "flux/srpo", "prompt": "x"}
    found = aiml.submit(flux, "/v1/images/generations").json()
    assert found["images"] == found["data"] and found["images"][0]["content_type"] == "image/png"
    coded = aiml.submit({**flux, "response_format": "b64_json"}, "/v1/images/generations").json()
    assert base64.b64decode(coded["data"][0]["b64_json"]).startswith(b"\x89PNG")


def test_speech_comes_as_a_url_or_as_sound(aiml: AIML) -> None:
    reply = aiml.submit({"model": "openai/gpt-4o-mini-tts", "text": "Hello."}, "/v1/tts")
    assert reply.status_code == 201 and reply.headers["x-aimlapi-credits-used"] == "11000"
    assert aiml.sandbox.http.get(reply.json()["audio"]["url"]).headers["content-type"] == "audio/mpeg"
    sound = aiml.submit({"model": "#g1_aura-2-helena-en", "text": "Hello."}, "/v1/tts")
    assert sound.headers["content-type"] == "audio/mpeg" and sound.content
    assert "x-inference-id" in sound.headers and "x-aimlapi-credits-used" not in sound.headers
    is_problem(aiml.submit({"model": "openai/gpt-4o-mini-tts"}, "/v1/tts"), 400)


def test_image_that_fails_is_an_error_and_a_row_without_cost(aiml: AIML) -> None:
    flux = {"model": "flux/dev", "prompt": "x"}
    for fault, status in (("fail", 500), ("moderation", 400)):
        aiml.faults(**{fault: 1})
        is_problem(aiml.submit(flux, "/v1/images/generations"), status)
    rows = aiml.logs()["data"]
    assert [(row["status"], row["cost"]["credits"]) for row in rows] == [("failed", 0), ("failed", 0)]


# -- tracing, logs, money -------------------------------------------------------------------------


def test_every_submit_is_charged_whatever_its_request_id(aiml: AIML) -> None:
    first, second = (aiml.submit(MONA_LISA, reference="job:1") for _ in range(2))
    assert first.json()["id"] != second.json()["id"]
    assert first.headers["x-inference-id"] == first.json()["id"]
    assert first.headers["x-client-request-id"] == "job:1"
    assert [(row["reference"], row["charged"]) for row in aiml.ledger] == [("job:1", 420000)] * 2
    assert aiml.ledger[0]["input"] == MONA_LISA


@pytest.mark.parametrize("reference", ["two words", "x" * 129])
def test_malformed_request_id_is_dropped_without_a_word(aiml: AIML, reference: str) -> None:
    reply = aiml.submit(MONA_LISA, reference=reference)
    assert reply.status_code == 200 and "x-client-request-id" not in reply.headers
    assert [row["reference"] for row in aiml.ledger] == [None]


def test_running_job_is_missing_from_the_logs_until_it_has_ended(aiml: AIML, same_shape: SameShape) -> None:
    aiml.faults(duration_s=[1.5, 1.5])
    found = aiml.submit(MONA_LISA, reference="job:1").json()
    assert aiml.logs()["data"] == []
    aiml.finished(found["id"])
    page = aiml.logs()
    assert page["pagination"] == {"limit": 50, "offset": 0, "total": 1, "has_more": False}
    row = page["data"][0]
    assert same_shape(row, LOG_ROW) and set(row) == set(LOG_ROW)
    assert (row["inference_id"], row["client_request_id"], row["model"]) == (found["id"], "job:1", MONA_LISA["model"])
    assert row["cost"] == {"usd": 0.21, "credits": 420000}


def test_logs_are_newest_first_page_by_page_and_filtered(aiml: AIML) -> None:
    for number in range(5):
        aiml.faults(fail=number % 2)
        aiml.submit({"model": f"flux/{number % 2}", "prompt": "x"}, "/v1/images/generations", f"n{number}")
    seen = [aiml.logs(limit=2, offset=offset)["data"] for offset in (0, 2, 4)]
    assert [row["client_request_id"] for page in seen for row in page] == ["n4", "n3", "n2", "n1", "n0"]
    assert aiml.logs(limit=2)["pagination"] == {"limit": 2, "offset": 0, "total": 5, "has_more": True}
    assert aiml.logs(status="failed")["pagination"]["total"] == 2
    assert aiml.logs(status=["failed", "succeeded"])["pagination"]["total"] == 5
    assert aiml.logs(model="flux/1")["pagination"]["total"] == 2
    now = datetime.now(UTC)
    window = {"start": (now - timedelta(hours=2)).isoformat(), "end": (now - timedelta(hours=1)).isoformat()}
    assert aiml("GET", "/v2/logs", params=window).json()["data"] == []


@pytest.mark.parametrize(
    "query",
    [
        {}, {"period": "soon"}, {"period": "7d", "start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"},
        {"start": "2026-01-01T00:00:00Z"}, {"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"},
        {"start": "2026-01-01T00:00:00Z", "end": "2026-04-05T00:00:00Z"}, {"start": "never", "end": "ever"},
        {"period": "93d"}, {"period": "7d", "limit": 101}, {"period": "7d", "limit": 0}, {"period": "7d", "offset": -1},
        {"period": "7d", "status": "succeeded,failed"},
    ],
)  # fmt: skip
def test_logs_refuse_a_wrong_query(aiml: AIML, query: Json) -> None:
    is_problem(aiml("GET", "/v2/logs", params=query), 400)


def test_logs_have_a_limit_of_their_own(aiml: AIML) -> None:
    aiml.account(logs_per_minute=2)
    assert [aiml("GET", "/v2/logs", params={"period": "1h"}).status_code for _ in range(3)] == [200, 200, 429]


def test_balance_in_three_shapes_and_what_moved_it(aiml: AIML, same_shape: SameShape) -> None:
    aiml.account(credits=10_000_000)
    ids = [aiml.submit(NEWS).json()["id"] for _ in range(3)]
    for generation_id in ids:
        aiml.finished(generation_id)
    assert aiml("GET", "/v2/billing").json() == {"current_balance": 2.0, "currency": "USD"}
    detail = aiml("GET", "/v2/billing/detail").json()
    assert detail["current_balance"] == 2.0 and set(detail["autotopup_settings"]) >= {"is_enabled", "threshold"}
    older = aiml("GET", "/v1/billing/balance").json()
    assert older["balance"] == 4_000_000 and same_shape(older, {"lowBalance": False, "lastUpdated": "t", "status": "s"})
    first = aiml("GET", "/v2/billing/transactions", params={"limit": 2}).json()
    rest = aiml(
        "GET", "/v2/billing/transactions", params={"limit": 2, "cursor": first["pagination"]["next_cursor"]}
    ).json()
    charges = first["data"] + rest["data"]
    assert [row["reference_id"] for row in charges] == ids[::-1] and rest["pagination"]["next_cursor"] is None
    assert charges[0]["amount"] == {"usd": 1.0, "credits": 2_000_000} and charges[0]["direction"] == "CHARGE"
    is_problem(aiml("GET", "/v2/billing/transactions", params={"cursor": "!"}), 400)


def test_empty_balance_is_403_and_full_account_429(aiml: AIML) -> None:
    aiml.account(credits=419_999)
    assert "run out of credits" in is_problem(aiml.submit(MONA_LISA), 403)["message"]
    aiml.account(credits=1_000_000, concurrency=1)
    aiml.faults(duration_s=[5, 5])
    assert aiml.submit(MONA_LISA).status_code == 200
    is_problem(aiml.submit(MONA_LISA), 429)
    assert len(aiml.ledger) == 1


def test_wrong_key_is_401_everywhere(aiml: AIML) -> None:
    calls = [("POST", VIDEO), ("GET", VIDEO), ("POST", "/v1/tts"), ("GET", "/v1/stt/x"), ("GET", "/v2/logs")]
    calls += [("GET", "/v2/billing"), ("GET", "/v2/billing/transactions"), ("GET", "/v1/billing/balance")]
    for method, path in calls:
        assert is_problem(aiml(method, path, key="wrong"), 401)["path"] == path


# -- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["400", "401", "403", "403_permission", "404", "429", "500", "503"])
def test_error_before_accept_is_in_its_own_shape_and_charges_nothing(aiml: AIML, code: str) -> None:
    aiml.faults(error_before_accept={code: 1})
    found = is_problem(aiml.submit(MONA_LISA), int(code[:3]))
    assert ("permission" in found["message"]) == (code == "403_permission")
    assert aiml.ledger == [] and aiml.sandbox.happened("aimlapi")[f"error_before_accept.{code}"] == 1


@pytest.mark.parametrize(("path", "fields"), [(VIDEO, MONA_LISA), ("/v1/tts", {"model": "m", "text": "Hello."})])
def test_reply_that_is_lost_after_acceptance_is_in_the_logs(aiml: AIML, path: str, fields: Json) -> None:
    aiml.faults(drop_reply_after_accept=1)
    with pytest.raises(httpx2.RemoteProtocolError):
        aiml.submit(fields, path, "job:lost")
    row = aiml.until(lambda: aiml.logs()["data"])[0]
    assert row["client_request_id"] == "job:lost"
    assert [charge["provider_job_id"] for charge in aiml.ledger] == [row["inference_id"]]
    assert aiml.sandbox.happened("aimlapi")["drop_reply_after_accept"] == 1


def test_error_after_accept_is_a_gateways_page(aiml: AIML) -> None:
    aiml.faults(error_after_accept={"502": 1})
    reply = aiml.submit(MONA_LISA)
    assert reply.status_code == 502 and reply.headers["content-type"].startswith("text/html")
    assert len(aiml.ledger) == 1


def test_status_regresses_after_the_end(aiml: AIML) -> None:
    generation_id = aiml.submit(MONA_LISA).json()["id"]
    aiml.finished(generation_id)
    aiml.faults(status_regress=1)
    assert aiml.fetch(generation_id)["status"] == "generating"


def test_the_list_of_models_names_what_a_submit_takes(aiml: AIML) -> None:
    listed = aiml("GET", "/v1/models").json()
    assert listed["object"] == "list"
    assert MONA_LISA["model"] in {row["id"] for row in listed["data"]}


@pytest.mark.parametrize("model", ["vendor/of-next-year", "pixverse/v9/text-to-video", "gpt-4o", "minimax/music-2.0"])
def test_a_model_that_is_not_there_is_refused(aiml: AIML, model: str) -> None:
    found = is_problem(aiml.submit({"model": model, "prompt": "a cat"}), 400)
    assert found["errors"][0]["path"] == ["model"] and aiml.sandbox.ledger("aimlapi") == []


@pytest.mark.parametrize(
    ("data", "files", "status"),
    [
        ({"model": TALK["model"]}, {"audio": ("a.mp3", b"\xff\xfb", "audio/mpeg")}, 201),
        ({"model": TALK["model"], "url": TALK["url"]}, {"other": ("a.mp3", b"\xff\xfb", "audio/mpeg")}, 201),
        ({"model": TALK["model"], "url": TALK["url"]}, {"audio": ("a.mp3", b"\xff\xfb", "audio/mpeg")}, 400),
        ({}, {"audio": ("a.mp3", b"\xff\xfb", "audio/mpeg")}, 400),
    ],
)
def test_a_sound_may_come_in_a_form(aiml: AIML, data: Json, files: Json, status: int) -> None:
    reply = aiml("POST", "/v1/stt/create", data=data, files=files)
    assert (reply.status_code == 400) == (status == 400)
    assert len(aiml.sandbox.ledger("aimlapi")) == (status != 400)
