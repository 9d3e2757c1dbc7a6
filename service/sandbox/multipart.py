"""Reads a form that is in memory: enough for the providers' uploads."""

import re
from urllib.parse import parse_qsl

import msgspec

BOUNDARY = re.compile(r'boundary="?([^";,]+)"?', re.IGNORECASE)
NAME = re.compile(rb'[; ]name="?([^";\r\n]+)"?', re.IGNORECASE)
FILE_NAME = re.compile(rb'[; ]filename="?([^";\r\n]*)"?', re.IGNORECASE)


class Part(msgspec.Struct, frozen=True):
    """One field of the form, or one file."""

    head: bytes
    content: bytes

    @property
    def text(self) -> str:
        """The content of a field."""
        return self.content.decode(errors="replace")

    @property
    def name(self) -> str:
        """The field's name; empty where it has none."""
        named = NAME.search(self.head)
        return named[1].decode(errors="replace") if named else ""

    @property
    def file_name(self) -> str | None:
        """The name of a file; None for a field that is none."""
        named = FILE_NAME.search(self.head)
        return named[1].decode(errors="replace") if named else None


def read_form(content_type: str, body: bytes) -> dict[str, Part]:
    """The parts by name; what is not a form has none."""
    return {part.name: part for part in read_parts(content_type, body)}


def read_parts(content_type: str, body: bytes) -> list[Part]:
    """All parts that have a name, in their order; a name may come more than once."""
    if content_type.lower().startswith("application/x-www-form-urlencoded"):
        return [
            Part(f'; name="{name}"'.encode(), text.encode()) for name, text in parse_qsl(body.decode(errors="replace"))
        ]
    found = BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/form-data") or found is None:
        return []
    delimiter = b"\r\n--" + found[1].encode()
    pieces = (b"\r\n" + body).split(delimiter)[1:-1]
    parts = [Part(head, content) for head, _, content in (piece.partition(b"\r\n\r\n") for piece in pieces)]
    return [part for part in parts if part.name]
