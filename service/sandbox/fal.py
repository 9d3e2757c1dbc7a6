"""fal: a queue for any model, a callback URL per request, Ed25519 with keys served as a JWKS."""

import base64
import hashlib
import random
import secrets
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from service.sandbox import fal_views as views
from service.sandbox.accounts import Account
from service.sandbox.callbacks import Callback
from service.sandbox.faults import Probability
from service.sandbox.jobs import Job, Submit, Target
from service.sandbox.provider import Provider
from service.sandbox.replies import Json, media_file

PRICE = 1  # it bills by the model; the sandbox counts requests
# Ten tries after the first, within two hours.
CALLBACK_RETRY_S = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 2700.0)
FALSE_URL = "https://media.example.test/forged.png"


class FalAccount(Account):
    """The account, and what varies at fal."""

    user_id: str = "sandbox-user"
    gateway_differs: Probability = 0.25  # how many were repeated inside fal, and have two ids
    payload_unwritable: Probability = 0.0  # how many callbacks say OK without a payload
    status_tells_error: bool = True
    key_generation: int = 1  # raise it to have other keys sign; those of the last generation are served, too


class Fal(Provider):
    """https://queue.fal.run, with the keys of https://rest.fal.ai."""

    name = "fal"
    account_type = FalAccount
    account: FalAccount
    refusals: ClassVar[frozenset[str]] = frozenset({"403", "429", "500"})
    retry_s = CALLBACK_RETRY_S

    def reset(self) -> None:
        """As at the start; the keys stay the process's own, as clients may keep them for a day."""
        super().reset()
        self.signers: dict[int, Ed25519PrivateKey] = getattr(self, "signers", {})
        self.called: set[str] = set()

    def routes(self) -> list[BaseRoute]:
        """The documented calls, the keys, and the files that outputs point to. Any other POST is a submit."""
        one = "/{owner}/{app}/requests/{id}"
        return [
            Route("/.well-known/jwks.json", self.jwks),
            Route("/media/{id}.{kind}", media_file),
            Route(f"{one}/status", self.status),
            Route(f"{one}/cancel", self.cancel_request, methods=["PUT"]),
            Route(one, self.response),
            Route("/{model:path}", self.submit, methods=["POST"]),
        ]

    def refusal(self, code: str) -> Response:
        """`403` (the balance is out), `429` or `500`."""
        if code == "403":
            return views.failure(403, "User is locked. Reason: Exhausted balance. Top up your balance.")
        if code == "429":
            return views.failure(429, "Too many requests", wait=self.account.retry_after_seconds)
        return views.failure(500, "Internal Server Error")

    def not_allowed(self, request: Request) -> Response | None:
        """401 without the account's key."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "key":
            return views.failure(401, "Authentication is required to access this application.")
        known = secrets.compare_digest(key.encode(), self.account.api_key.encode())
        return None if known else views.failure(401, "No user found for Key ID and Secret")

    # -- submit --

    async def submit(self, request: Request) -> Response:
        """Submit."""
        if refused := self.not_allowed(request) or self.injected_refusal():
            return refused
        body, model = await request.body(), request.path_params["model"].strip("/")
        if "/" not in model or "/requests/" in model:
            return views.failure(404, f"Path /{model} not found")
        if refused := self.refused(request, body):
            return refused
        job = self.accept(self.submit_of(request, body, model))
        return await self.answer(job, Json(views.accepted(job, self.position(job))))

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
        if self.account.credits < PRICE:
            return self.refusal("403")
        return None if self.has_room() else self.refusal("429")

    def submit_of(self, request: Request, body: bytes, model: str) -> Submit:
        """The submit, with what its status will show."""
        request_id, url = str(uuid.uuid4()), request.query_params.get("fal_webhook")
        repeated = self.dice.strikes("gateway_differs", self.account.gateway_differs)
        return Submit(
            job_id=request_id,
            operation="queue",
            input=msgspec.Raw(body),
            reference=url.rstrip("/").rpartition("/")[2] if url else None,
            cost=PRICE,
            origin=self.origin(request),
            details={
                "app": "/".join(model.split("/")[:2]),
                "makes": views.makes_of(model),
                "gateway_request_id": str(uuid.uuid4()) if repeated else request_id,
            },
            target=Target(url=url, secret="") if url else None,
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
        app = f"{request.path_params['owner']}/{request.path_params['app']}"
        return job if job is not None and job.submit.details["app"] == app else views.failure(404, "Request not found")

    async def status(self, request: Request) -> Response:
        """Status."""
        job = self.asked(request)
        if isinstance(job, Response):
            return job
        logs = request.query_params.get("logs") in ("1", "true")
        told = self.account.status_tells_error
        where = self.position(job)
        return views.status(job, self.phase(job), self.now(), position=where, logs=logs, tells_error=told)

    async def response(self, request: Request) -> Response:
        """Result."""
        job = self.asked(request)
        return job if isinstance(job, Response) else views.result(job, job.phase(self.now()))

    async def cancel_request(self, request: Request) -> Response:
        """Cancel."""
        job = self.asked(request)
        if isinstance(job, Response):
            return job if job.status_code == 401 else Json({"status": "NOT_FOUND"}, status_code=404)
        if not self.cancel(job):
            return Json({"status": "ALREADY_COMPLETED"}, status_code=400)
        if job.submit.target is not None:
            self.callbacks.later(0.0, lambda: self.call_back(job))
        return Json({"status": "CANCELLATION_REQUESTED"}, status_code=202)

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
