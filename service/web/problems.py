"""RFC 9457 problem documents: every refusal and every failure leaves as one."""

from service.errors import Forbidden, Missing, NotAllowedHere, Refusal, ReplyLost, Unsatisfiable
from service.states import Json
from service.web.remedies import REMEDIES
from service.web.replies import Headers, Reply, json_reply

PROBLEM = "application/problem+json"
CHALLENGED = frozenset({"unauthenticated", "key_expired"})  # a callback's bad signature is no bearer's business


class UnsupportedMedia(Refusal):
    status, code, title = 415, "unsupported_media_type", "The body is in a form that is not read here"


class TooSlow(Refusal):
    status, code, title = 408, "too_slow", "The request did not arrive in time"


class UrlTooLong(Refusal):
    status, code, title = 414, "request_url_too_long", "The request's URL is too long"


class HeadTooLarge(Refusal):
    status, code, title = 431, "headers_too_large", "The request's headers are too large"


class Internal(Refusal):
    status, code, title = 500, "internal", "Our fault"


def problem(refusal: Refusal, *, public_url: str, request_id: str) -> Reply:
    """The refusal as a document; nothing in it but what the refusal says on purpose."""
    document: Json = {
        "type": f"{public_url}/docs/errors#{refusal.code}",
        "title": REMEDIES[refusal.code].title if refusal.code in REMEDIES else refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
        "code": refusal.code,
        "param": refusal.param,
        "request_id": request_id,
    }
    reply = json_reply(document, refusal.status, _headers(refusal))
    return Reply(status=reply.status, body=reply.body, content_type=PROBLEM, headers=reply.headers)


def _headers(refusal: Refusal) -> Headers:
    headers: list[tuple[str, str]] = []
    if refusal.code in CHALLENGED:
        headers.append(("www-authenticate", 'Bearer realm="callsheet"'))
    if refusal.retry_after is not None:
        headers.append(("retry-after", str(refusal.retry_after)))
    if refusal.status in (408, 413):
        headers.append(("connection", "close"))  # the rest of the body is not read
    if isinstance(refusal, ReplyLost):
        headers.append(("x-should-retry", "false"))
    if refusal.job is not None:
        headers.append(("callsheet-job-id", refusal.job))
    if isinstance(refusal, Unsatisfiable) and refusal.length is not None:
        headers.append(("content-range", f"bytes */{refusal.length}"))
    if isinstance(refusal, MethodNotAllowed):
        headers.append(("allow", ", ".join(refusal.allowed)))
    return tuple(headers)


class MethodNotAllowed(NotAllowedHere):
    def __init__(self, allowed: list[str]):
        super().__init__(f"This path takes {', '.join(allowed)}. See GET /openapi.json.")
        self.allowed = allowed


def no_such_path() -> Missing:
    return Missing("There is nothing at this path. See GET /docs or GET /openapi.json.", code="no_such_path")


def lacks_scope(scope: str) -> Forbidden:
    return Forbidden(f"The key lacks the scope `{scope}`: make one that has it with `callsheet keys create`.")


def internal() -> Internal:
    return Internal("Something failed here; it is logged under this request_id. Trying again may help.")
