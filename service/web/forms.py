"""A multipart/form-data body with one part, `file` (RFC 7578), read as it comes: no more than a piece is in memory."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from urllib.parse import unquote

from starlette.types import Receive

from service.errors import BadRequest, Invalid
from service.files import Arriving, too_large
from service.web.problems import TooSlow, UnsupportedMedia

IDLE_S = 30.0  # between pieces
WHOLE_S = 900.0  # from the first to the last
AROUND_BYTES = 64 * 1024  # what a form has beside the file
HEADERS_BYTES = 8 * 1024  # of one part
PREAMBLE_BYTES = 1024
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_PARAMETER = re.compile(r';\s*([a-z*]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))', re.IGNORECASE)


async def file_of(receive: Receive, headers: Mapping[str, str], most: int) -> Arriving:
    """The form's file: what is said of it, and its bytes, to be read while the request lasts.

    Raises 415 where it is no form, 413 where it is larger than `most` bytes, 408 where it stops coming, 400 where it
    breaks off or cannot be read, 422 where it has another part than one `file`; the bytes raise the same.
    """
    boundary = _boundary(headers)
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:18]) > most + AROUND_BYTES:
        raise too_large(most)
    form = _Form(_pieces(receive, most), b"\r\n--" + boundary)
    await form.begin()
    part = await form.part()
    if part is None:
        raise Invalid("The form is empty: send one part, named `file`.", param="file")
    said = _said(part)
    if said.get("name") != "file":
        raise _another(said)
    name = said.get("filename*") or said.get("filename") or ""
    return Arriving(name=name, content_type=part.get("content-type", ""), pieces=_content(form))


async def _content(form: "_Form") -> AsyncIterator[bytes]:
    async for piece in form.content():
        yield piece
    part = await form.part()
    if part is not None:
        raise _another(_said(part))


def _another(said: Mapping[str, str]) -> Invalid:
    found = said.get("name", "")[:64]
    return Invalid("The form takes one part, named `file`, and nothing else.", param=found or "file")


def _boundary(headers: Mapping[str, str]) -> bytes:
    if headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise UnsupportedMedia("Send the body without a Content-Encoding.", param="Content-Encoding")
    kind = headers.get("content-type", "")
    found = _BOUNDARY.search(kind)
    if kind.partition(";")[0].strip().lower() != "multipart/form-data" or found is None:
        raise UnsupportedMedia(
            "Send multipart/form-data with a boundary, and the file in a part named `file`.", param="Content-Type"
        )
    return (found[1] or found[2]).encode("latin-1", "replace")


async def _pieces(receive: Receive, most: int) -> AsyncIterator[bytes]:
    """The body as it comes."""
    total, more = 0, True
    ends = asyncio.get_running_loop().time() + WHOLE_S
    while more:
        left = ends - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(IDLE_S, left)):
                message = await receive()
        except TimeoutError:
            said = f"Nothing came for {IDLE_S:.0f} seconds, or not all within {WHOLE_S:.0f}: send it again."
            raise TooSlow(said) from None
        if message["type"] == "http.disconnect":
            raise BadRequest("The connection closed before the body ended.")
        more, piece = message.get("more_body", False), message.get("body", b"")
        total += len(piece)
        if total > most + AROUND_BYTES:
            raise too_large(most)
        if piece:
            yield piece


class _Form:
    """Walks from delimiter to delimiter; what it has read ahead is less than a piece and a delimiter."""

    def __init__(self, pieces: AsyncIterator[bytes], delimiter: bytes):
        self._pieces, self._delimiter = pieces, delimiter
        self._ahead = bytearray(b"\r\n")  # the first delimiter may stand at the very beginning

    async def begin(self) -> None:
        await self._until(self._delimiter, PREAMBLE_BYTES)

    async def part(self) -> Mapping[str, str] | None:
        """The headers of the next part, by lower-case name; None at the end of the form."""
        while len(self._ahead) < 2:
            await self._more()
        if self._ahead.startswith(b"--"):
            return None
        if (await self._until(b"\r\n", PREAMBLE_BYTES)).strip(b" \t"):
            raise BadRequest("The form's delimiters cannot be read.")
        self._ahead[:0] = b"\r\n"  # so that a part without headers ends like any other
        block = (await self._until(b"\r\n\r\n", HEADERS_BYTES)).decode("utf-8", "replace")
        lines = (line.partition(":") for line in block.split("\r\n") if line)
        return {name.strip().lower(): value.strip() for name, _, value in lines}

    async def content(self) -> AsyncIterator[bytes]:
        """Up to the next delimiter. What may be its beginning waits for more."""
        while (at := self._ahead.find(self._delimiter)) < 0:
            safe = len(self._ahead) - len(self._delimiter) + 1
            if safe > 0:
                yield self._take(safe)
            await self._more()
        if at:
            yield self._take(at)
        self._take(len(self._delimiter))

    async def _until(self, mark: bytes, most: int) -> bytes:
        while (at := self._ahead.find(mark, 0, most + len(mark))) < 0:
            if len(self._ahead) >= most + len(mark):
                raise BadRequest("The form cannot be read: something in it is too long before its file begins.")
            await self._more()
        found = self._take(at)
        self._take(len(mark))
        return found

    def _take(self, count: int) -> bytes:
        taken = bytes(self._ahead[:count])
        del self._ahead[:count]
        return taken

    async def _more(self) -> None:
        piece = await anext(self._pieces, None)
        if piece is None:
            raise BadRequest("The form breaks off before its last delimiter.")
        self._ahead += piece


def _said(part: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a part's Content-Disposition; `filename*` decoded (RFC 8187)."""
    kind, semicolon, rest = part.get("content-disposition", "").partition(";")
    if kind.strip().lower() != "form-data":
        return {}
    said = {}
    for found in _PARAMETER.finditer(semicolon + rest):
        quoted, bare = found[2], found[3]
        text = re.sub(r'\\(["\\])', r"\1", quoted) if quoted is not None else bare
        said[found[1].lower()] = unquote(text.rpartition("'")[2]) if found[1].endswith("*") else text
    return said
