"""The fleet: which nodes run the loops of one database now, and how much of each limit is this node's.

Every node keeps one row of its own, renewed each second, that counts for `TERM_S`. A concurrency limit is divided among
the nodes that count; what cannot be divided, such as a rate, is one node's whole. So a limit holds for all nodes
together, and no row is written by more than one of them.

Nodes learn of a change one after another. Each says in its row by which view of the fleet it acts, and keeps to the
least that the views leave it which it has seen since the last one that was common; a view is common once the row of
every node in it says so. So a node that is new begins with nothing, and what one gives up is given up before another
takes it. What is under way at that moment is not called back.

A node that is new counts for the others once it has been there for `PROVING_S`, so that one which dies at each start
takes nothing from them. Where all are new, all count. Two groups that do not know of each other cannot come about: who
acts has a row that everybody reads, and of two nodes that left each other out the older one was proven, or was there
first, in the eyes of the younger.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from service.clock import Clock
from service.stores import Peer, Store

TERM_S = 5.0  # how long a node counts for the others after it was heard of last
OWN_TERM_S = 4.5  # and for itself: clocks are rounded, and do not run alike
PROVING_S = 3.0
BEAT_S = 1.0
LOOK_S = 0.2  # between beats until a view is common


class _View(NamedTuple):
    """The nodes that count, in order; `place` is ours, where we are among them. `name` is what rows say."""

    nodes: tuple[int, ...]
    place: int | None
    name: int

    def share(self, limit: int, key: int) -> int:
        if self.place is None:
            return 0
        count = len(self.nodes)
        return limit // count + ((self.place + key) % count < limit % count)

    def owns(self, key: int) -> bool:
        return self.place is not None and key % len(self.nodes) == self.place


NOBODY = _View((), None, 0)


class Fleet:
    """This node's standing, renewed as long as anything is under way. `share` and `owns` answer from memory."""

    def __init__(self, *, clock: Clock, node: int):
        self._clock, self._node = clock, node
        self._store: Store | None = None
        self._views = [NOBODY]  # the common one, and those seen since; the newest is the last
        self._until = float("-inf")  # of the monotonic clock
        self.shared = False  # whether there was ever another node

    @property
    def settled(self) -> bool:
        """Whether this node acts by a view that is common."""
        return len(self._views) == 1 and self._views[0].place is not None and self._clock.monotonic() < self._until

    def share(self, limit: int, key: int) -> int:
        """How much of a limit may be used here. Those of one key add up to the limit; keys differ in whose is odd."""
        if self._clock.monotonic() >= self._until:
            return 0
        return min(view.share(limit, key) for view in self._views)

    def owns(self, key: int) -> bool:
        """Whether what this key names is this node's alone."""
        return self._clock.monotonic() < self._until and all(view.owns(key) for view in self._views)

    async def renew(self) -> float:
        """Beat; in how many seconds again. Raises `StoreUnavailable`."""
        await self.beat()
        return BEAT_S if self.settled else LOOK_S

    async def join(self, store: Store) -> None:
        """Begin to count among the nodes of this database. Raises `StoreUnavailable`."""
        self._store = store
        await self.beat()

    async def beat(self) -> None:
        """Say that this node is there, and see who else is. Raises `StoreUnavailable`."""
        for store in (self._store, self._store):
            if store is None:
                return
            asked, said = self._clock.monotonic(), self._views[-1]
            roster = await store.beat(self._node, said.name, int(TERM_S * 1000), int(PROVING_S * 1000))
            lapsed = self._clock.monotonic() >= self._until  # the others may have stopped counting this node
            self._until = asked + OWN_TERM_S
            if roster is None:
                self._views, self._until = [_view((self._node,), self._node)], float("inf")
                return
            if not lapsed:
                self._see(said, roster)
                return
            self._views = [NOBODY]  # and look once more: who looks from now on sees this node

    def _see(self, said: _View, roster: Sequence[Peer]) -> None:
        """`said` is what our row said when the roster was read, ours among it."""
        self.shared = self.shared or len(roster) > 1
        newest, named = self._views[-1], {node for view in self._views for node in view.nodes}
        # Whoever a row of ours named may act by it, proven or not.
        proven = [peer.node for peer in roster if peer.proven or peer.node in named]
        nodes = tuple(sorted(proven or [peer.node for peer in roster]))
        if nodes != newest.nodes:
            newest = _view(nodes, self._node)
            self._views = [*self._views, newest]
        # A row of ours that says another view may just now be taken for our word on it.
        agreed = all(peer.view == newest.name for peer in roster if peer.node in nodes and peer.node != self._node)
        if agreed and said.name in (newest.name, NOBODY.name):
            self._views = [newest]

    async def leave(self) -> None:
        """Nothing of this node is under way any more: the others may have its share. Raises `StoreUnavailable`."""
        store, self._store = self._store, None
        self._views, self._until = [NOBODY], float("-inf")
        if store is not None:
            await store.leave(self._node)


def _view(nodes: tuple[int, ...], node: int) -> _View:
    digest = hashlib.blake2b(repr(nodes).encode(), digest_size=7).digest()
    return _View(nodes, nodes.index(node) if node in nodes else None, int.from_bytes(digest) + 1)
