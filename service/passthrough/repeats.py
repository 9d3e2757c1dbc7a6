"""Submits whose reply nobody has taken: clients repeat them by themselves, and each repeat would be charged.

Before its first byte leaves, a submit is kept with a digest of all that makes another one its equal, and with the open
connection that waits for its reply. That row goes when the reply was handed to the connection while it was open, or
when the provider certainly did not accept. An equal submit that finds a row which no open connection waits for is a
repeat: it becomes the row's connection, is not forwarded, and is answered from the row's job. Equal submits whose
clients are all there are each forwarded: people ask for four variants that way.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.clock import Clock
from service.errors import Invalid, StoreUnavailable, TooMany
from service.framing import StreamBody
from service.ids import new_token
from service.models import Job, Unanswered
from service.passthrough.bodies import Asked
from service.passthrough.recognising import Aim
from service.states import TERMINAL, JobStatus
from service.stores import Store
from service.waiting import Waiting

log = logging.getLogger("callsheet.passthrough")

HEADER = "callsheet-repeat"
WITHIN_MS = 600_000  # an equal submit that comes later is another one
SETTLED_S = 60.0  # how long a repeat waits for what became of the first
MOST_WAITING = 128  # repeats on this node, a quarter of them of one tenant
BEAT_S = 1.0  # how often an open connection is said to be open
GONE_S = 3.5  # without a beat for so long, a connection of another node is gone
LOOK_S = 0.25
PIECE_BYTES = 256 * 1024


async def digest_of(aim: Aim, asked: Asked, body: bytes | StreamBody) -> bytes:
    """SHA-256 over tenant, credential, method, path with query, `Prefer`, and the body: its bytes, but of a form
    without the boundary, which clients draw anew for each request.
    """
    about = (aim.tenant, aim.credential.num, asked.method, aim.path, aim.query, asked.headers.get("prefer", ""))
    digest = hashlib.sha256("\n".join(map(str, about)).encode("utf-8", "surrogatepass") + b"\n")
    boundary = _boundary(asked.headers.get("content-type", "")) if asked.is_form else b""
    async for piece in _without(boundary, _pieces(body)):
        digest.update(piece)
    return digest.digest()


def another_is_meant(asked: Asked) -> bool:
    """Whether the caller says that this is no repeat. Raises 422 for a value that means nothing."""
    said = asked.headers.get(HEADER)
    if said is not None and said.strip().lower() != "new":
        raise Invalid("`Callsheet-Repeat` takes `new`: this submit is another one, not a repeat.", param=HEADER)
    return said is not None


class Connection:
    """The caller's: one that waits for a reply, until it has it or is gone."""

    def __init__(self, gone: asyncio.Event):
        self.holder, self._gone = new_token(), gone
        self.job = 0  # whose row it holds; 0: none

    @property
    def open(self) -> bool:
        return not self._gone.is_set()

    async def closed(self) -> None:
        await self._gone.wait()


class Repeats:
    def __init__(self, *, store: Store, waiting: Waiting, clock: Clock):
        self._store, self._waiting, self._clock = store, waiting, clock
        self._open: dict[int, Connection] = {}  # that hold a row, by holder
        self._beating: asyncio.Task[None] | None = None
        self._waiters: dict[int, int] = {}  # repeats that wait, by tenant

    # -- whose row it is

    def row(self, aim: Aim, digest: bytes, connection: Connection) -> Unanswered:
        """For the new job of a submit that is about to be forwarded."""
        now = self._clock.now()
        return Unanswered(tenant=aim.tenant, digest=digest, made_at=now, holder=connection.holder, seen_at=now)

    def hold(self, job: int, connection: Connection) -> None:
        """From here on the connection is said to be open as long as it is."""
        connection.job = job
        self._open[connection.holder] = connection
        if self._beating is None or self._beating.done():
            self._beating = asyncio.create_task(self._beat())

    async def find(self, aim: Aim, digest: bytes, connection: Connection) -> Job | None:
        """The job of an equal submit that nobody waits for any more, which is this connection's now."""
        first: dict[int, int] = {}  # when each holder elsewhere was last seen, at the first look
        ends = asyncio.get_running_loop().time() + GONE_S
        while True:
            rows = await self._store.unanswered(aim.tenant, digest, self._clock.now() - WITHIN_MS)
            elsewhere = False
            for row in rows:
                known = self._open.get(row.holder or 0)
                if known is not None and known.open:
                    continue
                far = row.holder is not None and known is None
                beats = far and first.setdefault(row.job, row.seen_at) != row.seen_at
                if far and not beats and asyncio.get_running_loop().time() < ends:
                    elsewhere = True  # open on another node, or of one that died: a beat will tell
                elif not beats and await self._store.hold_unanswered(row, connection.holder):
                    self.hold(row.job, connection)
                    return await self._store.job_by_number(row.job)
            if not elsewhere:
                return None
            await asyncio.sleep(LOOK_S)

    async def take(self, job: Job, connection: Connection) -> None:
        """A submit that was sent again under the caller's own key: whoever has its answer, has the first one's."""
        await self._store.take_unanswered(job.num, connection.holder)
        self.hold(job.num, connection)

    async def answered(self, connection: Connection, *, taken: bool) -> None:
        """The reply was handed over while the connection was open; else the row waits for a repeat."""
        held, job = self._open.pop(connection.holder, None), connection.job
        if held is None:
            return
        try:
            if taken:
                await self._store.answered(job, connection.holder)
            else:
                await self._store.let_go_unanswered(job, connection.holder)
        except StoreUnavailable:  # without a beat it is let go, too
            log.warning("it could not be kept whether a reply was taken: an equal submit may be taken for a repeat")

    async def forget(self, connection: Connection) -> None:
        """The submit was certainly not accepted: there is nothing that a repeat could be answered with."""
        self._open.pop(connection.holder, None)
        if connection.job:
            await self._store.answered(connection.job)
            connection.job = 0

    async def _beat(self) -> None:
        while self._open:
            await asyncio.sleep(BEAT_S)
            held = [connection for connection in self._open.values() if connection.open]
            sights = (self._store.see_unanswered(connection.job, connection.holder) for connection in held)
            for failed in await asyncio.gather(*sights, return_exceptions=True):
                if isinstance(failed, Exception):
                    log.warning("it could not be kept that a connection is open (%s)", type(failed).__name__)

    async def close(self) -> None:
        """No connection of this node is said to be open any more."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)

    # -- what became of the first

    async def settled(self, job: Job, connection: Connection) -> Job:
        """The job once its submit's outcome is known, or as it is when that has taken too long. Raises `TooMany`."""
        async with self._waiting_room(job.tenant):
            known = asyncio.create_task(self._waiting.until(job, SETTLED_S, is_settled))
            closed = asyncio.create_task(connection.closed())
            try:
                await asyncio.wait((known, closed), return_when=asyncio.FIRST_COMPLETED)
                return known.result() if known.done() else job
            finally:
                known.cancel()
                closed.cancel()
                await asyncio.gather(known, closed, return_exceptions=True)

    @asynccontextmanager
    async def _waiting_room(self, tenant: int) -> AsyncIterator[None]:
        mine = self._waiters.get(tenant, 0)
        if mine >= MOST_WAITING // 4 or sum(self._waiters.values()) >= MOST_WAITING:
            text = f"{mine} repeats of submits wait for what became of the first: see the jobs with GET /v1/jobs."
            raise TooMany(text, retry_after=10)
        self._waiters[tenant] = mine + 1
        try:
            yield
        finally:
            self._waiters[tenant] -= 1
            if not self._waiters[tenant]:
                del self._waiters[tenant]


def is_settled(job: Job) -> bool:
    """Whether what became of its submit is known, or no automatic way is left to learn it."""
    return bool(job.provider_job_ids) or job.status in TERMINAL or job.status is JobStatus.UNKNOWN


def was_not_accepted(job: Job) -> bool:
    return job.status is JobStatus.FAILED and job.accepted_at is None and not job.provider_job_ids


async def _pieces(body: bytes | StreamBody) -> AsyncIterator[bytes]:
    if isinstance(body, StreamBody):
        async for piece in body.chunks():
            yield piece
        return
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]


def _boundary(content_type: str) -> bytes:
    """Of a form (RFC 7578), with its two hyphens; nothing where there is none."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "boundary" and value.strip().strip('"'):
            return b"--" + value.strip().strip('"').encode("latin-1", "replace")
    return b""


async def _without(boundary: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The bytes with two hyphens for each boundary, wherever it lies across pieces."""
    held = b""
    async for piece in pieces:
        data = held + piece
        if not boundary:
            yield data
            continue
        data = data.replace(boundary, b"--")
        keep = min(len(data), len(boundary) - 1)
        held, data = data[len(data) - keep :], data[: len(data) - keep]
        yield data
    yield held.replace(boundary, b"--") if boundary else b""
