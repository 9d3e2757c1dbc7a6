"""Nodes of one database, each the real command in a process of its own, under a steady load; and what must hold after.

The ground truth is outside the processes that die: the sandbox's ledger, the subscriber's record, the driver's own
list of what was accepted.
"""

import asyncio
import collections
import contextlib
import itertools
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from service.crypto import generate_master_key
from service.ids import row_id
from tests.kill.own_server import OwnServer
from tests.kill.test_kill import GONE, KEY, TERMINAL_EVENTS, World, everything, free_port, intent, settled

STOP_S = 25.0
SCHEDULE = "0,0.2,0.3,0.5,1,1,2,2,3,3,3,3"
UNFINISHED = "SELECT count(*) FROM {} WHERE lease IS NOT NULL"
LEASED = (
    "SELECT d.lease, e.num, e.created_at, (SELECT value::bigint FROM meta WHERE key = 'nonce') FROM deliveries d"
    " JOIN events e ON e.num = d.event WHERE d.lease IS NOT NULL"
)


class Node:
    """One process of `callsheet serve`. `code`: the folder of its `service` package, where it is not this one."""

    def __init__(self, role: str):
        self.role, self.port = role, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.code: Path | None = None
        self.process: asyncio.subprocess.Process


F = TypeVar("F", bound="Fleet")


class Fleet(World):
    """The first node is where the providers' callbacks go, and where questions are asked."""

    def __init__(self, folder: Path, roles: Sequence[str]):
        super().__init__(folder)
        self.server = OwnServer(folder)
        self.nodes = [Node(role) for role in roles]
        self.url, self.keys = self.nodes[0].url, generate_master_key()
        self.at: list[float] = []  # when each job was accepted, in seconds since 1970
        self.refused: collections.Counter[str] = collections.Counter()
        self.may_be_unsent = 0  # jobs whose sender died between saying that it would send and sending
        self._numbers = itertools.count()

    async def open(self) -> None:
        await asyncio.to_thread(self.server.start)
        await super().open()
        await self.start_all()
        endpoint = {"url": f"{self.subscriber}/events", "event_types": ["job.*"]}
        made = await self.ask("POST", f"{self.url}/v1/endpoints", json=endpoint)
        await self.ask("PUT", f"{self.subscriber}/_behaviour", json={"secrets": [made["secret"]]})

    async def start_all(self) -> None:
        await self.start_node(self.nodes[0])  # alone: it makes the tables
        await asyncio.gather(*(self.start_node(node) for node in self.nodes[1:]))

    def environment(self) -> dict[str, str]:
        """What every node is told."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("CALLSHEET_")},
            "CALLSHEET_DATABASE_URL": self.server.url,
            "CALLSHEET_MASTER_KEYS": self.keys,
            "CALLSHEET_PUBLIC_URL": self.url,
            "CALLSHEET_SANDBOX_URL": self.sandbox,
            "CALLSHEET_API_KEY": KEY,
            "CALLSHEET_RETRY_SCHEDULE": SCHEDULE,
            "CALLSHEET_LOG_LEVEL": "WARNING",
        }

    async def start_node(self, node: Node) -> None:
        await self.start_process(node, "-m", "service", "serve", "--role", node.role, "--port", str(node.port))
        await self.until_ready(node)

    async def start_process(self, node: Node, *command: str) -> None:
        with (self.folder / f"node-{node.port}.log").open("ab") as output:
            node.process = await asyncio.create_subprocess_exec(
                sys.executable, *command, env=self.environment(), cwd=node.code, stdout=output, stderr=output
            )

    async def stop_node(self, node: Node) -> float:
        """As an operator would; how many seconds it took."""
        began = time.monotonic()
        node.process.terminate()
        assert await asyncio.wait_for(node.process.wait(), STOP_S) == 0, self.said(node)
        return time.monotonic() - began

    async def until_ready(self, node: Node) -> None:
        for _ in range(600):
            with contextlib.suppress(*GONE):
                if (await self.client.get(f"{node.url}/ready")).status_code == 200:
                    return
            assert node.process.returncode is None, self.said(node)
            await asyncio.sleep(0.05)
        raise AssertionError(self.said(node))

    def said(self, node: Node) -> str:
        return (self.folder / f"node-{node.port}.log").read_text()[-3000:]

    def count_said(self, words: str) -> int:
        """How often these words are in the logs of the nodes."""
        return sum(log.read_text().count(words) for log in self.folder.glob("node-*.log"))

    async def load(self, takers: Sequence[Node], each_s: float) -> None:
        """A new intent every so many seconds, each asked for until it is accepted; until this is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                number = next(self._numbers)
                nonce = f"{('pix', 'pix', 'peak')[number % 3]}-{number}"
                group.create_task(self.accept(nonce, [takers[(number + n) % len(takers)] for n in range(len(takers))]))
                await asyncio.sleep(each_s)

    @contextlib.asynccontextmanager
    async def loaded(self, takers: Sequence[Node], each_s: float) -> AsyncIterator[None]:
        """Under load for as long as this is open. What was asked for last is asked for until it is accepted."""
        load = asyncio.create_task(self.load(takers, each_s))
        try:
            yield
        finally:
            load.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await load
        await asyncio.gather(*(self.accept(nonce, takers) for nonce in self.intents - set(self.accepted)))

    @property
    def intents(self) -> set[str]:
        count = next(self._numbers)
        self._numbers = itertools.count(count)
        return {f"{('pix', 'pix', 'peak')[number % 3]}-{number}" for number in range(count)}

    async def accept(self, nonce: str, takers: Sequence[Node]) -> None:
        """One intent, repeated with its key at one node after the other until it is accepted."""
        provider, operation, given = intent(nonce)
        body = {"provider": provider, "operation": operation, "input": given, "metadata": {"nonce": nonce}}
        for node in itertools.cycle(takers):
            try:
                url, headers = f"{node.url}/v1/jobs", {"Idempotency-Key": nonce}
                response = await self.client.post(url, json=body, headers=headers, timeout=30)
            except GONE as error:
                self.refused[type(error).__name__] += 1
            else:
                if response.status_code == 202:
                    self.accepted[nonce] = response.json()["id"]
                    self.at.append(time.time())
                    return
                assert response.status_code == 503, (response.status_code, response.text, self.said(node))
                self.refused["503"] += 1
            await asyncio.sleep(0.05 + random.random() * 0.1)

    async def rows(self, sql: str) -> list[Any]:
        db = await asyncpg.connect(self.server.url)
        try:
            return list(await db.fetch(sql))
        finally:
            await db.close()

    async def in_flight(self) -> set[tuple[str, int]]:
        """What is being sent by any node, or was when it died: events, by their public ids, and the leases."""
        return {(row_id("evt", at, nonce, num), lease) for lease, num, at, nonce in await self.rows(LEASED)}

    async def orphaned(self) -> dict[str, int]:
        """Stop every node as an operator would; what is leased then was leased to those that were killed."""
        await asyncio.gather(*map(self.stop_node, self.nodes))
        return {table: (await self.rows(UNFINISHED.format(table)))[0][0] for table in ("jobs", "deliveries")}

    async def end_leases(self) -> None:
        """To the nodes that come next, as if the rest of each lease's time had gone by on the database's clock."""
        for table in ("jobs", "deliveries"):
            await self.rows(f"UPDATE {table} SET due_at = (extract(epoch FROM now()) * 1000)::bigint WHERE lease > 0")

    async def close(self) -> None:
        for node in self.nodes:
            if hasattr(node, "process") and node.process.returncode is None:
                node.process.kill()
                await node.process.wait()
        await super().close()
        await asyncio.to_thread(self.server.stop)


@contextlib.asynccontextmanager
async def running(*roles: str) -> AsyncIterator[Fleet]:
    """A fleet in a folder that the database's own user can reach. The folder stays where the test failed."""
    folder = Path(tempfile.mkdtemp(prefix="callsheet-fleet-"))
    async with opened(Fleet(folder, roles)) as fleet:
        yield fleet


@contextlib.asynccontextmanager
async def opened(fleet: F) -> AsyncIterator[F]:
    try:
        await fleet.open()
        yield fleet
    finally:
        await fleet.close()
    shutil.rmtree(fleet.folder, ignore_errors=True)


async def checked(fleet: Fleet, seconds: float) -> collections.Counter[str]:
    """Once all has ended: every promise holds. What the subscriber took more than once, by webhook-id."""
    jobs, deliveries = await settled(fleet, seconds)
    events = await everything(fleet, "/v1/events?")
    received = (await fleet.ask("GET", f"{fleet.subscriber}/_received"))["data"]
    charges = collections.Counter({provider: len(rows) for provider, rows in (await _ledgers(fleet)).items()})
    print(f"\ntracebacks in the nodes' logs: {fleet.count_said('Traceback')}")
    statuses = collections.Counter(job["status"] for job in jobs)
    print(f"accepted {len(fleet.accepted)}, refused {dict(fleet.refused)}, jobs {dict(statuses)}")
    print(f"charges {dict(charges)}, events {len(events)}, requests to the subscriber {len(received)}")
    await _check_jobs(fleet, jobs, events)
    return _check_received(events, deliveries, received)


async def _ledgers(fleet: Fleet) -> dict[str, list[dict[str, Any]]]:
    names = ("pixverse", "peakmv")
    return {name: (await fleet.ask("GET", f"{fleet.sandbox}/_sandbox/{name}/ledger"))["data"] for name in names}


async def _check_jobs(fleet: Fleet, jobs: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
    charges = collections.Counter(row["input"]["prompt"] for rows in (await _ledgers(fleet)).values() for row in rows)
    assert max(charges.values()) == 1, [nonce for nonce, count in charges.items() if count > 1]
    shown = {job["metadata"]["nonce"]: job["id"] for job in jobs}
    assert len(shown) == len(jobs) and shown == fleet.accepted
    assert not [job for job in jobs if job["provider"] == "pixverse" and job["status"] == "unknown"]
    assert _with(jobs, "succeeded") <= set(charges)
    print(f"unknown though nothing was sent {len(unsent := _with(jobs, 'unknown') - set(charges))}")
    assert len(unsent) <= fleet.may_be_unsent
    terminal = collections.Counter(event["data"]["id"] for event in events if event["type"] in TERMINAL_EVENTS)
    assert terminal == {job["id"]: 1 for job in jobs if job["status"] in ("succeeded", "failed", "canceled")}


def _with(jobs: list[dict[str, Any]], status: str) -> set[str]:
    return {job["metadata"]["nonce"] for job in jobs if job["status"] == status}


def _check_received(
    events: list[dict[str, Any]], deliveries: list[dict[str, Any]], received: list[dict[str, Any]]
) -> collections.Counter[str]:
    ids = {event["id"] for event in events}
    assert collections.Counter(delivery["event"] for delivery in deliveries) == dict.fromkeys(ids, 1)
    assert {delivery["status"] for delivery in deliveries} == {"delivered"}
    taken = collections.Counter(row["webhook_id"] for row in received if row["status"] == 200)
    assert set(taken) == ids
    assert all(row["verified"] for row in received)
    bodies = collections.Counter(webhook_id for webhook_id, _ in {(r["webhook_id"], r["sha256"]) for r in received})
    assert set(bodies.values()) == {1}
    return collections.Counter({webhook_id: count - 1 for webhook_id, count in taken.items() if count > 1})
