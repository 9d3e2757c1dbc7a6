"""A worker that was stopped (SIGSTOP) with work in its hands, and resumes when another has done it: it does nothing.

Two processes on PostgreSQL; leases end by themselves on the database's clock, after LEASE_S instead of 90 s. In the
first one's hands are a delivery and two submits of which no byte was sent, and a delivery and a submit whose answers
are awaited. The subscriber's record and the provider's ledger tell what was sent.
"""

import asyncio
import re
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.kill.fleet import Fleet, Node, opened
from tests.kill.test_kill import intent

pytestmark = [pytest.mark.anyio, pytest.mark.kill, pytest.mark.xdist_group("kill")]

LEASE_S = 28  # longer than any request may take here, reads of a status too, with its margin
DELIVERY_S = 12
LEASED = (
    "SELECT 'job', num, lease, due_at FROM jobs WHERE lease IS NOT NULL"
    " UNION ALL SELECT 'delivery', num, lease, due_at FROM deliveries WHERE lease IS NOT NULL"
)
TABLES = "jobs job_details deliveries attempts events notes charges provider_ids callbacks dedupe_keys".split()
VERSIONS = "SELECT xmin::text, ctid::text, x::text FROM {} x ORDER BY 2"  # whoever writes to a row makes another one


class Freezing(Fleet):
    """The real command takes jobs; two workers send, of which the second is started late."""

    def __init__(self, folder: Path):
        super().__init__(folder, ("api", "worker", "worker"))
        _, self.first, self.second = self.nodes
        self.armed = folder / "armed"

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "CALLSHEET_DELIVERY_TIMEOUT": str(DELIVERY_S)}

    async def start_all(self) -> None:
        await self.start_node(self.nodes[0])
        await self.start_node(self.first)

    async def start_node(self, node: Node) -> None:
        if node.role == "api":
            await super().start_node(node)
            return
        arguments = (str(node.port), str(LEASE_S), str(self.armed))
        await self.start_process(node, "-m", "tests.kill.frozen_service", *arguments)
        await self.until_ready(node)

    async def endpoints(self) -> dict[str, str]:
        """Two endpoints that get nothing but tests, by path: nothing else is to be delivered."""
        first = (await self.ask("GET", f"{self.url}/v1/endpoints"))["data"][0]["id"]
        await self.ask("PATCH", f"{self.url}/v1/endpoints/{first}", json={"event_types": ["job.canceled"]})
        found, secrets = {}, []
        for path in ("/unsent", "/unanswered"):
            given = {"url": f"{self.subscriber}{path}", "event_types": ["job.canceled"]}
            made = await self.ask("POST", f"{self.url}/v1/endpoints", json=given)
            found[path] = made["id"]
            secrets.append(made["secret"])
        await self.ask("PUT", f"{self.subscriber}/_behaviour", json={"fail_rate": 0, "secrets": secrets})
        return found

    async def test(self, endpoint: str) -> None:
        await self.ask("POST", f"{self.url}/v1/endpoints/{endpoint}/test")

    async def submit(self, nonce: str) -> None:
        provider, operation, given = intent(nonce)
        body = {"provider": provider, "operation": operation, "input": given, "metadata": {"nonce": nonce}}
        await self.ask("POST", f"{self.url}/v1/jobs", json=body)

    async def statuses(self) -> dict[str, str]:
        jobs = (await self.ask("GET", f"{self.url}/v1/jobs?limit=100"))["data"]
        return {job["metadata"]["nonce"]: job["status"] for job in jobs}

    async def sent(self) -> dict[str, int]:
        """The ground truth: how many charges by nonce, how many requests by path."""
        counts: dict[str, int] = {}
        for provider in ("pixverse", "peakmv"):
            for row in (await self.ask("GET", f"{self.sandbox}/_sandbox/{provider}/ledger"))["data"]:
                counts[row["input"]["prompt"]] = counts.get(row["input"]["prompt"], 0) + 1
        for row in await self.received():
            counts[row["path"]] = counts.get(row["path"], 0) + 1
        return counts

    async def received(self) -> list[Any]:
        rows: list[Any] = (await self.ask("GET", f"{self.subscriber}/_received"))["data"]
        return rows

    async def versions(self) -> dict[str, Any]:
        return {table: [tuple(row) for row in await self.rows(VERSIONS.format(table))] for table in TABLES}

    async def counted(self, node: Node, metric: str) -> float:
        said = (await self.client.get(f"{node.url}/metrics")).text
        return sum(float(line.rpartition(" ")[2]) for line in re.findall(rf"^{metric} .*", said, re.MULTILINE))


async def until(what: Callable[[], Awaitable[Any]], seconds: float = 60) -> Any:
    ends = time.monotonic() + seconds
    while not (found := await what()):
        assert time.monotonic() < ends, "it did not happen in time"
        await asyncio.sleep(0.1)
    return found


async def freeze(fleet: Freezing) -> psutil.Process:
    """Stop the first worker with all of it in its hands."""
    endpoints = await fleet.endpoints()
    for provider in ("pixverse", "peakmv"):
        await fleet.ask("PUT", f"{fleet.sandbox}/_sandbox/{provider}/faults", json={"hang_after_accept": 1.0})
    await fleet.ask("PUT", f"{fleet.subscriber}/_behaviour", json={"delay_s": 60})
    await fleet.submit("pix-unanswered")
    await fleet.test(endpoints["/unanswered"])
    await until(lambda: is_sent(fleet, {"pix-unanswered": 1, "/unanswered": 1}))
    fleet.armed.write_text("3")
    await asyncio.gather(fleet.submit("pix-unsent"), fleet.submit("peak-unsent"), fleet.test(endpoints["/unsent"]))
    process = psutil.Process(fleet.first.process.pid)
    await until(lambda: asyncio.sleep(0, process.status() == psutil.STATUS_STOPPED))
    await fleet.clear_faults()
    await fleet.ask("PUT", f"{fleet.subscriber}/_behaviour", json={"delay_s": 0})
    return process


async def is_sent(fleet: Freezing, expected: dict[str, int]) -> bool:
    return await fleet.sent() == expected


async def ended(fleet: Freezing) -> bool:
    ends = {"pix-unanswered": "succeeded", "pix-unsent": "succeeded", "peak-unsent": "unknown"}
    return await fleet.statuses() == ends


async def quiet(fleet: Freezing) -> dict[str, Any]:
    """The rows as they are, once nothing changes any more."""
    before = await fleet.versions()
    while True:
        await asyncio.sleep(2)
        now = await fleet.versions()
        if now == before:
            return now
        before = now


async def test_a_worker_that_resumes_too_late_neither_sends_nor_writes() -> None:
    folder = Path(tempfile.mkdtemp(prefix="callsheet-fleet-"))
    async with opened(Freezing(folder)) as fleet:
        process = await freeze(fleet)
        leased = await fleet.rows(LEASED)
        assert sorted(row[0] for row in leased) == ["delivery"] * 2 + ["job"] * 3
        assert await is_sent(fleet, {"pix-unanswered": 1, "/unanswered": 1})
        await fleet.start_node(fleet.second)
        done = {"pix-unanswered": 1, "pix-unsent": 1, "/unanswered": 2, "/unsent": 1}
        await until(lambda: is_sent(fleet, done), LEASE_S + 30)
        await until(lambda: ended(fleet))
        await check_natural_end(fleet, leased)
        before = await quiet(fleet)
        assert len(before["attempts"]) == 2, "the second worker's"
        process.send_signal(signal.SIGCONT)
        await check_that_it_tried(fleet)
        await fleet.stop_node(fleet.first)  # once nothing is in its hands any more
        assert await fleet.versions() == before, "it wrote late"
        assert await is_sent(fleet, done), "it sent late"


async def check_natural_end(fleet: Freezing, leased: list[Any]) -> None:
    """Nobody took the work before its lease was over by the database's clock, the same machine's here."""
    ends = sorted(row[3] / 1000 for row in leased if row[0] == "delivery")
    _, *later = sorted(row["at"] for row in await fleet.received())
    assert len(later) == 2 and all(at >= end for at, end in zip(later, ends, strict=True))
    one, other = [row for row in await fleet.received() if row["path"] == "/unanswered"]
    assert (one["webhook_id"], one["sha256"]) == (other["webhook_id"], other["sha256"])


async def check_that_it_tried(fleet: Freezing) -> None:
    """It had outcomes to write: of the delivery that was awaited, and of all three submits."""

    async def tried() -> bool:
        fenced = await fleet.counted(fleet.first, r'callsheet_facts_total{source="submit",verdict="fenced"}')
        awaited = await fleet.counted(fleet.first, r'callsheet_attempt_seconds_count{outcome="timeout"}')
        return (fenced, awaited) == (3, 1)

    await until(tried)
