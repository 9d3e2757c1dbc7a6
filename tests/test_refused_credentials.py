"""A refused key, or a balance that is out, fails nobody: submits wait, then one tries for all of them."""

import asyncio
import collections
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest

from service.crypto import generate_master_key
from tests.kill.test_kill import free_port
from tests.stores import server
from tests.test_pipeline import receiving, until
from tests.web.served import ADMIN

pytestmark = pytest.mark.anyio
PLACE = "/v1/providers/peakmv/credentials"
ONE_KEY = generate_master_key()
JOBS = 20


def http(status: int, body: Any, more: str = "") -> bytes:
    raw = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n{more}\r\n"
    return head.encode() + raw


class Account:
    """PeakMV as a raw HTTP server: what it answers to submits, and how many were there at a time."""

    def __init__(self) -> None:
        self.refusal: bytes | None = None
        self.submits = self.charged = self.here = 0
        self.script: list[bytes] = []  # answers that come first
        self.beside: list[int] = []  # how many were there when each came, itself among them
        self.takes_s = 0.0
        self.open = asyncio.Event()  # while it is not set, submits are held
        self.open.set()
        self.url = ""

    async def __call__(self, path: str) -> bytes:
        if not path.endswith("/generate"):
            return http(200, {"id": "j", "status": "processing"})
        self.submits += 1
        self.here += 1
        self.beside.append(self.here)
        await self.open.wait()
        await asyncio.sleep(self.takes_s)
        self.here -= 1
        if self.script:
            return self.script.pop(0)
        if self.refusal is not None:
            return self.refusal
        self.charged += 1
        return http(200, {"success": True, "job_id": f"j{self.charged}", "cost_credits": 1})


@contextlib.asynccontextmanager
async def an_account() -> AsyncIterator[Account]:
    account = Account()
    async with receiving(account) as (_, url):
        account.url = url
        yield account


class Node:
    """The real command in a process of its own."""

    def __init__(self, folder: Path, database: str, account: Account):
        self.folder, self.database, self.account = folder, database, account
        self.port = free_port()
        headers = {"authorization": f"Bearer {ADMIN}"}
        self.http = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=30)
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        environment = {
            "CALLSHEET_DATABASE_URL": self.database,
            "CALLSHEET_API_KEY": ADMIN,
            "CALLSHEET_MASTER_KEYS": ONE_KEY,
            "CALLSHEET_PEAKMV_BASE_URL": self.account.url,
            "CALLSHEET_PEAKMV_API_KEY": "the-key-of-the-account",
            "PATH": "/usr/bin:/bin",
        }
        with (self.folder / f"node-{self.port}.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "service", "serve", "--port", str(self.port), env=environment, stdout=log,
                stderr=log,
            )  # fmt: skip
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    if (await self.http.get("/ready")).status_code == 200:
                        return
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        reply = await self.http.request(method, path, **more)
        assert reply.status_code < 300, reply.text
        return reply.json()

    async def submit(self, count: int) -> None:
        given = {"audio_url": "https://media.example.com/a.mp3"}
        body = {"provider": "peakmv", "operation": "generate", "input": given}
        await asyncio.gather(*(self.ask("POST", "/v1/jobs", json=body) for _ in range(count)))

    async def statuses(self) -> collections.Counter[tuple[str, str | None]]:
        jobs = (await self.ask("GET", "/v1/jobs?limit=100"))["data"]
        return collections.Counter((job["status"], job["reason"]) for job in jobs)

    async def until(self, **wanted: int) -> collections.Counter[tuple[str, str | None]]:
        """Until so many jobs have each of these states; what all of them are then."""
        async with asyncio.timeout(60):
            while True:
                found = await self.statuses()
                by_state = collections.Counter[str]()
                for (state, _), times in found.items():
                    by_state[state] += times
                if all(by_state[state] == times for state, times in wanted.items()):
                    return found
                await asyncio.sleep(0.05)

    async def paused(self) -> bool:
        return (await self.ask("GET", PLACE))["paused_at"] is not None

    async def until_paused(self) -> None:
        async with asyncio.timeout(30):
            while not await self.paused():  # noqa: ASYNC110 - another process does it
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def nodes(folder: Path, database: str, account: Account, count: int = 1) -> AsyncIterator[list[Node]]:
    made = [Node(folder, database, account) for _ in range(count)]
    try:
        for node in made:
            await node.start()
        yield made
    finally:
        account.open.set()
        for node in made:
            await node.kill()
            await node.http.aclose()


async def arrived(account: Account, count: int) -> None:
    """Until so many submits are at the provider at a time."""
    await until(lambda: account.here >= count)


REFUSALS = {
    "key": (http(401, {"error": "Invalid or inactive API Key"}), "authentication"),
    "key, in other words": (http(401, {"error": "no"}), "authentication"),
    "balance": (http(402, {"error": "Insufficient credits", "required": 18, "available": 5.5}), "out_of_credit"),
    "balance, without amounts": (http(402, {"error": "Insufficient credits"}), "out_of_credit"),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refused_account_fails_nobody(name: str, tmp_path: Path) -> None:
    refusal, code = REFUSALS[name]
    async with an_account() as account, nodes(tmp_path, f"sqlite:///{tmp_path}/c.db", account) as (node,):
        account.refusal = refusal
        account.open.clear()
        await node.submit(JOBS)
        await arrived(account, 16)  # as many as are sent at a time
        account.open.set()
        await node.until_paused()
        found = await node.until(queued=JOBS)
        assert set(found) == {("queued", f"credential_paused: {code}")}
        assert account.submits == 16
        events = (await node.ask("GET", "/v1/events?limit=100"))["data"]
        assert [event["type"] for event in events] == ["credential.paused"]

        await node.ask("POST", f"{PLACE}/resume")  # too early
        found = await node.until(failed=1, queued=JOBS - 1)
        await node.until_paused()
        assert account.submits == 17, "one tried, and only that one failed"

        account.refusal = None
        account.open.clear()
        await node.ask("POST", f"{PLACE}/resume")
        await arrived(account, 1)
        found = await node.until(submitting=1, queued=JOBS - 2)
        assert found["queued", "credential_on_trial"] == JOBS - 2
        account.open.set()
        await node.until(processing=JOBS - 1)
        assert account.charged == JOBS - 1
        assert not await node.paused()


async def test_a_probe_that_tells_nothing_is_followed_by_another_one(tmp_path: Path) -> None:
    """A full queue, a refused input, a broken reply: none of them says that the key is taken, or is not."""
    tells_nothing = [
        http(429, {"error": "Rate limit exceeded", "retry_after_seconds": 0}),
        http(400, {"error": "audio_url is required"}),
        b"HTTP/1.1 500 X\r\ncontent-length: 2\r\n\r\n<>",
    ]
    async with an_account() as account, nodes(tmp_path, f"sqlite:///{tmp_path}/c.db", account) as (node,):
        account.refusal = REFUSALS["key"][0]
        await node.submit(6)
        await node.until_paused()
        await node.until(queued=6)
        account.refusal, account.script, account.takes_s, account.beside = None, tells_nothing, 0.1, []
        await node.ask("POST", f"{PLACE}/resume")
        await node.until(processing=4, failed=1, unknown=1)
        assert account.beside[:4] == [1] * 4, "one at a time, until one was accepted"


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_pause_trial_and_the_probes_turn_outlast_every_process(database: str, tmp_path: Path) -> None:
    """Killed where it was paused, and where its probe was under way: the next process has one job try, and no more."""
    url = f"sqlite:///{tmp_path}/c.db" if database == "sqlite" else await server.brought.lent(tmp_path, "")
    async with an_account() as account, nodes(tmp_path, url, account) as (node,):
        account.refusal = REFUSALS["key"][0]
        await node.submit(5)
        await node.until_paused()
        await node.until(queued=5)
        await node.kill()
        sent = account.submits
        await node.start()
        assert await node.paused()
        account.refusal = None
        account.open.clear()
        await node.ask("POST", f"{PLACE}/resume")
        await arrived(account, 1)
        await node.until(submitting=1, queued=4)
        await node.kill()
        account.open.set()
        await until(lambda: not account.here)
        account.open.clear()
        await node.start()
        await arrived(account, 1)
        assert account.submits == sent + 2, "one at a time, and none was lost"
        account.open.set()
        # On PostgreSQL what the dead process had in its hands is another's once its lease has ended.
        await node.until(processing=4, **({"unknown": 1} if database == "sqlite" else {"submitting": 1}))


async def test_of_several_nodes_one_tries_and_who_is_left_takes_over(tmp_path: Path) -> None:
    url = await server.brought.lent(tmp_path, "")
    async with an_account() as account, nodes(tmp_path, url, account, 3) as three:
        account.refusal = REFUSALS["balance"][0]
        await three[0].submit(JOBS)
        await three[0].until_paused()
        await three[0].until(queued=JOBS)
        await nothing_leased(url)  # what left before the pause was heard of is answered
        account.refusal = None
        account.open.clear()
        sent = account.submits
        await three[1].ask("POST", f"{PLACE}/resume")
        await arrived(account, 1)
        await three[2].until(submitting=1, queued=JOBS - 1)
        assert account.submits == sent + 1
        for node in three[:2]:
            await node.kill()
        account.open.set()  # whoever had it: the probe's own job is the one that may be lost with it
        done = await three[2].until(queued=0)
        async with asyncio.timeout(60):
            while sum(times for (state, _), times in done.items() if state == "processing") < JOBS - 1:
                await asyncio.sleep(0.1)
                done = await three[2].statuses()
        assert not {state for state, _ in done} - {"processing", "submitting"}


async def nothing_leased(url: str) -> None:
    db = await asyncpg.connect(url)
    async with asyncio.timeout(30):
        while await db.fetchval("SELECT count(*) FROM jobs WHERE lease IS NOT NULL"):  # noqa: ASYNC110 - of others
            await asyncio.sleep(0.05)
    await db.close()


async def test_a_passthrough_submit_is_refused_at_once_and_pauses_all_the_same(tmp_path: Path) -> None:
    async with an_account() as account, nodes(tmp_path, f"sqlite:///{tmp_path}/c.db", account) as (node,):
        account.refusal = REFUSALS["key"][0]
        body = {"audio_url": "https://media.example.com/a.mp3"}
        reply = await node.http.post("/v1/providers/peakmv/passthrough/api/v2/generate", json=body)
        assert (reply.status_code, reply.json()) == (401, {"error": "Invalid or inactive API Key"})
        await node.until_paused()
        await node.until(failed=1)
        await node.submit(2)
        await node.until(queued=2)
        reply = await node.http.post("/v1/providers/peakmv/passthrough/api/v2/generate", json=body)
        assert reply.status_code == 401, "a pause holds what waits in the queue, nobody who waits for an answer"
        account.refusal = None
        await node.ask("POST", f"{PLACE}/resume")
        await node.until(processing=2, failed=2)
