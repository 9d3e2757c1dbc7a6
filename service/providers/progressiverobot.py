"""Progressive Robot: videos, images, audio, editing and tools, paid in credits, limited by tiers.

Facts: https://video.progressiverobot.com/api-docs, which shows no reply; what it leaves open is said where it matters.

It has no callbacks and no idempotency key. A submit of `generate` whose reply was lost is found again in the history
by the seed that it carried; any other lost submit is a person's to settle, because sending it again charges again.
"""

import posixpath
import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlencode

from msgspec.structs import replace

from service.errors import Invalid, Unavailable
from service.facts import Cost, JobError, NotFound, NotNow, Output, SubmitVerdict, Unknown, Update
from service.providers import (
    Asking,
    Call,
    Form,
    HistoryRow,
    Looking,
    Operation,
    Provider,
    Recognised,
    Reply,
    Request,
    Submitting,
    operation_table,
)
from service.providers import _progressiverobot_history as history
from service.providers import _progressiverobot_money as money
from service.providers import _progressiverobot_replies as replies
from service.providers import _progressiverobot_tiers as tiers
from service.providers._reading import (
    decimal_text,
    id_text,
    is_account_path,
    on_origin,
    path_part,
    read_json,
    read_object,
    text_of,
)
from service.states import ErrorCode, JobStatus, Json

UPLOAD_PATH = "/api/upload-image"
MAX_UPLOAD_REPEATS = 5  # an upload is free: it may be tried again
LIVE = {"models": "/api/models", "image_models": "/api/image-models", "voices": "/api/tts/voices"}
SPANS = (("start_seconds", "end_seconds"), ("start_time", "end_time"))
QUOTES = ("cost", "credits", "credit_cost", "total", "total_cost", "quote", "estimated_cost")
PURSES = ("balance", "credits", "credit_balance", "credits_remaining", "remaining")
TIER_NAMES = ("tier", "subscription_tier", "plan")
SIGNED_IN = ("authenticated", "is_authenticated", "logged_in")
YES = ("1", "true", "yes", "on")

# What the documents list below /api that is no account's; what they may add one day is judged by its words.
PLAIN = frozenset(
    "analytics audio audio-generations brand-kits cancel comfyui community edit extend-video gallery generate"
    " generate-audio generate-image generate-prompt generate-v2v generation-cost generations hosting image"
    " image-generations image-models input-image models pricing projects prompts queue share status stock studio"
    " subtitles templates tools tts upload-image video".split()
)
ACCOUNT = frozenset("admin auth credits keys login logout orgs profile settings signup stripe subscription".split())


class ProgressiveRobot(Provider):
    """The `Provider` for https://video.progressiverobot.com."""

    name = "progressiverobot"
    title = "Progressive Robot"
    base_url = "https://video.progressiverobot.com"
    operations: Mapping[str, Operation] = operation_table(__file__, "progressiverobot")
    catalogs = money.CATALOGS
    reads_history = True

    def submit(self, call: Call) -> Submitting:
        """Uploads, where the input names files for them, then the one POST that charges."""
        operation = self.operations[call.operation]
        uploaded = yield from _upload(call, operation)
        if not isinstance(uploaded, dict):
            return uploaded
        reply = yield _charging(call, operation, uploaded)
        return replies.read_submit(call, operation, reply)

    def submit_reply(self, call: Call) -> Json | list[str] | None:
        """The job's id, or the list of several."""
        ids = call.provider_job_ids
        return None if not ids else {"job_id": ids[0], "status": "queued"} if len(ids) == 1 else list(ids)

    def status(self, call: Call, provider_job_id: str) -> Asking:
        """One GET; a second one, of the queue, only while it waits there and the first did not say where."""
        operation = self.operations[call.operation]
        reply = yield replies.get(call, f"/api/status?job_id={quote(provider_job_id, safe='')}")
        if reply.status == 404 and replies.error_text(read_json(reply.body)) is not None:
            return NotFound(reason="Progressive Robot does not know this id")
        said, word = replies.status_word(reply)
        if not replies.answered(reply) or not word:
            return replies.not_now(reply)
        update = replies.read_update(call, operation, said, word)
        if word not in replies.QUEUED or update.queue_position is not None:
            return update
        queue = yield replies.get(call, "/api/queue")
        if not replies.answered(queue):
            return replies.not_now(queue)  # it waits either way, and a 429 must be heard
        return replace(update, queue_position=_position(read_json(queue.body), provider_job_id))

    def lookup(self, call: Call) -> Looking:
        """By the seed that we drew; see `_progressiverobot_history`."""
        return (yield from history.look_up(call, self.operations[call.operation]))

    def cancel(self, call: Call, provider_job_id: str) -> Asking:
        """Canceled only where the reply says so; else the status tells what came of it."""
        reply = yield replies.post(call, "/api/cancel", {"job_id": provider_job_id})
        said, word = replies.status_word(reply)
        if reply.status == 404 and replies.error_text(said) is not None:
            return NotFound(reason="Progressive Robot does not know this id")
        if not replies.answered(reply) and (not replies.is_refusal(reply) or reply.status in replies.NOT_READ):
            return replies.not_now(reply)
        over = word in replies.CANCELED or any(said.get(name) is True for name in replies.CANCELED)
        canceled = replies.answered(reply) and over
        return Update(status=JobStatus.CANCELED if canceled else JobStatus.PROCESSING, provider_status=word or None)

    # -- money and limits

    def price(self, call: Call) -> Cost | None:
        """By formula or flat; None where a quantity that counts is not in the input."""
        amount = money.price(call.operation, call.input)
        return super().price(call) if amount is None else _quoted(amount)

    def quote(self, call: Call) -> Generator[Request, Reply, Cost | None]:
        """The provider's own quote wins over the formula. An export is quoted by the clips that its project has now."""
        if call.operation == "generate":
            asked = {
                name: call.input[name] for name in ("model", "frames", "steps") if call.input.get(name) is not None
            }
            reply = yield replies.get(call, f"/api/generation-cost{_query(asked)}")
            amount = _amount(reply, QUOTES)
        elif call.operation == "projects_export":
            project = yield replies.get(call, f"/api/projects/{_path_id(call, 'project_id')}")
            amount = _export(read_object(project.body)) if replies.answered(project) else None
        else:
            amount = None
        return self.price(call) if amount is None else _quoted(amount)

    def balance(self, call: Call) -> Generator[Request, Reply, Json]:
        reply = yield replies.get(call, "/api/credits")
        _refuse_key(reply)
        amount = _amount(reply, PURSES)
        if amount is None:
            raise Unavailable(f"Progressive Robot answered HTTP {reply.status}, which does not tell the balance")
        return {**read_object(reply.body), "amount": amount, "unit": self.unit}

    def account(self, call: Call) -> Generator[Request, Reply, Json | None]:
        """`{"tier", "credits", "limits", "admin"}`, as far as it says."""
        reply = yield replies.get(call, "/api/auth/check")
        return _account(reply)

    def check(self, call: Call) -> Generator[Request, Reply, str]:
        """Ask who we are: the answer may be 200 for anybody, so that it must show an account."""
        reply = yield replies.get(call, "/api/auth/check")
        _refuse_key(reply)
        account = _account(reply)
        if account is None:
            raise Unavailable(f"Progressive Robot answered HTTP {reply.status}, which does not tell whose the key is")
        return f"Progressive Robot accepts the key: {account['tier']} tier, {account['credits'] or 'unknown'} credits."

    def allows(self, call: Call) -> None:
        operation = self.operations[call.operation]
        tiers.check(call.account, operation.name, operation.tier, call.input)
        for field, schema in operation.input_schema["properties"].items():
            given = call.input.get(field)
            if schema.get("x-file", {}).get("how") == "part" and given is not None:
                _check_part(field, given)
        for start, end in SPANS:
            _check_span(call.input, start, end)

    # -- lists

    def history(self, call: Call, since: int) -> Generator[Request, Reply, Sequence[HistoryRow]]:
        """The lists of videos, images and audio. Results of edits and tools are in none."""
        found: list[HistoryRow] = []
        for path, name in history.LISTS:
            rows = yield from history.read(call, path, since)
            if isinstance(rows, NotNow):
                raise Unavailable(f"Progressive Robot's history could not be read: {rows.reason}")
            read = (history.history_row(call, name, self.operations[name], row) for row in rows)
            found += [row for row in read if row is not None and (row.at is None or row.at >= since)]
        return found

    def catalog(self, call: Call, kind: str) -> Generator[Request, Reply, Sequence[Json] | None]:
        """Live where it lists them; None, for the documented list, where it does not answer."""
        if kind not in LIVE:
            return None
        reply = yield replies.get(call, LIVE[kind])
        return _catalog(read_json(reply.body)) if replies.answered(reply) else None

    # -- outputs

    def fetch(self, call: Call, output: Output) -> Request | None:
        if not output.needs_key or not on_origin(output.url, call.base_url):
            return None
        return Request(method="GET", url=output.url, headers={"Authorization": f"Bearer {call.api_key}"})

    def share(self, call: Call, output: Output) -> Generator[Request, Reply, str | None]:
        """A link of its own for a video, where CALLSHEET_PROGRESSIVEROBOT_SHARE asks for it: others may then see it."""
        name = output.file_name
        if output.kind != "video" or not name or call.options.get("share", "").lower() not in YES:
            return None
        since = call.submitted_at or 0
        rows = yield from history.read(call, history.GENERATIONS, since, lambda row: row.get("filename") == name)
        ids = [] if isinstance(rows, NotNow) else [row.get("id") for row in rows if row.get("filename") == name]
        generation = next((found for found in map(id_text, ids) if found), None)
        if generation is None:
            return None
        reply = yield replies.post(call, f"/api/generations/{path_part(generation)}/share", {})
        token = text_of(read_object(reply.body).get("share_token")) if replies.answered(reply) else None
        return (
            None if token is None else f"{call.base_url}/api/video/{quote(name, safe='')}?token={quote(token, safe='')}"
        )

    # -- its own API

    def recognise(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Recognised:
        plain = _plain_path(path)
        for operation in self.operations.values():
            pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(operation.path))
            fits = re.fullmatch(pattern, plain, re.IGNORECASE)
            if fits is not None and method.upper() == operation.method:
                given = {**read_object(body), **fits.groupdict()}
                return Recognised(kind="submit", operation=operation.name, input=given)
        asked = id_text(query.get("job_id"))
        if method.upper() in ("GET", "HEAD") and plain.lower() == "/api/status" and asked is not None:
            return Recognised(kind="status", provider_job_ids=(asked,))
        return Recognised(kind="account" if _is_account(plain.lower()) else "plain")


provider = ProgressiveRobot()


# -- submitting -----------------------------------------------------------------------------------


def _upload(call: Call, operation: Operation) -> Generator[Request, Reply, dict[str, str] | SubmitVerdict]:
    """The names that uploaded files have there, by the field that names them."""
    names: dict[str, str] = dict((call.kept or {}).get("uploaded", {}))
    for use in operation.files(call.input):
        field = str(use.path[0])
        if use.rule.how != "upload" or field in names:
            continue
        form = Form(files=((use.rule.as_, use.file),))
        url = call.base_url + UPLOAD_PATH
        reply = yield Request(method="POST", url=url, headers=replies.headers(call), form=form)
        name = replies.file_of(read_object(reply.body)) if replies.answered(reply) else None
        if name is None:
            return _not_uploaded(call, operation, reply)
        names[field] = name
    return names


def _not_uploaded(call: Call, operation: Operation, reply: Reply) -> SubmitVerdict:
    """Nothing that charges was sent: unless the file is refused, it can be tried again."""
    if call.repeat:
        return Unknown(reason="the file could not be uploaded again, which says nothing about the first submit")
    if replies.is_refusal(reply):
        return replies.refusal(operation, reply)
    said = f"Progressive Robot did not take the file: HTTP {reply.status}"
    error = JobError(code=ErrorCode.PROVIDER_ERROR, message=said, retryable=True, provider_code=str(reply.status))
    return NotNow(reason="provider_error", at_most=MAX_UPLOAD_REPEATS, error=error)


def _charging(call: Call, operation: Operation, uploaded: dict[str, str]) -> Request:
    """The POST of the operation, as a form where it carries files."""
    path = re.sub(r"\{(\w+)\}", lambda field: _path_id(call, field[1]), operation.path)
    in_path = set(re.findall(r"\{(\w+)\}", operation.path))
    fields = {name: value for name, value in {**call.input, **uploaded}.items() if name not in in_path}
    parts = [name for name, schema in operation.input_schema["properties"].items() if _is_part(schema)]
    keep = {"uploaded": uploaded} if uploaded else None
    if not parts:
        seed = history.seed_of(call, operation)
        body = fields if seed is None else {**fields, "seed": seed}
        return replies.post(call, path, body, charges=True, keep=keep)
    files = tuple((name, str(fields.pop(name))) for name in parts if fields.get(name) is not None)
    texts = {name: replies.form_text(value) for name, value in fields.items() if value is not None}
    form = Form(files=files, fields=texts)
    return Request(
        method="POST", url=call.base_url + path, headers=replies.headers(call), form=form, charges=True, keep=keep
    )


def _is_part(schema: Json) -> bool:
    return bool(schema.get("x-file", {}).get("how") == "part")


def _path_id(call: Call, field: str) -> str:
    text = str(call.input.get(field, ""))
    return path_part(text.encode(errors="replace").decode())


# -- what replies say -----------------------------------------------------------------------------


def _position(said: Any, provider_job_id: str) -> int | None:
    """Our place: our job's row, or the one place that it tells where ours is the only job."""
    rows = history.rows_of(said) or []
    ours = next((row for row in rows if id_text(row.get("job_id") or row.get("id")) == provider_job_id), None)
    if ours is not None and (place := replies.position_of(ours)) is not None:
        return place
    alone = isinstance(said, dict) and len(rows) <= 1
    return replies.position_of(said) if alone else None


def _query(asked: Json) -> str:
    return f"?{urlencode(asked, errors='replace')}" if asked else ""


def _quoted(amount: str) -> Cost:
    return Cost(amount=amount, unit="credits", source="quoted")


def _amount(reply: Reply, names: Sequence[str]) -> str | None:
    """An amount in one of these fields, in an object in one of them, or alone."""
    said = read_json(reply.body) if replies.answered(reply) else None
    if not isinstance(said, dict):
        return decimal_text(said)
    values = [said.get(name) for name in names]
    values += [value.get(name) for value in values if isinstance(value, dict) for name in names]
    return next((found for found in map(decimal_text, values) if found is not None), None)


def _export(project: Json) -> str | None:
    """By the shots that have a video; None where that cannot be told."""
    inner = project.get("project")
    shots = (inner if isinstance(inner, dict) else project).get("shots")
    rows = shots if isinstance(shots, list) else []
    if not rows or not all(isinstance(row, dict) and "filename" in row for row in rows):
        return None
    return f"{money.clips(sum(1 for row in rows if row['filename'])):f}"


def _account(reply: Reply) -> Json | None:
    said = read_object(reply.body) if replies.answered(reply) else {}
    user = said.get("user")
    told = {**user, **said} if isinstance(user, dict) else said
    tier = next((found for found in (text_of(told.get(name)) for name in TIER_NAMES) if found), None)
    if tier is None or any(told.get(name) is False for name in SIGNED_IN):
        return None
    limits = told.get("limits")
    return {
        "tier": tier,
        "credits": next((found for found in (decimal_text(told.get(name)) for name in PURSES) if found), None),
        "limits": limits if isinstance(limits, dict) else {},
        "admin": told.get("is_admin") is True or told.get("admin") is True,
    }


def _refuse_key(reply: Reply) -> None:
    """401, or a 200 which says that nobody is signed in."""
    said = read_object(reply.body)
    nobody = replies.answered(reply) and any(said.get(name) is False for name in SIGNED_IN)
    if reply.status == 401 or nobody:
        raise Invalid("Progressive Robot does not accept this key: make one in its settings", param="api_key")


def _catalog(said: Any) -> list[Json] | None:
    """Rows of a list, bare or in a field; of names alone; or of an object by id."""
    if isinstance(said, dict):
        inner = next((value for value in said.values() if isinstance(value, list | dict)), None)
        said = said if isinstance(inner, dict) and all(isinstance(row, dict) for row in said.values()) else inner
    if isinstance(said, dict):
        return [{"id": name, **row} for name, row in said.items() if isinstance(row, dict)]
    rows = said if isinstance(said, list) else []
    found = [row if isinstance(row, dict) else {"id": row} for row in rows if isinstance(row, dict | str)]
    return found or None


# -- what is refused ------------------------------------------------------------------------------


def _check_part(field: str, given: Any) -> None:
    if not isinstance(given, str) or not given.startswith("file_"):
        said = f"`{field}` is sent as a file: give the picture to POST /v1/files, and its file_... id here"
        raise Invalid(said, param=f"input.{field}")


def _check_span(given: Json, start: str, end: str) -> None:
    begins, ends = given.get(start), given.get(end)
    if isinstance(begins, int | float) and isinstance(ends, int | float) and ends <= begins:
        raise Invalid(f"`{end}` must be later than `{start}`", param=f"input.{end}")


# -- passthrough ----------------------------------------------------------------------------------


def _plain_path(path: str) -> str:
    """The path as a server may come to read it: decoded, without empty and dot parts, without a slash at its end."""
    for _ in range(3):
        path = unquote(path)
    return posixpath.normpath("/" + path.lstrip("/"))


def _is_account(path: str) -> bool:
    """Below `/api` as at the root, with whatever decorates the name."""
    parts = [re.sub(r"[^\w-].*", "", part) for part in path.split("/")[1:]]
    below_api = parts[:1] == ["api"]
    root = next((part for part in parts[below_api:] if not re.fullmatch("v[0-9]+", part)), "")
    if below_api and root in PLAIN:
        return False
    return root in ACCOUNT or is_account_path(path)
