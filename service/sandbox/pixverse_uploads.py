"""PixVerse's uploads: what is taken, and what is remembered of it."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from service.sandbox.multipart import Part, read_form
from service.sandbox.pixverse_views import failure, success

IMAGE_BYTES, IMAGE_PIXELS = 20_000_000, 10_000
MEDIA_BYTES = 50_000_000
MEDIA_TYPES = ("video", "audio")
IMAGE_FIELDS = frozenset({"img_id", "img_ids", "first_frame_img", "last_frame_img"})
MEDIA_FIELDS = frozenset({"video_media_id", "audio_media_id"})


class Desk(Protocol):
    """What uploads need of the provider."""

    def not_allowed(self, request: Request) -> Response | None:
        """The refusal of a request without the account's key or a trace id."""

    def new_id(self) -> int:
        """A number that no other thing has."""

    def origin(self, request: Request) -> str:
        """Where its files are."""


class Uploads:
    """What was uploaded, by its id."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.kinds: dict[int, str] = {}

    async def image(self, request: Request) -> Response:
        """An image by the form's field `image`, or by `image_url`."""
        if refused := self.desk.not_allowed(request):
            return refused
        form = read_form(request.headers.get("content-type", ""), await request.body())
        if "image" not in form and "image_url" not in form:
            return failure(400011, "image")
        if "image" in form and (code := image_problem(form["image"].content)):
            return failure(code)
        image_id = self.remember("image")
        return success({"img_id": image_id, "img_url": f"{self.desk.origin(request)}/media/{image_id}.png"})

    async def media(self, request: Request) -> Response:
        """A video or a sound by the form's field `file`, or by `file_url`."""
        if refused := self.desk.not_allowed(request):
            return refused
        form = read_form(request.headers.get("content-type", ""), await request.body())
        if "file" not in form and "file_url" not in form:
            return failure(400011, "file")
        media_type = form["media_type"].text if "media_type" in form else "video"
        if media_type not in MEDIA_TYPES:
            return failure(400017, "media_type")
        if "file" in form and (code := media_problem(form["file"], media_type)):
            return failure(code)
        media_id, kind = self.remember(media_type), "mp3" if media_type == "audio" else "mp4"
        url = f"{self.desk.origin(request)}/media/{media_id}.{kind}"
        return success({"media_id": media_id, "media_type": media_type, "url": url})

    def remember(self, kind: str) -> int:
        """A new upload's id."""
        upload_id = self.desk.new_id()
        self.kinds[upload_id] = kind
        return upload_id

    def unknown(self, fields: dict[str, Any]) -> str | None:
        """The first field that names an upload which was never made, or is of another kind."""
        for name, named in ids_in(fields):
            kind = self.kinds.get(named) if isinstance(named, int) else None
            fits = kind == "image" if name in IMAGE_FIELDS else kind == name.partition("_")[0]
            if not fits:
                return name
        return None


def ids_in(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every id of an upload in a submit, with the field that it stands in."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from ids_in(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from ids_in(item, name)
    elif name in IMAGE_FIELDS | MEDIA_FIELDS:
        yield name, value


def image_problem(content: bytes) -> int | None:
    """The code for what is wrong with an image: JPG, PNG or WebP, below 20 MB, at most 10,000 pixels a side."""
    if len(content) >= IMAGE_BYTES:
        return 500030
    if content.startswith(b"\x89PNG") and len(content) >= 24:
        sides = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
        if content[12:16] == b"IHDR" and max(sides) > IMAGE_PIXELS:
            return 500030
    starts = (b"\x89PNG", b"\xff\xd8\xff")
    return None if content.startswith(starts) or (content[:4] == b"RIFF" and content[8:12] != b"WAVE") else 500032


def media_problem(part: Part, media_type: str) -> int | None:
    """The code for what is wrong with a video (mp4, mov, webm) or a sound (mp3, wav, m4a, aac)."""
    if len(part.content) > MEDIA_BYTES:
        return 500031
    return None if LOOKS_LIKE[media_type](part.content) else 500033


def _is_video(content: bytes) -> bool:
    return content[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free") or content.startswith(b"\x1a\x45\xdf\xa3")


def _is_sound(content: bytes) -> bool:
    frame = len(content) > 1 and content[0] == 0xFF and content[1] & 0xE0 == 0xE0
    return frame or content.startswith(b"ID3") or content[8:12] == b"WAVE" or content[4:8] == b"ftyp"


LOOKS_LIKE: dict[str, Callable[[bytes], bool]] = {"video": _is_video, "audio": _is_sound}
