"""fal: a queue for any model, a callback URL per request, Ed25519 with keys served as a JWKS.

Its other hosts are below their names: `/fal/fal.run/<model>` answers with the result itself, `/fal/api.fal.ai/v1` lists
requests and prices.
"""

import base64
import hashlib
import random
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import anyio
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from service.sandbox import fal_views as views
from service.sandbox.callbacks import Callback
from service.sandbox.fal_calls import WithPlatform
from service.sandbox.jobs import Job, Phase, Submit, Target
from service.sandbox.provider import LOOK_S
from service.sandbox.replies import Json, media_file

PRICE = 1  # it bills by the model; the sandbox counts requests
# Ten tries after the first, within two hours.
CALLBACK_RETRY_S = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 2700.0)
FALSE_URL = "https://media.example.test/forged.png"
ANY_METHOD = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class Fal(WithPlatform):
    """https://queue.fal.run, with the keys of https://rest.fal.ai."""

    name = "fal"
    refusals: ClassVar[frozenset[str]] = frozenset({"403", "429", "500"})
    retry_s = CALLBACK_RETRY_S

    def reset(self) -> None:
        """As at the start; the keys stay the process's own, as clients may keep them for a day."""
        super().reset()
        self.signers: dict[int, Ed25519PrivateKey] = getattr(self, "signers", {})
        self.called: set[str] = set()

    def routes(self) -> list[BaseRoute]:
        """The documented calls, the keys, and the files that outputs point to. Any other POST is a submit."""
        one = "/{app:path}/requests/{id}"
        return [
            Route("/.well-known/jwks.json", self.jwks),
            Route("/media/{id}.{kind}", media_file),
            *self.platform_routes(),
            Route("/api.fal.ai/{path:path}", self.elsewhere, methods=ANY_METHOD),
            Route("/fal.run/{model:path}", self.run, methods=["POST"]),
            Route(f"{one}/status/stream", self.status_stream),
            Route(f"{one}/status", self.status),
            Route(f"{one}/cancel", self.cancel_request, methods=["PUT"]),
            Route(one, self.response),
            Route(f"{one}/{{rest:path}}", self.elsewhere, methods=ANY_METHOD),
            Route(one, self.wrong_method, methods=["POST", "PUT", "PATCH", "DELETE"]),
            Route("/{model:path}", self.submit, methods=["POST"]),
            Route("/{model:path}", self.wrong_method, methods=["GET", "PUT", "PATCH", "DELETE"]),
        ]

    def refusal(self, code: str) -> Response:
        """`403` (the balance is out), `429` or `500`."""
        if code == "403":
            return views.failure(
                403, "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."
            )
        if code == "429":
            return views.failure(429, "Too many requests", wait=self.account.retry_after_seconds)
        return views.failure(500, "Internal Server Error")

    # -- submit --

    async def submit(self, request: Request) -> Response:
        """Submit."""
        job = await self.taken(request)
        if isinstance(job, Response):
            return job
        return await self.answer(job, about(job, Json(views.accepted(job, self.position(job)))))

    async def run(self, request: Request) -> Response:
        """The result itself, once it is there: the host fal.run."""
        job = await self.taken(request)
        if isinstance(job, Response):
            return job
        await self.until_over(job)
        return await self.answer(job, about(job, views.result(job, Phase.DONE)))

    async def taken(self, request: Request) -> Job | Response:
        """The request that a POST to a model makes, or why it makes none."""
        if refused := self.not_allowed(request) or self.injected_refusal():
            return refused
        body, model = await request.body(), request.path_params["model"].strip("/")
        if views.app_of(model) is None or (self.account.models and model not in self.account.models):
            return views.failure(404, f"Application '{model}' not found")
        if refused := self.refused(request, body):
            return refused
        job = self.accept(self.submit_of(request, body, model))
        self.order.append(job)
        return job

    def refused(self, request: Request, body: bytes) -> Response | None:
        """What is wrong with a submit, the account included."""
        try:
            fields = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError:
            return views.invalid(["body"], "Input should be a valid JSON object")
        if not fields:
            return views.invalid(["body", "prompt"], "Field required")
        if not views.is_url(request.query_params.get("fal_webhook", "https://x.test")):
            return views.invalid(["query", "fal_webhook"], "Input should be a valid URL")
        if refused := views.wrong_header(request):
            return refused
        if self.account.credits < PRICE:
            return self.refusal("403")
        return None if self.has_room() else self.refusal("429")

    def submit_of(self, request: Request, body: bytes, model: str) -> Submit:
        """The submit, with what its status will show."""
        request_id, url = str(uuid.uuid4()), request.query_params.get("fal_webhook")
        repeated = self.dice.strikes("gateway_differs", self.account.gateway_differs)
        timeout = views.start_timeout(request)
        return Submit(
            job_id=request_id,
            operation="queue",
            input=msgspec.Raw(body),
            reference=url.rstrip("/").rpartition("/")[2] if url else None,
            cost=PRICE,
            origin=self.origin(request),
            details={
                "model": model,
                "app": views.app_of(model),
                "makes": views.makes_of(model),
                "stored": self.account.stores_payloads and request.headers.get("x-fal-store-io") != "0",
                "gateway_request_id": str(uuid.uuid4()) if repeated else request_id,
            },
            target=Target(url=url, secret="") if url else None,
            start_within_s=float(timeout) if timeout is not None else None,
        )

    def position(self, job: Job) -> int:
        """The place in the queue, from 0."""
        return max(0, self.jobs.position(job, self.now()) - 1)

    # -- a request --

    def asked(self, request: Request) -> Job | Response:
        """The request of the path, below the app that it belongs to."""
        if refused := self.not_allowed(request):
            return refused
        job = self.jobs.get(request.path_params["id"])
        known = job is not None and job.submit.details["app"] == request.path_params["app"]
        return job if job is not None and known else views.failure(404, "Request not found")

    async def status(self, request: Request) -> Response:
        """Status."""
        job = self.asked(request)
        return job if isinstance(job, Response) else self.status_of(job, request)

    def status_of(self, job: Job, request: Request) -> Response:
        """What the status says now."""
        logs = request.query_params.get("logs") in ("1", "true")
        told = self.account.status_tells_error
        where = self.position(job)
        phase = self.phase(job)
        return about(job, views.status(job, phase, self.now(), position=where, logs=logs, tells_error=told))

    async def status_stream(self, request: Request) -> Response:
        """The status again and again, as server-sent events, until it is over."""
        job = self.asked(request)
        if isinstance(job, Response):
            return job

        async def told() -> AsyncIterator[bytes]:
            last = b""
            while True:
                over = job.phase(self.now()) is Phase.DONE
                said = bytes(self.status_of(job, request).body)
                if said != last:
                    yield b"data: " + said + b"\n\n"
                if over and b'"COMPLETED"' in said:
                    return
                last = said
                await anyio.sleep(LOOK_S)

        return about(job, StreamingResponse(told(), media_type="text/event-stream"))

    async def response(self, request: Request) -> Response:
        """Result."""
        job = self.asked(request)
        if isinstance(job, Response):
            return job
        return about(job, views.result(job, job.phase(self.now()), expired=self.expired(job)))

    def expired(self, job: Job) -> bool:
        """Whether a result is kept no longer: its life depends on its size, where payloads are not stored."""
        if job.submit.details["stored"] or job.outcome in views.FAILURES:
            return False
        large = len(msgspec.json.encode(views.payload(job))) >= views.LARGE_BYTES
        life = self.account.large_result_life_s if large else self.account.result_life_s
        return self.now() >= job.finished_at + life

    async def cancel_request(self, request: Request) -> Response:
        """Cancel."""
        job = self.asked(request)
        if isinstance(job, Response):
            return job if job.status_code == 401 else Json({"status": "NOT_FOUND"}, status_code=404)
        if not self.cancel(job):
            return about(job, Json({"status": "ALREADY_COMPLETED"}, status_code=400))
        if job.submit.target is not None:
            self.callbacks.later(0.0, lambda: self.call_back(job))
        return about(job, Json({"status": "CANCELLATION_REQUESTED"}, status_code=202))

    async def elsewhere(self, request: Request) -> Response:
        """404 in fal's shape."""
        return views.failure(404, "Not Found")

    async def wrong_method(self, request: Request) -> Response:
        """405 in fal's shape."""
        return views.failure(405, "Method Not Allowed")

    # -- callbacks --

    def signer(self, generation: int) -> Ed25519PrivateKey:
        """The key of a generation, made once per process."""
        if generation not in self.signers:
            self.signers[generation] = Ed25519PrivateKey.generate()
        return self.signers[generation]

    async def jwks(self, request: Request) -> Response:
        """The public keys, the last generation's first; needs no key of ours."""
        newest = self.account.key_generation
        return Json({"keys": [jwk(self.signer(number), kid=f"sandbox-{number}") for number in (newest - 1, newest)]})

    async def call_back(self, job: Job) -> None:
        """Once: a canceled request has the timer of its former end, too."""
        if job.id not in self.called:
            self.called.add(job.id)
            await super().call_back(job)

    def callback(self, job: Job, target: Target) -> Callback:
        """The result, or why there is none."""
        unwritable = self.dice.strikes("payload_unwritable", self.account.payload_unwritable)
        shown = views.callback_body(job, unwritable=unwritable)
        user_id = self.account.user_id
        return Callback(
            job_id=job.id,
            url=target.url,
            body=msgspec.json.encode(shown),
            sign=lambda body: signed(self.signer(self.account.key_generation), job.id, user_id, body, now=self.now),
            forged_body=msgspec.json.encode(forged(shown)),
            forge=lambda body: signed(Ed25519PrivateKey.generate(), job.id, user_id, body, now=self.now),
            taken=lambda status, text: 200 <= status < 300,
            retry_s=self.callback_schedule(),
        )


def about(job: Job, reply: Response) -> Response:
    """The reply, with the id of the request that it is about."""
    reply.headers["x-fal-request-id"] = job.id
    return reply


def forged(shown: dict[str, Any]) -> dict[str, Any]:
    """What an attacker would have us believe: a failure, or a success with a URL of his own."""
    if shown["status"] != "OK" or random.random() < 0.5:  # noqa: S311 - not secret
        return {**shown, "status": "OK", "error": None, "payload": {"images": [{"url": FALSE_URL}]}}
    return {**shown, "status": "ERROR", "error": "forged", "payload": None}


def jwk(key: Ed25519PrivateKey, *, kid: str) -> dict[str, str]:
    """The public half as a JSON Web Key."""
    x = base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).decode().rstrip("=")
    return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": "EdDSA"}


def signed(
    key: Ed25519PrivateKey, request_id: str, user_id: str, body: bytes, *, now: Callable[[], float]
) -> dict[str, str]:
    """The headers of one attempt: four lines are signed, the last is the body's SHA-256."""
    timestamp = str(int(now()))
    text = "\n".join([request_id, user_id, timestamp, hashlib.sha256(body).hexdigest()])
    return {
        "X-Fal-Webhook-Request-Id": request_id,
        "X-Fal-Webhook-User-Id": user_id,
        "X-Fal-Webhook-Timestamp": timestamp,
        "X-Fal-Webhook-Signature": key.sign(text.encode()).hex(),
    }
