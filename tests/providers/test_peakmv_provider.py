"""PeakMV beyond the contract: which fields go together, and where its key may go."""

import json
from typing import Any

import pytest

from service.errors import Invalid
from service.facts import NotFound, Unknown, Update
from service.providers import Call, Reply, Request
from service.providers.peakmv import provider

GENERATE = provider.operations["generate"]
SONG = {"audio_url": "https://example.com/song.mp3"}


def first_request(status_url: Any, base_url: str = "https://peakmv.com") -> Request:
    call = Call(
        operation="generate",
        input=SONG,
        api_key="peak_secret",
        base_url=base_url,
        provider_data={"status_url": status_url},
    )
    return next(provider.status(call, "j-1"))


@pytest.mark.parametrize("field", ["artist_face_image_url", "lipsync"])
def test_v1_refuses_what_only_v2_has(field: str) -> None:
    given = {**SONG, "version": "v1", field: {"lipsync": False}.get(field, "https://example.com/face.jpg")}
    with pytest.raises(Invalid) as refused:
        GENERATE.validate(given)
    assert refused.value.param == f"input.{field}"
    assert "v1" in refused.value.detail
    GENERATE.validate({**given, "version": "v2"})
    GENERATE.validate({name: value for name, value in given.items() if name != "version"})


@pytest.mark.parametrize(("field", "value"), [("version", "v3"), ("video_quality", "4k"), ("audio_url", "")])
def test_what_is_documented_as_fixed_is_checked(field: str, value: str) -> None:
    with pytest.raises(Invalid) as refused:
        GENERATE.validate({**SONG, field: value})
    assert refused.value.param == f"input.{field}"


def test_status_url_on_our_origin_is_followed() -> None:
    assert first_request("https://peakmv.com/api/v1/jobs/j-1").url == "https://peakmv.com/api/v1/jobs/j-1"
    assert first_request("http://127.0.0.1:9/x", "http://127.0.0.1:9/peakmv").url == "http://127.0.0.1:9/x"


@pytest.mark.parametrize(
    "status_url",
    [
        "https://evil.example/api/v2/jobs/j-1",
        "http://peakmv.com/api/v2/jobs/j-1",
        "https://peakmv.com:8443/api/v2/jobs/j-1",
        "https://peakmv.com.evil.example/api/v2/jobs/j-1",
        "https://peakmv.com@evil.example/api/v2/jobs/j-1",
        "https://evil.example\\@peakmv.com/api/v2/jobs/j-1",
        "https://user:password@peakmv.com/api/v2/jobs/j-1",
        "https://peakmv.com/api/v2/jobs/j-1\r\nX: y",
        "https://[::1/api",
        "https://peakmv.com:port/",
        "//peakmv.com/api/v2/jobs/j-1",
        "/api/v2/jobs/j-1",
        "",
        None,
        {"url": "https://peakmv.com"},
    ],
)
def test_status_url_elsewhere_never_gets_the_key(status_url: Any) -> None:
    assert first_request(status_url).url == "https://peakmv.com/api/v2/jobs/j-1"


def test_each_place_that_a_job_can_be_is_asked_once() -> None:
    call = Call(operation="generate", input=SONG, api_key="k", base_url="https://peakmv.com")
    steps = provider.status(call, "p-1")
    assert next(steps).url.endswith("/api/v2/jobs/p-1")
    assert steps.send(Reply(status=404, headers={}, body=b'{"error": "Project not found"}')).url.endswith(
        "/projects/p-1"
    )
    with pytest.raises(StopIteration) as end:
        steps.send(Reply(status=200, headers={}, body=b'{"id": "p-1", "status": "queued"}'))
    assert isinstance(end.value.value, Update)


@pytest.mark.parametrize("value", [None, True, 1.5, "", " ", "a\nb", "x" * 300, [], {"id": "j"}])
def test_success_whose_id_is_no_id_is_unknown(value: Any) -> None:
    steps = provider.submit(Call(operation="generate", input=SONG, api_key="k", base_url="https://peakmv.com"))
    next(steps)
    body = json.dumps({"success": True, "job_id": value, "project_id": value, "status_url": value}).encode()
    with pytest.raises(StopIteration) as end:
        steps.send(Reply(status=200, headers={}, body=body))
    assert isinstance(end.value.value, Unknown)


def test_not_found_is_never_conclusive() -> None:
    call = Call(operation="generate", input=SONG, api_key="k", base_url="https://peakmv.com")
    with pytest.raises(StopIteration) as end:
        next(provider.lookup(call))
    assert isinstance(end.value.value, NotFound)
    assert not end.value.value.conclusive
