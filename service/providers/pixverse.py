"""PixVerse: videos and images. Facts: https://docs.platform.pixverse.ai; what it leaves open is said where it matters.

HTTP 200 is not success, `ErrCode` 0 is. The same `Ai-trace-id` never makes a second video, so a submit whose reply was
lost is repeated with it. Callbacks are signed over the body's fields, not over its bytes.
"""

import base64
import hmac
import json
import re
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote, quote_plus

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
from service.states import ErrorCode, JobStatus, Json, Record

API = "/openapi/v2"
# By the operation's output: the field that carries a new id, and where its result is asked for.
RESULTS = {"video": ("video_id", f"{API}/video/result/"), "image": ("image_id", f"{API}/image/result/")}

# No proof of anything about this request, whatever the body says (DESIGN section 3.1).
AMBIGUOUS = frozenset({408, 409, 425})
AT_CAPACITY = 500044  # the plan's limit of concurrent generations; it clears as they end
# The table of codes could not be read; these are from PixVerse's own MCP server.
BY_CODE = dict.fromkeys(range(10001, 10006), ErrorCode.AUTHENTICATION)
BY_HTTP_STATUS = {401: ErrorCode.AUTHENTICATION, 403: ErrorCode.AUTHENTICATION}
# For all other codes the text decides; the first line that fits counts ("invalid api key" is no invalid input).
BY_WORDS = (
    (ErrorCode.AUTHENTICATION, ("api key", "api-key", "apikey", "unauthorized")),
    (ErrorCode.OUT_OF_CREDIT, ("balance", "credit")),
    (ErrorCode.CONTENT_MODERATED, ("moderation", "moderated", "sensitive", "nsfw", "content policy")),
    (ErrorCode.INVALID_INPUT, ("parameter", "param", "invalid", "binding")),
)
NOT_THERE = ("not found", "not exist")
NOT_READ = {401: "authentication", 403: "authentication", 429: "rate_limited"}

SUCCEEDED = 1  # 5 (also 2 and 3) is under way; any other number is not known to be an end
FAILURES = {
    6: (ErrorCode.PROVIDER_ERROR, "PixVerse deleted the result"),
    7: (ErrorCode.CONTENT_MODERATED, "PixVerse's moderation refused the content"),
    8: (ErrorCode.PROVIDER_ERROR, "PixVerse could not generate it"),
}

USAGE_PATH = f"{API}/account/billing/usage-detail"
USAGE_TIME = "%Y-%m-%d %H:%M:%S"
USAGE_MARGIN_MS = 10 * 60_000  # our clock and theirs may differ
USAGE_SPAN_MS = 30 * 86_400_000 - 2 * USAGE_MARGIN_MS  # the call takes at most 30 days
USAGE_ROWS = 100
USAGE_PAGES = 50
TRACE_FIELDS = frozenset({"trace_id", "ai_trace_id"})  # the fields of a row are not documented

CALLBACK_TOLERANCE_S = 300
CALLBACK_FIELDS = 64  # six are documented
CALLBACK_HEADERS = {
    "webhook-timestamp": re.compile(r"[0-9]{1,12}"),
    "webhook-nonce": re.compile(r"[!-~]{1,128}"),  # 32 characters, say the documents
    "webhook-signature": re.compile(r"[A-Za-z0-9+/]{43}="),
}
MAX_QUOTED_CHARS = 1000  # of a provider's text in our records
LARGEST_NUMBER = 10**9  # of credits or pixels; NaN and infinity fail the comparison, too


class Envelope(Record, frozen=True, kw_only=True):
    """What every reply is wrapped in: `ErrCode`, `ErrMsg`, `Resp` (null or missing is read as empty)."""

    code: int
    text: str
    resp: Json


class PixVerse(Provider):
    """The `Provider` for https://app-api.pixverse.ai."""

    name = "pixverse"
    title = "PixVerse"
    base_url = "https://app-api.pixverse.ai"
    operations: Mapping[str, Operation] = operation_table(__file__, "pixverse")
    callback_signed = True
    callback_per_account = True
    callback_max_bytes = 65_536  # its callbacks are small; every reading of a body is formed and compared
    callback_reply = (200, "text/plain", b"ok")  # exactly these two bytes, else it repeats eight times

    def submit(self, call: Call) -> Submitting:
        """One charging POST under the job's own trace id, which PixVerse never makes a second video for."""
        operation = self.operations[call.operation]
        called_back = operation.callback and call.callback_id is not None
        body = {**call.input, "webhook_id": call.callback_id} if called_back else call.input
        reply = yield _post(call, operation.path, body, trace=call.correlation, charges=True)
        return _read_submit(call, operation, reply)

    def status(self, call: Call, provider_job_id: str) -> Asking:
        """One GET of the result."""
        kind = self.operations[call.operation].output
        # Dots are encoded so that no id can climb to another path.
        path = RESULTS[kind][1] + quote(provider_job_id, safe="").replace(".", "%2E")
        reply = yield _get(call, path)
        return _read_status(reply, kind)

    def lookup(self, call: Call) -> Looking:
        """Read the usage detail back to before the first POST for a row with our trace id.

        Never conclusive: neither that every accepted submit is listed nor that rows carry the trace id is documented.
        """
        kind, cursor = self.operations[call.operation].output, None
        for page in range(USAGE_PAGES):
            reply = yield _post(call, USAGE_PATH, _usage_query(call, cursor), trace=_trace(call, f"usage {page}"))
            said = _envelope(reply)
            if said is None or said.code != 0:
                return _not_now(reply, said)
            if found := _row_of_ours(call, said.resp, kind):
                return found
            cursor = said.resp.get("next_cursor")
            if not said.resp.get("has_more") or not cursor:
                break
        return NotFound(reason="PixVerse's usage detail shows no row with this submit's trace id")

    def check(self, call: Call) -> Generator[Request, Reply, str]:
        """Ask for the balance."""
        reply = yield _get(call, f"{API}/account/balance")
        said = _envelope(reply)
        if said is not None and _category(reply, said) == ErrorCode.AUTHENTICATION:
            raise Invalid("PixVerse does not accept this key: it may be another region's", param="api_key")
        if said is None or said.code != 0 or reply.status != 200:
            raise Unavailable(f"PixVerse answered HTTP {reply.status}, which does not tell whether it accepts the key")
        purses = [_decimal(said.resp.get(purse)) or "?" for purse in ("credit_monthly", "credit_package")]
        return f"PixVerse accepts the key: {purses[0]} monthly and {purses[1]} package credits."

    def verify_callback(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: int) -> bool:
        """Whether the callback is fresh. Raises `SignatureRefused` where no secret proves it or it is from the future.

        Rule: base64 of HMAC-SHA256 over timestamp, nonce and the form-encoded fields, joined by line feeds.
        """
        timestamp, nonce, signature = _signed_headers(headers)
        head = f"{timestamp}\n{nonce}\n".encode()
        # Each is compared in constant time; which reading of the rule fits is no secret.
        texts = (head + query for query in _queries(body))
        if not any(hmac.compare_digest(_sign(key, text), signature) for text in texts for key in secrets if key):
            raise SignatureRefused("no secret that we have makes this signature")
        age_s = now - int(timestamp)
        if age_s < -CALLBACK_TOLERANCE_S:
            raise SignatureRefused("the timestamp is in the future")
        return age_s <= CALLBACK_TOLERANCE_S

    def read_callback(self, body: bytes) -> ReadCallback:
        """The id and the update. Raises `BadRequest` where the body has no usable `id` and `status`."""
        try:
            said = json.loads(body.decode(), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise BadRequest("the body is not one JSON object") from None
        if not isinstance(said, dict):
            raise BadRequest("the body is not one JSON object")
        # Only videos are documented to be called back.
        provider_job_id, update = _id_text(said.get("id")), _update(said, "video")
        if provider_job_id is None or update is None:
            raise BadRequest("the body has no `id` or no `status`")
        # A success that has no result yet must not make the later one a duplicate.
        dedupe_key = f"{provider_job_id}:{update.provider_status}{'' if update.outputs or update.error else ':open'}"
        return ReadCallback(provider_job_id=provider_job_id, update=update, dedupe_key=dedupe_key)


provider = PixVerse()


# -- requests -------------------------------------------------------------------------------------


def _post(call: Call, path: str, body: Json, *, trace: str, charges: bool = False) -> Request:
    headers = {"API-KEY": call.api_key, "Ai-trace-id": trace, "Content-Type": "application/json"}
    sent = json.dumps(body, separators=(",", ":")).encode()
    return Request(method="POST", url=call.base_url + path, headers=headers, body=sent, charges=charges)


def _get(call: Call, path: str) -> Request:
    headers = {"API-KEY": call.api_key, "Ai-trace-id": _trace(call, path)}
    return Request(method="GET", url=call.base_url + path, headers=headers)


def _trace(call: Call, about: str) -> str:
    """Every request wants a trace id of its own; this one differs by job, question and time."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{call.correlation} {about} {call.now}"))


def _usage_query(call: Call, cursor: Any) -> Json:
    end = max(call.now, call.submitted_at or 0) + USAGE_MARGIN_MS
    start = max((call.submitted_at or 0) - USAGE_MARGIN_MS, end - USAGE_SPAN_MS, 0)
    query: Json = {"start_time": _utc(start), "end_time": _utc(end), "limit": USAGE_ROWS, "credits_status": "consume"}
    return {**query, "cursor": cursor} if cursor else query


def _utc(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds // 1000, UTC).strftime(USAGE_TIME)


# -- replies --------------------------------------------------------------------------------------


def _envelope(reply: Reply) -> Envelope | None:
    """The reply in PixVerse's shape; None for what is not."""
    try:
        said = read_json(reply.body)
    except RecursionError:
        return None
    code = _whole(said.get("ErrCode")) if isinstance(said, dict) else None
    if code is None:
        return None
    text, resp = said.get("ErrMsg"), said.get("Resp")
    return Envelope(
        code=code,
        text=text[:MAX_QUOTED_CHARS] if isinstance(text, str) else "",
        resp=resp if isinstance(resp, dict) else {},
    )


def _read_submit(call: Call, operation: Operation, reply: Reply) -> SubmitVerdict:
    said = _envelope(reply)
    answered = 200 <= reply.status < 300
    judged = answered or (400 <= reply.status < 500 and reply.status not in AMBIGUOUS)
    if said is None or not judged:
        return Unknown(reason=f"HTTP {reply.status} is not in PixVerse's shape")
    provider_job_id = _id_text(said.resp.get(RESULTS[operation.output][0]))
    if said.code == 0 and answered and provider_job_id:
        return _accepted(operation.output, said.resp, provider_job_id)
    if said.code == 0 or provider_job_id:
        return Unknown(reason=f"HTTP {reply.status}, ErrCode {said.code}: neither an id nor a refusal")
    if call.repeat:
        return Unknown(reason=f"ErrCode {said.code} to a repeat says nothing about the first submit")
    return _not_accepted(reply, said)


def _accepted(kind: str, resp: Json, provider_job_id: str) -> Accepted:
    known = (RESULTS[kind][0], "credits", "credit")
    return Accepted(
        provider_job_ids=(provider_job_id,),
        cost=_cost(resp),
        provider_data={name: value for name, value in resp.items() if name not in known} or None,
    )


def _not_accepted(reply: Reply, said: Envelope) -> Refused | NotNow:
    if said.code == AT_CAPACITY:
        return NotNow(reason="capacity")
    if reply.status == 429:
        return NotNow(reason="rate_limited", after_s=_wait_s(reply))
    error = JobError(
        code=_category(reply, said),
        message=f"PixVerse refused the submit: {said.text or 'it gives no reason'}",
        provider_code=str(said.code),
        provider_message=said.text,
    )
    return Refused(error=error)


def _category(reply: Reply, said: Envelope) -> ErrorCode:
    known = BY_CODE.get(said.code) or BY_HTTP_STATUS.get(reply.status)
    text = said.text.lower()
    fitting = (code for code, words in BY_WORDS if any(word in text for word in words))
    return known or next(fitting, ErrorCode.PROVIDER_ERROR)


def _read_status(reply: Reply, kind: str) -> StatusVerdict:
    said = _envelope(reply)
    if said is None or (said.code == 0 and reply.status != 200):
        return _not_now(reply, said)
    if said.code == 0:
        return _update(said.resp, kind) or _not_now(reply, said)
    if reply.status == 404 or any(words in said.text.lower() for words in NOT_THERE):
        return NotFound(reason="PixVerse does not know this id")
    return _not_now(reply, said)


def _not_now(reply: Reply, said: Envelope | None) -> NotNow:
    """A question without a usable answer, in one stable word."""
    if said is not None and said.code != 0 and _category(reply, said) == ErrorCode.AUTHENTICATION:
        return NotNow(reason="authentication")
    refused = reply.status >= 500 or (said is not None and said.code != 0)
    reason = NOT_READ.get(reply.status, "provider_error" if refused else "unreadable")
    return NotNow(reason=reason, after_s=_wait_s(reply))


def _row_of_ours(call: Call, resp: Json, kind: str) -> LookupVerdict | None:
    items = resp.get("items")
    rows = [row for row in items if isinstance(row, dict)] if isinstance(items, list) else []
    ours = next((row for row in rows if call.correlation and call.correlation in _traces(row)), None)
    if ours is None:
        return None
    # A bare `id` may be the billing row's own.
    provider_job_id = _id_text(ours.get(RESULTS[kind][0]))
    if provider_job_id is None:
        return NotFound(reason="PixVerse's usage detail has a row of this submit, without the id")
    return Accepted(provider_job_ids=(provider_job_id,), cost=_cost(ours), note="found in PixVerse's usage detail")


def _traces(row: Json) -> list[Any]:
    return [value for name, value in row.items() if name.lower().replace("-", "_") in TRACE_FIELDS]


def _update(said: Json, kind: str) -> Update | None:
    """What the fields of a status or a callback mean; None where there is no status."""
    status = _whole(said.get("status"))
    if status is None:
        return None
    word, cost, url = str(status), _cost(said), said.get("url")
    if status in FAILURES:
        error = _failure(status, said)
        return Update(status=JobStatus.FAILED, error=error, cost=cost, provider_status=word, provider_data=said)
    if status == SUCCEEDED and isinstance(url, str) and url:
        outputs = (_output(url, said, kind),)
        return Update(status=JobStatus.SUCCEEDED, outputs=outputs, cost=cost, provider_status=word, provider_data=said)
    # Success without a URL, too, is not an end yet: the job's deadline bounds it.
    return Update(status=JobStatus.PROCESSING, cost=cost, provider_status=word)


def _failure(status: int, said: Json) -> JobError:
    code, message = FAILURES[status]
    reason = said.get("fail_reason")
    return JobError(
        code=code,
        message=message,
        provider_code=str(status),
        provider_message=reason[:MAX_QUOTED_CHARS] if isinstance(reason, str) and reason else None,
    )


def _output(url: str, said: Json, kind: str) -> Output:
    # `size` is left in provider_data: bytes in a status, something else in a callback (10.5).
    return Output(url=url, kind=kind, width=_pixels(said.get("outputWidth")), height=_pixels(said.get("outputHeight")))


def _pixels(value: Any) -> int | None:
    pixels = _whole(value)
    return pixels if pixels is not None and 0 < pixels <= LARGEST_NUMBER else None


def _cost(said: Json) -> Cost | None:
    amount = _decimal(said.get("credits")) or _decimal(said.get("credit"))
    return None if amount is None else Cost(amount=amount, unit="credits", source="reported")


def _id_text(value: Any) -> str | None:
    """An id with all its digits, as text; a JSON float has lost some, and 0 is how a missing number looks."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    fits = isinstance(text, str) and re.fullmatch(r"[!-~]{1,64}", text) and text != "0" and not text.startswith("-")
    return text if fits else None


def _whole(value: Any) -> int | None:
    """A whole number, also as text, as which codes and statuses may arrive."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _decimal(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_NUMBER:
        return None
    return f"{Decimal(str(value)):f}"


def _wait_s(reply: Reply) -> float | None:
    header = reply.headers.get("retry-after", "")
    return float(header) if re.fullmatch(r"[0-9]{1,9}", header) else None


# -- callbacks ------------------------------------------------------------------------------------


class Digits(str):
    """A number as it was written: formatting it again could change what was signed."""

    __slots__ = ()


class Pairs(tuple[tuple[str, Any], ...]):
    """A JSON object in the order of the document."""

    __slots__ = ()


def _signed_headers(headers: Mapping[str, str]) -> tuple[str, str, bytes]:
    given = {name.lower(): value for name, value in headers.items()}
    for name, shape in CALLBACK_HEADERS.items():
        if not shape.fullmatch(given.get(name, "")):
            raise SignatureRefused(f"the header {name} is missing or not in its shape")
    return given["webhook-timestamp"], given["webhook-nonce"], given["webhook-signature"].encode()


def _sign(secret: str, text: bytes) -> bytes:
    return base64.b64encode(hmac.digest(secret.encode(), text, "sha256"))


def _queries(body: bytes) -> Iterator[bytes]:
    """Every reading of "the fields as key=value, URL-encoded, joined with &" that the documents leave open.

    Order: sorted (Go's and three independent implementations), or the document's. A space: `+`, or `%20`.
    Numbers: their literal digits, or as a Go server would format a float again. The likeliest comes first.
    """
    try:
        fields, made = _flat_fields(body), set()
        for render in (_literal, _shortest):
            pairs = [(key, f"{_quoted(key)}={_quoted(render(value))}") for key, value in fields]
            for order in (sorted(pairs), pairs):
                form = "&".join(pair for _, pair in order)
                # A plus sign in a value is encoded itself, so that every `+` of a form is a space.
                for text in (form, form.replace("+", "%20")):
                    if text not in made:
                        made.add(text)
                        yield text.encode()
    except (ValueError, RecursionError):
        raise SignatureRefused("the body is not one flat JSON object") from None


def _flat_fields(body: bytes) -> Pairs:
    """Raises ValueError for anything that a form could not carry unambiguously."""
    fields = json.loads(
        body.decode(), object_pairs_hook=Pairs, parse_int=Digits, parse_float=Digits, parse_constant=_refuse_constant
    )
    if not isinstance(fields, Pairs) or len(fields) > CALLBACK_FIELDS:
        raise ValueError("not one small object")
    if not all(isinstance(value, str | bool) for _, value in fields):
        raise ValueError("not one flat object")
    _without_duplicates(fields)
    return fields


def _quoted(text: str) -> str:
    return text if text.isascii() and text.isalnum() else quote_plus(text)  # most need none, and it is not free


def _literal(value: str | bool) -> str:
    return str(value) if isinstance(value, str) else str(value).lower()


def _shortest(value: str | bool) -> str:
    if isinstance(value, Digits) and re.search(r"[.eE]", value):
        whole, _, fraction = f"{Decimal(repr(float(value))):f}".partition(".")
        return f"{whole}.{fraction}".rstrip("0").rstrip(".") if fraction else whole
    return _literal(value)


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> Json:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
