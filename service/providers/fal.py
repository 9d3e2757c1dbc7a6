"""fal: any model, by its queue. Facts: https://docs.fal.ai (queue, webhooks and platform pages).

It calls a URL of each job's own for two hours, signed by Ed25519 with keys that are the same for all its customers,
so that a callback alone never says whose request it names. There is no idempotency key: a submit whose reply was lost
is named by its callback, or found in the list of requests by its input. A result is kept for an hour, a large one for
six minutes, unless the account stores payloads.
"""

import json
import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from msgspec.structs import asdict, replace

from service.errors import BadRequest, Invalid, Unavailable
from service.facts import (
    Accepted,
    Cost,
    Done,
    JobError,
    NotFound,
    NotNow,
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
    Recognised,
    Reply,
    Request,
    Submitting,
    operation_table,
)
from service.providers import _fal_platform as platform
from service.providers._fal_apps import RUN_HOST, Places, asked_about, is_run, model_of, places, split_id, submitted_to
from service.providers._fal_callbacks import public_keys, verify
from service.providers._fal_outputs import outputs_of
from service.providers._reading import (
    AMBIGUOUS,
    MAX_QUOTED_CHARS,
    header_wait,
    id_text,
    is_account_path,
    is_account_root,
    is_said,
    path_part,
    read_json,
    read_object,
    said_text,
    text_of,
    whole,
)
from service.providers._refusals import failed_in_success, not_accepted
from service.states import ErrorCode, JobStatus, Json

KEYS_URL = "https://rest.fal.ai/.well-known/jwks.json"  # older pages say rest.alpha.fal.ai
KEYS_PATH = "/.well-known/jwks.json"  # below any other base URL
NOBODYS = "/fal-ai/flux/requests/00000000-0000-0000-0000-000000000000/status"
# fal repeats what failed on its side up to ten times and does not charge for it, so that nothing here is set unasked.
OPTIONS = {
    "no_retry": "X-Fal-No-Retry",
    "start_timeout": "X-Fal-Request-Start-Timeout",  # seconds within which the work must start
    "request_timeout": "X-Fal-Request-Timeout",  # its older name
    "queue_priority": "X-Fal-Queue-Priority",
    "runner_hint": "X-Fal-Runner-Hint",
    "store_io": "X-Fal-Store-IO",
    "media_life": "X-Fal-Object-Lifecycle-Preference",
}

REFUSALS = {
    401: ErrorCode.AUTHENTICATION,
    402: ErrorCode.OUT_OF_CREDIT,
    403: ErrorCode.AUTHENTICATION,  # this model is not this key's to use
}
NO_BALANCE = frozenset(  # the whole `detail` of a 403, as accounts get it whose balance is out
    {
        "user is locked. reason: exhausted balance. top up your balance at fal.ai/dashboard/billing",
        "user is locked. reason: exhausted balance. top up your balance",
        "user is locked. reason: exhausted balance",
        "user is locked. reason: top_up",
    }
)
NOT_READ = {401: "authentication", 402: "out_of_credit", 403: "authentication", 429: "rate_limited"}
MODERATED_TYPES = frozenset({"content_policy_violation"})
CANCELED_TYPES = frozenset({"client_cancelled", "client_canceled"})
CANCELED_TEXTS = CANCELED_TYPES | {"request was cancelled", "request was canceled"}  # whole, where there is no type
MODELS_STATUS = re.compile(r"\w+ status code:? ([0-9]{3})\.?")  # how fal words a model's own refusal, the whole text
# What a model's own end never is: our key, the rate of our questions.
ABOUT_US = AMBIGUOUS | {401, 402, 403, 429}
GATEWAY = frozenset({502, 503, 504})  # nor these, but where the reply says whose word it is
GONE = frozenset({404, 410})
RESULT_EXPIRED = "result_expired"
STILL_OPEN = "still in progress"  # of a result that is asked for too early
REQUEST_ID = "x-fal-request-id"
ERROR_TYPE, TIMEOUT_TYPE = "x-fal-error-type", "x-fal-request-timeout-type"
COMPLETED = "COMPLETED"
OPEN_WORDS = frozenset({"IN_QUEUE", "IN_PROGRESS"})
# Not in the documents; fal's own node for n8n takes them as ends.
FAILED_WORDS, CANCELED_WORDS = frozenset({"FAILED"}), frozenset({"CANCELLED", "CANCELED"})

BELOW = "fal keeps requests below their model: name it <owner>/<name>/requests/<id>"
AT_SUBMIT = frozenset({"request_id", "status", "queue_position", "logs", "metrics"})


class Fal(Provider):
    """The `Provider` for https://queue.fal.run."""

    name = "fal"
    title = "fal"
    base_url = "https://queue.fal.run"
    operations: Mapping[str, Operation] = operation_table(__file__, "fal")
    unit = "usd"
    key_header = ("Authorization", "Key ")
    callback_signed = True
    callback_keys = "provider"
    callback_max_bytes = 8 * 1024 * 1024  # `payload` may hold media as data URIs
    url_fields = frozenset(Places.__struct_fields__)
    other_origins = frozenset({f"https://{platform.HOST}", f"https://{RUN_HOST}"})

    def submit(self, call: Call) -> Submitting:
        """One charging POST: the model's input is the whole body."""
        told = ""
        if call.callback_url is not None and not is_run(call.input):
            told = f"?fal_webhook={quote(call.callback_url, safe='')}"
        asked = {header: call.options[name] for name, header in OPTIONS.items() if call.options.get(name)}
        reply = yield Request(
            method="POST",
            url=f"{self.address(call.base_url, f'/{_model(call)}')}{told}",
            headers={**_headers(call), "Content-Type": "application/json", **asked},
            body=json.dumps(call.input.get("input", {}), separators=(",", ":")).encode(),
            charges=True,
        )
        if is_run(call.input) and 200 <= reply.status < 300:
            return (yield from self._ran(call, reply))
        return _read_submit(call, reply)

    def address(self, base_url: str, path: str) -> str:
        """Below the base URL, but what runs on fal.run."""
        if not path.startswith(f"/{RUN_HOST}/"):
            return base_url + path
        return platform.host_of(base_url, self.base_url, RUN_HOST) + path.removeprefix(f"/{RUN_HOST}")

    def submit_reply(self, call: Call) -> Json | None:
        """The ids and URLs of a request in the queue."""
        model = model_of(_model(call))
        if model is None or is_run(call.input) or not call.provider_job_ids:
            return None
        request_id = call.provider_job_ids[0]
        at = places(call.base_url, model, request_id, call.provider_data or {})
        return {"status": "IN_QUEUE", "request_id": request_id, **asdict(at)}

    def _ran(self, call: Call, reply: Reply) -> Submitting:
        """The reply of fal.run is the result, and a header names the request."""
        content, named = read_json(reply.body), id_text(reply.headers.get(REQUEST_ID))
        if content is None or named is None:
            return _accepted({}, reply.headers) or Unknown(reason="a success without an id")
        model = model_of(_model(call)) or ""
        cost = yield from platform.cost_of(call, self._platform(call), model, reply.headers)
        return Done(update=_succeeded(content, _billed(reply), cost), provider_job_ids=(named,))

    def status(self, call: Call, provider_job_id: str) -> Asking:
        """The status, then the result of what is completed, then its price."""
        model, request_id = split_id(provider_job_id, call.input)
        if model is None:
            return NotFound(reason=BELOW)
        if is_run(call.input):
            return _listed((yield from platform.row_of(call, self._platform(call), model, request_id)))
        at = places(call.base_url, model, request_id, call.provider_data or {})
        reply = yield _get(call, at.status_url)
        said = read_object(reply.body)
        if not _is_completed(reply):
            found = _under_way(reply, said)
            if not isinstance(found, Update) or found.status is not JobStatus.PROCESSING or _word(said) in OPEN_WORDS:
                return found
            beside = yield _get(call, at.response_url, optional=True)
            return _shown(found, read_json(beside.body) if beside.status == 200 else None, said)
        result = yield _get(call, at.response_url)
        if result.status == 200 and (content := read_json(result.body)) is not None:
            cost = yield from platform.cost_of(call, self._platform(call), model, result.headers)
            return _succeeded(content, {**said, **_billed(result)}, cost)
        if _is_gone(result, said):
            # What it was is paid for. Not to be had here any more, it may stand in the list, or come back.
            row = yield from platform.row_of(call, self._platform(call), model, request_id)
            kept = row.get("json_output") if row is not None else None
            return NotNow(reason=RESULT_EXPIRED) if kept is None else _succeeded(kept, said)
        if not _ended_badly(result, said):
            return _not_now(result)
        # Terminal is for ever: that it is completed must hold after its result was refused, too.
        again = yield _get(call, at.status_url)
        early = STILL_OPEN in (_error_text(read_object(result.body)) or "")
        return _failed(result, said) if _is_completed(again) and not early else _not_now(again)

    def cancel(self, call: Call, provider_job_id: str) -> Asking:
        """A request that waits is removed; of one that runs its model decides, and its end comes like any other."""
        model, request_id = split_id(provider_job_id, call.input)
        if model is None:
            return NotFound(reason=BELOW)
        at = places(call.base_url, model, request_id, call.provider_data or {})
        reply = yield Request(method="PUT", url=at.cancel_url, headers=_headers(call))
        word = _word(read_object(reply.body)) or ""
        if 200 <= reply.status < 300:
            return Update(status=JobStatus.PROCESSING, provider_status=word or None)
        if word == "NOT_FOUND":
            return NotFound(reason="fal does not know this id")
        return NotNow(reason="already_completed") if word == "ALREADY_COMPLETED" else _not_now(reply)

    def check(self, call: Call) -> Generator[Request, Reply, str]:
        """Ask for a request that cannot exist: 401 judges the key, 404 comes after the key was accepted."""
        reply = yield _get(call, call.base_url + NOBODYS)
        said = read_object(reply.body)
        if reply.status == 401:
            raise Invalid("fal does not accept this key: make one in its dashboard", param="api_key")
        if reply.status == 403 and is_said(_error_text(said), NO_BALANCE):
            return "fal accepts the key, but its balance is used up."
        if reply.status != 404 or _error_text(said) is None:
            raise Unavailable(f"fal answered HTTP {reply.status}, which does not tell whether it accepts the key")
        return "fal accepts the key."

    def follows(self, operation: str, provider_job_id: str) -> None:
        """A request of another's has no model that we know: its id must name it."""
        model, request_id = split_id(provider_job_id, {})
        if model is None or not request_id:
            raise Invalid(
                "fal keeps requests below their model: give <owner>/<name>/requests/<id>", param="provider_job_id"
            )

    def lookup(self, call: Call) -> Looking:
        """The requests in fal's list that may be this submit; until it is over the callback may name it, too."""
        model = model_of(str(call.input.get("model", "")))
        return (yield from platform.look_up(call, self._platform(call), model))

    def _platform(self, call: Call) -> str:
        return platform.base_of(call, self.base_url)

    def keys(self, call: Call) -> Generator[Request, Reply, Sequence[str]]:
        """The public keys that sign all of fal's callbacks, in base64url. Asked for without our key."""
        beside = KEYS_URL if call.base_url == self.base_url else call.base_url + KEYS_PATH
        url = call.options.get("keys_url") or beside
        reply = yield Request(method="GET", url=url, headers={"Accept": "application/json"})
        keys = public_keys(read_object(reply.body).get("keys"))
        if reply.status != 200 or not keys:
            raise Unavailable(f"fal's public keys could not be read: HTTP {reply.status}")
        return keys

    def verify_callback(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: int) -> bool:
        """Whether the callback is fresh. Raises `SignatureRefused` where no key proves it or it is from the future."""
        return verify(headers, body, secrets, now)

    def read_callback(self, body: bytes) -> ReadCallback:
        """The ids and the update. Raises `BadRequest` where the body has no usable `request_id` and `status`.

        OK without a payload (fal could not write it down) is no end here: the result is read like any other.
        """
        said = read_object(body)
        provider_job_id, word = id_text(said.get("request_id")), text_of(said.get("status"))
        if provider_job_id is None or word is None:
            raise BadRequest("the body has no `request_id` or no `status`")
        update = _called_back(said, word.strip().upper())
        dedupe_key = f"{provider_job_id}:{word}{':open' if update.status is JobStatus.PROCESSING else ''}"
        other = id_text(said.get("gateway_request_id"))
        also = (other,) if other is not None and other != provider_job_id else ()
        return ReadCallback(provider_job_id=provider_job_id, update=update, dedupe_key=dedupe_key, also=also)

    def recognise(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Recognised:
        """A POST to a model's path is a submit; what stands below `requests` is about one request."""
        if is_account_root(path):
            return Recognised(kind="account")
        model = submitted_to(path) if method == "POST" else None
        if model is not None:
            return Recognised(kind="submit", operation="queue", input={"model": model, "input": read_object(body)})
        named = asked_about(path) if method == "GET" else None
        if named is not None:
            return Recognised(kind="status", operation="queue", provider_job_ids=(named,))
        return Recognised(kind="account" if is_account_path(path) else "plain")


provider = Fal()


# -- requests -------------------------------------------------------------------------------------


def _headers(call: Call) -> dict[str, str]:
    return {"Authorization": f"Key {call.api_key}", "Accept": "application/json"}


def _get(call: Call, url: str, *, optional: bool = False) -> Request:
    return Request(method="GET", url=url, headers=_headers(call), optional=optional)


def _model(call: Call) -> str:
    named = str(call.input.get("model", ""))
    model = model_of(named)
    if model is None:
        return path_part(named)
    return f"{RUN_HOST}/{model}" if is_run(call.input) else model


# -- replies --------------------------------------------------------------------------------------


def _read_submit(call: Call, reply: Reply) -> SubmitVerdict:
    said = read_object(reply.body)
    text = _error_text(said)
    if 200 <= reply.status < 300:
        return _accepted(said, reply.headers) or failed_in_success(call, reply, "fal", text)
    named = id_text(said.get("request_id"))
    own = _refused(reply, said) if text is not None else None
    return not_accepted(call, reply, ("fal", "fal"), own=own, job_id=named)


def _accepted(said: Json, headers: Mapping[str, str]) -> Accepted | None:
    provider_job_id = id_text(said.get("request_id")) or id_text(headers.get(REQUEST_ID))
    if provider_job_id is None:
        return None
    about = {name: value for name, value in said.items() if name not in AT_SUBMIT}
    return Accepted(provider_job_ids=(provider_job_id,), provider_data=about or None)


def _refused(reply: Reply, said: Json) -> Refused | NotNow:
    if reply.status == 429:
        return NotNow(reason="rate_limited", after_s=header_wait(reply.headers), whole=True)
    status, text = reply.status, _error_text(said) or ""
    code = REFUSALS.get(status, ErrorCode.INVALID_INPUT)
    if status == 403 and is_said(text, NO_BALANCE):
        code = ErrorCode.OUT_OF_CREDIT
    elif code is ErrorCode.INVALID_INPUT and _is_moderated(said):
        code = ErrorCode.CONTENT_MODERATED
    error = JobError(
        code=code, message=f"fal refused the submit: {text}", provider_code=str(status), provider_message=text
    )
    return Refused(error=error, pauses=status == 401 or code is ErrorCode.OUT_OF_CREDIT)


def _error_text(said: Json) -> str | None:
    """`detail` is a text, or a list of what is wrong with which field; a status has its text in `error`."""
    detail = said.get("detail")
    if isinstance(detail, list):
        lines = [_one_detail(item) for item in detail if isinstance(item, dict)]
        return "; ".join(filter(None, lines))[:MAX_QUOTED_CHARS] or None
    return text_of(detail) or said_text(said.get("error"))


def _one_detail(item: Json) -> str:
    loc, text = item.get("loc"), text_of(item.get("msg")) or ""
    place = ".".join(str(step) for step in loc) if isinstance(loc, list) else ""
    return f"{place}: {text}" if place and text else text


def _is_moderated(said: Json) -> bool:
    detail = said.get("detail")
    kinds = [item.get("type") for item in detail if isinstance(item, dict)] if isinstance(detail, list) else []
    return any(isinstance(kind, str) and kind in MODERATED_TYPES for kind in (*kinds, said.get("error_type")))


def _not_now(reply: Reply) -> NotNow:
    """A question without a usable answer, in one stable word."""
    fallback = "provider_error" if reply.status >= 500 else "unreadable"
    reason = NOT_READ.get(reply.status, fallback)
    return NotNow(reason=reason, after_s=header_wait(reply.headers), whole=reply.status == 429)


def _word(said: Json) -> str | None:
    """The status as it is compared: without case and blanks."""
    word = said.get("status")
    return word.strip().upper() or None if isinstance(word, str) else None


def _is_completed(reply: Reply) -> bool:
    """Whether it is over, well or badly: then its result says which."""
    return 200 <= reply.status < 300 and _word(read_object(reply.body)) == COMPLETED


def _under_way(reply: Reply, said: Json) -> StatusVerdict:
    word = _word(said)
    if reply.status == 404 and _error_text(said) is not None:
        return NotFound(reason="fal does not know this id")
    if not 200 <= reply.status < 300 or word is None:
        return _not_now(reply)
    shown = text_of(said.get("status"))
    if word in FAILED_WORDS or word in CANCELED_WORDS:
        return _failed(None, said)
    # Any other word is not an end: the job's deadline bounds it.
    position = whole(said.get("queue_position"))
    position = position if position is not None and 0 <= position <= 10**9 else None
    return Update(status=JobStatus.PROCESSING, queue_position=position, provider_status=shown)


def _shown(found: Update, content: Any, said: Json) -> Update:
    """A word that nobody documented, with the result that stands beside it."""
    if content is None:
        return found
    return replace(found, outputs=tuple(outputs_of(content)), provider_data=_kept(said, content))


def _is_gone(result: Reply, said: Json) -> bool:
    """Whether the result of a request that completed without an error is not at its place any more."""
    named = said_text(said.get("error")) is not None or ERROR_TYPE in result.headers
    return result.status in GONE and not named


def _ended_badly(result: Reply, said: Json) -> bool:
    """Whether a refused result is the end of the request, and not of our question."""
    if result.status < 400 or (result.status in ABOUT_US and not said.get("error")):
        return False
    if said_text(said.get("error")) is not None:  # the status says it, too
        return True
    if ERROR_TYPE in result.headers or result.headers.get(TIMEOUT_TYPE) == "user":
        return True
    return result.status not in GATEWAY and _error_text(read_object(result.body)) is not None


def _listed(row: Json | None) -> StatusVerdict:
    """What the list says of a run on fal.run, which has no status of its own."""
    code, content = (whole(row.get("status_code")), row.get("json_output")) if row is not None else (None, None)
    if code is None:
        return NotNow(reason="unreadable")
    if code >= 400:
        return _failed(None, {}, content if isinstance(content, dict) else {}, code)
    return NotNow(reason=RESULT_EXPIRED) if content is None else _succeeded(content, {})


def _billed(result: Reply) -> Json:
    units = result.headers.get(platform.UNITS_HEADER)
    return {} if units is None else {"billable_units": text_of(units)}


def _kept(said: Json, payload: Any) -> Json:
    return {**{name: value for name, value in said.items() if name not in Places.__struct_fields__}, "payload": payload}


def _succeeded(content: Any, said: Json, cost: Cost | None = None) -> Update:
    return Update(
        status=JobStatus.SUCCEEDED,
        outputs=tuple(outputs_of(content)),
        cost=cost,
        provider_status=text_of(said.get("status")),
        provider_data=_kept(said, content),
    )


def _failed(result: Reply | None, said: Json, detail: Json | None = None, status: int = 0) -> Update:
    """`result` or `detail` says what went wrong, `said` what the status or the callback says beside it."""
    headers = result.headers if result is not None else {}
    detail = read_object(result.body) if result is not None else detail or {}
    status = result.status if result is not None else status
    kind = text_of(said.get("error_type")) or text_of(headers.get(ERROR_TYPE))
    texts = [_error_text(detail), said_text(said.get("error")), kind]
    word, data = text_of(said.get("status")), _kept(said, detail)
    canceled = kind in CANCELED_TYPES or any(is_said(text, CANCELED_TEXTS) for text in texts)
    if canceled or _word(said) in CANCELED_WORDS:
        return Update(status=JobStatus.CANCELED, provider_status=word, provider_data=data)
    text = next(filter(None, texts), None)
    error = JobError(
        code=_code_of(status, headers, kind, moderated=_is_moderated(detail) or _is_moderated(said)),
        message=f"fal ended the request: {text or 'it gives no reason'}",
        retryable=status >= 500,
        provider_code=kind or (str(status) if status else word),
        provider_message=text,
    )
    return Update(status=JobStatus.FAILED, error=error, provider_status=word, provider_data=data)


def _code_of(status: int, headers: Mapping[str, str], kind: str | None, *, moderated: bool) -> ErrorCode:
    if moderated or kind in MODERATED_TYPES:
        return ErrorCode.CONTENT_MODERATED
    if headers.get(TIMEOUT_TYPE) == "user":  # it did not start within the time that its submit gave it
        return ErrorCode.DEADLINE_EXCEEDED
    return ErrorCode.INVALID_INPUT if status == 422 else ErrorCode.PROVIDER_ERROR


def _beside(said: Json) -> Json:
    return {name: value for name, value in said.items() if name != "payload"}


def _called_back(said: Json, word: str) -> Update:
    payload = said.get("payload")
    if word == "OK" and payload is not None:
        return _succeeded(payload, _beside(said))
    if word != "ERROR":
        return _shown(Update(status=JobStatus.PROCESSING, provider_status=word), payload, _beside(said))
    status = MODELS_STATUS.fullmatch(str(said.get("error")))
    detail = payload if isinstance(payload, dict) else {}
    return _failed(None, said, detail, int(status[1]) if status else 0)
