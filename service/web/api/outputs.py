"""Outputs at their stable URLs, to whoever has one."""

from service.fetching import Asked
from service.web.calls import Call
from service.web.queries import Query, whole
from service.web.replies import Reply

REFRESH = Query(
    name="refresh",
    summary="1: ask the provider for a newer link first, at most every ten seconds",
    schema={"type": "integer", "minimum": 0, "maximum": 1, "default": 0},
    read=whole(0, 1),
)


async def open_(call: Call) -> Reply:
    """A redirect to the provider's link; the bytes where only its key opens them, or where they were in its answer."""
    asked = Asked(
        range=call.headers.get("range"),
        if_range=call.headers.get("if-range"),
        refresh=bool(call.query.get("refresh")),
        head=call.method == "HEAD",
    )
    opened = await call.context.outputs.open(call.path["token"], asked)
    return Reply(status=opened.status, body=opened.body, content_type=opened.content_type, headers=opened.headers)
