"""A verb of a provider carried out: send what it yields, give it the replies, return its verdict."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, NamedTuple, TypeVar

from service.clock import Clock
from service.codings import NotInflated, codings_of, inflated
from service.egress import Answer, Egress, Larger
from service.errors import Lost, NotSent, StoreUnavailable
from service.facts import NotNow, Unknown
from service.framing import Outgoing, StreamBody
from service.loops import UNLIMITED
from service.models import Credential, Job
from service.providers import Call, Form, Reply, Request
from service.reply_reader import is_whole_json
from service.told import Beside, Told

V = TypeVar("V")
FormBody = Callable[[Form, str], Awaitable[StreamBody]]  # of a form and its boundary; raises `NotSent`

SHORTEST_SUBMIT_S = 10.0  # with less of a tick's budget left, no POST that charges is started
READ_S = 20.0
UPLOAD_S = 60.0  # for a request that carries files
LEASE_MS = 90_000
MARGIN_S = 5.0  # between the end of the longest request and the end of its lease
BEGIN_S = 2.0  # for what is written before a request is sent
NOT_ASKED = "not sent: the database could not be asked"
REPLY_BYTES = 8 * 1024 * 1024
LARGEST_REPLY = 64 * 1024 * 1024  # one at a time on a node
QUICK_BYTES = 512 * 1024  # of a reply: more is not searched and read between two turns of the loop
TOO_LARGE = "the reply is larger than 64 MiB"


class Stopped(Exception):
    """The request that would have charged was not sent, and nothing is to be written."""


class Oversized(NotNow, frozen=True, kw_only=True):
    """The reply to a read is larger than is ever read: asking again gives the same. It has the result: `url`."""

    url: str


class Lease:
    """What a claim gave us: the right to send and to write, until a moment on the monotonic clock.

    `renew` has the store keep it for so many seconds more, and says whether it still was ours.
    """

    def __init__(
        self,
        token: int | None,
        ends: float,
        clock: Clock,
        *,
        within: float = UNLIMITED,
        renew: Callable[[], Awaitable[bool]] | None = None,
        renew_s: float = LEASE_MS / 1000,
    ):
        self.token, self._ends, self._clock = token, ends, clock
        self._renew, self._renew_s = renew, renew_s
        self.within = within  # seconds that the step which claimed it may take

    async def reach(self, needed_s: float) -> None:
        """Renewed where earlier steps have used it up. Raises `Stopped` where it is another's by now."""
        asked_at = self._clock.monotonic()
        if self._renew is None or asked_at + needed_s <= self._ends:
            return
        if not await self._renew():
            raise Stopped
        self._ends = asked_at + self._renew_s

    def check(self, needed_s: float) -> Callable[[], None]:
        """For just before the first byte: raises `NotSent` where the lease may end before the request does."""

        def still_ours() -> None:
            if self._clock.monotonic() + needed_s > self._ends:
                raise NotSent("lease", "the lease would end before the reply")

        return still_ours


class Conversations:
    def __init__(self, egress: Egress, form_body: FormBody | None = None, beside: Beside = lambda _key: ()):
        self._egress, self._form_body, self._beside = egress, form_body, beside
        self._large = asyncio.Semaphore(1)

    async def hold(
        self,
        steps: Generator[Request, Reply, V],
        lease: Lease,
        begin: Callable[[Request], Awaitable[bool]] | None = None,
        charging_s: float = READ_S,
    ) -> V | NotNow | Unknown:
        """Drive the verb to its verdict. `charging_s` bounds the POST that charges; it is less than the lease.

        `begin` commits `submitting` before a request that charges; where it returns False nothing is sent and
        `Stopped` is raised; where the database cannot be asked now, nothing is sent either.
        A request that charges goes out once, on its own connection; no reply to it is `Unknown`.
        The provider's file reads replies as they came; what it makes of them tells none of our keys and tokens.
        """
        told = Told(self._beside)
        try:
            verdict = await self._driven(steps, lease, told, begin, charging_s)
            return await asyncio.to_thread(told.kept_out, verdict) if told.much else told.kept_out(verdict)
        except Exception as error:
            told.kept_out_of(error)
            raise

    async def _driven(
        self,
        steps: Generator[Request, Reply, V],
        lease: Lease,
        told: Told,
        begin: Callable[[Request], Awaitable[bool]] | None,
        charging_s: float,
    ) -> V | NotNow | Unknown:
        charged, turn = False, _Turn(self._large)
        try:
            try:
                request = next(steps)
            except StopIteration as finished:
                return finished.value  # type: ignore[no-any-return]
            while True:
                deadline = _deadline(request, charging_s, lease)
                try:
                    await lease.reach(deadline + MARGIN_S + BEGIN_S)
                    if request.charges and (begin is None or not await begin(told.without_echo(request))):
                        raise Stopped
                except StoreUnavailable:
                    reply: Reply | NotNow | Unknown = NotNow(reason=NOT_ASKED)
                else:
                    reply = await self._send(request, lease, deadline, turn)
                if isinstance(reply, NotNow | Unknown) and request.optional:
                    reply = Reply(status=0, headers={}, body=b"")
                if isinstance(reply, NotNow | Unknown):
                    return Unknown(reason=reply.reason) if charged else reply  # what went before it was sent
                charged = charged or request.charges
                step = await _step(steps, told, request, reply)
                turn.over()
                if isinstance(step, _Verdict):
                    verdict: V = step.value
                    return verdict
                request = step
        finally:
            turn.over()
            steps.close()

    async def _send(self, request: Request, lease: Lease, deadline: float, turn: "_Turn") -> Reply | NotNow | Unknown:
        try:
            outgoing = await self._outgoing(request)
        except StoreUnavailable:  # a file that it carries
            return NotNow(reason=NOT_ASKED)
        except NotSent as error:
            return NotNow(reason=f"not sent: {error.kind}")
        try:
            answer = await self._egress.send(
                outgoing,
                deadline=deadline,
                max_bytes=REPLY_BYTES,
                trusted=True,
                fresh=request.charges,
                before_first_byte=lease.check(deadline + MARGIN_S),
                larger=Larger(LARGEST_REPLY, turn.come),
            )
        except NotSent as error:
            return NotNow(reason=f"not sent: {error.kind}")
        except Lost as error:
            return _no_reply(request, f"no reply: {error.kind}")
        return await _reply(request, answer)

    async def _outgoing(self, request: Request) -> Outgoing:
        headers, body = request.headers, request.body
        if request.form is None:
            return Outgoing(request.method, request.url, headers, body)
        if self._form_body is None:
            raise NotSent("file", "no files are kept here")
        boundary = secrets.token_hex(16)
        headers = {**headers, "Content-Type": f"multipart/form-data; boundary={boundary}"}
        return Outgoing(request.method, request.url, headers, await self._form_body(request.form, boundary))


def _deadline(request: Request, charging_s: float, lease: Lease) -> float:
    usual = charging_s if request.charges else READ_S
    return min(usual if request.form is None else max(usual, UPLOAD_S), lease.within)


async def _reply(request: Request, answer: Answer) -> Reply | NotNow | Unknown:
    if answer.too_large:
        url = request.url
        return Unknown(reason=TOO_LARGE) if request.charges else Oversized(reason=TOO_LARGE, url=url)
    if not answer.complete and not (request.charges and is_whole_json(answer.body)):
        return _no_reply(request, "the reply was cut off")
    reply = Reply(status=answer.status, headers=answer.headers, body=answer.body)
    try:
        return await plain(reply)
    except NotInflated as error:
        return _no_reply(request, f"the reply cannot be read: {error}")


async def plain(reply: Reply) -> Reply:
    """The reply without the codings that a server gave it unasked. Raises `NotInflated`."""
    codings = codings_of(reply.headers)
    if not codings:
        return reply
    body = await asyncio.to_thread(inflated, reply.body, codings, LARGEST_REPLY)
    headers = {name: value for name, value in reply.headers.items() if name != "content-encoding"}
    return Reply(status=reply.status, headers=headers, body=body)


class _Verdict(NamedTuple):
    value: Any


class _Turn:
    """Of a large reply, while it is read and made sense of: one at a time."""

    def __init__(self, slot: asyncio.Semaphore):
        self._slot, self._mine = slot, False

    async def come(self) -> None:
        await self._slot.acquire()
        self._mine = True

    def over(self) -> None:
        if self._mine:
            self._mine = False
            self._slot.release()


async def _step(
    steps: Generator[Request, Reply, Any], told: Told, request: Request, reply: Reply
) -> Request | _Verdict:
    """What the provider's file makes of a reply. A large one is read in a thread: others' requests go on meanwhile."""

    def read() -> Request | _Verdict:
        told.heard(request, reply)
        return _sent(steps, reply)

    return read() if len(reply.body) <= QUICK_BYTES else await asyncio.to_thread(read)


def _sent(steps: Generator[Request, Reply, Any], reply: Reply) -> Request | _Verdict:
    try:
        return steps.send(reply)
    except StopIteration as finished:  # which no future can carry
        return _Verdict(finished.value)


def _no_reply(request: Request, reason: str) -> NotNow | Unknown:
    return Unknown(reason=reason) if request.charges else NotNow(reason=reason)


def account_call(credential: Credential, now: int, options: Mapping[str, str], **more: Any) -> Call:
    """A call about the credential itself, for no job."""
    about: dict[str, Any] = {"operation": "", "input": {}} | more
    key, origin = credential.api_key, credential.base_url
    return Call(**about, api_key=key, base_url=origin, now=now, options=options)


def call_for(job: Job, credential: Credential, given: dict[str, Any], now: int, **more: Any) -> Call:
    """What the provider's verb may know of this job."""
    return Call(
        operation=job.operation,
        input=given,
        api_key=credential.api_key,
        base_url=credential.base_url,
        correlation=job.correlation,
        provider_job_ids=job.provider_job_ids,
        provider_data=job.detail.provider_data,
        passthrough=job.detail.passthrough,
        submitted_at=job.submitted_at,
        now=now,
        **more,
    )
