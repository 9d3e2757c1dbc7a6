"""What PixVerse lists to choose from: speakers, styles, effects. The entries are this sandbox's own."""

from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from service.sandbox.pixverse_uploads import Desk
from service.sandbox.pixverse_views import failure, success

SPEAKERS = ("Auto", "Harper", "Ava", "Isabella", "Sophia", "Emily", "Chloe", "Julia", "Mason", "Jack", "Liam", "James")
STYLES = ("Anime", "Clay", "Comic", "Cyberpunk", "Watercolor", "Oil painting")
EFFECTS = {1: ("Kiss", "Hug", "Muscle", "Venom", "Fly"), 2: ("Poster", "Figure", "Sticker")}
LARGEST_PAGE = 100


class Lists:
    """The lists, and the voices that the account has added."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.voices: dict[int, str] = {}

    def routes(self, api: str) -> list[BaseRoute]:
        """The calls. Speakers have an older path, too."""
        speakers = partial(self.listed, "page_num", "page_size", self.speakers)
        return [
            Route(f"{api}/video/tts_speaker", speakers),
            Route(f"{api}/video/lip_sync/tts_list", speakers),
            Route(f"{api}/video/tts_speaker", self.add_voice, methods=["POST"]),
            Route(f"{api}/video/tts_speaker", self.delete_voice, methods=["DELETE"]),
            Route(f"{api}/video/restyle/list", partial(self.listed, "page_num", "page_size", self.styles)),
            Route(f"{api}/video/effects/templates/list", partial(self.listed, "page", "pageSize", self.effects)),
        ]

    async def listed(self, page_field: str, size_field: str, rows_of: Any, request: Request) -> Response:
        """One page of a list."""
        if refused := self.desk.not_allowed(request):
            return refused
        try:
            page = int(request.query_params.get(page_field, "1"))
            size = int(request.query_params.get(size_field, "20"))
            rows = rows_of(request)
        except ValueError:
            return failure(400013)
        if page < 1 or not 1 <= size <= LARGEST_PAGE or rows is None:
            return failure(400017)
        return success({"total": len(rows), "data": rows[(page - 1) * size : page * size]})

    def speakers(self, request: Request) -> list[dict[str, Any]]:
        """`auto`, the provider's own, the account's own."""
        own = [{"speaker_id": str(number), "name": name} for number, name in self.voices.items()]
        known = [{"speaker_id": "auto" if name == "Auto" else str(n), "name": name} for n, name in enumerate(SPEAKERS)]
        return known + own

    def styles(self, request: Request) -> list[dict[str, Any]]:
        """For `restyle_id`."""
        return [{"restyle_id": 1000 + number, "name": name} for number, name in enumerate(STYLES)]

    def effects(self, request: Request) -> list[dict[str, Any]] | None:
        """For `template_id`; type 1 makes videos, type 2 images. None for another type."""
        kind = int(request.query_params.get("type", "1"))
        names = EFFECTS.get(kind)
        if names is None:
            return None
        return [{"template_id": kind * 10_000 + n, "display_name": name, "type": kind} for n, name in enumerate(names)]

    async def add_voice(self, request: Request) -> Response:
        """A voice of the account's own."""
        if refused := self.desk.not_allowed(request):
            return refused
        name = _fields(await request.body()).get("name")
        if not isinstance(name, str) or not name:
            return failure(400011, "name")
        number = self.desk.new_id()
        self.voices[number] = name
        return success({"speaker_id": str(number), "name": name})

    async def delete_voice(self, request: Request) -> Response:
        """One of the account's own is gone."""
        if refused := self.desk.not_allowed(request):
            return refused
        named = _fields(await request.body()).get("speaker_id") or request.query_params.get("speaker_id", "")
        gone = self.voices.pop(int(named), None) if str(named).isdigit() else None
        return failure(500008) if gone is None else success({})


def _fields(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
