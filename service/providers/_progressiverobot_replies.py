"""One request to Progressive Robot, and what its replies mean. The documents show no reply, so that all is read
tolerantly: `completed` and `error` are the only status words they name, `error` the only field of an error.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlsplit

from service.facts import Accepted, Cost, Done, JobError, NotNow, Output, Refused, SubmitVerdict, Update
from service.providers import Call, Operation, Reply, Request
from service.providers._progressiverobot_money import MODELS
from service.providers._progressiverobot_tiers import TIERS, title
from service.providers._reading import (
    AMBIGUOUS,
    DONE_WORDS,
    FAILED_WORDS,
    URL,
    decimal_text,
    header_wait,
    id_text,
    is_said,
    number,
    on_origin,
    path_part,
    plain_word,
    read_json,
    seconds,
    text_of,
    whole,
)
from service.providers._refusals import failed_in_success, not_accepted
from service.states import ErrorCode, JobStatus, Json

REFUSALS = {
    401: ErrorCode.AUTHENTICATION,
    402: ErrorCode.OUT_OF_CREDIT,  # not documented; an API of credits may say it
    **dict.fromkeys((400, 403, 404, 413, 415, 422), ErrorCode.INVALID_INPUT),
}
NOT_READ = {401: "authentication", 403: "authentication", 429: "rate_limited"}

TITLE = "Progressive Robot"
COMPLETED, FAILED = "completed", "error"
CANCELED = frozenset({"cancelled", "canceled"})
QUEUED = frozenset({"queued", "pending", "waiting"})
NOT_OVER = QUEUED | {"processing", "running", "inprogress", "started", "generating", "accepted", "submitted"}

# Where files are downloaded. GIFs, frames and 3D models have no place of their own in the documents.
PLACES = {
    "video": "/api/video/",
    "image": "/api/image/",
    "audio": "/api/audio/",
    "subtitle": "/api/subtitles/",
    "gif": "/api/image/",
    "frames": "/api/image/",
    "model_3d": "/api/video/",
}
EXTRACTED = "/api/input-image/"  # "uploaded/extracted input image": what extend-video gives
NAMES = ("filename", "output_filename", "file_name", "output")
NAMES_OF = {
    "audio": ("audio_filename", "tts_filename"),
    "subtitle": ("srt_filename", "subtitle_filename"),
    "model_3d": ("model_filename",),
}
LISTS = ("filenames", "files", "frames", "images", "outputs", "urls")
LINKS = ("url", "download_url", "output_url")
WRAPPERS = ("result", "output", "data", "job")
COSTS = ("credits_used", "credits_charged", "credit_cost", "cost")
PLACE_IN_QUEUE = ("position", "queue_position")
BOOKKEEPING = frozenset({"job_id", "job_ids", "jobs", "status", "progress", "error", *PLACE_IN_QUEUE, *COSTS})
SHOWN_TEXTS = ("shots", "prompt", "prompts", "enhanced_prompt", "result", "text")


# -- requests -------------------------------------------------------------------------------------


def headers(call: Call) -> dict[str, str]:
    return {"Authorization": f"Bearer {call.api_key}", "Accept": "application/json"}


def get(call: Call, path: str) -> Request:
    return Request(method="GET", url=call.base_url + path, headers=headers(call))


def post(call: Call, path: str, body: Json, *, charges: bool = False, keep: Json | None = None) -> Request:
    sent = json.dumps(body, separators=(",", ":")).encode()
    as_json = {**headers(call), "Content-Type": "application/json"}
    return Request(method="POST", url=call.base_url + path, headers=as_json, body=sent, charges=charges, keep=keep)


# -- errors ---------------------------------------------------------------------------------------


def answered(reply: Reply) -> bool:
    return 200 <= reply.status < 300


def error_text(said: Any) -> str | None:
    """The text of an error in the documented shape; None where it is none."""
    error = said.get("error") if isinstance(said, dict) else None
    return text_of(error.get("message")) if isinstance(error, dict) else text_of(error)


def not_now(reply: Reply) -> NotNow:
    """A question without a usable answer, in one stable word."""
    reason = NOT_READ.get(reply.status, "provider_error" if reply.status >= 500 else "unreadable")
    return NotNow(reason=reason, after_s=_wait_s(reply, read_json(reply.body)), whole=reply.status == 429)


def is_refusal(reply: Reply) -> bool:
    """Whether it proves that nothing was accepted."""
    judged = 400 <= reply.status < 500 and reply.status not in AMBIGUOUS
    return judged and error_text(read_json(reply.body)) is not None


def refusal(operation: Operation, reply: Reply) -> Refused | NotNow:
    """What a reply that `is_refusal` means."""
    said = read_json(reply.body)
    text = error_text(said) or ""
    if reply.status == 429:
        return NotNow(reason="rate_limited", after_s=_wait_s(reply, said), whole=True)
    code = REFUSALS.get(reply.status, ErrorCode.PROVIDER_ERROR)
    if reply.status in (400, 403) and _credits_are_out(said):
        code = ErrorCode.OUT_OF_CREDIT
    error = JobError(
        code=code,
        message=_explained(operation, reply.status, code, said, text),
        provider_code=str(reply.status),
        provider_message=text,
    )
    paused = {401: True, 402: True, 403: code == ErrorCode.OUT_OF_CREDIT}
    return Refused(error=error, pauses=paused.get(reply.status, False))


def _explained(operation: Operation, status: int, code: ErrorCode, said: Json, text: str) -> str:
    if code == ErrorCode.OUT_OF_CREDIT:
        required, left = (_first_amount(said, names) for names in (REQUIRED, LEFT))
        known = f": it needs {required}, and {left} are left" if required and left else f": {text}"
        return f"Progressive Robot's credits do not suffice{known}; buy credits, then submit again"
    if status != 403:
        return f"Progressive Robot refused the submit: {text}"
    named = _tier_named(said) or operation.tier
    in_text = any(re.search(rf"\b{tier}\b", text.lower()) for tier in TIERS)
    needed = f" (it needs the {title(named)})" if named and not in_text else ""
    return f"Progressive Robot's tier or permissions do not allow it: {text}{needed}"


def _credits_are_out(said: Json) -> bool:
    """By context that names both amounts; never where it names the tier that is needed. No text is documented."""
    if _tier_named(said):
        return False
    required, left = (_first_amount(said, names) for names in (REQUIRED, LEFT))
    return required is not None and left is not None and Decimal(required) > Decimal(left)


REQUIRED, LEFT = ("required", "needed", "credits_required", "cost"), ("available", "remaining", "balance", "credits")


def _first_amount(said: Json, names: tuple[str, ...]) -> str | None:
    return next((found for found in (decimal_text(said.get(name)) for name in names) if found), None)


def _tier_named(said: Json) -> str | None:
    """The tier that the error's context says is needed."""
    named = text_of(said.get("required_tier")) or text_of(said.get("tier_required"))
    return named.lower() if named else None


def _wait_s(reply: Reply, said: Any) -> float | None:
    in_body = (said.get(name) for name in ("retry_after_seconds", "retry_after")) if isinstance(said, dict) else ()
    waits = [seconds(value) for value in in_body]
    return next((wait for wait in waits if wait is not None), header_wait(reply.headers))


# -- a submit's reply -----------------------------------------------------------------------------


def read_submit(call: Call, operation: Operation, reply: Reply) -> SubmitVerdict:
    """Which endpoints answer with a job and which with the result is not documented: either is read everywhere."""
    said = read_json(reply.body)
    flat = _flat(said)
    if answered(reply):
        failed = failed_in_success(call, reply, TITLE, error_text(flat))
        return _taken(call, operation, said) or failed
    named = next(iter(_job_ids(flat, _word(flat))), None)
    own = refusal(operation, reply) if error_text(said) is not None else None
    return not_accepted(call, reply, ("progressiverobot", TITLE), own=own, job_id=named)


def _taken(call: Call, operation: Operation, said: Any) -> Accepted | Done | None:
    flat = _flat(said)
    word = _word(flat)
    # A bare list is of job ids, as generate-image's is, but where what is asked for is itself a list.
    listed = said if isinstance(said, list) else None
    if listed is not None and operation.output in ("frames", "text"):
        flat, listed = {"filenames" if operation.output == "frames" else "shots": listed}, None
    ids = _ids(listed) if listed is not None else _job_ids(flat, word)
    done = word == COMPLETED and bool(outputs(call, operation, flat))  # else the submit's own success
    if ids and (len(ids) > 1 or not (done or word == FAILED or word in CANCELED)):
        beyond = {name: value for name, value in flat.items() if name not in BOOKKEEPING} or None
        return Accepted(provider_job_ids=ids, cost=_cost(flat, "quoted"), provider_data=beyond)
    if ids:
        update = read_update(call, operation, flat, word)
        return Done(update=update, provider_job_ids=ids)
    if word in NOT_OVER or word == FAILED or error_text(flat) is not None or not outputs(call, operation, flat):
        return None
    return Done(update=read_update(call, operation, flat, COMPLETED))


def _job_ids(said: Json, word: str) -> tuple[str, ...]:
    for name in ("job_ids", "jobs", "ids"):
        if isinstance(said.get(name), list) and (ids := _ids(said[name])):
            return ids
    # A bare `id` may be a history row's: it is a job's only in an object that tells of a job under way.
    named = ("job_id", "jobId", *(("id",) if word in NOT_OVER else ()))
    return tuple(found for found in (id_text(said.get(name)) for name in named) if found)[:1]


def _ids(rows: list[Any]) -> tuple[str, ...]:
    named = ((row.get("job_id") or row.get("id")) if isinstance(row, dict) else row for row in rows)
    return tuple(dict.fromkeys(found for found in map(id_text, named) if found))


# -- a status -------------------------------------------------------------------------------------


def status_word(reply: Reply) -> tuple[Json, str]:
    """The reply's fields and its status as words are compared; "" where there is none."""
    said = _flat(read_json(reply.body))
    return said, _word(said)


def read_update(call: Call, operation: Operation, said: Json, word: str) -> Update:
    """What a status means. A word that is not documented, and success without a result, are no end."""
    shown = text_of(said.get("status")) or word
    cost = _cost(said, "reported")
    if word == COMPLETED and (found := outputs(call, operation, said)):
        return Update(status=JobStatus.SUCCEEDED, outputs=found, cost=cost, provider_status=shown, provider_data=said)
    if word in CANCELED or (word == FAILED and is_said(error_text(said), CANCELED)):
        return Update(status=JobStatus.CANCELED, cost=cost, provider_status=shown, provider_data=said)
    if word == FAILED:
        error = _failure(said)
        return Update(status=JobStatus.FAILED, error=error, cost=cost, provider_status=shown, provider_data=said)
    other = word not in NOT_OVER and word != COMPLETED  # a word that nobody documented, and perhaps the end
    return Update(
        status=JobStatus.PROCESSING,
        outputs=outputs(call, operation, said) if other else (),
        progress=_progress(said.get("progress")),
        queue_position=position_of(said),
        provider_status=shown,
        provider_data={name: value for name, value in said.items() if name not in BOOKKEEPING} or None,
    )


def position_of(said: Json) -> int | None:
    places = (whole(said.get(name)) for name in PLACE_IN_QUEUE)
    return next((place for place in places if place is not None and 0 <= place <= 10**9), None)


def _failure(said: Json) -> JobError:
    text = error_text(said) or text_of(said.get("message"))
    return JobError(
        code=ErrorCode.PROVIDER_ERROR,  # what moderation says is not documented
        message=f"Progressive Robot could not make it: {text or 'it gives no reason'}",
        provider_code=FAILED,
        provider_message=text,
    )


def _progress(value: Any) -> float | None:
    """0 to 1, from a share of 1 or of 100: a whole 1 is one percent."""
    found = number(value)
    if found is None:
        return None
    return min(float(found) if isinstance(found, float) and found <= 1 else found / 100, 1.0)


def _word(said: Json) -> str:
    word = plain_word(said.get("status"))
    if word in DONE_WORDS:
        return COMPLETED
    if word in FAILED_WORDS:
        return FAILED
    return word


def _flat(said: Any) -> Json:
    """The object with what a `result` or the like in it says; an empty one for what is none."""
    flat: Json = dict(said) if isinstance(said, dict) else {}
    for name in WRAPPERS:
        if isinstance(flat.get(name), dict):
            inner = flat.pop(name)
            flat = {**inner, **{field: value for field, value in flat.items() if value is not None}}
    return flat


def _cost(said: Json, source: str) -> Cost | None:
    amount = _first_amount(said, COSTS)
    return None if amount is None else Cost(amount=amount, unit="credits", source=source)


# -- results --------------------------------------------------------------------------------------


def outputs(call: Call, operation: Operation, said: Json) -> tuple[Output, ...]:
    """What a reply says that was made, each with the URL that opens it."""
    kind = kind_of(call, operation)
    if kind == "text":
        return _text(call, said)
    place = EXTRACTED if operation.name == "extend_video" else PLACES[kind]
    found = (_output(call, kind, place, value) for value in _values(call, kind, said))
    return tuple(output for output in found if output is not None)


def kind_of(call: Call, operation: Operation) -> str:
    model = call.input.get("model")
    other: str | None = MODELS[model].get("output") if isinstance(model, str) and model in MODELS else None
    return other if other is not None and operation.output == "video" else operation.output


def _text(call: Call, said: Json) -> tuple[Output, ...]:
    """A text has no URL at the provider: it is its own. The submit's own words, given back, are no result."""
    own = list(_texts(call.input))
    if not any(said.get(name) and said[name] not in own for name in SHOWN_TEXTS):
        return ()
    shown = json.dumps({name: value for name, value in said.items() if name not in BOOKKEEPING}, ensure_ascii=False)
    url = "data:application/json;base64," + base64.b64encode(shown.encode()).decode()
    return (Output(url=url, kind="text", content_type="application/json", bytes=len(shown.encode())),)


def _values(call: Call, kind: str, said: Json) -> list[str]:
    """The names or URLs of what was made. A field such as `video_filename` may be the submit's own, given back."""
    own = set(_texts(call.input))
    by_kind = _named(said, NAMES_OF.get(kind, (f"{kind}_filename",)))
    made = [*_named(said, NAMES), *(name for name in by_kind if name not in own)]
    listed = next((found for found in (_entries(said.get(name), own) for name in LISTS) if found), [])
    one = [*made, *_named(said, (*LINKS, f"{kind}_url"))][:1]
    return (listed or one) if kind == "frames" else (one or listed)


def _named(said: Json, fields: Iterable[str]) -> list[str]:
    """The texts in these fields."""
    values = (said.get(field) for field in fields)
    return [value for value in values if isinstance(value, str) and value]


def _entries(value: Any, own: set[str]) -> list[str]:
    rows = value if isinstance(value, list) else []
    named = [next((row[name] for name in (*NAMES, *LINKS) if row.get(name)), None) if isinstance(row, dict) else row
             for row in rows]  # fmt: skip
    return [name for name in named if isinstance(name, str) and name and name not in own]


def _texts(value: Any) -> Iterator[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        yield from (item,) if isinstance(item, str) else _texts(item)


def _output(call: Call, kind: str, place: str, value: str) -> Output | None:
    """A file's documented URL, or the URL that the reply gives, if it is one."""
    if "://" in value:
        return _linked(call, kind, value)
    if value.startswith("/"):
        return _linked(call, kind, f"{call.base_url}/{value.lstrip('/')}")
    if kind == "subtitle" and "." not in value:
        value += ".srt"
    part = path_part(value) if not value.strip(".") else quote(value, safe="")
    return Output(url=f"{call.base_url}{place}{part}", kind=kind, file_name=value, needs_key=True)


def _linked(call: Call, kind: str, url: str) -> Output | None:
    try:
        asked = urlsplit(url)
    except ValueError:
        return None
    if not URL.fullmatch(url) or asked.scheme not in ("http", "https") or not asked.netloc or "/.." in asked.path:
        return None
    ours = on_origin(url, call.base_url) and "token=" not in asked.query  # a share's token opens it, too
    return Output(url=url, kind=kind, file_name=asked.path.rpartition("/")[2] or None, needs_key=ours)


def file_of(said: Mapping[str, Any]) -> str | None:
    """The name that an upload was given."""
    flat = _flat(dict(said))
    names = (text_of(flat.get(name)) for name in (*NAMES, "image_filename", "name"))
    return next((name for name in names if name), None)


def form_text(value: Any) -> str:
    """A value as the text of a form's field."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
