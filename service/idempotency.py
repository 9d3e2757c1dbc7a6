"""The `Idempotency-Key` of a submit."""

import re

from service.errors import BadRequest

_QUOTED_KEY = re.compile(r'"((?:[!#-\[\]-~]|\\["\\])+)"')
_BARE_KEY = re.compile(r"[!#-~][!-~]*")


def idempotency_key(text: str | None) -> str | None:
    """The inner text of a structured-field string, or a bare one. Raises 400 where it is neither."""
    if text is None:
        return None
    quoted, bare = _QUOTED_KEY.fullmatch(text.strip()), _BARE_KEY.fullmatch(text.strip())
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else bare[0] if bare else ""
    if not 1 <= len(key) <= 255:
        raise BadRequest(
            "Idempotency-Key takes 1 to 255 visible ASCII characters, bare or in double quotes.",
            code="bad_idempotency_key",
            param="Idempotency-Key",
        )
    return key
