"""Bodies of passthrough: how a caller's reaches the provider, and how the provider's reaches the caller."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import IO

from msgspec.structs import replace

from service.errors import Invalid, Refusal, TooLarge, TooMany
from service.framing import StreamBody
from service.masking import Masks
from service.states import Record

SPOOL_MEMORY = 1024 * 1024  # of a body without a length; the rest of it is on disk
PIECE_BYTES = 256 * 1024
MOST_SPOOLED = 4 * 1024**3  # bytes of bodies kept aside, on this node
SEARCHED_BYTES = 4 * 1024 * 1024  # of a body, for the key that came with it
DIGITS = 18  # of a length, so many that it is too large in any case


class Asked(Record, frozen=True, kw_only=True):
    """A caller's request as it came. `secret` is the key that it brought, which goes no further."""

    provider: str
    method: str
    path: str  # with its slash and its escapes, as text of the bytes (latin-1)
    query: str
    headers: Mapping[str, str]  # names in lower case
    secret: str
    whole: Callable[[int], Awaitable[bytes]]  # the body, at most so many bytes of it
    pieces: Callable[[], AsyncIterator[bytes]]  # or as it comes; one of the two is called, once
    watch: Callable[[], asyncio.Event] = (
        asyncio.Event
    )  # called once the body is here: set when the caller's connection is gone

    @property
    def length(self) -> int | None:
        """What the caller declares of its body; 0 where there is none, None where it does not say."""
        if "transfer-encoding" in self.headers:
            return None
        declared = self.headers.get("content-length", "0")
        digits = declared.lstrip("0")[:DIGITS] or "0"
        return int(digits) if declared.isascii() and declared.isdigit() else 0

    @property
    def is_form(self) -> bool:
        """A form with files, which is not held in memory."""
        return self.headers.get("content-type", "").lower().startswith("multipart/")


def guarded(asked: Asked) -> Asked:
    """The same request, whose body raises `Invalid` before a byte of the caller's own key would be read from it."""
    masks = Masks([asked.secret], tokens=False)

    async def whole(most: int) -> bytes:
        body = await asked.whole(most)
        for start, _ in masks.spans(body[:SEARCHED_BYTES]):
            raise _own_key(start)
        return body

    return replace(asked, whole=whole, pieces=lambda: _without(masks, asked.pieces()))


async def _without(masks: Masks, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    held, passed = b"", 0
    async for piece in pieces:
        data = held + piece
        if passed >= SEARCHED_BYTES:
            held = b""
            yield data
            continue
        for start, _ in masks.spans(data):
            raise _own_key(passed + start)
        until = masks.held_from(data)
        held, passed = data[until:], passed + until
        yield data[:until]
    yield held


def _own_key(at: int) -> Invalid:
    text = f"The key stands in the body, at byte {at}, where it is not swapped: send it in its header alone."
    return Invalid(text, code="key_elsewhere", param="body")


class Spools:
    """Bodies kept aside until their lengths are known; all of them together have at most `most` bytes."""

    def __init__(self, most: int = MOST_SPOOLED):
        self._left = most

    async def keep(self, asked: Asked, stack: AsyncExitStack, most: int) -> bytes | StreamBody:
        """The whole body, until the stack closes. Raises `TooLarge` beyond `most` bytes, `TooMany` where there is no
        room, and what reading it raises.
        """
        spool = Spool(self._take)
        stack.callback(self._give_back, spool)
        body = await spool.fill(asked.pieces(), most)
        return body if body.length else b""

    def _take(self, size: int) -> None:
        if size > self._left:
            raise TooMany("Too many large bodies are under way: try again in a moment.", retry_after=5)
        self._left -= size

    def _give_back(self, spool: "Spool") -> None:
        self._left += spool.length
        spool.close()


class Spool:
    """A body kept aside: in memory while it is small, then in a file without a name. `take` may refuse its bytes."""

    def __init__(self, take: Callable[[int], None]) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL_MEMORY)
        self._take, self.length = take, 0

    async def fill(self, pieces: AsyncIterator[bytes], most: int) -> StreamBody:
        """Read it all. Raises `TooLarge` beyond `most` bytes, and what `take` and reading it raise."""
        async for piece in pieces:
            if self.length + len(piece) > most:
                raise too_large(most)
            self._take(len(piece))
            self.length += len(piece)
            await asyncio.to_thread(self._file.write, piece)
        return StreamBody(self.length, self.pieces)

    async def pieces(self) -> AsyncIterator[bytes]:
        await asyncio.to_thread(self._file.seek, 0)
        while piece := await asyncio.to_thread(self._file.read, PIECE_BYTES):
            yield piece

    def close(self) -> None:
        self._file.close()


class Relayed:
    """What the caller gets: a whole body, or one that is read as it is taken. `aclose` ends what feeds it."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        *,
        whole: bytes | None = None,
        rest: AsyncIterator[bytes] | None = None,
        close: Callable[[], Awaitable[None]] | None = None,
    ):
        self.status, self.headers, self.whole = status, headers, whole
        self._rest, self._close = rest, close
        self.after: Callable[[bool], Awaitable[None]] | None = None  # told whether all of it was handed over

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._rest is not None:
            async for piece in self._rest:
                yield piece

    async def aclose(self) -> None:
        """The provider's connection is let go; more than once is no matter."""
        close, self._close = self._close, None
        if close is not None:
            await close()


async def up_to(pieces: AsyncIterator[bytes], most: int) -> tuple[bytes, bool]:
    """The body up to about `most` bytes, and whether that is all of it."""
    head = bytearray()
    async for piece in pieces:
        head += piece
        if len(head) > most:
            return bytes(head), False
    return bytes(head), True


async def sliced(whole: bytes) -> AsyncIterator[bytes]:
    """In pieces that a client takes one by one."""
    for start in range(0, len(whole), PIECE_BYTES):
        yield whole[start : start + PIECE_BYTES]


async def joined(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What was read ahead, then the rest."""
    yield head
    async for piece in rest:
        yield piece


class Feeding:
    """A caller's body on its way out: streamed where its length is known, spooled where it is not."""

    def __init__(self, asked: Asked, spools: Spools):
        self._asked, self._spools, self._answered = asked, spools, False
        self.failed: Refusal | None = None

    async def body(self, stack: AsyncExitStack, most: int) -> bytes | StreamBody:
        length = self._asked.length
        if length is None:
            return await self._spools.keep(self._asked, stack, most)
        if length > most:
            raise too_large(most)
        return StreamBody(length, self._pieces) if length else b""

    async def _pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._asked.pieces():
                if self._answered:
                    # The provider has heard enough. What it says is read; the rest of the body is nobody's.
                    await asyncio.Event().wait()
                yield piece
        except Refusal as refusal:
            self.failed = refusal
            raise

    def answered(self) -> None:
        self._answered = True


def too_large(most: int) -> TooLarge:
    return TooLarge(f"The body may have at most {most} bytes here.")
