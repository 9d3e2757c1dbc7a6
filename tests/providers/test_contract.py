"""What every provider must do, shown by its recorded cases. `service/providers/README.md` says how a case is written.

Beside this file: what it refuses, names and recognises (`test_contract_input`), and replies that no document foresees
(`test_contract_unforeseen`). `cases.py` finds providers and cases.
"""

import ast
import json
import re
from collections.abc import Callable
from datetime import date
from typing import Any

import jsonschema
import msgspec
import pytest

from service import providers
from service.errors import Invalid
from service.providers import FileRule, Provider, Request

from .cases import (
    CASES,
    GENERATORS,
    NAMES,
    PURE,
    Json,
    a_call,
    cases_of,
    example_call,
    file_rules,
    outcome,
    overrides,
    source_files,
)

MAY_IMPORT = {
    "service.errors", "service.facts", "service.header_lines", "service.providers", "service.providers._media",
    "service.providers._reading", "service.providers._refusals", "service.signatures", "service.states",
}  # fmt: skip
DOES_IO_OR_CHANCE = {"aiohttp", "asyncio", "http", "httpx2", "os", "random", "requests", "secrets", "socket", "time"}
SETTLED_BY = {"same_key", "lookup", "token", "person"}
OUTPUTS = {"video", "image", "audio", "subtitle", "gif", "frames", "mask", "model_3d", "text"}
QUOTES = {"formula", "provider", ""}
LONGEST_S = 86_400


# -- recorded cases -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[f"{case['provider']}: {case['verb']}: {case['name']}" for case in CASES])
def test_recorded_case(case: Json) -> None:
    assert_says(outcome(providers.load(case["provider"]), case, assert_request), case["expect"], case["name"])


def assert_request(request: Request, recorded: Json) -> None:
    """Method, URL and `charges` exactly; of headers and body what is recorded."""
    if recorded:
        assert (request.method, request.url) == (recorded["method"], recorded["url"])
        assert request.charges == recorded.get("charges", False)
    sent = {name.lower(): value for name, value in request.headers.items()}
    wanted = {name.lower(): value for name, value in recorded.get("headers", {}).items()}
    assert {name: sent.get(name) for name in wanted} == wanted
    if "body" in recorded:
        assert json.loads(request.body) == recorded["body"]
    if "form" in recorded:
        assert request.form is not None, "it has no form"
        form = {"files": [list(pair) for pair in request.form.files], "fields": dict(request.form.fields)}
        assert form == {"files": [], "fields": {}, **recorded["form"]}
    if "keep" in recorded:
        assert request.keep == recorded["keep"]


def assert_says(found: Any, expected: Any, where: str) -> None:
    """Whatever is expected is there; objects may have more. `{"contains": "..."}` is a part of a text."""
    if where.endswith(".contains") or (isinstance(found, str) and isinstance(expected, dict)):
        assert (expected["contains"] if isinstance(expected, dict) else expected) in found, where
    elif isinstance(expected, dict):
        assert isinstance(found, dict), f"{where}: {found!r} is no object"
        for name, value in expected.items():
            assert name in found, f"{where}: no {name} in {found!r}"
            assert_says(found[name], value, f"{where}.{name}")
    elif isinstance(expected, list):
        assert isinstance(found, list | tuple) and len(found) == len(expected), f"{where}: {found!r}"
        for number, pair in enumerate(zip(found, expected, strict=True)):
            assert_says(*pair, where=f"{where}[{number}]")
    else:
        assert found == expected, where


# -- that there are cases -------------------------------------------------------------------------

Demand = tuple[str, Callable[[Json], bool], str]
DEMANDED: list[Demand] = [
    ("submit", lambda expect: expect.get("type") in ("Accepted", "Done"), "that is accepted"),
    ("submit", lambda expect: expect.get("type") == "Refused", "that is refused"),
    ("submit", lambda expect: expect.get("type") == "Unknown", "whose outcome is unknown"),
    ("submit", lambda expect: expect.get("pauses") is True, "whose refusal pauses the credential (`pauses`)"),
    ("submit", lambda expect: expect.get("type") == "NotNow" and expect.get("whole") is True,
     "that holds for the whole credential (`NotNow` with `whole`)"),
    ("status", lambda expect: expect.get("status") == "failed", "that failed"),
    ("status", lambda expect: expect.get("type") == "NotNow", "that is asked again"),
    ("lookup", lambda expect: True, "at all"),
    ("check", lambda expect: expect.get("type") == "text", "that proves the key"),
    ("check", lambda expect: "raises" in expect, "that disproves the key"),
    ("recognise", lambda expect: expect.get("kind") == "submit", "that is a submit"),
    ("recognise", lambda expect: expect.get("kind") == "plain", "that is nothing special"),
]  # fmt: skip
DEMANDED_IF_FOLLOWED: list[Demand] = [
    ("status", lambda expect: expect.get("status") == "succeeded", "that succeeded"),
    ("status", lambda expect: expect.get("status") == "processing", "that is processing"),
    ("recognise", lambda expect: expect.get("kind") == "status", "that is a status"),
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
    provider = providers.load(name)
    demanded = [*DEMANDED, *(DEMANDED_IF_SIGNED if provider.callback_signed else ())]
    if not all(row.immediate for row in provider.operations.values()):
        demanded += DEMANDED_IF_FOLLOWED
    cases = cases_of(name)
    for verb, fits, which in demanded:
        found = any(case["verb"] == verb and fits(case["expect"]) for case in cases)
        assert found, f"{name} has no recorded case of `{verb}` {which}"


@pytest.mark.parametrize("verb", [*GENERATORS, *PURE])
@pytest.mark.parametrize("name", NAMES)
def test_every_verb_that_a_provider_has_of_its_own_has_a_case(name: str, verb: str) -> None:
    if overrides(providers.load(name), verb):
        assert any(case["verb"] == verb for case in cases_of(name)), f"{name} has no recorded case of `{verb}`"


# -- facts of a provider --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_provider_states_its_facts(name: str) -> None:
    provider = providers.load(name)
    assert Provider in type(provider).__mro__, "it derives from `Provider`"
    assert provider.name == name
    assert provider.title and provider.unit and provider.operations
    assert re.fullmatch(r"https://[a-z0-9.-]+(/[\w/-]*\w)?", provider.base_url), "an origin and optional prefix"
    header, before = provider.key_header
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", header) and before == before.lstrip()
    assert provider.correlation_header is None or re.fullmatch(r"[A-Za-z][\w-]*", provider.correlation_header)
    assert all(isinstance(field, str) and field for field in provider.url_fields)


@pytest.mark.parametrize("name", NAMES)
def test_provider_says_how_it_calls_back(name: str) -> None:
    provider = providers.load(name)
    status, content_type, body = provider.callback_reply
    assert 200 <= status < 300 and content_type and isinstance(body, bytes)
    assert provider.callback_max_bytes > 0
    assert provider.callback_keys in ("credential", "account", "provider")
    assert (provider.callback_keys != "credential") == overrides(provider, "keys")
    called_back = any(row.callback for row in provider.operations.values())
    assert called_back == overrides(provider, "read_callback"), "`callback` in the table, and how to read one"
    assert not provider.callback_signed or called_back


@pytest.mark.parametrize("name", NAMES)
def test_provider_does_what_its_facts_promise(name: str) -> None:
    provider = providers.load(name)
    assert provider.reads_history == overrides(provider, "history")
    call = a_call(provider, {})
    assert all(isinstance(next(provider.catalog(call, kind)), Request) for kind in provider.live_catalogs)
    for kind, documented in provider.catalogs.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", kind)
        assert date.fromisoformat(documented.as_of)
        assert documented.data and all(isinstance(row, dict) for row in documented.data)


@pytest.mark.parametrize("name", NAMES)
def test_provider_does_no_io_and_imports_nothing_above_it(name: str) -> None:
    for path in source_files(name):
        tree = ast.parse(path.read_bytes())
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        ours = {module for module in modules if module.partition(".")[0] == "service"}
        assert {module for module in ours if not module.startswith(f"service.providers._{name}")} <= MAY_IMPORT
        assert not {module.partition(".")[0] for module in modules} & DOES_IO_OR_CHANCE
        assert "urllib.request" not in modules


# -- facts of its operations ----------------------------------------------------------------------

OPERATIONS = [(name, operation) for name in NAMES for operation in providers.load(name).operations]


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_operation_states_its_facts(name: str, operation: str) -> None:
    row = providers.load(name).operations[operation]
    assert re.fullmatch(r"[a-z][a-z0-9_]*", operation)
    assert row.summary and row.path.startswith("/") and row.method in ("POST", "PUT", "GET", "PATCH", "DELETE")
    assert row.source, "where its facts were read"
    assert row.output in OUTPUTS
    assert row.settled_by in SETTLED_BY
    assert row.settled_by != "same_key" or row.settle_s > 0
    assert row.settled_by != "lookup" or overrides(providers.load(name), "lookup")
    assert row.settled_by != "token" or row.callback
    assert not row.cancel or overrides(providers.load(name), "cancel")
    assert 0 < row.submit_s <= 80, "less than a lease of 90 s"
    assert row.max_body >= 1024


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_operation_is_polled_at_a_sane_pace(name: str, operation: str) -> None:
    row = providers.load(name).operations[operation]
    poll = row.poll
    assert 0 < poll.first_s <= poll.late_s
    assert 0 < poll.every_s <= poll.cap_s <= poll.longest_s <= min(row.deadline_s, LONGEST_S)


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_schema_is_draft_07_and_its_examples_are_taken(name: str, operation: str) -> None:
    row = providers.load(name).operations[operation]
    schema = row.input_schema
    jsonschema.Draft7Validator.check_schema(schema)
    assert schema["type"] == "object"
    assert schema.get("additionalProperties", True) is True, "fields that are not in the table pass"
    assert set(schema.get("required", ())) <= set(schema["properties"])
    for example in schema.get("examples", ()):
        row.validate(example)


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_operation_has_an_input_that_it_takes(name: str, operation: str) -> None:
    """A recorded submit that is accepted, an example in the schema, or what its rules alone make."""
    row = providers.load(name).operations[operation]
    try:
        row.validate(example_call(name, operation)["input"])
    except Invalid as refused:
        pytest.fail(f"give the schema of {operation} `examples`: what its types alone make is refused: {refused}")


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_quote_is_what_the_table_says(name: str, operation: str) -> None:
    provider = providers.load(name)
    row = provider.operations[operation]
    assert row.quote in QUOTES
    assert row.quote != "provider" or overrides(provider, "quote")
    assert row.quote == "formula" or row.cost is None
    if row.quote == "formula":
        recorded = [case["call"] for case in cases_of(name) if case["verb"] in ("submit", "price", "quote")]
        inputs = [call["input"] for call in recorded if call.get("operation") == operation]
        inputs += [example_call(name, operation)["input"], *row.input_schema.get("examples", ())]
        prices = [PURE["price"](provider, {"operation": operation, "input": given}) for given in inputs]
        assert any(price is not None for price in prices), "no recorded or example input has a price"
        assert all(price.unit == provider.unit and price.source == "quoted" for price in prices if price is not None)


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_file_rules_can_be_read(name: str, operation: str) -> None:
    for rule in file_rules(providers.load(name).operations[operation].input_schema):
        assert set(rule) <= {"how", "as", "types", "max_bytes"}
        read = msgspec.convert(rule, FileRule)
        assert read.how in ("upload", "url", "part")
        assert all(re.fullmatch(r"[a-z]+/[a-z0-9.+*-]+", kind) for kind in read.types)
        assert read.max_bytes is None or read.max_bytes > 0
