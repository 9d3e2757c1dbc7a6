"""What a job's callback_url may answer: what is tried again, what ends it, and who is told."""

import asyncio
import collections
import json
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.callback_urls import was_used
from service.models import Attempt
from service.stores import Page
from tests.test_pipeline import accepted, receiving, serving, status, until
from tests.web.served import sandbox_running

pytestmark = pytest.mark.anyio

LOST, CUT = 0, 1  # no byte of a reply; half a status line
SECRET = "whsec_" + "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5"
SCHEDULE = "0,0.2,0.2,0.2"
# what is answered in turn (the last one for ever): how it ends, after how many attempts, and whether that is an alarm
STORIES: dict[str, tuple[Sequence[int], str, int, bool]] = {
    "a function while it is deployed": ([404, 404, 200], "delivered", 3, False),
    "a conflict that passes": ([409, 200], "delivered", 2, False),
    "never there": ([404], "failed", 4, True),
    "gone": ([410], "failed", 1, True),
    "gone later": ([503, 410], "failed", 2, True),
    "lost, then 404": ([LOST, 404], "failed", 2, False),
    "lost, then 409": ([LOST, 409], "failed", 2, False),
    "lost, then 410": ([LOST, 410], "failed", 2, False),
    "lost twice, then 404": ([LOST, LOST, 404], "failed", 3, False),
    "cut, then 404": ([CUT, 404], "failed", 2, False),
    "lost, then heard of again": ([LOST, 503, 404, 200], "delivered", 4, False),
    "lost, then taken": ([LOST, 200], "delivered", 2, False),
    "lost, then another refusal": ([LOST, 403], "failed", 4, True),
    "only lost": ([LOST], "failed", 4, True),
}


def deliveries(rows: Sequence[Any]) -> dict[str, Any]:
    return {row.job_id: row for row in rows if row.endpoint_id is None and row.job_id is not None}


async def test_what_a_callback_url_answers_decides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "callsheet.delivery")
    asked, told = collections.Counter[str](), list[dict[str, Any]]()

    async def answer(path: str) -> bytes:
        if path == "/operator":
            return status(200)
        said = list(STORIES.values())[int(path.removeprefix("/"))][0]
        asked[path] += 1
        code = said[min(asked[path], len(said)) - 1]
        if code == CUT:
            return b"HTTP/1."
        if code == LOST:
            raise ConnectionResetError
        return status(code)

    with sandbox_running("http://127.0.0.1:9") as sandbox:
        async with httpx2.AsyncClient() as client:
            (
                await client.put(f"{sandbox}/_sandbox/pixverse/faults", json={"duration_s": [0.05, 0.1]})
            ).raise_for_status()
        async with AsyncExitStack() as stack:
            receiver, url = await stack.enter_async_context(receiving(answer))
            # One server for each: failures of one origin open a circuit that all of its URLs share.
            urls = [(await stack.enter_async_context(receiving(answer)))[1] for _ in STORIES]
            more = {
                "CALLSHEET_SANDBOX_URL": sandbox,
                "CALLSHEET_OPERATOR_URL": f"{url}/operator",
                "CALLSHEET_RETRY_SCHEDULE": SCHEDULE,
                "CALLSHEET_DELIVERY_TIMEOUT": "2",
                "CALLSHEET_LOG_LEVEL": "INFO",
            }
            async with serving(tmp_path, **more) as service:
                jobs = [(await accepted(service, f"{at}/{place}", SECRET)).id for place, at in enumerate(urls)]
                service.context.loops.wake()
                tenant, store = (await service.context.accounts.tenant("default")).num, service.context.store
                rows: dict[str, Any] = {}
                while len(rows) < len(jobs) or any(row.status == "pending" for row in rows.values()):
                    found = await store.deliveries(tenant, Page(limit=100), {})
                    rows = deliveries(found)
                    await asyncio.sleep(0.1)
                alarms = {job for job, story in zip(jobs, STORIES.values(), strict=True) if story[3]}
                await until(lambda: sum(path == "/operator" for path, _, _ in receiver.requests) >= len(alarms))
                for job, (name, (_, ends, attempts, _)) in zip(jobs, STORIES.items(), strict=True):
                    assert (rows[job].status, rows[job].attempts) == (ends, attempts), name
                    last = (await store.attempts(rows[job].num))[-1]
                    quiet = ends == "failed" and job not in alarms
                    assert (last.error == "probably used") is quiet, name
    told = [json.loads(body) for path, _, body in receiver.requests if path == "/operator"]
    assert {one["type"] for one in told} == {"delivery.failed"}
    assert sorted(one["data"]["job"] for one in told) == sorted(alarms)
    logged = {job for job in jobs if any(job in record.getMessage() for record in caplog.records)}
    assert logged == alarms
    assert not any(at in caplog.text for at in urls)


def an_attempt(status_code: int | None, error: str | None = None) -> Attempt:
    return Attempt(num=1, id="a", number=1, at=0, duration_ms=1, status_code=status_code, error=error, response=None)


NOT_SENT = [
    an_attempt(None, kind) for kind in ("connect", "dns", "tls", "timeout_connect", "egress_denied", "internal")
]
UNHEARD = [an_attempt(None, kind) for kind in ("timeout", "reset", "disconnected", "protocol")]


@pytest.mark.parametrize("lost", UNHEARD)
def test_what_was_never_sent_does_not_come_between(lost: Attempt) -> None:
    assert was_used([lost])
    assert was_used([an_attempt(503, "status"), lost])
    assert was_used([lost, *NOT_SENT])
    assert not was_used([lost, an_attempt(500, "status")])


def test_what_nobody_got_has_used_nothing_up() -> None:
    assert not was_used([])
    assert not was_used(NOT_SENT)
    assert not was_used([an_attempt(404, "status")])
