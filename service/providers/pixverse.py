"""PixVerse: videos and images. Facts: https://docs.platform.pixverse.ai; what it leaves open is said where it matters.

HTTP 200 is not success, `ErrCode` 0 is. The same `Ai-trace-id` never makes a second video, so a submit whose reply was
lost is repeated with it. Files are uploaded first; their ids are kept, so that a repeat is the same request.
"""

import json
import uuid
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace

from service.errors import BadRequest, Invalid, Unavailable
from service.facts import (
    Accepted,
    Done,
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
    FileUse,
    Form,
    HistoryRow,
    Looking,
    Operation,
    Provider,
    ReadCallback,
    Recognised,
    Reply,
    Request,
    Submitting,
    documented,
    operation_table,
    put,
    read_object,
)
from service.providers import _pixverse_callbacks as callbacks
from service.providers import _pixverse_lists as lists
from service.providers._pixverse_replies import (
    NOT_THERE,
    Envelope,
    category,
    not_now,
    pixverse_id,
    read_envelope,
    refusal,
    reported_cost,
)
from service.providers._reading import is_account_path, number, path_part, path_parts, text_of, whole
from service.providers._refusals import failed_in_success, not_accepted
from service.states import ErrorCode, JobStatus, Json

API = "/openapi/v2"
# By the operation's output: the field that carries a new id, and where its result is asked for.
RESULTS = {"video": ("video_id", f"{API}/video/result/"), "image": ("image_id", f"{API}/image/result/")}
USAGE_PATH = f"{API}/account/billing/usage-detail"
# By `as` of an upload: its path, its form field, and the fields of the reply that may carry the id.
UPLOADS = {
    "image": (f"{API}/image/upload", "image", "img_id", "ImgID"),
    "media": (f"{API}/media/upload", "file", "media_id", "MediaID"),
}
UPLOAD_REPEATS = 5
ON_REPEAT = "accepted_on_repeat"
REPEAT_STAYS_MS = 300_000  # so long under way, when a video takes one or two minutes, is looked into
# Sent as numbers, as which the documents have them; our own ids are texts, and JavaScript's numbers lose digits.
NUMBERS = frozenset(
    "img_id img_ids first_frame_img last_frame_img source_video_id video_media_id audio_media_id template_id"
    " restyle_id agent_id".split()
)

SUCCEEDED = 1
UNDER_WAY = frozenset({2, 3, 5})  # any other number is not known to be an end
FAILURES = {
    6: (ErrorCode.PROVIDER_ERROR, "PixVerse deleted the result"),
    7: (ErrorCode.CONTENT_MODERATED, "PixVerse's moderation refused the content"),
    8: (ErrorCode.PROVIDER_ERROR, "PixVerse could not generate it"),
}
LIVE = {"speakers": f"{API}/video/tts_speaker", "styles": f"{API}/video/restyle/list"}
EFFECTS = f"{API}/video/effects/templates/list"
EFFECT_TYPES = (1, 2)


class PixVerse(Provider):
    """The `Provider` for https://app-api.pixverse.ai."""

    name = "pixverse"
    title = "PixVerse"
    base_url = "https://app-api.pixverse.ai"
    operations: Mapping[str, Operation] = operation_table(__file__, "pixverse")
    key_header = ("API-KEY", "")
    correlation_header = "Ai-trace-id"
    callback_signed = True
    callback_per_account = True
    callback_max_bytes = 65_536  # its callbacks are small; every reading of a body is formed and compared
    callback_reply = (200, "text/plain", b"ok")  # exactly these two bytes, else it repeats eight times
    catalogs = documented(__file__, "pixverse")
    live_catalogs = ("speakers", "styles", "effects")
    reads_history = True

    def submit(self, call: Call) -> Submitting:
        """Upload what the input names, then one charging POST under the job's own trace id."""
        operation = self.operations[call.operation]
        uses = operation.files(call.input)
        ids: Json = dict(call.kept or {})
        if call.repeat and any(_upload_key(use) not in ids for use in uses):
            return Unknown(reason="what was uploaded for the first submit is not known any more")
        for use in uses:
            if _upload_key(use) not in ids:
                found = _uploaded((yield _upload(call, use)), use)
                if not isinstance(found, int | str):
                    return found
                ids[_upload_key(use)] = found
        reply = yield _post(call, operation.path, self._body(call, uses, ids), trace=call.correlation, keep=ids or None)
        return _read_submit(call, operation, reply)

    def _body(self, call: Call, uses: Sequence[FileUse], ids: Json) -> Json:
        body = call.input
        for use in uses:
            body = put(body, use.path, ids[_upload_key(use)])
        called_back = self.operations[call.operation].callback and call.callback_id is not None
        body = {**body, "webhook_id": call.callback_id} if called_back else body
        return {name: _numbered(name, value) for name, value in body.items()}

    def submit_reply(self, call: Call) -> Json | None:
        """The envelope with the id, a number."""
        kind = self.operations[call.operation].output
        if kind not in RESULTS or not call.provider_job_ids:
            return None
        return {"ErrCode": 0, "ErrMsg": "Success", "Resp": {RESULTS[kind][0]: int(call.provider_job_ids[0])}}

    def status(self, call: Call, provider_job_id: str) -> Asking:
        """One GET of the result."""
        kind = self.operations[call.operation].output
        if kind not in RESULTS:
            return NotFound(reason="PixVerse gives masks at once and keeps none")
        verdict = _read_status((yield _get(call, RESULTS[kind][1] + path_part(provider_job_id))), kind)
        repeated = (call.provider_data or {}).get(ON_REPEAT) is True
        waited = call.now - (call.submitted_at or call.now)
        if repeated and waited >= REPEAT_STAYS_MS and not _is_end(verdict):
            return (yield from self._first_of(call, kind, provider_job_id, verdict))
        return verdict

    def _first_of(self, call: Call, kind: str, repeated: str, open_: StatusVerdict) -> Asking:
        """The end of the first submit, if the usage detail has its row beside the repeat's; else what the repeat said.

        PixVerse's own trouble-shooting names a trace id used again as why a video stays under way for ever.
        """
        start, end = lists.since_submit(call)
        rows, _ = yield from lists.usage(partial(_ask, call, USAGE_PATH), start, end, credits_status="consume")
        ours = (pixverse_id(row.get(RESULTS[kind][0])) for row in rows if lists.is_ours(call, row))
        for first in sorted({named for named in ours if named} - {repeated}):
            found = _read_status((yield _get(call, RESULTS[kind][1] + path_part(first))), kind)
            if isinstance(found, Update) and _is_end(found):
                return replace(found, provider_data={**(found.provider_data or {}), "first_id": first})
        return open_

    def lookup(self, call: Call) -> Looking:
        """Read the usage detail back to before the first POST for a row with our trace id.

        Never conclusive: neither that every accepted submit is listed nor that rows carry the trace id is documented.
        """
        start, end = lists.since_submit(call)
        rows, unanswered = yield from lists.usage(
            partial(_ask, call, USAGE_PATH),
            start,
            end,
            done=lambda page: any(lists.is_ours(call, row) for row in page),
            credits_status="consume",
        )
        ours = next((row for row in rows if lists.is_ours(call, row)), None)
        if ours is None and unanswered is not None and not _answers(unanswered):
            return not_now(unanswered, read_envelope(unanswered))
        return _found(ours, self.operations[call.operation].output)

    def check(self, call: Call) -> Generator[Request, Reply, str]:
        """Ask for the balance."""
        reply = yield _get(call, f"{API}/account/balance")
        said = read_envelope(reply)
        if said is not None and category(reply, said) == ErrorCode.AUTHENTICATION:
            raise Invalid("PixVerse does not accept this key: it may be another region's", param="api_key")
        if said is None or said.code != 0 or reply.status != 200:
            raise Unavailable(f"PixVerse answered HTTP {reply.status}, which does not tell whether it accepts the key")
        purses = [said.resp.get(purse, "?") for purse in ("credit_monthly", "credit_package")]
        return f"PixVerse accepts the key: {purses[0]} monthly and {purses[1]} package credits."

    def balance(self, call: Call) -> Generator[Request, Reply, Json]:
        """Both purses together, and what each holds."""
        said = lists.answered((yield _get(call, f"{API}/account/balance")))
        return lists.purse(said.resp)

    def history(self, call: Call, since: int) -> Generator[Request, Reply, Sequence[HistoryRow]]:
        """Everything charged since then. A row says what it cost and not how it ended."""
        found: list[Json] = []
        for start, end in lists.spans(since, call.now):
            rows, unanswered = yield from lists.usage(partial(_ask, call, USAGE_PATH), start, end)
            if unanswered is not None:
                lists.answered(unanswered)
                raise Unavailable("PixVerse's usage detail goes on and on: give a later `since`")
            found += rows
        return lists.history_rows(found, self.operations)

    def catalog(self, call: Call, kind: str) -> Generator[Request, Reply, Sequence[Json] | None]:
        """Speakers, restyle styles and effects as PixVerse lists them now."""
        if kind == "effects":
            rows: list[Json] = []
            for kind_of in EFFECT_TYPES:
                query = f"{EFFECTS}?type={kind_of}&pageSize={lists.LIST_ROWS}&page="
                found = yield from lists.pages(partial(_get, call), query)
                rows += [{"type": kind_of, **row} for row in found]
            return rows
        if kind not in LIVE:
            return None
        query = f"{LIVE[kind]}?page_size={lists.LIST_ROWS}&page_num="
        return (yield from lists.pages(partial(_get, call), query))

    def verify_callback(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: int) -> bool:
        """Signed over the body's fields: see `_pixverse_callbacks`."""
        return callbacks.verify(headers, body, secrets, now)

    def read_callback(self, body: bytes) -> ReadCallback:
        """The id and the update. Raises `BadRequest` where the body has no usable `id` and `status`."""
        said = callbacks.read_fields(body)
        # Only videos are documented to be called back.
        provider_job_id, update = pixverse_id(said.get("id")), _update(said, "video")
        if provider_job_id is None or update is None:
            raise BadRequest("the body has no `id` or no `status`")
        # A success that has no result yet must not make the later one a duplicate.
        dedupe_key = f"{provider_job_id}:{update.provider_status}{'' if update.outputs or update.error else ':open'}"
        return ReadCallback(provider_job_id=provider_job_id, update=update, dedupe_key=dedupe_key)

    def recognise(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Recognised:
        """The submits (an image with a template is an operation of its own), results, and what is the account's."""
        parts = path_parts(path)
        if method == "POST" and (fits := [row for row in self.operations.values() if path_parts(row.path) == parts]):
            given = read_object(body)
            named = "template" if len(fits) > 1 and given.get("template_id") else fits[0].name
            return Recognised(kind="submit", operation=named, input=given)
        if is_account_path(path):
            return Recognised(kind="account")
        if method == "GET" and len(parts) == 5 and parts[:2] == ("openapi", "v2") and pixverse_id(parts[4]):
            if parts[2:4] == ("video", "result"):
                return Recognised(kind="status", provider_job_ids=(parts[4],))
            if parts[2:4] == ("image", "result"):
                return Recognised(kind="status", operation="image_template", provider_job_ids=(parts[4],))
        return Recognised(kind="plain")


provider = PixVerse()


# -- requests -------------------------------------------------------------------------------------


def _post(call: Call, path: str, body: Json, *, trace: str, keep: Json | None) -> Request:
    """The request that charges."""
    sent = json.dumps(body, separators=(",", ":")).encode()
    headers = {**_headers(call, trace), "Content-Type": "application/json"}
    return Request(method="POST", url=call.base_url + path, headers=headers, body=sent, charges=True, keep=keep)


def _ask(call: Call, path: str, body: Json, about: str) -> Request:
    sent = json.dumps(body, separators=(",", ":")).encode()
    headers = {**_headers(call, _trace(call, about)), "Content-Type": "application/json"}
    return Request(method="POST", url=call.base_url + path, headers=headers, body=sent)


def _get(call: Call, path: str) -> Request:
    return Request(method="GET", url=call.base_url + path, headers=_headers(call, _trace(call, path)))


def _upload(call: Call, use: FileUse) -> Request:
    """`media_type` tells a video from a sound."""
    path, field, *_ = UPLOADS[use.rule.as_]
    sound = use.rule.types[:1] != () and use.rule.types[0].startswith("audio/")
    fields = {"media_type": "audio" if sound else "video"} if use.rule.as_ == "media" else {}
    form = Form(files=((field, use.file),), fields=fields)
    headers = _headers(call, _trace(call, f"upload {_upload_key(use)}"))
    return Request(method="POST", url=call.base_url + path, headers=headers, form=form)


def _headers(call: Call, trace: str) -> dict[str, str]:
    return {"API-KEY": call.api_key, "Ai-trace-id": trace}


def _trace(call: Call, about: str) -> str:
    """Every request wants a trace id of its own; this one differs by job, question and time."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{call.correlation} {about} {call.now}"))


def _upload_key(use: FileUse) -> str:
    """What is kept of an upload is kept under this: one file may serve several fields."""
    return f"{use.rule.as_} {use.file}"


def _numbered(name: str, value: Any) -> Any:
    """The value with its ids as numbers, in lists and objects too."""
    if isinstance(value, dict):
        return {inner: _numbered(inner, item) for inner, item in value.items()}
    if isinstance(value, list):
        return [_numbered(name, item) for item in value]
    return int(value) if name in NUMBERS and isinstance(value, str) and value.isascii() and value.isdigit() else value


# -- replies --------------------------------------------------------------------------------------


def _uploaded(reply: Reply, use: FileUse) -> int | str | Refused | NotNow:
    """The id of what was uploaded. Nothing is charged yet: whatever went wrong may be tried again."""
    said = read_envelope(reply)
    names = UPLOADS[use.rule.as_][2:] if said is not None and said.code == 0 else ()
    found = next(filter(None, (pixverse_id(said.resp.get(name)) for name in names)), None) if said else None
    if found is not None:
        return int(found) if found.isdigit() else found
    if said is not None and said.code != 0 and 200 <= reply.status < 500:
        return refusal(reply, said, f"the file `{'.'.join(map(str, use.path))}`")
    reason = "provider_error" if reply.status >= 500 else "unreadable"
    error = JobError(code=ErrorCode.PROVIDER_ERROR, message="PixVerse did not take the upload", retryable=True)
    return NotNow(reason=reason, at_most=UPLOAD_REPEATS, error=error)


def _read_submit(call: Call, operation: Operation, reply: Reply) -> SubmitVerdict:
    said = read_envelope(reply)
    answered = 200 <= reply.status < 300
    if said is None:
        if answered:
            return failed_in_success(call, reply, "PixVerse", None)
        return not_accepted(call, reply, ("pixverse", "PixVerse"), own=None, job_id=_named(reply))
    taken = _taken(operation.output, said)
    if said.code == 0 and taken is not None and answered:
        return _marked(taken) if call.repeat and isinstance(taken, Accepted) else taken
    if said.code == 0 or taken is not None:
        return Unknown(reason=f"HTTP {reply.status}, ErrCode {said.code}: neither a result nor a refusal")
    own = refusal(reply, said, "the submit")
    return not_accepted(call, reply, ("pixverse", "PixVerse"), own=own, documented=answered)


def _marked(taken: Accepted) -> Accepted:
    """That it is the answer to a repeat is kept: its id may be another than the first submit's."""
    return replace(taken, provider_data={**(taken.provider_data or {}), ON_REPEAT: True})


def _named(reply: Reply) -> str | None:
    """An id in a reply that is not in PixVerse's shape."""
    said = read_object(reply.body)
    named = (pixverse_id(said.get(field)) for field, _ in RESULTS.values())
    return next((found for found in named if found), None)


def _taken(kind: str, said: Envelope) -> Accepted | Done | None:
    if kind not in RESULTS:
        return _masks(said.resp)
    field = RESULTS[kind][0]
    provider_job_id = pixverse_id(said.resp.get(field))
    if provider_job_id is None:
        return None
    beyond = {name: value for name, value in said.resp.items() if name not in (field, "credits", "credit")}
    return Accepted(provider_job_ids=(provider_job_id,), cost=reported_cost(said.resp), provider_data=beyond or None)


def _masks(resp: Json) -> Done | None:
    """The masks of a keyframe, which come in the reply itself; their ids are in `provider_data` for the swap."""
    info = resp.get("mask_info")
    masks = [mask for mask in info if isinstance(mask, dict)] if isinstance(info, list) else []
    named = [(text_of(mask.get("mask_url")), "mask") for mask in masks]
    named.append((text_of(resp.get("keyframe_url")), "image"))
    outputs = tuple(Output(url=url, kind=kind) for url, kind in named if url)
    if not outputs:
        return None
    update = Update(status=JobStatus.SUCCEEDED, outputs=outputs, cost=reported_cost(resp), provider_data=resp)
    return Done(update=update)


def _read_status(reply: Reply, kind: str) -> StatusVerdict:
    said = read_envelope(reply)
    if said is None or (said.code == 0 and reply.status != 200):
        return not_now(reply, said)
    if said.code == 0:
        return _update(said.resp, kind) or not_now(reply, said)
    if reply.status == 404 or said.code == NOT_THERE:
        return NotFound(reason="PixVerse does not know this id")
    return not_now(reply, said)


def _is_end(verdict: StatusVerdict) -> bool:
    return isinstance(verdict, Update) and verdict.status is not JobStatus.PROCESSING


def _answers(reply: Reply) -> bool:
    said = read_envelope(reply)
    return said is not None and said.code == 0


def _found(row: Json | None, kind: str) -> LookupVerdict:
    if row is None:
        return NotFound(reason="PixVerse's usage detail shows no row with this submit's trace id")
    if kind not in RESULTS:
        return NotFound(reason="PixVerse charged it, and its result was lost with the reply", hopeless=True)
    provider_job_id = pixverse_id(row.get(RESULTS[kind][0]))
    if provider_job_id is None:
        return NotFound(reason="PixVerse's usage detail has a row of this submit, without the id")
    note = "found in PixVerse's usage detail"
    return Accepted(provider_job_ids=(provider_job_id,), cost=reported_cost(row), note=note)


def _update(said: Json, kind: str) -> Update | None:
    """What the fields of a status or a callback mean; None where there is no status."""
    status = whole(said.get("status"))
    if status is None:
        return None
    word, cost, url = str(status), reported_cost(said), said.get("url")
    if status in FAILURES:
        error = _failure(status, said)
        return Update(status=JobStatus.FAILED, error=error, cost=cost, provider_status=word, provider_data=said)
    if status == SUCCEEDED and isinstance(url, str) and url:
        outputs = (_output(url, said, kind),)
        return Update(status=JobStatus.SUCCEEDED, outputs=outputs, cost=cost, provider_status=word, provider_data=said)
    # Success without a URL, too, is not an end yet: the job's deadline bounds it.
    if status in UNDER_WAY or not isinstance(url, str) or not url:
        return Update(status=JobStatus.PROCESSING, cost=cost, provider_status=word)
    shown = (_output(url, said, kind),)
    return Update(status=JobStatus.PROCESSING, outputs=shown, cost=cost, provider_status=word, provider_data=said)


def _failure(status: int, said: Json) -> JobError:
    code, message = FAILURES[status]
    reason = text_of(said.get("fail_reason"))
    return JobError(code=code, message=message, provider_code=str(status), provider_message=reason)


def _output(url: str, said: Json, kind: str) -> Output:
    # `size` is left in provider_data: bytes in a status, something else in a callback (10.5).
    return Output(url=url, kind=kind, width=_pixels(said.get("outputWidth")), height=_pixels(said.get("outputHeight")))


def _pixels(value: Any) -> int | None:
    pixels = whole(value)
    return pixels if pixels and number(pixels) else None
