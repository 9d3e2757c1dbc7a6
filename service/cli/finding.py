"""What the doctor finds."""

from typing import Any, NamedTuple


class Finding(NamedTuple):
    """`state` is ok, warning or failed. `data`: the figures behind `detail`, for programs."""

    check: str
    state: str
    detail: str
    data: Any = None
