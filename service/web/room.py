"""How much of large bodies is in memory at a time: past it a caller is told to come back, and small ones go on."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import TooMany

SMALL_BYTES = 1024 * 1024  # what needs no counting
MOST_BYTES = 512 * 1024 * 1024  # on this node, half of it for one tenant


class Held:
    """What one request holds."""

    def __init__(self, room: "Room", tenant: int):
        self._room, self._tenant, self.size = room, tenant, 0

    def grow(self, size: int) -> None:
        """It holds so many bytes now. Raises `TooMany` where there is no room for them."""
        if size > max(SMALL_BYTES, self.size):
            self._room.take(self._tenant, size - self.size)
            self.size = size


class Room:
    def __init__(self, most: int = MOST_BYTES):
        self._most = most
        self._taken: Counter[int] = Counter()  # by tenant

    @contextmanager
    def held(self, tenant: int) -> Iterator[Held]:
        """For as long as the request is answered; 0 is a caller without a key."""
        held = Held(self, tenant)
        try:
            yield held
        finally:
            self._taken[tenant] -= held.size
            if not self._taken[tenant]:
                del self._taken[tenant]

    def take(self, tenant: int, size: int) -> None:
        mine, everybodys = self._taken[tenant] + size, self._taken.total() + size
        if mine > self._most // 2 or everybodys > self._most:
            raise TooMany("Too many large bodies are under way: try again in a moment.", retry_after=5)
        self._taken[tenant] += size
