"""What a reply of PixVerse says: its envelope, ids, costs, errors. HTTP 200 is not success, `ErrCode` 0 is."""

import re
from typing import Any

from service.facts import Cost, JobError, NotNow, Refused
from service.providers import Reply, read_json
from service.providers._reading import decimal_text, header_wait, text_of, whole
from service.states import ErrorCode, Json, Record

AT_CAPACITY = 500044  # the plan's limit of concurrent generations; it clears as they end
# The table of codes could not be read; these are from PixVerse's own MCP server.
KEY_CODES = range(10001, 10006)
# For all other codes the text decides; the first line that fits counts ("invalid api key" is no invalid input).
BY_WORDS = (
    (ErrorCode.AUTHENTICATION, re.compile(r"api[ -]?key|unauthorized")),
    (ErrorCode.OUT_OF_CREDIT, re.compile(r"balance|credit")),
    (ErrorCode.CONTENT_MODERATED, re.compile(r"moderation|moderated|sensitive|nsfw|content policy")),
    (ErrorCode.INVALID_INPUT, re.compile(r"param|invalid|binding")),
)
# Refuses the key itself, unless it is about what the plan allows.
KEY_REFUSED = re.compile(r"(invalid|wrong|incorrect|expired|disabled|unknown|missing).{0,30}api[ -]?key|unauthorized")
BALANCE_OUT = re.compile(
    r"\b(insufficient|not enough|no|out of|exhausted|used up|lack of)\b.{0,40}\b(balance|credits?)\b"
    r"|\b(balance|credits?)\b.{0,40}(insufficient|not enough|exhausted|used up|run out|empty)"
)
PLAN = re.compile(r"\b(permission|plan|tier|upgrade|membership|subscri\w+|not support\w*)\b")
NOT_READ = {401: "authentication", 403: "authentication", 429: "rate_limited"}
TRACE_FIELDS = frozenset({"trace_id", "ai_trace_id"})  # the fields of a usage row are not documented


class Envelope(Record, frozen=True, kw_only=True):
    """What every reply is wrapped in: `ErrCode`, `ErrMsg`, `Resp` (null or missing is read as empty)."""

    code: int
    text: str
    resp: Json
    rows: tuple[Json, ...] = ()  # where `Resp` is a list


def read_envelope(reply: Reply) -> Envelope | None:
    """The reply in PixVerse's shape; None for what is not."""
    said = read_json(reply.body)
    code = whole(said.get("ErrCode")) if isinstance(said, dict) else None
    if code is None:
        return None
    resp = said.get("Resp")
    return Envelope(
        code=code,
        text=text_of(said.get("ErrMsg")) or "",
        resp=resp if isinstance(resp, dict) else {},
        rows=tuple(row for row in resp if isinstance(row, dict)) if isinstance(resp, list) else (),
    )


def succeeded(reply: Reply) -> Envelope | None:
    """The envelope of a question that was answered."""
    said = read_envelope(reply)
    return said if said is not None and said.code == 0 and reply.status == 200 else None


def pixverse_id(value: Any) -> str | None:
    """An id with all its digits, as text; a JSON float has lost some, and 0 is how a missing number looks."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    fits = isinstance(text, str) and re.fullmatch(r"[!-~]{1,64}", text) and text != "0" and not text.startswith("-")
    return text if fits else None


def reported_cost(said: Json) -> Cost | None:
    amount = decimal_text(said.get("credits")) or decimal_text(said.get("credit"))
    return None if amount is None else Cost(amount=amount, unit="credits", source="reported")


def traces(row: Json) -> list[Any]:
    """Every value of a row that may be the trace id of its submit."""
    return [value for name, value in row.items() if name.lower().replace("-", "_") in TRACE_FIELDS]


def category(reply: Reply, said: Envelope) -> ErrorCode:
    """What kind of refusal it is."""
    if said.code in KEY_CODES or reply.status == 401:
        return ErrorCode.AUTHENTICATION
    if reply.status == 402:
        return ErrorCode.OUT_OF_CREDIT
    text = said.text.lower()
    otherwise = ErrorCode.AUTHENTICATION if reply.status == 403 else ErrorCode.PROVIDER_ERROR
    return next((code for code, words in BY_WORDS if words.search(text)), otherwise)


def pauses(reply: Reply, said: Envelope) -> bool:
    """Whether every other submit of this key would be refused alike: never for what a plan does not allow."""
    if said.code in KEY_CODES or reply.status in (401, 402):
        return True
    text = said.text.lower()
    kind = category(reply, said)
    if kind is ErrorCode.OUT_OF_CREDIT:
        return bool(BALANCE_OUT.search(text))
    return kind is ErrorCode.AUTHENTICATION and bool(KEY_REFUSED.search(text)) and not PLAN.search(text)


def refusal(reply: Reply, said: Envelope, what: str) -> Refused | NotNow:
    """An error in PixVerse's own shape. `what` was refused."""
    if said.code == AT_CAPACITY:
        return NotNow(reason="capacity", whole=True)
    if reply.status == 429:
        return NotNow(reason="rate_limited", after_s=header_wait(reply.headers), whole=True)
    error = JobError(
        code=category(reply, said),
        message=f"PixVerse refused {what}: {said.text or 'it gives no reason'}",
        provider_code=str(said.code),
        provider_message=said.text,
    )
    return Refused(error=error, pauses=pauses(reply, said))


def not_now(reply: Reply, said: Envelope | None) -> NotNow:
    """A question without a usable answer, in one stable word."""
    if said is not None and said.code != 0 and category(reply, said) == ErrorCode.AUTHENTICATION:
        return NotNow(reason="authentication")
    refused = reply.status >= 500 or (said is not None and said.code != 0)
    reason = NOT_READ.get(reply.status, "provider_error" if refused else "unreadable")
    return NotNow(reason=reason, after_s=header_wait(reply.headers))
