"""Killed with SIGKILL under load, at every step, with every fault on: nothing lost, nothing charged twice.

The ground truth is outside the process that dies: the sandbox's ledger, the subscriber's record, the driver's
own list of what was accepted.
"""

import asyncio
import collections
import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.kill.killed_service import POINTS

pytestmark = [pytest.mark.anyio, pytest.mark.kill, pytest.mark.xdist_group("kill")]

CYCLES = int(os.environ.get("CALLSHEET_KILL_CYCLES", "42"))
JOBS_A_CYCLE = 16
KEY = "kill-test-admin-key-0123456789abcdef"
# What a client meets when the service dies under it; the AttributeError is anyio's, on a socket that died as it opened.
GONE = (httpx2.TransportError, AttributeError)
FAULTS = {
    "seed": 7,
    "drop_reply_after_accept": 0.15,
    "error_before_accept": {"500": 0.05, "429": 0.05},
    "error_after_accept": {"500": 0.05},
    "duration_s": [0.05, 0.6],
    "status_regress": 0.1,
}
CALLBACKS = {
    "duplicate": 3,
    "before_reply": 0.2,
    "lose": 0.1,
    "forge": 0.3,
    "delay_s": [0, 0.3],
    "retry_s": [0.3, 1, 2],
}


class World:
    """The sandbox, the subscriber, and the service that is killed and started again on the same port."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder / "kills"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.sandbox = self.subscriber = ""
        self.client = httpx2.AsyncClient(timeout=10, headers={"Authorization": f"Bearer {KEY}"})
        self.processes: list[asyncio.subprocess.Process] = []
        self.kills: collections.Counter[str] = collections.Counter()
        self.accepted: dict[str, str] = {}  # nonce -> job id
        self.service: asyncio.subprocess.Process | None = None

    async def open(self) -> None:
        self.sandbox = await self.announced("service.sandbox", "--service-url", self.url)
        arguments = ("--fail-rate", "0.33", "--seed", "7", "--quiet")
        self.subscriber = await self.announced("service.sandbox.subscriber", *arguments)
        await self.set_faults()

    async def set_faults(self, **more: Any) -> None:
        for provider, callback in (("pixverse", {"callback": CALLBACKS}), ("peakmv", {})):
            await self.ask("PUT", f"{self.sandbox}/_sandbox/{provider}/faults", json={**FAULTS, **callback, **more})

    async def clear_faults(self) -> None:
        for provider in ("pixverse", "peakmv"):
            await self.ask("PUT", f"{self.sandbox}/_sandbox/{provider}/faults", json={"duration_s": [0.05, 0.2]})

    async def announced(self, module: str, *arguments: str) -> str:
        """Start a process and read the URL that it prints."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, "--port", "0", *arguments, stdout=asyncio.subprocess.PIPE
        )
        self.processes.append(process)
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        return line.split()[-1]

    async def start(self, point: str, nth: int) -> None:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CALLSHEET_")},
            "CALLSHEET_DATABASE_URL": f"sqlite:///{self.folder}/callsheet.db",
            "CALLSHEET_PUBLIC_URL": self.url,
            "CALLSHEET_SANDBOX_URL": self.sandbox,
            "CALLSHEET_API_KEY": KEY,
            "CALLSHEET_RETRY_SCHEDULE": "0,0.2,0.3,0.5,1,1,2,2,3,3,3,3",
            "CALLSHEET_LOG_LEVEL": "WARNING",
        }
        command = ("-m", "tests.kill.killed_service", str(self.port), point, str(nth), str(self.log))
        output = (self.folder / "service.log").open("ab")
        self.service = await asyncio.create_subprocess_exec(
            sys.executable, *command, env=environment, stdout=output, stderr=output
        )
        output.close()
        await self.ready()

    async def ready(self) -> None:
        for _ in range(400):
            with contextlib.suppress(*GONE):
                if (await self.client.get(f"{self.url}/ready")).status_code == 200:
                    return
            if self.service is not None and self.service.returncode is not None:
                return  # it died on the way up: the point lies in what recovery does
            await asyncio.sleep(0.05)
        raise AssertionError((self.folder / "service.log").read_text()[-3000:])

    async def ask(self, method: str, url: str, **how: Any) -> Any:
        response = await self.client.request(method, url, **how)
        assert response.status_code < 300, (url, response.status_code, response.text)
        return response.json()

    async def submit(self, nonce: str) -> None:
        """One intent: repeated with the same key until it is accepted, or the service is gone."""
        provider, operation, given = intent(nonce)
        body = {"provider": provider, "operation": operation, "input": given, "metadata": {"nonce": nonce}}
        while nonce not in self.accepted:
            try:
                response = await self.client.post(f"{self.url}/v1/jobs", json=body, headers={"Idempotency-Key": nonce})
            except GONE:
                return
            if response.status_code == 503:
                await asyncio.sleep(0.05)
                continue
            assert response.status_code == 202, response.text
            self.accepted[nonce] = response.json()["id"]

    async def close(self) -> None:
        await self.client.aclose()
        for process in [*self.processes, self.service]:
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()


def intent(nonce: str) -> tuple[str, str, dict[str, Any]]:
    if nonce.startswith("pix"):
        given = {"prompt": nonce, "model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"}
        return "pixverse", "text_to_video", given
    return "peakmv", "generate", {"audio_url": f"https://media.example.com/{nonce}.mp3", "prompt": nonce}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    made = World(tmp_path_factory.mktemp("kill"))
    try:
        await made.open()
        yield made
    finally:
        await made.close()


async def one_cycle(world: World, cycle: int, point: str, chance: random.Random) -> None:
    from_outside = point == "accepted_reply_unread"
    if from_outside:
        await world.set_faults(hang_after_accept=1.0, hang_s=30, drop_reply_after_accept=0)
    await world.start("none" if from_outside else point, chance.randint(1, 6))
    nonces = [f"{kind}-{cycle}-{n}" for n in range(JOBS_A_CYCLE) for kind in (("pix", "pix", "peak")[n % 3],)]
    behind = [intended for intended in world_intents(cycle) if intended not in world.accepted]
    before = await charged(world) if from_outside else 0
    await asyncio.gather(*(world.submit(nonce) for nonce in (*behind, *nonces)))
    service = world.service
    assert service is not None
    if from_outside:
        for _ in range(200):
            if await charged(world) > before:
                break
            await asyncio.sleep(0.05)
        assert await charged(world) > before, "nothing was accepted while replies were held back"
        service.send_signal(signal.SIGKILL)
        world.kills[point] += 1
        await world.set_faults()
    try:
        code = await asyncio.wait_for(service.wait(), 20)
    except TimeoutError:  # the point was not passed this time: stop it, and count nothing
        service.kill()
        await service.wait()
        return
    assert code == -signal.SIGKILL, (world.folder / "service.log").read_text()[-3000:]
    if not from_outside:
        world.kills[point] += 1


def world_intents(before_cycle: int) -> list[str]:
    """Every intent of earlier cycles: what was not accepted then is asked for again, under its key."""
    return [
        f"{(('pix', 'pix', 'peak')[n % 3])}-{cycle}-{n}" for cycle in range(before_cycle) for n in range(JOBS_A_CYCLE)
    ]


async def charged(world: World) -> int:
    ledgers = [await world.ask("GET", f"{world.sandbox}/_sandbox/{p}/ledger") for p in ("pixverse", "peakmv")]
    return sum(len(ledger["data"]) for ledger in ledgers)


async def everything(world: World, path: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await world.ask("GET", f"{world.url}{path}limit=100{cursor}")
        rows += page["data"]
        if page["next_cursor"] is None:
            return rows
        cursor = f"&cursor={page['next_cursor']}"


async def settled(world: World, seconds: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All jobs and deliveries, once no job is on its way and no delivery pending."""
    ends = time.monotonic() + seconds
    while True:
        jobs, deliveries = await everything(world, "/v1/jobs?"), await everything(world, "/v1/deliveries?")
        open_jobs = [j for j in jobs if j["status"] in ("queued", "submitting", "processing")]
        pending = [d for d in deliveries if d["status"] == "pending"]
        if not open_jobs and not pending:
            return jobs, deliveries
        assert time.monotonic() < ends, (json.dumps(open_jobs[:2]), pending[:2], len(open_jobs), len(pending))
        await asyncio.sleep(0.5)


async def test_killed_at_every_step_nothing_is_lost_and_nothing_charged_twice(world: World) -> None:
    chance = random.Random(11)
    await world.start("none", 1)
    endpoint = {"url": f"{world.subscriber}/events", "event_types": ["job.*"]}
    made = await world.ask("POST", f"{world.url}/v1/endpoints", json=endpoint)
    await world.ask("PUT", f"{world.subscriber}/_behaviour", json={"secrets": [made["secret"]]})
    assert world.service is not None
    world.service.kill()
    await world.service.wait()
    cycle = 0
    while sum(world.kills.values()) < CYCLES or min(world.kills[point] for point in POINTS) < 5:
        await one_cycle(world, cycle, POINTS[cycle % len(POINTS)], chance)
        cycle += 1
        assert cycle < 3 * CYCLES + 60, f"too many cycles without a kill: {world.kills}"
    await world.clear_faults()
    await world.start("none", 1)
    for nonce in world_intents(cycle):
        await world.submit(nonce)
    jobs, deliveries = await settled(world, 120)
    await check(world, jobs, deliveries, cycle)


async def check(world: World, jobs: list[dict[str, Any]], deliveries: list[dict[str, Any]], cycles: int) -> None:
    happened = [
        (await world.ask("GET", f"{world.sandbox}/_sandbox/{p}/faults"))["happened"] for p in ("pixverse", "peakmv")
    ]
    ledgers = {
        p: (await world.ask("GET", f"{world.sandbox}/_sandbox/{p}/ledger"))["data"] for p in ("pixverse", "peakmv")
    }
    events = await everything(world, "/v1/events?")
    report(world, jobs, deliveries, ledgers, events, happened)

    # Every kind of kill and of fault happened.
    assert sum(world.kills.values()) >= CYCLES
    assert min(world.kills[point] for point in POINTS) >= 5
    for fault in (
        "drop_reply_after_accept",
        "error_before_accept.500",
        "error_before_accept.429",
        "error_after_accept.500",
    ):
        assert sum(seen.get(fault, 0) for seen in happened) > 0, fault
    for fault in ("duplicate", "before_reply", "lose", "forge"):
        assert happened[0].get(f"callback.{fault}", 0) > 0, fault

    # Money: at most one charge per intent, at most as many as jobs accepted.
    charges = collections.Counter(row["input"]["prompt"] for rows in ledgers.values() for row in rows)
    assert max(charges.values()) == 1, [nonce for nonce, count in charges.items() if count > 1]
    assert len(world.accepted) == cycles * JOBS_A_CYCLE == len(set(world.accepted.values()))
    assert sum(charges.values()) <= len(world.accepted)

    # Every accepted job is there, and ended or visibly unknown; PixVerse's never unknown.
    by_id = {job["id"]: job for job in jobs}
    assert set(world.accepted.values()) == set(by_id)
    assert not [j for j in jobs if j["provider"] == "pixverse" and j["status"] == "unknown"]
    succeeded = {job["metadata"]["nonce"] for job in jobs if job["status"] == "succeeded"}
    assert succeeded <= set(charges)

    # One terminal event for each terminal job, none for others.
    terminal = collections.Counter(e["data"]["id"] for e in events if e["type"] in TERMINAL_EVENTS)
    assert terminal == {j["id"]: 1 for j in jobs if j["status"] in ("succeeded", "failed", "canceled")}

    # Every event reached the subscriber, or is a row that shows where it is.
    received = (await world.ask("GET", f"{world.subscriber}/_received"))["data"]
    taken = {row["webhook_id"] for row in received if row["status"] is not None and row["status"] < 300}
    shown = collections.Counter(d["event"] for d in deliveries)
    assert shown == {event["id"]: 1 for event in events}
    assert {d["event"] for d in deliveries if d["status"] == "delivered"} <= taken
    assert all(row["verified"] for row in received)
    bodies = collections.defaultdict(set)
    for row in received:
        bodies[row["webhook_id"]].add(row["sha256"])
    assert all(len(digests) == 1 for digests in bodies.values())

    # Forged callbacks were refused and moved nothing: every success is what the provider itself shows.
    sent = await world.ask("GET", f"{world.sandbox}/_sandbox/pixverse/callbacks")
    assert sent["forged_refused"] > 0 and sent["forged_accepted"] == 0
    for job in jobs:
        for output in job["outputs"]:
            assert output["url"].startswith(f"{world.sandbox}/{job['provider']}/media/{job['provider_job_ids'][0]}")


TERMINAL_EVENTS = ("job.succeeded", "job.failed", "job.canceled")


def report(world: World, jobs: Any, deliveries: Any, ledgers: Any, events: Any, happened: Any) -> None:
    """The figures, for whoever runs it with -s."""
    statuses = collections.Counter((j["provider"], j["status"]) for j in jobs)
    print("\nkills", dict(world.kills), "in all", sum(world.kills.values()))
    print("jobs", {" ".join(key): count for key, count in sorted(statuses.items())})
    print("charges", {name: len(rows) for name, rows in ledgers.items()}, "accepted", len(world.accepted))
    print("events", len(events), "deliveries", dict(collections.Counter(d["status"] for d in deliveries)))
    for name, seen in zip(("pixverse", "peakmv"), happened, strict=True):
        print("faults", name, {fault: count for fault, count in seen.items() if count})
