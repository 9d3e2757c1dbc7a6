"""Endpoints: where a tenant's events go."""

from service.errors import Invalid
from service.views import instant, parse_instant
from service.web.api.events import event_view
from service.web.calls import Call
from service.web.lists import listed
from service.web.replies import NO_CONTENT, Reply, json_reply


async def create(call: Call) -> Reply:
    """201 with the secret, shown this once."""
    endpoints = call.context.endpoints
    endpoint, secret = await endpoints.create(call.tenant, call.body.given())
    shown = {**endpoints.view(endpoint), "secret": secret}
    return json_reply(shown, 201, (("location", f"/v1/endpoints/{endpoint.id}"),))


async def list_(call: Call) -> Reply:
    rows = await call.context.store.endpoints(call.tenant, call.page())
    return listed(call, rows, call.context.endpoints.view)


async def get(call: Call) -> Reply:
    endpoints = call.context.endpoints
    return json_reply(endpoints.view(await endpoints.get(call.tenant, call.path["endpoint_id"])))


async def change(call: Call) -> Reply:
    endpoints = call.context.endpoints
    endpoint = await endpoints.change(call.tenant, call.path["endpoint_id"], call.body.given())
    call.context.delivery.wake.set()  # what was held may be due now
    return json_reply(endpoints.view(endpoint))


async def delete(call: Call) -> Reply:
    await call.context.endpoints.delete(call.tenant, call.path["endpoint_id"])
    return NO_CONTENT


async def rotate(call: Call) -> Reply:
    overlap_s = call.body.overlap_seconds
    secret = await call.context.endpoints.rotate(call.tenant, call.path["endpoint_id"], overlap_s)
    return json_reply({"secret": secret, "previous_until": instant(call.context.clock.now() + overlap_s * 1000)})


async def test(call: Call) -> Reply:
    """202 and the `endpoint.test` event that is on its way."""
    event, fresh = await call.context.endpoints.test(call.tenant, call.path["endpoint_id"])
    call.context.delivery.hand_over(fresh)
    call.context.delivery.wake.set()
    return json_reply(event_view(event), 202)


async def recover(call: Call) -> Reply:
    since = parse_instant(call.body.since)
    if since is None:
        raise Invalid("`since` must be an RFC 3339 time with a zone, such as 2026-01-31T12:00:00Z.", param="since")
    count = await call.context.endpoints.recover(call.tenant, call.path["endpoint_id"], since)
    call.context.delivery.wake.set()
    return json_reply({"deliveries": count}, 202)
