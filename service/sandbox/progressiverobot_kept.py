"""Progressive Robot's plain lists: rows that are added, listed, changed and removed, as one table of data."""

from collections.abc import Callable, Iterator
from functools import partial

import msgspec
from starlette.responses import Response

from service.sandbox.progressiverobot_calls import Answer, Call, Row, done
from service.sandbox.progressiverobot_studio import Kept, Studio, number_of
from service.sandbox.replies import Json

Extra = Callable[[Studio, Call, Kept], Kept]
RESERVED = ("id", "created_at")


def nothing(studio: Studio, call: Call, row: Kept) -> Kept:
    """No more than the row."""
    return {}


class List(msgspec.Struct, frozen=True, kw_only=True):
    """One list. `does` names the calls that the page has. `made` may complete a new row, and returns what only the
    reply to its making shows; `listed` and `shown` add to a row in the list, and alone."""

    path: str
    word: str
    does: str = "list add change remove"
    needs: tuple[str, ...] = ()
    start: Kept = {}
    tier: str = ""
    made: Extra = nothing
    listed: Extra = nothing
    shown: Extra = nothing

    @property
    def plural(self) -> str:
        """What the rows stand under in a list."""
        return self.path.rsplit("/", 1)[1].replace("-", "_")


def shelf_of(table: List, studio: Studio, call: Call) -> str:
    """Where the rows are; 404 where the row that they belong to is not there."""
    steps = table.path.split("/")
    if steps[-2].startswith("{"):
        owner = steps[-2].strip("{}")
        studio.find("/".join(steps[:-2]), call.ids[owner], word=owner)
    return table.path.format(**call.ids)


def listing(table: List, studio: Studio, call: Call) -> Response:
    """All rows, oldest first."""
    rows = studio.shelves[shelf_of(table, studio, call)].values()
    return Json({table.plural: [{**row, **table.listed(studio, call, row)} for row in rows]})


def add(table: List, studio: Studio, call: Call) -> Response:
    """A new row."""
    shelf = shelf_of(table, studio, call)
    call.need(*table.needs)
    row = studio.keep(shelf, {**table.start, **call.fields})
    more = table.made(studio, call, row)
    return Json({**row, **more})


def show(table: List, studio: Studio, call: Call) -> Response:
    """One row."""
    row = studio.find(shelf_of(table, studio, call), call.ids["id"], word=table.word)
    return Json({**row, **table.shown(studio, call, row)})


def change(table: List, studio: Studio, call: Call) -> Response:
    """The fields that are named."""
    row = studio.find(shelf_of(table, studio, call), call.ids["id"], word=table.word)
    row |= {name: value for name, value in call.fields.items() if name not in RESERVED}
    return Json(row)


def remove(table: List, studio: Studio, call: Call) -> Response:
    """A row, and the lists that belong to it."""
    shelf = shelf_of(table, studio, call)
    studio.find(shelf, call.ids["id"], word=table.word)
    number = number_of(call.ids["id"])
    del studio.shelves[shelf][number]
    for inner in [path for path in studio.shelves if path.startswith(f"{shelf}/{number}/")]:
        del studio.shelves[inner]
    return done()


CALLS: dict[str, tuple[str, str, Callable[[List, Studio, Call], Response]]] = {
    "list": ("GET", "", listing),
    "add": ("POST", "", add),
    "show": ("GET", "/{id}", show),
    "change": ("PUT", "/{id}", change),
    "remove": ("DELETE", "/{id}", remove),
}


def rows_of(tables: tuple[List, ...]) -> Iterator[Row]:
    """The calls of all lists."""
    for table in tables:
        for name in table.does.split():
            method, suffix, call = CALLS[name]
            answer: Answer = partial(call, table)
            yield Row(method, table.path + suffix, answer, table.tier)
