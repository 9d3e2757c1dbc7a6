"""Files: upload, list, read, delete; and the URL by which a provider fetches one."""

from service import media
from service.models import File
from service.ranges import content_range, read_range
from service.states import Json
from service.views import instant
from service.web.calls import Call
from service.web.forms import file_of
from service.web.lists import listed
from service.web.replies import NO_CONTENT, Reply, json_reply


async def create(call: Call) -> Reply:
    """201 once every byte is durable."""
    arriving = await file_of(call.receive, call.headers, call.context.settings.max_file_bytes)
    file = await call.context.files.receive(call.tenant, arriving)
    return json_reply(file_view(file), 201, (("location", f"/v1/files/{file.id}"),))


def file_view(file: File) -> Json:
    return {
        "id": file.id,
        "name": file.name,
        "content_type": file.content_type,
        "bytes": file.size,
        "created_at": instant(file.created_at),
        "expires_at": instant(file.expires_at),
    }


async def list_(call: Call) -> Reply:
    return listed(call, await call.context.files.page(call.tenant, call.page()), file_view)


async def get(call: Call) -> Reply:
    return json_reply(file_view(await call.context.files.get(call.tenant, call.path["file_id"])))


async def delete(call: Call) -> Reply:
    """Nobody can read or use it any more; jobs that were sent with it go on."""
    await call.context.files.delete(call.tenant, call.path["file_id"])
    return NO_CONTENT


async def content(call: Call) -> Reply:
    """Its bytes, to whoever has the URL, whole or in part."""
    file = await call.context.files.by_token(call.path["token"])
    wanted = read_range(call.headers.get("range")) if call.method == "GET" else None
    start, end, headers = 0, file.size, (*media.shown_as(file.content_type, file.name), ("accept-ranges", "bytes"))
    ranged = wanted is not None and "if-range" not in call.headers
    if wanted is not None and ranged:
        start, end = wanted.span(file.size)
        headers += (("content-range", content_range(start, end, file.size)),)
    return Reply(
        status=206 if ranged else 200,
        body=call.context.files.read(file, start, end),
        content_type=file.content_type,
        headers=(*headers, ("content-length", str(end - start))),
    )
