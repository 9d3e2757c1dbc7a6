"""Response bodies as schemas, for the document; `service.views` makes the values."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from service.states import CallbackVerdict, DeliveryStatus, EndpointStatus, ErrorCode, JobStatus
from service.web.schemas import Instant

Progress = Annotated[float, Meta(ge=0, le=1)]


class Problem(Struct):
    """RFC 9457, as `application/problem+json`."""

    type: Annotated[str, Meta(description="A page with the remedy")]
    title: str
    status: int
    detail: Annotated[str, Meta(description="What to change, for people")]
    code: Annotated[str, Meta(description="Stable, for programs")]
    param: Annotated[str | None, Meta(description="Which field, parameter or header")]
    request_id: str


class Output(Struct):
    url: Annotated[str, Meta(description="As the provider gave it")]
    stable_url: Annotated[str, Meta(description="Here: it redirects, or streams, for as long as the job is kept")]
    kind: str
    file_name: str | None
    content_type: str | None
    bytes: int | None
    width: int | None
    height: int | None
    duration_s: float | None
    expires_at: Instant | None


class JobError(Struct):
    code: ErrorCode
    message: str
    retryable: bool
    provider_code: str | None
    provider_message: str | None


class Failure(Struct):
    provider_job_id: str
    error: JobError


class Cost(Struct):
    amount: Annotated[str, Meta(description="Decimal text in the provider's own unit")]
    unit: str
    source: Literal["quoted", "reported"]


class JobData(Struct):
    """A job without its `input` and `callback_url`: in lists and events."""

    id: str
    status: JobStatus
    reason: str | None
    provider: str
    operation: str
    metadata: dict[str, str]
    provider_job_ids: list[str]
    progress: Progress | None
    queue_position: int | None
    outputs: list[Output]
    error: JobError | None
    failures: Annotated[list[Failure], Meta(description="Of several provider ids: those that failed")]
    cost: Cost | None
    provider_data: dict[str, Any] | None
    sequence: int
    created_at: Instant
    updated_at: Instant
    deadline_at: Instant | None
    overdue: bool
    cancel_requested_at: Instant | None
    timeline_url: str


class Job(JobData):
    input: dict[str, Any] | None
    callback_url: Annotated[str | None, Meta(description="Its origin only")]


class TimelineEntry(Struct):
    at: Instant
    kind: Literal["accepted", "submit", "callback", "poll", "update", "event", "delivery", "attempt"]


class Timeline(Struct):
    data: list[TimelineEntry]


class Endpoint(Struct):
    id: str
    url: str
    status: EndpointStatus
    disabled_reason: str | None
    event_types: list[str]
    filter: dict[str, str | int | float | bool]
    format: str
    signature: str
    headers: Annotated[list[str], Meta(description="Their names")]
    rate: float | None
    timeout_seconds: float | None
    description: str | None
    created_at: Instant
    updated_at: Instant


class EndpointWithSecret(Endpoint):
    secret: Annotated[str, Meta(description="Shown this once")]


class NewSecret(Struct):
    secret: str
    previous_until: Annotated[Instant, Meta(description="Until then the old secret signs, too")]


class CallbackSecret(Struct):
    secret: Annotated[str, Meta(description="Signs what goes to a job's callback_url")]


class Resent(Struct):
    deliveries: Annotated[int, Meta(description="How many became due")]


class Event(Struct):
    id: str
    job: str | None
    type: str
    timestamp: Instant
    data: dict[str, Any]


class EventType(Struct):
    type: str
    description: str


class DeliveryData(Struct):
    id: str
    event: str
    type: str
    endpoint: Annotated[str | None, Meta(description="null: the job's callback_url, or the operator's URL")]
    job: str | None
    status: DeliveryStatus
    attempt_count: int
    next_attempt_at: Instant | None
    created_at: Instant
    finished_at: Instant | None


class Attempt(Struct):
    id: str
    number: int
    at: Instant
    duration_ms: int
    status_code: int | None
    error: Annotated[str | None, Meta(description="One stable word")]
    response: Annotated[str | None, Meta(description="The start of the reply")]
    stale: Annotated[
        str | None,
        Meta(description="The error of the same try at once before, on a kept connection that the server had dropped"),
    ]


class Delivery(DeliveryData):
    attempts: list[Attempt]


class Key(Struct):
    id: str
    name: str
    tenant: str
    scopes: list[str]
    prefix: str
    created_at: Instant
    expires_at: Instant | None


class KeyWithText(Key):
    key: Annotated[str, Meta(description="Shown this once")]


class Tenant(Struct):
    name: str
    created_at: Instant


class Provider(Struct):
    name: str
    title: str
    operations: list[str]
    configured: Annotated[bool, Meta(description="Whether the tenant has a credential for it")]
    callback_signed: bool


class Operation(Struct):
    name: str
    summary: str
    input_schema: dict[str, Any]
    output: str
    deadline_seconds: int
    settled_by: str
    callback: bool
    cancel: bool
    immediate: Annotated[bool, Meta(description="The reply to the submit is the result")]
    tier: Annotated[str | None, Meta(description="The least tier that may use it")]
    quote: Annotated[str | None, Meta(description="Where a price comes from: `formula`, `provider`, or null")]
    poll_seconds: Annotated[dict[str, float], Meta(description="The first read, and the pace of the next ones")]
    cost: dict[str, Any] | None
    source: str


class RejectedCallback(Struct):
    received_at: Instant
    verdict: CallbackVerdict
    reason: str | None
    body: str


class File(Struct):
    id: Annotated[str, Meta(description="Stands in any field of `input` that takes a file or its URL")]
    name: str
    content_type: str
    bytes: int
    created_at: Instant
    expires_at: Instant


class Health(Struct):
    status: Literal["ok"]
    service: Annotated[Literal["callsheet"], Meta(description="What answers here, for who looks before it sends a key")]
    version: str


class Ready(Struct):
    ready: bool


class Ticked(Struct):
    ran: Annotated[bool, Meta(description="false: this process runs its loops anyway")]
    steps: int
    finished: Annotated[bool, Meta(description="Nothing was left to do within the budget")]


class ThinJob(Struct):
    """In place of a job whose event would be over 256 KiB: read the job itself."""

    id: str
    status: JobStatus
    provider: str
    operation: str
    metadata: dict[str, str]
    thin: Literal[True]


class JobEvent(Struct):
    type: str
    timestamp: Instant
    data: Any  # JobData or ThinJob: msgspec takes no untagged union, so the document says it


class OtherEvent(Struct):
    type: str
    timestamp: Instant
    data: dict[str, Any]
