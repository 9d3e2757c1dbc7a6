"""One request, as its handler sees it: who asks, what was checked, and all that it may use."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive

from service.accounts import Principal
from service.states import Json
from service.stores import Page
from service.web.bodies import read_body
from service.web.context import Context
from service.web.documents import Documents
from service.web.queries import DEFAULT_LIMIT
from service.web.room import Held
from service.web.routing import Route


@dataclass(slots=True, kw_only=True)
class Call:
    """One request in the hands of its route."""

    context: Context
    documents: Documents
    route: Route
    path: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    receive: Receive
    principal: Principal | None = None
    query: Json = field(default_factory=dict)
    body: Any = None
    raw: bytes = b""
    method: str = "GET"
    fingerprint: bytes = b""
    held: Held | None = None  # what it has in memory of large bodies
    key: str = ""  # that the request brought, where it goes on to a provider: it is taken out first
    raw_path: bytes = b""  # as on the wire
    raw_query: bytes = b""

    @property
    def who(self) -> Principal:
        """Who asks, on a route with a scope."""
        assert self.principal is not None  # noqa: S101 - the dispatcher authenticates before it answers
        return self.principal

    @property
    def tenant(self) -> int:
        return self.who.tenant

    @property
    def limit(self) -> int:
        return int(self.query.get("limit", DEFAULT_LIMIT))

    def page(self) -> Page:
        """The page asked for, and one row more, which tells whether there is another."""
        return Page(limit=self.limit + 1, before=self.query.get("cursor"))

    async def read(self, most: int) -> bytes:
        return await read_body(self.receive, self.headers, most, growing=self.held.grow if self.held else None)
