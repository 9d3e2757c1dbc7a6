"""The database's URL: what of its query is ours, what is the driver's, and what libpq's is met otherwise.

libpq's parameters: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

import re
import shlex
import ssl
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from service.states import Record
from service.stores import UnknownDatabase

CONNECT_S = 5.0
LONGEST_CONNECT_S = 60.0

# Of libpq, and met already: lines are watched and given up by the pool itself, and the driver always speaks UTF-8.
IDLE = frozenset(
    "keepalives keepalives_idle keepalives_interval keepalives_count tcp_user_timeout fallback_application_name"
    " sslcompression sslsni".split()
)
# Of libpq: the values that mean what the driver does anyway, and the remedy for the others.
ONLY = {
    "client_encoding": (("utf8", "utf-8", "unicode", "auto"), "Callsheet speaks UTF-8: remove it"),
    "channel_binding": (("disable", "prefer"), "the driver has none: remove it, and use sslmode=verify-full instead"),
    "gssencmode": (("disable", "prefer"), "the driver encrypts by TLS alone: remove it, and use sslmode"),
    "load_balance_hosts": (("disable",), "hosts are tried in the order of the URL: remove it"),
    "sslcertmode": (("allow",), "remove it: sslcert and sslkey say what is sent"),
}
# Of libpq or of other programs, in URLs that are handed out.
NOT_TAKEN = {
    "hostaddr": "give the address as the host",
    "replication": "remove it: this is no replica",
    "require_auth": "remove it",
    "requirepeer": "remove it",
    "requiressl": "use sslmode=require",
    "sslcrldir": "give one file with sslcrl",
    "schema": "it is Prisma's: give options=-csearch_path=NAME",
    "pgbouncer": "it is Prisma's: remove it, and set CALLSHEET_DATABASE_STATEMENT_CACHE=0",
    "connection_limit": "it is Prisma's: remove it, and set CALLSHEET_DATABASE_POOL",
    "pool_timeout": "it is Prisma's: remove it",
    "sslaccept": "it is Prisma's: use sslmode",
    "ssl": "it is JDBC's: use sslmode=require",
    "currentSchema": "it is JDBC's: give options=-csearch_path=NAME",
    "uselibpqcompat": "it is of another driver: remove it",
}


class Options(Record, frozen=True, kw_only=True):
    """What the URL's query says to us; the rest of it is the driver's. `connect_timeout` in seconds."""

    notify: bool = True
    advisory: bool = True
    partitions: bool = True
    statement_cache: int = 100
    pool: int = 5
    connect_timeout: float = CONNECT_S


def read_url(url: str) -> tuple[str, Options]:
    """The driver's URL without our own options, and those. Flags are `on` or `off`. Raises `UnknownDatabase`."""
    parts = urlsplit(url)
    given = _pairs(parts.query)
    ours = {name: given.pop(name) for name in Options.__struct_fields__ if name in given}
    read = {name: _option(name, value) for name, value in ours.items()}
    query = urlencode(_for_driver(given), quote_via=quote)
    return f"{parts.scheme}://{parts.netloc}{parts.path}" + (f"?{query}" if query else ""), Options(**read)


def _pairs(query: str) -> dict[str, str]:
    """As libpq reads them: percent-encoded, a plus is a plus, the last of a name counts."""
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def _option(name: str, value: str) -> Any:
    if name == "connect_timeout":  # of libpq: 0 and less is for ever
        if not re.fullmatch(r"-?[0-9]{1,9}", value):
            raise _refused(name, f"is a number of seconds, not {value!r}")
        return min(float(value), LONGEST_CONNECT_S) if int(value) > 0 else LONGEST_CONNECT_S
    number = name in ("statement_cache", "pool")
    if not ((value.isascii() and value.isdigit()) if number else value in ("on", "off")):
        raise _refused(name, f"is {'a whole number' if number else 'on or off'}, not {value!r}")
    return int(value) if number else value == "on"


def _for_driver(given: dict[str, str]) -> dict[str, str]:
    """What is left for the driver, which takes its own names and gives the server all others as settings."""
    taken: dict[str, str] = {}
    for name, value in given.items():
        if name in NOT_TAKEN:
            raise _refused(name, f"is not taken: {NOT_TAKEN[name]}")
        if name in ONLY:
            values, remedy = ONLY[name]
            if value.lower() not in values:
                raise _refused(name, f"{value!r} is not taken: {remedy}")
        elif name == "options":
            taken |= _settings(value)
        elif name == "sslrootcert" and value == "system":  # as libpq 16: the system's authorities, and nothing weaker
            taken |= {"sslrootcert": _authorities(), "sslmode": "verify-full"}
        elif name not in IDLE and name not in taken:
            taken[name] = value
    if "fallback_application_name" in given:
        taken.setdefault("application_name", given["fallback_application_name"])
    return taken


def _settings(options: str) -> dict[str, str]:
    """`-c name=value` and `--name=value`, as the server's command line has them."""
    try:
        words = shlex.split(options)
    except ValueError:
        raise _refused("options", "has a quote that is not closed") from None
    found = {}
    while words:
        word = words.pop(0)
        text = words.pop(0) if word == "-c" and words else word.removeprefix("-c").removeprefix("--")
        name, equals, value = text.partition("=")
        if not equals or not word.startswith("-"):
            raise _refused("options", f"has {word!r}: give -cname=value, as -csearch_path=NAME")
        found[name.strip().replace("-", "_")] = value
    return found


def _authorities() -> str:
    path = ssl.get_default_verify_paths().cafile
    if path is None:
        raise _refused("sslrootcert", "system has no file of authorities here: name one")
    return path


def check_encoding(name: str) -> None:
    """Raises `UnknownDatabase` for a database in another encoding than UTF-8: it cannot keep what clients send."""
    if name != "UTF8":
        raise UnknownDatabase(
            f"the PostgreSQL database is in {name}, and must be in UTF8: make one with CREATE DATABASE name ENCODING"
            " 'UTF8' TEMPLATE template0, and name it in CALLSHEET_DATABASE_URL"
        )


def _refused(name: str, said: str) -> UnknownDatabase:
    return UnknownDatabase(f"CALLSHEET_DATABASE_URL: `{name}` {said}")
