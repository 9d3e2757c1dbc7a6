"""Replies that the providers share: JSON, media files, a gateway's error page, and none at all."""

from http import HTTPStatus
from pathlib import Path
from typing import Any

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.types import Receive, Scope, Send

MEDIA = Path(__file__).parent / "media"
FILES = {
    "mp4": MEDIA / "clip.mp4",
    "png": MEDIA / "picture.png",
    "mp3": MEDIA / "tone.mp3",
    "gif": MEDIA / "loop.gif",
    "srt": MEDIA / "captions.srt",
    "glb": MEDIA / "triangle.glb",
}
CONTENT_TYPES = {
    "mp4": "video/mp4",
    "png": "image/png",
    "mp3": "audio/mpeg",
    "gif": "image/gif",
    "srt": "application/x-subrip",
    "glb": "model/gltf-binary",
}
SIZES = {kind: path.stat().st_size for kind, path in FILES.items()}
WIDTH, HEIGHT = 64, 36  # of the clip and of the picture


class Json(Response):
    """A JSON reply; integers of 64 bits stay whole."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode."""
        return msgspec.json.encode(content)


class Dropped(Response):
    """Closes the connection at once, without a byte."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Close; then wait until the server has noticed, else it would answer 500 for us."""
        scope["state"]["transport"].abort()
        await _client_gone(receive)


class Hung(Response):
    """Never answers: waits until the client leaves, or closes after a time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait."""
        with anyio.move_on_after(self.seconds):
            return await _client_gone(receive)
        await Dropped()(scope, receive, send)


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def gateway_page(status: int) -> Response:
    """What a gateway in front of the provider answers: a page that is not in the provider's shape."""
    title = f"{status} {HTTPStatus(status).phrase}"
    page = f"<html>\n<head><title>{title}</title></head>\n<body><center><h1>{title}</h1></center></body>\n</html>\n"
    return HTMLResponse(page, status_code=status)


async def media_file(request: Request) -> Response:
    """`/media/{id}.{kind}`: a real, small, playable file, with ranges."""
    kind = request.path_params["kind"]
    if kind not in FILES:
        return Response("no such file", status_code=404, media_type="text/plain")
    return FileResponse(FILES[kind], media_type=CONTENT_TYPES[kind])
