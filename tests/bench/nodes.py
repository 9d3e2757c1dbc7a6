"""What the benchmarks on PostgreSQL stand on: a server of their own, nodes of `callsheet serve`, rows made by SQL.

The server keeps PostgreSQL's own durability (fsync and synchronous_commit are on). `PG_BIN` names other binaries than
the bundled ones. What other programs took of the machine meanwhile is said beside every figure.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from service.crypto import generate_master_key
from service.endpoints import MOST_ENDPOINTS
from service.stores.postgres_pool import CLOCK
from service.views import event_body
from tests.kill.own_server import OwnServer
from tests.kill.test_kill import free_port

KEY = "bench-admin-key-0123456789abcdefghij"
SERVER = (
    "max_connections = 200",
    "shared_buffers = 1GB",
    "max_wal_size = 8GB",
    "checkpoint_timeout = 15min",
    "log_checkpoints = off",
)
STATEMENTS = "pg_stat_statements"
COUNTED = f"SELECT COALESCE(sum(calls), 0)::bigint FROM {STATEMENTS} WHERE query NOT LIKE '%{STATEMENTS}%'"
DATA = {"id": "job_bench", "outputs": [{"url": "https://media.example.com/v.mp4"}]}
AT_ONCE = 250_000  # events of one transaction: with their deliveries half of the numbers that it has
BASE = (
    "SELECT (pg_current_xact_id()::text::bigint"
    " + COALESCE((SELECT value::bigint FROM meta WHERE key = 'lift'), 0)) << 20"
)
# Row n goes to the endpoint at that place of a list; its tenant is at the same place of another.
EVENTS = (
    "INSERT INTO events (num, tenant, type, created_at)"
    " SELECT $1 + n, ($4::bigint[])[1 + n % cardinality($4::bigint[])], 'job.succeeded', $2"
    " FROM generate_series(0, $3::bigint - 1) n"
)
BODIES = (
    "INSERT INTO event_bodies (event, created_at, body) SELECT $1 + n, $2, $4 FROM generate_series(0, $3::bigint - 1) n"
)
DELIVERIES = (
    "INSERT INTO deliveries (num, event, endpoint, tenant, lane, status, due_at, attempts, spent, created_at)"
    " SELECT $1 + $3 + n, $1 + n, e, t, e, 0, $2 - $3 + {place}, 0, 0, $2 FROM (SELECT n,"
    " ($5::bigint[])[1 + n % cardinality($5::bigint[])] AS e, ($4::bigint[])[1 + n % cardinality($4::bigint[])] AS t"
    " FROM generate_series(0, $3::bigint - 1) n) q"
)
ORDERS = {"id": "n", "random": "(random() * $3)::bigint"}


class Server(OwnServer):
    """With more memory than the default, and counted statements where its binaries can."""

    def __init__(self, folder: Path, *settings: str):
        super().__init__(folder)
        if given := os.environ.get("PG_BIN"):
            self._bin = Path(given)
            shutil.rmtree(self.data)
            self.data.mkdir(mode=0o700)
            shutil.chown(self.data, self._user) if os.geteuid() == 0 else None
            self._run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "-D", str(self.data))
        library = Path(self._run("pg_config", "--pkglibdir").strip()) / f"{STATEMENTS}.so"
        self.counts = library.exists()
        more = (f"shared_preload_libraries = '{STATEMENTS}'", f"{STATEMENTS}.max = 2000") if self.counts else ()
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.write("\n".join(("", *SERVER, *more, *settings, "")))

    def _run(self, program: str, *arguments: str) -> str:
        user = self._user if os.geteuid() == 0 else None
        command = [str(self._bin / program), *arguments]
        return subprocess.run(command, user=user, cwd="/", check=True, capture_output=True, text=True).stdout

    async def count_from_now(self, db: Any) -> None:
        """Begin to count statements: by the server itself where it can, else by its log of all of them."""
        if self.counts:
            await db.execute(f"CREATE EXTENSION IF NOT EXISTS {STATEMENTS}")
            await db.execute(f"SELECT {STATEMENTS}_reset()")
            return
        for setting in ("log_statement = 'all'", "log_parameter_max_length = 0"):
            await db.execute(f"ALTER SYSTEM SET {setting}")
        await db.execute("SELECT pg_reload_conf()")
        await asyncio.sleep(0.5)
        self._from = self._log.stat().st_size

    async def counted(self, db: Any) -> int:
        """Statements of all clients since then, BEGIN and COMMIT too; the counting ends with this."""
        if self.counts:
            return int(await db.fetchval(COUNTED))
        with self._log.open("rb") as log:
            log.seek(self._from)
            said = log.read()
        await db.execute("ALTER SYSTEM RESET log_statement")
        await db.execute("SELECT pg_reload_conf()")
        return len(re.findall(rb" LOG:  (?:execute|statement)", said))

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])


class Bench:
    """One server, one node that answers and makes what is needed over HTTP, and any number of workers."""

    def __init__(self, folder: Path, server: Server):
        self.folder, self.server, self.keys = folder, server, generate_master_key()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.db: Any = None
        self.numbers: list[int] = []  # of the endpoints that a benchmark fills
        self._nodes: list[subprocess.Popen[bytes]] = []

    @property
    def nodes(self) -> list[int]:
        """Their process ids, in the order of their starts."""
        return [node.pid for node in self._nodes]

    async def node(self, role: str, port: int | None = None, **settings: str) -> int:
        """Start a node and wait until it is ready; its process id."""
        port = port or free_port()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CALLSHEET_")},
            "CALLSHEET_DATABASE_URL": self.server.url,
            "CALLSHEET_MASTER_KEYS": self.keys,
            "CALLSHEET_PUBLIC_URL": self.url,
            "CALLSHEET_SANDBOX_URL": "http://127.0.0.1:9",
            "CALLSHEET_API_KEY": KEY,
            "CALLSHEET_LOG_LEVEL": "WARNING",
            **settings,
        }
        with (self.folder / "nodes.log").open("ab") as output:
            command = [sys.executable, "-m", "service", "serve", "--role", role, "--port", str(port)]
            process = await asyncio.to_thread(subprocess.Popen, command, env=environment, stdout=output, stderr=output)
        self._nodes.append(process)
        for _ in range(400):
            with contextlib.suppress(OSError):
                await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/ready")
                return process.pid
            assert process.poll() is None, (self.folder / "nodes.log").read_text()[-2000:]
            await asyncio.sleep(0.05)
        raise AssertionError((self.folder / "nodes.log").read_text()[-2000:])

    async def stop_nodes(self, pids: Iterable[int]) -> None:
        """As an operator would: leases are handed back."""
        stopped = [node for node in self._nodes if node.pid in set(pids)]
        for node in stopped:
            node.terminate()
        for node in stopped:
            await asyncio.to_thread(node.wait, 30)

    async def ask(self, method: str, path: str, body: Any = None, tenant: str = "default") -> Any:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", "Callsheet-Tenant": tenant}
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        said = await asyncio.to_thread(lambda: urllib.request.urlopen(asked, timeout=30).read())
        return json.loads(said) if said else None

    async def endpoints(self, urls: Sequence[str], tenant: str = "default", **more: Any) -> list[int]:
        """Make endpoints; their numbers."""
        for url in urls:
            await self.ask("POST", "/v1/endpoints", {"url": url, **more}, tenant)
        sql = "SELECT p.num FROM endpoints p JOIN tenants t ON t.num = p.tenant WHERE t.name = $1 ORDER BY p.num DESC"
        return [row[0] for row in await self.db.fetch(sql + " LIMIT $2", tenant, len(urls))][::-1]

    async def many_endpoints(self, url: str, count: int) -> list[int]:
        """So many, of as many tenants as that takes."""
        made: list[int] = []
        while len(made) < count:
            tenant = f"tenant-{len(made)}"
            await self.ask("POST", "/v1/tenants", {"name": tenant})
            most = min(count - len(made), MOST_ENDPOINTS)
            made += await self.endpoints([f"{url}/{len(made) + n}" for n in range(most)], tenant)
        return made

    async def pending(self) -> int:
        return int(await self.db.fetchval("SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL"))

    async def delivered(self) -> int:
        return int(await self.db.fetchval("SELECT count(*) FROM attempts WHERE status_code = 200"))

    async def close(self) -> None:
        for node in self._nodes:
            if node.poll() is None:
                node.kill()
            node.wait()
        if self.db is not None:
            await self.db.close()
        await asyncio.to_thread(self.server.stop)


async def fill(
    db: Any, endpoints: Sequence[int], count: int, *, order: str = "id", pad: int = 700, trust: bool = False
) -> None:
    """So many events with one delivery each, due now, to these endpoints in turn; valid rows, by SQL.

    `pad` is what makes a body large; `trust` leaves out the server's check of each reference, which takes most of the
    time.
    """
    sql = "SELECT p.tenant FROM unnest($1::bigint[]) WITH ORDINALITY w (num, place) JOIN endpoints p USING (num)"
    tenants = [row[0] for row in await db.fetch(sql + " ORDER BY place", endpoints)]
    for start in range(0, count, AT_ONCE):
        part = min(AT_ONCE, count - start)
        async with db.transaction():
            if trust:
                await db.execute("SET LOCAL session_replication_role = replica")
            base, now = await db.fetchval(BASE), await db.fetchval(CLOCK)
            body = event_body("job.succeeded", now, DATA | {"pad": "x" * pad})
            await db.execute(EVENTS, base, now, part, tenants, timeout=300)
            await db.execute(BODIES, base, now, part, body, timeout=300)
            made = DELIVERIES.format(place=ORDERS[order])
            await db.execute(made, base, now, part, tenants, list(endpoints), timeout=300)


@contextlib.asynccontextmanager
async def standing(*settings: str) -> AsyncIterator[Bench]:
    """A server with the tables made and the answering node up; all of it is ended with this."""
    folder = Path(tempfile.mkdtemp(prefix="callsheet-bench-"))
    os.chmod(folder, 0o755)
    bench = Bench(folder, Server(folder, *settings))
    try:
        await asyncio.to_thread(bench.server.start)
        await bench.node("api", bench.port)
        bench.db = await asyncpg.connect(bench.server.url)
        yield bench
    finally:
        await bench.close()
        shutil.rmtree(folder, ignore_errors=True)


class Cpu:
    """Seconds of processor time between two moments, by kind of process, and what all others took."""

    def __init__(self, **kinds: Sequence[int]):
        self._kinds = kinds
        self._before, self._all, self._at = self._read(), _machine(), time.monotonic()

    def _read(self) -> dict[str, float]:
        return {kind: sum(_tree(pid) for pid in pids) for kind, pids in self._kinds.items()}

    def taken(self) -> dict[str, float]:
        """Seconds by kind; `others` in cores: what the rest of the machine's programs kept busy."""
        now, seconds = self._read(), time.monotonic() - self._at
        found = {kind: now[kind] - self._before[kind] for kind in now}
        return {**found, "others": max(0.0, (_machine() - self._all - sum(found.values())) / seconds)}


def _tree(pid: int) -> float:
    """Of a process and its children, those that ended too."""
    process, total = psutil.Process(pid), 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system + (times.children_user + times.children_system)
    return total


def _machine() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def machine() -> str:
    """Its cores and how busy they are just now."""
    return f"{os.cpu_count()} cores, load {Path('/proc/loadavg').read_text().split()[0]}"
