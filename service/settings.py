"""Every knob, its unit and its default, read once.

The two dataclasses are the table: `load` reads them, `describe` and `env_example` print them.
"""
# ruff: noqa: RUF009 - knob() is dataclasses.field() with its metadata filled in

import contextlib
import difflib
import ipaddress
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from service import knobs
from service.crypto import Secret, Vault, generate_master_key
from service.errors import CallsheetError
from service.knobs import LOG_LEVELS, Network, knob, secret_knob
from service.retries import parse_schedule

PREFIX = "CALLSHEET_"
RETRY_SCHEDULE = "0,5,300,1800,7200,18000,36000,50400,72000,86400"  # the example of Standard Webhooks: 75.6 h
# This machine and private networks (RFC 1918, 3927, 6598, 4193, 4291): who comes from there may be a proxy.
PRIVATE = "127.0.0.0/8,::1/128,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,169.254.0.0/16,100.64.0.0/10,fc00::/7,fe80::/10"
_DOTENV_LINE = re.compile(r"""(?:export\s+)?(\w+)\s*=\s*(?:(?:'([^']*)'|"((?:[^"\\]|\\.)*)")\s*(?:\#.*)?|([^'"].*)?)""")
# What Kubernetes puts into every pod for a Service whose name begins with ours. Nobody typed these.
_SERVICE_LINK = re.compile(r"\w+_(SERVICE_(HOST|PORT(_\w+)?)|PORT_[0-9]+_(TCP|UDP)(_\w+)?)=.*|\w+_PORT=\w+://.*")


class SettingsError(CallsheetError):
    """Settings that cannot be used: one sentence per problem, each naming its variable and the remedy."""


@dataclass(frozen=True, kw_only=True)
class ProviderSettings:
    """The default tenant's credential for one provider. `options` are that provider's own names, in lower case."""

    api_key: Secret | None = secret_knob(None, Secret, "text", "the default tenant's key for this provider")
    base_url: str | None = knob(None, knobs.origin, "URL", "the provider's origin and prefix, else its public address")
    callback_secret: Secret | None = secret_knob(None, Secret, "text", "what the provider signs its callbacks with")
    callback_id: str | None = knob(None, str, "text", "the provider's id of our callback URL (PixVerse: webhook_id)")
    poll: bool | None = knob(
        None, knobs.flag, "true or false",
        "true: ask for no callbacks, and read all jobs at the full pace. Else what calls back is read rarely, never"
        " not at all: a lost callback costs a minute or two",
    )  # fmt: skip
    concurrency: int | None = knob(None, knobs.whole(1, 100_000), "jobs", "at the provider at a time, per credential")
    rate: float | None = knob(None, knobs.rate, "per second", "submits to the provider, per credential")
    options: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Settings:
    database_url: str = secret_knob(
        "sqlite:///callsheet.db", knobs.database_url, "URL", "all state; or postgresql://..."
    )
    database_pool: int = knob("5", knobs.whole(2, 1_000), "connections", "to PostgreSQL, of each process")
    database_statement_cache: int = knob("100", knobs.whole(0, 100_000), "statements", "kept prepared; 0 for PgBouncer")
    public_url: str = knob("http://127.0.0.1:8080", knobs.origin, "URL", "where providers reach this service")
    url: str = knob("http://127.0.0.1:8080", knobs.origin, "URL", "where the command line finds the service")
    api_key: Secret | None = secret_knob(None, knobs.api_key, "text", "an admin key of your own, 32 characters or more")
    master_keys: Secret | None = secret_knob(None, knobs.master_keys, "id:base64,...", "32 bytes each, first encrypts")
    egress_allow: tuple[Network, ...] = knob("", knobs.networks, "networks", "networks that pass all address checks")
    egress_proxy: str | None = secret_knob(None, knobs.url, "URL", "a proxy that deliveries go through")
    sandbox_url: str | None = knob(None, knobs.origin, "URL", "a sandbox that stands in for providers without a key")
    operator_url: str | None = secret_knob(None, knobs.url, "URL", "gets what the operator must know, of all tenants")
    retry_schedule: tuple[float, ...] = knob(RETRY_SCHEDULE, parse_schedule, "seconds", "before each delivery attempt")
    delivery_timeout: int = knob("15", knobs.whole(1, 30), "seconds", "for one delivery attempt, at most 30")
    delivery_concurrency: int = knob("256", knobs.whole(1, 10_000), "requests", "deliveries in flight, per node")
    endpoint_concurrency: int = knob(
        "16", knobs.whole(1, 1_000), "requests", "in flight to one endpoint, from all nodes"
    )
    credential_concurrency: int = knob(
        "16", knobs.whole(1, 1_000), "requests", "submits in flight for one credential, per node"
    )
    max_pending_jobs: int = knob("100000", knobs.whole(1, 10**9), "jobs", "queued per tenant; past it 429")
    retention_attempts_days: int = knob("30", knobs.whole(1, 36_500), "days", "that attempts are kept")
    retention_callbacks_days: int = knob("30", knobs.whole(1, 36_500), "days", "that providers' callbacks are kept raw")
    retention_jobs_days: int = knob("90", knobs.whole(1, 36_500), "days", "that finished jobs and events are kept")
    retention_held_days: int = knob("30", knobs.whole(1, 36_500), "days", "that held deliveries wait")
    retention_files_days: int = knob("7", knobs.whole(1, 36_500), "days", "that uploaded files are kept")
    max_file_bytes: int = knob("104857600", knobs.whole(1, 10**11), "bytes", "of one uploaded file")
    max_stored_bytes: int = knob("10737418240", knobs.whole(1, 10**12 - 1), "bytes", "of a tenant's files, together")
    peer_connections: int = knob(
        "1000", knobs.whole(0, 1_000_000), "connections", "open from one address (IPv6: one /64); 0: no cap"
    )
    trusted_proxies: tuple[Network, ...] = knob(
        PRIVATE, knobs.networks, "networks", "whose addresses are proxies' and speak for many: no such cap"
    )
    stop_delay: int = knob("2", knobs.whole(0, 15), "seconds", "taking requests after SIGTERM while /ready says no")
    log_level: str = knob("INFO", knobs.level, "level", f"how much is logged: {', '.join(LOG_LEVELS)}")
    providers: dict[str, ProviderSettings] = field(default_factory=dict)
    given: frozenset[str] = field(
        default=frozenset(), compare=False
    )  # the variables that somebody set, of the environment and .env

    @property
    def public_is_loopback(self) -> bool:
        """Whether only this machine can reach `public_url`."""
        host = urlsplit(self.public_url).hostname or ""
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(host).is_loopback
        return host == "localhost" or host.endswith(".localhost")

    def options_of(self, provider: str) -> Mapping[str, str]:
        """A provider's own settings, beyond the common ones."""
        given = self.providers.get(provider)
        return given.options if given is not None else {}

    @property
    def database(self) -> str:
        """The database's URL; PostgreSQL's with the settings for its connections, unless it has its own."""
        if not self.database_url.startswith("postgresql:"):
            return self.database_url
        given = {"pool": self.database_pool, "statement_cache": self.database_statement_cache}
        missing = [
            f"{name}={value}" for name, value in given.items() if not re.search(rf"[?&]{name}=", self.database_url)
        ]
        return "&".join((self.database_url + ("" if "?" in self.database_url else "?"), *missing)).replace("?&", "?")

    @property
    def database_path(self) -> Path | None:
        """The file of a SQLite database, relative to the working directory; None for PostgreSQL."""
        scheme, _, path = self.database_url.partition(":///")
        return Path(path) if scheme == "sqlite" else None


def load(environ: Mapping[str, str], dotenv: Path | None = None, *, known_providers: Sequence[str] = ()) -> Settings:
    """The settings of an environment, over those of a `.env` file where there is one. Empty counts as not given.

    Raises SettingsError with a sentence for every bad value, unknown CALLSHEET_ variable and unreadable file.
    """
    given = _merge(_read_dotenv(dotenv) if dotenv and dotenv.exists() else {}, environ)
    names = frozenset(given)
    by_length = sorted(known_providers, key=len, reverse=True)  # else FAL_X_API_KEY would be fal's option x_api_key
    prefixes = {name: f"{PREFIX}{name.upper().replace('-', '_')}_" for name in by_length}
    problems: list[str] = []
    values = _read_rows(Settings, given, PREFIX, problems)  # takes out of `given` what it reads
    providers = {name: _read_provider(given, prefix, problems) for name, prefix in prefixes.items()}
    problems += [_unknown(name, prefixes.values()) for name in sorted(given)]
    if problems:
        raise SettingsError("\n".join(problems))
    return Settings(**values, providers=providers, given=names)


def _merge(dotenv: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    ours, theirs = _ours(environ), _ours(dotenv)
    for name in ours:  # the environment's X also beats the file's X_FILE, and the other way round
        theirs.pop(name.removesuffix("_FILE"), None)
        theirs.pop(f"{name}_FILE", None)
    return theirs | ours


def _ours(variables: Mapping[str, str]) -> dict[str, str]:
    stripped = {name: value.strip() for name, value in variables.items() if name.startswith(PREFIX)}
    return {name: value for name, value in stripped.items() if value and not _SERVICE_LINK.fullmatch(f"{name}={value}")}


def _read_dotenv(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError:
        raise SettingsError(f"{path} cannot be read: make it a readable text file in UTF-8, or remove it.") from None
    return dict(filter(None, (_read_line(line.strip(), f"{path}:{n}") for n, line in enumerate(lines, start=1))))


def _read_line(line: str, place: str) -> tuple[str, str] | None:
    if not re.match(r"(?:export\s+)?CALLSHEET", line):
        return None  # another program's line may be in a form that only it reads
    match = _DOTENV_LINE.fullmatch(line)
    if not line.isascii() and re.search("[\udc80-\udcff]", line):
        raise SettingsError(f"{place} is not in UTF-8: write it anew.")
    if match is None:
        raise SettingsError(f"{place} is not NAME=value, or a quote is not closed: mend the line or begin it with #.")
    name, single, double, bare = match.groups()
    if double is not None:
        return name, re.sub(r"\\(.)", lambda escape: "\n" if escape[1] == "n" else escape[1], double)
    return name, single or re.split(r"(?:^|\s)#", bare or "")[0]


def _read_rows(table: type, given: dict[str, str], prefix: str, problems: list[str]) -> dict[str, Any]:
    values = {}
    for row in _rows(table):
        name = prefix + row.name.upper()
        try:
            if value := given.pop(name, None) if row.repr else _take_secret(given, name):
                values[row.name] = row.metadata["read"](value)
        except ValueError as error:
            problems.append(f"{name} cannot be used: {error}.")
    return values


def _take_secret(given: dict[str, str], name: str) -> str | None:
    value, path = given.pop(name, None), given.pop(f"{name}_FILE", None)
    if path is None:
        return value
    if value is not None:
        raise ValueError(f"{name}_FILE is given too: remove one of them")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if text := Path(path).read_text(encoding="utf-8").strip():
            return text
    raise ValueError(f"the file that {name}_FILE names is missing, unreadable or empty: give one with the text")


def _read_provider(given: dict[str, str], prefix: str, problems: list[str]) -> ProviderSettings:
    values = _read_rows(ProviderSettings, given, prefix, problems)
    names = [name for name in given if name.startswith(prefix)]
    options = {name.removeprefix(prefix).lower(): given.pop(name) for name in names}
    for option in options:
        # A provider's own names pass, and so would a mistyped key: it would be missed only when money is due.
        for near in difflib.get_close_matches(option, [row.name for row in _rows(ProviderSettings)], 1, 0.85):
            problems.append(f"{prefix}{option.upper()} is not known: did you mean {prefix}{near.upper()}?")
    return ProviderSettings(**values, options=options)


def _unknown(name: str, prefixes: Iterable[str]) -> str:
    tables = [(PREFIX, Settings), *((prefix, ProviderSettings) for prefix in prefixes)]
    known = [prefix + row.name.upper() for prefix, table in tables for row in _rows(table)]
    return f"{name} is not known: did you mean {difflib.get_close_matches(name, known, 1, 0)[0]}? Correct or remove it."


def _rows(table: type) -> list[Field[Any]]:
    """The knobs of a table; its other fields are no settings."""
    return [row for row in fields(table) if "read" in row.metadata]


def describe() -> list[tuple[str, str, str, str]]:
    """(variable, default, unit, doc) of every knob in the order of the table, for the docs; no default is empty."""
    tables = ((PREFIX, Settings), (f"{PREFIX}<PROVIDER>_", ProviderSettings))
    return [
        (prefix + row.name.upper(), row.metadata["text"] or "", row.metadata["unit"], row.metadata["doc"])
        for prefix, table in tables
        for row in _rows(table)
    ]


def env_example() -> str:
    """A `.env` with every variable commented out at its default."""
    return "\n".join(f"# {doc} [{unit}]\n#{variable}={default}\n" for variable, default, unit, doc in describe())


def load_vault(settings: Settings) -> Vault:
    """The master keys. A SQLite database of this machine alone gets its own, in `<database>.key` (0600), once.

    Raises SettingsError where keys must be given, and where that file cannot be read or made.
    """
    if settings.master_keys:
        return Vault.parse(settings.master_keys.reveal())
    database = settings.database_path
    if database is None or not settings.public_is_loopback:
        required = "CALLSHEET_MASTER_KEYS is required with PostgreSQL or a public CALLSHEET_PUBLIC_URL"
        raise SettingsError(f"{required}: run 'callsheet init', and keep a copy of what it makes.")
    path = database.with_name(f"{database.name}.key")
    try:
        if not path.exists():
            _create_key_file(path)
        return Vault.parse(path.read_text(encoding="utf-8", errors="replace").strip())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} is not usable: {error}. Restore it, or give CALLSHEET_MASTER_KEYS.") from None


def _create_key_file(path: Path) -> None:
    # Written whole before it gets its name: another process sees all of it or nothing, and the first to link wins.
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, generate_master_key().encode("ascii") + b"\n")
    os.fsync(descriptor)
    os.close(descriptor)
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
