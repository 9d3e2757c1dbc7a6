"""PeakMV: music videos from a song. Facts: https://peakmv.com/docs/api; what it leaves open is said where it matters.

It has no callbacks, no idempotency key, no cancel and no list of jobs: results are polled, and a submit whose reply
was lost is a person's to settle, because sending it again charges again.
"""

import json
from collections.abc import Generator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from service.errors import Invalid, Unavailable
from service.facts import (
    Accepted,
    Cost,
    JobError,
    NotFound,
    NotNow,
    Output,
    Refused,
    StatusVerdict,
    SubmitVerdict,
    Update,
)
from service.providers import (
    Asking,
    Call,
    FileUse,
    Operation,
    Provider,
    Recognised,
    Reply,
    Request,
    Submitting,
    operation_table,
    put,
    read_object,
)
from service.providers._reading import (
    CANCELED_WORDS,
    DONE_WORDS,
    FAILED_WORDS,
    MAX_QUOTED_CHARS,
    URL,
    decimal_text,
    header_wait,
    id_text,
    is_account_path,
    on_origin,
    path_part,
    path_parts,
    plain_word,
    seconds,
    text_of,
)
from service.providers._refusals import failed_in_success, not_accepted
from service.states import ErrorCode, JobStatus, Json

JOB_PATH = "/api/v2/jobs/"
PROJECT_PATH = "/api/v2/projects/"  # "same as /jobs", for a reply that named only a project
NO_SUCH_JOB = "00000000-0000-0000-0000-000000000000"
MAX_500_REPEATS = 3  # "retry 500 with backoff" gives no number

REFUSALS = {400: ErrorCode.INVALID_INPUT, 401: ErrorCode.AUTHENTICATION, 402: ErrorCode.OUT_OF_CREDIT}
PAUSING = frozenset({401, 402})
NOT_READ = {401: "authentication", 403: "authentication", 429: "rate_limited"}
SUBMIT_FIELDS = frozenset({"success", "job_id", "cost_credits"})  # already in our own words
UNDER_WAY = frozenset({"queued", "processing"})
STATUS_FIELDS = frozenset({"id", "status"})


class PeakMV(Provider):
    """The `Provider` for https://peakmv.com."""

    name = "peakmv"
    title = "PeakMV"
    base_url = "https://peakmv.com"
    operations: Mapping[str, Operation] = operation_table(__file__, "peakmv")
    url_fields = frozenset({"status_url"})

    def submit(self, call: Call) -> Submitting:
        """One charging POST. Documented: repeat only after 429 and 500, never after a success."""
        reply = yield Request(
            method="POST",
            url=call.base_url + self.operations[call.operation].path,
            headers={**_headers(call), "Content-Type": "application/json"},
            body=json.dumps(self._with_urls(call), separators=(",", ":")).encode(),
            charges=True,
        )
        return _read_submit(call, reply)

    def submit_reply(self, call: Call) -> Json | None:
        """The job's id, and where its status is."""
        if not call.provider_job_ids:
            return None
        named, known = call.provider_job_ids[0], call.provider_data or {}
        url = text_of(known.get("status_url")) or f"{call.base_url}{JOB_PATH}{path_part(named)}"
        return {"success": True, "job_id": named, "status_url": url}

    def status(self, call: Call, provider_job_id: str) -> Asking:
        """Ask each place where the job can be, until one knows it."""
        verdict: StatusVerdict = NotFound(reason="PeakMV does not know this id")
        for url in _status_urls(call, provider_job_id):
            reply = yield Request(method="GET", url=url, headers=_headers(call))
            verdict = _read_status(reply)
            if not isinstance(verdict, NotFound):
                return verdict
        return verdict

    def check(self, call: Call) -> Generator[Request, Reply, str]:
        """Ask for a job that cannot exist: 401 judges the key, 404 comes after the key was accepted."""
        reply = yield Request(method="GET", url=f"{call.base_url}{JOB_PATH}{NO_SUCH_JOB}", headers=_headers(call))
        said = _error_text(read_object(reply.body))
        if reply.status == 401:
            raise Invalid("PeakMV does not accept this key: make one in its dashboard", param="api_key")
        if reply.status != 404 or said is None:
            raise Unavailable(f"PeakMV answered HTTP {reply.status}, which does not tell whether it accepts the key")
        return "PeakMV accepts the key."

    def allows(self, call: Call) -> None:
        """PeakMV fetches files by their URL: one that it cannot reach is refused."""
        for use in self._files(call):
            if use.file not in call.files or call.files[use.file].url is None:
                field = ".".join(map(str, use.path))
                raise Invalid(
                    f"PeakMV must fetch `{field}` by its URL, and cannot reach this service: set CALLSHEET_PUBLIC_URL"
                    " to a public address, or give a public URL instead of the file",
                    param=f"input.{field}",
                )

    def recognise(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Recognised:
        """The submit of both versions, and the status calls. The older path makes a v1 of what names no version."""
        match path_parts(path):
            case ("api", ("v1" | "v2") as version, "generate") if method == "POST":
                given = read_object(body) if version == "v2" else {"version": "v1", **read_object(body)}
                return Recognised(kind="submit", operation="generate", input=given)
            case _ if is_account_path(path):
                return Recognised(kind="account")
            case ("api", "v1" | "v2", "jobs" | "projects", named) if method == "GET" and id_text(named):
                return Recognised(kind="status", operation="generate", provider_job_ids=(named,))
        return Recognised(kind="plain")

    def _files(self, call: Call) -> list[FileUse]:
        return self.operations[call.operation].files(call.input)

    def _with_urls(self, call: Call) -> Json:
        """The input with the URL of each file in its place; `allows` has seen that there is one."""
        given = call.input
        for use in self._files(call):
            given = put(given, use.path, call.files[use.file].url)
        return given


provider = PeakMV()


def _headers(call: Call) -> dict[str, str]:
    return {"Authorization": f"Bearer {call.api_key}", "Accept": "application/json"}


def _read_submit(call: Call, reply: Reply) -> SubmitVerdict:
    said = read_object(reply.body)
    text = _error_text(said)
    if 200 <= reply.status < 300:
        return _accepted(said) or failed_in_success(call, reply, "PeakMV", text)
    own = _not_accepted(reply, said) if text is not None else None
    documented = reply.status == 500 and own is not None and _repeats_500(call)
    named = _job_id(said)
    return not_accepted(call, reply, ("peakmv", "PeakMV"), own=own, job_id=named, documented=documented)


def _repeats_500(call: Call) -> bool:
    return call.options.get("retry_500", "1").lower() in ("1", "true", "yes", "on")


def _accepted(said: Json) -> Accepted | None:
    provider_job_id = _job_id(said)
    if provider_job_id is None:
        return None
    cost = decimal_text(said.get("cost_credits"))
    return Accepted(
        provider_job_ids=(provider_job_id,),
        cost=Cost(amount=cost, unit=PeakMV.unit, source="quoted") if cost else None,
        provider_data=_beyond(said, SUBMIT_FIELDS),
    )


def _job_id(said: Json) -> str | None:
    named = (id_text(said.get(field)) for field in ("job_id", "project_id"))
    return next((found for found in named if found), None) or id_text(_last_part(said.get("status_url")))


def _last_part(url: Any) -> str | None:
    if not isinstance(url, str) or not URL.fullmatch(url):
        return None
    try:
        return unquote(urlsplit(url).path.rpartition("/")[2])
    except ValueError:
        return None


def _not_accepted(reply: Reply, said: Json) -> Refused | NotNow:
    error = _refusal(reply.status, said)
    if reply.status == 429:
        return NotNow(reason="rate_limited", after_s=_wait_s(reply, said), whole=True)
    if reply.status != 500:
        return Refused(error=error, pauses=reply.status in PAUSING)
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
    required, available = decimal_text(said.get("required")), decimal_text(said.get("available"))
    if required is None or available is None:
        return "PeakMV's credits do not suffice: buy credits, then submit again"
    return f"PeakMV needs {required} credits and {available} are left: buy credits, then submit again"


def _status_urls(call: Call, provider_job_id: str) -> list[str]:
    """The URL that the submit's reply named, if the key may go there, then the two documented ones."""
    named = (call.provider_data or {}).get("status_url")
    documented = [f"{call.base_url}{path}{path_part(provider_job_id)}" for path in (JOB_PATH, PROJECT_PATH)]
    return [named, *documented] if on_origin(named, call.base_url) else documented


def _read_status(reply: Reply) -> StatusVerdict:
    said = read_object(reply.body)
    if reply.status == 404 and _error_text(said) is not None:
        return NotFound(reason="PeakMV does not know this id")
    word = said.get("status")
    if reply.status == 200 and (plain_word(word) or text_of(said.get("video_url"))):
        return _update(word if isinstance(word, str) else "", said)
    fallback = "provider_error" if reply.status >= 500 else "unreadable"
    return NotNow(reason=NOT_READ.get(reply.status, fallback), after_s=_wait_s(reply, said))


def _update(word: str, said: Json) -> Update:
    state, shown, url = plain_word(word), word[:MAX_QUOTED_CHARS], said.get("video_url")
    if state in FAILED_WORDS or state in CANCELED_WORDS:  # it has no cancel: whoever ended it, it failed
        error = _failure(said, shown)
        return Update(status=JobStatus.FAILED, error=error, provider_status=shown, provider_data=said)
    made = isinstance(url, str) and bool(url)
    video = Output(url=str(url), kind="video", duration_s=seconds(said.get("duration_seconds")))
    if state in DONE_WORDS and made:
        return Update(status=JobStatus.SUCCEEDED, outputs=(video,), provider_status=shown, provider_data=said)
    # Any other word, and `ready` before there is a URL, is not an end: the job's deadline bounds it.
    return Update(
        status=JobStatus.PROCESSING,
        outputs=(video,) if made and state not in UNDER_WAY else (),
        provider_status=shown or None,
        provider_data=_beyond(said, STATUS_FIELDS),
    )


def _failure(said: Json, word: str) -> JobError:
    text = _error_text(said)
    return JobError(
        code=ErrorCode.PROVIDER_ERROR,
        message=f"PeakMV could not make the video: {text or 'it gives no reason'}",
        provider_code=word,
        provider_message=text,
    )


def _error_text(said: Json) -> str | None:
    return text_of(said.get("error"))


def _beyond(said: Json, known: frozenset[str]) -> Json | None:
    return {name: value for name, value in said.items() if name not in known} or None


def _wait_s(reply: Reply, said: Json) -> float | None:
    """`retry_after_seconds` of the body (documented), else a `Retry-After` in seconds."""
    in_body = seconds(said.get("retry_after_seconds"))
    return header_wait(reply.headers) if in_body is None else in_body
