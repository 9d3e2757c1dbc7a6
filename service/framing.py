"""What a request may carry out of the door: its method and headers, judged before anything is dialled."""

import re
from collections.abc import Mapping

import msgspec

from service.errors import EgressDenied

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_FRAMING = frozenset(
    "host content-length transfer-encoding connection keep-alive expect upgrade te trailer accept-encoding "
    "proxy-authorization proxy-connection".split()
)


class Outgoing(msgspec.Struct, frozen=True):
    """A request. The framing headers (Host, Content-Length, Accept-Encoding, ...) are the door's: given ones drop."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""


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
