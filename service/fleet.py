"""The fleet: how much of each limit is this node's, of the nodes that run the loops of one database.

The database has `SEATS` seats, each a row with a lease that its holder renews every second. Who holds a seat may use
what belongs to it: of a concurrency limit its part, and what cannot be divided, such as a rate, is the whole of one
seat's. So a limit holds for all nodes together, and no row is written by two of them at a time.

A node takes seats that nobody holds, up to its fair part, and gives up what is more than that: it stops using a seat
before it lets go of it, and by its own clock before the lease ends. What is under way then is not called back. Seats
are given up only for nodes that have been there for `PROVING_S`: one that dies at each start takes none from others.
"""

from collections.abc import Iterable

from service.clock import Clock
from service.stores import SEATS, Store, fair_part

TERM_S = 5.0  # how long a seat is a node's after it was renewed last
OWN_TERM_S = 4.5  # in its own eyes: clocks are rounded, and do not run alike
PROVING_S = 3.0
BEAT_S = 1.0
SPREAD = 27  # odd: keys that follow each other have seats that are far apart, as a node's seats are neighbors
LOOK_S = 0.2  # between beats while there is a seat to be had, or to be given


class Fleet:
    """This node's seats, renewed as long as anything is under way. `share` and `owns` answer from memory."""

    def __init__(self, *, clock: Clock, node: int):
        self._clock, self._node = clock, node
        self._store: Store | None = None
        self._seats: dict[int, float] = {}  # and since when each is this node's without a break, by the monotonic clock
        self._giving: list[int] = []  # seats that are not used any more
        self._until = float("-inf")  # of the monotonic clock
        self.shared = False  # whether there was ever another node

    @property
    def settled(self) -> bool:
        """Whether anything is this node's."""
        return bool(self._seats) and self._clock.monotonic() < self._until

    def share(self, limit: int, key: int) -> int:
        """How much of a limit may be used here. Those of one key add up to the limit; keys differ in whose is odd."""
        if self._clock.monotonic() >= self._until:
            return 0
        seats = self._seats
        if len(seats) == SEATS:
            return limit
        each, rest = divmod(limit, SEATS)
        return each * len(seats) + sum((key * SPREAD + SEATS * n // rest) % SEATS in seats for n in range(rest))

    def owns(self, key: int) -> bool:
        """Whether what this key names is this node's alone."""
        return self.since(key) is not None

    def since(self, key: int) -> float | None:
        """From when on it is, with nobody else's use of it between; None where it is not. Another value: another time.

        What this node counted in an earlier time leaves out what others did with it since.
        """
        return self._seats.get(key * SPREAD % SEATS) if self._clock.monotonic() < self._until else None

    async def join(self, store: Store) -> None:
        """Begin to count among the nodes of this database. Raises `StoreUnavailable`."""
        self._store = store
        await self.beat()

    async def renew(self) -> float:
        """Beat; in how many seconds again. Raises `StoreUnavailable`."""
        await self.beat()
        return LOOK_S if self._giving or not self._seats else BEAT_S

    async def beat(self) -> None:
        """Renew the seats, let go of what was given up, take what is free. Raises `StoreUnavailable`."""
        if self._store is None:
            return
        asked = self._clock.monotonic()
        held = await self._store.beat(self._node, self._giving, int(TERM_S * 1000), int(PROVING_S * 1000))
        if held is None:
            self._have(range(SEATS), float("inf"))
            return
        self.shared = self.shared or held.nodes > 1
        seats = sorted(held.seats)
        keep = fair_part(held.proven)
        self._giving = seats[keep:]
        self._have(seats[:keep], asked + OWN_TERM_S)

    async def leave(self) -> None:
        """Nothing of this node is under way any more: the others may have its seats. Raises `StoreUnavailable`."""
        store, self._store = self._store, None
        self._giving = []
        self._have((), float("-inf"))
        if store is not None:
            await store.leave(self._node)

    def _have(self, seats: Iterable[int], until: float) -> None:
        """A seat that was renewed before its time was over is still the same: nobody else had it between."""
        now = self._clock.monotonic()
        before = self._seats if now < self._until else {}
        self._seats, self._until = {seat: before.get(seat, now) for seat in seats}, until
