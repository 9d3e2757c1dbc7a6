"""The real service on a real SQLite file, called in process; no loop runs unless a test ticks."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service import providers
from service.app import Service, build
from service.facts import Accepted, Arrival, Begin, Output, Unknown, Update
from service.models import Job
from service.settings import load
from service.states import JobStatus, Source
from service.web.server import create_web

ADMIN = "an-admin-key-that-the-operator-gave-us-00"
INPUT = {"prompt": "a cat", "model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"}
PIXVERSE = {"provider": "pixverse", "operation": "text_to_video", "input": INPUT}
PEAKMV = {"provider": "peakmv", "operation": "generate", "input": {"audio_url": "https://media.example.com/a.mp3"}}
DONE = Update(status=JobStatus.SUCCEEDED, outputs=(Output(url="https://media.example.com/1.mp4"),))


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {
        "CALLSHEET_DATABASE_URL": f"sqlite:///{tmp_path}/callsheet.db",
        "CALLSHEET_API_KEY": ADMIN,
        "CALLSHEET_SANDBOX_URL": "http://127.0.0.1:9",
        **more,
    }


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    running = await build(load(environment(tmp_path), known_providers=providers.names()), role="api")
    yield running
    await running.close()


class Client:
    """Calls the app as the admin, unless told otherwise."""

    def __init__(self, service: Service):
        self.service, self.context = service, service.context
        transport = httpx2.ASGITransport(create_web(service.context))
        self.http = httpx2.AsyncClient(transport=transport, base_url="http://callsheet.test")

    async def __call__(self, method: str, path: str, *, key: str | None = ADMIN, **more: Any) -> httpx2.Response:
        headers = {**({"authorization": f"Bearer {key}"} if key else {}), **more.pop("headers", {})}
        return await self.http.request(method, path, headers=headers, **more)

    async def ok(self, method: str, path: str, **more: Any) -> Any:
        response = await self(method, path, **more)
        assert response.status_code < 300, response.text
        return response.json() if response.content else None

    async def refused(self, status: int, code: str, method: str, path: str, **more: Any) -> Any:
        """The problem document, once it is known to be one."""
        response = await self(method, path, **more)
        assert response.status_code == status, response.text
        return a_problem(response, code)

    async def a_job(self, body: Any = PIXVERSE, **more: Any) -> dict[str, Any]:
        job: dict[str, Any] = await self.ok("POST", "/v1/jobs", json=body, **more)
        return job

    async def an_endpoint(self, **settings: Any) -> dict[str, Any]:
        body = {"url": "http://127.0.0.1:9/in", **settings}
        endpoint: dict[str, Any] = await self.ok("POST", "/v1/endpoints", json=body)
        return endpoint

    async def a_key(self, *scopes: str, tenant: str = "default", **more: Any) -> str:
        body = {"name": "a test", "scopes": list(scopes), "tenant": tenant, **more}
        return str((await self.ok("POST", "/v1/keys", json=body))["key"])

    async def tell(self, job_id: str, *facts: Any) -> Job:
        """Move a job by the facts that a provider would cause."""
        job = await self.context.store.job_by_id(job_id)
        assert job is not None
        for fact in facts:
            applied = await self.context.transitions.apply_one(Arrival(job=job.num, fact=fact, source=Source.SUBMIT))
            assert applied.verdict == "applied" and applied.job is not None, applied
            job = applied.job
        return job

    async def an_unknown_job(self) -> dict[str, Any]:
        job = await self.a_job(PEAKMV)
        await self.tell(job["id"], Begin(), Unknown(reason="the reply was lost"))
        return job

    async def a_processing_job(self, provider_job_id: str = "4031") -> dict[str, Any]:
        job = await self.a_job()
        await self.tell(job["id"], Begin(called_back=True), Accepted(provider_job_ids=(provider_job_id,)))
        return job

    async def a_finished_job(self, provider_job_id: str = "4032") -> dict[str, Any]:
        job = await self.a_processing_job(provider_job_id)
        await self.tell(job["id"], DONE)
        return job


def a_problem(response: httpx2.Response, code: str) -> Any:
    document = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert set(document) == {"type", "title", "status", "detail", "code", "param", "request_id"}
    assert document["status"] == response.status_code
    assert document["code"] == code, document
    assert document["type"].endswith(f"/docs/errors#{code}")
    assert document["request_id"] == response.headers["callsheet-request-id"]
    return document


@pytest.fixture
async def call(service: Service) -> AsyncIterator[Client]:
    client = Client(service)
    yield client
    await client.http.aclose()


@pytest.fixture
def make_client() -> type[Client]:
    return Client
