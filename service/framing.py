"""What a request may carry out of the door: its method, headers and body, judged before anything is dialled."""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import msgspec

from service.errors import EgressDenied

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_FRAMING = frozenset(
    "host content-length transfer-encoding connection keep-alive expect upgrade te trailer accept-encoding "
    "proxy-authorization proxy-connection".split()
)
_ESCAPED = {ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"}  # as browsers write names in forms (WHATWG)


class StreamBody(msgspec.Struct, frozen=True):
    """A body that is never whole in memory: `length` bytes, no more and no fewer, from a fresh `chunks()`."""

    length: int
    chunks: Callable[[], AsyncIterator[bytes]]


class Outgoing(msgspec.Struct, frozen=True):
    """A request. The framing headers (Host, Content-Length, Accept-Encoding, ...) are the door's: given ones drop."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | StreamBody = b""

    @property
    def length(self) -> int:
        """Of the body, in bytes."""
        return self.body.length if isinstance(self.body, StreamBody) else len(self.body)


class FormFile(msgspec.Struct, frozen=True):
    """A file in a form: `body` has its size and gives its bytes."""

    field: str
    name: str
    content_type: str
    body: StreamBody


def sendable_headers(request: Outgoing) -> tuple[dict[str, str], tuple[str, ...] | None]:
    if request.method not in _METHODS:
        raise EgressDenied("this method is not sent")
    headers, typed = {}, False
    for name, value in request.headers.items():
        lowered = name.lower()
        if not _TOKEN.fullmatch(name) or _UNFIT.search(value):
            raise EgressDenied("a header cannot be sent as it is")
        if lowered not in _FRAMING:
            headers[name] = value
            typed = typed or lowered == "content-type"
    return headers, None if typed else ("Content-Type",)


def multipart(fields: Mapping[str, str], files: Sequence[FormFile], boundary: str) -> StreamBody:
    """A form as RFC 7578 has it, fields first. Its header: `multipart/form-data; boundary=<boundary>`."""
    parts: list[bytes | StreamBody] = []
    for name, value in fields.items():
        parts.append(_part_head(boundary, name) + value.encode() + b"\r\n")
    for file in files:
        parts += [_part_head(boundary, file.field, file.name, file.content_type), file.body, b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())

    async def chunks() -> AsyncIterator[bytes]:
        for part in parts:
            if isinstance(part, bytes):
                yield part
            else:
                async for chunk in part.chunks():
                    yield chunk

    return StreamBody(sum(part.length if isinstance(part, StreamBody) else len(part) for part in parts), chunks)


def _part_head(boundary: str, field: str, name: str | None = None, content_type: str | None = None) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field.translate(_ESCAPED)}"'
    if name is not None:
        head += f'; filename="{name.translate(_ESCAPED)}"\r\nContent-Type: {content_type}'
    return (head + "\r\n\r\n").encode()
