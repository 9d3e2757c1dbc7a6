"""SIGTERM with everything open at once: it ends in time, and another node goes on with what was under way.

What is open: a request that waits for a job, an event stream, a large output that is read slowly, a delivery whose
subscriber takes long, two submits whose provider does not answer, and connections that wait for their next request.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.keyed import KEY as PROVIDER_KEY
from tests.keyed import Server
from tests.kill.fleet import STOP_S, Fleet, opened, running
from tests.kill.test_kill import KEY, intent

pytestmark = [pytest.mark.anyio, pytest.mark.kill, pytest.mark.xdist_group("kill")]

LARGE = 300 * 1024 * 1024
SLOW_S = 28.0  # that the subscriber takes: longer than a stop may
AT_ONCE_S = 45.0  # a lease lasts 90 s
LEASES = (
    "SELECT 'job', num, lease FROM jobs WHERE lease IS NOT NULL"
    " UNION ALL SELECT 'delivery', num, lease FROM deliveries WHERE lease IS NOT NULL"
)


class Stopping(Fleet):
    """Two nodes, of which the second is started late. `media` stands for a provider with a large output."""

    def __init__(self, folder: Path, media: Server):
        super().__init__(folder, ("all", "all"))
        self.media = media
        self.first, self.second = self.nodes

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "CALLSHEET_PROGRESSIVEROBOT_BASE_URL": self.media.url,
            "CALLSHEET_PROGRESSIVEROBOT_API_KEY": PROVIDER_KEY,
            # As a provider of its own right, whose replies are waited for longer than a stop may take.
            "CALLSHEET_PEAKMV_BASE_URL": f"{self.sandbox}/peakmv",
            "CALLSHEET_PEAKMV_API_KEY": "sandbox",
            "CALLSHEET_DELIVERY_TIMEOUT": "30",
        }

    async def start_all(self) -> None:
        await self.start_node(self.first)
        await self.ask("PUT", f"{self.subscriber}/_behaviour", json={"fail_rate": 0})

    async def finished_output(self) -> str:
        """The path of a large output's stable URL."""
        self.media.json["/api/status"] = {"status": "completed", "video_url": f"{self.media.url}/ranges/{LARGE}"}
        body = {"provider": "progressiverobot", "operation": "generate", "provider_job_id": "elsewhere-1"}
        job = await self.ask("POST", f"{self.url}/v1/jobs", json=body, headers={"Prefer": "wait=20"})
        return urlsplit(job["outputs"][0]["stable_url"]).path

    async def submit(self, nonce: str, wait_s: int = 0) -> Any:
        provider, operation, given = intent(nonce)
        body = {"provider": provider, "operation": operation, "input": given, "metadata": {"nonce": nonce}}
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        return await self.client.post(f"{self.url}/v1/jobs", json=body, headers=headers, timeout=70)

    async def charges(self, provider: str) -> int:
        return len((await self.ask("GET", f"{self.sandbox}/_sandbox/{provider}/ledger"))["data"])

    async def received(self, kind: str) -> list[Any]:
        rows = (await self.ask("GET", f"{self.subscriber}/_received"))["data"]
        return [row for row in rows if row["type"] == kind]

    async def job_of(self, node_url: str, nonce: str) -> Any:
        jobs = (await self.ask("GET", f"{node_url}/v1/jobs?limit=100"))["data"]
        return next(job for job in jobs if job["metadata"].get("nonce") == nonce)


async def until(what: Callable[[], Awaitable[Any]], seconds: float) -> Any:
    ends = time.monotonic() + seconds
    while not (found := await what()):
        assert time.monotonic() < ends, "it did not happen in time"
        await asyncio.sleep(0.1)
    return found


class Reading:
    """A body that is read as it comes: the event stream, or an output, slowly."""

    def __init__(self, url: str, path: str, *, pause_s: float = 0.0):
        self._parts, self._path, self._pause_s = urlsplit(url), path, pause_s
        self.status, self.size, self.said, self.whole = 0, 0, b"", False

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Reading"]:
        reader, writer = await asyncio.open_connection(self._parts.hostname, self._parts.port, limit=2**16)
        head = f"GET {self._path} HTTP/1.1\r\nHost: {self._parts.netloc}\r\nAuthorization: Bearer {KEY}\r\n\r\n"
        writer.write(head.encode())
        self.status = int((await reader.readuntil(b"\r\n\r\n")).split()[1])
        self.ended = asyncio.create_task(self._read(reader))
        try:
            yield self
        finally:
            self.ended.cancel()
            await asyncio.gather(self.ended, return_exceptions=True)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(2**16):
                self.size += len(piece)
                self.said = (self.said + piece)[-64:]
                await asyncio.sleep(self._pause_s)
        self.whole = self.said.endswith(b"0\r\n\r\n")


async def idle_connection(fleet: Stopping, *, used: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.first.port)
    if used:
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"}")
    return reader, writer


async def open_everything(fleet: Stopping, ends: contextlib.AsyncExitStack) -> dict[str, Any]:
    """All of it, each shown to be open."""
    output = await fleet.finished_output()
    hang = {"hang_after_accept": 1.0, "hang_s": 600}
    for provider in ("pixverse", "peakmv"):
        await fleet.ask("PUT", f"{fleet.sandbox}/_sandbox/{provider}/faults", json=hang)
    await until(lambda: fleet.received("job.succeeded"), 30)
    await fleet.ask("PUT", f"{fleet.subscriber}/_behaviour", json={"delay_s": SLOW_S})
    endpoint = (await fleet.ask("GET", f"{fleet.url}/v1/endpoints"))["data"][0]["id"]
    await fleet.ask("POST", f"{fleet.url}/v1/endpoints/{endpoint}/test")
    await until(lambda: fleet.received("endpoint.test"), 30)
    stream = await ends.enter_async_context(Reading(fleet.url, "/v1/events/stream").open())
    large = await ends.enter_async_context(Reading(fleet.url, output, pause_s=0.05).open())
    assert (stream.status, large.status) == (200, 200)
    idle = [await idle_connection(fleet, used=used) for used in (True, False)]
    ends.callback(lambda: [writer.close() for _, writer in idle])
    assert (await fleet.submit("peak-1")).status_code == 202
    waiting = asyncio.create_task(fleet.submit("pix-1", wait_s=60))
    await until(lambda: fleet.charges("pixverse"), 30)
    await until(lambda: fleet.charges("peakmv"), 30)
    assert not waiting.done() and not stream.ended.done() and 0 < large.size < LARGE
    return {"stream": stream, "large": large, "waiting": waiting, "idle": idle}


async def test_a_stop_ends_in_time_whatever_is_open_and_another_node_goes_on() -> None:
    folder = Path(tempfile.mkdtemp(prefix="callsheet-fleet-"))
    async with (
        Server().running() as media,
        opened(Stopping(folder, media)) as fleet,
        contextlib.AsyncExitStack() as ends,
    ):
        open_now = await open_everything(fleet, ends)
        await fleet.start_node(fleet.second)
        leases = {tuple(row) for row in await fleet.rows(LEASES)}
        assert len(leases) == 3, "the delivery and both submits are under way"
        took = asyncio.create_task(fleet.stop_node(fleet.first))
        reply = await asyncio.wait_for(open_now["waiting"], STOP_S)
        assert (reply.status_code, reply.headers["connection"]) == (202, "close")
        await fleet.clear_faults()
        await fleet.ask("PUT", f"{fleet.subscriber}/_behaviour", json={"delay_s": 0})
        print(f"\na stop with everything open took {await took:.1f} s")
        assert not leases & {tuple(row) for row in await fleet.rows(LEASES)}, "a lease that nobody holds"
        await check_ends(open_now)
        assert fleet.count_said("cut by the stop") == 1 and fleet.count_said("Traceback") == 0
        await check_taken_over(fleet)


async def check_ends(opened_before: dict[str, Any]) -> None:
    stream, large = opened_before["stream"], opened_before["large"]
    await asyncio.wait_for(asyncio.gather(stream.ended, large.ended), 30)
    assert stream.whole, "the stream was cut"
    assert 0 < large.size < LARGE, "it was read to its end: nothing was open"
    for reader, _ in opened_before["idle"]:
        assert await reader.read() == b""  # an orderly end: a reset would raise


async def check_taken_over(fleet: Stopping) -> None:
    url = fleet.second.url

    async def both_sent() -> bool:
        return len(await fleet.received("endpoint.test")) >= 2

    async def both_known() -> bool:
        found = [(await fleet.job_of(url, nonce))["status"] for nonce in ("pix-1", "peak-1")]
        return found == ["succeeded", "unknown"]

    await until(both_sent, AT_ONCE_S)
    await until(both_known, AT_ONCE_S)
    first, again = await fleet.received("endpoint.test")
    assert (first["webhook_id"], first["sha256"]) == (again["webhook_id"], again["sha256"])
    assert (await fleet.charges("pixverse"), await fleet.charges("peakmv")) == (1, 1)


async def test_a_stop_ends_in_time_though_the_database_does_not_answer() -> None:
    async with running("all") as fleet:
        async with fleet.loaded(fleet.nodes, 0.1):
            await asyncio.sleep(2)
        server = psutil.Process(int((fleet.server.data / "postmaster.pid").read_text().split()[0]))
        processes = [server, *server.children(recursive=True)]
        assert len(processes) > 3
        for process in processes:
            process.suspend()
        try:
            await asyncio.sleep(1)  # so that something waits for it
            print(f"\na stop without a database took {await fleet.stop_node(fleet.nodes[0]):.1f} s")
        finally:
            for process in processes:
                process.resume()
