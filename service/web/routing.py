"""What a route is: one row of the table that feeds router, document, docs page and llms.txt."""

from collections.abc import Awaitable, Callable
from typing import Any

from service.states import Record
from service.web.bodies import OTHER_BYTES
from service.web.queries import Query
from service.web.replies import JSON, Reply


class Link(Record):
    """From a response to the operation that takes a value of it: `value` is an OpenAPI runtime expression."""

    to: str
    param: str  # with its place: path.job_id
    value: str = "$response.body#/id"


class Route(Record):
    method: str
    path: str
    name: str  # the operation id
    scope: str | None  # None: needs no key
    summary: str
    answer: Callable[[Any], Awaitable[Reply]]  # of a `Call`
    body: Any = None  # a struct; None: it takes no body, or reads it itself
    body_optional: bool = False
    reads: bool = False  # it reads its body itself
    form: bool = False  # it takes a file as multipart/form-data, which it reads itself
    max_bytes: int | Callable[[Any], int] = OTHER_BYTES  # of any body; or what is known of a `Context`
    limit: Callable[[Any, Any], int] | None = None  # of this body, by what it says: of `Context` and JSON value
    query: tuple[Query, ...] = ()
    open_query: bool = False  # a provider may add parameters to its callback URL
    headers: tuple[str, ...] = ()  # request headers of ours, by name in openapi.HEADERS
    returns: Any = None  # a struct; None: no JSON
    listed: bool = False  # `returns` in `{"data": [...], "next_cursor"}`
    status: int = 200
    also: tuple[int, ...] = ()  # other statuses with the same body
    media: str = JSON
    errors: tuple[int, ...] = ()  # beyond those that follow from scope, body and query
    links: tuple[Link, ...] = ()
    streams: bool = False
    passes: bool = False  # the provider's own API: the key may stand in its header, the rest is as it was sent
