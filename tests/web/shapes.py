"""Answers against their schemas."""

from typing import Any

import msgspec


def has_exactly(shown: dict[str, Any], kind: Any) -> None:
    """The answer has the fields of its schema, no more, no less, and of its types."""
    assert set(shown) == {field.name for field in msgspec.structs.fields(kind)}
    msgspec.convert(shown, kind)
