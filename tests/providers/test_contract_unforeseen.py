"""What no document foresees is never misread: nothing raises, no id means not accepted, one request charges at most."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import errors, providers
from service.facts import (
    Accepted,
    Candidates,
    Cost,
    Done,
    LookupVerdict,
    NotFound,
    NotNow,
    Output,
    Refused,
    StatusVerdict,
    SubmitVerdict,
    Unknown,
    Update,
)
from service.providers import HistoryRow, Provider, Recognised, Reply, Request
from service.states import ErrorCode, JobStatus

from .cases import CALL, NAMES, Json, a_call, a_reply, cases_of, drive, example_call, overrides, steps_of
from .unforeseen import FEWER, PAGES, UNFORESEEN, changed, pages, replies_to, single_changes

GIVEN = {
    "provider_job_id": "j-1",
    "since": CALL["now"] - 3_600_000,
    "kind": "models",
    "output": {"url": "https://media.example.test/x.mp4", "needs_key": True, "file_name": "x.mp4"},
}
ABOUT_A_CREDENTIAL = ("check", "balance", "account", "history", "catalog", "keys")  # for no job: no operation
PAUSING = (ErrorCode.AUTHENTICATION, ErrorCode.OUT_OF_CREDIT)


Exchange = list[tuple[Request, Reply]]


def ask(provider: Provider, verb: str, draw: st.DataObject, **more: Any) -> tuple[Any, Exchange]:
    """Run a verb against replies drawn one by one, and check what holds for all verbs."""
    operation = draw.draw(st.sampled_from(sorted(provider.operations)))
    about = {} if verb in ABOUT_A_CREDENTIAL else {**example_call(provider.name, operation), "operation": operation}
    base = draw.draw(st.sampled_from([provider.base_url, "http://127.0.0.1:9/prefix"]))
    given = {**GIVEN, **about, "base_url": base, **more}
    exchange: Exchange = []

    def answer(request: Request) -> Reply:
        assert_keeps_the_key(provider, verb, request, base, first=not exchange)
        exchange.append((request, draw.draw(replies_to(provider.name, verb))))
        return exchange[-1][1]

    found, asked = drive(steps_of(provider, verb, given), answer)
    assert sum(request.charges for request in asked) <= (1 if verb == "submit" else 0)
    assert msgspec.json.encode(found), "what cannot be kept stops the job"
    return found, exchange


def assert_keeps_the_key(provider: Provider, verb: str, request: Request, base: str, *, first: bool) -> None:
    """The key goes to the origin that it belongs to; only keys that are everybody's are fetched elsewhere."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    scheme, host = urlsplit(request.url)[:2]
    if base == provider.base_url and f"{scheme}://{host}" in provider.other_origins:
        assert request.method == "GET", "what makes work goes to the base URL"
    elif (scheme, host) != urlsplit(base)[:2]:
        assert verb == "keys", "the key leaves for another place"
        assert provider.key_header[0].lower() not in headers
        assert CALL["api_key"] not in f"{headers} {request.url}"
    else:
        assert not first or request.url.startswith(f"{base}/"), "the path before the provider's own is left out"
    assert all(text.isprintable() for text in (request.url, *headers.values())) and " " not in request.url


def assert_ids(provider_job_ids: tuple[str, ...]) -> None:
    assert provider_job_ids, "accepted, and nothing to ask for"
    assert all(isinstance(found, str) and found.strip() for found in provider_job_ids)
    assert not {"None", "True", "False", "nan"} & set(provider_job_ids)


def assert_update(update: Update) -> None:
    assert update.status in (JobStatus.PROCESSING, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED)
    if update.status == JobStatus.SUCCEEDED:
        assert update.outputs, "succeeded, and nothing to show"
    assert all(isinstance(output.url, str) and output.url for output in update.outputs)
    assert update.status != JobStatus.FAILED or update.error is not None
    assert update.error is None or update.status in (JobStatus.FAILED, JobStatus.CANCELED)
    assert update.progress is None or 0 <= update.progress <= 1


def assert_wait(verdict: NotNow) -> None:
    assert verdict.reason
    assert verdict.after_s is None or 0 <= verdict.after_s <= 1e9
    assert verdict.at_most is None or verdict.error is not None


# -- the verbs that every provider has ------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@UNFORESEEN
@given(data=st.data(), repeat=st.booleans())
def test_no_reply_to_a_charging_request_is_misread(name: str, data: st.DataObject, repeat: bool) -> None:
    verdict, exchange = ask(providers.load(name), "submit", data, repeat=repeat)
    assert_submit(verdict, exchange, repeat=repeat)


def assert_submit(verdict: Any, exchange: Exchange, *, repeat: bool) -> None:
    assert isinstance(verdict, SubmitVerdict)
    asked, last = [step for step in exchange if not step[0].optional][-1]
    if isinstance(verdict, Accepted):
        assert_ids(verdict.provider_job_ids)
    if isinstance(verdict, Done):
        assert_update(verdict.update)
    if isinstance(verdict, Accepted | Done):
        assert asked.charges and 200 <= last.status < 300
    if isinstance(verdict, Refused):
        assert verdict.error.message
        assert not verdict.pauses or verdict.error.code in PAUSING
    if isinstance(verdict, Refused | NotNow) and asked.charges:
        assert not repeat, "an error to a repeat is no refusal of the first"
        assert last.status <= 500 and (isinstance(verdict, NotNow) or last.status < 500)
        assert last.status not in (303, 408, 409, 424, 425, 460, 499), "no proof that it was not accepted"
    if isinstance(verdict, NotNow):
        assert_wait(verdict)


@pytest.mark.parametrize("name", NAMES)
@UNFORESEEN
@given(data=st.data())
def test_no_reply_to_a_status_request_is_misread(name: str, data: st.DataObject) -> None:
    assert_status(*ask(providers.load(name), "status", data))


def assert_status(verdict: Any, exchange: Exchange) -> None:
    assert isinstance(verdict, StatusVerdict)
    if isinstance(verdict, Update):
        assert_update(verdict)
        heard = [reply.status for request, reply in exchange if not request.optional or reply.status == 200]
        assert 200 <= heard[-1] < 300
    if isinstance(verdict, NotNow):
        assert_wait(verdict)


@pytest.mark.parametrize("verb", ["submit", "status"])
@pytest.mark.parametrize("name", NAMES)
def test_no_single_change_of_a_recorded_reply_is_misread(name: str, verb: str) -> None:
    """Every member of every recorded reply, left out and replaced by every leaf."""
    provider = providers.load(name)
    for case in cases_of(name):
        if case["verb"] != verb or case["expect"].get("type" if verb == "submit" else "status") not in GOOD:
            continue
        for verdict, exchange in replayed_with_changes(provider, case):
            assert msgspec.json.encode(verdict), "what cannot be kept stops the job"
            if verb == "submit":
                assert_submit(verdict, exchange, repeat=case["call"].get("repeat", False))
            else:
                assert_status(verdict, exchange)


GOOD = ("Accepted", "Done", "succeeded", "failed")


def replayed_with_changes(provider: Provider, case: Json) -> Iterator[tuple[Any, Exchange]]:
    """The case with one of its replies changed; whatever is asked beyond them is not answered."""
    recorded = [a_reply(step["reply"]) for step in case["exchange"]]
    for number, changing in enumerate(recorded):
        if not is_object(changing.body):
            continue
        for body in single_changes(changing.body):
            replies = [*recorded[:number], msgspec.structs.replace(changing, body=body), *recorded[number + 1 :]]
            left, exchange = iter(replies), []

            def answer(request: Request, left: Any = left, exchange: Exchange = exchange) -> Reply:
                exchange.append((request, next(left, Reply(status=500, headers={}, body=b""))))
                return exchange[-1][1]

            yield drive(steps_of(provider, case["verb"], case["call"]), answer)[0], exchange


@pytest.mark.parametrize("name", NAMES)
@UNFORESEEN
@given(data=st.data())
def test_no_reply_to_a_lookup_is_misread(name: str, data: st.DataObject) -> None:
    verdict, exchange = ask(providers.load(name), "lookup", data)
    assert isinstance(verdict, LookupVerdict)
    if isinstance(verdict, Accepted | Candidates):
        assert_ids(verdict.provider_job_ids)
    if isinstance(verdict, NotFound) and verdict.conclusive:
        assert all(200 <= reply.status < 300 for _, reply in exchange)


@pytest.mark.parametrize("name", NAMES)
@FEWER
@given(data=st.data())
def test_no_reply_to_a_cancel_is_misread(name: str, data: st.DataObject) -> None:
    verdict, _ = ask(providers.load(name), "cancel", data)
    assert isinstance(verdict, StatusVerdict)
    if isinstance(verdict, Update):
        assert_update(verdict)


@pytest.mark.parametrize("name", NAMES)
@FEWER
@given(data=st.data())
def test_check_says_a_sentence_or_refuses(name: str, data: st.DataObject) -> None:
    try:
        sentence, _ = ask(providers.load(name), "check", data)
    except errors.Refusal:
        return
    assert sentence.strip()


# -- the others -----------------------------------------------------------------------------------


def assert_cost(found: Any) -> None:
    assert found is None or (isinstance(found, Cost) and found.unit and float(found.amount) >= 0)


def assert_balance(found: Any) -> None:
    assert float(found["amount"]) >= 0 and isinstance(found["amount"], str) and found["unit"]


def assert_rows(found: Any) -> None:
    for row in found:
        assert isinstance(row, HistoryRow)
        assert_ids((row.provider_job_id,))
        assert_cost(row.cost)
        if row.update is not None:
            assert_update(row.update)


def assert_list(found: Any) -> None:
    assert found is None or all(isinstance(row, dict) for row in found)


OTHERS: Mapping[str, Any] = {
    "quote": assert_cost,
    "balance": assert_balance,
    "account": lambda found: found is None or found.keys(),
    "history": assert_rows,
    "catalog": assert_list,
    "keys": lambda found: [text.encode() for text in found],
    "share": lambda found: found is None or found.startswith("http") or pytest.fail(f"{found!r} is no URL"),
}
OVERRIDDEN = [(name, verb) for name in NAMES for verb in OTHERS if overrides(providers.load(name), verb)]


@pytest.mark.parametrize(("name", "verb"), OVERRIDDEN)
@FEWER
@given(data=st.data())
def test_no_reply_to_a_question_is_misread_or_crashes(name: str, verb: str, data: st.DataObject) -> None:
    recorded = [case["call"] for case in cases_of(name) if case["verb"] == verb]
    named = [{field: call[field] for field in GIVEN if field in call} for call in recorded] or [{}]
    more = data.draw(st.sampled_from(named))
    try:
        found, _ = ask(providers.load(name), verb, data, **more)
    except errors.Refusal:
        return
    OTHERS[verb](found)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("status", [200, 303, 409, 500, 502, 503, 504])
@pytest.mark.parametrize("page", PAGES, ids=range(len(PAGES)))
def test_page_that_is_not_the_providers_leaves_the_outcome_unknown(name: str, status: int, page: bytes) -> None:
    provider = providers.load(name)
    for operation in provider.operations:
        call = a_call(provider, example_call(name, operation))
        verdict, asked = drive(provider.submit(call), lambda _: Reply(status=status, headers={}, body=page))
        assert isinstance(verdict, Unknown) or not asked[-1].charges


@pytest.mark.parametrize("name", NAMES)
def test_reply_with_half_a_surrogate_pair_can_be_kept(name: str) -> None:
    """A server that cuts a prompt to a length may cut an emoji in two, and JSON can carry the half."""
    provider = providers.load(name)
    done = [case for case in cases_of(name) if case["expect"].get("status") == "succeeded" and case["verb"] == "status"]
    for case in done[:1]:
        bodies = [a_reply(step["reply"]) for step in case["exchange"]]
        spoilt = iter([msgspec.structs.replace(reply, body=with_half_a_pair(reply.body)) for reply in bodies])
        verdict, _ = drive(steps_of(provider, "status", case["call"]), lambda _, spoilt=spoilt: next(spoilt))
        assert verdict.status == JobStatus.SUCCEEDED
        assert msgspec.json.encode(verdict)


def with_half_a_pair(body: bytes) -> bytes:
    """The JSON object with a member more; where it is wrapped in one, the inner object has one, too."""
    return body.replace(b"{", b'{"half":"\\ud83d",')


# -- requests and outputs -------------------------------------------------------------------------

PARTS = [
    "/api",
    "/v1",
    "/v2",
    "/openapi/v2",
    "/generate",
    "/status",
    "/jobs",
    "/",
    "//",
    "/..",
    "/%2e%2e",
    "/%00",
    "/é",
]
TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["generation_id", "job_id", "id", "j-1", "\ud800"]))
METHODS = st.one_of(st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS"]), st.text(max_size=6))


def paths_of(name: str) -> st.SearchStrategy[str]:
    """Recorded paths, the table's, what is near them, and any text."""
    recorded = [case["call"]["path"] for case in cases_of(name) if case["verb"] == "recognise"]
    known = st.sampled_from([*recorded, *(row.path for row in providers.load(name).operations.values())])
    near = st.tuples(known, st.text(max_size=9)).map("".join)
    return st.one_of(known, near, st.lists(st.sampled_from(PARTS)).map("".join), st.text(max_size=30).map("/".__add__))


@pytest.mark.parametrize("name", NAMES)
@UNFORESEEN
@given(data=st.data())
def test_any_request_is_recognised_as_something_and_never_crashes(name: str, data: st.DataObject) -> None:
    provider = providers.load(name)
    recorded = [case["call"].get("body", {}) for case in cases_of(name) if case["verb"] == "recognise"]
    bodies = [b"{}", *(msgspec.json.encode(body) for body in recorded if isinstance(body, dict))]
    found = provider.recognise(
        data.draw(METHODS),
        data.draw(paths_of(name)),
        data.draw(st.dictionaries(TEXTS, TEXTS, max_size=3)),
        data.draw(st.one_of(st.sampled_from(bodies), changed(bodies), pages, st.binary(max_size=20))),
    )
    assert isinstance(found, Recognised)
    assert found.kind in ("submit", "status", "account", "plain")
    assert found.kind != "submit" or found.operation in provider.operations
    assert found.kind != "status" or found.provider_job_ids
    assert all(isinstance(named, str) and named for named in found.provider_job_ids)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/api/video/x.mp4",
        "http://evil.example",
        "//evil.example/x",
        "/api/video/../../x",
        "https://user@evil.example/x",
        "file:///etc/passwd",
        "x.mp4",
        "",
    ],
)
def test_output_elsewhere_is_never_read_with_the_key(name: str, url: str) -> None:
    provider = providers.load(name)
    output = Output(url=url, needs_key=True, file_name="x.mp4")
    for operation in list(provider.operations)[:5]:
        request = provider.fetch(a_call(provider, example_call(name, operation)), output)
        if request is not None:
            assert_keeps_the_key(provider, "fetch", request, provider.base_url, first=False)
            assert not request.charges


# -- callbacks that prove nothing -----------------------------------------------------------------


def recorded_callbacks(name: str) -> list[Json]:
    """The calls of those cases whose signature is right."""
    calls = [case for case in cases_of(name) if case["verb"] == "verify_callback"]
    return [case["call"] for case in calls if case["expect"].get("type") == "bool"]


@st.composite
def spoilt_callbacks(draw: st.DrawFn, name: str) -> Json:
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
    call, provider = data.draw(spoilt_callbacks(name)), providers.load(name)
    if provider.callback_signed or not overrides(provider, "verify_callback"):
        with pytest.raises(errors.SignatureRefused):
            provider.verify_callback(call["headers"], call["body"], call["secrets"], call["now"])
    else:  # whoever calls, it is a hint: it proves nothing, and moves nothing
        assert provider.verify_callback(call["headers"], call["body"], call["secrets"], call["now"]) in (True, False)


@pytest.mark.parametrize("name", NAMES)
@UNFORESEEN
@given(data=st.data())
def test_any_body_is_refused_or_read_and_never_crashes(name: str, data: st.DataObject) -> None:
    provider = providers.load(name)
    known = [case["call"]["body"] for case in cases_of(name) if case["verb"] == "read_callback"]
    objects = [body.encode() for body in known if is_object(body)] or [b'{"id":"1","status":1,"url":"u"}']
    body = data.draw(st.one_of(st.binary(max_size=200), pages, changed(objects)))
    for call in recorded_callbacks(name):
        if body != call["body"].encode():
            with pytest.raises(errors.SignatureRefused):
                provider.verify_callback(call["headers"], body, call["secrets"], call["now"])
    try:
        read = provider.read_callback(body)
    except errors.BadRequest:
        return
    assert_ids((read.provider_job_id, *read.also))
    assert_update(read.update)
    assert read.dedupe_key


def is_object(body: Any) -> bool:
    try:
        return isinstance(msgspec.json.decode(body), dict)
    except (msgspec.DecodeError, TypeError):
        return False
