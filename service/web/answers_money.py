"""Response bodies about credentials, prices and money, as schemas for the document."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from service.web.answers import Cost
from service.web.schemas import Instant


class Credential(Struct):
    """What new submits use. The key itself is never shown."""

    provider: str
    source: Annotated[Literal["api", "environment", "sandbox"], Meta(description="Who gave it")]
    callback_url: Annotated[
        str | None, Meta(description="To be registered with the provider, where it calls one URL per account")
    ]
    created_at: Instant
    updated_at: Instant
    paused_at: Annotated[Instant | None, Meta(description="Since then the provider refuses it, and submits wait")]
    paused_reason: str | None


class Quote(Struct):
    cost: Cost | None
    reason: Annotated[str | None, Meta(description="Why there is no price, or why it is not the provider's own word")]


class Balance(Struct):
    amount: Annotated[str | None, Meta(description="Decimal text in the provider's own unit")]
    unit: str | None
    provider_data: dict[str, Any] | None


class CatalogKind(Struct):
    kind: str
    documented: Annotated[int, Meta(description="How many the documents list")]
    as_of: Annotated[str | None, Meta(description="The date of the documents; null where they list nothing")]


class Catalog(Struct):
    data: list[dict[str, Any]]
    source: Annotated[Literal["live", "documented"], Meta(description="Whether the provider was asked")]
    as_of: Annotated[str, Meta(description="When it was asked, or the date of the documents")]


class Usage(Struct):
    """Jobs accepted in the span, each counted once. Amounts are decimal text; null where no unit is known."""

    provider: str
    operation: Annotated[str | None, Meta(description="null unless grouped by it")]
    day: Annotated[str | None, Meta(description="In UTC; null unless grouped by it")]
    unit: Annotated[str | None, Meta(description="null: jobs whose price nobody has said")]
    jobs: int
    open: int
    succeeded: int
    failed: int
    canceled: int
    unknown: int
    amount_reported: Annotated[str | None, Meta(description="As the provider reported it")]
    amount_quoted: Annotated[str | None, Meta(description="Quoted, for jobs that are open or succeeded")]
    amount_uncertain: Annotated[
        str | None,
        Meta(description="Quoted, for jobs whose outcome is unknown or that failed after they were accepted"),
    ]


class Budget(Struct):
    provider: str
    unit: str
    amount: Annotated[str, Meta(description="The most that may be spent")]
    period: Literal["month", "total"]
    since: Annotated[Instant | None, Meta(description="When the period began; null for `total`")]
    reserved: Annotated[str, Meta(description="Quoted for open jobs")]
    spent: str
    uncertain: Annotated[str, Meta(description="Quoted for jobs that may have been charged; it counts")]
    left: Annotated[str, Meta(description="Below zero where more was reported than quoted")]
    created_at: Instant
    updated_at: Instant
