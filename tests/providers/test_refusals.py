"""What a status proves about a submit: every status, every provider, whoever answered."""

import json
from typing import Any

import pytest

from service import providers
from service.facts import NotNow, Refused, SubmitVerdict, Unknown
from service.providers import Reply
from service.providers._refusals import first_words, proof

from .cases import NAMES, a_call, drive, example_call

MOVED = {301, 302, 307, 308}
# The 4xx of RFC 9110 and RFC 6585, but for 408 and 409 (424, 425 and 418 are in neither).
REFUSED = {400, 401, 402, 403, 404, 405, 406, 407, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 426, 428, 431}
STATUSES = range(100, 600)
OPERATIONS = {
    "aimlapi": "video", "fal": "queue", "peakmv": "generate", "pixverse": "text_to_video",
    "progressiverobot": "generate", "replicate": "prediction",
}  # fmt: skip
PAGE = b"<html><head><title>No</title><style>p{}</style></head><body><h1>Not &amp; here</h1><hr>nginx</body></html>"
# By provider: an error in its own shape, and a reply with the id of a job.
OWN: dict[str, Any] = {
    "aimlapi": {"message": "no", "statusCode": 400},
    "fal": {"detail": "no"},
    "peakmv": {"error": "no"},
    "pixverse": {"ErrCode": 400017, "ErrMsg": "no", "Resp": None},
    "progressiverobot": {"error": "no"},
    "replicate": {"detail": "no", "title": "no"},
}
WITH_ID: dict[str, Any] = {
    "aimlapi": {"id": "j1"},
    "fal": {"request_id": "j1"},
    "peakmv": {"job_id": "j1"},
    "pixverse": {"ErrCode": 400017, "ErrMsg": "no", "Resp": {"video_id": 7}},
    "progressiverobot": {"job_id": "j1"},
    "replicate": {"id": "j1"},
}
EVERY = [name for name in NAMES if name in OPERATIONS]


def read(name: str, status: int, body: Any, *, repeat: bool = False, **headers: str) -> SubmitVerdict:
    provider = providers.load(name)
    call = a_call(provider, {**example_call(name, OPERATIONS[name]), "repeat": repeat})
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    verdict, asked = drive(provider.submit(call), lambda _: Reply(status=status, headers=headers, body=sent))
    assert [request.charges for request in asked] == [True]
    return verdict


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_proves_what_the_documents_of_http_say(status: int) -> None:
    expected = "moved" if status in MOVED else "later" if status == 429 else "refused" if status in REFUSED else None
    assert proof(status) == expected


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "body", [PAGE, b"", b"error code: 1015", {"message": "no"}], ids=["page", "none", "text", "json"]
)
def test_a_page_of_what_stands_before_the_provider_is_read_by_its_status(name: str, body: Any) -> None:
    for status in STATUSES:
        verdict, repeated = read(name, status, body), read(name, status, body, repeat=True)
        if status == 429:
            assert isinstance(verdict, NotNow) and verdict.whole and verdict.at_most is None
        else:
            wanted = Refused if status in MOVED | REFUSED else Unknown
            assert isinstance(verdict, wanted), (status, verdict)
        assert isinstance(repeated, Unknown), (status, "an error to a repeat is no refusal of the first")


@pytest.mark.parametrize("name", EVERY)
def test_an_error_in_the_providers_own_shape_is_read_by_its_status(name: str) -> None:
    """But for what its documents say: PeakMV's 500, PixVerse's errors in a success, the word of a failure."""
    for status in STATUSES:
        verdict = read(name, status, OWN[name])
        if status == 429 or (name, status) == ("peakmv", 500):
            assert isinstance(verdict, NotNow), (status, verdict)
        else:
            refused = status in MOVED | REFUSED or 200 <= status < 300
            assert isinstance(verdict, Refused if refused else Unknown), (status, verdict)
        assert isinstance(read(name, status, OWN[name], repeat=True), Unknown)


@pytest.mark.parametrize("name", EVERY)
def test_a_reply_with_the_id_of_a_job_is_never_a_refusal(name: str) -> None:
    for status in STATUSES:
        verdict = read(name, status, WITH_ID[name])
        assert not isinstance(verdict, Refused | NotNow), (status, verdict)
        if not 200 <= status < 300:
            assert isinstance(verdict, Unknown)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("to", ["https://www.example.com/api/x?key=secret", "/elsewhere/", "", "https://[", "//x"])
def test_a_redirect_says_which_setting_to_change(name: str, to: str) -> None:
    verdict = read(name, 301, PAGE, location=to)
    assert isinstance(verdict, Refused) and not verdict.pauses
    assert "the base URL moved" in verdict.error.message
    assert f"CALLSHEET_{name.upper()}_BASE_URL" in verdict.error.message
    assert ("https://www.example.com" in verdict.error.message) == ("www" in to)
    assert "secret" not in verdict.error.message


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "said",
    [
        {"success": False, "error": "the song could not be fetched"},
        {"success": False},
        {"success": "False", "message": "the song could not be fetched"},
        {"ok": False, "reason": "the song could not be fetched"},
        {"status": "Error", "message": "the song could not be fetched"},
    ],
)
def test_the_word_of_a_failure_inside_a_success_is_a_refusal(name: str, said: Any) -> None:
    verdict = read(name, 200, said)
    if isinstance(verdict, Refused):
        assert "the song could not be fetched" in verdict.error.message or len(said) == 1
    else:  # where a failure is read as one before it is looked at as a refusal
        assert "FAILED" in repr(verdict), verdict


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("said", [{}, {"success": True}, {"success": None}, [], {"message": "queued"}, {"error": None}])
def test_a_success_that_says_no_such_word_stays_unknown(name: str, said: Any) -> None:
    assert isinstance(read(name, 200, said), Unknown)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (PAGE, "Not & here nginx"),
        (b"<!DOCTYPE html><title>Attention Required! | Cloudflare</title>", "Attention Required! | Cloudflare"),
        (b"<head><title>Only a title</title></head><body></body>", "Only a title"),
        (b"<script>var a = '<b>';</script><!-- <p>x</p> -->error code: 1015", "error code: 1015"),
        (b'{"message":"Forbidden"}', "Forbidden"),
        (b'{"error":{"message":"too large","code":413}}', "too large"),
        (b"\xff\x00plain\r\n\ttext", "\ufffd plain text"),
        (b"", ""),
        (b"<" * 100_000, ""),
    ],
)
def test_the_first_words_of_a_page(body: bytes, words: str) -> None:
    assert first_words(body) == words


def test_the_first_words_are_few() -> None:
    assert len(first_words(b"x " * 10_000)) <= 200
