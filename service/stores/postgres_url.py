"""The database's URL: what of its query is ours, and what the driver's."""

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from service.states import Record
from service.stores import UnknownDatabase


class Options(Record, frozen=True, kw_only=True):
    """What the URL's query says to us; the rest of it is the driver's."""

    notify: bool = True
    advisory: bool = True
    partitions: bool = True
    statement_cache: int = 100
    pool: int = 5


def read_url(url: str) -> tuple[str, Options]:
    """The driver's URL without our own options, and those. Flags are `on` or `off`. Raises `UnknownDatabase`."""
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query))
    ours = {name: given.pop(name) for name in Options.__struct_fields__ if name in given}
    read: dict[str, Any] = {}
    for name, value in ours.items():
        number = name in ("statement_cache", "pool")
        if not (value.isdigit() if number else value in ("on", "off")):
            wanted = "a whole number" if number else "on or off"
            raise UnknownDatabase(f"CALLSHEET_DATABASE_URL: `{name}` is {wanted}, not {value!r}")
        read[name] = int(value) if number else value == "on"
    return urlunsplit(parts._replace(query=urlencode(given))), Options(**read)
