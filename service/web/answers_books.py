"""What reconciling answers with."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from service.states import JobStatus
from service.web.answers import Cost
from service.web.schemas import Instant


class Adopted(Struct):
    job: str
    provider_job_ids: list[str]
    status: JobStatus


class Updated(Struct):
    job: str
    provider_job_id: str
    status: JobStatus
    read_now: Annotated[bool, Meta(description="Whether the provider's list only told that the job must be read")]


class Charge(Struct):
    provider_job_id: str
    at: Instant | None
    operation: str | None
    correlation: Annotated[str | None, Meta(description="What its submit carried of somebody's own")]
    cost: Cost | None
    about: Annotated[dict[str, Any] | None, Meta(description="The row as the provider lists it")]


class Uncharged(Struct):
    job: str
    provider_job_ids: list[str]
    operation: str
    status: JobStatus


class Reconciled(Struct):
    provider: str
    since: Instant
    read: Annotated[int, Meta(description="How many rows the provider listed")]
    adopted: Annotated[list[Adopted], Meta(description="Jobs whose submit was lost, and which are followed now")]
    updated: Annotated[list[Updated], Meta(description="Jobs whose news had not reached us")]
    charges_without_job: list[Charge]
    jobs_without_charge: list[Uncharged]
