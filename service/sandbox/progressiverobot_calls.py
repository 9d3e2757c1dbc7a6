"""One call of Progressive Robot's API: how it is read, routed and refused."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.sandbox.multipart import Part, read_parts
from service.sandbox.replies import Json

if TYPE_CHECKING:
    from service.sandbox.progressiverobot_studio import Studio

LARGEST_PAGE = 200
PAGE = 50
NUMBER = re.compile(r"[0-9]{1,18}")
IMAGES = {"png": b"\x89PNG\r\n\x1a\n", "jpg": b"\xff\xd8\xff", "webp": b"RIFF"}
LARGEST_IMAGE = 10 * 1024 * 1024


class Refused(Exception):
    """An error in the provider's shape: `{"error": ..., and what else explains it}`."""

    def __init__(self, status: int, error: str, **more: Any) -> None:
        super().__init__(error)
        self.status, self.content = status, {"error": error, **more}

    def reply(self) -> Response:
        """As the client sees it."""
        return Json(self.content, status_code=self.status)


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose body has been read. `files` are those of a form, whose other parts are among `fields`."""

    request: Request
    body: bytes
    fields: dict[str, Any]
    files: list[Part]

    @property
    def ids(self) -> dict[str, str]:
        """What stands in the path."""
        return self.request.path_params

    def query(self, name: str, default: str = "") -> str:
        """A parameter of the URL."""
        return self.request.query_params.get(name, default)

    def whole(self, name: str, default: int) -> int:
        """A parameter of the URL that is a number; 400 if it is none."""
        text = self.query(name) or str(default)
        if not NUMBER.fullmatch(text):
            raise Refused(400, f"{name} must be a whole number")
        return int(text)

    def page(self) -> slice:
        """`limit` and `offset` of a list."""
        limit, offset = min(self.whole("limit", PAGE), LARGEST_PAGE), self.whole("offset", 0)
        return slice(offset, offset + limit)

    def need(self, *names: str) -> None:
        """400 that names the first field that is not there."""
        for name in names:
            if self.fields.get(name) in (None, "", []):
                raise Refused(400, f"{name} is required", field=name)

    def text(self, name: str) -> str:
        """A field that must be there, and be a text; 400 otherwise."""
        self.need(name)
        if not isinstance(self.fields[name], str):
            raise Refused(400, f"{name} must be a text", field=name)
        return str(self.fields[name])

    def choose(self, name: str, allowed: "tuple[str, ...]") -> str:
        """A field that is one of a few words; 400 otherwise."""
        self.need(name)
        if self.fields[name] not in allowed:
            raise Refused(400, f"{name} must be one of {', '.join(allowed)}", field=name)
        return str(self.fields[name])

    def images(self, wanted: int = 1) -> list[str]:
        """The kinds of the form's pictures; 400 where there are too few, or one is none or too large."""
        if len(self.files) < wanted:
            raise Refused(400, "image is required" if wanted == 1 else f"{wanted} image files are required")
        return [image_kind(part) for part in self.files]


Answer = Callable[["Studio", Call], Response]


class Row(msgspec.Struct, frozen=True):
    """One row of the tables: a method and a path, what answers, the least tier, and whether it needs no key."""

    method: str
    path: str
    answer: Answer
    tier: str = ""
    public: bool = False


def read_call(request: Request, body: bytes) -> Call:
    """Read a request; 400 where its body is neither empty, nor a form, nor a JSON object."""
    content_type = request.headers.get("content-type", "")
    if content_type.lower().startswith("multipart/form-data"):
        parts = read_parts(content_type, body)
        fields: dict[str, Any] = {part.name: part.text for part in parts if part.file_name is None}
        return Call(request=request, body=body, fields=fields, files=[part for part in parts if part.file_name])
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any]) if body.strip() else {}
    except msgspec.DecodeError:
        raise Refused(400, "Request body must be a JSON object") from None
    return Call(request=request, body=body, fields=fields, files=[])


def input_of(call: Call) -> msgspec.Raw:
    """What the ledger keeps of a body: JSON as it came; a form by its fields, and its files by name and size."""
    if call.files or not call.body.strip().startswith(b"{"):
        shown = {part.name: {"filename": part.file_name, "bytes": len(part.content)} for part in call.files}
        return msgspec.Raw(msgspec.json.encode({**call.fields, **shown}))
    return msgspec.Raw(call.body)


def image_kind(part: Part) -> str:
    """png, jpg or webp, by the first bytes; 400 for anything else, or more than 10 MB."""
    kind = next((kind for kind, start in IMAGES.items() if part.content.startswith(start)), None)
    if kind is None or (kind == "webp" and part.content[8:12] != b"WEBP"):
        raise Refused(400, "Image must be PNG, JPEG or WebP", field=part.name)
    if len(part.content) > LARGEST_IMAGE:
        raise Refused(400, "Image must be at most 10 MB", field=part.name)
    return kind


def done(**more: Any) -> Response:
    """A change that has nothing to show but what is said here."""
    return Json({"success": True, **more})
