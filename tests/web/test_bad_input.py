"""Bad input: each row is refused with a problem document that names the parameter, and nothing is stored."""

import json
from typing import Any

import pytest

pytestmark = pytest.mark.anyio

INPUT = {"prompt": "a cat", "model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"}
JOB = {"provider": "pixverse", "operation": "text_to_video", "input": INPUT}
HOOK = {"url": "https://hooks.example.com/in"}
KEY = {"name": "k", "scopes": ["jobs:read"]}
SOME_JOB = "/v1/jobs/job_00000000000000000000000000"


def text_of(**changes: Any) -> bytes:
    return json.dumps({**JOB, **changes}).encode()


def without(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


UNREADABLE: list[tuple[str, bytes, dict[str, str], int, str]] = [
    ("nothing", b"", {}, 400, "unreadable"),
    ("white space", b"  ", {}, 400, "unreadable"),
    ("no JSON", b"provider=pixverse", {}, 400, "unreadable"),
    ("half", text_of()[:-1], {}, 400, "unreadable"),
    ("twice", text_of() + b"{}", {}, 400, "unreadable"),
    ("single quotes", b"{'provider': 'pixverse'}", {}, 400, "unreadable"),
    ("trailing comma", b'{"provider": "pixverse",}', {}, 400, "unreadable"),
    ("comment", b'{"provider": "pixverse"} // x', {}, 400, "unreadable"),
    ("NaN", b'{"input": {"seed": NaN}}', {}, 400, "unreadable"),
    ("Infinity", b'{"input": {"seed": -Infinity}}', {}, 400, "unreadable"),
    ("byte order mark", b"\xef\xbb\xbf" + text_of(), {}, 400, "unreadable"),
    ("UTF-16", text_of().decode().encode("utf-16"), {}, 400, "unreadable"),
    ("UTF-16 unmarked", text_of().decode().encode("utf-16-le"), {}, 400, "unreadable"),
    ("UTF-32", text_of().decode().encode("utf-32-be"), {}, 400, "unreadable"),
    ("Latin-1", text_of(operation="é").replace(b"\\u00e9", b"\xe9"), {}, 400, "unreadable"),
    ("overlong UTF-8", b'{"provider": "\xc0\xaf"}', {}, 400, "unreadable"),
    ("encoded surrogate", b'{"provider": "\xed\xa0\x80"}', {}, 400, "unreadable"),
    ("lone high surrogate", b'{"provider": "\\ud800 "}', {}, 400, "unreadable"),
    ("lone low surrogate", b'{"provider": "\\udc00"}', {}, 400, "unreadable"),
    ("raw NUL", b'{"provider": "\x00"}', {}, 400, "unreadable"),
    ("raw newline in a text", b'{"provider": "a\nb"}', {}, 400, "unreadable"),
    ("65 lists", b"[" * 65 + b"]" * 65, {}, 400, "too_deep"),
    ("65 levels in input", b'{"input": ' + b'{"a": ' * 64 + b"1" + b"}" * 65, {}, 400, "too_deep"),
    ("100,000 levels", b"[" * 100_000 + b"]" * 100_000, {}, 400, "too_deep"),
    ("100,000 levels, open", b'{"input": ' + b"[" * 100_000, {}, 400, "unreadable"),
    ("charset UTF-16", text_of(), {"content-type": "application/json; charset=utf-16"}, 400, "unreadable"),
    ("a form", b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    ("XML", b"<job/>", {"content-type": "application/xml"}, 415, "unsupported_media_type"),
    ("gzip", text_of(), {"content-encoding": "gzip"}, 415, "unsupported_media_type"),
    ("over 1 MiB", text_of(metadata={"a": "x" * 1024 * 1024}), {}, 413, "too_large"),
]


@pytest.mark.parametrize(("name", "body", "headers", "status", "code"), UNREADABLE, ids=[row[0] for row in UNREADABLE])
async def test_unreadable(call: Any, name: str, body: bytes, headers: dict[str, str], status: int, code: str) -> None:
    headers = {"content-type": "application/json", **headers}
    await call.refused(status, code, "POST", "/v1/jobs", content=body, headers=headers)
    assert (await call.ok("GET", "/v1/jobs"))["data"] == []


REFUSED: list[tuple[str, str, Any, str, str | None]] = [
    # method, path, body, code, param
    ("POST", "/v1/jobs", [], "invalid", None),
    ("POST", "/v1/jobs", "text", "invalid", None),
    ("POST", "/v1/jobs", None, "invalid", None),
    ("POST", "/v1/jobs", {}, "invalid", "provider"),
    ("POST", "/v1/jobs", without(JOB, "provider"), "invalid", "provider"),
    ("POST", "/v1/jobs", without(JOB, "operation"), "invalid", "operation"),
    ("POST", "/v1/jobs", without(JOB, "input"), "invalid", "input"),
    ("POST", "/v1/jobs", {**JOB, "provider_job_id": "1"}, "invalid", "input"),
    ("POST", "/v1/jobs", {**JOB, "provider": "nobody"}, "invalid", "provider"),
    ("POST", "/v1/jobs", {**JOB, "provider": "Pixverse\u0000"}, "invalid", "provider"),
    ("POST", "/v1/jobs", {**JOB, "provider": ["pixverse"]}, "invalid", "provider"),
    ("POST", "/v1/jobs", {**JOB, "operation": "nothing"}, "invalid", "operation"),
    ("POST", "/v1/jobs", {**JOB, "input": "text"}, "invalid", "input"),
    ("POST", "/v1/jobs", {**JOB, "input": [INPUT]}, "invalid", "input"),
    ("POST", "/v1/jobs", {**JOB, "input": json.dumps(INPUT)}, "invalid", "input"),
    ("POST", "/v1/jobs", {**JOB, "input": without(INPUT, "prompt")}, "invalid", "input.prompt"),
    ("POST", "/v1/jobs", {**JOB, "input": {**INPUT, "duration": "5"}}, "invalid", "input.duration"),
    ("POST", "/v1/jobs", {**JOB, "input": {**INPUT, "seed": -1}}, "invalid", "input.seed"),
    ("POST", "/v1/jobs", {**JOB, "inputs": {}}, "unknown_field", "inputs"),
    ("POST", "/v1/jobs", {**JOB, "callbackUrl": "https://a.example.com"}, "unknown_field", "callbackUrl"),
    ("POST", "/v1/jobs", {**JOB, "": 1}, "unknown_field", ""),
    ("POST", "/v1/jobs", {**without(JOB, "input"), "provider_job_id": 403}, "invalid", "provider_job_id"),
    ("POST", "/v1/jobs", {**without(JOB, "input"), "provider_job_id": "a b"}, "invalid", "provider_job_id"),
    ("POST", "/v1/jobs", {**without(JOB, "input"), "provider_job_id": "a\n"}, "invalid", "provider_job_id"),
    ("POST", "/v1/jobs", {**without(JOB, "input"), "provider_job_id": "x" * 201}, "invalid", "provider_job_id"),
    ("POST", "/v1/jobs", {**JOB, "metadata": []}, "invalid", "metadata"),
    ("POST", "/v1/jobs", {**JOB, "metadata": {"a": 1}}, "invalid", "metadata"),
    ("POST", "/v1/jobs", {**JOB, "metadata": {"a": None}}, "invalid", "metadata"),
    ("POST", "/v1/jobs", {**JOB, "metadata": {"a": "x" * 501}}, "invalid", "metadata"),
    ("POST", "/v1/jobs", {**JOB, "metadata": {"a" * 65: "x"}}, "invalid", "metadata"),
    ("POST", "/v1/jobs", {**JOB, "metadata": {"a": "\u0000"}}, "invalid", "metadata"),
    ("POST", "/v1/jobs", {**JOB, "metadata": {str(n): "" for n in range(51)}}, "invalid", "metadata"),
    ("POST", "/v1/jobs", {**JOB, "deadline_seconds": 0}, "invalid", "deadline_seconds"),
    ("POST", "/v1/jobs", {**JOB, "deadline_seconds": 604_801}, "invalid", "deadline_seconds"),
    ("POST", "/v1/jobs", {**JOB, "deadline_seconds": "60"}, "invalid", "deadline_seconds"),
    ("POST", "/v1/jobs", {**JOB, "deadline_seconds": 1.5}, "invalid", "deadline_seconds"),
    ("POST", "/v1/jobs", {**JOB, "deadline_seconds": True}, "invalid", "deadline_seconds"),
    ("POST", "/v1/jobs", {**JOB, "deadline_seconds": 10**30}, "invalid", "deadline_seconds"),
    ("POST", "/v1/jobs", {**JOB, "callback_url": 1}, "invalid", "callback_url"),
    ("POST", "/v1/jobs", {**JOB, "callback_url": ""}, "invalid", "callback_url"),
    ("POST", "/v1/jobs", {**JOB, "callback_url": HOOK["url"], "callback_secret": "x"}, "invalid", "callback_secret"),
    ("POST", "/v1/endpoints", {}, "invalid", "url"),
    ("POST", "/v1/endpoints", {**HOOK, "event_types": []}, "invalid", "event_types"),
    ("POST", "/v1/endpoints", {**HOOK, "event_types": None}, "invalid", "event_types"),
    ("POST", "/v1/endpoints", {**HOOK, "event_types": ["job.done"]}, "invalid", "event_types.0"),
    ("POST", "/v1/endpoints", {**HOOK, "event_types": ["job.*", 1]}, "invalid", "event_types.1"),
    ("POST", "/v1/endpoints", {**HOOK, "filter": {"metadata.team": ["a"]}}, "invalid", "filter"),
    ("POST", "/v1/endpoints", {**HOOK, "filter": "a"}, "invalid", "filter"),
    ("POST", "/v1/endpoints", {**HOOK, "format": "cloudevents"}, "invalid", "format"),
    ("POST", "/v1/endpoints", {**HOOK, "signature": "v1a"}, "invalid", "signature"),
    ("POST", "/v1/endpoints", {**HOOK, "status": "deleted"}, "invalid", "status"),
    ("POST", "/v1/endpoints", {**HOOK, "rate": 0}, "invalid", "rate"),
    ("POST", "/v1/endpoints", {**HOOK, "rate": "1"}, "invalid", "rate"),
    ("POST", "/v1/endpoints", {**HOOK, "timeout_seconds": 31}, "invalid", "timeout_seconds"),
    ("POST", "/v1/endpoints", {**HOOK, "headers": {"webhook-id": "x"}}, "header_name", "headers.webhook-id"),
    ("POST", "/v1/endpoints", {**HOOK, "headers": {"X-A": "a\r\nb"}}, "header_value", "headers.X-A"),
    ("POST", "/v1/endpoints", {**HOOK, "headers": {"X-A": 1}}, "invalid", "headers"),
    ("POST", "/v1/endpoints", {**HOOK, "description": "x" * 501}, "invalid", "description"),
    ("POST", "/v1/endpoints", {**HOOK, "secret": "x"}, "unknown_field", "secret"),
    ("POST", "/v1/keys", without(KEY, "name"), "invalid", "name"),
    ("POST", "/v1/keys", without(KEY, "scopes"), "invalid", "scopes"),
    ("POST", "/v1/keys", {**KEY, "name": ""}, "invalid", "name"),
    ("POST", "/v1/keys", {**KEY, "scopes": []}, "invalid", "scopes"),
    ("POST", "/v1/keys", {**KEY, "scopes": ["jobs:delete"]}, "invalid", "scopes"),
    ("POST", "/v1/keys", {**KEY, "scopes": "admin"}, "invalid", "scopes"),
    ("POST", "/v1/keys", {**KEY, "expires_at": "tomorrow"}, "invalid", "expires_at"),
    ("POST", "/v1/keys", {**KEY, "expires_at": "2020-01-01T00:00:00Z"}, "invalid", "expires_at"),
    ("POST", "/v1/keys", {**KEY, "expires_at": "2999-01-01T00:00:00"}, "invalid", "expires_at"),
    ("POST", "/v1/tenants", {"name": "Big Name"}, "invalid", "name"),
    ("POST", "/v1/tenants", {"name": "a\n"}, "invalid", "name"),
    ("POST", "/v1/callback-secret/rotate", {"overlap_seconds": -1}, "invalid", "overlap_seconds"),
    ("POST", "/v1/callback-secret/rotate", {"overlap_seconds": 604_801}, "invalid", "overlap_seconds"),
    ("POST", "/internal/tick", {"budget_seconds": 0}, "invalid", "budget_seconds"),
    ("POST", "/internal/tick", {"budget": 5}, "unknown_field", "budget"),
    ("POST", "/internal/tick", [], "invalid", None),
    ("GET", "/v1/jobs?limit=0", None, "invalid", "limit"),
    ("GET", "/v1/jobs?limit=101", None, "invalid", "limit"),
    ("GET", "/v1/jobs?limit=1.0", None, "invalid", "limit"),
    ("GET", "/v1/jobs?limit=", None, "invalid", "limit"),
    ("GET", "/v1/jobs?limit=1&limit=2", None, "invalid", "limit"),
    ("GET", "/v1/jobs?cursor=nowhere", None, "bad_cursor", "cursor"),
    ("GET", "/v1/endpoints?cursor=YzE6LTE", None, "bad_cursor", "cursor"),
    ("GET", "/v1/events?cursor=", None, "bad_cursor", "cursor"),
    ("GET", "/v1/deliveries?cursor=%F0%9F%98%80", None, "bad_cursor", "cursor"),
    ("GET", "/v1/jobs?status=done", None, "invalid", "status"),
    ("GET", "/v1/jobs?page=2", None, "unknown_parameter", "page"),
    ("GET", "/v1/jobs?metadata=a", None, "unknown_parameter", "metadata"),
    ("GET", "/v1/jobs?metadata[]=a", None, "unknown_parameter", "metadata[]"),
    ("GET", "/v1/jobs?metadata[a]=%00", None, "invalid", "metadata[a]"),
    ("GET", "/v1/jobs?created_after=yesterday", None, "invalid", "created_after"),
    ("GET", "/v1/jobs?created_before=2026-01-01T00:00:00", None, "invalid", "created_before"),
    ("GET", "/v1/jobs?provider=%00", None, "invalid", "provider"),
    ("GET", "/v1/deliveries?status=sent", None, "invalid", "status"),
    ("GET", "/v1/events/stream?seconds=0", None, "invalid", "seconds"),
    ("GET", "/v1/event-types?limit=1", None, "unknown_parameter", "limit"),
    ("GET", SOME_JOB + "?wait=5", None, "unknown_parameter", "wait"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "code", "param"), REFUSED)
async def test_refused_by_name(call: Any, method: str, path: str, body: Any, code: str, param: str | None) -> None:
    more = {} if method == "GET" else {"json": body}
    if body is None and method == "POST":
        more = {"content": b"null", "headers": {"content-type": "application/json"}}
    said = await call.refused(422, code, method, path, **more)
    assert said["param"] == param
    assert len(said["detail"]) > 15 and said["title"]
    for listed in ("/v1/jobs", "/v1/endpoints", "/v1/keys"):
        assert (await call.ok("GET", listed))["data"] == []


@pytest.mark.parametrize(
    "key",
    ["", " ", '"', '""', '"open', 'a"', "with space", '"with space"', "x" * 256, "schlüssel", '"a";p=1', "a, b", "\t"],
)
async def test_an_idempotency_key_that_is_none(call: Any, key: str) -> None:
    headers = {b"idempotency-key": key.encode("latin-1")}
    response = await call(
        "POST", "/v1/jobs", json=JOB, headers={name.decode(): value for name, value in headers.items()}
    )
    if key == 'a"':  # visible ASCII all of it
        assert response.status_code == 202
        return
    assert (response.status_code, response.json()["code"]) == (400, "bad_idempotency_key")
    assert response.json()["param"] == "Idempotency-Key"
    assert (await call.ok("GET", "/v1/jobs"))["data"] == []


async def test_other_bodies_may_have_64_kib_and_64_levels(call: Any) -> None:
    body = {"url": "http://127.0.0.1:9/in", "headers": {"X-A": "x" * 66_000}}
    await call.refused(413, "too_large", "POST", "/v1/endpoints", json=body)
    deep: Any = 1
    for _ in range(62):
        deep = {"a": deep}
    response = await call("POST", "/v1/jobs", json={**JOB, "input": {**INPUT, "extra": deep}})
    assert response.status_code == 202  # the body, input and 62 more: 64


async def test_brackets_in_texts_are_no_levels(call: Any) -> None:
    await call.a_job({**JOB, "input": {**INPUT, "prompt": '[{\\"' * 200}})


async def test_the_last_of_a_repeated_name_counts_everywhere(call: Any) -> None:
    text = text_of().replace(b'"input":', b'"input": {"first": 1}, "input":')
    response = await call("POST", "/v1/jobs", content=text, headers={"content-type": "application/json"})
    assert response.status_code == 202 and response.json()["input"] == INPUT


@pytest.mark.parametrize("query", ["limit=%FF", "%ff=1", "&".join(f"a{n}=1" for n in range(60))])
async def test_a_query_that_cannot_be_read(call: Any, query: str) -> None:
    await call.refused(400, "unreadable", "GET", f"/v1/jobs?{query}")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "action"), ({"action": "retry"}, "action"), ({"action": "adopt"}, "provider_job_id"),
        ({"action": "fail", "provider_job_id": "1"}, "provider_job_id"), ({"action": "adopt", "id": "1"}, "id"),
        ({"action": "adopt", "provider_job_id": ""}, "provider_job_id"),
    ],
)  # fmt: skip
async def test_a_resolution_that_is_none(call: Any, body: Any, param: str) -> None:
    job = await call.an_unknown_job()
    response = await call("POST", f"/v1/jobs/{job['id']}/resolve", json=body)
    assert (response.status_code, response.json()["param"]) == (422, param)
    assert (await call.ok("GET", f"/v1/jobs/{job['id']}"))["status"] == "unknown"


@pytest.mark.parametrize("since", ["", "yesterday", "2026-01-01", "2026-01-01T00:00:00", 1767225600, None])
async def test_a_time_that_is_none(call: Any, since: Any) -> None:
    endpoint = await call.an_endpoint()
    said = await call.refused(422, "invalid", "POST", f"/v1/endpoints/{endpoint['id']}/recover", json={"since": since})
    assert said["param"] == "since"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/keys", {**KEY, "expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
        ("/v1/providers/pixverse/reconcile", {"since": "0001-01-01T00:00:00+12:00"}, "since"),
        ("/v1/providers/progressiverobot/reconcile", {"since": "0001-01-01T00:00:00+23:59"}, "since"),
    ],
)  # fmt: skip
async def test_a_time_that_no_calendar_has_in_utc(call: Any, path: str, body: Any, param: str) -> None:
    assert (await call.refused(422, "invalid", "POST", path, json=body))["param"] == param
    assert await call.ok("GET", "/v1/keys") == {"data": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/callbacks/nobody", 404, "not_found"), ("/v1/callbacks/pixverse", 401, "bad_signature"),
        ("/v1/callbacks/pixverse/token", 404, "unknown_callback_url"), ("/v1/callbacks/peakmv", 401, "bad_signature"),
    ],
)  # fmt: skip
async def test_a_callback_that_is_none(call: Any, path: str, status: int, code: str) -> None:
    for content in (b"", b"nonsense", b"\xff" * 100, b"[" * 10_000):
        response = await call("POST", path, key=None, content=content)
        assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert (await call("POST", path, key=None, content=b"x" * (1024 * 1024 + 1))).status_code in (404, 413)
