"""What all providers of the sandbox share: one submit, from the refusal to the reply."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from service.sandbox import faults, replies
from service.sandbox.accounts import Account, Number, changed
from service.sandbox.callbacks import Callback, CallbackSender
from service.sandbox.faults import Dice, Faults
from service.sandbox.jobs import QUEUED_SHARE, Job, JobBoard, LedgerRow, Outcome, Phase, Submit, Target

LOOK_S = 0.05  # how often somebody who waits looks again


class Provider:
    """A provider's account, jobs, ledger, faults and callbacks. A subclass speaks the provider's language."""

    name: ClassVar[str]
    account_type: ClassVar[type[Account]] = Account
    refusals: ClassVar[frozenset[str]] = frozenset({"429", "500"})
    retry_s: ClassVar[tuple[float, ...]] = ()

    def __init__(self, *, now: Callable[[], float], seed: int, base_url: str | None) -> None:
        self.now = now
        self.seed = seed
        self.base_url = base_url
        self.targets: dict[str, Target] = {}
        self.callbacks = CallbackSender(now=now)
        self.reset()

    # -- what a subclass says --

    def routes(self) -> list[BaseRoute]:
        """The provider's paths, without the leading `/{provider}`."""
        raise NotImplementedError

    def refusal(self, code: str) -> Response:
        """The provider's own error for a code of `refusals`."""
        raise NotImplementedError

    def callback(self, job: Job, target: Target) -> Callback:
        """The callback of a finished job."""
        raise NotImplementedError

    def finished(self, job: Job) -> None:
        """Called once for each job that has finished. What was given up before it started is not charged."""
        if job.outcome is Outcome.ABORTED:
            self.account.credits = plain(self.account.credits + job.submit.cost)
            row = next(row for row in reversed(self.ledger) if row.provider_job_id == job.id)
            row.charged = 0

    # -- a submit --

    def injected_refusal(self) -> Response | None:
        """The fault `error_before_accept`: nothing is accepted, nothing is charged."""
        code = self.dice.choose("error_before_accept", self.faults.error_before_accept)
        return None if code is None else self.refusal(code)

    def has_room(self, wanted: int = 1) -> bool:
        """Whether the account may run so many more jobs now."""
        self.settle()
        return self.jobs.running + wanted <= self.account.concurrency

    def accept(self, submit: Submit) -> Job:
        """Charge, and start the job. From here on it is paid for, whatever the client gets to see."""
        self.settle()
        job = self._start(submit)
        self.account.credits = plain(self.account.credits - submit.cost)
        self.jobs.add(job)
        row = LedgerRow(
            provider_job_id=job.id,
            operation=submit.operation,
            input=submit.input,
            reference=submit.reference,
            charged=submit.cost,
            accepted_at=rfc3339(job.accepted_at),
        )
        self.ledger.append(row)
        if submit.target and not job.calls_back_first:
            delay = self.dice.between("callback.delay_s", self.faults.callback.delay_s)
            self.callbacks.later(job.finished_at - job.accepted_at + delay, lambda: self.call_back(job))
        return job

    def _start(self, submit: Submit) -> Job:
        now, plan = self.now(), self.faults
        first = submit.target is not None and self.dice.strikes("callback.before_reply", plan.callback.before_reply)
        duration = 0.0 if submit.immediate or first else self.dice.between("duration_s", plan.duration_s)
        job = Job(
            submit=submit,
            accepted_at=now,
            started_at=now + duration * QUEUED_SHARE,
            finished_at=now + duration,
            outcome=self._outcome(),
            calls_back_first=first,
        )
        limit_times(job)
        return job

    def _outcome(self) -> Outcome:
        if self.dice.strikes("fail", self.faults.fail):
            return Outcome.FAILED
        return Outcome.MODERATED if self.dice.strikes("moderation", self.faults.moderation) else Outcome.SUCCEEDED

    async def answer(self, job: Job, reply: Response) -> Response:
        """What the client of an accepted submit gets to see: the reply, or a fault in its place."""
        if job.calls_back_first:
            await self.call_back(job)
        if self.dice.strikes("drop_reply_after_accept", self.faults.drop_reply_after_accept):
            return replies.Dropped()
        if self.dice.strikes("hang_after_accept", self.faults.hang_after_accept):
            return replies.Hung(self.faults.hang_s)
        status = self.dice.choose("error_after_accept", self.faults.error_after_accept)
        return reply if status is None else replies.gateway_page(int(status))

    # -- a job's course --

    async def until_over(self, job: Job, seconds: float = float("inf")) -> None:
        """Wait for its end, so many seconds at most; somebody may cancel it meanwhile."""
        latest = self.now() + seconds
        while True:
            left = min(job.finished_at, latest) - self.now()
            if left <= 0:
                return
            await anyio.sleep(min(left, LOOK_S))

    def phase(self, job: Job) -> Phase:
        """The phase that a status read shows; `status_regress` shows a finished job as unfinished."""
        phase = job.phase(self.now())
        if phase is Phase.DONE and self.dice.strikes("status_regress", self.faults.status_regress):
            return Phase.PROCESSING
        return phase

    def settle(self) -> None:
        """Tell `finished` about the jobs that the clock has finished."""
        for job in self.jobs.finish(self.now()):
            self.finished(job)

    def cancel(self, job: Job) -> bool:
        """End a job that its client wants no longer; False where it has finished already."""
        self.settle()
        if job.phase(self.now()) is Phase.DONE:
            return False
        self.jobs.cancel(job, self.now())
        self.settle()
        return True

    async def call_back(self, job: Job) -> None:
        """Send the job's callback, with its faults."""
        if job.submit.target is None:
            return
        # Timers may fire a moment early; who reads the status because of the callback must find the job done.
        job.finished_at = min(job.finished_at, self.now())
        plan, callback = self.faults.callback, self.callback(job, job.submit.target)
        if self.dice.strikes("callback.forge", plan.forge):
            await self.callbacks.forge(callback)
        if self.dice.strikes("callback.lose", plan.lose):
            return
        copies = max(plan.duplicate, 1)
        self.dice.note("callback.duplicate", copies - 1)
        await self.callbacks.deliver(callback, copies=copies)

    def callback_schedule(self) -> tuple[float, ...]:
        """Seconds before each repetition of a callback that was not taken."""
        chosen = self.faults.callback.retry_s
        return self.retry_s if chosen is None else chosen

    def origin(self, request: Request) -> str:
        """The provider's origin as the client sees it, for URLs in replies."""
        base = self.base_url or f"{request.url.scheme}://{request.url.netloc}"
        return f"{base.rstrip('/')}/{self.name}"

    # -- control --

    def reset(self) -> None:
        """As at the start, but for the registered callback URLs."""
        self.account = self.account_type()
        self.jobs = JobBoard()
        self.ledger: list[LedgerRow] = []
        self.happened = faults.new_count(self.refusals)
        self.callbacks.reset()
        self.set_faults(Faults(seed=self.seed))

    def set_faults(self, chosen: Faults) -> None:
        """Replace all faults. What has happened stays counted."""
        self.faults = chosen
        self.dice = Dice(chosen.seed, self.happened)

    def read_faults(self, body: bytes) -> Faults:
        """Read a fault configuration for this provider."""
        return faults.read_faults(body, refusals=self.refusals)

    def change_account(self, body: bytes) -> None:
        """Change what the body names."""
        self.account = changed(self.account, body)

    def register(self, body: bytes) -> None:
        """Register a URL for callbacks, as on the provider's dashboard."""
        registration = msgspec.json.decode(body, type=Registration)
        self.targets[registration.webhook_id] = Target(url=registration.url, secret=registration.secret)

    def callbacks_view(self) -> dict[str, Any]:
        """The registered URLs, and what became of the callbacks."""
        registered = [{"webhook_id": key, "url": target.url} for key, target in self.targets.items()]
        return {"registered": registered, **self.callbacks.view()}


def limit_times(job: Job) -> None:
    """End it where its client's time limits would."""
    starts, ends = (
        float("inf") if limit is None else job.accepted_at + limit
        for limit in (job.submit.start_within_s, job.submit.end_within_s)
    )
    if job.started_at > min(starts, ends):
        job.started_at = job.finished_at = min(starts, ends)
        job.outcome = Outcome.ABORTED
    elif job.finished_at > ends:
        job.finished_at, job.outcome = ends, Outcome.CANCELED


class Registration(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `PUT /_sandbox/{p}/callbacks`."""

    webhook_id: str
    url: str
    secret: str


def plain(number: Number) -> Number:
    """18 rather than 18.0, as the documents write it."""
    return int(number) if float(number).is_integer() else number


def rfc3339(at: float) -> str:
    """A time as RFC 3339 text in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
