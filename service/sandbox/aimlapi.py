"""AI/ML API: many vendors' models behind one key, with their differences; request logs; no callbacks."""

import secrets
from collections import deque
from functools import partial
from typing import Any, ClassVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from service.sandbox import aimlapi_books as books
from service.sandbox import aimlapi_operations as operations
from service.sandbox import aimlapi_views as views
from service.sandbox.accounts import Account, Number
from service.sandbox.jobs import Job, Outcome, Submit
from service.sandbox.multipart import read_form
from service.sandbox.provider import Provider, plain
from service.sandbox.replies import FILES, Json, media_file

IMMEDIATE = frozenset({"image", "speech"})
MINUTE_S = 60.0


class AIMLAPIAccount(Account):
    """The account: half a million dollars. What is not at its default is for tests."""

    credits: Number = 1_000_000_000_000
    result_life_s: float = 86_400.0  # of the links that end
    logs_per_minute: int = 0  # 0: no limit; the real one is 200, too few for a test with a thousand lost submits


class AIMLAPI(Provider):
    """https://api.aimlapi.com."""

    name = "aimlapi"
    account_type = AIMLAPIAccount
    account: AIMLAPIAccount
    refusals: ClassVar[frozenset[str]] = frozenset({"400", "401", "403", "403_permission", "404", "429", "500", "503"})

    def reset(self) -> None:
        """As at the start."""
        super().reset()
        self.books = books.Books()
        self.log_reads: deque[float] = deque()

    def routes(self) -> list[BaseRoute]:
        """The documented calls by all their names, and the files that replies point to."""
        polled = [("video", path) for path in (*operations.VIDEO_PATHS, *operations.LEGACY_VIDEO_PATHS)]
        polled += [("music", path) for path in operations.MUSIC_PATHS]
        submits = [*polled, ("speech_to_text", "/v1/stt/create"), ("image", "/v1/images/generations")]
        submits.append(("speech", "/v1/tts"))
        return [
            *(Route(path, partial(self.generate, operation), methods=["POST"]) for operation, path in submits),
            *(Route(path, partial(self.fetch, operation)) for operation, path in polled),
            Route("/v1/stt/{id:path}", partial(self.fetch, "speech_to_text")),
            Route("/v1/models", self.models),
            Route("/v2/logs", self.logs),
            Route("/v2/billing", self.billing),
            Route("/v2/billing/detail", self.billing),
            Route("/v2/billing/transactions", self.transactions),
            Route("/v1/billing/balance", self.billing),
            Route("/media/{id}.{kind}", self.media),
        ]

    def refusal(self, code: str) -> Response:
        """An error that says which: `403` is the documented one of an empty balance, `403_permission` another."""
        message = views.FORBIDDEN if code == "403_permission" else ""
        return views.failure(int(code[:3]), operations.VIDEO_PATHS[0], self.now(), message)

    def error(self, request: Request, status: int, message: str = "", **more: Any) -> Response:
        """An error about this request."""
        return views.failure(status, path_of(request), self.now(), message, **more)

    def not_allowed(self, request: Request) -> Response | None:
        """401 without the account's key."""
        expected = f"Bearer {self.account.api_key}".encode()
        if secrets.compare_digest(request.headers.get("authorization", "").encode(), expected):
            return None
        return self.error(request, 401)

    # -- submit --

    async def generate(self, operation: str, request: Request) -> Response:
        """Submit. A request id that was used before means nothing: it is accepted and charged again."""
        if refused := self.not_allowed(request) or self.injected_refusal():
            return refused
        body = await request.body()
        fields = read_fields(request.headers.get("content-type", ""), body)
        if refused := self.refused(operation, request, fields):
            return refused
        job = self.accept(self.submit_of(operation, request, body, fields))
        reply = self.result_of(request, job) if job.submit.immediate else self.accepted(job)
        return await self.answer(job, reply)

    def refused(self, operation: str, request: Request, fields: dict[str, Any]) -> Response | None:
        """What is wrong with a submit, the account included."""
        if problem := operations.problem_of(operation, fields):
            field, text = problem
            return self.error(request, 400, errors=[{"path": [field], "message": text}])
        if self.account.credits < operations.cost_of(operation, fields):
            return self.error(request, 403)
        return None if self.has_room() else self.error(request, 429)

    def submit_of(self, operation: str, request: Request, body: bytes, fields: dict[str, Any]) -> Submit:
        """The submit, with what its status will show."""
        dialect = operations.dialect_of(operation, fields, path_of(request))
        return Submit(
            job_id=operations.new_id(operation, fields, dialect),
            operation=operation,
            input=msgspec.Raw(body if body.lstrip()[:1] == b"{" else msgspec.json.encode(fields)),
            reference=views.client_request_id(request),
            cost=operations.cost_of(operation, fields),
            origin=self.origin(request),
            details={"model": fields["model"], "fields": fields, "dialect": dialect},
            immediate=operation in IMMEDIATE,
        )

    def accepted(self, job: Job) -> Response:
        """The reply with the id, to fetch by."""
        reply = Json(views.submitted(job, job.submit.details["dialect"]))
        return views.traced(reply, job.id, job.submit.reference, None)

    def result_of(self, request: Request, job: Job) -> Response:
        """The reply that is the result; a failure is an error, and is in the logs all the same."""
        if job.outcome is Outcome.MODERATED:
            reply = self.error(request, 400, views.REJECTED, errors=[views.problem_of(job)])
        elif job.outcome is not Outcome.SUCCEEDED:
            reply = self.error(request, 500)
        elif job.submit.operation == "image":
            return views.traced(Json(views.images_view(job)), job.id, job.submit.reference, job.submit.cost)
        elif "aura" in job.submit.details["model"]:
            reply = Response(FILES["mp3"].read_bytes(), media_type="audio/mpeg")
        else:
            spoken = {"audio": {"url": views.media_url(job, "mp3")}, **views.usage(job)}
            return views.traced(Json(spoken, status_code=201), job.id, job.submit.reference, job.submit.cost)
        return views.traced(reply, job.id, job.submit.reference, None)

    def finished(self, job: Job) -> None:
        """It is in the logs from now on; what failed is given back."""
        if job.outcome is not Outcome.SUCCEEDED:
            self.account.credits = plain(self.account.credits + job.submit.cost)
        self.books.enter(job)

    # -- reads --

    async def fetch(self, operation: str, request: Request) -> Response:
        """Status, by `generation_id`; of a transcript by the path."""
        if refused := self.not_allowed(request):
            return refused
        asked = request.path_params.get("id") or request.query_params.get("generation_id")
        if not asked:
            return self.error(request, 400, errors=[{"path": ["generation_id"], "message": "Required"}])
        job = self.jobs.get(asked)
        if job is None or job.submit.operation != operation:
            return self.error(request, 404, "Generation not found")
        shown = views.status_view(job, self.phase(job), job.submit.details["dialect"], self.account.result_life_s)
        return views.traced(Json(shown), job.id, None, None)

    async def models(self, request: Request) -> Response:
        """What there is; the real one asks no key of who looks at it."""
        return Json({"object": "list", "data": [views.model_view(row) for row in operations.known_models().values()]})

    async def logs(self, request: Request) -> Response:
        """Requests that have ended."""
        if refused := self.not_allowed(request):
            return refused
        if self.too_many_log_reads():
            return self.error(request, 429)
        self.settle()
        try:
            return Json(self.books.logs(request.query_params, self.now()))
        except (ValueError, OverflowError) as refusal:
            return self.error(request, 400, str(refusal))

    def too_many_log_reads(self) -> bool:
        """Whether this one is over the limit."""
        now, limit = self.now(), self.account.logs_per_minute
        while self.log_reads and self.log_reads[0] <= now - MINUTE_S:
            self.log_reads.popleft()
        if limit and len(self.log_reads) >= limit:
            return True
        self.log_reads.append(now)
        return False

    async def billing(self, request: Request) -> Response:
        """What is left, in three shapes."""
        if refused := self.not_allowed(request):
            return refused
        self.settle()
        left = self.account.credits
        match path_of(request):
            case "/v1/billing/balance":
                return Json(books.older_balance(left, self.now()))
            case "/v2/billing/detail":
                return Json(books.balance_detail(left))
        return Json(books.balance(left))

    async def transactions(self, request: Request) -> Response:
        """What was charged."""
        if refused := self.not_allowed(request):
            return refused
        self.settle()
        try:
            return Json(self.books.transactions(request.query_params))
        except ValueError as refusal:
            return self.error(request, 400, str(refusal))

    async def media(self, request: Request) -> Response:
        """A result's file, until its link has ended."""
        ends = views.ends_at(request.query_params)
        if ends is not None and self.now() >= ends:
            return Response("Request has expired", status_code=403, media_type="text/plain")
        return await media_file(request)


def path_of(request: Request) -> str:
    """The path on the provider's own host."""
    return request.url.path.removeprefix(f"/{AIMLAPI.name}")


def read_fields(content_type: str, body: bytes) -> dict[str, Any]:
    """The fields of a JSON object, or of a form with files as the official client sends sounds; else none, so that
    `model` is missed.
    """
    if content_type.lower().startswith("multipart/form-data"):
        parts = read_form(content_type, body).values()
        return {part.name: part.text if part.file_name is None else f"({part.file_name})" for part in parts}
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
