"""Providers, health, readiness, metrics, ticks, and the pages."""

import asyncio
import re
import sqlite3
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import service
from service import providers
from service.app import build
from service.clock import SystemClock
from service.settings import load
from service.stores.sqlite import open_store
from service.web import answers
from service.web.remedies import REMEDIES
from service.web.routes import ROUTES
from tests.web.conftest import environment
from tests.web.shapes import has_exactly

pytestmark = pytest.mark.anyio
SOURCES = Path(service.__file__).parent


async def test_health_needs_no_key(call: Any) -> None:
    assert await call.ok("GET", "/health", key=None) == {
        "status": "ok",
        "service": "callsheet",
        "version": service.__version__,
    }
    assert await call.ok("GET", "/ready", key=None) == {"ready": True}
    assert (await call("HEAD", "/health", key=None)).content == b""


class FullDisk(sqlite3.Connection):
    full = False

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if FullDisk.full and sql.startswith("BEGIN"):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return super().execute(sql, *values)


async def test_a_store_that_cannot_keep_an_accept_is_503_and_not_ready(tmp_path: Path, make_client: Any) -> None:
    settings = load(
        {
            "CALLSHEET_DATABASE_URL": f"sqlite:///{tmp_path}/full.db",
            "CALLSHEET_API_KEY": "k" * 40,
            "CALLSHEET_SANDBOX_URL": "http://127.0.0.1:9",
        },
        known_providers=providers.names(),
    )
    connect = partial(sqlite3.connect, factory=FullDisk)
    running = await build(settings, open_database=partial(open_store, connect=connect))
    call = make_client(running)
    FullDisk.full = True
    try:
        body = {"provider": "pixverse", "operation": "text_to_video", "provider_job_id": "1"}
        for method, path, more in (("GET", "/ready", {}), ("POST", "/v1/jobs", {"json": body})):
            response = await call(method, path, key="k" * 40, **more)
            assert response.status_code == 503 and int(response.headers["retry-after"]) > 0
            assert response.json()["code"] == "store_unavailable"
        assert (await call("GET", "/health")).status_code == 200
    finally:
        FullDisk.full = False
        await call.http.aclose()
        await running.close()


class Counting(FullDisk):
    begun = 0

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        Counting.begun += sql.startswith("BEGIN")
        return super().execute(sql, *values)


class Still(SystemClock):
    """The system's clock, but that spans are measured by hand."""

    at_s = 1000.0

    def monotonic(self) -> float:
        return self.at_s


async def test_readiness_is_looked_at_once_a_second_whoever_asks(tmp_path: Path, make_client: Any) -> None:
    given = load(environment(tmp_path), known_providers=providers.names())
    connect, clock = partial(sqlite3.connect, factory=Counting), Still()
    running = await build(given, clock=clock, open_database=partial(open_store, connect=connect))
    call = make_client(running)
    try:
        for full, status in ((False, 200), (True, 503), (False, 200)):
            FullDisk.full, before = full, Counting.begun
            clock.at_s += 1.01
            together = await asyncio.gather(*(call("GET", "/ready", key=None) for _ in range(20)))
            after = [await call(method, "/ready", key=None) for method in ("GET", "HEAD", "GET")]
            assert {reply.status_code for reply in (*together, *after)} == {status}
            assert 1 <= Counting.begun - before <= 2  # for 23 who asked; the store's clock may note its time
    finally:
        FullDisk.full = False
        await call.http.aclose()
        await running.close()


async def test_a_failure_of_ours_tells_nothing_and_is_logged_once(call: Any, caplog: Any) -> None:
    """An input that is no JSON any more cannot be shown: a fault that only a broken database makes."""
    job = await call.a_job()
    await call.context.store.write("UPDATE job_details SET detail = $1", b"secret-nonsense")
    said = await call.refused(500, "internal", "GET", f"/v1/jobs/{job['id']}")
    assert "nonsense" not in said["detail"] and "Error" not in said["detail"]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [said["request_id"]]


async def test_providers_and_their_operations(call: Any) -> None:
    rows = (await call.ok("GET", "/v1/providers"))["data"]
    assert {row["name"] for row in rows} >= {"pixverse", "peakmv"} and all(row["configured"] for row in rows)
    has_exactly(rows[0], answers.Provider)
    operations = (await call.ok("GET", "/v1/providers/pixverse/operations"))["data"]
    has_exactly(operations[0], answers.Operation)
    assert "text_to_video" in {row["name"] for row in operations}
    said = await call.refused(404, "not_found", "GET", "/v1/providers/nobody/operations")
    assert said["param"] == "provider" and "pixverse" in said["detail"]


async def test_rejected_callbacks_are_kept_for_the_operator(call: Any) -> None:
    await call.refused(401, "bad_signature", "POST", "/v1/callbacks/pixverse", key=None, content=b"forged")
    rows = (await call.ok("GET", "/v1/providers/pixverse/rejected-callbacks"))["data"]
    has_exactly(rows[0], answers.RejectedCallback)
    assert (rows[0]["verdict"], rows[0]["body"]) == ("rejected", "forged") and rows[0]["reason"]


async def test_metrics_and_tick(call: Any) -> None:
    response = await call("GET", "/metrics")
    assert "callsheet_due" in response.text and response.headers["content-type"].startswith("text/plain")
    for budget, finished in ((None, True), (1, False)):  # a second is too short for a submit: it cannot know
        more = {} if budget is None else {"json": {"budget_seconds": budget}}
        ticked = await call.ok("POST", "/internal/tick", **more)
        has_exactly(ticked, answers.Ticked)
        assert ticked["ran"] and ticked["finished"] is finished


async def test_a_tick_beside_running_loops_does_nothing(call: Any) -> None:
    call.context.loops.start()
    try:
        assert (await call.ok("POST", "/internal/tick"))["ran"] is False
    finally:
        await call.context.loops.stop(1.0)


async def test_every_response_carries_the_safe_headers(call: Any) -> None:
    for method, path in (
        ("GET", "/health"),
        ("GET", "/nowhere"),
        ("GET", "/v1/jobs"),
        ("POST", "/v1/callbacks/pixverse"),
    ):
        headers = (await call(method, path)).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert headers["callsheet-request-id"].startswith("req_")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/jobs/", "/v1/jobs//cancel", "/v1/jobs/%00", "/v1/jobs/%ff", "/V1/jobs"]
)
async def test_what_is_not_there_is_a_404_document(call: Any, path: str) -> None:
    response = await call("GET", path)
    assert response.status_code == 404 and response.json()["code"] in ("no_such_path", "not_found")


@pytest.mark.parametrize("method", ["PUT", "TRACE", "OPTIONS", "PATCH", "POSTER"])
async def test_a_method_that_the_path_has_not_is_a_405_document(call: Any, method: str) -> None:
    response = await call(method, "/v1/jobs")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "GET, HEAD, POST"


# -- pages


async def test_the_docs_page_has_every_route_and_loads_nothing(call: Any) -> None:
    for path in ("/docs", "/docs/errors"):
        response = await call("GET", path, key=None)
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert not re.search(r"<script|src=|https?://(?!hooks\.example)", response.text)
        HTMLParser().feed(response.text)
    page = (await call("GET", "/docs", key=None)).text
    assert all(f"id={route.name}" in page for route in ROUTES)


async def test_llms_txt_has_every_route(call: Any) -> None:
    text = (await call("GET", "/llms.txt", key=None)).text
    assert text.startswith("# Callsheet\n\n> ")
    assert all(f"`{route.method} {route.path}`" in text for route in ROUTES)


async def test_every_code_that_is_raised_has_its_remedy(call: Any) -> None:
    page = (await call("GET", "/docs/errors", key=None)).text
    sources = "\n".join(path.read_text() for path in SOURCES.rglob("*.py") if "sandbox" not in path.parts)
    raised = set(re.findall(r'code="([a-z_]+)"', sources)) | set(re.findall(r'UrlRefused\("([a-z_]+)"', sources))
    raised |= set(re.findall(r'^    (?:status, )?code(?:, title)? = (?:\d+, )?"([a-z_]+)"', sources, re.MULTILINE))
    assert {"internal", "url_address", "forbidden", "cancel_unsupported"} <= raised
    assert raised - {"failed"} <= set(REMEDIES)
    assert all(f"id={code}>" in page for code in REMEDIES)
