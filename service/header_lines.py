"""Headers as they come off the way: several lines of one name are one list to HTTP (RFC 9110 section 5.3), so that a
gateway may join them at commas, or split a value that has a comma into two lines. Pure.
"""

import re
from collections.abc import Iterator, Mapping

_BETWEEN = re.compile(r"[,\t ]+")


def lines_of(headers: Mapping[str, str], name: str) -> str | None:
    """All lines of this name (in lower case), in any case, as one; None where there is none."""
    lines = [value for given, value in headers.items() if given.lower() == name]
    return ", ".join(lines) if lines else None


def items(value: str) -> list[str]:
    """What stands between commas and blanks, however they were written."""
    return [item for item in _BETWEEN.split(value) if item]


def tagged_items(value: str, tag: re.Pattern[str]) -> Iterator[str]:
    """`tag,text` for the one text behind each tag, wherever the comma between them went."""
    current = None
    for item in items(value):
        if tag.fullmatch(item):
            current = item
        elif current is not None:
            yield f"{current},{item}"
            current = None


def spellings_of_one(value: str) -> tuple[str, ...]:
    """What a header of one value may say: the value, and where every line repeats it, the value of one line.

    Empty where lines differ: which of them the sender signed is not for us to choose.
    """
    parts = [part.strip("\t ") for part in value.split(",")]
    if len(parts) == 1:
        return (value,)
    as_it_is = () if re.search(r"[\t ]", value) else (value,)  # what has commas of its own is one value, too
    for count in range(1, len(parts)):
        if parts == parts[:count] * (len(parts) // count):
            return (*as_it_is, ",".join(parts[:count]))
    return as_it_is
