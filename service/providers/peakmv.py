"""PeakMV: music videos from a song. Facts: https://peakmv.com/docs/api; what it leaves open is said where it matters.

It has no callbacks, no idempotency key, no cancel and no list of jobs: results are polled, and a submit whose reply
was lost is a person's to settle, because sending it again charges again.
"""

import json
import re
from collections.abc import Generator, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeGuard
from urllib.parse import quote, unquote, urlsplit

from service.errors import BadRequest, Invalid, SignatureRefused, Unavailable
from service.facts import (
    Accepted,
    Cost,
    JobError,
    LookupVerdict,
    NotFound,
    NotNow,
    Output,
    Refused,
    StatusVerdict,
    SubmitVerdict,
    Unknown,
    Update,
)
from service.providers import (
    Asking,
    Call,
    Looking,
    Operation,
    Provider,
    ReadCallback,
    Reply,
    Request,
    Submitting,
    operation_table,
    read_json,
)
from service.states import ErrorCode, JobStatus, Json

JOB_PATH = "/api/v2/jobs/"
PROJECT_PATH = "/api/v2/projects/"  # "same as /jobs", for a reply that named only a project
NO_SUCH_JOB = "00000000-0000-0000-0000-000000000000"
MAX_500_REPEATS = 3  # "retry 500 with backoff" gives no number
MAX_ID_CHARS = 256
MAX_QUOTED_CHARS = 1000  # of a provider's text in our records
LARGEST_NUMBER = 10**9  # of seconds or credits; NaN and infinity fail the comparison, too

# No proof of anything about this request, whatever the body says (DESIGN section 3.1).
AMBIGUOUS = frozenset({408, 409, 425})
REFUSALS = {400: ErrorCode.INVALID_INPUT, 401: ErrorCode.AUTHENTICATION, 402: ErrorCode.OUT_OF_CREDIT}
NOT_READ = {401: "authentication", 403: "authentication", 429: "rate_limited"}
SUBMIT_FIELDS = frozenset({"success", "job_id", "cost_credits"})  # already in our own words
STATUS_FIELDS = frozenset({"id", "status"})
URL = re.compile(r"[!-\[\]-~]+")  # visible ASCII; browsers and libraries disagree about a backslash


class PeakMV(Provider):
    """The `Provider` for https://peakmv.com."""

    name = "peakmv"
    title = "PeakMV"
    base_url = "https://peakmv.com"
    operations: Mapping[str, Operation] = operation_table(__file__, "peakmv")
    callback_signed = False
    callback_per_account = False
    callback_max_bytes = 65_536
    callback_reply = (200, "text/plain", b"ok")

    def submit(self, call: Call) -> Submitting:
        """One charging POST. Documented: repeat only after 429 and 500, never after a success."""
        reply = yield Request(
            method="POST",
            url=call.base_url + self.operations[call.operation].path,
            headers={**_headers(call), "Content-Type": "application/json"},
            body=json.dumps(call.input, separators=(",", ":")).encode(),
            charges=True,
        )
        return _read_submit(call, reply)

    def status(self, call: Call, provider_job_id: str) -> Asking:
        """Ask each place where the job can be, until one knows it."""
        verdict: StatusVerdict = NotFound(reason="PeakMV does not know this id")
        for url in _status_urls(call, provider_job_id):
            reply = yield Request(method="GET", url=url, headers=_headers(call))
            verdict = _read_status(reply)
            if not isinstance(verdict, NotFound):
                return verdict
        return verdict

    def lookup(self, call: Call) -> Looking:
        """Asks nothing: there is no list of jobs to look in."""
        verdict: LookupVerdict = NotFound(reason="PeakMV documents no list of jobs: look at its dashboard")
        yield from ()
        return verdict

    def check(self, call: Call) -> Generator[Request, Reply, str]:
        """Ask for a job that cannot exist: 401 judges the key, 404 comes after the key was accepted."""
        reply = yield Request(method="GET", url=f"{call.base_url}{JOB_PATH}{NO_SUCH_JOB}", headers=_headers(call))
        said = _error_text(_read_object(reply))
        if reply.status == 401:
            raise Invalid("PeakMV does not accept this key: make one in its dashboard", param="api_key")
        if reply.status != 404 or said is None:
            raise Unavailable(f"PeakMV answered HTTP {reply.status}, which does not tell whether it accepts the key")
        return "PeakMV accepts the key."

    def verify_callback(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: int) -> bool:
        """Always raises `SignatureRefused`: PeakMV documents no callbacks."""
        raise SignatureRefused("PeakMV sends no callbacks")

    def read_callback(self, body: bytes) -> ReadCallback:
        """Always raises `BadRequest`: PeakMV documents no callbacks."""
        raise BadRequest("PeakMV sends no callbacks")


provider = PeakMV()


def _headers(call: Call) -> dict[str, str]:
    return {"Authorization": f"Bearer {call.api_key}", "Accept": "application/json"}


def _read_submit(call: Call, reply: Reply) -> SubmitVerdict:
    said = _read_object(reply)
    if 200 <= reply.status < 300:
        return _accepted(said)
    if not 400 <= reply.status <= 500 or reply.status in AMBIGUOUS or _error_text(said) is None:
        return Unknown(reason=f"HTTP {reply.status} is no documented answer to a submit")
    if call.repeat:
        return Unknown(reason=f"HTTP {reply.status} to a repeat says nothing about the first submit")
    return _not_accepted(call, reply, said)


def _accepted(said: Json) -> SubmitVerdict:
    provider_job_id = _job_id(said)
    if provider_job_id is None:
        return Unknown(reason="a success without an id")
    cost = _decimal(said.get("cost_credits"))
    return Accepted(
        provider_job_ids=(provider_job_id,),
        cost=Cost(amount=cost, unit="credits", source="quoted") if cost else None,
        provider_data=_beyond(said, SUBMIT_FIELDS),
    )


def _job_id(said: Json) -> str | None:
    named = (_id_text(said.get(field)) for field in ("job_id", "project_id"))
    return next((found for found in named if found), None) or _id_text(_last_part(said.get("status_url")))


def _last_part(url: Any) -> str | None:
    if not isinstance(url, str) or not URL.fullmatch(url):
        return None
    try:
        return unquote(urlsplit(url).path.rpartition("/")[2])
    except ValueError:
        return None


def _id_text(value: Any) -> str | None:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return text if isinstance(text, str) and text.isprintable() and 0 < len(text.strip()) <= MAX_ID_CHARS else None


def _not_accepted(call: Call, reply: Reply, said: Json) -> SubmitVerdict:
    error = _refusal(reply.status, said)
    if reply.status == 429:
        return NotNow(reason="rate_limited", after_s=_wait_s(reply, said))
    if reply.status != 500:
        return Refused(error=error)
    if call.options.get("retry_500", "1").lower() not in ("1", "true", "yes", "on"):
        return Unknown(reason="HTTP 500, which this installation does not repeat")
    return NotNow(reason="provider_error", at_most=MAX_500_REPEATS, error=error)


def _refusal(status: int, said: Json) -> JobError:
    code = REFUSALS.get(status, ErrorCode.PROVIDER_ERROR)
    text = _error_text(said) or ""
    return JobError(
        code=code,
        message=_short_of_credit(said) if code == ErrorCode.OUT_OF_CREDIT else f"PeakMV refused the submit: {text}",
        retryable=status == 500,
        provider_code=str(status),
        provider_message=text,
    )


def _short_of_credit(said: Json) -> str:
    required, available = _decimal(said.get("required")), _decimal(said.get("available"))
    if required is None or available is None:
        return "PeakMV's credits do not suffice: buy credits, then submit again"
    return f"PeakMV needs {required} credits and {available} are left: buy credits, then submit again"


def _status_urls(call: Call, provider_job_id: str) -> list[str]:
    """The URL that the submit's reply named, if the key may go there, then the two documented ones."""
    # `Call` does not carry the job's provider_data yet; once it does, what the reply named is asked first.
    named = (call.provider_data or {}).get("status_url")
    # Dots are encoded so that no id can climb to another path.
    part = quote(provider_job_id, safe="").replace(".", "%2E")
    documented = [f"{call.base_url}{path}{part}" for path in (JOB_PATH, PROJECT_PATH)]
    return [named, *documented] if _may_get_the_key(named, call.base_url) else documented


def _may_get_the_key(url: Any, base_url: str) -> TypeGuard[str]:
    """Whether the URL is on the origin that the key belongs to; anything else would leak it."""
    if not isinstance(url, str) or not URL.fullmatch(url):
        return False
    try:
        asked, ours = urlsplit(url), urlsplit(base_url)
        same = (asked.scheme, asked.hostname, asked.port) == (ours.scheme, ours.hostname, ours.port)
    except ValueError:
        return False
    return same and "@" not in asked.netloc


def _read_status(reply: Reply) -> StatusVerdict:
    said = _read_object(reply)
    if reply.status == 404 and _error_text(said) is not None:
        return NotFound(reason="PeakMV does not know this id")
    word = said.get("status")
    if reply.status == 200 and isinstance(word, str) and word:
        return _update(word, said)
    fallback = "provider_error" if reply.status >= 500 else "unreadable"
    return NotNow(reason=NOT_READ.get(reply.status, fallback), after_s=_wait_s(reply, said))


def _update(word: str, said: Json) -> Update:
    state = word.lower()
    if state == "failed":
        return Update(status=JobStatus.FAILED, error=_failure(said), provider_status=word, provider_data=said)
    url = said.get("video_url")
    if state == "ready" and isinstance(url, str) and url:
        video = Output(url=url, kind="video", duration_s=_seconds(said.get("duration_seconds")))
        return Update(status=JobStatus.SUCCEEDED, outputs=(video,), provider_status=word, provider_data=said)
    # Any other word, and `ready` before there is a URL, is not an end: the job's deadline bounds it.
    return Update(
        status=JobStatus.PROCESSING, provider_status=word[:MAX_QUOTED_CHARS], provider_data=_beyond(said, STATUS_FIELDS)
    )


def _failure(said: Json) -> JobError:
    text = _error_text(said)
    return JobError(
        code=ErrorCode.PROVIDER_ERROR,
        message=f"PeakMV could not make the video: {text or 'it gives no reason'}",
        provider_code="failed",
        provider_message=text,
    )


def _read_object(reply: Reply) -> Json:
    """The reply's JSON object; an empty one stands for whatever is not in PeakMV's shape."""
    try:
        said = read_json(reply.body)
    except RecursionError:
        return {}
    return said if isinstance(said, dict) else {}


def _error_text(said: Json) -> str | None:
    error = said.get("error")
    return error[:MAX_QUOTED_CHARS] if isinstance(error, str) and error else None


def _beyond(said: Json, known: frozenset[str]) -> Json | None:
    return {name: value for name, value in said.items() if name not in known} or None


def _wait_s(reply: Reply, said: Json) -> float | None:
    """`retry_after_seconds` of the body (documented), else a `Retry-After` in seconds."""
    header = reply.headers.get("retry-after", "")
    in_header = float(header) if re.fullmatch(r"[0-9]{1,9}", header) else None
    in_body = _seconds(said.get("retry_after_seconds"))
    return in_header if in_body is None else in_body


def _seconds(value: Any) -> float | None:
    number = _number(value)
    return None if number is None else float(number)


def _decimal(value: Any) -> str | None:
    number = _number(value)
    return None if number is None else f"{Decimal(str(number)):f}"


def _number(value: Any) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value <= LARGEST_NUMBER else None
