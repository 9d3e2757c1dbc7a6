"""Events and their deliveries: list, read, stream, send again."""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from service.endpoints import EVENT_TYPES
from service.errors import Conflict, Invalid, Missing
from service.ids import row_id, row_number
from service.models import Attempt, Delivery, Event
from service.states import Json
from service.stores import Page
from service.views import delivery_view, instant
from service.web.calls import Call
from service.web.lists import listed, whole
from service.web.replies import Reply, json_reply

STREAM_BATCH = 100
STREAM_LOOK_S = 1.0
STREAM_PING_S = 15.0
STREAM_S = 900  # then the client comes back with Last-Event-ID; a stop of the service waits for no stream


def event_view(event: Event) -> Json:
    """The event as it was sent, with its id and job; erased content has no type or time of its own left."""
    sent = msgspec.json.decode(event.body)
    at = sent.get("timestamp") or instant(event.created_at)
    return {"id": event.id, "job": event.job, "type": event.type, "timestamp": at, "data": sent.get("data", {})}


async def list_(call: Call) -> Reply:
    rows = await call.context.store.events(call.tenant, call.page(), call.query)
    return listed(call, rows, event_view)


async def get(call: Call) -> Reply:
    return json_reply(event_view(await _event(call, call.path["event_id"])))


async def _event(call: Call, event_id: str) -> Event:
    store = call.context.store
    num = row_number("evt", event_id, store.nonce)
    event = await store.event(call.tenant, num) if num is not None else None
    if event is None or event.id != event_id:
        raise Missing("There is no such event. See GET /v1/events.", param="event_id")
    return event


async def replay(call: Call) -> Reply:
    """202: to every endpoint that takes it, again; new deliveries only where there was none."""
    event = await _event(call, call.path["event_id"])
    count = await call.context.store.resend(call.tenant, event=event.num, endpoint=None, delivery=None)
    call.context.delivery.wake.set()
    return json_reply({"deliveries": count}, 202)


async def types(call: Call) -> Reply:
    return whole([{"type": kind, "description": said} for kind, said in EVENT_TYPES.items()])


async def stream(call: Call) -> Reply:
    """Server-sent events in commit order, from now or from behind `Last-Event-ID`, which may be empty."""
    after = await _position(call, call.headers.get("last-event-id", "").strip())
    return Reply(status=200, body=_frames(call, after), content_type="text/event-stream; charset=utf-8")


async def _position(call: Call, last: str) -> int:
    if last:
        after = row_number("evt", last, call.context.store.nonce)
        if after is None:
            raise Invalid("`Last-Event-ID` is no event's id: leave it out to begin now.", param="Last-Event-ID")
        return after
    newest = await call.context.store.events(call.tenant, Page(limit=1), {})
    return newest[0].num if newest else 0


async def _frames(call: Call, after: int) -> AsyncIterator[bytes]:
    clock, store = call.context.clock, call.context.store
    ends = clock.monotonic() + call.query.get("seconds", STREAM_S)
    ping_at = clock.monotonic() + STREAM_PING_S
    # Whoever loses the connection before the first event comes back with this position: an id without data moves the
    # reader's, and shows nothing (HTML, 9.2.6).
    yield b": the stream begins\nid: %s\n\n" % row_id("evt", clock.now(), store.nonce, after).encode()
    while clock.monotonic() < ends and not call.context.waiting.released:
        events = await store.events_after(call.tenant, after, STREAM_BATCH)
        for event in events:
            after = event.num
            yield b"id: %s\nevent: %s\ndata: %s\n\n" % (event.id.encode(), event.type.encode(), event.body)
        if clock.monotonic() >= ping_at:
            ping_at = clock.monotonic() + STREAM_PING_S
            yield b": still here\n\n"
        if len(events) < STREAM_BATCH:
            await asyncio.sleep(STREAM_LOOK_S)


# -- deliveries


async def deliveries(call: Call) -> Reply:
    filters = await _numbers(call)
    rows = await call.context.store.deliveries(call.tenant, call.page(), filters)
    return listed(call, rows, _delivery_view)


async def _numbers(call: Call) -> Json:
    """The filters by row number; an id that is nobody's matches nothing."""
    filters, store = dict(call.query), call.context.store
    if "event" in filters:
        filters["event"] = row_number("evt", filters["event"], store.nonce) or 0
    if "endpoint" in filters:
        endpoint = await store.endpoint(call.tenant, filters["endpoint"])
        filters["endpoint"] = endpoint.num if endpoint is not None else -2
    return filters


def _delivery_view(delivery: Delivery) -> Json:
    shown = delivery_view(delivery)
    return {**{name: shown[name] for name in shown if name != "attempts"}, "attempt_count": delivery.attempts}


async def delivery(call: Call) -> Reply:
    found = await _delivery(call)
    attempts = await call.context.store.attempts(found.num)
    return json_reply({**_delivery_view(found), "attempts": [_attempt_view(attempt) for attempt in attempts]})


def _attempt_view(attempt: Attempt) -> Json:
    fields: Json = {name: getattr(attempt, name) for name in attempt.__struct_fields__ if name != "num"}
    return {**fields, "at": instant(attempt.at)}


async def _delivery(call: Call) -> Delivery:
    store, delivery_id = call.context.store, call.path["delivery_id"]
    num = row_number("dlv", delivery_id, store.nonce)
    found = await store.delivery(call.tenant, num) if num is not None else None
    if found is None or found.id != delivery_id:
        raise Missing("There is no such delivery. See GET /v1/deliveries.", param="delivery_id")
    return found


async def retry(call: Call) -> Reply:
    """202: due now, with its schedule from the start."""
    found, store = await _delivery(call), call.context.store
    event = row_number("evt", found.event_id, store.nonce) or 0
    if found.endpoint_id is not None and await store.endpoint(call.tenant, found.endpoint_id) is None:
        text = f"Its endpoint {found.endpoint_id} was deleted: make one, then POST /v1/events/{found.event_id}/replay."
        raise Conflict(text, code="endpoint_deleted")
    if not await store.resend(call.tenant, event=event, endpoint=None, delivery=found.num):
        raise Conflict("It is being sent right now: look at its attempts in a moment.", code="being_sent")
    call.context.delivery.wake.set()
    return json_reply(_delivery_view(await _delivery(call)), 202)
