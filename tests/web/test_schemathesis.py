"""schemathesis over /openapi.json against the service on a socket, with the sandbox behind it.

No 5xx, every response as its schema says, and every operation reaches a 2xx. What a generator cannot know is put into
some of its calls: a signed callback, a job of unknown outcome, a short stream.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import schemathesis
from schemathesis.engine import Status, events, from_schema

from service.facts import Accepted, Arrival, Begin, Output, Update
from service.models import Announcement
from service.sandbox.pixverse_callbacks import sign
from service.settings import load_vault
from service.states import JobStatus, Source
from tests.web.served import ADMIN, Served, sandbox_running

UNKNOWN_JOBS = 12
SPARE_TENANTS = 10
APART = "apart"
SPOILING = {"putCredential", "getCredential", "deleteCredential", "putBudget", "deleteBudget"}
AUTHORIZATION = {"Authorization": f"Bearer {ADMIN}"}
PNG = b"\x89PNG\r\n\x1a\n and so on"
INPUT = {"prompt": "a cat", "model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"}
CONFIG = {
    "headers": AUTHORIZATION,
    "request-timeout": 30,
    "generation": {"max-examples": 8, "deterministic": True, "database": "none"},
    "phases": {"stateful": {"generation": {"max-examples": 80}}},
    # A schema cannot say which URLs the guard refuses, or which provider takes which input.
    "checks": {"positive_data_acceptance": {"enabled": False}},
}


class Seeds:
    """What only a provider or a fault can bring about."""

    def __init__(self, served: Served, sandbox_url: str):
        self.http = httpx2.Client(base_url=served.url, headers=AUTHORIZATION, timeout=60)
        self.unknown = self._unknown_jobs(sandbox_url)
        self.job = self._submitted({"provider": "pixverse", "operation": "text_to_video", "input": INPUT})
        self.tenants = [self._made("/v1/tenants", name=f"spare-{number}")["name"] for number in range(SPARE_TENANTS)]
        endpoint = self._made("/v1/endpoints", url="http://127.0.0.1:9/in")
        self._made(f"/v1/endpoints/{endpoint['id']}/test")
        self.delivery = self.http.get("/v1/deliveries").json()["data"][0]["id"]
        self.token = load_vault(served.settings).callback_token(self.job["id"])
        self.tokens = {"readFile": self._file_token(served), "openOutput": self._output_token(served)}
        self.pause = lambda: served.run(self._paused(served.service.context))
        self._made("/v1/tenants", name=APART)
        for path, body in (("providers/pixverse/credentials", {"api_key": "k"}), ("budgets/pixverse", {"amount": "5"})):
            assert self.http.put(f"/v1/{path}", json=body, headers={"Callsheet-Tenant": APART}).status_code == 200

    def close(self) -> None:
        self.http.close()

    async def _paused(self, context: Any) -> None:
        tenant = await context.accounts.tenant("default")
        credential = await context.accounts.credential(tenant.num, "replicate")
        said = Announcement(type="credential.paused", body=b"{}", data={})
        await context.store.pause_credential(credential, "out_of_credit", said, context.clock.now())

    def _made(self, path: str, **body: Any) -> Any:
        reply = self.http.post(path, json=body)
        assert reply.status_code in (201, 202), reply.text
        return reply.json()

    def _file_token(self, served: Served) -> str:
        """Of a tenant that nobody deletes anything of."""
        self._made("/v1/tenants", name="keeper")
        image = {"file": ("cat.png", PNG, "image/png")}
        reply = self.http.post("/v1/files", files=image, headers={"Callsheet-Tenant": "keeper"})
        assert reply.status_code == 201, reply.text
        context = served.service.context
        file = served.run(context.store.file(None, reply.json()["id"]))
        return str(context.files.url(file).rpartition("/")[2])

    def _output_token(self, served: Served) -> str:
        """Of a result that needs no other server."""
        made = self._made("/v1/jobs", provider="pixverse", operation="text_to_video", input=INPUT)
        context = served.service.context
        job = served.run(context.store.job_by_id(made["id"]))
        done = Update(status=JobStatus.SUCCEEDED, outputs=(Output(url="data:text/plain,hello"),))
        for fact in (Begin(), Accepted(provider_job_ids=("its-own",)), done):
            applied = served.run(context.transitions.apply_one(Arrival(job=job.num, fact=fact, source=Source.SUBMIT)))
            assert applied.verdict == "applied"
        return str(context.link(made["id"], 0).rpartition("/")[2])

    def _tick(self) -> None:
        assert self.http.post("/internal/tick", json={"budget_seconds": 120}).json()["ran"]  # a submit may take 60 s

    def _submitted(self, body: Any) -> Any:
        job = self._made("/v1/jobs", **body)
        self._tick()
        job = self.http.get(f"/v1/jobs/{job['id']}").json()
        assert job["provider_job_ids"], job
        return job

    def _unknown_jobs(self, sandbox_url: str) -> list[str]:
        """PeakMV took them, and its replies were lost."""
        with httpx2.Client(base_url=f"{sandbox_url}/_sandbox/peakmv") as control:
            assert control.put("/faults", json={"drop_reply_after_accept": 1.0}).status_code == 200
            audio = {"audio_url": "https://media.example.com/song.mp3"}
            body = {"provider": "peakmv", "operation": "generate", "input": audio}
            ids = [self._made("/v1/jobs", **body)["id"] for _ in range(UNKNOWN_JOBS)]
            ends = time.monotonic() + 20
            while len(self.http.get("/v1/jobs?status=unknown").json()["data"]) < UNKNOWN_JOBS:
                assert time.monotonic() < ends
                self._tick()
            assert control.put("/faults", json={}).status_code == 200
        return ids

    def callback(self) -> tuple[dict[str, Any], dict[str, str]]:
        """The body and headers of PixVerse's success."""
        body = {
            "id": self.job["provider_job_ids"][0], "status": 1, "url": "https://media.example.com/1.mp4",
            "size": 1.5, "has_audio": True, "credits": 45,
        }  # fmt: skip
        at, nonce = str(int(time.time())), "0123456789abcdef0123456789abcdef"
        signature = sign("sandbox-callback-secret", at, nonce, json.dumps(body).encode())
        return body, {"Webhook-Timestamp": at, "Webhook-Nonce": nonce, "Webhook-Signature": signature}

    def put_into(self, case: Any) -> None:
        """Only where the case has what an id of that kind looks like: what is wrong on purpose stays wrong."""
        name = case.operation.definition.raw["operationId"]
        path = case.path_parameters or {}
        if name == "resolveJob" and self.unknown and re.fullmatch("job_[0-9a-z]{26}", str(path["job_id"])):
            path["job_id"] = self.unknown[0]
        elif name == "deleteTenant" and self.tenants and re.fullmatch("[a-z0-9_-]+", str(path["tenant"])):
            path["tenant"] = self.tenants[0]
        elif name in ("getDelivery", "retryDelivery") and re.fullmatch("dlv_[0-9a-z]{26}", str(path["delivery_id"])):
            path["delivery_id"] = self.delivery
        elif name in self.tokens and re.fullmatch("[A-Za-z0-9_-]+", str(path["token"])):
            path["token"] = self.tokens[name]
        elif name == "createFile" and case.meta is not None and not case.meta.generation.mode.is_negative:
            case.body = {"file": "GIF89a and so on"}
        elif name in SPOILING:
            self._elsewhere(case, path, name)
        elif name == "quoteJob" and isinstance(case.body, dict) and case.body.get("operation") == "text_to_video":
            path["provider"] = "pixverse"
        elif name == "reconcileProvider" and re.fullmatch("[a-z0-9_-]+", str(path["provider"])):
            path["provider"] = "pixverse"
            if (case.headers or {}).get("Callsheet-Tenant") == APART:  # its key is no sandbox's
                del case.headers["Callsheet-Tenant"]
        elif name == "resumeCredential" and re.fullmatch("[a-z0-9_-]+", str(path["provider"])):
            path["provider"] = "replicate"
            self.pause()
        elif name == "getCatalog" and re.fullmatch("[a-z0-9_-]+", str(path["kind"])):
            path |= {"provider": "pixverse", "kind": "models"}
        elif name == "streamEvents" and re.fullmatch("[0-9]*", str((case.query or {}).get("seconds", ""))):
            case.query = {**(case.query or {}), "seconds": 1}
        elif name in ("receiveCallback", "receiveTokenCallback") and path["provider"] == "pixverse":
            self._sign(case, path)
        elif name == "receiveCallback" and path["provider"] in ("fal", "replicate"):
            path["provider"] = "peakmv"  # 503 is right where a key that opens nothing cannot fetch those that verify

    def _elsewhere(self, case: Any, path: dict[str, Any], name: str) -> None:
        """Keys that open nothing, and budgets of nothing, are given to a tenant that has no jobs."""
        if case.meta is not None and case.meta.generation.mode.is_negative:
            return  # refused as it is
        if re.fullmatch("[a-z0-9_-]*", str((case.headers or {}).get("Callsheet-Tenant", ""))):
            case.headers = {**(case.headers or {}), "Callsheet-Tenant": APART}
        if name.startswith("delete") and re.fullmatch("[a-z]+", str(path["provider"])):
            path["provider"] = "pixverse"

    def _sign(self, case: Any, path: dict[str, Any]) -> None:
        case.body, headers = self.callback()
        case.headers = {**(case.headers or {}), **headers}
        if "token" in path:
            path["token"] = self.token

    def learn(self, case: Any, response: Any) -> None:
        """What was settled or deleted is used up."""
        name = case.operation.definition.raw["operationId"]
        used_up = {"resolveJob": self.unknown, "deleteTenant": self.tenants}.get(name)
        if used_up and response.status_code < 300:
            used_up.pop(0)


class Outcome:
    """What a run came to: 2xx answers by operation, server errors, failed checks."""

    def __init__(self) -> None:
        self.called: Counter[str] = Counter()
        self.reached: Counter[str] = Counter()
        self.server_errors: list[str] = []
        self.failures: list[str] = []

    def saw(self, case: Any, response: Any) -> None:
        name = case.operation.definition.raw["operationId"]
        self.called[name] += 1
        self.reached[name] += 200 <= response.status_code < 300
        if response.status_code >= 500:
            self.server_errors.append(f"{name}: {response.text}")

    def heard(self, event: Any) -> None:
        if isinstance(event, events.NonFatalError | events.FatalError):
            self.failures.append(str(getattr(event, "value", None) or getattr(event, "exception", event)))
        if isinstance(event, events.ScenarioFinished) and event.status is Status.FAILURE:
            for case_id, checks in event.recorder.checks.items():
                request = event.recorder.cases[case_id].value
                failed = [check for check in checks if check.failure_info is not None]
                self.failures += [f"{check.name}: {request!r} {check.failure_info}" for check in failed]


@contextmanager
def hooked(seeds: Seeds, outcome: Outcome) -> Iterator[None]:
    """schemathesis calls these for every case, in every schema: they are taken off again."""

    def before_call(context: Any, case: Any, kwargs: Any) -> None:
        seeds.put_into(case)

    def after_call(context: Any, case: Any, response: Any) -> None:
        outcome.saw(case, response)
        seeds.learn(case, response)

    schemathesis.hook(before_call)
    schemathesis.hook(after_call)
    try:
        yield
    finally:
        schemathesis.hooks.unregister(before_call)
        schemathesis.hooks.unregister(after_call)


@pytest.mark.filterwarnings("ignore")  # of schemathesis and what it uses
def test_the_interface_is_what_its_document_says(tmp_path_factory: pytest.TempPathFactory) -> None:
    served, outcome = Served(tmp_path_factory.mktemp("served")), Outcome()
    with sandbox_running(served.url) as sandbox_url, served.running(sandbox_url):
        seeds = Seeds(served, sandbox_url)
        config = schemathesis.Config.from_dict(CONFIG)
        schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json", config=config)
        with hooked(seeds, outcome):
            for event in from_schema(schema).execute():
                outcome.heard(event)
        operations = {op["operationId"] for item in schema.raw_schema["paths"].values() for op in item.values()}
        seeds.close()
    assert not outcome.server_errors
    assert not outcome.failures, "\n\n".join(outcome.failures)
    assert set(outcome.called) == operations
    assert {name for name in operations if not outcome.reached[name]} == set()
