"""Request bodies: what we take, field by field. A description is also the remedy in a refusal."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType, field

from service.endpoints import EVENT_TYPES
from service.scopes import SCOPES
from service.states import EndpointStatus, Json, Record

DAY_S = 86_400
MAX_DEADLINE_S = MAX_OVERLAP_S = 7 * DAY_S
MAX_TIMEOUT_S = 30
_END = r"$(?!\n)"  # to Python `$` also stands before a last newline
TENANT_NAME = rf"^[a-z0-9][a-z0-9_-]{{0,62}}{_END}"
TYPE_NAMES = [*EVENT_TYPES, *sorted({kind.partition(".")[0] + ".*" for kind in EVENT_TYPES})]

Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00]+$", description="1 to 100 characters.")]
MetadataKey = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00]+$")]
MetadataValue = Annotated[str, Meta(max_length=500, pattern=r"^[^\x00]*$")]
Metadata = Annotated[
    dict[MetadataKey, MetadataValue],
    Meta(max_length=50, description="At most 50 texts of 500 characters, under names of 64."),
]
Visible = Annotated[str, Meta(pattern=rf"^[!-~]{{1,1000}}{_END}")]
ProviderJobId = Annotated[str, Meta(pattern=rf"^[!-~]{{1,200}}{_END}")]
Instant = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
EventTypeName = Annotated[str, Meta(extra_json_schema={"enum": TYPE_NAMES})]
FieldPath = Annotated[str, Meta(min_length=1, max_length=200)]
Url = Annotated[str, Meta(min_length=1, max_length=2048)]


class Body(Record, forbid_unknown_fields=True):
    """What a client sends."""

    def given(self) -> Json:
        """The fields that were there."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not UNSET}


class CreateJob(Body):
    provider: Annotated[str, Meta(description="See GET /v1/providers.")]
    operation: Annotated[str, Meta(description="See GET /v1/providers/{provider}/operations.")]
    input: Annotated[
        dict[str, Any] | None, Meta(description="An object: the operation's input, in the provider's own field names.")
    ] = None
    provider_job_id: Annotated[
        ProviderJobId | None,
        Meta(description="Instead of `input`: follow the job that the provider knows by this id (a text)."),
    ] = None
    callback_url: Annotated[Url | None, Meta(description="An https URL that gets this job's terminal event.")] = None
    callback_secret: Annotated[
        str | None,
        Meta(description="Signs what goes to callback_url: `whsec_` and base64; else the tenant's callback secret."),
    ] = None
    metadata: Metadata = field(default_factory=dict)
    deadline_seconds: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_DEADLINE_S)] | None,
        Meta(description=f"1 to {MAX_DEADLINE_S} seconds; else the operation's own."),
    ] = None


class ResolveJob(Body):
    action: Annotated[
        Literal["adopt", "fail", "resubmit"],
        Meta(description="What became of the submit, as a person found out at the provider."),
    ]
    provider_job_id: Annotated[ProviderJobId | None, Meta(description="The provider's id, with `adopt` only.")] = None


class EndpointSettings(Body):
    event_types: Annotated[
        Annotated[list[EventTypeName], Meta(min_length=1, max_length=50)] | UnsetType,
        Meta(description="Which events, one or more; leave it out for all but job.progress."),
    ] = UNSET
    filter: Annotated[
        Annotated[dict[FieldPath, str | int | float | bool], Meta(max_length=20)] | UnsetType | None,
        Meta(description="Exact values of fields of `data`, by dotted path: `metadata.team`; at most 20."),
    ] = UNSET
    format: Annotated[Literal["standard"] | UnsetType, Meta(description="Only `standard` exists in this version.")] = (
        UNSET
    )
    signature: Annotated[Literal["v1"] | UnsetType, Meta(description="Only `v1` exists in this version.")] = UNSET
    headers: Annotated[
        dict[str, str] | UnsetType | None,
        Meta(description="Sent with each delivery: Authorization, Api-Key, or names that begin with X-."),
    ] = UNSET
    rate: Annotated[
        Annotated[float, Meta(ge=0.01, le=1000)] | UnsetType | None,
        Meta(description="Attempts a second at most, 0.01 to 1000."),
    ] = UNSET
    timeout_seconds: Annotated[
        Annotated[float, Meta(ge=1, le=MAX_TIMEOUT_S)] | UnsetType | None,
        Meta(description=f"For one attempt, 1 to {MAX_TIMEOUT_S} seconds."),
    ] = UNSET
    status: Annotated[
        EndpointStatus | UnsetType,
        Meta(description="`active` (releases what was held, spread out), `paused` or `disabled`."),
    ] = UNSET
    description: Annotated[
        Annotated[str, Meta(max_length=500, pattern=r"^[^\x00]*$")] | UnsetType | None,
        Meta(description="Up to 500 characters, for you."),
    ] = UNSET


class CreateEndpoint(EndpointSettings, kw_only=True):
    url: Annotated[Url, Meta(description="An https URL, 2048 characters at most.")]


class ChangeEndpoint(EndpointSettings, kw_only=True):
    url: Annotated[Url | UnsetType, Meta(description="An https URL, 2048 characters at most.")] = UNSET


class RotateSecret(Body):
    overlap_seconds: Annotated[
        int,
        Meta(ge=0, le=MAX_OVERLAP_S, description=f"How long the old secret signs too, 0 to {MAX_OVERLAP_S} seconds."),
    ] = DAY_S


class Recover(Body):
    since: Annotated[Instant, Meta(description="An RFC 3339 time with a zone: send what failed since then.")]


class Reconcile(Body):
    since: Annotated[Instant, Meta(description="An RFC 3339 time with a zone that has passed: compare from then on.")]


class CreateKey(Body):
    name: Name
    scopes: Annotated[
        list[Annotated[str, Meta(extra_json_schema={"enum": list(SCOPES)})]],
        Meta(min_length=1, max_length=20, description="What the key may do."),
    ]
    tenant: Annotated[str | None, Meta(description="Whose key; absent: the tenant that you act in.")] = None
    expires_at: Annotated[
        Instant | None, Meta(description="An RFC 3339 time with a zone, in the future; absent: never.")
    ] = None


class PutCredential(Body):
    api_key: Annotated[
        Visible, Meta(description="The provider's key: 1 to 1000 visible characters, never shown again.")
    ]
    callback_secret: Annotated[
        Annotated[str, Meta(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f]+$")] | None,
        Meta(description="What the provider signs its callbacks with; absent: its jobs are polled."),
    ] = None
    callback_id: Annotated[
        Visible | None, Meta(description="The provider's id of our callback URL (PixVerse: `webhook_id`).")
    ] = None


class AskQuote(Body):
    operation: Annotated[str, Meta(description="See GET /v1/providers/{provider}/operations.")]
    input: Annotated[dict[str, Any], Meta(description="An object: the operation's input, as for a job.")]


class PutBudget(Body):
    amount: Annotated[
        str,
        Meta(
            pattern=rf"^[0-9]{{1,12}}(\.[0-9]{{1,12}})?{_END}",
            description="Decimal text, as `500` or `12.50`; `0` lets only free jobs through.",
        ),
    ]
    period: Annotated[
        Literal["month", "total"], Meta(description="`month`, which begins on the first in UTC, or `total`.")
    ] = "month"
    unit: Annotated[
        Annotated[str, Meta(pattern=rf"^[a-zA-Z][a-zA-Z0-9_-]{{0,31}}{_END}")] | None,
        Meta(description="Of the provider's money, as in the `cost` of its jobs; absent: its usual one."),
    ] = None


class CreateTenant(Body):
    name: Annotated[
        str, Meta(pattern=TENANT_NAME, description="1 to 63 of a-z, 0-9, - and _, beginning with a letter or digit.")
    ]


class Tick(Body):
    budget_seconds: Annotated[float, Meta(ge=0.1, le=300, description="0.1 to 300 seconds.")] = 50.0
