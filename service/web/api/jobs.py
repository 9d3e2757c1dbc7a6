"""Jobs: submit, read, list, timeline, cancel, resolve, erase."""

import re
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from service.accepting import Submit
from service.errors import Conflict, Invalid, Missing
from service.facts import Arrival, CancelAsked, Resolve, Update
from service.idempotency import idempotency_key
from service.ids import new_correlation
from service.models import Job
from service.rules_submit import CREDENTIAL_PAUSED
from service.states import JobStatus, Json, Source
from service.views import instant, job_data, job_view
from service.web.bodies import JOB_BYTES, raw_input
from service.web.calls import Call
from service.web.context import Context
from service.web.lists import listed
from service.web.replies import NO_CONTENT, Headers, Reply, json_reply

LONGEST_WAIT_S = 60
KINDS = ("accepted", "submit", "callback", "poll", "update", "event", "delivery", "attempt")  # where times are equal
_ORDER = {kind: place for place, kind in enumerate(KINDS)}
_WAIT = re.compile(r'wait\s*=\s*"?([0-9]{1,9})"?(?:\s*;.*)?', re.IGNORECASE)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def most_bytes(context: Context) -> int:
    """The largest body that any operation takes."""
    return max(
        operation.max_body for provider in context.providers.values() for operation in provider.operations.values()
    )


def limit(context: Context, value: Any) -> int:
    """What this one may have: its operation may declare more than others."""
    named = value if isinstance(value, dict) else {}
    provider = context.providers.get(str(named.get("provider")))
    operation = provider.operations.get(str(named.get("operation"))) if provider is not None else None
    return operation.max_body if operation is not None else JOB_BYTES


async def create(call: Call) -> Reply:
    """202 and the job; 200 where it ended within the wait that `Prefer` asked for."""
    job, replayed = await call.context.accepting.accept(call.who, _submit(call))
    job, headers = await _awaited(call, job)
    if replayed:
        headers = (*headers, ("idempotent-replayed", "true"))
    over = job.terminal and bool(_wait_s(call))
    return await _shown(call, job, 200 if over else 202, (*headers, ("location", f"/v1/jobs/{job.id}")))


def _submit(call: Call) -> Submit:
    given = call.body
    if (given.input is None) == (given.provider_job_id is None):
        raise Invalid("Give `input` for a new job, or `provider_job_id` to follow one: exactly one.", param="input")
    traceparent = call.headers.get("traceparent", "")
    return Submit(
        provider=given.provider,
        operation=given.operation,
        input=given.input,
        input_json=raw_input(call.raw) if given.input is not None else b"",
        fingerprint=call.fingerprint,
        provider_job_id=given.provider_job_id,
        callback_url=given.callback_url,
        callback_secret=given.callback_secret,
        metadata=given.metadata,
        deadline_seconds=given.deadline_seconds,
        idempotency_key=idempotency_key(call.headers.get("idempotency-key")),
        traceparent=traceparent if _TRACEPARENT.fullmatch(traceparent) else None,
    )


def _wait_s(call: Call) -> int:
    """Seconds of `Prefer: wait=N`, 60 at most; what is not understood is no preference (RFC 7240)."""
    for preference in call.headers.get("prefer", "").split(","):
        if found := _WAIT.fullmatch(preference.strip()):
            return min(int(found[1]), LONGEST_WAIT_S)
    return 0


async def _awaited(call: Call, job: Job) -> tuple[Job, Headers]:
    seconds = _wait_s(call)
    if not seconds:
        return job, ()
    return await call.context.waiting.until_terminal(job, seconds), (("preference-applied", f"wait={seconds}"),)


async def _found(call: Call) -> Job:
    job = await call.context.store.job(call.tenant, call.path["job_id"])
    if job is None:
        raise Missing("There is no such job. See GET /v1/jobs.", param="job_id")
    return job


async def _shown(call: Call, job: Job, status: int = 200, headers: Headers = ()) -> Reply:
    given = await call.context.store.job_input(job.num)
    job = (await with_reasons(call, [job]))[0]
    return json_reply(job_view(job, given, call.context.clock.now(), call.context.link), status, headers)


async def with_reasons(call: Call, jobs: Sequence[Job]) -> list[Job]:
    """A job that waits behind others of its credential shows what they wait for now."""
    waiting = [_waits_with_others(job) for job in jobs]
    credentials = {job.credential for job, waits in zip(jobs, waiting, strict=True) if waits}
    reasons = {num: await call.context.gates.explain(num) for num in credentials}
    return [
        replace(job, reason=reasons[job.credential]) if waits else job for job, waits in zip(jobs, waiting, strict=True)
    ]


def _waits_with_others(job: Job) -> bool:
    shared = job.reason is None or job.reason.startswith(CREDENTIAL_PAUSED)
    return job.status is JobStatus.QUEUED and shared


async def get(call: Call) -> Reply:
    job, headers = await _awaited(call, await _found(call))
    return await _shown(call, job, headers=headers)


async def list_(call: Call) -> Reply:
    """Without `input`, which may have a megabyte each."""
    rows = await call.context.store.jobs(call.tenant, call.page(), call.query)
    now = call.context.clock.now()
    return listed(call, await with_reasons(call, rows), lambda job: job_data(job, now, call.context.link))


async def timeline(call: Call) -> Reply:
    job = await _found(call)
    entries: list[Json] = [{"at": job.created_at, "kind": "accepted", "followed": job.followed}]
    entries += await call.context.store.timeline(job)
    if job.polls:
        entries.append(_polls(job))
    entries.sort(key=lambda entry: (entry["at"], _ORDER.get(entry["kind"], len(KINDS))))
    return json_reply({"data": [{**entry, "at": instant(entry["at"])} for entry in entries]})


def _polls(job: Job) -> Json:
    """The reads that changed nothing, as one entry."""
    first, last = job.first_poll_at or job.created_at, job.last_poll_at
    return {"at": first, "kind": "poll", "count": job.polls, "first_at": instant(first), "last_at": instant(last)}


async def cancel(call: Call) -> Reply:
    """200 where it is canceled now, 202 where the provider is yet to confirm."""
    job = await _found(call)
    provider = call.context.providers[job.provider]
    fact = CancelAsked(supported=provider.operations[job.operation].cancel)
    if not job.terminal:
        job, reason = await _told(call, job, fact)
        if reason == "cancel_unsupported":
            raise Conflict(
                f"{provider.title} cannot cancel `{job.operation}`: wait for its end, or let its deadline pass.",
                code="cancel_unsupported",
            )
    if job.terminal and job.status is not JobStatus.CANCELED:
        raise Conflict(f"The job is {job.status} already: nothing is left to cancel.", code="already_terminal")
    return await _shown(call, job, 200 if job.terminal else 202)


async def _told(call: Call, job: Job, fact: Any) -> tuple[Job, str | None]:
    """The job after a client's word, and why it changed nothing."""
    applied = await call.context.transitions.apply_one(Arrival(job=job.num, fact=fact, source=Source.CLIENT))
    if applied.verdict == "clash":
        raise Conflict(f"It is bound already: {applied.reason}.", code="id_already_bound", param="provider_job_id")
    return applied.job or job, applied.reason if applied.verdict == "ignored" else None


async def resolve(call: Call) -> Reply:
    """Settles an `unknown` job by what a person found out at the provider."""
    job, given = await _found(call), call.body
    if (given.action == "adopt") != (given.provider_job_id is not None):
        raise Invalid("`adopt` needs a `provider_job_id`, and only `adopt` takes one.", param="provider_job_id")
    if job.status is not JobStatus.UNKNOWN:
        raise Conflict(f"The job is {job.status}: only an unknown one is resolved.", code="not_unknown")
    if given.action == "resubmit" and job.detail.passthrough:
        raise Conflict(
            "It went through as its caller sent it, and is not kept to be sent again: `fail` it, and call again.",
            code="not_resubmittable",
        )
    correlation = new_correlation() if given.action == "resubmit" else None
    read = await _read_first(call, job, given.provider_job_id) if given.action == "adopt" else None
    fact = Resolve(action=given.action, provider_job_id=given.provider_job_id, correlation=correlation)
    job, ignored = await _told(call, job, fact)
    if read is not None and job.status is JobStatus.PROCESSING:
        told = Arrival(job=job.num, provider_job_id=given.provider_job_id, fact=read, source=Source.POLL)
        job = (await call.context.transitions.apply_one(told)).job or job
    if ignored:
        raise Conflict(f"The job is {job.status} by now: only an unknown one is resolved.", code="not_unknown")
    return await _shown(call, job)


async def _read_first(call: Call, job: Job, provider_job_id: str) -> Update:
    """What the provider says of an id that no other job has. Until it says something, the job stays as it is."""
    owner = await call.context.store.job_by_provider_id(job.credential, provider_job_id)
    if owner is not None:
        raise Conflict(f"It is bound already: {owner.id} has it.", code="id_already_bound", param="provider_job_id")
    return await call.context.adopting.confirmed(job, provider_job_id)


async def erase(call: Call) -> Reply:
    """Input, outputs and bodies are gone; what happened and when stays."""
    job = await _found(call)
    if not job.terminal:
        raise Conflict(f"The job is {job.status}: cancel it, or wait for its end.", code="not_terminal")
    await call.context.store.erase_content(job)
    return NO_CONTENT
