"""AI/ML API beyond the contract: which fields go together, what is kept of a reply, and whole jobs to its sandbox."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from service.errors import Invalid, Unavailable
from service.facts import Done, NotFound, Output, Update
from service.providers import Call, Reply, Request
from service.providers._aimlapi_results import KEPT_BYTES, WHOLE_BYTES, found_in
from service.providers.aimlapi import LOOKUP_PAGES, provider
from service.states import ErrorCode, JobStatus
from tests.web.served import ADMIN, Served, sandbox_running

Json = dict[str, Any]

VIDEO = provider.operations["video"]
LIP_SYNC = {"model": "pixverse/lip-sync", "video_url": "https://e.test/face.mp4"}
WORDS = {"lip_sync_tts_speaker": "Chloe", "lip_sync_tts_content": "Hello."}
I2V = {"model": "pixverse/v5/image-to-video", "prompt": "a cat", "image_url": "https://e.test/a.png"}
T2V = {"model": "pixverse/v5/text-to-video", "prompt": "a cat"}
TRANSITION = {**I2V, "model": "pixverse/v5/transition", "tail_image_url": "https://e.test/b.png"}
NOW = 1_800_000_000_000


def a_call(operation: str, given: Json | None = None, **more: Any) -> Call:
    fields = {"api_key": "k", "base_url": provider.base_url, "correlation": "our-id", "now": NOW, "submitted_at": NOW}
    return Call(operation=operation, input=given or {}, **{**fields, **more})


def drive(steps: Any, answer: Callable[[Request], Reply]) -> Any:
    try:
        request = next(steps)
        while True:
            request = steps.send(answer(request))
    except StopIteration as end:
        return end.value


def replying(said: Any, status: int = 200, **headers: str) -> Callable[[Request], Reply]:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    return lambda _: Reply(
        status=status, headers={name.replace("_", "-"): text for name, text in headers.items()}, body=body
    )


# -- input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"model": "pixverse/lip-sync", **WORDS}, "video_url"),
        (LIP_SYNC, "audio_url"),
        ({**LIP_SYNC, "lip_sync_tts_content": "Hello."}, "lip_sync_tts_speaker"),
        ({**LIP_SYNC, "lip_sync_tts_speaker": "Chloe"}, "lip_sync_tts_content"),
        ({**LIP_SYNC, **WORDS, "audio_url": "https://e.test/a.mp3"}, "lip_sync_tts_content"),
        ({**LIP_SYNC, "audio_url": "u", "lip_sync_tts_speaker": "Chloe"}, "lip_sync_tts_speaker"),
        ({**LIP_SYNC, **WORDS, "lip_sync_tts_speaker": "Nobody"}, "lip_sync_tts_speaker"),
        ({"model": I2V["model"], "image_url": "u"}, "prompt"),
        ({"model": I2V["model"], "prompt": "x"}, "image_url"),
        ({**I2V, "image_url": ["u"]}, "image_url"),
        ({"model": T2V["model"]}, "prompt"),
        ({name: value for name, value in TRANSITION.items() if name != "tail_image_url"}, "tail_image_url"),
        ({**I2V, "resolution": "4k"}, "resolution"),
        ({**I2V, "duration": 10}, "duration"),
        ({**T2V, "model": "pixverse/v5.5/text-to-video", "duration": 7}, "duration"),
        ({**I2V, "resolution": "1080p", "duration": 8}, "duration"),
        ({**T2V, "lip_sync_tts_speaker": "chloe"}, "lip_sync_tts_speaker"),
        ({**T2V, "seed": "7"}, "seed"),
        ({"model": "", "prompt": "x"}, "model"),
        ({"model": "vendor/x", "image_url": 7}, "image_url"),
    ],
)  # fmt: skip
def test_video_that_would_certainly_be_refused_is_refused_by_its_field(given: Json, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        VIDEO.validate(given)
    assert refused.value.param == f"input.{field}"
    assert field in refused.value.detail


@pytest.mark.parametrize(
    "given",
    [
        {**LIP_SYNC, **WORDS},
        {**LIP_SYNC, "video_url": "data:video/mp4;base64,AAAA", "audio_url": "data:audio/mpeg;base64,SUQz"},
        {**LIP_SYNC, "video_url": "file_01", "audio_url": "file_02"},
        {**I2V, "duration": 8, "resolution": "720p", "seed": 1, "style": "anime", "negative_prompt": "rain"},
        {**I2V, "duration": 5, "resolution": "1080p", **WORDS},
        {**TRANSITION, "model": "pixverse/v5/transition"},
        {**T2V, "aspect_ratio": "16:9"},
        {**T2V, "model": "pixverse/v5.5/text-to-video", "duration": 10, "generate_audio_switch": True},
        {"model": "pixverse/v9/of-next-year", "duration": "12", "resolution": "8k"},
        {"model": "minimax/h3", "image_url": ["https://e.test/a.png", {"url": "u"}], "duration": 6.5},
    ],
)
def test_video_of_any_model_that_may_be_taken_passes(given: Json) -> None:
    VIDEO.validate(given)


@pytest.mark.parametrize(
    ("operation", "given", "field"),
    [
        ("speech_to_text", {"model": "nova-3-general"}, "url"),
        ("speech_to_text", {"model": "nova-3-general", "url": "u", "audio": "AAAA"}, "audio"),
        ("image", {"model": "flux/dev"}, "prompt"),
        ("image", {"model": "flux/dev", "prompt": "x", "response_format": "tiff"}, "response_format"),
        ("speech", {"model": "openai/tts-1"}, "text"),
        ("music", {"model": "minimax/music-2.0"}, "prompt"),
    ],
)
def test_other_input_is_refused_by_its_field(operation: str, given: Json, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        provider.operations[operation].validate(given)
    assert refused.value.param == f"input.{field}"


@pytest.mark.parametrize(
    ("operation", "given"),
    [
        ("speech_to_text", {"model": "nova-3-general", "audio": {"buffer": "AAAA", "mimetype": "audio/wav"}}),
        ("image", {"model": "flux/kontext-max/image-to-image", "image_url": ["https://e.test/a.png", "file_01"]}),
        ("speech", {"model": "microsoft/vibevoice-7b", "script": "Speaker 0: Hello."}),
        ("music", {"model": "minimax/music-cover", "audio_url": "data:audio/mpeg;base64,SUQz"}),
    ],
)
def test_what_stands_for_the_usual_field_is_enough(operation: str, given: Json) -> None:
    provider.operations[operation].validate(given)


def test_documented_defaults_are_in_the_schema() -> None:
    text = json.dumps(VIDEO.input_schema)
    assert '"default": "720p"' in text and '"default": 5' in text


def test_inputs_that_carry_media_may_be_large_and_no_price_is_promised() -> None:
    sizes = {name: row.max_body // 2**20 for name, row in provider.operations.items()}
    assert sizes == {"video": 64, "music": 64, "speech_to_text": 64, "image": 32, "speech": 1}
    assert all(row.quote == "" and row.price({"model": "m"}) is None for row in provider.operations.values())


def test_catalogs_are_the_documented_lists() -> None:
    models = provider.catalogs["models"].data
    by_path = [row["model"] for row in models if row["path"] == VIDEO.path]
    assert len(by_path) == 141 == len(set(by_path)) and {"pixverse/lip-sync", "veo2", "runway/act_two"} <= set(by_path)
    assert {row["operation"] for row in models} == {"video", "music"}
    assert [row["speaker"] for row in provider.catalogs["speakers"].data][::14] == ["Harper", "Auto"]


# -- what is kept of a reply ----------------------------------------------------------------------


def test_sound_inside_a_reply_is_kept_up_to_a_mebibyte() -> None:
    call = a_call("speech", {"model": "#g1_aura-2-helena-en", "text": "Hello."})
    kept = drive(provider.submit(call), replying(b"\xff" * KEPT_BYTES, content_type="Audio/WAV; rate=1"))
    assert isinstance(kept, Done) and kept.update.status == JobStatus.SUCCEEDED
    output = kept.update.outputs[0]
    assert (output.bytes, output.content_type) == (KEPT_BYTES, "audio/wav")
    assert base64.b64decode(output.url.partition("base64,")[2]) == b"\xff" * KEPT_BYTES
    lost = drive(provider.submit(call), replying(b"\xff" * (KEPT_BYTES + 1), content_type="audio/wav"))
    assert isinstance(lost, Done) and lost.update.error is not None
    assert lost.update.error.code == ErrorCode.RESULT_EXPIRED and not lost.update.outputs
    assert str(KEPT_BYTES + 1) in lost.update.error.message and "encoding" in lost.update.error.message


def test_pictures_inside_a_reply_are_kept_while_they_fit() -> None:
    small = "iVBORw0K"
    large = base64.b64encode(b"\x89PNG" + bytes(KEPT_BYTES)).decode()
    call = a_call("image", {"model": "dall-e-2", "prompt": "x"})
    both = drive(provider.submit(call), replying({"data": [{"b64_json": large}, {"b64_json": small}]}))
    assert [output.url for output in both.update.outputs] == [f"data:image/png;base64,{small}"]
    assert "data" not in (both.update.provider_data or {}), "it is kept once"
    none = drive(provider.submit(call), replying({"created": 1, "data": [{"b64_json": large}]}))
    assert none.update.error.code == ErrorCode.RESULT_EXPIRED and none.update.provider_data == {"created": 1}
    link = drive(
        provider.submit(call),
        replying({"data": [{"url": f"data:image/png;base64,{large}"}, {"url": "https://e.test/"}]}),
    )
    assert [output.url for output in link.update.outputs] == ["https://e.test/"]


def test_long_transcript_is_kept_and_its_details_stay_behind_the_key() -> None:
    words = [{"word": "hello", "start": number} for number in range(WHOLE_BYTES // 20)]
    said = {"status": "completed", "result": {"text": "hello", "words": words}, "meta": {"usage": {"credits_used": 7}}}
    found = drive(provider.status(a_call("speech_to_text"), "s-1"), replying(said))
    assert isinstance(found, Update)
    text, details = found.outputs
    assert text.url.endswith("aGVsbG8=") and not text.needs_key
    assert (details.url, details.needs_key) == ("https://api.aimlapi.com/v1/stt/s-1", True)
    assert found.provider_data == {"status": "completed", "meta": {"usage": {"credits_used": 7}}}
    request = provider.fetch(a_call("speech_to_text"), details)
    assert request is not None and request.url == details.url and request.headers["Authorization"] == "Bearer k"


def test_words_beyond_a_mebibyte_are_had_by_the_key_alone() -> None:
    said = {"status": "completed", "result": {"text": "x" * (KEPT_BYTES + 1)}}
    found = drive(provider.status(a_call("speech_to_text"), "s-1"), replying(said))
    assert found.status == JobStatus.SUCCEEDED and [output.needs_key for output in found.outputs] == [True]


@pytest.mark.parametrize("kind", ["video", "audio", "image"])
def test_kind_of_an_output_is_what_it_says_else_the_operations(kind: str) -> None:
    def kind_of(content_type: str | None) -> str:
        return found_in({"video": {"url": "u", "content_type": content_type}}, kind).outputs[0].kind

    assert [kind_of(None), kind_of("application/octet-stream")] == [kind, kind]
    assert [kind_of("image/gif"), kind_of("text/vtt"), kind_of("audio/wav")] == ["gif", "subtitle", "audio"]


def test_no_data_uri_is_taken_for_a_link_that_ends() -> None:
    found = found_in({"video": {"url": "data:video/mp4;base64,AAAA?Expires=1767960111"}}, "video")
    assert found.outputs == (Output(url="data:video/mp4;base64,AAAA?Expires=1767960111"),)


# -- the logs -------------------------------------------------------------------------------------


def page(rows: list[Json], more: bool) -> Json:
    return {"data": rows, "pagination": {"limit": 100, "offset": 0, "total": 1, "has_more": more}}


def test_lookup_of_endless_logs_ends() -> None:
    asked: list[str] = []

    def answer(request: Request) -> Reply:
        asked.append(request.url)
        return replying(page([{"inference_id": "x"}], True))(request)

    found = drive(provider.lookup(a_call("video", T2V)), answer)
    assert isinstance(found, NotFound) and not found.conclusive
    assert len(asked) == LOOKUP_PAGES and asked[-1].endswith(f"offset={LOOKUP_PAGES - 1}")


def test_history_that_is_too_long_is_not_half_told() -> None:
    with pytest.raises(Unavailable):
        drive(provider.history(a_call(""), NOW - 1000), replying(page([{"inference_id": "x"}], True)))


@pytest.mark.parametrize(("row", "code"), [("succeeded", "result_expired"), ("failed", "provider_error")])
def test_status_of_an_image_is_what_the_logs_tell_of_it(row: str, code: str) -> None:
    said = page([{"inference_id": "im-1", "status": row, "cost": {"credits": 0}}], False)
    found = drive(provider.status(a_call("image"), "im-1"), replying(said))
    assert isinstance(found, Update) and found.error is not None and found.error.code == code
    assert isinstance(drive(provider.status(a_call("image"), "im-2"), replying(said)), NotFound)


# -- whole jobs, to the sandbox -------------------------------------------------------------------


class World:
    def __init__(self, served: Served, sandbox_url: str):
        self.served = served
        self.sandbox = httpx2.Client(base_url=f"{sandbox_url}/_sandbox/aimlapi", timeout=10)
        self.api = httpx2.Client(base_url=served.url, headers={"Authorization": f"Bearer {ADMIN}"}, timeout=10)

    def faults(self, **faults: Any) -> None:
        assert self.sandbox.put("/faults", json={"duration_s": [0.1, 0.2], **faults}).status_code == 200

    def happened(self, fault: str) -> int:
        return int(self.sandbox.get("/faults").json()["happened"][fault])

    def charges(self, nonce: str) -> list[Json]:
        rows: list[Json] = self.sandbox.get("/ledger").json()["data"]
        return [row for row in rows if nonce in json.dumps(row["input"])]

    def submit(self, operation: str, given: Json) -> str:
        reply = self.api.post("/v1/jobs", json={"provider": "aimlapi", "operation": operation, "input": given})
        assert reply.status_code == 202, reply.text
        return str(reply.json()["id"])

    def tick(self) -> None:
        self.served.run(self.served.service.context.loops.tick(20.0))

    def ended(self, job_id: str) -> Json:
        deadline = time.monotonic() + 30
        while (job := self.job(job_id))["status"] not in ("succeeded", "failed", "canceled", "unknown"):
            assert time.monotonic() < deadline, job
            self.tick()
            time.sleep(0.1)
        return job

    def job(self, job_id: str) -> Json:
        found: Json = self.api.get(f"/v1/jobs/{job_id}").json()
        return found

    def outcomes(self, job_id: str) -> list[str]:
        entries = self.api.get(f"/v1/jobs/{job_id}/timeline").json()["data"]
        return [entry["outcome"] for entry in entries if entry["kind"] == "submit"]


@pytest.fixture(scope="module")
def running_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    served = Served(tmp_path_factory.mktemp("aimlapi"))
    with sandbox_running(served.url) as sandbox_url, served.running(sandbox_url):
        world = World(served, sandbox_url)
        yield world
        world.api.close()
        world.sandbox.close()


@pytest.fixture
def world(running_world: World) -> World:
    running_world.sandbox.post("/reset")
    running_world.faults()
    return running_world


def test_a_video_is_submitted_polled_and_done(world: World) -> None:
    job_id = world.submit("video", {**I2V, "prompt": "nonce-video"})
    job = world.ended(job_id)
    assert (job["status"], job["error"]) == ("succeeded", None)
    assert [row["provider_job_id"] for row in world.charges("nonce-video")] == job["provider_job_ids"]
    assert job["provider_job_ids"][0].endswith(":pixverse/v5/image-to-video")
    assert job["cost"]["amount"] == "420000" and job["cost"]["unit"] == "credits"
    output = job["outputs"][0]
    assert (output["kind"], output["content_type"], output["file_name"]) == ("video", "video/mp4", "output.mp4")
    assert len(httpx2.get(output["url"]).content) == output["bytes"]


def test_a_lost_reply_is_settled_by_the_logs_with_one_charge(world: World) -> None:
    world.faults(drop_reply_after_accept=1)
    job_id = world.submit("video", {**LIP_SYNC, **WORDS, "lip_sync_tts_content": "nonce-lost"})
    world.tick()
    assert world.happened("drop_reply_after_accept") == 1
    assert world.outcomes(job_id)[:2] == ["sending", "unknown"]
    world.faults()
    job = world.ended(job_id)
    assert job["status"] == "succeeded" and len(world.charges("nonce-lost")) == 1
    assert job["provider_job_ids"] == [world.charges("nonce-lost")[0]["provider_job_id"]]
    assert world.outcomes(job_id)[-1] == "accepted"


def test_an_error_after_acceptance_is_settled_by_the_logs_with_one_charge(world: World) -> None:
    world.faults(error_after_accept={"500": 1})
    job_id = world.submit("music", {"model": "minimax/music-2.0", "prompt": "nonce-500"})
    world.tick()
    assert world.happened("error_after_accept.500") == 1
    world.faults()
    job = world.ended(job_id)
    assert job["status"] == "succeeded" and len(world.charges("nonce-500")) == 1
    assert job["outputs"][0]["expires_at"]


def test_speech_is_done_with_its_reply(world: World) -> None:
    for model, start in (("openai/gpt-4o-mini-tts", "http"), ("#g1_aura-2-helena-en", "data:audio/mpeg;base64,")):
        job = world.ended(world.submit("speech", {"model": model, "text": "Hello."}))
        assert job["status"] == "succeeded" and job["outputs"][0]["kind"] == "audio"
        assert job["outputs"][0]["url"].startswith(start)


def test_an_image_whose_reply_was_lost_says_exactly_that(world: World) -> None:
    world.faults(drop_reply_after_accept=1)
    job_id = world.submit("image", {"model": "flux/dev", "prompt": "nonce-image"})
    world.tick()
    assert world.happened("drop_reply_after_accept") == 1
    job = world.ended(job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "result_expired")
    assert "charged for it, and the result was in the reply that was lost" in job["error"]["message"]
    assert len(world.charges("nonce-image")) == 1
    assert job["cost"] == {"amount": "107341", "unit": "credits", "source": "reported"}


def test_a_transcript_is_kept_as_text(world: World) -> None:
    job = world.ended(world.submit("speech_to_text", {"model": "nova-3-general", "url": "https://e.test/talk.mp3"}))
    assert (job["status"], job["outputs"][0]["kind"]) == ("succeeded", "text")
    words = base64.b64decode(job["outputs"][0]["url"].partition("base64,")[2])
    assert words == b"This is what the sandbox heard."


def test_what_moderation_refuses_fails_as_that(world: World) -> None:
    world.faults(moderation=1)
    job = world.ended(world.submit("video", {**T2V, "prompt": "nonce-bad"}))
    assert (job["status"], job["error"]["code"]) == ("failed", "content_moderated")
    assert world.happened("moderation") == 1


def test_bad_input_never_reaches_the_provider(world: World) -> None:
    given = {"provider": "aimlapi", "operation": "video", "input": {**LIP_SYNC, **WORDS, "audio_url": "u"}}
    reply = world.api.post("/v1/jobs", json=given)
    assert reply.status_code == 422 and reply.json()["param"] == "input.lip_sync_tts_content"
    assert world.sandbox.get("/ledger").json()["data"] == []


def test_an_empty_balance_fails_nobody_and_charges_nothing(world: World) -> None:
    """The last one: it pauses the credential."""
    assert world.sandbox.put("/account", json={"credits": 1}).status_code == 200
    job_id = world.submit("video", {**T2V, "prompt": "nonce-poor"})
    world.tick()
    job = world.job(job_id)
    assert (job["status"], job["reason"]) == ("queued", "credential_paused: out_of_credit")
    assert world.charges("nonce-poor") == []
