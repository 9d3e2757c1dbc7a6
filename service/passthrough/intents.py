"""What a caller means by a job-making request, and the job that it becomes. Pure but for ids drawn at random."""

import json
import logging
import re

import msgspec

from service.conversation import LEASE_MS, account_call
from service.facts import Cost
from service.framing import Outgoing, StreamBody
from service.idempotency import idempotency_key
from service.ids import new_correlation, new_id, new_token
from service.models import Credential, Detail, Job, NewJob
from service.passthrough.bodies import Asked
from service.passthrough.pricing import highest, reads_one_way
from service.passthrough.recognising import Aim, headers_for
from service.providers import Operation, Provider, Recognised, read_object
from service.settings import Settings
from service.states import JobStatus, Json, Record, Work

log = logging.getLogger("callsheet.passthrough")

_CORRELATION = re.compile(r"[!-~]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Intent(Record, frozen=True, kw_only=True):
    """A submit that a caller makes by the provider's own API."""

    tenant: int
    provider: Provider
    operation: Operation
    credential: Credential
    input: Json
    input_json: bytes
    correlation: str
    own_key: bool  # the caller chose the correlation, under which the provider never makes a second
    waits: bool = False  # the caller asked the provider to answer late, with the result
    traceparent: str | None
    priced_as_highest: bool = False  # the provider may read the body otherwise than it was read here
    idempotency_key: str | None = None
    digest: bytes = b""  # of all that makes another submit its equal


def intended(
    aim: Aim, asked: Asked, seen: Recognised, body: bytes | StreamBody, digest: bytes
) -> tuple[Intent, Outgoing]:
    """The intent, and the request as it leaves: with a correlation, the caller's or ours."""
    operation, header = aim.provider.operations[seen.operation], aim.provider.correlation_header
    headers = headers_for(aim, asked)
    chosen = seen.correlation or headers.get((header or "").lower(), "")  # of what leaves: not all that came does
    own = bool(_CORRELATION.fullmatch(chosen))
    correlation = chosen if own else new_correlation()
    if header is not None and not own:
        headers = {name: value for name, value in headers.items() if name != header.lower()} | {header: correlation}
    given, traceparent = seen.input or {}, asked.headers.get("traceparent", "")
    intent = Intent(
        tenant=aim.tenant,
        provider=aim.provider,
        operation=operation,
        credential=aim.credential,
        input=given,
        input_json=_kept_input(given, body if isinstance(body, bytes) else b""),
        correlation=correlation,
        own_key=own and operation.settled_by == "same_key",
        waits="wait" in asked.headers.get("prefer", ""),
        traceparent=traceparent if _TRACEPARENT.fullmatch(traceparent) else None,
        priced_as_highest=not reads_one_way(operation, asked.headers, body),
        idempotency_key=idempotency_key(asked.headers.get("idempotency-key")),
        digest=digest,
    )
    return intent, Outgoing(asked.method, aim.url, headers, body)


def _kept_input(given: Json, body: bytes) -> bytes:
    """The caller's own bytes where they are the input, so that numbers keep their digits."""
    if read_object(body) == given and _is_plain_json(body):
        return body
    try:
        return json.dumps(given, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return b"{}"


def _is_plain_json(body: bytes) -> bool:
    """JSON that every reader takes: it is shown as it is stored."""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def new_job(intent: Intent, number: int, settings: Settings, now: int) -> NewJob:
    """The job as it is kept before anything is sent: `submitting`, leased to the request that forwards it.

    `number` tells apart the intents under one key of the caller's choice, where earlier ones were refused.
    """
    operation = intent.operation
    job = Job(
        num=0,
        id=new_id("job", now),
        tenant=intent.tenant,
        provider=intent.provider.name,
        operation=operation.name,
        credential=intent.credential.num,
        status=JobStatus.SUBMITTING,
        reason=None,
        version=1,
        sequence=0,
        work=Work.SETTLE,
        due_at=now + LEASE_MS,
        lease=new_token(),
        tries=0,
        polls=0,
        first_poll_at=None,
        last_poll_at=None,
        created_at=now,
        updated_at=now,
        submitted_at=None,
        accepted_at=None,
        finished_at=None,
        deadline_at=now + operation.deadline_s * 1000,
        cancel_requested_at=None,
        correlation=intent.correlation,
        followed=False,
        metadata={},
        detail=_detail(intent, settings, now),
    )
    key, fingerprint = key_of(intent, number)
    return NewJob(job=job, input=intent.input_json, idempotency_key=key, fingerprint=fingerprint)


def key_of(intent: Intent, number: int = 0) -> tuple[str | None, bytes]:
    """What the job is found by again, and what must be equal then. With a space: no key of POST /v1/jobs has one."""
    if intent.idempotency_key is not None:
        return f"passthrough-key {intent.credential.num} {number} {intent.idempotency_key}", intent.digest
    if intent.own_key:
        return f"passthrough {intent.credential.num} {number} {intent.correlation}", b""
    return None, b""


def _detail(intent: Intent, settings: Settings, now: int) -> Detail:
    return Detail(
        passthrough=True,
        traceparent=intent.traceparent,
        callback_token_base=settings.public_url,
        cost=_price(intent, settings, now),
        free_if_failed=intent.provider.free_if_failed,
    )


def _price(intent: Intent, settings: Settings, now: int) -> Cost | None:
    """As documented. The input was not checked: where no price can be read from it, there is none."""
    if intent.priced_as_highest and (most := highest(intent.operation)) is not None:
        return most
    call = account_call(
        intent.credential,
        now,
        settings.options_of(intent.provider.name),
        operation=intent.operation.name,
        input=intent.input,
    )
    try:
        return intent.provider.price(call)
    except Exception:
        log.info("%s %s: the input has no price", intent.provider.name, intent.operation.name)
        return None
