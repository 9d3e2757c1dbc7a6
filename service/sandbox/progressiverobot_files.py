"""Progressive Robot's files: downloads with the key, with ranges; and uploads."""

import re
import secrets
from functools import partial
from pathlib import Path

from starlette.responses import FileResponse, Response

from service.sandbox.progressiverobot_calls import IMAGES, Call, Refused, Row
from service.sandbox.progressiverobot_histories import entry_of, file_of
from service.sandbox.progressiverobot_studio import File, Studio
from service.sandbox.replies import CONTENT_TYPES, FILES, Json

PICTURES = frozenset({"png", "gif", *IMAGES})
# Whether a GIF is downloaded as a video or as a picture, and extracted frames as which, the page does not say.
SERVED = {
    "video": frozenset({"mp4", "gif", "glb"}),
    "image": PICTURES,
    "input-image": PICTURES,
    "audio": frozenset({"mp3"}),
}
MEDIA_TYPES = {**CONTENT_TYPES, "jpg": "image/jpeg", "webp": "image/webp"}
RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def video(studio: Studio, call: Call) -> Response:
    """A video of ours; or, without a key, the one that `?token=` shares."""
    entry = entry_of(studio, call.query("token"))
    if not (entry and file_of(entry) == call.ids["filename"]) and not studio.holds_key(call.request):
        return studio.refusal("401")
    return download("video", studio, call)


def download(folder: str, studio: Studio, call: Call) -> Response:
    """A file of a kind that the folder holds."""
    file = studio.file(call.ids["filename"])
    if file.kind not in SERVED[folder]:
        raise Refused(404, "File not found")
    return sent(file, call)


def subtitles(studio: Studio, call: Call) -> Response:
    """A subtitle file, whose name may come with or without its ending."""
    return sent(studio.file(f"{call.ids['name']}.srt"), call)


def sent(file: File, call: Call) -> Response:
    """The bytes, or the range asked for."""
    media_type = MEDIA_TYPES[file.kind]
    if file.content is None:
        return FileResponse(FILES[file.kind], media_type=media_type)
    return ranged(file.content, media_type=media_type, wanted=call.request.headers.get("range", ""))


def ranged(content: bytes, *, media_type: str, wanted: str) -> Response:
    """A file in memory; one range is honored, anything else of that header is passed over."""
    size, found = len(content), RANGE.fullmatch(wanted)
    whole = {"Accept-Ranges": "bytes"}
    if found is None or not (found[1] or found[2]):
        return Response(content, media_type=media_type, headers=whole)
    first = int(found[1]) if found[1] else max(0, size - int(found[2]))
    last = min(int(found[2]), size - 1) if found[1] and found[2] else size - 1
    if first >= size or last < first:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
    part = {**whole, "Content-Range": f"bytes {first}-{last}/{size}"}
    return Response(content[first : last + 1], status_code=206, media_type=media_type, headers=part)


def upload_image(studio: Studio, call: Call) -> Response:
    """An input picture, for image-to-video."""
    kind, content = call.images()[0], call.files[0].content
    return Json({"filename": kept(studio, f"input_{secrets.token_hex(8)}.{kind}", kind, content)})


def kept(studio: Studio, name: str, kind: str, content: bytes | None = None) -> str:
    """Keep a file; its name."""
    studio.files[name] = File(kind=kind, content=content)
    return name


def ending(name: str | None) -> str:
    """What stands behind the last dot of a file's name."""
    return Path(name or "").suffix.removeprefix(".").lower()


ROWS = (
    Row("GET", "/api/video/{filename}", video, public=True),
    Row("GET", "/api/image/{filename}", partial(download, "image")),
    Row("GET", "/api/audio/{filename}", partial(download, "audio")),
    Row("GET", "/api/input-image/{filename}", partial(download, "input-image")),
    Row("GET", "/api/subtitles/{name}.srt", subtitles),
    Row("POST", "/api/upload-image", upload_image),
)
