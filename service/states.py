"""The states that things can be in, and what every record shares: the words of the product.

Times are milliseconds since 1970 UTC (`int`); durations are seconds (`float`); money is decimal text.
"""

from enum import StrEnum
from typing import Any, dataclass_transform

import msgspec

Json = dict[str, Any]
DEFAULT_TENANT = "default"


# Fields of any record that hold, or may hold, a secret.
UNSHOWN = frozenset(
    "api_key callback_secret callback_id callback_url secret secrets sealed target url headers keys digest body".split()
)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable record; `msgspec.structs.replace` makes a changed copy. What must not be logged has no repr."""

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name not in UNSHOWN)
        return f"{type(self).__name__}({', '.join(shown)})"


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
