"""What a provider's file must offer, and how it is found.

A provider translates and does no I/O. Each outgoing verb is a generator: it yields a `Request`, is sent the
`Reply`, may yield more, and returns a verdict. Adding one = one file here, its operation table beside it.
"""

import importlib
import json
import pkgutil
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from service.errors import BadRequest, CallsheetError, Invalid, SignatureRefused
from service.facts import Cost, LookupVerdict, NotFound, NotNow, Output, StatusVerdict, SubmitVerdict, Update
from service.providers._operations import FileRule, FileUse, Operation, PollProfile, matching, operation_table, put
from service.providers._reading import read_json, read_object
from service.states import Json, Record

__all__ = [
    "Asking", "Call", "Documented", "FileRef", "FileRule", "FileUse", "Form", "HistoryRow", "Looking", "Operation",
    "PollProfile", "Provider", "ReadCallback", "Recognised", "Reply", "Request", "Submitting", "UnknownProvider",
    "documented", "load", "matching", "names", "operation_table", "put", "read_json", "read_object",
]  # fmt: skip


class Form(Record, frozen=True, kw_only=True):
    """A multipart/form-data body: files of ours, streamed, and plain fields."""

    files: tuple[tuple[str, str], ...]  # (form field, file_...)
    fields: Mapping[str, str] = {}


class Request(Record, frozen=True, kw_only=True):
    """One HTTP request to the provider. `url` is absolute; `charges` marks the one that costs money."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes = b""
    form: Form | None = None  # in place of `body`
    charges: bool = False
    for_secret: bool = False  # it asks for a secret of ours, which its reply may tell
    keep: Json | None = None  # with `charges`: what earlier steps gave, committed before it; `Call.kept` of a repeat
    optional: bool = False  # the verb goes on without a reply: it is sent one of status 0


class Reply(Record, frozen=True, kw_only=True):
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class FileRef(Record, frozen=True, kw_only=True):
    """A file of ours that the input names."""

    id: str
    name: str
    content_type: str
    size: int  # bytes
    url: str | None = None  # where the provider can fetch it; None where it cannot reach us


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
    files: Mapping[str, FileRef] = {}  # those that the input names, by id
    passthrough: bool = False  # the submit had the caller's own bytes: nothing of ours was added to its body
    kept: Json | None = None  # `Request.keep` of the POST that this one repeats
    account: Json | None = None  # what `account` said of this credential lately


class ReadCallback(Record, frozen=True, kw_only=True):
    """What a callback's body means, whoever sent it."""

    provider_job_id: str
    update: Update
    dedupe_key: str
    also: tuple[str, ...] = ()  # other ids by which the body names the same work


class HistoryRow(Record, frozen=True, kw_only=True):
    """One piece of work in the provider's own books."""

    provider_job_id: str
    at: int | None = None  # milliseconds
    operation: str | None = None
    correlation: str | None = None  # what the submit carried of ours
    update: Update | None = None
    cost: Cost | None = None
    about: Json | None = None  # model, prompt, seed: what tells it from others


class Recognised(Record, frozen=True, kw_only=True):
    """What a request to the provider's own API is, for passthrough."""

    kind: str  # submit | status | account | plain
    operation: str = ""
    input: Json | None = None
    provider_job_ids: tuple[str, ...] = ()
    correlation: str | None = None  # of the caller's own choice


class Documented(Record, frozen=True, kw_only=True):
    """A catalog as the documents list it, on that date."""

    as_of: str
    data: tuple[Json, ...]


Submitting = Generator[Request, Reply, SubmitVerdict]
Asking = Generator[Request, Reply, StatusVerdict]
Looking = Generator[Request, Reply, LookupVerdict]


class Provider(Protocol):
    """One provider: a class that derives from this one. Attributes are facts of its documents; methods translate.

    `submit`, `status` and `check` every provider has; the rest is here as for one that cannot do it.
    """

    name: str
    title: str
    base_url: str
    operations: Mapping[str, Operation]
    unit: str = "credits"  # of its money
    free_if_failed: bool = False  # its documents say that what it fails is not charged
    key_header: tuple[str, str] = ("Authorization", "Bearer ")  # where its API key stands, and what goes before it
    # -- callbacks
    callback_signed: bool = False  # True: a right signature proves the body
    callback_per_account: bool = False  # the URL is registered once per account, not given per submit
    callback_keys: str = "credential"  # whose: `credential` (settings), `account` or `provider` (fetched by `keys`)
    callback_https_only: bool = False  # it refuses a submit that names another URL
    callback_max_bytes: int = 65_536
    callback_reply: tuple[int, str, bytes] = (200, "text/plain", b"ok")  # "kept, send no more"
    # -- the rest
    catalogs: Mapping[str, Documented] = {}  # kind -> what the documents list
    live_catalogs: tuple[str, ...] = ()  # kinds that no document lists, and `catalog` does
    other_origins: frozenset[str] = frozenset()  # beside that of `base_url`, to which its key goes, too
    submit_status: int = 200  # of the reply to an accepted submit
    url_fields: frozenset[str] = frozenset()  # JSON fields whose URLs are API calls, rewritten by passthrough
    reads_history: bool = False  # `history` gives rows: `reconcile` works
    correlation_header: str | None = None  # it carries `Call.correlation`, and a passthrough caller's own

    def submit(self, call: Call) -> Submitting: ...
    def status(self, call: Call, provider_job_id: str) -> Asking: ...
    def check(self, call: Call) -> Generator[Request, Reply, str]:
        """One free call that proves the key; returns a sentence, raises `Refusal` where it is not accepted."""
        ...

    def lookup(self, call: Call) -> Looking:
        """What became of a submit whose reply was lost."""
        verdict: LookupVerdict = NotFound(reason=f"{self.title} documents no list to look in: see its dashboard")
        yield from ()
        return verdict

    def submit_reply(self, call: Call) -> Json | list[Any] | None:
        """What the reply to an accepted submit says, made of the job's ids, for who repeats a submit by this API.

        In the shape of the documents, as soon after the submit; None if the reply is the result itself.
        """
        return None

    def cancel(self, call: Call, provider_job_id: str) -> Asking:
        """Ask for the end. An `Update` says what came of it; `processing` where the provider is yet to confirm."""
        verdict: StatusVerdict = NotNow(reason=f"{self.title} documents no cancel")
        yield from ()
        return verdict

    def price(self, call: Call) -> Cost | None:
        """The price of this input by the documents alone; None where they give none."""
        return self.operations[call.operation].price(call.input)

    def quote(self, call: Call) -> Generator[Request, Reply, Cost | None]:
        """The price of this input, by the provider's own call where it has one. Never a guess."""
        yield from ()
        return self.price(call)

    def balance(self, call: Call) -> Generator[Request, Reply, Json]:
        """`{"amount", "unit"}` and what the provider says beside it. Raises `Refusal`."""
        yield from ()
        raise Invalid(f"{self.title} documents no call for the balance: see its dashboard", code="no_balance")

    def account(self, call: Call) -> Generator[Request, Reply, Json | None]:
        """What the credential may use (its tier, its limits); None where the provider does not say."""
        yield from ()
        return None

    def allows(self, call: Call) -> None:
        """Raise `Invalid` (`param` is `input.<field>`) where the input cannot be accepted for a reason that no schema
        says: files, or what `call.account` forbids, naming the tier that allows it. Pure.
        """
        return None

    def follows(self, operation: str, provider_job_id: str) -> None:
        """Raise `Invalid` (`param` is `provider_job_id`) where work elsewhere cannot be followed by such an id."""
        return None

    def history(self, call: Call, since: int) -> Generator[Request, Reply, Sequence[HistoryRow]]:
        """All work that began at or after `since` (milliseconds), where the provider lists it. Raises `Unavailable`."""
        yield from ()
        return ()

    def catalog(self, call: Call, kind: str) -> Generator[Request, Reply, Sequence[Json] | None]:
        """The live list of models, voices, ...; None where there is only the documented one."""
        yield from ()
        return None

    def keys(self, call: Call) -> Generator[Request, Reply, Sequence[str]]:
        """What verifies its callbacks, where `callback_keys` is not `credential`. Raises `Unavailable`."""
        yield from ()
        return ()

    def verify_callback(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: int) -> bool:
        """True: authentic and fresh; False: authentic but old. `now` in seconds. Raises `SignatureRefused`."""
        raise SignatureRefused(f"{self.title} sends no callbacks")

    def read_callback(self, body: bytes) -> ReadCallback:
        """Raises `BadRequest` where the body is not in the provider's shape."""
        raise BadRequest(f"{self.title} sends no callbacks")

    def fetch(self, call: Call, output: Output) -> Request | None:
        """How to read an output that only the key opens; None where its URL serves whoever has it."""
        return None

    def share(self, call: Call, output: Output) -> Generator[Request, Reply, str | None]:
        """A URL of such an output that needs no key, where the provider makes one."""
        yield from ()
        return None

    def address(self, base_url: str, path: str) -> str:
        """Where a path of the provider's own API is; it begins with `/`, and may name another of its hosts."""
        return base_url + path

    def recognise(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Recognised:
        """What this request is to the provider's own API. `path` begins with `/`, `body` is empty for a form.

        As it is here it knows the submits of the operation table. Never raises.
        """
        for operation, named in matching(self.operations, method, path):
            return Recognised(kind="submit", operation=operation.name, input={**read_object(body), **named})
        return Recognised(kind="plain")


def documented(beside: str, name: str) -> dict[str, Documented]:
    """Read `<name>.catalog.json` beside the file `beside`: `{kind: {"as_of", "data"}}`."""
    kinds = json.loads(Path(beside).with_name(f"{name}.catalog.json").read_bytes())
    return msgspec.convert(kinds, dict[str, Documented])


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
