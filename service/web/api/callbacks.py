"""Where providers call: the bytes go to the stage as they came, its answer goes back as it is."""

from service.web.calls import Call
from service.web.replies import Reply


async def receive(call: Call) -> Reply:
    callbacks, provider = call.context.callbacks, call.path["provider"]
    body = await call.read(callbacks.max_bytes(provider))
    told = await callbacks.receive(provider, call.path.get("token"), call.headers, body)
    return Reply(status=told.status, body=told.body, content_type=told.content_type)
