"""Replicate: any model, by version, name or deployment. Facts: https://replicate.com/docs/topics/webhooks.

It calls a URL of each job's own, signed by Standard Webhooks with the account's secret, and gives up a minute after
the end. Outputs are of any shape and are removed an hour after it. There is no idempotency key: a submit whose reply
was lost is named by its callback, or found in the list by its callback URL.
"""

import base64
import json
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from service.errors import BadRequest, Invalid, Unavailable
from service.facts import Accepted, JobError, NotFound, NotNow, Output, Refused, StatusVerdict, SubmitVerdict, Update
from service.providers import (
    Asking,
    Call,
    HistoryRow,
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
from service.providers._media import BY_EXTENSION, BY_MEDIA_TYPE, URL
from service.providers._reading import (
    MAX_QUOTED_CHARS,
    header_wait,
    id_text,
    is_account_path,
    on_origin,
    path_part,
    path_parts,
    read_object,
    said_text,
    seconds,
    text_of,
)
from service.providers._refusals import failed_in_success, not_accepted
from service.signatures import InvalidSecret, StaleSignature, parse_secret, verify
from service.states import ErrorCode, JobStatus, Json

PREDICTIONS = "/v1/predictions"
NAMED = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.A)  # owner/name
IN_PATH = re.compile(r"\{(\w+)\}")
BY_FAMILY = {"models": ("model_prediction", "model"), "deployments": ("deployment_prediction", "deployment")}

REFUSALS = {
    401: ErrorCode.AUTHENTICATION,
    402: ErrorCode.OUT_OF_CREDIT,
    403: ErrorCode.AUTHENTICATION,  # this model or deployment is not this key's to use
    429: ErrorCode.CAPACITY,
}
NOT_READ = {401: "authentication", 402: "out_of_credit", 403: "authentication", 429: "rate_limited"}
# The whole `error` of a prediction, as Replicate and the models of its own library word it.
MODERATED = re.compile(
    r"the input or output was flagged as sensitive\. please try again with different inputs\. \(e005\)( \([\w-]+\))?"
    r"|nsfw content detected\. try running it again, or try a different prompt\.?",
    re.I,
)

# Ours already, or what nobody else must read: `webhook` is the job's callback URL.
UNKEPT = frozenset({"webhook", "webhook_events_filter", "input"})
AT_SUBMIT = UNKEPT | {"id", "status", "output", "logs", "error", "metrics", "started_at", "completed_at"}
SUCCEEDED = "succeeded"
UNDER_WAY = frozenset({"starting", "queued", "processing"})
OUTPUT_LIFE_MS = 3_600_000  # of a prediction made by the API
EMPTY_FOR_MS = 300_000  # after which a success without an output is not going to get one
NO_OUTPUT: tuple[Any, ...] = (None, "", [], {})
PROGRESS = re.compile(r"(\d{1,3})%\|")  # how the bars of most models' logs begin; Replicate's own client reads them
LOG_TAIL = 4096

PAGES = 50
LIST_MARGIN_MS = 600_000  # our clock and theirs may differ


class Replicate(Provider):
    """The `Provider` for https://api.replicate.com."""

    name = "replicate"
    title = "Replicate"
    base_url = "https://api.replicate.com"
    operations: Mapping[str, Operation] = operation_table(__file__, "replicate")
    unit = "usd"
    callback_signed = True
    callback_keys = "account"
    callback_https_only = True
    callback_max_bytes = 8 * 1024 * 1024  # `logs` and `output` may hold much, data URIs among it
    submit_status = 201
    url_fields = frozenset({"get", "cancel", "next", "previous"})
    reads_history = True

    def submit(self, call: Call) -> Submitting:
        """One charging POST, never held open: the callback tells the end."""
        path, body = _target(self.operations[call.operation].path, call.input)
        if call.callback_url is not None:
            # Only the last event is repeated when we do not take it.
            body = {**body, "webhook": call.callback_url, "webhook_events_filter": ["completed"]}
        reply = yield Request(
            method="POST",
            url=call.base_url + path,
            headers={**_headers(call), "Content-Type": "application/json"},
            body=json.dumps(body, separators=(",", ":")).encode(),
            charges=True,
        )
        return _read_submit(call, reply)

    def submit_reply(self, call: Call) -> Json | None:
        """A prediction that has just been made."""
        if not call.provider_job_ids:
            return None
        named, known = call.provider_job_ids[0], call.provider_data or {}
        url = f"{call.base_url}/v1/predictions/{path_part(named)}"
        made_at = datetime.fromtimestamp((call.submitted_at or call.now) / 1000, UTC)
        return {
            "id": named,
            "model": text_of(known.get("model")) or text_of(call.input.get("model")) or "",
            "version": text_of(known.get("version")) or text_of(call.input.get("version")) or "hidden",
            "input": call.input.get("input"),
            "output": None,
            "logs": "",
            "error": None,
            "status": "starting",
            "created_at": made_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "urls": {"get": url, "cancel": f"{url}/cancel"},
        }

    def status(self, call: Call, provider_job_id: str) -> Asking:
        """One GET of the prediction."""
        reply = yield _get(call, f"{call.base_url}{PREDICTIONS}/{path_part(provider_job_id)}")
        return _read_status(reply, call.now)

    def cancel(self, call: Call, provider_job_id: str) -> Asking:
        """Answered with the prediction as it then is, mostly not canceled yet."""
        url = f"{call.base_url}{PREDICTIONS}/{path_part(provider_job_id)}/cancel"
        reply = yield Request(method="POST", url=url, headers=_headers(call))
        return _read_status(reply, call.now)

    def check(self, call: Call) -> Generator[Request, Reply, str]:
        """Ask whose key it is."""
        reply = yield _get(call, f"{call.base_url}/v1/account")
        said = read_object(reply.body)
        if reply.status == 401 and _error_text(said) is not None:
            raise Invalid("Replicate does not accept this token: make one in its account settings", param="api_key")
        name = text_of(said.get("username"))
        if reply.status != 200 or name is None:
            raise Unavailable(f"Replicate answered HTTP {reply.status}, which does not tell whether it accepts the key")
        return f"Replicate accepts the key of {name}."

    def lookup(self, call: Call) -> Looking:
        """Look through the list for the prediction that was told this job's callback URL.

        Never conclusive: that a row of the list carries its `webhook` is not documented.
        """
        if call.callback_url is None:
            return NotFound(reason="nothing in Replicate's list tells this submit from another", hopeless=True)
        since = (call.submitted_at or call.now) - LIST_MARGIN_MS
        rows, problem = yield from _listed(call, since, until=call.callback_url)
        ours = (id_text(row.get("id")) for row in rows if row.get("webhook") == call.callback_url)
        found = next(filter(None, ours), None)
        if found is not None:
            return Accepted(provider_job_ids=(found,), note="found in Replicate's list")
        return problem or NotFound(reason="Replicate's list shows no row of this submit")

    def history(self, call: Call, since: int) -> Generator[Request, Reply, Sequence[HistoryRow]]:
        """The list of predictions, newest first, back to `since`. Raises `Unavailable` where it ends before that."""
        rows, problem = yield from _listed(call, since)
        if problem is not None:
            raise Unavailable(f"Replicate's list could not be read back far enough: {problem.reason}")
        found = (_history_row(row, call.now) for row in rows)
        return [row for row in found if row is not None and (row.at is None or row.at >= since)]

    def keys(self, call: Call) -> Generator[Request, Reply, Sequence[str]]:
        """The secret that signs the account's callbacks."""
        url = f"{call.base_url}/v1/webhooks/default/secret"
        reply = yield Request(method="GET", url=url, headers=_headers(call), for_secret=True)
        key = text_of(read_object(reply.body).get("key"))
        if reply.status != 200 or key is None:
            raise Unavailable(f"Replicate did not give its signing secret: HTTP {reply.status}")
        return [key]

    def verify_callback(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: int) -> bool:
        """Whether the callback is fresh, by Standard Webhooks `v1`. Raises `SignatureRefused`."""
        try:
            verify([*_secrets(secrets)], headers, body, now=now)
        except StaleSignature:
            return False
        return True

    def read_callback(self, body: bytes) -> ReadCallback:
        """The body is the prediction itself. Raises `BadRequest` where it has no usable `id` and `status`."""
        said = read_object(body)
        provider_job_id, update = id_text(said.get("id")), _update(said, None)
        if provider_job_id is None or update is None:
            raise BadRequest("the body is no prediction: it has no `id` or no `status`")
        # A success without its output must not make the later, whole one a duplicate.
        dedupe_key = f"{provider_job_id}:{update.provider_status}"
        open_ended = update.status is JobStatus.PROCESSING
        return ReadCallback(
            provider_job_id=provider_job_id,
            update=update,
            dedupe_key=f"{dedupe_key}:open" if open_ended else dedupe_key,
        )

    def recognise(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Recognised:
        """Submits by their paths, the read of one prediction, what belongs to the account."""
        match method, path_parts(path):
            case "POST", ("v1", "predictions"):
                return Recognised(kind="submit", operation="prediction", input=read_object(body))
            case "POST", ("v1", "models" | "deployments" as family, owner, name, "predictions"):
                operation, field = BY_FAMILY[family]
                given = {**read_object(body), field: f"{owner}/{name}"}
                return Recognised(kind="submit", operation=operation, input=given)
            case "GET", ("v1", "predictions", named) if id_text(named):
                return Recognised(kind="status", operation="prediction", provider_job_ids=(named,))
            case _, parts if is_account_path(path) or "webhooks" in parts:
                return Recognised(kind="account")
        return Recognised(kind="plain")


provider = Replicate()


# -- requests -------------------------------------------------------------------------------------


def _headers(call: Call) -> dict[str, str]:
    return {"Authorization": f"Bearer {call.api_key}", "Accept": "application/json"}


def _get(call: Call, url: str) -> Request:
    return Request(method="GET", url=url, headers=_headers(call))


def _target(path: str, given: Json) -> tuple[str, Json]:
    """The path of a submit and its body: what stands in the path is taken out of the input."""
    field = IN_PATH.search(path)
    if field is None:
        return path, given
    name = str(given.get(field[1], ""))
    part = name if NAMED.fullmatch(name) else path_part(name)
    return path.replace(field[0], part), {key: value for key, value in given.items() if key != field[1]}


def _listed(
    call: Call, since: int, until: str | None = None
) -> Generator[Request, Reply, tuple[list[Json], NotNow | None]]:
    """The rows of the list back to `since`, or to the one whose `webhook` is `until`; and why not, where it is cut."""
    rows: list[Json] = []
    url: Any = call.base_url + PREDICTIONS
    for _ in range(PAGES):
        reply = yield _get(call, url)
        said = read_object(reply.body)
        if reply.status != 200 or not isinstance(said.get("results"), list):
            return rows, _not_now(reply)
        page = [row for row in said["results"] if isinstance(row, dict)]
        rows += page
        url = said.get("next")
        ages = [at for row in page if (at := _milliseconds(row.get("created_at"))) is not None]
        sought = until is not None and any(row.get("webhook") == until for row in page)
        if sought or not page or url is None or (ages and min(ages) < since):
            return rows, None
        if not on_origin(url, call.base_url) or not url.startswith(f"{call.base_url}/"):
            return rows, NotNow(reason="unreadable")  # the key goes nowhere else
    return rows, NotNow(reason="capacity")


# -- replies --------------------------------------------------------------------------------------


def _read_submit(call: Call, reply: Reply) -> SubmitVerdict:
    said = read_object(reply.body)
    text = _error_text(said)
    if 200 <= reply.status < 300:
        return _accepted(said) or failed_in_success(call, reply, "Replicate", text)
    own = _not_accepted(reply, said) if text is not None else None
    return not_accepted(call, reply, ("replicate", "Replicate"), own=own, job_id=id_text(said.get("id")))


def _accepted(said: Json) -> Accepted | None:
    provider_job_id = id_text(said.get("id"))
    if provider_job_id is None:
        return None
    about = {name: value for name, value in said.items() if name not in AT_SUBMIT}
    return Accepted(provider_job_ids=(provider_job_id,), provider_data=about or None)


def _not_accepted(reply: Reply, said: Json) -> Refused | NotNow:
    if reply.status == 429:
        return NotNow(reason="rate_limited", after_s=_wait_s(reply, said), whole=True)
    text = _error_text(said) or ""
    code = REFUSALS.get(reply.status, ErrorCode.INVALID_INPUT)
    error = JobError(
        code=code,
        message=f"Replicate refused the submit: {text}",
        provider_code=str(reply.status),
        provider_message=text,
    )
    return Refused(error=error, pauses=reply.status == 401 or code is ErrorCode.OUT_OF_CREDIT)


def _error_text(said: Json) -> str | None:
    """Errors have a `detail`, some a `title` too."""
    return said_text(said.get("detail")) or text_of(said.get("title"))


def _wait_s(reply: Reply, said: Json) -> float | None:
    in_header = header_wait(reply.headers)
    return seconds(said.get("retry_after")) if in_header is None else in_header


def _not_now(reply: Reply) -> NotNow:
    """A question without a usable answer, in one stable word."""
    fallback = "provider_error" if reply.status >= 500 else "unreadable"
    after_s = _wait_s(reply, read_object(reply.body))
    return NotNow(reason=NOT_READ.get(reply.status, fallback), after_s=after_s, whole=reply.status == 429)


def _read_status(reply: Reply, now: int) -> StatusVerdict:
    said = read_object(reply.body)
    if reply.status == 404 and _error_text(said) is not None:
        return NotFound(reason="Replicate does not know this id")
    update = _update(said, now) if 200 <= reply.status < 300 else None
    return update or _not_now(reply)


def _update(said: Json, now: int | None) -> Update | None:
    """What a prediction says; None where it has no status. `now` is not known to a callback."""
    word = text_of(said.get("status"))
    if word is None:
        return None
    state, kept = word.strip().lower(), {name: value for name, value in said.items() if name not in UNKEPT}
    if state in ("failed", "aborted"):
        return Update(status=JobStatus.FAILED, error=_failure(said, state), provider_status=word, provider_data=kept)
    if state in ("canceled", "cancelled"):
        return Update(status=JobStatus.CANCELED, provider_status=word, provider_data=kept)
    if state == SUCCEEDED and said.get("output") not in NO_OUTPUT:
        outputs = tuple(_outputs(said["output"], _expires_at(said)))
        return Update(status=JobStatus.SUCCEEDED, outputs=outputs, provider_status=word, provider_data=kept)
    error = _nothing_to_show(said, now) if state == SUCCEEDED else None
    if error is not None:
        return Update(status=JobStatus.FAILED, error=error, provider_status=word, provider_data=kept)
    # Any other word is not an end: the job's deadline bounds it. Beside a known one stands a part of the output.
    progress = _progress(said.get("logs"))
    if state in UNDER_WAY or state == SUCCEEDED or said.get("output") in NO_OUTPUT:
        return Update(status=JobStatus.PROCESSING, progress=progress, provider_status=word)
    shown = tuple(_outputs(said["output"], _expires_at(said)))
    return Update(
        status=JobStatus.PROCESSING, progress=progress, provider_status=word, outputs=shown, provider_data=kept
    )


def _failure(said: Json, state: str) -> JobError:
    text = said_text(said.get("error"))
    moderated = MODERATED.fullmatch((text or "").strip()) is not None
    why = text or ("it was given up before it began" if state == "aborted" else "it gives no reason")
    return JobError(
        code=ErrorCode.CONTENT_MODERATED if moderated else ErrorCode.PROVIDER_ERROR,
        message=f"Replicate ended the prediction: {why}",
        retryable=state == "aborted",
        provider_code=state,
        provider_message=text,
    )


def _nothing_to_show(said: Json, now: int | None) -> JobError | None:
    """Why a success has no output: it was removed, or there never was one; None while it may still come."""
    ended = _milliseconds(said.get("completed_at"))
    age_ms = now - ended if now is not None and ended is not None else 0
    if said.get("data_removed") is True or age_ms >= OUTPUT_LIFE_MS:
        text = "Replicate has removed the output, as it does an hour after the end"
        return JobError(code=ErrorCode.RESULT_EXPIRED, message=text, provider_code=SUCCEEDED)
    if age_ms < EMPTY_FOR_MS:
        return None
    text = "Replicate says that the prediction succeeded, and shows no output"
    return JobError(code=ErrorCode.PROVIDER_ERROR, message=text, provider_code=SUCCEEDED)


def _progress(logs: Any) -> float | None:
    found = PROGRESS.findall(logs[-LOG_TAIL:]) if isinstance(logs, str) else []
    return min(int(found[-1]), 100) / 100 if found else None


def _milliseconds(value: Any) -> int | None:
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return int(at.timestamp() * 1000) if at is not None and at.tzinfo is not None else None


def _expires_at(said: Json) -> int | None:
    """An hour after the end; what was made on the web site stays."""
    ended = _milliseconds(said.get("completed_at"))
    return None if ended is None or said.get("source") == "web" else ended + OUTPUT_LIFE_MS


def _history_row(row: Json, now: int) -> HistoryRow | None:
    provider_job_id = id_text(row.get("id"))
    if provider_job_id is None:
        return None
    # A row without its output is no proof that there is none.
    update = _update(row, now) if "output" in row or row.get("status") != SUCCEEDED else None
    about = {name: row[name] for name in ("model", "version", "deployment", "source", "status") if row.get(name)}
    at = _milliseconds(row.get("created_at"))
    return HistoryRow(provider_job_id=provider_job_id, at=at, update=update, about=about or None)


# -- outputs --------------------------------------------------------------------------------------


def _outputs(output: Any, expires_at: int | None) -> Iterator[Output]:
    """Every URL anywhere in the output; where it has none, the output itself as a text."""
    urls = [leaf for leaf in _leaves(output) if isinstance(leaf, str) and URL.fullmatch(leaf)]
    # A list of texts is a language model's words, even where one of them is a URL.
    if not urls or (_is_words(output) and len(urls) < len(output)):
        yield _as_text(output)
        return
    for url in dict.fromkeys(urls):
        yield _data(url) if url.startswith("data:") else _file(url, expires_at)


def _leaves(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict | list):
            waiting.extend(reversed(found.values() if isinstance(found, dict) else found))
        else:
            yield found


def _is_words(output: Any) -> bool:
    return isinstance(output, list) and all(isinstance(item, str) for item in output)


def _as_text(output: Any) -> Output:
    words = "".join(output) if _is_words(output) else output
    content_type = "text/plain" if isinstance(words, str) else "application/json"
    content = (words if isinstance(words, str) else json.dumps(words, ensure_ascii=False)).encode()
    url = f"data:{content_type};charset=utf-8;base64,{base64.b64encode(content).decode()}"
    return Output(url=url, kind="text", content_type=content_type, bytes=len(content))


def _data(url: str) -> Output:
    content_type = re.split("[;,]", url[5 : 5 + MAX_QUOTED_CHARS], maxsplit=1)[0].lower()
    main = content_type.partition("/")[0]
    known = BY_MEDIA_TYPE.get(content_type) or BY_MEDIA_TYPE.get(main)
    return Output(url=url, kind=known or ("text" if main == "text" else "file"), content_type=content_type)


def _file(url: str, expires_at: int | None) -> Output:
    try:
        name = urlsplit(url).path.rpartition("/")[2]
    except ValueError:
        name = ""
    kind = BY_EXTENSION.get(name.rpartition(".")[2].lower(), "file")
    return Output(url=url, kind=kind, file_name=name or None, expires_at=expires_at)


# -- callbacks ------------------------------------------------------------------------------------


def _secrets(texts: Sequence[str]) -> Iterator[bytes]:
    for text in texts:
        try:
            yield parse_secret(text)
        except InvalidSecret:
            continue  # what cannot be a key proves nothing; without any other, nothing verifies
