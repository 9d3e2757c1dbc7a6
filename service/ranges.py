"""Byte ranges (RFC 9110 section 14), one at a time: read, measured against a length, cut out of a stream. Pure."""

import re
from collections.abc import AsyncIterator

from service.errors import Unsatisfiable
from service.states import Record

_RANGE = re.compile(r"bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes\s+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)\s*", re.IGNORECASE)


class Range(Record, frozen=True, kw_only=True):
    """What a client asks for: from `first` to `last`, both included; without `first` the last `last` bytes."""

    first: int | None
    last: int | None

    def __str__(self) -> str:
        return f"bytes={'' if self.first is None else self.first}-{'' if self.last is None else self.last}"

    @property
    def everything(self) -> bool:
        """It is all there is, whatever the length."""
        return self.first == 0 and self.last is None

    @property
    def closed(self) -> tuple[int, int] | None:
        """Start and end (not included) where they need no length."""
        return None if self.first is None or self.last is None else (self.first, self.last + 1)

    def span(self, length: int) -> tuple[int, int]:
        """Start and end (not included) in so many bytes. Raises `Unsatisfiable` where none of them is meant."""
        if self.first is None:
            start, end = max(0, length - (self.last or 0)), length
        else:
            start, end = self.first, length if self.last is None else min(self.last + 1, length)
        if start >= end:
            raise beyond(length)
        return start, end


def read_range(header: str | None) -> Range | None:
    """The one range of a `Range` header; None where there is none, are several, or it cannot be read: all is sent."""
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None or not (found[1] or found[2]):
        return None
    first, last = (int(text) if text else None for text in found.groups())
    if first is not None and last is not None and last < first:
        return None
    return Range(first=first, last=last)


def read_content_range(header: str | None) -> tuple[int, int, int | None] | None:
    """Start, end (not included) and the whole length, where that is said, of a `Content-Range` header."""
    found = _CONTENT_RANGE.fullmatch(header.strip()) if header else None
    if found is None or int(found[2]) < int(found[1]):
        return None
    length = None if found[3] == "*" else int(found[3])
    return None if length is not None and int(found[2]) >= length else (int(found[1]), int(found[2]) + 1, length)


def content_range(start: int, end: int, length: int | None) -> str:
    """`end` is not included; a length that is not known is `*`."""
    return f"bytes {start}-{end - 1}/{'*' if length is None else length}"


def beyond(length: int | None) -> Unsatisfiable:
    known = f"It has {length} bytes" if length is not None else "It is shorter than that"
    return Unsatisfiable(f"{known}: ask for a range that begins before its end.", length=length)


async def cut(chunks: AsyncIterator[bytes], start: int, end: int) -> AsyncIterator[bytes]:
    """The bytes from `start` up to but not including `end`, of those that the stream has; then it is read no more."""
    at = 0
    async for chunk in chunks:
        piece = chunk[max(0, start - at) : max(0, end - at)]
        at += len(chunk)
        if piece:
            yield piece
        if at >= end:
            return
