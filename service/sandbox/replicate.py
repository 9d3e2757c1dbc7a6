"""Replicate: a callback URL per prediction, Standard Webhooks with the account's secret, results that are removed."""

import base64
import hashlib
import hmac
import random
import secrets
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, ClassVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Match, Route

from service.sandbox import replicate_views as views
from service.sandbox.callbacks import Callback
from service.sandbox.jobs import Job, Outcome, Phase, Submit, Target
from service.sandbox.replicate_calls import LARGEST_PAGE, WithLibrary
from service.sandbox.replies import Json, media_file

PRICE = 1  # it bills by the second; the sandbox counts predictions
# "Exponential, the last about a minute after the end."
CALLBACK_RETRY_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
FALSE_URL = "https://media.example.test/forged.png"
ANY_METHOD = ["GET", "POST", "PUT", "PATCH", "DELETE", "QUERY"]


class Replicate(WithLibrary):
    """https://api.replicate.com/v1."""

    name = "replicate"
    refusals: ClassVar[frozenset[str]] = frozenset({"402", "429", "500"})
    retry_s = CALLBACK_RETRY_S

    def reset(self) -> None:
        """As at the start; the secret stays the process's own, as clients may keep it for an hour."""
        super().reset()
        self.first_secret: str = getattr(self, "first_secret", new_secret())
        self.account.webhook_secret = self.first_secret
        self.order: list[Job] = []
        self.called: set[str] = set()

    def routes(self) -> list[BaseRoute]:
        """The documented calls, and the files that outputs point to."""
        named = "{owner}/{model}/predictions"
        return [
            Route("/v1/predictions", partial(self.submit, "prediction"), methods=["POST"]),
            Route("/v1/predictions", self.predictions),
            Route(f"/v1/models/{named}", partial(self.submit, "model_prediction"), methods=["POST"]),
            Route(f"/v1/deployments/{named}", partial(self.submit, "deployment_prediction"), methods=["POST"]),
            Route("/v1/predictions/{id}", self.prediction),
            Route("/v1/predictions/{id}/cancel", self.cancel_prediction, methods=["POST"]),
            Route("/v1/account", self.whose),
            Route("/v1/webhooks/default/secret", self.secret),
            Route("/v1/streams/{id}", self.stream),
            *self.library_routes(),
            Route("/media/{id}.{kind}", self.media),
            Route("/{path:path}", self.elsewhere, methods=ANY_METHOD),
        ]

    def refusal(self, code: str) -> Response:
        """`402`, `429` or `500`."""
        return views.failure(int(code), wait=self.account.retry_after_seconds)

    # -- submit --

    async def submit(self, operation: str, request: Request) -> Response:
        """Submit."""
        if refused := self.not_allowed(request) or self.injected_refusal():
            return refused
        body = await request.body()
        try:
            fields = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError:
            fields = {}
        if refused := self.refused(request, fields, versioned=operation == "prediction"):
            return refused
        if self.account.credits < PRICE:
            return self.refusal("402")
        if not self.has_room():
            return self.refusal("429")
        job = self.accept(self.submit_of(request, body, fields, operation=operation))
        self.order.append(job)
        await self.until_over(job, views.wait_of(request.headers.get("prefer", "")))
        return await self.answer(job, Json(self.view(job, job.phase(self.now())), status_code=201))

    def refused(self, request: Request, fields: dict[str, Any], *, versioned: bool) -> Response | None:
        """What is wrong with a submit, by what it says and by what there is."""
        if problems := views.problems_of(fields, versioned=versioned):
            return views.invalid(problems)
        try:
            views.cancel_after(request.headers.get("cancel-after"))
        except ValueError as problem:
            return views.failure(400, what=str(problem))
        if versioned and not views.names_version(fields["version"]):
            return views.no_such_version()
        named = f"{request.path_params.get('owner')}/{request.path_params.get('model')}"
        return None if versioned or self.has_model(named) else views.failure(404)

    def submit_of(self, request: Request, body: bytes, fields: dict[str, Any], *, operation: str) -> Submit:
        """The submit, with what its prediction will show."""
        path = "/".join(request.path_params.values())
        named = {
            "prediction": {"model": "sandbox/model", "version": fields.get("version")},
            "model_prediction": {"model": path, "version": "hidden"},
            "deployment_prediction": {"model": "sandbox/model", "version": "hidden", "deployment": path},
        }[operation]
        url, events = fields.get("webhook"), fields.get("webhook_events_filter")
        told = {"webhook": url, "webhook_events_filter": events}
        return Submit(
            job_id=base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower(),
            operation=operation,
            input=msgspec.Raw(body),
            reference=url.rstrip("/").rpartition("/")[2] if url else None,
            cost=PRICE,
            origin=self.origin(request),
            details={
                "named": named,
                "input": fields["input"],
                "makes": views.makes_of(path or str(fields.get("version")), fields["input"]),
                "webhook": {name: value for name, value in told.items() if value is not None},
            },
            end_within_s=views.cancel_after(request.headers.get("cancel-after")),
            target=Target(url=url, secret="") if url and (events is None or "completed" in events) else None,
        )

    # -- a prediction --

    def view(self, job: Job, phase: Phase) -> dict[str, Any]:
        """The prediction, emptied after its data's life."""
        removed = phase is Phase.DONE and self.now() >= job.finished_at + self.account.data_life_s
        return views.prediction(job, phase, self.now(), removed=removed)

    async def prediction(self, request: Request) -> Response:
        """Status."""
        if refused := self.not_allowed(request):
            return refused
        job = self.jobs.get(request.path_params["id"])
        return views.failure(404) if job is None else Json(self.view(job, self.phase(job)))

    async def cancel_prediction(self, request: Request) -> Response:
        """Cancel; of what is over, the prediction as it ended."""
        if refused := self.not_allowed(request):
            return refused
        job = self.jobs.get(request.path_params["id"])
        if job is None:
            return views.failure(404)
        if self.cancel(job) and job.submit.target is not None:
            self.callbacks.later(0.0, lambda: self.call_back(job))
        return Json(self.view(job, job.phase(self.now())))

    async def predictions(self, request: Request) -> Response:
        """The list, newest first; the cursor is how many older ones there are."""
        if refused := self.not_allowed(request):
            return refused
        cursor = request.query_params.get("cursor", "")
        end = min(int(cursor), len(self.order)) if cursor.isdecimal() else len(self.order)
        start = max(0, end - min(self.account.page_size, LARGEST_PAGE))
        rows = [self.view(job, job.phase(self.now())) for job in reversed(self.order[start:end])]
        if not self.account.list_shows_webhook:
            rows = [{name: value for name, value in row.items() if not name.startswith("webhook")} for row in rows]
        older = f"{self.origin(request)}/v1/predictions?cursor={start}" if start else None
        return Json({"previous": None, "next": older, "results": rows})

    async def whose(self, request: Request) -> Response:
        """The account."""
        if refused := self.not_allowed(request):
            return refused
        name = self.account.username
        return Json(
            {"type": "organization", "username": name, "name": name, "github_url": f"https://github.com/{name}"}
        )

    async def secret(self, request: Request) -> Response:
        """What signs the account's callbacks."""
        return self.not_allowed(request) or Json({"key": self.account.webhook_secret})

    async def media(self, request: Request) -> Response:
        """A file of an output, while the prediction has its data."""
        job = self.jobs.get(request.path_params["id"])
        if job is None or self.now() >= job.finished_at + self.account.data_life_s:
            return views.failure(404)
        return await media_file(request)

    async def stream(self, request: Request) -> Response:
        """The output as server-sent events, once it is there; whoever has the URL may read it."""
        job = self.jobs.get(request.path_params["id"])
        if job is None:
            return views.failure(404)

        async def told() -> AsyncIterator[bytes]:
            await self.until_over(job)
            for event in views.events(job):
                yield event

        return StreamingResponse(told(), media_type="text/event-stream")

    async def elsewhere(self, request: Request) -> Response:
        """404 in Replicate's shape; 405 where another method would be right."""
        here = [route for route in self.routes()[:-1] if route.matches(request.scope)[0] is not Match.NONE]
        return views.failure(405 if here else 404)

    # -- callbacks --

    async def call_back(self, job: Job) -> None:
        """Once: a canceled prediction has the timer of its former end, too."""
        if job.id not in self.called:
            self.called.add(job.id)
            await super().call_back(job)

    def callback(self, job: Job, target: Target) -> Callback:
        """The prediction itself; all tries have one `webhook-id`."""
        shown, webhook_id = self.view(job, Phase.DONE), f"msg_{secrets.token_hex(12)}"
        return Callback(
            job_id=job.id,
            url=target.url,
            body=msgspec.json.encode(shown),
            sign=lambda body: signed(self.account.webhook_secret, webhook_id, body, now=self.now),
            forged_body=msgspec.json.encode(forged(shown)),
            forge=lambda body: signed(new_secret(), webhook_id, body, now=self.now),
            taken=lambda status, text: 200 <= status < 300,
            retry_s=self.callback_schedule(),
        )


def forged(shown: dict[str, Any]) -> dict[str, Any]:
    """What an attacker would have us believe: a failure, or a success with a URL of his own."""
    if shown["status"] != views.STATUSES[Outcome.SUCCEEDED] or random.random() < 0.5:  # noqa: S311 - not secret
        return {**shown, "status": "succeeded", "error": None, "output": [FALSE_URL]}
    return {**shown, "status": "failed", "error": "forged", "output": None}


def new_secret() -> str:
    """A signing secret of Standard Webhooks."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"


def signed(secret: str, webhook_id: str, body: bytes, *, now: Callable[[], float]) -> dict[str, str]:
    """The headers of one attempt, by Standard Webhooks."""
    timestamp = str(int(now()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.digest(key, f"{webhook_id}.{timestamp}.".encode() + body, hashlib.sha256)
    signature = f"v1,{base64.b64encode(mac).decode()}"
    return {"webhook-id": webhook_id, "webhook-timestamp": timestamp, "webhook-signature": signature}
