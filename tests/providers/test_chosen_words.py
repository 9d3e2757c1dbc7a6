"""No word that the caller chose decides anything: providers quote prompts and model names in their errors.

What a reply means is told by its status, its numbers and its typed fields. So a reply means the same whatever stands
in its texts, unless such a text is, whole, one that the provider's documents have.
"""

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from service import providers
from service.providers import Call, Reply, Request
from tests.charges.intents import INTENTS
from tests.test_pipeline import receiving, serving
from tests.web.conftest import ADMIN, Client

Json = dict[str, Any]
NEUTRAL = "it did not like this"
WORDS = (
    "credit-card-maker",
    "insufficient credits, no balance, out of funds: top up your billing, exhausted",
    "an invalid api key, unauthorized, expired, disabled",
    "User is locked. Reason: Exhausted balance, says the cat",
    "nsfw, flagged, moderated by a content policy: sensitive content_policy_violation (E005)",
    "canceled, Cancelled by user, client_cancelled",
    "video not found, it does not exist",
    "rate limit exceeded, capacity, concurrent generations, too many requests",
    "invalid binding parameter, validation error",
    "Invalid status code: 401, Rate limit",
    "permission of a tier or plan, upgrade your membership",
)
QUOTING: dict[str, Callable[[int, str], Json]] = {
    "aimlapi": lambda status, text: {
        "message": text, "path": text, "requestId": "r", "statusCode": str(status), "timestamp": "t",
        "errors": [{"path": [text], "message": text, "msg": text, "input": text}],
    },
    "fal": lambda status, text: {"detail": [{"loc": ["body", text], "msg": text, "input": text}], "error": text},
    "peakmv": lambda status, text: {"error": text, "message": text, "detail": text},
    "pixverse": lambda status, text: {"ErrCode": 700000 + status, "ErrMsg": text, "Resp": None},
    "progressiverobot": lambda status, text: {"error": text, "message": text, "model": text, "prompt": text},
    "replicate": lambda status, text: {"detail": text, "title": text, "status": status},
}  # fmt: skip
ENDED: dict[str, Callable[[str], Json]] = {
    "aimlapi": lambda text: {"id": "1", "status": "error", "error": {"name": "GenerationError", "message": text}},
    "fal": lambda text: {"status": "COMPLETED", "error": text, "error_type": "internal_error"},
    "peakmv": lambda text: {"id": "1", "status": "failed", "error": text},
    "pixverse": lambda text: {"ErrCode": 0, "ErrMsg": text, "Resp": {"id": 1, "status": 8, "fail_reason": text}},
    "progressiverobot": lambda text: {"status": "error", "error": text, "message": text},
    "replicate": lambda text: {"id": "1", "status": "failed", "error": text, "logs": text},
}
STATUSES = (200, 400, 401, 402, 403, 404, 422, 429, 500)


def meaning(steps: Generator[Request, Reply, Any], reply: Reply) -> tuple[Any, ...]:
    """What the verb makes of such a reply to all that it asks, but for the texts that it quotes."""
    try:
        next(steps)
        for _ in range(9):
            steps.send(reply)
    except StopIteration as finished:
        verdict = finished.value
        error = getattr(verdict, "error", None)
        facts = ("status", "pauses", "reason", "after_s", "whole", "at_most", "conclusive", "hopeless")
        said = [getattr(verdict, name, None) for name in facts]
        return type(verdict).__name__, *said, *((error and (error.code, error.retryable, error.provider_code)) or ())
    raise AssertionError("it goes on asking")


def call_of(provider: str) -> Call:
    intent = INTENTS[provider]
    return Call(
        operation=intent.operation, input=intent.given("a cat"), api_key="k", correlation="c", now=2_000_000_000_000,
        submitted_at=2_000_000_000_000, base_url=providers.load(provider).base_url,
    )  # fmt: skip


def json_reply(status: int, body: Json) -> Reply:
    return Reply(status=status, headers={"content-type": "application/json"}, body=json.dumps(body).encode())


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("provider", QUOTING)
def test_what_an_error_quotes_decides_nothing(provider: str, words: str) -> None:
    loaded, call = providers.load(provider), call_of(provider)
    for status in STATUSES:
        quoted, neutral = (json_reply(status, QUOTING[provider](status, text)) for text in (words, NEUTRAL))
        assert meaning(loaded.submit(call), quoted) == meaning(loaded.submit(call), neutral), f"submit, {status}"
        asked = [meaning(loaded.status(call, "1"), reply) for reply in (quoted, neutral)]
        assert asked[0] == asked[1], f"status, {status}"


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("provider", ENDED)
def test_what_a_failed_job_quotes_decides_nothing(provider: str, words: str) -> None:
    loaded, call = providers.load(provider), call_of(provider)
    said = [meaning(loaded.status(call, "1"), json_reply(200, ENDED[provider](text))) for text in (words, NEUTRAL)]
    assert said[0] == said[1]
    assert said[0][0] == "Update"


@pytest.mark.anyio
@pytest.mark.parametrize("status", [400, 403])
async def test_a_quoted_model_name_pauses_nothing(status: int, tmp_path: Path) -> None:
    """Through the whole service: the provider's host answers every submit with all that was sent, as its error."""

    async def answer(path: str) -> bytes:
        return b"HTTP/1.1 404 X\r\ncontent-length: 2\r\n\r\n{}"

    async with receiving(answer) as (host, url):
        names = sorted(QUOTING)

        async def quote(path: str) -> bytes:
            provider = path.split("/")[1]
            sent = " ".join(WORDS) + host.requests[-1][2].decode()[:400]
            body = json.dumps(QUOTING[provider](status, sent)).encode()
            head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            return head.encode() + body

        host.answer = quote
        given = {f"CALLSHEET_{name.upper()}_BASE_URL": f"{url}/{name}" for name in names}
        given |= {f"CALLSHEET_{name.upper()}_API_KEY": "a-key" for name in names}
        async with serving(tmp_path, CALLSHEET_API_KEY=ADMIN, **given) as service:
            call = Client(service)
            jobs = {}
            for name in names:
                intent = INTENTS[name]
                body = {"provider": name, "operation": intent.operation, "input": intent.given("credit-card-maker")}
                jobs[name] = (await call.a_job(body))["id"]
            for name, job_id in jobs.items():
                job = await call.ok("GET", f"/v1/jobs/{job_id}", headers={"prefer": "wait=30"})
                assert (name, job["status"]) == (name, "failed")
                assert job["error"]["code"] in ("invalid_input", "authentication", "provider_error"), name
                assert (await call.ok("GET", f"/v1/providers/{name}/credentials"))["paused_at"] is None, name
            await call.http.aclose()
