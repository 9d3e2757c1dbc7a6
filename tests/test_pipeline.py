"""The stages together, over real sockets and a real database: isolation, rates, holding, secrets."""

import asyncio
import collections
import contextlib
import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from standardwebhooks import Webhook

from service import providers
from service.accepting import Submit
from service.accounts import Principal
from service.app import Service, build
from service.models import Announcement
from service.settings import load
from service.states import JobStatus
from service.stores import Page
from service.views import event_body

pytestmark = pytest.mark.anyio

SANDBOX_KEY = "provider-key-canary-5c1f"
Answer = Callable[[str], Awaitable[bytes]]


class Receiver:
    """A raw HTTP server: what it answers is the test's; what came is kept."""

    def __init__(self, answer: Answer):
        self.answer, self.requests = answer, list[tuple[str, dict[str, str], bytes]]()
        self.arrivals: collections.Counter[str] = collections.Counter()
        self.serving: set[asyncio.Task[None]] = set()

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self.serve(reader, writer))
        self.serving.add(task)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                path, headers = line.split()[1].decode(), {}
                while (line := await reader.readline()) not in (b"\r\n", b""):
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((path, headers, body))
                self.arrivals[path] += 1
                writer.write(await self.answer(path))
                await writer.drain()
        writer.close()


def status(code: int, more: str = "") -> bytes:
    return f"HTTP/1.1 {code} X\r\ncontent-length: 0\r\n{more}\r\n".encode()


@contextlib.asynccontextmanager
async def receiving(answer: Answer) -> AsyncIterator[tuple[Receiver, str]]:
    receiver = Receiver(answer)
    server = await asyncio.start_server(receiver, "127.0.0.1", 0)
    try:
        yield receiver, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in receiver.serving:
            task.cancel()
        await asyncio.gather(*receiver.serving, return_exceptions=True)


@contextlib.asynccontextmanager
async def serving(folder: Path, **more: str) -> AsyncIterator[Service]:
    environment = {
        "CALLSHEET_DATABASE_URL": f"sqlite:///{folder}/callsheet.db",
        "CALLSHEET_PUBLIC_URL": "http://127.0.0.1:1",
        "CALLSHEET_RETRY_SCHEDULE": "0,0.2,0.4,0.8",
        **more,
    }
    service = await build(load(environment, known_providers=providers.names()))
    service.context.loops.start()
    try:
        yield service
    finally:
        await service.close()


async def publish(service: Service, count: int) -> int:
    context = service.context
    tenant = await context.accounts.tenant("default")
    for n in range(count):
        data = {"id": f"job_{n}"}
        said = Announcement(type="job.succeeded", body=event_body("job.succeeded", n, data), data=data)
        _, fresh = await context.store.publish(tenant.num, said, None)
        context.delivery.hand_over(fresh)
    return tenant.num


async def until(true: Callable[[], bool], seconds: float = 40.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - what is waited for is on the other side of a socket
            await asyncio.sleep(0.02)


async def test_endpoints_that_hang_leave_room_for_one_that_answers(tmp_path: Path) -> None:
    never = asyncio.Event()

    async def answer(path: str) -> bytes:
        if path.startswith("/hang"):
            await never.wait()
        return status(200)

    more = {"CALLSHEET_DELIVERY_CONCURRENCY": "16", "CALLSHEET_DELIVERY_TIMEOUT": "30"}
    async with receiving(answer) as (receiver, url), serving(tmp_path, **more) as service:
        tenant = (await service.context.accounts.tenant("default")).num
        await service.context.endpoints.create(tenant, {"url": f"{url}/well"})
        await publish(service, 3)
        await until(lambda: receiver.arrivals["/well"] >= 3)
        for n in range(40):
            await service.context.endpoints.create(tenant, {"url": f"{url}/hang/{n}"})
        await publish(service, 30)
        await until(lambda: receiver.arrivals["/well"] >= 33, 25)  # before any of the others times out
        assert receiver.arrivals["/well"] == 33
        hanging = sum(count for path, count in receiver.arrivals.items() if path.startswith("/hang"))
        assert hanging == 8, "dead endpoints take half of the node, and not more"
        never.set()


async def test_rate_of_an_endpoint_is_kept(tmp_path: Path) -> None:
    async def answer(path: str) -> bytes:
        return status(200)

    async with receiving(answer) as (receiver, url), serving(tmp_path) as service:
        tenant = (await service.context.accounts.tenant("default")).num
        await service.context.endpoints.create(tenant, {"url": f"{url}/slow", "rate": 2.0})
        await publish(service, 12)
        began = asyncio.get_running_loop().time()
        await until(lambda: receiver.arrivals["/slow"] >= 8)
        took = asyncio.get_running_loop().time() - began
        assert receiver.arrivals["/slow"] <= 2 + 2.0 * took + 1


async def test_gone_endpoint_is_disabled_once_and_what_is_owed_to_it_is_held_until_it_is_back(tmp_path: Path) -> None:
    gone = True

    async def answer(path: str) -> bytes:
        return status(410) if gone and path == "/gone" else status(200)

    async with receiving(answer) as (receiver, url), serving(tmp_path) as service:
        context = service.context
        tenant = (await context.accounts.tenant("default")).num
        endpoint, _ = await context.endpoints.create(tenant, {"url": f"{url}/gone", "event_types": ["job.*"]})
        await context.endpoints.create(tenant, {"url": f"{url}/told", "event_types": ["endpoint.disabled"]})
        await publish(service, 1)
        await until(lambda: receiver.arrivals["/told"] >= 1)
        await publish(service, 3)
        held = await context.store.deliveries(tenant, Page(limit=100), {"status": "held"})
        assert {delivery.endpoint_id for delivery in held} == {endpoint.id}
        assert (await context.endpoints.get(tenant, endpoint.id)).status == "disabled"
        told = receiver.requests[-1][2]
        assert endpoint.id.encode() in told
        gone = False
        await context.endpoints.change(tenant, endpoint.id, {"status": "active"})
        await until(lambda: receiver.arrivals["/gone"] >= 5)  # the attempt that met 410, and all four events
        assert (receiver.arrivals["/gone"], receiver.arrivals["/told"]) == (5, 1)


async def test_redirect_is_a_failure_and_retry_after_is_obeyed(tmp_path: Path) -> None:
    seen: list[float] = []

    async def answer(path: str) -> bytes:
        seen.append(asyncio.get_running_loop().time())
        if len(seen) == 1:
            return status(302, "location: /elsewhere\r\n")
        return status(429, "retry-after: 2\r\n") if len(seen) == 2 else status(200)

    async with receiving(answer) as (receiver, url), serving(tmp_path) as service:
        tenant = (await service.context.accounts.tenant("default")).num
        await service.context.endpoints.create(tenant, {"url": f"{url}/here"})
        await publish(service, 1)
        await until(lambda: len(seen) >= 3)
        assert len(seen) == 3
        assert set(receiver.arrivals) == {"/here"}
        assert seen[2] - seen[1] >= 2.0
        ids = {headers["webhook-id"] for _, headers, _ in receiver.requests}
        assert len(ids) == 1 and len({body for _, _, body in receiver.requests}) == 1


@contextlib.asynccontextmanager
async def sandbox() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.sandbox", "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().split()[-1]
    finally:
        process.kill()
        await process.wait()


async def test_no_secret_is_in_the_clear_in_the_database_or_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    canaries = {"token-canary-91aa", "header-canary-7d20", "callback-canary-33e1", SANDBOX_KEY}

    async def answer(path: str) -> bytes:
        return status(500) if "token-canary" in path else status(200)

    async with receiving(answer) as (receiver, url), sandbox() as provider:
        await set_key(provider)
        more = {
            "CALLSHEET_PIXVERSE_API_KEY": SANDBOX_KEY,
            "CALLSHEET_PIXVERSE_BASE_URL": f"{provider}/pixverse",
            "CALLSHEET_RETRY_SCHEDULE": "0,0.1",
        }
        async with serving(tmp_path, **more) as service:
            context = service.context
            tenant = await context.accounts.tenant("default")
            headers = {"X-Token": "header-canary-7d20"}
            given = {"url": f"{url}/token-canary-91aa", "headers": headers}
            endpoint, secret = await context.endpoints.create(tenant.num, given)
            key = (await context.accounts.create_key("default", "one", ("jobs:read",), None))["key"]
            own = "whsec_" + "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5"
            job = await accepted(service, f"{url}/callback-canary-33e1", own)
            canaries |= {secret.removeprefix("whsec_"), key, own.removeprefix("whsec_")}
            done = await context.waiting.until_terminal(job, 60)
            assert done.status is JobStatus.SUCCEEDED, done
            await until(lambda: receiver.arrivals["/callback-canary-33e1"] >= 1)
            await until(lambda: receiver.arrivals["/token-canary-91aa"] >= 4)
            assert receiver.arrivals["/callback-canary-33e1"] == 1
            assert endpoint.id
        path, sent, body = next(r for r in receiver.requests if r[0].startswith("/callback"))
        Webhook(own).verify(body, sent)
        assert any(headers.get("x-token") == "header-canary-7d20" for _, headers, _ in receiver.requests)
    stored = written(tmp_path)
    assert b"a nonce in the input" in stored, "the file that was searched is not the one that was written"
    assert [canary for canary in canaries if canary.encode() in stored] == []
    assert [canary for canary in canaries if canary in caplog.text] == []
    assert path


def written(folder: Path) -> bytes:
    """Every byte of the database, its log included, but not the key file."""
    return b"".join(file.read_bytes() for file in folder.glob("callsheet.db*") if file.suffix != ".key")


async def set_key(provider: str) -> None:

    async with httpx2.AsyncClient() as client:
        account = await client.put(f"{provider}/_sandbox/pixverse/account", json={"api_key": SANDBOX_KEY})
        faults = {"duration_s": [0.05, 0.1]}
        assert (await client.put(f"{provider}/_sandbox/pixverse/faults", json=faults)).status_code == 200
        assert account.status_code == 200


async def accepted(service: Service, callback_url: str, secret: str) -> Any:
    tenant = await service.context.accounts.tenant("default")
    who = Principal(tenant=tenant.num, tenant_name="default", key_id="test", scopes=frozenset())
    given = {"prompt": "a nonce in the input", "model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"}
    asked = Submit(
        provider="pixverse",
        operation="text_to_video",
        input=given,
        input_json=json.dumps(given).encode(),
        fingerprint=b"",
        callback_url=callback_url,
        callback_secret=secret,
    )
    job, _ = await service.context.accepting.accept(who, asked)
    return job


async def test_who_waits_for_a_job_is_answered_when_the_service_stops(tmp_path: Path) -> None:
    async with serving(tmp_path, CALLSHEET_SANDBOX_URL="http://127.0.0.1:9") as service:
        job = await accepted(
            service, "https://hooks.example.com/never", "whsec_" + "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5"
        )
        waiting = asyncio.create_task(service.context.waiting.until_terminal(job, 60))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        service.context.waiting.release()
        async with asyncio.timeout(20):
            assert not (await waiting).terminal
