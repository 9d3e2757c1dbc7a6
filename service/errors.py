"""What can go wrong, and who must act; the status that a client sees follows from that.

CallsheetError
+-- Refusal                      the caller must change something      4xx
|   +-- BadRequest               not readable                          400
|   +-- Unauthenticated          no key, or not one of ours            401
|   +-- Forbidden                a key without the scope               403
|   +-- Missing                  no such object, or another tenant's   404
|   +-- NotAllowedHere           the path has no such method           405
|   +-- Conflict                 the object's state forbids it         409
|   +-- Gone                     it was there, and is not any more     410
|   +-- TooLarge                 a body over its limit                 413
|   +-- UnsupportedFile          of a type that is not taken           415
|   +-- Unsatisfiable            a range beyond the end                416
|   +-- Invalid                  readable, and refused                 422
|   +-- TooMany                  a ceiling was reached                 429
+-- Unavailable                  not now: try again                    503
|   +-- StoreUnavailable         the database cannot keep it now
+-- NoReply                      forwarded, and the reply was lost     504
|   +-- ReplyLost                the same of a submit: no repeat       424
+-- SchemaTooNew                 the database was made by newer code   (start is refused)
+-- WrongMasterKey               the database was sealed by other keys (start is refused)
+-- Moved                        it was copied into another database  (start is refused)
+-- LockHeld                     another process runs the loops        (start is refused)
+-- NotSent                      no byte of the request left us        (safe to try again)
|   +-- EgressDenied             the address or URL is refused
+-- Lost                         it may have been received             (outcome unknown)
+-- SignatureRefused             a signature that proves nothing
"""

import logging


class CallsheetError(Exception):
    """The root: everything that this package raises on purpose."""


class Refusal(CallsheetError):
    """The caller's to mend. `code` is stable, `param` names the field, `detail` says the remedy."""

    status = 400
    code = "bad_request"
    title = "The request was refused"
    job: str | None = None  # that it is about, for a header

    def __init__(
        self, detail: str, *, code: str | None = None, param: str | None = None, retry_after: int | None = None
    ):
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.param = param
        self.retry_after = retry_after


class BadRequest(Refusal):
    status, code, title = 400, "unreadable", "The request could not be read"


class Unauthenticated(Refusal):
    status, code, title = 401, "unauthenticated", "No valid API key"


class Forbidden(Refusal):
    status, code, title = 403, "forbidden", "The key does not allow this"


class Missing(Refusal):
    status, code, title = 404, "not_found", "There is no such object"


class NotAllowedHere(Refusal):
    status, code, title = 405, "method_not_allowed", "The path has no such method"


class Conflict(Refusal):
    status, code, title = 409, "conflict", "The object's state does not allow this"


class TooLarge(Refusal):
    status, code, title = 413, "too_large", "The body is too large"


class Gone(Refusal):
    status, code, title = 410, "gone", "It is not there any more"


class UnsupportedFile(Refusal):
    status, code, title = 415, "unsupported_file_type", "The file is of a type that is not taken"


class Unsatisfiable(Refusal):
    status, code, title = 416, "range_not_satisfiable", "The range is beyond the end"

    def __init__(self, detail: str, *, length: int | None):
        super().__init__(detail, param="Range")
        self.length = length  # of the whole, in bytes


class Invalid(Refusal):
    status, code, title = 422, "invalid", "The request is not valid"


class TooMany(Refusal):
    status, code, title = 429, "too_many", "A ceiling was reached"


class NoReply(Refusal):
    status, code, title = 504, "no_reply", "The provider's reply was lost"


class ReplyLost(NoReply):
    """To a submit, which may have been accepted. Published clients repeat 408, 409, 429 and 5xx by themselves."""

    status, code, title = 424, "reply_lost", "The reply to a submit was lost"


class Unavailable(Refusal):
    status, code, title = 503, "unavailable", "Not now"

    def __init__(self, detail: str, *, code: str | None = None, retry_after: int = 5):
        super().__init__(detail, code=code, retry_after=retry_after)


class StoreUnavailable(Unavailable):
    code = "store_unavailable"
    level = logging.WARNING  # for whoever catches and logs it; lower where the store has said it already


class SchemaTooNew(CallsheetError):
    """The database carries migrations that this version does not know."""


class WrongMasterKey(CallsheetError):
    """None of the master keys given opens what is stored."""


class Moved(CallsheetError):
    """All of this database was copied into another one, which is the one to serve."""


class LockHeld(CallsheetError):
    """Another process runs the loops on this database."""


class SignatureRefused(CallsheetError):
    """The only exception that verifying raises; `reason` is for the operator, never for the sender."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class NotSent(CallsheetError):
    """No byte of the request left this process: safe to try again. `kind` is one stable word."""

    def __init__(self, kind: str, detail: str = ""):
        super().__init__(detail or kind)
        self.kind = kind


class EgressDenied(NotSent):
    """The URL or the address behind it may not be reached. Never says which address."""

    def __init__(self, detail: str = "this address may not be reached"):
        super().__init__("egress_denied", detail)


class Lost(CallsheetError):
    """Bytes left us and no usable reply came back: the other side may have acted on them.

    `stale`: on a connection that had been kept, before any byte of a reply; the peer had probably dropped it before.
    """

    def __init__(self, kind: str, detail: str = "", *, stale: bool = False):
        super().__init__(detail or kind)
        self.kind, self.stale = kind, stale
