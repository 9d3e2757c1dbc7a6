"""What every provider must do, shown by its recorded cases and by replies that no document foresees.

A provider is found by its file in `service/providers/`, its cases by the folder of its name beside this file.
`service/providers/README.md` says how a case is written.
"""

import ast
import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import errors, providers
from service.facts import (
    Accepted,
    Done,
    LookupVerdict,
    NotFound,
    NotNow,
    Refused,
    StatusVerdict,
    SubmitVerdict,
    Unknown,
    Update,
)
from service.providers import Call, Reply, Request
from service.states import JobStatus

HERE = Path(__file__).parent
NAMES = providers.names()
CALL = {
    "operation": "",
    "input": {},
    "api_key": "test-key",
    "correlation": "7c1d6f5e-0a4b-4c3d-9e2f-1a2b3c4d5e6f",
    "now": 1_800_000_000_000,
    "submitted_at": 1_800_000_000_000,
}
MAX_REQUESTS = 200
MAY_IMPORT = {
    "service.errors", "service.facts", "service.providers", "service.providers._reading", "service.signatures",
    "service.states",
}  # fmt: skip
DOES_IO_OR_CHANCE = {"aiohttp", "asyncio", "http", "httpx2", "os", "random", "requests", "secrets", "socket", "time"}
SETTLED_BY = {"same_key", "lookup", "token", "person"}


def cases_of(name: str) -> list[dict[str, Any]]:
    files = sorted((HERE / name).glob("*.json"))
    return [{"provider": name, **case} for file in files for case in json.loads(file.read_bytes())]


CASES = [case for name in NAMES for case in cases_of(name)]


def a_call(provider: providers.Provider, **given: Any) -> Call:
    fields = {name: value for name, value in given.items() if name in Call.__struct_fields__}
    return msgspec.convert({**CALL, "base_url": provider.base_url, **fields}, Call)


def drive(steps: Generator[Request, Reply, Any], answer: Callable[[Request], Reply]) -> tuple[Any, list[Request]]:
    """Run a verb to its verdict, answering each of its requests."""
    asked: list[Request] = []
    try:
        request = next(steps)
        while True:
            asked.append(request)
            assert len(asked) <= MAX_REQUESTS, "the verb does not come to an end"
            request = steps.send(answer(request))
    except StopIteration as end:
        return end.value, asked


# -- recorded cases -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[f"{case['provider']}: {case['verb']}: {case['name']}" for case in CASES])
def test_recorded_case(case: dict[str, Any]) -> None:
    provider = providers.load(case["provider"])
    expected = case["expect"]
    try:
        found = VERBS[case["verb"]](provider, case)
    except errors.CallsheetError as raised:
        assert "raises" in expected, f"raised {raised!r}"
        found = {"raises": type(raised).__name__, "param": getattr(raised, "param", None)}
    assert_says(found if isinstance(found, dict) else described(found), expected, case["name"])


def outgoing(provider: providers.Provider, case: dict[str, Any]) -> Any:
    steps = steps_of(provider, case["verb"], case["call"])
    exchange = iter(case["exchange"])

    def answer(request: Request) -> Reply:
        recorded = next(exchange, None)
        assert recorded is not None, f"{request.method} {request.url} is not in the exchange"
        assert_request(request, recorded["request"])
        return a_reply(recorded["reply"])

    verdict, asked = drive(steps, answer)
    assert len(asked) == len(case["exchange"]), "not all of the exchange was asked"
    return verdict


def steps_of(provider: providers.Provider, verb: str, given: dict[str, Any]) -> Generator[Request, Reply, Any]:
    call = a_call(provider, **given)
    if verb == "status":
        return provider.status(call, given["provider_job_id"])
    return {"submit": provider.submit, "lookup": provider.lookup, "check": provider.check}[verb](call)


def verifying(provider: providers.Provider, case: dict[str, Any]) -> Any:
    given = case["call"]
    return provider.verify_callback(given["headers"], given["body"].encode(), given["secrets"], given["now"])


def reading(provider: providers.Provider, case: dict[str, Any]) -> Any:
    return provider.read_callback(case["call"]["body"].encode())


VERBS: dict[str, Callable[[providers.Provider, dict[str, Any]], Any]] = {
    "submit": outgoing,
    "status": outgoing,
    "lookup": outgoing,
    "check": outgoing,
    "verify_callback": verifying,
    "read_callback": reading,
}


def a_reply(recorded: dict[str, Any]) -> Reply:
    body = recorded.get("body", "")
    text = body if isinstance(body, str) else json.dumps(body)
    return Reply(status=recorded["status"], headers=recorded.get("headers", {}), body=text.encode())


def assert_request(request: Request, recorded: dict[str, Any]) -> None:
    assert (request.method, request.url) == (recorded["method"], recorded["url"])
    assert request.charges == recorded.get("charges", False)
    sent = {name.lower(): value for name, value in request.headers.items()}
    wanted = {name.lower(): value for name, value in recorded.get("headers", {}).items()}
    assert {name: sent.get(name) for name in wanted} == wanted
    if "body" in recorded:
        assert json.loads(request.body) == recorded["body"]


def described(found: Any) -> dict[str, Any]:
    if isinstance(found, bool):
        return {"type": "bool", "is": found}
    if isinstance(found, str):
        return {"type": "text", "contains": found}
    said = msgspec.to_builtins(found)
    return {"type": type(found).__name__, **said}


def assert_says(found: Any, expected: Any, where: str) -> None:
    """Whatever is expected is there; objects may have more."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), f"{where}: {found!r} is no object"
        for name, value in expected.items():
            assert name in found, f"{where}: no {name} in {found!r}"
            assert_says(found[name], value, f"{where}.{name}")
    elif where.endswith(".contains"):
        assert expected in found, where
    elif isinstance(expected, list):
        assert len(found) == len(expected), f"{where}: {found!r}"
        for number, pair in enumerate(zip(found, expected, strict=True)):
            assert_says(*pair, where=f"{where}[{number}]")
    else:
        assert found == expected, where


# -- that there are cases -------------------------------------------------------------------------

Demand = tuple[str, Callable[[dict[str, Any]], bool], str]
DEMANDED: list[Demand] = [
    ("submit", lambda expect: expect.get("type") in ("Accepted", "Done"), "that is accepted"),
    ("submit", lambda expect: expect.get("type") == "Refused", "that is refused"),
    ("submit", lambda expect: expect.get("type") == "Unknown", "whose outcome is unknown"),
    ("status", lambda expect: expect.get("status") == "succeeded", "that succeeded"),
    ("status", lambda expect: expect.get("status") == "failed", "that failed"),
    ("status", lambda expect: expect.get("status") == "processing", "that is processing"),
    ("status", lambda expect: expect.get("type") == "NotNow", "that is asked again"),
    ("lookup", lambda expect: True, "at all"),
    ("check", lambda expect: expect.get("type") == "text", "that proves the key"),
    ("check", lambda expect: "raises" in expect, "that disproves the key"),
]
DEMANDED_IF_SIGNED: list[Demand] = [
    ("verify_callback", lambda expect: expect.get("is") is True, "that is authentic and fresh"),
    ("verify_callback", lambda expect: expect.get("is") is False, "that is authentic and old"),
    ("verify_callback", lambda expect: expect.get("raises") == "SignatureRefused", "that is refused"),
    ("read_callback", lambda expect: expect.get("type") == "ReadCallback", "that can be read"),
    ("read_callback", lambda expect: expect.get("raises") == "BadRequest", "that cannot be read"),
]


@pytest.mark.parametrize("name", NAMES)
def test_provider_has_the_cases_that_show_how_it_reads_replies(name: str) -> None:
    demanded = DEMANDED + (DEMANDED_IF_SIGNED if providers.load(name).callback_signed else [])
    cases = cases_of(name)
    for verb, fits, which in demanded:
        found = any(case["verb"] == verb and fits(case["expect"]) for case in cases)
        assert found, f"tests/providers/{name}/ has no case of `{verb}` {which}"


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_has_a_case_of_a_submit_that_is_accepted(name: str) -> None:
    for operation in providers.load(name).operations:
        assert accepted_inputs(name, operation), f"tests/providers/{name}/ has no accepted submit of `{operation}`"


def accepted_inputs(name: str, operation: str) -> list[dict[str, Any]]:
    accepted = [
        case["call"]
        for case in cases_of(name)
        if case["verb"] == "submit" and case["expect"].get("type") in ("Accepted", "Done")
    ]
    return [call["input"] for call in accepted if call["operation"] == operation]


# -- facts of a provider and its table ------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_provider_states_its_facts(name: str) -> None:
    provider = providers.load(name)
    assert provider.name == name
    assert provider.title
    assert provider.base_url.startswith("https://")
    assert not provider.base_url.endswith("/")
    assert provider.operations
    status, content_type, body = provider.callback_reply
    assert 200 <= status < 300
    assert content_type
    assert isinstance(body, bytes)
    assert provider.callback_max_bytes > 0


@pytest.mark.parametrize("name", NAMES)
def test_provider_does_no_io_and_imports_nothing_above_it(name: str) -> None:
    tree = ast.parse((Path(providers.__file__).parent / f"{name}.py").read_bytes())
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    ours = {module for module in modules if module.partition(".")[0] == "service"}
    assert ours <= MAY_IMPORT
    assert not {module.partition(".")[0] for module in modules} & DOES_IO_OR_CHANCE
    assert "urllib.request" not in modules


OPERATIONS = [(name, operation) for name in NAMES for operation in providers.load(name).operations]


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_operation_states_its_facts(name: str, operation: str) -> None:
    row = providers.load(name).operations[operation]
    assert row.summary
    assert row.path.startswith("/")
    assert row.source.startswith("https://"), "where its facts were read"
    assert row.settled_by in SETTLED_BY
    assert row.settled_by != "same_key" or row.settle_s > 0
    assert row.input_schema["type"] == "object"
    assert row.input_schema.get("additionalProperties", True) is True, "fields that are not in the table pass"
    poll = row.poll
    assert 0 < poll.first_s <= poll.late_s
    assert 0 < poll.every_s <= poll.cap_s <= poll.longest_s <= row.deadline_s


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_missing_required_field_is_refused_by_its_name(name: str, operation: str) -> None:
    row = providers.load(name).operations[operation]
    given = accepted_inputs(name, operation)[0]
    for field in row.input_schema.get("required", []):
        without = {key: value for key, value in given.items() if key != field}
        with pytest.raises(errors.Invalid) as refused:
            row.validate(without)
        assert refused.value.param == f"input.{field}"


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_field_of_a_wrong_type_is_refused_by_its_name(name: str, operation: str) -> None:
    row = providers.load(name).operations[operation]
    given = accepted_inputs(name, operation)[0]
    for field, schema in row.input_schema["properties"].items():
        if "object" in schema.get("type", "array"):
            continue
        with pytest.raises(errors.Invalid) as refused:
            row.validate({**given, field: {"wrong": True}})
        assert refused.value.param == f"input.{field}"
        assert ".." not in refused.value.detail, "x-remedy ends without a full stop"


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_recorded_inputs_and_fields_that_are_not_in_the_table_pass(name: str, operation: str) -> None:
    row = providers.load(name).operations[operation]
    for recorded in accepted_inputs(name, operation):
        row.validate({**recorded, "not_in_any_table": {"deep": [1, None, "x"]}})


# -- replies that no document foresees ------------------------------------------------------------

SUCCESSES = (200, 200, 200, 200, 200, 201, 204)
STATUSES = (*SUCCESSES, 302, 400, 401, 402, 403, 404, 408, 409, 418, 422, 425, 429, 500, 502, 503, 504)
NUMBERS = ("0", "-1", "1", "6", "7", "1.5", "1e300", "NaN", "1" + "0" * 30)
LEAVES = ("null", "true", "false", *NUMBERS, '""', '"x"', '"1"', '"../x"', "[]", "{}", "[[]]", '{"a": null}')
PAGES = (
    b"",
    b" ",
    b"null",
    b"[]",
    b"{}",
    b'"ok"',
    b"0",
    b"NaN",
    b"\xff\xfe\x00",
    b"<!doctype html><title>502 Bad Gateway</title>",
    b"[" * 100_000,
    b'{"status":' * 100_000,
    b'{"id":' + b"9" * 5_000 + b"}",
)
# By number, because hypothesis would print the long ones.
pages = st.integers(0, len(PAGES) - 1).map(PAGES.__getitem__)
UNFORESEEN = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def replies_to(name: str, verb: str) -> st.SearchStrategy[Reply]:
    """The recorded replies, whole, cut, with changed members, in other pages' place and with other statuses."""
    exchanges = [case.get("exchange", []) for case in cases_of(name) if case["verb"] == verb]
    recorded = [a_reply(step["reply"]).body for exchange in exchanges for step in exchange] or [b"{}"]
    whole = st.sampled_from(recorded)
    cut = st.tuples(whole, st.integers(0, 40)).map(lambda pair: pair[0][: len(pair[0]) * pair[1] // 40])
    marked = whole.map(lambda body: b"\xef\xbb\xbf" + body)
    other = st.one_of(marked, pages, st.binary(max_size=9))
    bodies = st.one_of(changed(recorded), changed(recorded), whole, cut, other)
    waits = st.sampled_from(["", "3", "-1", "1e9", "9" * 40, "soon", "\u0663"])
    return st.builds(
        lambda status, body, wait: Reply(status=status, headers={"retry-after": wait}, body=body),
        st.sampled_from(STATUSES),
        bodies,
        waits,
    )


@st.composite
def changed(draw: st.DrawFn, recorded: list[bytes]) -> bytes:
    said = draw(st.sampled_from([body for body in recorded if body.startswith(b"{")] or [b"{}"]))
    document = json.loads(said)
    for _ in range(draw(st.integers(1, 3))):
        places = list(places_in(document))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        holder[key] = json.loads(draw(st.sampled_from(LEAVES)))
    return json.dumps(document).encode()


def places_in(value: Any) -> Generator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key
        yield from places_in(inner)


def ask(provider: providers.Provider, verb: str, reply: st.DataObject, **given: Any) -> tuple[Any, list[Reply]]:
    """Run a verb against replies drawn one by one, and check what holds for all verbs."""
    operation = reply.draw(st.sampled_from(sorted(provider.operations)))
    drawn: list[Reply] = []
    base = reply.draw(st.sampled_from([provider.base_url, "http://127.0.0.1:9/prefix"]))
    call = {"operation": operation, "provider_job_id": "j-1", "base_url": base, **given}

    def answer(request: Request) -> Reply:
        assert request.url.startswith(f"{base}/"), "the key leaves for another place"
        assert urlsplit(request.url)[:2] == urlsplit(base)[:2]
        drawn.append(reply.draw(replies_to(provider.name, verb)))
        return drawn[-1]

    verdict, asked = drive(steps_of(provider, verb, call), answer)
    assert sum(request.charges for request in asked) <= (1 if verb == "submit" else 0)
    assert msgspec.json.encode(verdict), "what cannot be kept stops the job"
    return verdict, drawn


def assert_ids(provider_job_ids: tuple[str, ...]) -> None:
    assert provider_job_ids, "accepted, and nothing to ask for"
    assert all(isinstance(found, str) and found.strip() for found in provider_job_ids)
    assert not {"None", "True", "False", "nan"} & set(provider_job_ids)


def assert_update(update: Update) -> None:
    assert update.status in (JobStatus.PROCESSING, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED)
    if update.status == JobStatus.SUCCEEDED:
        assert update.outputs, "succeeded, and nothing to show"
    assert all(isinstance(output.url, str) and output.url for output in update.outputs)
    assert (update.status == JobStatus.FAILED) == (update.error is not None)


@pytest.mark.parametrize("name", NAMES)
@UNFORESEEN
@given(data=st.data(), repeat=st.booleans())
def test_no_reply_to_a_charging_request_is_misread(name: str, data: st.DataObject, repeat: bool) -> None:
    provider = providers.load(name)
    verdict, drawn = ask(provider, "submit", data, repeat=repeat)
    assert isinstance(verdict, SubmitVerdict)
    last = drawn[-1]
    if isinstance(verdict, Accepted):
        assert_ids(verdict.provider_job_ids)
    if isinstance(verdict, Done):
        assert_update(verdict.update)
    if isinstance(verdict, Accepted | Done):
        assert 200 <= last.status < 300
    if isinstance(verdict, Refused):
        assert last.status < 500
        assert last.status not in (408, 409, 425), "no proof that it was not accepted"
        assert verdict.error.message
    if isinstance(verdict, Refused | NotNow):
        assert not repeat, "an error to a repeat is no refusal of the first"
        assert not 500 < last.status
    if isinstance(verdict, NotNow):
        assert verdict.at_most is None or verdict.error is not None
        assert_wait(verdict)


@pytest.mark.parametrize("name", NAMES)
@UNFORESEEN
@given(data=st.data())
def test_no_reply_to_a_status_request_is_misread(name: str, data: st.DataObject) -> None:
    verdict, drawn = ask(providers.load(name), "status", data)
    assert isinstance(verdict, StatusVerdict)
    if isinstance(verdict, Update):
        assert_update(verdict)
        assert 200 <= drawn[-1].status < 300
    if isinstance(verdict, NotNow):
        assert_wait(verdict)


@pytest.mark.parametrize("name", NAMES)
@UNFORESEEN
@given(data=st.data())
def test_no_reply_to_a_lookup_is_misread(name: str, data: st.DataObject) -> None:
    verdict, drawn = ask(providers.load(name), "lookup", data)
    assert isinstance(verdict, LookupVerdict)
    if isinstance(verdict, Accepted):
        assert_ids(verdict.provider_job_ids)
    if isinstance(verdict, NotFound) and verdict.conclusive:
        assert all(200 <= reply.status < 300 for reply in drawn)


@pytest.mark.parametrize("name", NAMES)
@UNFORESEEN
@given(data=st.data())
def test_check_says_a_sentence_or_refuses(name: str, data: st.DataObject) -> None:
    try:
        sentence, _ = ask(providers.load(name), "check", data)
    except errors.Refusal:
        return
    assert sentence.strip()


def assert_wait(verdict: NotNow) -> None:
    assert verdict.reason
    assert verdict.after_s is None or 0 <= verdict.after_s <= 1e9


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("status", [200, 400, 500, 502, 503, 504])
@pytest.mark.parametrize("page", PAGES, ids=range(len(PAGES)))
def test_page_that_is_not_the_providers_leaves_the_outcome_unknown(name: str, status: int, page: bytes) -> None:
    provider = providers.load(name)
    for operation in provider.operations:
        call = a_call(provider, operation=operation)
        verdict, _ = drive(provider.submit(call), lambda _: Reply(status=status, headers={}, body=page))
        assert isinstance(verdict, Unknown)


@pytest.mark.parametrize("name", NAMES)
def test_reply_with_half_a_surrogate_pair_can_be_kept(name: str) -> None:
    """A server that cuts a prompt to a length may cut an emoji in two, and JSON can carry the half."""
    provider = providers.load(name)
    done = next(case for case in cases_of(name) if case["expect"].get("status") == "succeeded")
    body = a_reply(done["exchange"][-1]["reply"]).body.replace(b'"url":', b'"prompt":"\\ud83d","url":')
    body = body.replace(b'"status": "ready"', b'"status": "ready", "prompt": "\\ud83d"')
    verdict, _ = drive(steps_of(provider, "status", done["call"]), lambda _: Reply(status=200, headers={}, body=body))
    assert verdict.status == JobStatus.SUCCEEDED
    assert msgspec.json.encode(verdict)


# -- callbacks that prove nothing -----------------------------------------------------------------


def recorded_callbacks(name: str) -> list[dict[str, Any]]:
    """The calls of those cases whose signature is right."""
    calls = [case for case in cases_of(name) if case["verb"] == "verify_callback"]
    return [case["call"] for case in calls if case["expect"].get("type") == "bool"]


@st.composite
def spoilt_callbacks(draw: st.DrawFn, name: str) -> dict[str, Any]:
    calls = recorded_callbacks(name) or [
        {"headers": {}, "body": "{}", "secrets": ["test-secret"], "now": 1_800_000_000}
    ]
    call = draw(st.sampled_from(calls))
    headers = dict(call["headers"])
    for header in draw(st.lists(st.sampled_from(sorted(headers)), min_size=1) if headers else st.just([])):
        headers[header] = draw(st.one_of(st.text(max_size=60), st.just("9" * 20), st.just(headers[header] * 2)))
    return {**call, "headers": headers, "body": call["body"].encode()}


@pytest.mark.parametrize("name", NAMES)
@UNFORESEEN
@given(data=st.data())
def test_spoilt_headers_are_refused_and_never_crash(name: str, data: st.DataObject) -> None:
    call = data.draw(spoilt_callbacks(name))
    with pytest.raises(errors.SignatureRefused):
        providers.load(name).verify_callback(call["headers"], call["body"], call["secrets"], call["now"])


@pytest.mark.parametrize("name", NAMES)
@UNFORESEEN
@given(body=st.one_of(st.binary(max_size=200), pages, changed([b'{"id":"1","status":1,"url":"u"}'])))
def test_any_body_is_refused_or_read_and_never_crashes(name: str, body: bytes) -> None:
    provider = providers.load(name)
    for call in recorded_callbacks(name):
        with pytest.raises(errors.SignatureRefused):
            provider.verify_callback(call["headers"], body, call["secrets"], call["now"])
    try:
        read = provider.read_callback(body)
    except errors.BadRequest:
        return
    assert_ids((read.provider_job_id,))
    assert_update(read.update)
    assert read.dedupe_key
