"""What commands print: JSON for scripts, else plain aligned text."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

Json = dict[str, Any]
GAP = "  "


class Printer:
    """Results go to stdout; what is said about them to stderr, so that a script can take one without the other."""

    def __init__(self, *, as_json: bool):
        self.as_json = as_json

    def page(self, page: Json, columns: str) -> None:
        """One page of a list, as a table of the named fields (`a.b` is a field within a field)."""
        if self.as_json:
            self.raw(page)
            return
        names = columns.split()
        click.echo(
            table([name.upper() for name in names], [[cell(row, name) for name in names] for row in page["data"]])
        )
        if page.get("next_cursor"):
            click.echo("there are more: --limit or --all", err=True)

    def record(self, record: Json) -> None:
        """One object, a field per line."""
        if self.as_json:
            self.raw(record)
            return
        width = max(map(len, record), default=0)
        for name in record:
            click.echo(f"{name:<{width}}{GAP}{cell(record, name)}")

    def said(self, reply: Any, sentence: str) -> None:
        """A sentence that says what is so now, or the reply itself."""
        if self.as_json:
            self.raw(reply)
        else:
            click.echo(sentence)

    def raw(self, reply: Any) -> None:
        """JSON on one line; where the terminal has no Unicode, in ASCII, which means the same."""
        unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        click.echo(json.dumps(reply, ensure_ascii=not unicode))


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under their titles."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = [GAP.join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in (titles, *rows)]
    return "\n".join(line.rstrip() for line in lines)


def cell(row: Json, name: str) -> str:
    """A field as text on one line: providers and clients wrote some of it, so control characters do not pass."""
    value: Any = row
    for step in name.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if value is None or value == [] or value == {}:
        return "-"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = " ".join(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def seconds(value: float) -> str:
    """A span as people say it: 0.4 s, 12 s, 3 min."""
    if value < 10:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min"
