"""Requests of our own that come back to us: they are marked as they leave, and refused where they arrive.

An endpoint may be this very service under another name, or a provider's base URL may; an event would then make the
next one. The mark is a MAC under the master key, of nothing that is secret: the same on all nodes and after a restart,
another installation's is another, so that two of them can call each other, and nobody can make one. Who has seen one
can have requests of their own refused by it, and no more.
Proxies keep it, as they keep any header. What goes through several installations carries the marks of all.
"""

import base64
from collections.abc import Mapping

from service.crypto import Vault
from service.errors import Forbidden

SENDER = "callsheet-sender"
MOST_CHARS = 1_024  # of the marks that are sent on
READING = frozenset({"GET", "HEAD", "OPTIONS"})
_PURPOSE = "own requests"
_REFUSED = (
    "This request comes from this very service, as its header Callsheet-Sender says: an endpoint, a callback_url or a"
    " provider's base URL leads back here. Point it elsewhere; what forwards deliveries on purpose leaves it out."
)


class OwnRequests:
    def __init__(self, vault: Vault):
        self._vault = vault
        self.mark = base64.urlsafe_b64encode(vault.mac(_PURPOSE, b"")).rstrip(b"=").decode()

    def refuse(self, method: str, headers: Mapping[str, str], *, passes: bool) -> None:
        """Raise `Forbidden` for a request of ours that would change anything, or (`passes`) would be sent on.

        What only reads may come from ourselves: an output of one job is a good input of the next.
        """
        sent = headers.get(SENDER)
        if sent is not None and (passes or method not in READING) and any(map(self._is_ours, sent.split(","))):
            raise Forbidden(_REFUSED, code="own_request")

    def _is_ours(self, mark: str) -> bool:
        text = mark.strip()
        try:
            tag = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except ValueError:
            return False
        return self._vault.mac_matches(_PURPOSE, b"", tag)


def chained(earlier: str, mark: str) -> str:
    """The marks that a request came with, and ours behind them."""
    return f"{earlier[:MOST_CHARS]}, {mark}"
