"""Who may be connected: so many in all, so many from one address; those that ask nothing, or stall, make room first."""

import ipaddress
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol

from service.errors import Refusal, TooMany, Unavailable
from service.knobs import Network
from service.states import Record

IPV6_SUBSCRIBER_BITS = 64  # RFC 6177: nobody gets less than that, so that one of them is one peer
RETRY_S = 5
LOOKED_AT = 100  # of those that send a body, the longest first


class Limits(Record, frozen=True, kw_only=True):
    """What one node allows its peers; seconds and counts."""

    connections: int = 4_000
    per_peer: int = 0  # 0: no cap for each address
    proxies: Sequence[Network] = ()  # addresses that speak for many: no cap for these
    head_s: float = 10.0  # from its first byte, or from the connection's beginning, until a head is complete
    unread_s: float = 60.0  # that a client may take nothing of what was sent
    linger_s: float = 30.0  # for a client to see that we answered before it had sent everything
    linger_idle_s: float = 5.0  # between two pieces of that


class Guest(Protocol):
    """A connection, as the door sees it."""

    unwelcome: Refusal | None  # what its first request is answered with

    def make_room(self) -> None:
        """End at once."""

    def stalls(self) -> bool:
        """Whether the body of its request comes more slowly than anybody sends one."""


class Door:
    """Counts the connections of one node. A connection waits until a head is complete, and again after its answer."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._waiting: dict[Guest, None] = {}  # the longest first
        self._sending: dict[Guest, None] = {}  # a body; the longest first
        self._peers: defaultdict[str, dict[Guest, None]] = defaultdict(dict)
        self.count = 0  # that are open

    def enter(self, guest: Guest, address: str) -> str:
        """Let it in, or mark it as unwelcome; what it is counted under, for `leave`."""
        self.count += 1
        if self.count > self._limits.connections and not self._ended(self._waiting, self._sending):
            guest.unwelcome = Unavailable("This node has all the connections it can keep.", retry_after=RETRY_S)
        peer = counted(address, self._limits.proxies) if self._limits.per_peer else ""
        if peer:
            its = self._peers[peer]
            if len(its) >= self._limits.per_peer and not self._ended(its, its):
                guest.unwelcome = TooMany("Too many connections from this address.", retry_after=RETRY_S)
            its[guest] = None
        self._waiting[guest] = None
        return peer

    def leave(self, guest: Guest, peer: str) -> None:
        self.count -= 1
        self._waiting.pop(guest, None)
        self._sending.pop(guest, None)
        if peer:
            self._peers[peer].pop(guest, None)
            if not self._peers[peer]:
                del self._peers[peer]

    def asks(self, guest: Guest) -> None:
        """A head of it is complete."""
        self._waiting.pop(guest, None)
        self._sending[guest] = None

    def asked(self, guest: Guest) -> None:
        """So is the body."""
        self._sending.pop(guest, None)

    def waits(self, guest: Guest) -> None:
        """It was answered, and may ask again."""
        self._waiting[guest] = None

    def _ended(self, waiting: Iterable[Guest], sending: Iterable[Guest]) -> bool:
        """End the first that waits, or else the first whose body stalls; False where there is none."""
        found = itertools.chain(
            (guest for guest in waiting if guest in self._waiting),
            (guest for guest in itertools.islice(sending, LOOKED_AT) if guest in self._sending and guest.stalls()),
        )
        first = next(found, None)
        if first is None:
            return False
        # Before the loop tells that it is gone: the next one to come ends another.
        self._waiting.pop(first, None)
        self._sending.pop(first, None)
        first.make_room()
        return True


def counted(address: str, proxies: Sequence[Network]) -> str:
    """What stands for a peer: its IPv4 address, or the network of a subscriber; empty where it is a proxy or no IP."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    found = getattr(found, "ipv4_mapped", None) or found
    if any(found in network for network in proxies if network.version == found.version):
        return ""
    if found.version == 6:
        return str(ipaddress.ip_network((int(found), IPV6_SUBSCRIBER_BITS), strict=False))
    return str(found)
