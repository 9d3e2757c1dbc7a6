"""The providers under test, their recorded cases, and how a verb is run against recorded or invented replies.

Without `PROVIDERS_PATH` these are the files of `service/providers/`, each with its cases in the folder of its
name beside this file. With it they are the files of that folder, whose cases are in its `cases/`.
"""

import importlib
import json
import os
import pkgutil
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from service import errors, providers
from service.facts import Output
from service.providers import Call, Provider, Reply, Request

HERE = Path(__file__).parent
ELSEWHERE = os.environ.get("PROVIDERS_PATH")
if ELSEWHERE:
    providers.__path__.append(ELSEWHERE)  # found and loaded from there as if they were beside the others
NAMES = [
    name
    for name in providers.names()
    if not ELSEWHERE or name in {module.name for module in pkgutil.iter_modules([ELSEWHERE])}
]
CALL = {
    "operation": "",
    "input": {},
    "api_key": "test-key",
    "correlation": "7c1d6f5e-0a4b-4c3d-9e2f-1a2b3c4d5e6f",
    "now": 1_800_000_000_000,
    "submitted_at": 1_800_000_000_000,
}
MAX_REQUESTS = 200
Json = dict[str, Any]
Steps = Generator[Request, Reply, Any]


def cases_folder(name: str) -> Path:
    return Path(ELSEWHERE) / "cases" if ELSEWHERE else HERE / name


@cache
def cases_of(name: str) -> list[Json]:
    files = sorted(cases_folder(name).glob("*.json"))
    return [{"provider": name, **case} for file in files for case in json.loads(file.read_bytes())]


CASES = [case for name in NAMES for case in cases_of(name)]


def source_files(name: str) -> list[Path]:
    """The provider's own file, and those that it was split into: `_<name>_....py`."""
    own = Path(importlib.import_module(f"service.providers.{name}").__file__ or "")
    return [own, *sorted(own.parent.glob(f"_{name}*.py"))]


def overrides(provider: Provider, verb: str) -> bool:
    return getattr(type(provider), verb) is not getattr(Provider, verb)


# -- calls ----------------------------------------------------------------------------------------


def a_call(provider: Provider, given: Json) -> Call:
    """The call of a case, with what it leaves out filled in."""
    fields = {name: value for name, value in given.items() if name in Call.__struct_fields__}
    return msgspec.convert({**CALL, "base_url": provider.base_url, **fields}, Call)


def accepted_calls(name: str, operation: str) -> list[Json]:
    """The recorded submits of an operation that the provider took."""
    recorded = [case for case in cases_of(name) if case["verb"] == "submit"]
    taken = [case["call"] for case in recorded if case["expect"].get("type") in ("Accepted", "Done")]
    return [call for call in taken if call["operation"] == operation]


@cache
def example_call(name: str, operation: str) -> Json:
    """A call with an input that the operation takes: recorded, else the schema's example, else made from the schema."""
    schema = providers.load(name).operations[operation].input_schema
    recorded = sorted(accepted_calls(name, operation), key=lambda call: "files" in call)  # rather one without files
    if recorded:
        return {field: value for field, value in recorded[0].items() if field not in ("repeat", "kept")}
    given = schema["examples"][0] if schema.get("examples") else made_from(schema)
    return {"operation": operation, "input": given}


def made_from(schema: Json) -> Any:
    """The plainest value that a schema's own rules take; what rules between fields ask for is in its `examples`."""
    if "examples" in schema:
        return schema["examples"][0]
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: made_from(schema["properties"][name]) for name in schema.get("required", ())}
    if kind == "array":
        return [made_from(schema.get("items", {"type": "string"})) for _ in range(schema.get("minItems", 1))]
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    return {"boolean": True, "null": None}.get(kind, "x" * max(1, schema.get("minLength", 1)))


def file_rules(schema: Any) -> list[Json]:
    """Every `x-file` in a schema."""
    if isinstance(schema, list):
        return [rule for inner in schema for rule in file_rules(inner)]
    if not isinstance(schema, dict):
        return []
    own = [schema["x-file"]] if "x-file" in schema else []
    return own + [rule for name, inner in schema.items() if name != "x-file" for rule in file_rules(inner)]


# -- verbs ----------------------------------------------------------------------------------------

Start = Callable[[Provider, Call, Json], Steps]
GENERATORS: dict[str, Start] = {
    "submit": lambda provider, call, given: provider.submit(call),
    "status": lambda provider, call, given: provider.status(call, given["provider_job_id"]),
    "check": lambda provider, call, given: provider.check(call),
    "lookup": lambda provider, call, given: provider.lookup(call),
    "cancel": lambda provider, call, given: provider.cancel(call, given["provider_job_id"]),
    "quote": lambda provider, call, given: provider.quote(call),
    "balance": lambda provider, call, given: provider.balance(call),
    "account": lambda provider, call, given: provider.account(call),
    "history": lambda provider, call, given: provider.history(call, given["since"]),
    "catalog": lambda provider, call, given: provider.catalog(call, given["kind"]),
    "keys": lambda provider, call, given: provider.keys(call),
    "share": lambda provider, call, given: provider.share(call, an_output(given)),
}
PURE: dict[str, Callable[[Provider, Json], Any]] = {
    "allows": lambda provider, given: provider.allows(a_call(provider, given)),
    "price": lambda provider, given: provider.price(a_call(provider, given)),
    "fetch": lambda provider, given: provider.fetch(a_call(provider, given), an_output(given)),
    "recognise": lambda provider, given: provider.recognise(
        given["method"], given["path"], given.get("query", {}), body_of(given)
    ),
    "verify_callback": lambda provider, given: provider.verify_callback(
        given["headers"], body_of(given), given["secrets"], given["now"]
    ),
    "read_callback": lambda provider, given: provider.read_callback(body_of(given)),
}


def an_output(given: Json) -> Output:
    return msgspec.convert(given["output"], Output)


def body_of(recorded: Json) -> bytes:
    """A body that is a text is taken as it is: literal samples stay literal."""
    body = recorded.get("body", "")
    return (body if isinstance(body, str) else json.dumps(body)).encode()


def a_reply(recorded: Json) -> Reply:
    return Reply(status=recorded["status"], headers=recorded.get("headers", {}), body=body_of(recorded))


def steps_of(provider: Provider, verb: str, given: Json) -> Steps:
    return GENERATORS[verb](provider, a_call(provider, given), given)


def drive(steps: Steps, answer: Callable[[Request], Reply]) -> tuple[Any, list[Request]]:
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


def replay(provider: Provider, case: Json, check: Callable[[Request, Json], None] | None = None, **more: Any) -> Any:
    """Run a recorded case against its own replies: (what came of it, the requests). `more` changes its call."""
    exchange = iter(case.get("exchange", []))

    def answer(request: Request) -> Reply:
        recorded = next(exchange, None)
        assert recorded is not None, f"{request.method} {request.url} is not in the exchange"
        if check is not None:
            check(request, recorded.get("request", {}))
        return a_reply(recorded["reply"])

    found = drive(steps_of(provider, case["verb"], {**case["call"], **more}), answer)
    assert next(exchange, None) is None, "not all of the exchange was asked"
    return found


# -- what came of it, as JSON ---------------------------------------------------------------------


def outcome(provider: Provider, case: Json, check: Callable[[Request, Json], None]) -> Json:
    """What a case came to, in the notation of `expect`."""
    try:
        if case["verb"] in PURE:
            return described(PURE[case["verb"]](provider, case["call"]))
        return described(replay(provider, case, check)[0])
    except errors.CallsheetError as raised:
        assert "raises" in case["expect"], f"raised {raised!r}"
        said = {name: getattr(raised, name, None) for name in ("param", "code", "detail")}
        return {"raises": type(raised).__name__, **said}


def described(found: Any) -> Json:
    if found is None:
        return {"type": "None"}
    if isinstance(found, bool):
        return {"type": "bool", "is": found}
    if isinstance(found, str):
        return {"type": "text", "contains": found}
    said = msgspec.to_builtins(found)
    if isinstance(said, list):
        return {"type": "list", "data": said}
    return {"type": "object" if isinstance(found, dict) else type(found).__name__, **said}
