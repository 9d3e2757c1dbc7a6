"""What a reply of PixVerse says: its envelope, ids, costs, errors. HTTP 200 is not success, `ErrCode` 0 is."""

import re
from typing import Any

from service.facts import Cost, JobError, NotNow, Refused
from service.providers import Reply, read_json
from service.providers._reading import decimal_text, header_wait, text_of, whole
from service.states import ErrorCode, Json, Record

AT_CAPACITY = 500044  # the plan's limit of concurrent generations; it clears as they end
NOT_THERE = 500008
# From PixVerse's table of errors (https://docs.platform.pai.video/6743743m0), its own MCP server (10001 to 10005) and
# a public kit (500090). The number decides: texts quote what the caller wrote.
KEY_CODES = frozenset({*range(10001, 10006), 400012})
BALANCE_CODES = frozenset({500090})
BY_CODE = {
    **dict.fromkeys(KEY_CODES, ErrorCode.AUTHENTICATION),
    **dict.fromkeys(BALANCE_CODES, ErrorCode.OUT_OF_CREDIT),
    500020: ErrorCode.AUTHENTICATION,  # the plan does not allow it
    500060: ErrorCode.OUT_OF_CREDIT,  # this month's effects, of all that may be made
    **dict.fromkeys((500054, 500063), ErrorCode.CONTENT_MODERATED),
    **dict.fromkeys((*range(400010, 400100), *range(500030, 500034), 500041, 500042), ErrorCode.INVALID_INPUT),
    400012: ErrorCode.AUTHENTICATION,
}
BY_STATUS = {401: ErrorCode.AUTHENTICATION, 402: ErrorCode.OUT_OF_CREDIT, 403: ErrorCode.AUTHENTICATION}
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
    return BY_CODE.get(said.code) or BY_STATUS.get(reply.status, ErrorCode.PROVIDER_ERROR)


def pauses(reply: Reply, said: Envelope) -> bool:
    """Whether every other submit of this key would be refused alike: never for what a plan does not allow."""
    return said.code in KEY_CODES | BALANCE_CODES or reply.status in (401, 402)


def refusal(reply: Reply, said: Envelope, what: str) -> Refused | NotNow:
    """An error in PixVerse's own shape. `what` was refused."""
    if said.code == AT_CAPACITY:
        return NotNow(reason="capacity", whole=True, while_running=True)
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
