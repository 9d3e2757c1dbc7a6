"""The words of the product as records: what crosses the wire or the store is one of these.

Times are milliseconds since 1970 UTC (`int`); durations are seconds (`float`); money is decimal text.
"""

import base64
import secrets
from enum import StrEnum
from typing import Any, dataclass_transform

import msgspec

Json = dict[str, Any]
DEFAULT_TENANT = "default"


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable record; `msgspec.structs.replace` makes a changed copy."""


# -- states ---------------------------------------------------------------------------------------


class JobStatus(StrEnum):
    QUEUED = "queued"  # durable here, not sent
    SUBMITTING = "submitting"  # a POST may have left; its outcome is being learned
    PROCESSING = "processing"  # the provider accepted it: an id is known
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    UNKNOWN = "unknown"  # no automatic way is left to learn whether it was accepted


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED})


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"  # the schedule is used up; it can be resent
    CANCELED = "canceled"  # the endpoint is gone, or a newer event made it pointless
    HELD = "held"  # the endpoint is paused or disabled


class EndpointStatus(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"
    DISABLED = "disabled"


class ErrorCode(StrEnum):
    INVALID_INPUT = "invalid_input"
    CONTENT_MODERATED = "content_moderated"
    AUTHENTICATION = "authentication"
    OUT_OF_CREDIT = "out_of_credit"
    CAPACITY = "capacity"
    PROVIDER_ERROR = "provider_error"
    NOT_ACCEPTED = "not_accepted"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELED = "canceled"
    OVER_BUDGET = "over_budget"
    RESULT_EXPIRED = "result_expired"


class Source(StrEnum):
    """How a fact about a job reached us."""

    SUBMIT = "submit"
    CALLBACK = "callback"
    POLL = "poll"
    CLIENT = "client"
    CLOCK = "clock"


class CallbackVerdict(StrEnum):
    VERIFIED = "verified"
    HINT = "hint"  # not proof: the status is read back with our own key first
    DUPLICATE = "duplicate"
    REJECTED = "rejected"


class Work(StrEnum):
    """What a job's `due_at` is due for."""

    SUBMIT = "submit"  # queued: send it
    SETTLE = "settle"  # submitting: learn the outcome of the POST
    POLL = "poll"  # accepted: ask the provider


# -- what a provider says, in our words -----------------------------------------------------------


class Output(Record, frozen=True, kw_only=True):
    url: str  # as the provider gave it; never fetched or refused on arrival
    kind: str = "video"
    file_name: str | None = None
    content_type: str | None = None
    bytes: int | None = None
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    expires_at: int | None = None


class JobError(Record, frozen=True, kw_only=True):
    code: ErrorCode
    message: str
    retryable: bool = False
    provider_code: str | None = None
    provider_message: str | None = None


class Cost(Record, frozen=True, kw_only=True):
    amount: str  # decimal text in the provider's own unit
    unit: str
    source: str  # "quoted" before the work, "reported" by the provider


class Update(Record, frozen=True, kw_only=True):
    """What a callback or a poll means. `status` is processing, succeeded, failed or canceled."""

    status: JobStatus
    outputs: tuple[Output, ...] = ()
    error: JobError | None = None
    progress: float | None = None  # 0..1
    queue_position: int | None = None
    cost: Cost | None = None
    provider_status: str | None = None  # the provider's own word
    provider_data: Json | None = None  # what it says beyond our fields; the raw reply when terminal


class Accepted(Record, frozen=True, kw_only=True):
    """The provider took the submit: these are its ids, one or more."""

    provider_job_ids: tuple[str, ...]
    cost: Cost | None = None
    provider_data: Json | None = None
    note: str | None = None


class Done(Record, frozen=True, kw_only=True):
    """The reply already is the result; `provider_job_ids` where the provider named any."""

    update: Update
    provider_job_ids: tuple[str, ...] = ()


class Refused(Record, frozen=True, kw_only=True):
    """Certainly not accepted, and repeating it would not help."""

    error: JobError


class NotNow(Record, frozen=True, kw_only=True):
    """Certainly not accepted or not answered; try again.

    `at_most`: how many repeats the provider's documents allow for this answer; None is no limit.
    """

    reason: str
    after_s: float | None = None
    at_most: int | None = None
    error: JobError | None = None  # what it fails with once `at_most` is used up


class NotFound(Record, frozen=True, kw_only=True):
    """The provider does not know the id, or a look-up found no row of ours."""

    reason: str
    conclusive: bool = False  # the list is documented to show every accepted job and was read back far enough


class Unknown(Record, frozen=True, kw_only=True):
    """It may have been accepted: the reply was lost, broken, or not in the provider's shape."""

    reason: str


SubmitVerdict = Accepted | Done | Refused | NotNow | Unknown
StatusVerdict = Update | NotFound | NotNow
LookupVerdict = Accepted | Done | NotFound | NotNow


# -- what moves a job -----------------------------------------------------------------------------


class Begin(Record, frozen=True, kw_only=True):
    """The submit's POST starts now. `told`: for the timeline, how its end will reach us."""

    called_back: bool = False
    told: str | None = None


class Recover(Record, frozen=True, kw_only=True):
    """The process that was submitting is gone, or lost its lease."""


class CancelAsked(Record, frozen=True, kw_only=True):
    supported: bool


class DeadlinePassed(Record, frozen=True, kw_only=True):
    """The deadline is over and the last read changed nothing."""


class Resolve(Record, frozen=True, kw_only=True):
    """A person says what became of an unknown submit."""

    action: str  # adopt | fail | resubmit
    provider_job_id: str | None = None
    correlation: str | None = None  # of the new intent that a resubmit is


class Hint(Record, frozen=True, kw_only=True):
    """Somebody, unproven, says that something changed: look at once."""


class Clash(Record, frozen=True, kw_only=True):
    """The provider's id is already bound to another job of this credential."""

    provider_job_id: str
    other_job: str


Fact = (
    Update | Accepted | Done | Refused | NotNow | NotFound | Unknown
    | Begin | Recover | CancelAsked | DeadlinePassed | Resolve | Hint | Clash
)  # fmt: skip


class RawCallback(Record, frozen=True, kw_only=True):
    """A callback as it came, for the timeline and the operator."""

    provider: str
    received_at: int
    verdict: CallbackVerdict
    reason: str | None = None
    body: bytes = b""


class Arrival(Record, frozen=True, kw_only=True):
    """One fact about one job, named by our number or by (credential, provider job id)."""

    fact: Fact
    source: Source
    job: int | None = None
    credential: int | None = None
    provider_job_id: str | None = None
    lease: int | None = None  # given: it applies only while this lease is the job's
    dedupe_key: str | None = None
    callback: RawCallback | None = None


# -- rows -----------------------------------------------------------------------------------------


class Part(Record, frozen=True, kw_only=True):
    """One provider id of a job and the last that we heard of it."""

    provider_job_id: str
    update: Update | None = None


class Detail(Record, frozen=True, kw_only=True):
    """A job's colder half: kept as one JSON value beside the narrow row that the loops scan."""

    parts: tuple[Part, ...] = ()
    progress: float | None = None
    queue_position: int | None = None
    outputs: tuple[Output, ...] = ()
    error: JobError | None = None
    cost: Cost | None = None
    provider_data: Json | None = None
    late: Update | None = None  # what a job yielded after it was terminal
    callback_token_base: str | None = None  # the public URL that the provider was, or will be, told
    callback_url: bytes | None = None  # sealed; the client's own
    callback_secret: bytes | None = None  # sealed
    callback_origin: str | None = None  # what of it may be shown
    callback_lane: int = 0
    traceparent: str | None = None
    called_back: bool = False  # the provider was given a URL or an id to call
    progress_at: int | None = None  # when the last job.progress was published
    retries: int = 0  # consecutive answers that the provider's documents limit


class Job(Record, frozen=True, kw_only=True):
    num: int
    id: str
    tenant: int
    provider: str
    operation: str
    credential: int
    status: JobStatus
    reason: str | None
    version: int
    sequence: int
    work: Work | None
    due_at: int | None
    lease: int | None
    tries: int  # consecutive reads or submits without news; drives the back-off
    polls: int  # reads that changed nothing
    first_poll_at: int | None
    last_poll_at: int | None
    created_at: int
    updated_at: int
    submitted_at: int | None  # when the first POST of this submit was about to leave
    accepted_at: int | None
    finished_at: int | None
    deadline_at: int | None
    cancel_requested_at: int | None
    correlation: str  # our id in the provider's books: trace id, request id
    followed: bool
    metadata: dict[str, str]
    detail: Detail

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def provider_job_ids(self) -> tuple[str, ...]:
        return tuple(part.provider_job_id for part in self.detail.parts)


class NewJob(Record, frozen=True, kw_only=True):
    """A job to be kept: queued, or already processing where it follows one submitted elsewhere."""

    job: Job
    input: bytes  # JSON as received
    idempotency_key: str | None
    fingerprint: bytes
    announcements: tuple["Announcement", ...] = ()


class Credential(Record, frozen=True, kw_only=True):
    """A tenant's key for a provider, opened. Never logged: see `Secret` in crypto."""

    num: int
    tenant: int
    provider: str
    source: str  # environment | sandbox | api
    api_key: str
    base_url: str
    callback_secret: str | None = None
    callback_id: str | None = None


class CredentialRow(Record, frozen=True, kw_only=True):
    num: int
    tenant: int
    provider: str
    source: str
    sealed: bytes


class Endpoint(Record, frozen=True, kw_only=True):
    num: int
    id: str
    tenant: int
    status: EndpointStatus
    disabled_reason: str | None
    target: bytes  # sealed {url, headers}
    secrets: bytes  # sealed [{secret, until}], newest first
    event_types: tuple[str, ...]  # () is all but job.progress
    filter: dict[str, str | int | float | bool]
    format: str = "standard"
    signature: str = "v1"
    rate: float | None = None  # attempts a second
    timeout_s: float | None = None
    description: str | None = None
    version: int = 1
    deleted: bool = False
    created_at: int
    updated_at: int


class Announcement(Record, frozen=True, kw_only=True):
    """An event to be published: the store finds its number, the plan its targets."""

    type: str
    body: bytes
    data: Json  # what filters look at
    once: str | None = None  # at most one event of a job carries this mark
    about_endpoint: int | None = None  # never delivered to the endpoint that it is about
    only_if_wanted: bool = False  # not kept where nobody asked for it
    supersedes_progress: bool = False


class Target(Record, frozen=True, kw_only=True):
    """One delivery that an event owes. `endpoint` 0 is the job's callback_url, -1 the operator's URL."""

    endpoint: int
    lane: int  # what shares a concurrency limit and a circuit
    held: bool = False
    leased: bool = False  # a sender on this node has a free slot for it now


class Event(Record, frozen=True, kw_only=True):
    num: int
    id: str
    tenant: int
    job: str | None
    type: str
    created_at: int
    body: bytes


class DueDelivery(Record, frozen=True, kw_only=True):
    """A delivery with all that one attempt needs, claimed by or born with a lease."""

    num: int
    tenant: int
    event_id: str
    event_type: str
    body: bytes
    endpoint: int
    lane: int
    lease: int
    lease_ends: float  # on the monotonic clock
    attempts: int  # made before this one
    callback_url: bytes | None = None  # sealed, endpoint 0 only
    callback_secret: bytes | None = None
    job_id: str | None = None
    traceparent: str | None = None


class Delivery(Record, frozen=True, kw_only=True):
    num: int
    id: str
    event_id: str
    event_type: str
    endpoint_id: str | None  # None: the job's callback_url
    job_id: str | None
    status: DeliveryStatus
    attempts: int
    due_at: int | None
    created_at: int
    finished_at: int | None


class Attempt(Record, frozen=True, kw_only=True):
    num: int
    id: str
    number: int  # 1 is the first
    at: int
    duration_ms: int
    status_code: int | None
    error: str | None  # one stable word
    response: str | None  # the start of the reply


class AttemptResult(Record, frozen=True, kw_only=True):
    """What one try came to and what follows from it."""

    delivery: int
    lease: int
    at: int
    duration_ms: int
    status_code: int | None = None
    error: str | None = None
    response: bytes = b""
    status: DeliveryStatus
    due_at: int | None = None
    counts: bool = True  # False: the endpoint was paused meanwhile, nothing was sent
    disable: str | None = None  # the reason to disable the endpoint with
    announce: Announcement | None = None


class Note(Record, frozen=True, kw_only=True):
    """One line of a job's timeline that is no event, delivery, attempt or callback."""

    kind: str  # submit | poll | update
    at: int
    data: Json


class Decision(Record, frozen=True, kw_only=True):
    """What a fact makes of a job: written as it is, in one transaction."""

    verdict: str  # applied | duplicate | ignored | late
    job: Job | None = None  # the new state; None leaves the row alone
    reason: str | None = None
    binds: tuple[str, ...] = ()  # provider ids that become this job's
    notes: tuple[Note, ...] = ()
    announcements: tuple[Announcement, ...] = ()


class Applied(Record, frozen=True, kw_only=True):
    """What became of an arrival. `verdict` adds: missing, fenced, clash."""

    verdict: str
    job: Job | None = None
    reason: str | None = None
    fresh: tuple[DueDelivery, ...] = ()


class ApiKey(Record, frozen=True, kw_only=True):
    num: int
    id: str
    tenant: int
    tenant_name: str
    name: str
    scopes: tuple[str, ...]
    lookup: str
    digest: bytes
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None


class Tenant(Record, frozen=True, kw_only=True):
    num: int
    name: str
    created_at: int
    secrets: bytes  # sealed [{secret, until}]: signs what goes to a job's callback_url
    endpoints_version: int = 0


# -- ids ------------------------------------------------------------------------------------------

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_LENGTH = 26


def new_id(prefix: str, now: int) -> str:
    """`prefix_` and 26 letters: 48 bits of milliseconds, 80 random bits. Sorts by time."""
    return f"{prefix}_{_encode(now << 80 | secrets.randbits(80))}"


def row_id(prefix: str, now: int, nonce: int, num: int) -> str:
    """The public id of a numbered row, computed and not stored: milliseconds, the database's nonce, the number.

    The nonce (16 random bits made with the database) keeps a new database from repeating ids that a
    subscriber has already seen and would drop as duplicates.
    """
    return f"{prefix}_{_encode(now << 80 | nonce << 64 | num)}"


def row_number(prefix: str, text: str, nonce: int) -> int | None:
    """The number inside a `row_id`; None where the text is not an id of this kind from this database."""
    head, _, tail = text.partition("_")
    if head != prefix or len(tail) != _LENGTH or any(letter not in _VALUES for letter in tail):
        return None
    value = 0
    for letter in tail:
        value = value << 5 | _VALUES[letter]
    number = value & (1 << 64) - 1
    return number if value >> 64 & 0xFFFF == nonce and number < 1 << 63 else None


def _encode(value: int) -> str:
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def new_token() -> int:
    """A fencing token: positive, 62 random bits."""
    return secrets.randbits(62) | 1


def new_correlation() -> str:
    """A random UUID as text, made without the uuid module's cost."""
    raw = bytearray(secrets.token_bytes(16))
    raw[6], raw[8] = raw[6] & 0x0F | 0x40, raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def encode_cursor(num: int) -> str:
    """An opaque cursor for lists that are ordered by row number."""
    return base64.urlsafe_b64encode(b"c1:%d" % num).decode().rstrip("=")


def decode_cursor(text: str) -> int | None:
    """The number inside a cursor; None where it is not one of ours."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None
    tail = raw.removeprefix(b"c1:")
    return int(tail) if raw != tail and tail.isdigit() and len(tail) < 19 else None
