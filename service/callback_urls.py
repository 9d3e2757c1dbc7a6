"""What the answer of a job's `callback_url` means. Pure.

Such a URL is often a function's, which answers 404 while it is deployed: that is tried again like any failure. Or it is
good for one request, as that on which a workflow waits: one whose reply was lost has probably used it up.
"""

from collections.abc import Sequence

from service.models import Attempt

GONE = 410  # RFC 9110 section 15.5.11: it will not be back
MAY_BE_USED = frozenset({404, 409, 410})  # what a URL says that was good for one request
PROBABLY_USED = "probably used"  # the error of the attempt that met one
REPLY_LOST = frozenset({"timeout", "reset", "disconnected", "protocol"})  # bytes left us, and no status came


def was_used(earlier: Sequence[Attempt]) -> bool:
    """Whether the last attempt of these, oldest first, that can have reached anybody is one whose reply was lost."""
    reached = [one for one in earlier if one.status_code is not None or one.error in REPLY_LOST]
    return bool(reached) and reached[-1].status_code is None
