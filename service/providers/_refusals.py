"""What a reply that is no success proves about a submit, whoever wrote it: the provider, or what stands before it."""

import html
import re
from typing import Any, Literal
from urllib.parse import urlsplit

from service.facts import JobError, NotNow, Refused, SubmitVerdict, Unknown
from service.providers import Call, Reply
from service.providers._reading import FAILED_WORDS, URL, header_wait, plain_word, read_json, read_object, text_of
from service.states import ErrorCode, Json

# A redirect by these sends nothing on, and asks for the same request elsewhere; 303 tells what came of one that was
# processed (RFC 9110 section 15.4).
MOVED = frozenset({301, 302, 307, 308})
# The client errors of RFC 9110 section 15.5 (418 is unused) and RFC 6585, but for 408 and 409: those do not say that
# nothing was done. Neither do 424 and 425, nor any other, which is nobody's or another document's.
NOT_PROCESSED = (frozenset(range(400, 418)) | {421, 422, 426, 428, 429, 431}) - {408, 409}
CODES = {
    401: ErrorCode.AUTHENTICATION,
    402: ErrorCode.OUT_OF_CREDIT,
    **dict.fromkeys((400, 413, 414, 415, 422, 431), ErrorCode.INVALID_INPUT),
}
PAUSING = frozenset({401, 402})
MAX_WORDS_CHARS = 200  # of a page, in an error
READ_BYTES = 16_384  # of a page, for its first words
UNSEEN = re.compile(r"<!--.*?-->|<(script|style|head(?=[\s>]))\b.*?</\1[^<>]*>?|<[^<>]*>?", re.I | re.S)
TITLE = re.compile(r"<title[^<>]*>([^<]*)", re.I)
TEXTS = ("message", "error", "detail", "title", "description", "reason")  # where JSON of any maker has its text

Proof = Literal["moved", "later", "refused"]


def proof(status: int) -> Proof | None:
    """What a status by itself proves about a submit; None where it may have been accepted."""
    if status in MOVED:
        return "moved"
    if status == 429:
        return "later"
    return "refused" if status in NOT_PROCESSED else None


def not_accepted(
    call: Call,
    reply: Reply,
    provider: tuple[str, str],
    *,
    own: Refused | NotNow | None,
    job_id: Any = None,
    documented: bool = False,
) -> SubmitVerdict:
    """The verdict on a submit's reply that is no success.

    `provider` is its name and title. `own`: the reply as the provider's documents read it, None where it is not in
    their shape. `job_id`: an id in it. `documented`: its status, too, proves that nothing was accepted.
    """
    found = proof(reply.status)
    if job_id is not None:
        return Unknown(reason=f"HTTP {reply.status} with the id of a job")
    if found is None and not documented:
        return Unknown(reason=f"HTTP {reply.status} is no proof that nothing was accepted")
    if call.repeat:
        return Unknown(reason=f"HTTP {reply.status} to a repeat says nothing about the first submit")
    if found == "moved":
        return Refused(error=_moved(reply, *provider))
    return own if own is not None else _by_status(reply, provider[1])


def failed_in_success(call: Call, reply: Reply, title: str, text: str | None) -> SubmitVerdict:
    """The verdict on a 2xx without an id or a result: a refusal where the provider itself says there that it failed.

    `text`: of an error in the provider's own shape, None where there is none.
    """
    said = read_object(reply.body)
    if text is None and not _says_no(said):
        return Unknown(reason=f"HTTP {reply.status} without an id or a result")
    if call.repeat:
        return Unknown(reason="a failure in the answer to a repeat says nothing about the first submit")
    shown = text or _text_in(said)
    error = JobError(
        code=ErrorCode.PROVIDER_ERROR,
        message=f"{title} refused the submit: {shown or 'it gives no reason'}",
        provider_code=str(reply.status),
        provider_message=shown,
    )
    return Refused(error=error)


def _says_no(said: Json) -> bool:
    """Whether an object says that it failed: no success, or a word for a bad end."""
    flags = (said.get(name) for name in ("success", "ok"))
    return (
        any(flag is False or plain_word(flag) == "false" for flag in flags)
        or plain_word(said.get("status")) in FAILED_WORDS
    )


def _moved(reply: Reply, name: str, title: str) -> JobError:
    """Only the origin of where to: the rest of it may quote the request."""
    to = _origin(reply.headers.get("location", ""))
    return JobError(
        code=ErrorCode.PROVIDER_ERROR,
        message=(
            f"{title} did not take the submit: the base URL moved{f' to {to}' if to else ''} (HTTP {reply.status}):"
            f" set CALLSHEET_{name.upper()}_BASE_URL to the address that answers without a redirect, then submit again"
        ),
        provider_code=str(reply.status),
    )


def _origin(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    fits = URL.fullmatch(url) and len(url) <= 2_000 and parts.scheme in ("http", "https") and parts.hostname
    return f"{parts.scheme}://{parts.hostname}{port}" if fits else None


def _by_status(reply: Reply, title: str) -> Refused | NotNow:
    """A page that the provider's documents do not know: of a gateway, a firewall, a balancer."""
    if reply.status == 429:
        return NotNow(reason="rate_limited", after_s=header_wait(reply.headers), whole=True)
    words = first_words(reply.body)
    error = JobError(
        code=CODES.get(reply.status, ErrorCode.PROVIDER_ERROR),
        message=f"{title} did not take the submit: HTTP {reply.status}{f', {words}' if words else ''}",
        provider_code=str(reply.status),
        provider_message=words or None,
    )
    return Refused(error=error, pauses=reply.status in PAUSING)


def first_words(body: bytes) -> str:
    """What a page begins with, as one short line of plain text; "" for what has no text."""
    said = read_json(body)
    text = (_text_in(said) if isinstance(said, dict) else text_of(said)) or _plain(body)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MAX_WORDS_CHARS].rstrip()


def _text_in(said: Json) -> str | None:
    values = (said.get(name) for name in TEXTS)
    inner = (value.get("message") if isinstance(value, dict) else value for value in values)
    return next((found for found in map(text_of, inner) if found), None)


def _plain(body: bytes) -> str:
    """The text that a browser would show of a page; its title where it shows none."""
    page = body[:READ_BYTES].decode(errors="replace")
    shown = html.unescape(UNSEEN.sub(" ", page))
    if shown.strip() or not (title := TITLE.search(page)):
        return shown
    return html.unescape(title[1])
