"""What every provider must refuse before anything is sent, what becomes of files, and which requests it recognises."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from service import errors, providers
from service.providers import Call, Operation, Provider, Reply, Request, put
from service.states import JobStatus

from .cases import (
    CASES,
    NAMES,
    Json,
    a_call,
    accepted_calls,
    cases_of,
    drive,
    example_call,
    made_from,
    overrides,
    replay,
)

OPERATIONS = [(name, operation) for name in NAMES for operation in providers.load(name).operations]
FILE = "file_01jz0000000000000000000000"
WRONG = {"of": {"another": "type"}}
Path = tuple[str | int, ...]


def operation_of(name: str, operation: str) -> Operation:
    return providers.load(name).operations[operation]


def refusal_of(row: Operation, given: Json) -> errors.Invalid:
    with pytest.raises(errors.Invalid) as refused:
        row.validate(given)
    assert ".. See" not in refused.value.detail, "x-remedy ends without a full stop"
    return refused.value


# -- bad input ------------------------------------------------------------------------------------


def required_places(schema: Any, given: Any, path: Path = ()) -> Iterator[Path]:
    """Every place of an input that its schema wants filled, in lists and objects too."""
    if isinstance(given, dict):
        yield from ((*path, field) for field in schema.get("required", ()) if field in given)
        for field, inner in schema.get("properties", {}).items():
            if field in given:
                yield from required_places(inner, given[field], (*path, field))
    elif isinstance(given, list) and given:
        yield from required_places(schema.get("items", {}), given[0], (*path, 0))


def without(given: Any, path: Path) -> Any:
    *holders, field = path
    holder = given
    for step in holders:
        holder = holder[step]
    return put(given, tuple(holders), {name: value for name, value in holder.items() if name != field})


def param_of(path: Path) -> str:
    return ".".join(["input", *map(str, path)])


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_missing_required_field_is_refused_by_its_name(name: str, operation: str) -> None:
    row, given = operation_of(name, operation), example_call(name, operation)["input"]
    for path in required_places(row.input_schema, given):
        assert refusal_of(row, without(given, path)).param == param_of(path)


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_required_field_that_is_null_is_refused_by_its_name(name: str, operation: str) -> None:
    row, given = operation_of(name, operation), example_call(name, operation)["input"]
    for path in required_places(row.input_schema, given):
        assert refusal_of(row, put(given, path, None)).param == param_of(path)


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_field_of_a_wrong_type_is_refused_by_its_name(name: str, operation: str) -> None:
    row, given = operation_of(name, operation), example_call(name, operation)["input"]
    for field, schema in row.input_schema["properties"].items():
        if takes_objects(schema):
            continue
        param = refusal_of(row, {**given, field: WRONG}).param
        # Beside a field that excludes it, either of the two may be named.
        assert param == f"input.{field}" or excluded(row, {**given, field: made_from(schema)})


def excluded(row: Operation, given: Json) -> bool:
    try:
        row.validate(given)
    except errors.Invalid:
        return True
    return False


def takes_objects(schema: Json) -> bool:
    """Whether the field says nothing about its type, or that it may be an object."""
    rules = {"type", "enum", "const", "not", "anyOf", "oneOf"} & set(schema)
    return not rules or "object" in schema.get("type", ()) or bool({"anyOf", "oneOf"} & rules)


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_inputs_that_are_taken_may_have_fields_that_are_not_in_the_table(name: str, operation: str) -> None:
    row = operation_of(name, operation)
    for call in [example_call(name, operation), *accepted_calls(name, operation)]:
        row.validate({**call["input"], "not_in_any_table": {"deep": [1, None, "x"]}})


# -- files ----------------------------------------------------------------------------------------


def file_fields(row: Operation, how: str) -> list[str]:
    fields = row.input_schema["properties"].items()
    return [field for field, schema in fields if schema.get("x-file", {}).get("how") == how]


def a_file(url: str | None) -> Json:
    return {FILE: {"id": FILE, "name": "a.bin", "content_type": "application/octet-stream", "size": 9, "url": url}}


def with_file(name: str, operation: str, field: str, url: str | None) -> Call | None:
    """A call whose input names a file in this field; None where the example forbids the field."""
    given = {**example_call(name, operation)["input"], field: FILE}
    try:
        operation_of(name, operation).validate(given)
    except errors.Invalid:
        return None
    call = {**example_call(name, operation), "input": given}
    return a_call(providers.load(name), {**call, "files": {**call.get("files", {}), **a_file(url)}})


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_file_that_is_offered_by_url_is_sent_as_its_url(name: str, operation: str) -> None:
    provider = providers.load(name)
    for field in file_fields(provider.operations[operation], "url"):
        call = with_file(name, operation, field, "https://files.callsheet.test/signed")
        if call is None:
            continue
        provider.allows(call)
        request = next(provider.submit(call))
        assert FILE.encode() not in request.body
        assert b"https://files.callsheet.test/signed" in request.body.replace(b"\\/", b"/")


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_file_that_the_provider_cannot_reach_is_refused_by_its_field(name: str, operation: str) -> None:
    provider = providers.load(name)
    for field in file_fields(provider.operations[operation], "url"):
        call = with_file(name, operation, field, None)
        if call is None:
            continue
        with pytest.raises(errors.Invalid) as refused:
            provider.allows(call)
        assert refused.value.param == f"input.{field}"


UPLOADING = [case for case in CASES if any("form" in step.get("request", {}) for step in case.get("exchange", ()))]


@pytest.mark.parametrize("name", NAMES)
def test_provider_that_takes_uploads_has_a_case_of_one(name: str) -> None:
    rows = providers.load(name).operations.values()
    if any(file_fields(row, how) for row in rows for how in ("upload", "part")):
        assert any(case["provider"] == name for case in UPLOADING), f"{name} has no recorded submit with a `form`"


@pytest.mark.parametrize("case", UPLOADING, ids=[f"{case['provider']}: {case['name']}" for case in UPLOADING])
def test_what_was_uploaded_is_not_uploaded_again_by_a_repeat(case: Json) -> None:
    """The repeat has to be the same request, or it is a second intent."""
    provider = providers.load(case["provider"])
    if case["verb"] != "submit" or case["expect"].get("type") not in ("Accepted", "Done"):
        return
    _, asked = replay(provider, case)
    charging = next(request for request in asked if request.charges)
    if charging.form is not None and len(asked) == 1:
        return  # the submit itself carries the file
    assert charging.keep, "the ids of what was uploaded are kept with the request that charges"
    repeat = a_call(provider, {**case["call"], "repeat": True, "kept": charging.keep})
    first = next(provider.submit(repeat))
    assert (first.method, first.url, first.body) == (charging.method, charging.url, charging.body)


# -- the provider's own API -----------------------------------------------------------------------


def charging_request(name: str, operation: str) -> tuple[Request, Call]:
    """The request that a submit of the operation's example comes to."""
    provider = providers.load(name)
    recorded = [case for case in cases_of(name) if case["verb"] == "submit" and case["call"]["operation"] == operation]
    for case in recorded:
        if case["expect"].get("type") in ("Accepted", "Done"):
            _, asked = replay(provider, case)
            return next(request for request in asked if request.charges), a_call(provider, case["call"])
    call = a_call(provider, example_call(name, operation))
    _, asked = drive(provider.submit(call), lambda _: Reply(status=500, headers={}, body=b""))
    return next(request for request in asked if request.charges), call


def recognised(provider: Provider, request: Request, call: Call) -> providers.Recognised:
    asked = urlsplit(request.url.removeprefix(call.base_url))
    return provider.recognise(request.method, asked.path, dict(parse_qsl(asked.query)), request.body)


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_an_operations_own_request_is_recognised_as_that_operation(name: str, operation: str) -> None:
    request, call = charging_request(name, operation)
    found = recognised(providers.load(name), request, call)
    assert (found.kind, found.operation) == ("submit", operation)
    if request.form is None and request.body:
        assert found.input is not None
        assert set(found.input) & set(call.input) or not call.input, "the caller's fields are the job's input"


@pytest.mark.parametrize("name", NAMES)
def test_what_status_asks_is_recognised_as_a_status_of_that_id(name: str) -> None:
    provider = providers.load(name)
    for case in cases_of(name):
        if case["verb"] != "status" or case["expect"].get("status") not in set(JobStatus):
            continue
        _, asked = replay(provider, case)
        kinds = [recognised(provider, request, a_call(provider, case["call"])) for request in asked]
        wanted = case["call"]["provider_job_id"]
        named = [found for found in kinds if found.kind == "status" and wanted in found.provider_job_ids]
        assert named, f"{[request.url for request in asked]} are recognised as {kinds}"


@pytest.mark.parametrize("name", NAMES)
def test_cancel_is_not_recognised_as_a_submit(name: str) -> None:
    provider = providers.load(name)
    if overrides(provider, "cancel"):
        call = a_call(provider, example_call(name, next(iter(provider.operations))))
        assert recognised(provider, next(provider.cancel(call, "j-1")), call).kind != "submit"
