"""A service with its loops running beside a sandbox in a process of its own, and what tests ask of them."""

import asyncio
import collections
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from tests.charges.intents import INTENTS
from tests.web.served import ADMIN, Served, sandbox_running

AT_ONCE = 32
OPEN = ("queued", "submitting", "processing")


@contextmanager
def serving(folder: Path, **more: str) -> Iterator[tuple[Served, str]]:
    """A service with its loops running, and the URL of a sandbox in a process of its own."""
    served = Served(folder, **more)
    with sandbox_running(served.url) as sandbox, served.running(sandbox):
        served.run(started(served))
        yield served, sandbox


async def started(served: Served) -> None:
    served.service.context.loops.start()


async def submitted(served: Served, provider: str, count: int) -> list[dict[str, Any]]:
    """Submit that many intents, a few at once, and wait until nothing is open."""
    slots = asyncio.Semaphore(AT_ONCE)
    async with httpx2.AsyncClient(timeout=30, headers={"Authorization": f"Bearer {ADMIN}"}) as client:

        async def one(number: int) -> str:
            intent = INTENTS[provider]
            body = {"provider": provider, "operation": intent.operation, "input": intent.given(f"nonce-{number:06d}")}
            async with slots:
                response = await client.post(f"{served.url}/v1/jobs", json=body)
            assert response.status_code == 202, response.text
            return str(response.json()["id"])

        ids = await asyncio.gather(*(one(number) for number in range(count)))
    return await ended(served, ids)


async def ended(served: Served, ids: list[str]) -> list[dict[str, Any]]:
    """The jobs, once none of them is open."""
    done: dict[str, dict[str, Any]] = {}
    async with (
        asyncio.timeout(60 + len(ids) / 4),
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {ADMIN}"}) as client,
    ):
        while len(done) < len(ids):
            for job_id in ids:
                if job_id not in done:
                    job = (await client.get(f"{served.url}/v1/jobs/{job_id}")).json()
                    if job["status"] in OPEN:
                        break
                    done[job_id] = job
            else:
                continue
            await asyncio.sleep(0.3 + random.random() * 0.1)
    return [done[job_id] for job_id in ids]


def call(served: Served, method: str, path: str, **how: Any) -> Any:
    response = httpx2.request(method, f"{served.url}{path}", headers={"Authorization": f"Bearer {ADMIN}"}, **how)
    assert response.status_code < 300, response.text
    return response.json()


def events(served: Served) -> collections.Counter[tuple[str, str]]:
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    page = call(served, "GET", "/v1/events?limit=100")
    while True:
        found.update((event["job"], event["type"]) for event in page["data"])
        if not page["next_cursor"]:
            return found
        page = call(served, "GET", f"/v1/events?limit=100&cursor={page['next_cursor']}")


def put_faults(sandbox: str, provider: str, faults: dict[str, Any]) -> None:
    assert httpx2.put(f"{sandbox}/_sandbox/{provider}/faults", json=faults).status_code == 200


def ledger(sandbox: str, provider: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = httpx2.get(f"{sandbox}/_sandbox/{provider}/ledger").json()["data"]
    return rows


def nonce_of(given: Any) -> str:
    """The nonce, wherever the provider's own body has it."""
    text = json.dumps(given)
    return text[text.index("nonce-") :][:12]
