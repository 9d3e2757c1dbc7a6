"""AI/ML API: video, music, transcripts, images and speech by many vendors' models. Facts: https://docs.aimlapi.com;
what it leaves open is said where it matters.

It has no callbacks, no idempotency key and no cancel: results are polled, and a submit whose reply was lost is found
in the logs by the request id that we sent. Images and speech come in the reply itself, so with it they are lost.

Media may stand in an input as data URIs, so that inputs may be large: 64 MiB hold in base64 the 50 MB that PixVerse
takes of a video or a sound. It names no limit for what it fetches by URL; ours are in `x-file`.
"""

import json
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from msgspec.structs import replace

from service.errors import Invalid, Unavailable
from service.facts import (
    Accepted,
    Done,
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
    Documented,
    HistoryRow,
    Looking,
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
from service.providers import _aimlapi_logs as logs
from service.providers._aimlapi_results import (
    CREDITS,
    KEPT_BYTES,
    WHOLE_BYTES,
    Found,
    cost_of,
    error_text,
    failure,
    found_in,
    kept,
    moderated,
    raw_audio,
)
from service.providers._reading import (
    CANCELED_WORDS,
    DONE_WORDS,
    FAILED_WORDS,
    decimal_text,
    header_wait,
    id_text,
    is_account_path,
    is_said,
    on_origin,
    path_part,
    path_parts,
    plain_word,
    text_of,
    whole,
)
from service.providers._refusals import failed_in_success, not_accepted
from service.states import ErrorCode, JobStatus, Json

# The schema knows `completed` and `error`, seven pages' samples end with `succeeded`, and public clients take more for
# an end; a word that is none of these, nor an end, may be a vendor's.
UNDER_WAY = frozenset({"queued", "generating", "waiting", "active", "processing"})
PATIENCE_MS = 1_000_000  # the longest of the sample clients waits 1000 s; so long `completed` may lack its result

SHAPE = ("statusCode", "requestId", "path", "timestamp")  # of an error, beside `message`
REFUSALS = {
    400: ErrorCode.INVALID_INPUT, 401: ErrorCode.AUTHENTICATION, 402: ErrorCode.OUT_OF_CREDIT,
    403: ErrorCode.INVALID_INPUT, 404: ErrorCode.INVALID_INPUT, 413: ErrorCode.INVALID_INPUT,
    415: ErrorCode.INVALID_INPUT, 422: ErrorCode.INVALID_INPUT,
}  # fmt: skip
PAUSING = frozenset({ErrorCode.AUTHENTICATION, ErrorCode.OUT_OF_CREDIT})
NOT_READ = {401: "authentication", 403: "authentication", 429: "rate_limited"}
# 403 is "out of credit" and every other "you may not": only its documented text tells, the whole of it.
NO_CREDIT = frozenset(
    {
        "you've run out of credits. please top up your balance or update your payment method to continue:"
        " https://aimlapi.com/app/billing/",
        "you've run out of credits. please top up your balance or update your payment method to continue:"
        " https://aimlapi.com/app/billing",
    }
)

STT_PATH = "/v1/stt/"
BILLING_PATHS = ("/v2/billing", "/v1/billing/balance")  # the second is older, and announced to go
MODELS_PATH = "/v1/models"
MARGIN_MS = 10 * 60_000  # our clock and theirs may differ
UNKNOWN_AGE_MS = 7 * 86_400_000  # how far back a request is searched that was not ours
LOOKUP_PAGES = 50  # of the logs, which allow 200 requests a minute
HISTORY_PAGES = 150

VIDEO = re.compile(r"(v[0-9]/)?video/generations|v[0-9]/generate/video/[^/]+/generation")
MUSIC = re.compile(r"v[0-9]/generate/audio(/minimax/generate)?")
POLLED = (("video", VIDEO), ("music", MUSIC))
SUBMITS = (
    *POLLED,
    ("speech_to_text", re.compile(r"(v[0-9]/)?stt/create")),
    ("image", re.compile(r"v[0-9]/images/(generations|edits)")),
    ("speech", re.compile(r"v[0-9]/tts")),
)
STT_RESULT = re.compile(r"(v[0-9]/)?stt/(?P<id>.+)")


def documented(name: str) -> dict[str, Documented]:
    """The catalogs in `<name>.catalog.json` beside this file."""
    kinds = json.loads(Path(__file__).with_name(f"{name}.catalog.json").read_bytes())
    return {kind: Documented(as_of=given["as_of"], data=tuple(given["data"])) for kind, given in kinds.items()}


class AIMLAPI(Provider):
    """The `Provider` for https://api.aimlapi.com. Its unit is the credit: every count of usage is in credits, and
    only some name dollars, too.
    """

    name = "aimlapi"
    title = "AI/ML API"
    base_url = "https://api.aimlapi.com"
    operations: Mapping[str, Operation] = operation_table(__file__, "aimlapi")
    unit = CREDITS
    catalogs = documented("aimlapi")
    reads_history = True
    free_if_failed = True
    correlation_header = "X-Client-Request-Id"

    def submit(self, call: Call) -> Submitting:
        """One charging POST under our request id, which is for looking it up: sent twice, it charges twice."""
        operation = self.operations[call.operation]
        try:
            body = _with_urls(operation, call)
        except Invalid as refused:
            return Refused(error=JobError(code=ErrorCode.INVALID_INPUT, message=refused.detail))
        reply = yield Request(
            method="POST",
            url=call.base_url + operation.path,
            headers={**_headers(call), "Content-Type": "application/json", "X-Client-Request-Id": call.correlation},
            body=json.dumps(body, separators=(",", ":")).encode(),
            charges=True,
        )
        return _read_submit(call, operation, reply)

    def allows(self, call: Call) -> None:
        """Files are given as URLs of ours, which AI/ML API has to reach."""
        _with_urls(self.operations[call.operation], call)

    def submit_reply(self, call: Call) -> Json | None:
        """The generation's id; what is answered at once has its result in the reply alone."""
        if self.operations[call.operation].immediate or not call.provider_job_ids:
            return None
        return {"id": call.provider_job_ids[0], "status": "queued"}

    def status(self, call: Call, provider_job_id: str) -> Asking:
        """One GET of the result; a second where it is said to be there, and is not."""
        operation = self.operations[call.operation]
        if operation.immediate:
            verdict: StatusVerdict = yield from _status_by_logs(call, provider_job_id)
            return verdict
        url = _status_url(call, operation, provider_job_id)
        ask = Request(method="GET", url=url, headers=_headers(call))
        verdict = _read_status(operation, (yield ask), url)
        young = call.submitted_at is not None and call.now - call.submitted_at < PATIENCE_MS
        if young or not _is_empty(verdict):
            return verdict
        again = _read_status(operation, (yield ask), url)
        return _gave_nothing(again) if _is_empty(again) else again

    def lookup(self, call: Call) -> Looking:
        """Read the logs back to before the POST for a row with our request id.

        Never conclusive: they list requests that have ended, and how soon after that is not documented.
        """
        since = call.submitted_at or call.now
        ours = yield from _search(call, since, lambda row: row.get("client_request_id") == call.correlation)
        return logs.verdict(ours, self.operations[call.operation]) if isinstance(ours, dict) else ours

    def check(self, call: Call) -> Generator[Request, Reply, str]:
        """Ask for the balance."""
        reply = yield _get(call, BILLING_PATHS[0])
        said = read_object(reply.body)
        if reply.status == 401 and _message(said):
            raise Invalid(
                "AI/ML API does not accept this key: make one at https://aimlapi.com/app/keys", param="api_key"
            )
        if reply.status == 403 and _message(said):
            return "AI/ML API accepts the key, but does not let it read the balance."
        balance = _balance(said) if reply.status == 200 else None
        if balance is None:
            raise Unavailable(f"AI/ML API answered HTTP {reply.status}, which does not tell whether it accepts the key")
        return f"AI/ML API accepts the key: {balance['amount']} {balance['unit']} are left."

    def balance(self, call: Call) -> Generator[Request, Reply, Json]:
        """What is left, in dollars; in credits where only the older call is there."""
        reply = Reply(status=404, headers={}, body=b"")
        for path in BILLING_PATHS:
            reply = yield _get(call, path)
            if reply.status != 404:
                break
        found = _balance(read_object(reply.body)) if reply.status == 200 else None
        if found is None:
            raise _no_answer(reply, "the balance")
        return found

    def history(self, call: Call, since: int) -> Generator[Request, Reply, Sequence[HistoryRow]]:
        """Every request of this key that has ended, newest first, from the logs (at most 92 days back)."""
        rows: list[Json] = []
        for _ in range(HISTORY_PAGES):
            reply = yield _get(call, logs.path_of(since, call.now, skip=len(rows)))
            page = logs.read_page(reply)
            if page is None:
                raise _no_answer(reply, "the logs")
            rows += page.rows
            if not page.more:
                found = (logs.history_row(row) for row in rows)
                return [row for row in found if row is not None and (row.at is None or row.at >= since)]
        raise Unavailable(f"AI/ML API's logs have more than {len(rows)} rows since then: ask for a shorter time")

    def catalog(self, call: Call, kind: str) -> Generator[Request, Reply, Sequence[Json] | None]:
        """The live list of models, of all kinds; None where it is not to be had."""
        if kind != "models":
            yield from ()
            return None
        reply = yield _get(call, MODELS_PATH)
        rows = read_object(reply.body).get("data") if reply.status == 200 else None
        listed = rows if isinstance(rows, list) else []
        named = [row for row in listed if isinstance(row, dict) and text_of(row.get("id"))]
        return [{"model": row["id"], **row} for row in named] or None

    def fetch(self, call: Call, output: Output) -> Request | None:
        """The details of a transcript are too large for a job, and stay behind the key."""
        if not output.needs_key or not on_origin(output.url, call.base_url):
            return None
        return Request(method="GET", url=output.url, headers=_headers(call))

    def recognise(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Recognised:
        """Vendors' own paths are older names of the same calls."""
        asked = "/".join(path_parts(path))
        if is_account_path(path):
            return Recognised(kind="account")
        if method == "POST":
            for operation, pattern in SUBMITS:
                if pattern.fullmatch(asked):
                    return Recognised(kind="submit", operation=operation, input=read_object(body))
        if method == "GET":
            for operation, named in _asked_for(asked, query):
                return Recognised(kind="status", operation=operation, provider_job_ids=(named,))
        return Recognised(kind="plain")


provider = AIMLAPI()


# -- requests -------------------------------------------------------------------------------------


def _headers(call: Call) -> dict[str, str]:
    return {"Authorization": f"Bearer {call.api_key}"}  # no Accept: speech may come as sound


def _get(call: Call, path: str) -> Request:
    return Request(method="GET", url=call.base_url + path, headers=_headers(call))


def _with_urls(operation: Operation, call: Call) -> Json:
    """The input with a URL in the place of each file. Raises `Invalid` naming the field where there is none."""
    given = call.input
    for use in operation.files(call.input):
        file, param = call.files.get(use.file), ".".join(["input", *map(str, use.path)])
        if file is None or file.url is None:
            raise Invalid(
                f"`{param}` is given to AI/ML API as a URL, and it cannot open ours: set CALLSHEET_PUBLIC_URL to an"
                " address that it can reach, or give a public URL in place of the file.",
                code="file_unreachable",
                param=param,
            )
        given = put(given, use.path, file.url)
    return given


def _status_url(call: Call, operation: Operation, provider_job_id: str) -> str:
    """Ids may have `:` and `/` in them."""
    if operation.name == "speech_to_text":
        return call.base_url + STT_PATH + path_part(provider_job_id)
    return f"{call.base_url}{operation.path}?generation_id={quote(provider_job_id, safe='')}"


def _asked_for(asked: str, query: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for operation, pattern in POLLED:
        named = id_text(query.get("generation_id"))
        if named and pattern.fullmatch(asked):
            yield operation, named
    result = STT_RESULT.fullmatch(asked)
    named = id_text(result["id"]) if result else None
    if named and not {".", ".."} & set(named.split("/")):
        yield "speech_to_text", named


# -- replies to a submit --------------------------------------------------------------------------


def _read_submit(call: Call, operation: Operation, reply: Reply) -> SubmitVerdict:
    said = read_object(reply.body)
    text = _message(said)
    if 200 <= reply.status < 300:
        return _read_success(operation, reply) or failed_in_success(call, reply, "AI/ML API", text)
    own = _not_accepted(reply, said) if text is not None else None
    named = next((found for found in map(id_text, (*_ids(said), reply.headers.get("x-inference-id"))) if found), None)
    return not_accepted(call, reply, ("aimlapi", "AI/ML API"), own=own, job_id=named)


def _not_accepted(reply: Reply, said: Json) -> Refused | NotNow:
    if reply.status == 429:
        return NotNow(reason="rate_limited", after_s=header_wait(reply.headers), whole=True)
    error = _refusal(reply.status, said)
    return Refused(error=error, pauses=error.code in PAUSING)


def _read_success(operation: Operation, reply: Reply) -> Accepted | Done | None:
    """The result, where the reply has it (documented for images, speech and music-01); else the id."""
    said, named = read_object(reply.body), reply.headers.get("x-inference-id")
    update = _update(said, _found(operation, reply, said), reply)
    ids = [found for found in map(id_text, (*_ids(said), named)) if found][:1]
    if operation.immediate and update.outputs:  # whatever its word: there is no other reply to wait for
        update = replace(update, status=JobStatus.SUCCEEDED)
    if update.status != JobStatus.PROCESSING:
        return Done(update=update, provider_job_ids=tuple(ids))
    if operation.immediate or not ids:
        return None
    beyond = {name: value for name, value in said.items() if name not in ("id", "status") and value is not None}
    cost = cost_of(said, reply.headers, "quoted")  # the charge is posted when the work is done
    return Accepted(provider_job_ids=tuple(ids), cost=cost, provider_data=beyond or None)


def _ids(said: Json) -> tuple[Any, ...]:
    data = said.get("data")
    return said.get("id"), said.get("generation_id"), data.get("id") if isinstance(data, dict) else None


def _found(operation: Operation, reply: Reply, said: Json) -> Found:
    content_type = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    sound = content_type.startswith("audio/") or content_type == "application/octet-stream"
    if operation.immediate and operation.output == "audio" and sound and reply.body:
        return raw_audio(reply.body, content_type)
    return found_in(said, operation.output)


def _message(said: Json) -> str | None:
    """The text of an error in AI/ML API's own shape; None for any other body."""
    return error_text(said.get("message")) if any(said.get(name) for name in SHAPE) else None


def _refusal(status: int, said: Json) -> JobError:
    text = _message(said) or ""
    details = error_text(said.get("errors") or said.get("details")) or ""
    code = REFUSALS.get(status, ErrorCode.PROVIDER_ERROR)
    if status == 403 and is_said(text, NO_CREDIT):
        code = ErrorCode.OUT_OF_CREDIT
    elif code == ErrorCode.INVALID_INPUT and moderated(said.get("errors") or said.get("details")):
        code = ErrorCode.CONTENT_MODERATED
    return JobError(
        code=code,
        message=f"AI/ML API refused the submit: {' '.join(filter(None, (text, details)))}",
        provider_code=str(status),
        provider_message=text,
    )


# -- replies to a status --------------------------------------------------------------------------


def _read_status(operation: Operation, reply: Reply, url: str) -> StatusVerdict:
    said = read_object(reply.body)
    if reply.status == 404 and _message(said):
        return NotFound(reason="AI/ML API does not know this id")
    if not 200 <= reply.status < 300 or not text_of(said.get("status")):
        return _not_now(reply)
    found = found_in(said, operation.output)
    if operation.output == "text" and len(reply.body) > WHOLE_BYTES and (found.outputs or found.left_out):
        details = Output(url=url, kind="text", content_type="application/json", bytes=len(reply.body), needs_key=True)
        found = Found(outputs=(*found.outputs, details))
    return _update(said, found, reply)


def _is_empty(verdict: StatusVerdict) -> bool:
    """Whether it is said to be done, and there is no result."""
    if not isinstance(verdict, Update) or verdict.status != JobStatus.PROCESSING:
        return False
    return plain_word(verdict.provider_status) in DONE_WORDS


def _gave_nothing(verdict: StatusVerdict) -> Update:
    word = verdict.provider_status if isinstance(verdict, Update) else None
    error = JobError(
        code=ErrorCode.PROVIDER_ERROR,
        message="AI/ML API says that it is completed, and gives no result.",
        provider_code=word,
    )
    return Update(status=JobStatus.FAILED, error=error, provider_status=word)


def _update(said: Json, found: Found, reply: Reply) -> Update:
    """What a reply says of the work. Where results come at once there is no word for it, only the result."""
    word = text_of(said.get("status")) or ""
    state = plain_word(word)
    done = state in DONE_WORDS or not state
    error, status = None, JobStatus.SUCCEEDED
    if state in FAILED_WORDS or state in CANCELED_WORDS:
        error, status = failure(said, word), JobStatus.FAILED
    elif done and found.left_out and not found.outputs:
        error, status = _too_large(found.left_out), JobStatus.FAILED
    elif not done and state not in UNDER_WAY and found.outputs:  # kept and shown: it may be the end
        data = kept(said, len(reply.body)) or None
        return Update(
            status=JobStatus.PROCESSING, outputs=found.outputs, provider_status=word or None, provider_data=data
        )
    elif not done or not found.outputs:
        return Update(status=JobStatus.PROCESSING, provider_status=word or None)
    return Update(
        status=status,
        outputs=found.outputs if status == JobStatus.SUCCEEDED else (),
        error=error,
        cost=cost_of(said, reply.headers, "reported"),
        provider_status=word or None,
        provider_data=kept(said, len(reply.body)) or None,
    )


def _too_large(size: int) -> JobError:
    return JobError(
        code=ErrorCode.RESULT_EXPIRED,
        message=(
            f"AI/ML API made it and charged for it, but put all {size} bytes into its reply in place of a URL, and a"
            f" job keeps at most {KEPT_BYTES}: ask for URLs (`response_format`), for a compressed `encoding` such as"
            " mp3, or for less."
        ),
    )


def _not_now(reply: Reply) -> NotNow:
    fallback = "provider_error" if reply.status >= 400 else "unreadable"
    return NotNow(
        reason=NOT_READ.get(reply.status, fallback), after_s=header_wait(reply.headers), whole=reply.status == 429
    )


def _no_answer(reply: Reply, what: str) -> Invalid | Unavailable:
    if reply.status == 401:
        return Invalid("AI/ML API does not accept the key", param="api_key")
    return Unavailable(f"AI/ML API answered HTTP {reply.status} in place of {what}", retry_after=60)


def _balance(said: Json) -> Json | None:
    dollars, points = decimal_text(said.get("current_balance")), whole(said.get("balance"))
    if dollars is not None:
        return {"amount": dollars, "unit": text_of(said.get("currency")) or "USD"}
    return {**said, "amount": str(points), "unit": CREDITS} if points is not None and points >= 0 else None


# -- the logs -------------------------------------------------------------------------------------


def _search(
    call: Call, since: int, fits: Callable[[Json], bool]
) -> Generator[Request, Reply, Json | NotFound | NotNow]:
    """The row that fits, newest first. Rows that are added meanwhile make one be read twice, never missed."""
    seen = 0
    for _ in range(LOOKUP_PAGES):
        reply = yield _get(call, logs.path_of(since - MARGIN_MS, call.now, skip=seen))
        page = logs.read_page(reply)
        if page is None:
            return _not_now(reply)
        seen += len(page.rows)
        ours = next((row for row in page.rows if fits(row)), None)
        if ours is not None:
            return ours
        if not page.more:
            break
    return NotFound(reason=f"AI/ML API's logs ({seen} rows) do not show this submit; a running job is not in them")


def _status_by_logs(call: Call, provider_job_id: str) -> Asking:
    """There is no call for the status of an image or of speech: the logs are all that is left of it."""
    since = call.submitted_at or call.now - UNKNOWN_AGE_MS
    row = yield from _search(call, since, lambda row: row.get("inference_id") == provider_job_id)
    return logs.lost_result(row) if isinstance(row, dict) else row
