"""What a provider's file must offer, and how it is found.

A provider translates and does no I/O. Each outgoing verb is a generator: it yields a `Request`, is sent the
`Reply`, may yield more, and returns a verdict. Adding one = one file here, its operation table beside it.
"""

import importlib
import json
import pkgutil
import re
from collections.abc import Generator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import fastjsonschema
import msgspec

from service.errors import CallsheetError, Invalid
from service.facts import LookupVerdict, StatusVerdict, SubmitVerdict, Update
from service.states import Json, Record


class Request(Record, frozen=True, kw_only=True):
    """One HTTP request to the provider. `url` is absolute; `charges` marks the one that costs money."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes = b""
    charges: bool = False


class Reply(Record, frozen=True, kw_only=True):
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class Call(Record, frozen=True, kw_only=True):
    """What a verb may know of the job and the credential that it works for."""

    operation: str
    input: Json
    api_key: str
    base_url: str  # origin and optional prefix, no trailing slash
    correlation: str = ""  # unique per intent: the same for every repeat of one submit
    provider_job_ids: tuple[str, ...] = ()
    callback_url: str | None = None  # per job; None: nothing of ours can be called
    callback_id: str | None = None  # where the provider's dashboard holds the URL
    submitted_at: int | None = None  # milliseconds: when the first POST was about to leave
    now: int = 0
    repeat: bool = False  # an earlier POST of this intent may have been accepted
    provider_data: Json | None = None  # what the provider said at the submit beyond our fields
    options: Mapping[str, str] = {}  # CALLSHEET_<PROVIDER>_* beyond the common ones


class ReadCallback(Record, frozen=True, kw_only=True):
    """What a callback's body means, whoever sent it."""

    provider_job_id: str
    update: Update
    dedupe_key: str


Submitting = Generator[Request, Reply, SubmitVerdict]
Asking = Generator[Request, Reply, StatusVerdict]
Looking = Generator[Request, Reply, LookupVerdict]


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


class Operation(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One row of a provider's operation table (a JSON file beside the provider's own)."""

    name: str
    summary: str
    path: str  # on the provider's own host
    input_schema: Json  # JSON Schema draft-07; fields not named in it pass through
    poll: PollProfile
    deadline_s: int
    settled_by: str  # same_key | lookup | token | person
    settle_s: float = 0.0  # how long the automatic ways are tried
    submit_s: float = 60.0  # how long a reply to the submit is waited for; less than its lease
    settle_pause_s: float = 30.0  # the slowest pace of the automatic ways
    callback: bool = False
    cancel: bool = False
    output: str = "video"
    cost: Json | None = None
    source: str = ""  # where its facts were read

    def quick(self) -> "Operation":
        """The operation against a sandbox, whose jobs take seconds: a lost submit is settled within 30 s."""
        return msgspec.structs.replace(self, poll=self.poll.quick(), submit_s=8.0, settle_pause_s=3.0)

    @cached_property
    def _check(self) -> Any:
        return fastjsonschema.compile(self.input_schema, use_default=False)

    def validate(self, given: Json) -> None:
        """Raise `Invalid` that names the field of `input` and the remedy; fields not in the table pass."""
        try:
            self._check(given)
        except fastjsonschema.JsonSchemaValueException as refused:
            raise _invalid(self, refused) from None


def _invalid(operation: Operation, refused: fastjsonschema.JsonSchemaValueException) -> Invalid:
    path = [str(step) for step in refused.path[1:]]
    if refused.rule == "required":
        missing = next((name for name in refused.rule_definition if name not in refused.value), None)
        path += [missing] if missing else []
    param = ".".join(["input", *path])
    explained = refused.definition.get("x-remedy") if isinstance(refused.definition, dict) else None
    said = explained or refused.message.replace("data", "input", 1)
    return Invalid(f"{said}. See GET /v1/providers for what `{operation.name}` takes.", param=param)


class Provider(Protocol):
    """One provider. Attributes are facts of its documents; methods translate."""

    name: str
    title: str
    base_url: str
    operations: Mapping[str, Operation]
    callback_signed: bool  # True: a right signature proves the body
    callback_per_account: bool  # the URL is registered once per account, not given per submit
    callback_max_bytes: int
    callback_reply: tuple[int, str, bytes]  # status, content type, body: "kept, send no more"

    def submit(self, call: Call) -> Submitting: ...
    def status(self, call: Call, provider_job_id: str) -> Asking: ...
    def lookup(self, call: Call) -> Looking: ...
    def check(self, call: Call) -> Generator[Request, Reply, str]:
        """One free call that proves the key; returns a sentence, raises `Refusal` where it is not accepted."""

    def verify_callback(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: int) -> bool:
        """True: authentic and fresh; False: authentic but old. `now` in seconds. Raises `SignatureRefused`."""

    def read_callback(self, body: bytes) -> ReadCallback:
        """Raises `BadRequest` where the body is not in the provider's shape."""


class UnknownProvider(CallsheetError):
    pass


def names() -> list[str]:
    """Every provider that has a file here."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> Provider:
    """The provider of that name, or of a dotted module path. Raises `UnknownProvider` naming those there are."""
    if "." not in name and name not in names():
        raise UnknownProvider(f"there is no provider {name!r}; there are: {', '.join(names())}")
    module = importlib.import_module(name if "." in name else f"{__name__}.{name}")
    provider: Provider = module.provider
    return provider


def operation_table(beside: str, name: str) -> dict[str, Operation]:
    """Read `<name>.json` beside the file `beside`: `{operation: row}`."""
    rows = json.loads(Path(beside).with_name(f"{name}.json").read_bytes())
    return {key: msgspec.convert({"name": key, **row}, Operation) for key, row in rows.items()}


def read_json(body: bytes) -> Any:
    """The decoded body, or None where it is not JSON in UTF-8. Integers keep all their digits.

    Halves of surrogate pairs (a prompt cut inside an emoji) become U+FFFD: a reply must not be lost for one.
    """
    try:
        text = body.decode()
        if "\\ud" in text or "\\uD" in text:
            text = _ESCAPES.sub(_without_half, text)
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# A whole pair, a half of one, or any other escape: read in this order, so that `\\ud83d` in a text stays what it is.
_ESCAPES = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\.", re.S
)


def _without_half(escape: re.Match[str]) -> str:
    text = escape[0]
    return "\\ufffd" if len(text) == 6 and text[1] == "u" and text[2] in "dD" else text
