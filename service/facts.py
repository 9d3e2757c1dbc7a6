"""Facts: what a provider says, in our words, and everything else that can move a job."""

from service.states import CallbackVerdict, ErrorCode, JobStatus, Json, Record, Source

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
    needs_key: bool = False  # only the provider's key opens `url`


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
    """Certainly not accepted, and repeating it would not help.

    `pauses`: the credential itself is refused (401, or its balance is out; never a tier or a permission), so that
    every other submit would be refused like this one.
    `probe`: by whom it was sent: this submit tried whether the credential is taken again.
    """

    error: JobError
    pauses: bool = False
    probe: bool = False


class NotNow(Record, frozen=True, kw_only=True):
    """Certainly not accepted or not answered; try again.

    `at_most`: how many repeats the provider's documents allow for this answer; None is no limit.
    `whole`: it holds for the whole credential (429, a full queue), so that the others behind this one wait, too.
    `while_running`: that is so only as long as a job of ours runs there, whose end makes room; else it is this one's.
    """

    reason: str
    after_s: float | None = None
    whole: bool = False
    while_running: bool = False
    at_most: int | None = None
    error: JobError | None = None  # what it fails with once `at_most` is used up


class NotFound(Record, frozen=True, kw_only=True):
    """The provider does not know the id, or a look-up found no row of ours.

    `conclusive`: the list is documented to show every accepted job, failed ones too, and was read back far enough.
    `hopeless`: no later look-up could find it either, so that a person must settle it.
    """

    reason: str
    conclusive: bool = False
    hopeless: bool = False


class Candidates(Record, frozen=True, kw_only=True):
    """Rows of the provider's list that may be this submit: adopted where exactly one of them belongs to no job."""

    provider_job_ids: tuple[str, ...]
    note: str | None = None


class Unknown(Record, frozen=True, kw_only=True):
    """It may have been accepted: the reply was lost, broken, or not in the provider's shape."""

    reason: str


SubmitVerdict = Accepted | Done | Refused | NotNow | Unknown
StatusVerdict = Update | NotFound | NotNow
LookupVerdict = Accepted | Done | Candidates | NotFound | NotNow


# -- what moves a job -----------------------------------------------------------------------------


class Begin(Record, frozen=True, kw_only=True):
    """The submit's POST starts now. `told`: for the timeline, how its end will reach us."""

    called_back: bool = False
    told: str | None = None
    keep: Json | None = None  # what a repeat needs of the steps before the POST


class CancelAsked(Record, frozen=True, kw_only=True):
    supported: bool


class CancelSent(Record, frozen=True, kw_only=True):
    """The provider was asked to cancel; what comes of it, it says like any other end."""

    told: str | None = None  # for the timeline: its answer


class DeadlinePassed(Record, frozen=True, kw_only=True):
    """The deadline is over and the last read changed nothing."""


class Resolve(Record, frozen=True, kw_only=True):
    """A person says what became of an unknown submit."""

    action: str  # adopt | fail | resubmit
    provider_job_id: str | None = None
    correlation: str | None = None  # of the new intent that a resubmit is


class Restored(Record, frozen=True, kw_only=True):
    """The database is a copy of an earlier state: what it shows as not sent may have been sent since."""


class Hint(Record, frozen=True, kw_only=True):
    """Somebody, unproven, says that something changed: look at once.

    `claims`: an id that the job is said to have at the provider; read with our own key before it is believed.
    """

    claims: str | None = None


class Clash(Record, frozen=True, kw_only=True):
    """The provider's id is already bound to another job of this credential."""

    provider_job_id: str
    other_job: str


Fact = (
    Update | Accepted | Done | Refused | NotNow | NotFound | Unknown
    | Begin | CancelAsked | CancelSent | DeadlinePassed | Resolve | Restored | Hint | Clash
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
