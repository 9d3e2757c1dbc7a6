"""Passthrough: the provider's own API, unchanged, with our credential in the place of the caller's key.

Job-making requests become tracked jobs, status requests move the jobs that we have, account requests want a scope of
their own; all the rest streams through untouched.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from functools import partial

from service.accounts import Accounts, Principal
from service.clock import Clock
from service.conversation import call_for
from service.egress import Egress
from service.errors import (
    EgressDenied,
    Forbidden,
    Invalid,
    Lost,
    Missing,
    NoReply,
    NotSent,
    Refusal,
    TooMany,
    Unavailable,
)
from service.facts import Accepted, Arrival, Done, Hint, NotNow, Refused, Update
from service.framing import Outgoing, StreamBody
from service.masking import masked
from service.models import Job
from service.passthrough.bodies import PIECE_BYTES, Asked, Feeding, Relayed, Spools, guarded, joined, sliced, up_to
from service.passthrough.intents import Intent, intended, key_of
from service.passthrough.jobs import IDLE_S, PassthroughJobs, Replayed, reply_lost
from service.passthrough.recognising import Aim, headers_for, judged, recognised
from service.passthrough.relaying import Rewriting, is_json, is_plain, of_json, to_caller
from service.passthrough.repeats import Connection, Repeats, another_is_meant, digest_of, was_not_accepted
from service.providers import Provider, Recognised, Reply
from service.settings import Settings
from service.states import Source
from service.stores import Store
from service.streams import Streamed
from service.told import masks_of
from service.transitions import Transitions

log = logging.getLogger("callsheet.passthrough")

ACCOUNT_SCOPE = "passthrough:account"
READ_S = 90.0  # for the head of a reply
UPLOAD_S = 600.0  # the same, behind a body that streams
JSON_BYTES = 4 * 1024 * 1024  # of a reply in which URLs are rewritten and a status is read
LARGEST_BODY = 512 * 1024 * 1024
MOST_CALLS = 256  # under way on this node, a quarter of them for one tenant
MOST_HELD = 256 * 1024 * 1024  # bytes of bodies that are read before they are forwarded, on this node
SMALL_BODY = 1024 * 1024  # what needs no counting


class Passthrough:
    def __init__(
        self,
        *,
        store: Store,
        transitions: Transitions,
        jobs: PassthroughJobs,
        repeats: Repeats,
        egress: Egress,
        accounts: Accounts,
        providers: Mapping[str, Provider],
        settings: Settings,
        clock: Clock,
    ):
        self._store, self._transitions, self._jobs, self._egress = store, transitions, jobs, egress
        self._accounts, self._providers, self._settings, self._clock = accounts, providers, settings, clock
        self._calls: dict[int, int] = {}  # under way, by tenant
        self._held, self._spools = 0, Spools()
        self._repeats = repeats
        self._submits: set[asyncio.Task[Relayed]] = set()
        self._closing: set[asyncio.Task[None]] = set()

    async def relay(self, who: Principal, asked: Asked) -> Relayed:
        """The provider's answer to this request; whoever takes it calls `aclose`.

        Raises 403 without the scope, 404 for no such provider, 422 without a credential or for a path that could be
        read as another one, 429 past the ceiling, 503 where nothing was sent, 504 where the reply was lost, 424 where
        that was a submit's, which may have been accepted.
        """
        aim, asked = await self._aim(who, asked), guarded(asked)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._slot(who.tenant))
            if aim.seen.kind == "submit":
                return await self._submit(aim, asked, stack.pop_all())
            streamed = await self._send(aim, asked, stack)
            return await self._answer(aim, asked, streamed, stack)

    async def drain(self, seconds: float) -> None:
        """Let the submits under way end. What is cut off then keeps its lease, and is settled once that ends."""
        if self._submits:
            _, late = await asyncio.wait(self._submits, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        await self._repeats.close()

    # -- what is asked for

    async def _aim(self, who: Principal, asked: Asked) -> Aim:
        provider = self._providers.get(asked.provider)
        if provider is None:
            known = ", ".join(sorted(self._providers))
            raise Missing(f"There is no provider {asked.provider[:64]!r}; there are: {known}.", param="provider")
        path, query = judged(asked)
        seen = recognised(provider, asked.method, path, query, b"")
        if seen.kind == "account" and ACCOUNT_SCOPE not in who.scopes:
            text = f"This call is about the account: make a key with the scope `{ACCOUNT_SCOPE}` for it."
            raise Forbidden(text)
        credential = await self._accounts.credential(who.tenant, provider.name)
        masks = masks_of(credential, asked.secret)
        return Aim(
            provider=provider, credential=credential, path=path, query=query, seen=seen, tenant=who.tenant, masks=masks
        )

    @contextmanager
    def _slot(self, tenant: int) -> Iterator[None]:
        mine = self._calls.get(tenant, 0)
        if mine >= MOST_CALLS // 4 or sum(self._calls.values()) >= MOST_CALLS:
            raise TooMany(f"{mine} passthrough calls are under way: try again in a moment.", retry_after=1)
        self._calls[tenant] = mine + 1
        try:
            yield
        finally:
            self._calls[tenant] -= 1
            if not self._calls[tenant]:
                del self._calls[tenant]

    @contextmanager
    def _slot_lent(self, tenant: int) -> Iterator[None]:
        """A repeat that waits has a ceiling of its own: its call is under way for nobody."""
        self._calls[tenant] -= 1
        try:
            yield
        finally:
            self._calls[tenant] = self._calls.get(tenant, 0) + 1

    @contextmanager
    def _holding(self, size: int) -> Iterator[None]:
        if self._held + size > MOST_HELD:
            raise TooMany("Too many large bodies are under way: try again in a moment.", retry_after=5)
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    # -- requests that make no job

    async def _send(self, aim: Aim, asked: Asked, stack: AsyncExitStack) -> Streamed:
        feeding = Feeding(asked, self._spools)
        body = await feeding.body(stack, LARGEST_BODY)
        outgoing = Outgoing(asked.method, aim.url, headers_for(aim, asked), body)
        streaming = self._egress.stream(
            outgoing,
            deadline=UPLOAD_S if isinstance(body, StreamBody) else READ_S,
            idle=IDLE_S,
            trusted=True,
            fresh=asked.method not in ("GET", "HEAD"),  # what it does there nobody knows: it goes out once
        )
        try:
            streamed = await stack.enter_async_context(streaming)
        except (NotSent, Lost) as error:
            raise feeding.failed or _not_relayed(aim.provider, error) from None
        feeding.answered()
        return streamed

    async def _answer(self, aim: Aim, asked: Asked, streamed: Streamed, stack: AsyncExitStack) -> Relayed:
        reads = aim.seen.kind == "status" or bool(aim.provider.url_fields)
        if not reads or asked.method == "HEAD" or not of_json(streamed.header):
            return self._streaming(aim, streamed, streamed.chunks(), stack.pop_all())
        pieces = streamed.chunks()
        try:
            head, whole = await up_to(pieces, JSON_BYTES)
        except Lost as error:
            raise _not_relayed(aim.provider, error) from None
        if not whole:
            return self._streaming(aim, streamed, joined(head, pieces), stack.pop_all())
        head = await streamed.plain(head, JSON_BYTES)
        if aim.seen.kind == "status":
            await self._feed(aim, Reply(status=streamed.status, headers=streamed.header, body=head))
        return await self._whole(aim, streamed, head, stack)

    # -- replies

    async def _whole(self, aim: Aim, streamed: Streamed, body: bytes, stack: AsyncExitStack, **more: str) -> Relayed:
        """A large one is under way until it is taken: clients that do not read must not fill the memory."""
        if is_plain(streamed.header):
            body = b"".join([piece async for piece in masked(sliced(body), aim.masks)])
        if is_json(streamed.header) and len(body) <= JSON_BYTES:
            body = self._rewriting(aim).json(body, aim.provider.url_fields)
        headers = {**self._returned(aim, streamed), **more}
        if len(body) <= PIECE_BYTES:
            return Relayed(streamed.status, headers, whole=body)
        headers["content-length"] = str(len(body))
        return Relayed(streamed.status, headers, rest=sliced(body), close=stack.pop_all().aclose)

    def _streaming(
        self, aim: Aim, streamed: Streamed, pieces: AsyncIterator[bytes], stack: AsyncExitStack, **more: str
    ) -> Relayed:
        headers = {**self._returned(aim, streamed), **more}
        # That of a 304 is the length of what it does not send (RFC 9110 section 8.6).
        sized = streamed.status != 304 and "transfer-encoding" not in streamed.header
        if sized and "content-length" in streamed.header:
            headers["content-length"] = streamed.header["content-length"]
        passing = masked(pieces, aim.masks) if is_plain(streamed.header) else pieces
        return Relayed(streamed.status, headers, rest=passing, close=stack.aclose)

    def _returned(self, aim: Aim, streamed: Streamed) -> dict[str, str]:
        kept = to_caller(streamed.header, api_key=aim.credential.api_key)
        headers, rewriting = {name: aim.masks.text(value) for name, value in kept.items()}, self._rewriting(aim)
        for name in ("location", "content-location"):
            if name in headers:
                headers[name] = rewriting.location(headers[name], aim.url)
        return headers

    def _rewriting(self, aim: Aim) -> Rewriting:
        ours = f"{self._settings.public_url}/v1/providers/{aim.provider.name}/passthrough"
        return Rewriting(upstream=aim.credential.base_url, ours=ours)

    # -- status

    async def _feed(self, aim: Aim, reply: Reply) -> None:
        """What the caller was told of a job of ours moves it. Whatever goes wrong here is no matter of the caller's."""
        try:
            for named in aim.seen.provider_job_ids[:1] if len(aim.seen.provider_job_ids) == 1 else ():
                await self._tell(aim, named, reply)
        except Exception as error:
            log.warning("%s: a status that passed through was not read (%s)", aim.provider.name, type(error).__name__)

    async def _tell(self, aim: Aim, named: str, reply: Reply) -> None:
        job = await self._store.job_by_provider_id(aim.credential.num, named)
        if job is None:
            return
        given = json.loads(await self._store.job_input(job.num) or b"{}")
        options = self._settings.options_of(aim.provider.name)
        call = call_for(job, aim.credential, given, self._clock.now(), options=options)
        steps = aim.provider.status(call, named)
        fact: object = Hint()  # the provider's file would ask more: the poll does, at once
        try:
            next(steps)
            steps.send(reply)
        except StopIteration as finished:
            fact = finished.value
        finally:
            steps.close()
        if isinstance(fact, Update | Hint):
            fact = aim.masks.inside(fact)
            await self._transitions.apply_one(
                Arrival(job=job.num, provider_job_id=named, fact=fact, source=Source.POLL)
            )

    # -- requests that make a job

    async def _submit(self, aim: Aim, asked: Asked, stack: AsyncExitStack) -> Relayed:
        """Once the body is here, nothing that the caller does stops it: its outcome is kept in any case."""
        try:
            another = another_is_meant(asked)
            body, seen = await self._submitted(aim, asked, stack)
            connection = Connection(asked.watch())
            intent, outgoing = intended(aim, asked, seen, body, await digest_of(aim, asked, body))
        except BaseException:
            await stack.aclose()
            raise
        task = asyncio.create_task(self._answered(aim, intent, outgoing, stack, connection, another=another))
        self._submits.add(task)
        task.add_done_callback(self._submits.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._let_go)
            raise

    async def _submitted(self, aim: Aim, asked: Asked, stack: AsyncExitStack) -> tuple[bytes | StreamBody, Recognised]:
        operation = aim.provider.operations[aim.seen.operation]
        if asked.is_form:  # as large as a file of ours may be; its fields are not read
            most = max(self._settings.max_file_bytes, operation.max_body)
            return await self._spools.keep(asked, stack, most), aim.seen
        expected = operation.max_body if asked.length is None else asked.length
        if expected > SMALL_BODY:
            stack.enter_context(self._holding(min(expected, operation.max_body)))
        body = await asked.whole(operation.max_body)
        seen = recognised(aim.provider, asked.method, aim.path, aim.query, body)
        return body, seen if seen.kind == "submit" else aim.seen

    async def _answered(
        self,
        aim: Aim,
        intent: Intent,
        outgoing: Outgoing,
        stack: AsyncExitStack,
        connection: Connection,
        *,
        another: bool,
    ) -> Relayed:
        """The reply to a submit: of the provider if it is forwarded, else made from the job that it repeats."""
        try:
            async with stack:
                if not another and not await self._is_own_repeat(intent):
                    earlier = await self._repeats.find(aim, intent.digest, connection)
                    if earlier is not None and (repeated := await self._repeated(aim, intent, earlier, connection)):
                        return repeated
                try:
                    return await self._carried_out(aim, intent, outgoing, stack, connection)
                except Replayed as replayed:
                    await self._repeats.take(replayed.job, connection)
                    repeated = await self._repeated(aim, intent, replayed.job, connection)
                    if repeated is None:  # it was refused meanwhile
                        return await self._carried_out(aim, intent, outgoing, stack, connection)
                    return repeated
        except BaseException:
            await self._repeats.answered(connection, taken=False)
            raise

    async def _is_own_repeat(self, intent: Intent) -> bool:
        """By a key of the caller's: what is one job by that is judged by it alone."""
        if intent.idempotency_key is not None:
            return True
        key, fingerprint = key_of(intent)
        return key is not None and await self._store.job_by_key(intent.tenant, key, fingerprint) is not None

    async def _carried_out(
        self, aim: Aim, intent: Intent, outgoing: Outgoing, stack: AsyncExitStack, connection: Connection
    ) -> Relayed:
        row = self._repeats.row(aim, intent.digest, connection)
        held = partial(self._repeats.hold, connection=connection)
        done = await self._jobs.carry_out(intent, outgoing, stack, row, held)
        if done.repeats:
            await self._repeats.take(done.job, connection)
        if isinstance(done.verdict, Refused | NotNow) and not done.repeats:
            await self._repeats.forget(connection)
        named = {"callsheet-job-id": done.job.id}
        if done.whole:
            relayed = await self._whole(aim, done.streamed, done.head, stack, **named)
        else:
            relayed = self._streaming(aim, done.streamed, joined(done.head, done.rest), stack.pop_all(), **named)
        read_by_caller = not done.whole and 200 <= done.streamed.status < 300  # larger than is read here
        told = isinstance(done.verdict, Accepted | Done) or read_by_caller
        relayed.after = partial(self._after, connection, told)
        return relayed

    async def _after(self, connection: Connection, told: bool, handed_over: bool) -> None:
        """`told`: the reply says what became of the submit. At once: the connection counts as gone when all is sent."""
        await self._repeats.answered(connection, taken=told and handed_over and connection.open)

    async def _repeated(self, aim: Aim, intent: Intent, job: Job, connection: Connection) -> Relayed | None:
        """The reply to a repeat of the job's submit; None if that was not accepted, so that this one is to be sent.

        Raises 424 where what became of it cannot be learned in time, or the result was in the reply alone.
        """
        with self._slot_lent(aim.tenant):
            job = await self._repeats.settled(job, connection)
        if was_not_accepted(job):
            await self._repeats.forget(connection)
            return None
        options = self._settings.options_of(aim.provider.name)
        call = call_for(job, aim.credential, intent.input, self._clock.now(), options=options)
        said = aim.provider.submit_reply(call) if job.provider_job_ids else None
        if said is None:
            raise reply_lost(aim.provider, job, "its reply was not taken by an earlier request that equals this one")
        body = aim.masks.data(json.dumps(said, separators=(",", ":")).encode())
        body = self._rewriting(aim).json(body, aim.provider.url_fields)
        headers = {"content-type": "application/json", "callsheet-job-id": job.id, "idempotent-replayed": "true"}
        relayed = Relayed(aim.provider.submit_status, headers, whole=body)
        relayed.after = partial(self._after, connection, True)
        return relayed

    def _let_go(self, task: asyncio.Task[Relayed]) -> None:
        """Nobody takes the reply any more."""
        if not task.cancelled() and task.exception() is None:
            closing = asyncio.get_running_loop().create_task(task.result().aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


def _not_relayed(provider: Provider, error: NotSent | Lost) -> Refusal:
    if isinstance(error, EgressDenied):
        text = f"This request cannot be sent on, by its URL or a header: {str(error).rstrip('.')}."
        return Invalid(text, code="not_forwarded")
    if isinstance(error, NotSent):
        return Unavailable(f"{provider.title} cannot be reached now ({error.kind}).", code="provider_unavailable")
    return NoReply(f"{provider.title} got the request, and its reply was lost ({error.kind}).")
