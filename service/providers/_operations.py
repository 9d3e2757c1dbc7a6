"""An operation: one row of a provider's table, what its input must be, what it costs where that is documented."""

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import fastjsonschema
import msgspec

from service.errors import Invalid
from service.facts import Cost
from service.providers._reading import path_parts
from service.states import Json, Record

JOB_BYTES = 1024 * 1024
FILE_PREFIX = "file_"
QUICK_SETTLE_S = 120.0


class PollProfile(Record, frozen=True, kw_only=True):
    """Seconds. `late_s` is the first read of a job whose provider calls back."""

    first_s: float
    every_s: float
    late_s: float
    cap_s: float  # the slowest pace
    longest_s: float  # the longest that the operation is known to take

    def quick(self) -> "PollProfile":
        """The profile against a sandbox, whose jobs take seconds."""
        return PollProfile(first_s=0.5, every_s=1.0, late_s=5.0, cap_s=3.0, longest_s=10.0)


class FileRule(Record, frozen=True, kw_only=True):
    """`x-file` of a field: that a `file_...` may stand there, of which kinds and size.

    `how`: `upload` to the provider first (its file does it), or `url`, a signed URL of ours; `part` is a file that
    the submit itself carries in a form.
    """

    how: str
    types: tuple[str, ...] = ()  # media types; () is any
    max_bytes: int | None = None
    as_: str = msgspec.field(default="", name="as")  # the provider's word for what is uploaded: image, media


class FileUse(Record, frozen=True, kw_only=True):
    """One `file_...` in a job's input: where it stands, and the rule of its field."""

    path: tuple[str | int, ...]
    file: str
    rule: FileRule


class Operation(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One row of a provider's operation table (a JSON file beside the provider's own)."""

    name: str
    summary: str
    path: str  # on the provider's own host; `{field}` stands for a field of the input
    input_schema: Json  # JSON Schema draft-07; fields not named in it pass through
    poll: PollProfile
    deadline_s: int
    settled_by: str  # same_key | lookup | token | person
    method: str = "POST"
    settle_s: float = 0.0  # how long the automatic ways are tried
    submit_s: float = 60.0  # how long a reply to the submit is waited for; less than its lease
    settle_pause_s: float = 30.0  # the slowest pace of the automatic ways
    max_body: int = JOB_BYTES  # of the whole request for a job
    callback: bool = False
    cancel: bool = False
    immediate: bool = False  # the reply to the submit is the result
    output: str = "video"  # video, image, audio, subtitle, gif, frames, mask, model_3d, text
    quote: str = ""  # "formula", "provider", or empty: no price is known before the work
    cost: Json | None = None  # see `price`
    cost_by_read: bool = False  # what it cost is told by a read of its end, not by its callback
    tier: str = ""  # the least tier that the provider's documents name for it
    source: str = ""  # where its facts were read

    def quick(self) -> "Operation":
        """The operation against a sandbox, whose jobs take seconds: a lost submit is settled within 30 s."""
        return msgspec.structs.replace(
            self, poll=self.poll.quick(), submit_s=8.0, settle_pause_s=3.0, settle_s=min(self.settle_s, QUICK_SETTLE_S)
        )

    @cached_property
    def _check(self) -> Any:
        return fastjsonschema.compile(self.input_schema, use_default=False)

    def validate(self, given: Json) -> None:
        """Raise `Invalid` that names the field of `input` and the remedy; fields not in the table pass.

        A `file_...` in a field with `x-file` is valid here: what it names is checked where files are known.
        """
        try:
            self._check(self._without_files(given))
        except fastjsonschema.JsonSchemaValueException as refused:
            raise _invalid(self, refused) from None

    def files(self, given: Json) -> list[FileUse]:
        """Every `file_...` of the input in a field that takes files."""
        return list(_uses(self.input_schema, given, ()))

    def price(self, given: Json) -> Cost | None:
        """The documented price of this input: `cost` is `{"unit", "known": [{"when": {field: value}, "amount"}],
        "unless_given": [field]}`; None where no row's `when` all holds.
        """
        table = self.cost or {}
        if any(given.get(field) is not None for field in table.get("unless_given", ())):
            return None
        for row in table.get("known", ()):
            if all(given.get(field) == value for field, value in row["when"].items()):
                return Cost(amount=str(row["amount"]), unit=table["unit"], source="quoted")
        return None

    def _without_files(self, given: Json) -> Json:
        for use in self.files(given):
            given = put(given, use.path, _stand_in(_schema_at(self.input_schema, use.path)))
        return given


def operation_table(beside: str, name: str) -> dict[str, Operation]:
    """Read `<name>.json` beside the file `beside`: `{operation: row}`.

    A member `$defs` names what several rows share: `{"$ref": "#/$defs/x", ...}` becomes it, with its own members over.
    """
    rows = json.loads(Path(beside).with_name(f"{name}.json").read_bytes())
    shared = rows.pop("$defs", {})
    return {key: msgspec.convert({"name": key, **_spelt(row, shared)}, Operation) for key, row in rows.items()}


def _spelt(value: Any, shared: Json) -> Any:
    """The value with every reference replaced, so that each schema stands by itself."""
    if isinstance(value, list):
        return [_spelt(item, shared) for item in value]
    if not isinstance(value, dict):
        return value
    meant = _spelt(shared[value["$ref"].removeprefix("#/$defs/")], shared) if "$ref" in value else {}
    return {**meant, **{name: _spelt(inner, shared) for name, inner in value.items() if name != "$ref"}}


def matching(operations: Mapping[str, Operation], method: str, path: str) -> Iterator[tuple[Operation, dict[str, str]]]:
    """The rows that a request to the provider's own API fits, each with what the path says for its `{field}`s."""
    parts = path_parts(path)
    for operation in operations.values():
        pattern = path_parts(operation.path)
        if operation.method == method and len(pattern) == len(parts):
            pairs = list(zip(pattern, parts, strict=True))
            if all(_is_field(want) or want == part for want, part in pairs):
                yield operation, {want[1:-1]: part for want, part in pairs if _is_field(want)}


def _is_field(part: str) -> bool:
    return part.startswith("{") and part.endswith("}")


def put(given: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """A copy of a JSON value with `value` at `path`."""
    if not path:
        return value
    copy: Any = list(given) if isinstance(given, list) else dict(given)
    copy[path[0]] = put(given[path[0]], path[1:], value)
    return copy


def _uses(schema: Any, value: Any, path: tuple[str | int, ...]) -> Iterator[FileUse]:
    if not isinstance(schema, dict):
        return
    if isinstance(value, str) and value.startswith(FILE_PREFIX) and "x-file" in schema:
        yield FileUse(path=path, file=value, rule=msgspec.convert(schema["x-file"], FileRule))
    elif isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from _uses(inner, value[name], (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _uses(schema.get("items"), item, (*path, index))


def _schema_at(schema: Any, path: tuple[str | int, ...]) -> Json:
    for step in path:
        schema = schema["items"] if isinstance(step, int) else schema["properties"][step]
    found: Json = schema
    return found


def _stand_in(schema: Json) -> Any:
    """A value that the field's own rule takes in place of a file."""
    kinds = schema.get("type")
    if kinds == "integer" or (isinstance(kinds, list) and "integer" in kinds):
        return max(1, schema.get("minimum", 1))
    return "https://files.invalid/" + "x" * schema.get("minLength", 1)


def _invalid(operation: Operation, refused: fastjsonschema.JsonSchemaValueException) -> Invalid:
    path = [str(step) for step in refused.path[1:]]
    if refused.rule == "required":
        missing = next((name for name in refused.rule_definition if name not in refused.value), None)
        path += [missing] if missing else []
    param = ".".join(["input", *path])
    explained = refused.definition.get("x-remedy") if isinstance(refused.definition, dict) else None
    said = explained or refused.message.replace("data", "input", 1)
    return Invalid(
        f"{said}. GET /v1/providers/{{provider}}/operations shows what `{operation.name}` takes.", param=param
    )
