"""Bytes that only a provider's key opens, on their way through us: streamed as they come, ranges cut where need be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from service import media
from service.egress import Egress
from service.errors import Gone, Lost, NotSent, Refusal, Unavailable
from service.framing import Outgoing
from service.masking import masked
from service.providers import Request
from service.ranges import Range, beyond, content_range, cut, read_content_range, read_range
from service.states import Record
from service.streams import Streamed
from service.told import masks_of_request

HEADERS_S, IDLE_S = 20.0, 60.0
MEASURE_S = 60.0  # for reading through a thing to learn its length
PEEK_BYTES = 256 * 1024  # of a range in a thing of unknown length: what ends within it is answered exactly
LARGEST_BYTES = 16 * 1024**3
MOST_STREAMS = 256  # at a time on this node, a quarter of them for one tenant
KEPT_LENGTHS = 1024
_SAID = ("etag", "last-modified", "content-encoding")  # the provider's own to say


class Asked(Record, frozen=True, kw_only=True):
    """What a client wants of an output: `range` and `if_range` are its headers."""

    range: str | None = None
    if_range: str | None = None
    refresh: bool = False
    head: bool = False


class Opened(Record, frozen=True, kw_only=True):
    """What it gets. A body that is a `Flow` must be closed."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str | None = media.ANYTHING
    body: "bytes | Flow" = b""


class Flow:
    """A reply of the provider under way. Iterated, it is the body that the client gets; closed, the request ends."""

    def __init__(self, request: Request, streamed: Streamed, stack: AsyncExitStack):
        self.url, self.streamed, self._stack = request.url, streamed, stack
        self.masks = masks_of_request(request)
        self.chunks = masked(streamed.chunks(), self.masks)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.chunks

    async def aclose(self) -> None:
        await self._stack.aclose()


class Fetching:
    def __init__(self, egress: Egress, *, most: int = MOST_STREAMS):
        self._egress, self._most = egress, most
        self._streams: dict[int, int] = {}  # under way, by tenant
        self._lengths: dict[str, int] = {}  # by URL, of what came without one; oldest first

    async def open(self, request: Request, name: str, asked: Asked, *, tenant: int) -> Opened:
        """What the provider gives of `tenant`'s, or a part of it. No redirect is followed. Raises `Gone`,
        `Unsatisfiable`, `Unavailable`.
        """
        wanted = None if asked.head else read_range(asked.range)
        try:
            flow = await self._begin(request, wanted, asked.if_range, tenant)
            try:
                if asked.if_range is not None and flow.streamed.status == 200:
                    wanted = None  # the client's copy is another one: it gets all of this
                if wanted is not None and self._must_be_measured(flow, wanted):
                    flow = await self._measured(flow, request, wanted, tenant)
                opened = await self._answer(flow, wanted, name)
            except BaseException:
                await flow.aclose()
                raise
        except (NotSent, Lost) as error:
            raise not_now(f"the provider could not be reached ({error.kind})") from None
        if asked.head:
            await flow.aclose()
        return opened

    async def _begin(self, request: Request, wanted: Range | None, if_range: str | None, tenant: int) -> Flow:
        mine, all_of_them = self._streams.get(tenant, 0), sum(self._streams.values())
        if mine >= max(1, self._most // 4) or all_of_them >= self._most:
            raise not_now(f"{all_of_them} are being read at this moment, {mine} of them this tenant's")
        headers = dict(request.headers)
        if wanted is not None:
            headers |= {"Range": str(wanted)} | ({"If-Range": if_range} if if_range else {})
        outgoing = Outgoing(request.method, request.url, headers, request.body)
        stack = AsyncExitStack()
        self._streams[tenant] = mine + 1
        stack.callback(self._ended, tenant)
        try:
            streaming = self._egress.stream(
                outgoing, deadline=HEADERS_S, idle=IDLE_S, max_bytes=LARGEST_BYTES, trusted=True
            )
            return Flow(request, await stack.enter_async_context(streaming), stack)
        except BaseException:
            await stack.aclose()
            raise

    def _ended(self, tenant: int) -> None:
        self._streams[tenant] -= 1
        if not self._streams[tenant]:
            del self._streams[tenant]

    # -- what it answered, and what the client gets of it

    async def _answer(self, flow: Flow, wanted: Range | None, name: str) -> Opened:
        streamed = flow.streamed
        if streamed.status == 206:
            return self._partial(flow, wanted, name)
        if streamed.status != 200:
            raise _refusal(streamed)
        length = self._length(flow)
        if wanted is None or (length is None and wanted.closed is None):
            return self._whole(flow, length, name)
        if length is not None:
            return self._part(flow, *wanted.span(length), length, name)
        return await self._part_of_unknown(flow, wanted, name)

    def _partial(self, flow: Flow, wanted: Range | None, name: str) -> Opened:
        """The provider knows ranges: it is given on as it is, where it is the one that was asked for."""
        told = read_content_range(flow.streamed.header.get("content-range"))
        if wanted is None or told is None or not _fits(wanted, *told):
            raise not_now("the provider sent another part than was asked for")
        start, end, length = told
        flow.chunks = _exactly(cut(flow.chunks, 0, end - start), end - start)
        return _opened(flow, name, end - start, ("content-range", content_range(start, end, length)))

    def _part(self, flow: Flow, start: int, end: int, length: int | None, name: str) -> Opened:
        flow.chunks = _exactly(cut(flow.chunks, start, end), end - start)
        return _opened(flow, name, end - start, ("content-range", content_range(start, end, length)))

    def _whole(self, flow: Flow, length: int | None, name: str) -> Opened:
        if length is None:
            flow.chunks = self._learning(flow, flow.chunks)
        return _opened(flow, name, length)

    async def _part_of_unknown(self, flow: Flow, wanted: Range, name: str) -> Opened:
        """Where it begins beyond the end, or ends soon after its beginning, that is known before anything is said."""
        start, end = wanted.closed or (0, 0)
        chunks = self._learning(flow, cut(flow.chunks, start, end))
        first = bytearray()
        while len(first) < min(PEEK_BYTES, end - start) and (piece := await anext(chunks, b"")):
            first += piece
        if flow.streamed.complete and start + len(first) == flow.streamed.size:
            end = flow.streamed.size
        if not first:
            raise beyond(flow.streamed.size)
        flow.chunks = _exactly(_after(bytes(first), chunks), end - start)
        length = self._lengths.get(flow.url)
        return _opened(flow, name, end - start, ("content-range", content_range(start, end, length)))

    # -- lengths

    def _length(self, flow: Flow) -> int | None:
        said = flow.streamed.header.get("content-length", "")
        return int(said) if said.isascii() and said.isdigit() else self._lengths.get(flow.url)

    async def _learning(self, flow: Flow, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk
        if flow.streamed.complete:
            self._lengths.pop(flow.url, None)
            self._lengths[flow.url] = flow.streamed.size
            while len(self._lengths) > KEPT_LENGTHS:
                self._lengths.pop(next(iter(self._lengths)))

    def _must_be_measured(self, flow: Flow, wanted: Range) -> bool:
        """A part that ends with the thing cannot be named without its length (RFC 9110 section 14.4)."""
        unknown = flow.streamed.status == 200 and self._length(flow) is None
        return unknown and wanted.closed is None and not wanted.everything

    async def _measured(self, flow: Flow, request: Request, wanted: Range, tenant: int) -> Flow:
        """Read it through once, then begin anew; what takes too long is sent whole, as HTTP allows."""
        try:
            async with asyncio.timeout(MEASURE_S):
                async for _ in self._learning(flow, flow.chunks):
                    pass
        except TimeoutError:
            pass
        finally:
            await flow.aclose()
        return await self._begin(request, wanted, None, tenant)


def not_now(reason: str) -> Unavailable:
    return Unavailable(f"The output is not to be had now: {reason}. Try again later.", code="output_unavailable")


def _refusal(streamed: Streamed) -> Refusal:
    if streamed.status in (404, 410):
        return Gone("The provider does not have it any more.", code="result_expired", param="token")
    if streamed.status == 416:
        length = streamed.header.get("content-range", "").rpartition("/")[2]
        return beyond(int(length) if length.isascii() and length.isdigit() else None)
    return not_now(f"the provider answered {streamed.status}")


def _opened(flow: Flow, name: str, length: int | None, *more: tuple[str, str]) -> Opened:
    header = {name: flow.masks.text(value) for name, value in flow.streamed.header.items()}
    kind = header.get("content-type", media.ANYTHING)
    said = tuple((each, header[each]) for each in _SAID if _sendable(header.get(each, "")))
    sized = (("content-length", str(length)),) if length is not None else ()
    return Opened(
        status=206 if more else 200,
        headers=(*media.shown_as(kind, name), ("accept-ranges", "bytes"), *said, *sized, *more),
        content_type=kind if _sendable(kind) else media.ANYTHING,
        body=flow,
    )


def _sendable(text: str) -> bool:
    """Whether a header of the provider's may be one of ours as it is."""
    return bool(text) and text.isascii() and text.isprintable()


def _fits(wanted: Range, start: int, end: int, length: int | None) -> bool:
    if wanted.first is None:
        return length is not None and end == length and end - start <= (wanted.last or 0)
    return start == wanted.first and (wanted.last is None or end <= wanted.last + 1)


async def _exactly(chunks: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """So many bytes, as was said; raises `Lost` where there are fewer, so that nobody takes a part for the whole."""
    async for chunk in chunks:
        size -= len(chunk)
        yield chunk
    if size:
        raise Lost("short", "the provider sent less than it said")


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
