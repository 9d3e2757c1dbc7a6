"""The rows of the product as records: what crosses the store, or a stage's edge, is one of these."""

from service.facts import Cost, JobError, Output, Update
from service.states import TERMINAL, DeliveryStatus, EndpointStatus, JobStatus, Json, Record, Work


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
    refusals: int = 0  # submits of this intent that were refused for their credential
    kept: Json | None = None  # what a repeat of the POST needs of the steps before it
    claimed: str | None = None  # an id that somebody unproven says this job has; read back before it is believed
    cancel_sent_at: int | None = None
    passthrough: bool = False  # submitted by the provider's own API, with the caller's bytes
    free_if_failed: bool = False  # the provider documents that what it fails is not charged


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
    unanswered: "Unanswered | None" = None  # kept with it, where a repeat of its submit must be known


class Unanswered(Record, frozen=True, kw_only=True):
    """A submit by the provider's own API whose reply nobody has taken yet."""

    job: int = 0
    tenant: int
    digest: bytes  # of all that makes another submit its equal
    made_at: int
    holder: int | None  # the open connection that waits for the reply
    seen_at: int  # when that was last said to be open


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
    created_at: int = 0
    updated_at: int = 0
    paused_at: int | None = None
    paused_reason: str | None = None
    resumed_at: int | None = None  # when a person, or a changed key, last ended what held it
    on_trial: bool = False  # resumed, and nothing was accepted under it since: one submit at a time tries it
    deleted_at: int | None = None  # no new submit uses it; the jobs that name it go on with it


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
    endpoint_version: int | None = None  # where the claim has read it
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
    stale: str | None = None  # the error of the same try, at once before, on a kept connection that was dead


class AttemptResult(Record, frozen=True, kw_only=True):
    """What one try came to and what follows from it."""

    delivery: int
    lease: int
    at: int
    duration_ms: int
    status_code: int | None = None
    error: str | None = None
    response: bytes = b""
    stale: str | None = None
    status: DeliveryStatus
    due_at: int | None = None  # by the store's `due`
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


class File(Record, frozen=True, kw_only=True):
    """What a client uploaded, for jobs to name: whole, and not yet expired."""

    num: int
    id: str
    tenant: int
    name: str
    content_type: str
    size: int  # bytes
    created_at: int
    expires_at: int
