"""PixVerse: HTTP 200 with an `ErrCode`, 64-bit ids, one video per `Ai-trace-id`, signed callbacks."""

import secrets
from bisect import insort
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from service.sandbox import pixverse_callbacks as signed
from service.sandbox import pixverse_operations as operations
from service.sandbox.accounts import Account
from service.sandbox.callbacks import Callback
from service.sandbox.jobs import Job, Outcome, Phase, Submit, Target
from service.sandbox.pixverse_lists import Lists
from service.sandbox.pixverse_uploads import Uploads
from service.sandbox.pixverse_views import (
    SECONDS,
    UsageQuery,
    UsageRow,
    accepted,
    booked_at,
    failed_envelope,
    failure,
    image_view,
    success,
    usage_page,
    usage_row,
    video_view,
)
from service.sandbox.provider import Provider, plain
from service.sandbox.replies import Json, media_file

API = "/openapi/v2"
CALLBACK_RETRY_S = (2.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
LONGEST_PERIOD = timedelta(days=30)
LARGEST_PAGE = 100


class PixVerseAccount(Account):
    """The account; how callbacks are signed is the sandbox's choice where the documents are silent."""

    signature_order: signed.Order = "sorted"
    signature_space: signed.Space = "+"
    callback_trace_id: str = "own"  # or "submit": the header then carries the submit's
    trace_memory_s: float = 600.0
    require_options: bool = True  # False: only content must be there, not model, quality, duration, aspect_ratio
    known_uploads_only: bool = False  # True: an image or media id that was not uploaded here is refused
    repeat_stays_open: bool = False  # True: a trace id used again gets another id, whose video stays under way
    usage_trace_id: bool = True  # False: the usage detail does not carry the submits' trace ids


class PixVerse(Provider):
    """https://app-api.pixverse.ai/openapi/v2."""

    name = "pixverse"
    account_type = PixVerseAccount
    account: PixVerseAccount
    refusals: ClassVar[frozenset[str]] = frozenset({"429", "500", "500044"})
    retry_s = CALLBACK_RETRY_S

    def reset(self) -> None:
        """As at the start; ids go on rising, so that none is ever given twice, nor by another run."""
        super().reset()
        self.last_id: int = getattr(self, "last_id", int(self.now() * 1000) << 20 | 1)
        self.traces: dict[str, tuple[float, Job]] = {}
        self.never_done: dict[str, Job] = {}  # by the id that a repeat got: its first submit's job
        self.usage: list[UsageRow] = []
        self.uploads, self.lists = Uploads(self), Lists(self)

    def routes(self) -> list[BaseRoute]:
        """The documented calls, and the files that replies point to."""
        submits = [
            Route(f"{API}/{path}", partial(self.generate, path), methods=["POST"]) for path in operations.SUBMITS
        ]
        return [
            *submits,
            Route(f"{API}/video/result/{{id}}", self.video_result),
            Route(f"{API}/image/result/{{id}}", self.image_result),
            Route(f"{API}/image/upload", self.upload_image, methods=["POST"]),
            Route(f"{API}/media/upload", self.upload_media, methods=["POST"]),
            *self.lists.routes(API),
            Route(f"{API}/account/balance", self.balance),
            Route(f"{API}/account/billing/usage-detail", self.usage_detail, methods=["POST"]),
            Route("/media/{id}.{kind}", media_file),
        ]

    def refusal(self, code: str) -> Response:
        """`500044` as PixVerse answers it; `429` and `500` with that HTTP status and the usual envelope."""
        if code == "500044":
            return failure(500044)
        wait = {"Retry-After": str(self.account.retry_after_seconds)} if code == "429" else None
        return Json(failed_envelope(int(code)), status_code=int(code), headers=wait)

    def not_allowed(self, request: Request) -> Response | None:
        """Every call needs the account's key and a trace id."""
        if not secrets.compare_digest(request.headers.get("api-key", "").encode(), self.account.api_key.encode()):
            return failure(10001)
        if not request.headers.get("ai-trace-id"):
            return failure(400011, "Ai-trace-id")
        return None

    # -- submit --

    async def generate(self, path: str, request: Request) -> Response:
        """Submit. A trace id that was accepted before returns the earlier result, whatever the body."""
        if refused := self.not_allowed(request) or self.injected_refusal():
            return refused
        if earlier := self.earlier(request.headers["ai-trace-id"]):
            return self.again(earlier)
        body = await request.body()
        try:
            fields = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError:
            return failure(400013)
        # Another request may have brought the same trace id while this one's body was being read.
        if earlier := self.earlier(request.headers["ai-trace-id"]):
            return self.again(earlier)
        operation = operations.operation_of(path, fields)
        if refused := self.refused(operation, fields):
            return refused
        job = self.accept(self.submit_of(request, body, fields, operation=operation))
        self.traces[request.headers["ai-trace-id"]] = (job.accepted_at, job)
        self.book(job, at=job.accepted_at, status="consume")
        return await self.answer(job, success(accepted(job)))

    def again(self, earlier: Job) -> Response:
        """The answer to a trace id that was used before."""
        said = accepted(earlier)
        if self.account.repeat_stays_open and "video_id" in said:
            said["video_id"] = self.new_id()
            self.never_done[str(said["video_id"])] = earlier
        return success(said)

    def earlier(self, trace_id: str) -> Job | None:
        """The job of a trace id that is still remembered."""
        oldest_kept = self.now() - self.account.trace_memory_s
        while self.traces and next(iter(self.traces.values()))[0] < oldest_kept:
            del self.traces[next(iter(self.traces))]
        return self.traces[trace_id][1] if trace_id in self.traces else None

    def refused(self, operation: operations.Operation, fields: dict[str, Any]) -> Response | None:
        """What is wrong with a submit, the account included."""
        if name := operations.missing(operation, fields, options_too=self.account.require_options):
            return failure(400011, name)
        if name := operations.mistyped(fields):
            return failure(400013, name)
        if name := operations.unusable(operation, fields):
            return failure(400017, name)
        if self.account.known_uploads_only and (name := self.uploads.unknown(fields)):
            return failure(500008, name)
        webhook_id = fields.get("webhook_id")
        if webhook_id is not None and (not operation.takes_callback or str(webhook_id) not in self.targets):
            return failure(400017, "webhook_id")
        if not self.has_room():
            return failure(500044)
        return failure(500090) if self.account.credits < operations.cost_of(fields) else None

    def submit_of(
        self, request: Request, body: bytes, fields: dict[str, Any], *, operation: operations.Operation
    ) -> Submit:
        """The submit, with what its status will show."""
        shown = ("prompt", "negative_prompt", "seed", "style")
        return Submit(
            job_id=str(self.new_id()),
            operation=operation.name,
            input=msgspec.Raw(body),
            reference=request.headers["ai-trace-id"],
            cost=operations.cost_of(fields),
            origin=self.origin(request),
            details={name: fields[name] for name in shown if name in fields},
            target=self.targets.get(str(fields.get("webhook_id"))),
            immediate=operation.name == "swap_mask",
        )

    def new_id(self) -> int:
        """Odd and far above 2**53: a client that reads it as a float gets another one."""
        self.last_id += 2
        return self.last_id

    def finished(self, job: Job) -> None:
        """What failed is given back."""
        if job.outcome is not Outcome.SUCCEEDED:
            self.account.credits = plain(self.account.credits + job.submit.cost)
            self.book(job, at=job.finished_at, status="refund")

    def book(self, job: Job, *, at: float, status: str) -> None:
        """A line of the usage detail, which is in the order of its times."""
        insort(self.usage, usage_row(job, at=at, status=status, traced=self.account.usage_trace_id), key=booked_at)

    def callback(self, job: Job, target: Target) -> Callback:
        """A signed callback, taken only by `200` with exactly `ok`."""
        account = self.account
        trace_id = job.submit.reference if account.callback_trace_id == "submit" else None
        order, space = account.signature_order, account.signature_space
        signing = signed.Signing(secret=target.secret, order=order, space=space, trace_id=trace_id, now=self.now)
        return Callback(
            job_id=job.id,
            url=target.url,
            body=signed.body_of(job),
            sign=signing.headers,
            forged_body=signed.forged_body_of(job),
            forge=msgspec.structs.replace(signing, secret=secrets.token_hex()).headers,
            taken=lambda status, answer: status == 200 and answer == b"ok",
            retry_s=self.callback_schedule(),
        )

    # -- reads --

    async def video_result(self, request: Request) -> Response:
        """Status of a video."""
        return self.result(request, video_view)

    async def image_result(self, request: Request) -> Response:
        """Status of an image."""
        return self.result(request, image_view)

    def result(self, request: Request, view: Callable[[Job, Phase], dict[str, Any]]) -> Response:
        """The status of one job."""
        if refused := self.not_allowed(request):
            return refused
        named = request.path_params["id"]
        if named in self.never_done:
            return success({**view(self.never_done[named], Phase.PROCESSING), "id": int(named)})
        job = self.jobs.get(named)
        return success(view(job, self.phase(job))) if job else failure(500008)

    async def balance(self, request: Request) -> Response:
        """Credits left."""
        if refused := self.not_allowed(request):
            return refused
        self.settle()
        return success({"account_id": 1, "credit_monthly": self.account.credits, "credit_package": 0})

    async def usage_detail(self, request: Request) -> Response:
        """What was charged and given back in a period, newest first."""
        if refused := self.not_allowed(request):
            return refused
        self.settle()
        try:
            query = msgspec.json.decode(await request.body(), type=UsageQuery)
            start, end = (datetime.strptime(text, SECONDS) for text in (query.start_time, query.end_time))
            before = len(self.usage) if query.cursor in (None, "") else int(str(query.cursor))
        except (msgspec.DecodeError, ValueError):
            return failure(400013)
        if not start <= end <= start + LONGEST_PERIOD or not 1 <= query.limit <= LARGEST_PAGE:
            return failure(400017)
        return success(usage_page(self.usage, query, before=min(before, len(self.usage))))

    # -- uploads and lists, which a reset replaces --

    async def upload_image(self, request: Request) -> Response:
        """An image."""
        return await self.uploads.image(request)

    async def upload_media(self, request: Request) -> Response:
        """A video or a sound."""
        return await self.uploads.media(request)
