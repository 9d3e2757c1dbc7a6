"""The service itself: providers, health, metrics, a tick."""

from prometheus_client import CONTENT_TYPE_LATEST

from service import __version__
from service.errors import Invalid, LockHeld, Missing, Unavailable
from service.facts import RawCallback
from service.providers import Operation, Provider
from service.states import Json
from service.views import instant
from service.web.calls import Call
from service.web.lists import whole
from service.web.replies import Reply, json_reply


async def providers(call: Call) -> Reply:
    return whole([await _provider_view(call, provider) for provider in call.context.providers.values()])


async def _provider_view(call: Call, provider: Provider) -> Json:
    return {
        "name": provider.name,
        "title": provider.title,
        "operations": sorted(provider.operations),
        "configured": await _configured(call, provider.name),
        "callback_signed": provider.callback_signed,
    }


async def _configured(call: Call, provider: str) -> bool:
    try:
        await call.context.accounts.credential(call.tenant, provider)
    except Invalid:
        return False
    return True


async def operations(call: Call) -> Reply:
    rows = _provider(call).operations
    return whole([_operation_view(rows[name]) for name in sorted(rows)])


def _provider(call: Call) -> Provider:
    found = call.context.providers.get(call.path["provider"])
    if found is None:
        known = ", ".join(sorted(call.context.providers))
        raise Missing(f"There is no such provider; there are: {known}.", param="provider")
    return found


def _operation_view(operation: Operation) -> Json:
    return {
        "name": operation.name,
        "summary": operation.summary,
        "input_schema": operation.input_schema,
        "output": operation.output,
        "deadline_seconds": operation.deadline_s,
        "settled_by": operation.settled_by,
        "callback": operation.callback,
        "cancel": operation.cancel,
        "immediate": operation.immediate,
        "tier": operation.tier or None,
        "quote": operation.quote or None,
        "cost": operation.cost,
        "poll_seconds": {"first": operation.poll.first_s, "every": operation.poll.every_s},
        "source": operation.source,
    }


async def rejected_callbacks(call: Call) -> Reply:
    """The last that were refused, with the reason, which their sender was not told."""
    return whole([_rejected_view(row) for row in await call.context.store.rejected_callbacks(_provider(call).name)])


def _rejected_view(row: RawCallback) -> Json:
    body = row.body.decode("utf-8", "replace")
    return {"received_at": instant(row.received_at), "verdict": row.verdict, "reason": row.reason, "body": body}


async def health(call: Call) -> Reply:
    return json_reply({"status": "ok", "service": "callsheet", "version": __version__})


async def ready(call: Call) -> Reply:
    """Raises 503 where an accept could not be kept, and from the beginning of a stop: what comes is still served."""
    if call.context.waiting.released:
        raise Unavailable("This node is stopping: ask another one.", code="stopping")
    await call.context.readiness.check()
    return json_reply({"ready": True})


async def metrics(call: Call) -> Reply:
    rendered = call.context.metrics.render(await call.context.store.backlog())
    return Reply(status=200, body=rendered, content_type=CONTENT_TYPE_LATEST)


async def tick(call: Call) -> Reply:
    """One round of every loop, where nothing runs between requests; nothing to do where loops run already."""
    elsewhere = {"ran": False, "steps": 0, "finished": True}
    if call.context.loops.alive:
        return json_reply(elsewhere)
    try:
        return json_reply({"ran": True, **await call.context.loops.tick(call.body.budget_seconds)})
    except LockHeld:
        return json_reply(elsewhere)
