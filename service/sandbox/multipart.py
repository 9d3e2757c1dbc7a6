"""Reads a multipart form that is in memory: enough for the providers' uploads."""

import re

import msgspec

BOUNDARY = re.compile(r'boundary="?([^";,]+)"?', re.IGNORECASE)
NAME = re.compile(rb'[; ]name="?([^";\r\n]+)"?', re.IGNORECASE)


class Part(msgspec.Struct, frozen=True):
    """One field of the form, or one file."""

    head: bytes
    content: bytes

    @property
    def text(self) -> str:
        """The content of a field."""
        return self.content.decode(errors="replace")


def read_form(content_type: str, body: bytes) -> dict[str, Part]:
    """The parts by name; what is not a form has none."""
    found = BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/form-data") or found is None:
        return {}
    delimiter = b"\r\n--" + found[1].encode()
    parts = {}
    for piece in (b"\r\n" + body).split(delimiter)[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        if named := NAME.search(head):
            parts[named[1].decode(errors="replace")] = Part(head, content)
    return parts
