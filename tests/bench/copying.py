"""How fast `callsheet copy` moves a large SQLite database up to PostgreSQL, and how much memory it takes.

The source is one job of the store's own making, with its events, deliveries and attempts, many times over; the server
is the tests' own, as durable as PostgreSQL is by itself.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg

from service.crypto import generate_master_key
from tests.kill.own_server import OwnServer
from tests.stores.world import DAY, opened, outcome

DAYS = 30  # that its rows are of
# What differs from row to row, `i` counting the jobs: a number of its own, another table's, a moment, or SQL.
EACH: dict[str, dict[str, str]] = {
    "jobs": {"num": "own", "id": "x.id || '_' || i", "created_at": "days", "updated_at": "days"},
    "job_details": {"job": "jobs"},
    "provider_ids": {"job": "jobs", "provider_job_id": "x.provider_job_id || '_' || i"},
    "notes": {"num": "own", "job": "jobs", "at": "days"},
    "charges": {"job": "jobs", "at": "days"},
    "events": {"num": "own", "job": "jobs", "created_at": "days"},
    "deliveries": {"num": "own", "event": "events", "created_at": "days"},
    "attempts": {"num": "own", "delivery": "deliveries", "at": "days"},
}
SAME = (
    "SELECT count(*), sum(num), sum(event), sum(created_at), sum(status) FROM deliveries",
    "SELECT count(*), sum(num), sum(delivery), sum(at), sum(duration_ms) FROM attempts",
    "SELECT count(*), sum(num), sum(job), sum(created_at) FROM events",
    "SELECT count(*), sum(num), sum(created_at), sum(sequence) FROM jobs",
)


async def make(folder: Path, jobs: int) -> None:
    async with opened("sqlite", folder) as world:
        for types in ((), (), ("job.succeeded",)):
            await world.endpoint(event_types=types)
        await world.succeeded(input=b"x" * 1_000)
        await world.store.record_attempts([outcome(due) for due in await world.claim()])
    with contextlib.closing(sqlite3.connect(folder / "callsheet.db", isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        counts = {table: int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in EACH}
        for table in EACH:
            multiply(db, table, jobs, counts)
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def multiply(db: sqlite3.Connection, table: str, jobs: int, counts: dict[str, int]) -> None:
    names = [row[0] for row in db.execute("SELECT name FROM pragma_table_info(?)", (table,))]
    values = [expression(name, EACH[table].get(name), table, counts) for name in names]
    db.execute(
        f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {jobs - 1})"
        f" INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} FROM n CROSS JOIN {table} x ORDER BY i"
    )


def expression(name: str, differs: str | None, table: str, counts: dict[str, int]) -> str:
    if differs is None:
        return f"x.{name}"
    if differs == "days":
        return f"x.{name} - (i % {DAYS}) * {DAY}"
    if differs == "own" or differs in EACH:
        return f"x.{name} + i * {counts[table if differs == 'own' else differs]}"
    return differs


def copy(folder: Path, goal: str, kill_at: str | None = None) -> tuple[float, int, str]:
    """Seconds, the most memory in bytes, and what it said. At a line that begins with `kill_at` it is killed."""
    command = [sys.executable, "-m", "service", "copy", "--from", f"sqlite:///{folder}/callsheet.db", "--to", goal]
    environment = {**os.environ, "CALLSHEET_MASTER_KEYS": generate_master_key(), "PYTHONUNBUFFERED": "1"}
    began, said = time.monotonic(), ""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        said += line
        if kill_at is not None and line.startswith(kill_at) and int(line.split()[1]) > 0:
            process.send_signal(signal.SIGKILL)
            kill_at = None
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    return time.monotonic() - began, used.ru_maxrss * 1024, said


async def same(folder: Path, goal: str) -> bool:
    target: Any = await asyncpg.connect(goal)
    with contextlib.closing(sqlite3.connect(folder / "callsheet.db")) as source:
        pairs = [(source.execute(sql).fetchone(), tuple(map(int, await target.fetchrow(sql)))) for sql in SAME]
    await target.close()
    return all(one == other for one, other in pairs)


def measure(folder: Path, jobs: int, killed: bool) -> None:
    asyncio.run(make(folder, jobs))
    database = folder / "callsheet.db"
    with contextlib.closing(sqlite3.connect(database)) as db:
        counts = {table: int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in EACH}
    rows = sum(counts.values())
    print(f"{rows} rows, {database.stat().st_size >> 20} MiB: {counts}", flush=True)
    server = OwnServer(folder)
    server.start()
    try:
        if killed:
            for table in ("job_details", "deliveries", "attempts"):
                print(f"killed in {table} after {copy(folder, server.url, table)[0]:.0f} s", flush=True)
        seconds, memory, said = copy(folder, server.url)
        print("\n".join(said.splitlines()[-20:]))
        rate = "the rest" if killed else f"{rows / seconds:.0f} rows/s"
        print(f"{seconds:.0f} s, {rate}, at most {memory >> 20} MiB of memory")
        print("the same sums on both sides:", asyncio.run(same(folder, server.url)))
    finally:
        server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200_000)
    parser.add_argument("--killed", action="store_true", help="SIGKILL it in the middle of three tables, then go on")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="callsheet-copy-"))
    folder.chmod(0o755)  # the server has another user
    try:
        measure(folder, given.jobs, given.killed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
