"""How an end is spelled: words without case and blanks, those that public clients take, and results beside others."""

import base64
import json
from typing import Any

import pytest

from service import providers
from service.facts import Accepted, Done, StatusVerdict, Update
from service.providers import Reply
from service.states import JobStatus

from .cases import a_call, drive, example_call

URL = "https://cdn.example.com/v.mp4"
OPERATIONS = {"aimlapi": "video", "peakmv": "generate", "progressiverobot": "generate"}
RESULTS: dict[str, Any] = {
    "aimlapi": {"id": "j1", "video": {"url": URL}},
    "peakmv": {"id": "j1", "video_url": URL},
    "progressiverobot": {"job_id": "j1", "url": URL},
}
DONE = ["completed", "Complete", "READY ", "done", "Finished", " success", "SUCCEEDED", "successful\n"]
FAILED = ["failed", "Error", "FAILURE", "timeout", "timed_out", "Timed out", "expired", "aborted", "rejected"]
CANCELED = ["canceled", "Cancelled "]


def asked(name: str, body: Any, operation: str | None = None) -> StatusVerdict:
    provider = providers.load(name)
    call = a_call(provider, example_call(name, operation or OPERATIONS[name]))
    reply = Reply(status=200, headers={}, body=json.dumps(body).encode())
    verdict, _ = drive(provider.status(call, "7"), lambda _: reply)
    return verdict


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("word", DONE)
def test_a_result_beside_a_word_for_the_end_is_success(name: str, word: str) -> None:
    verdict = asked(name, {**RESULTS[name], "status": word})
    assert isinstance(verdict, Update) and verdict.status is JobStatus.SUCCEEDED
    assert [output.url for output in verdict.outputs] == [URL]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("word", [*FAILED, *CANCELED])
def test_a_word_for_a_bad_end_is_one_with_its_text(name: str, word: str) -> None:
    verdict = asked(name, {"job_id": "j1", "status": word, "error": "the song is silent"})
    canceled = name == "progressiverobot" and word in CANCELED  # it can be canceled there
    assert isinstance(verdict, Update)
    assert verdict.status is (JobStatus.CANCELED if canceled else JobStatus.FAILED)
    assert "the song is silent" in f"{verdict.error}{verdict.provider_data}"


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("word", ["delivered", "published", "0", "fertig"])
def test_a_result_beside_any_other_word_is_no_end_and_is_kept(name: str, word: str) -> None:
    verdict = asked(name, {**RESULTS[name], "status": word})
    assert isinstance(verdict, Update) and verdict.status is JobStatus.PROCESSING
    assert [output.url for output in verdict.outputs] == [URL]
    assert URL in str(verdict.provider_data)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("word", ["queued", "Processing", " PROCESSING"])
def test_what_stands_beside_a_word_for_work_under_way_is_no_result(name: str, word: str) -> None:
    verdict = asked(name, {**RESULTS[name], "status": word})
    assert isinstance(verdict, Update) and verdict.status is JobStatus.PROCESSING and not verdict.outputs


@pytest.mark.parametrize("number", [4, 9, 10, "11"])
def test_a_result_beside_a_number_that_pixverse_does_not_document_is_kept(number: Any) -> None:
    verdict = asked("pixverse", {"ErrCode": 0, "Resp": {"id": 7, "status": number, "url": URL}}, "text_to_video")
    assert isinstance(verdict, Update) and verdict.status is JobStatus.PROCESSING
    assert [output.url for output in verdict.outputs] == [URL]


@pytest.mark.parametrize("word", ["success", "ok", "completed"])
def test_the_success_of_a_submit_is_not_that_of_its_work(word: str) -> None:
    """Progressive Robot's submits show no sample: such a word beside a job's id, without a result."""
    provider = providers.load("progressiverobot")
    call = a_call(provider, example_call("progressiverobot", "generate"))
    body = json.dumps({"status": word, "job_id": "j1", "cost": 3}).encode()
    verdict, _ = drive(provider.submit(call), lambda _: Reply(status=200, headers={}, body=body))
    assert isinstance(verdict, Accepted) and verdict.provider_job_ids == ("j1",) and verdict.cost is not None


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(7)).decode()


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"data": [{"url": URL}]}, URL),
        ({"data": [{"b64_json": PNG}]}, f"data:image/png;base64,{PNG}"),
        ({"data": [{"image_base64": PNG}]}, f"data:image/png;base64,{PNG}"),
        ({"images": [{"url": URL}]}, URL),
        ({"images": [{"image_base64": PNG}]}, f"data:image/png;base64,{PNG}"),
        ({"output": {"choices": [{"image_base64": PNG}]}}, f"data:image/png;base64,{PNG}"),
        ({"output": {"choices": [{"url": URL}]}}, URL),
        ({"output": {"choices": [{"image_base64": f"data:image/webp;base64,{PNG}"}]}}, f"data:image/png;base64,{PNG}"),
        ({"status": "generated", "data": [{"url": URL}]}, URL),
    ],
)
def test_images_of_ai_ml_api_in_every_shape_that_a_public_client_reads(body: Any, shown: str) -> None:
    provider = providers.load("aimlapi")
    call = a_call(provider, example_call("aimlapi", "image"))
    reply = Reply(status=200, headers={}, body=json.dumps(body).encode())
    verdict, _ = drive(provider.submit(call), lambda _: reply)
    assert isinstance(verdict, Done) and verdict.update.status is JobStatus.SUCCEEDED
    assert [output.url for output in verdict.update.outputs] == [shown]
