"""Who may be sent to now: slots, rate and circuit of each lane (an endpoint, or a callback URL's origin).

What a lane may have under way is divided among the nodes of the fleet; a lane with a rate is one node's whole.
A lane earns its slots: it starts with one, a success doubles them, a refusal halves them, silence takes them back.
Lanes of one slot share half of the node, so that any number of dead endpoints leaves the other half to the rest.
"""

import collections
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

from service.clock import Clock
from service.fleet import Fleet
from service.in_flight import InFlight
from service.limits import TokenBucket
from service.stores import Offer, Room

FAILURES_TO_OPEN = 5  # in a row; then one probe at a time
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0
PROMISE_S = 2.0  # how long a slot is kept for a delivery whose transaction is being committed
ELSEWHERE_S = 0.001  # another node is to send it, and looks for it by itself
RATE_S = 60.0  # how long a rate is believed in without a look at the endpoint
MOST_LANES = 10_000  # remembered, besides those in use


class _Lane:
    __slots__ = ("bucket", "failures", "open_until", "pause", "rate", "rate_since", "rate_until", "slots", "used_at")

    def __init__(self, now: float) -> None:
        self.slots, self.failures, self.pause, self.open_until = 1, 0, FIRST_PAUSE_S, 0.0
        self.rate: float | None = None
        self.rate_since: float | None = None  # from when on it is this node's to count
        self.rate_until = 0.0
        self.bucket: TokenBucket | None = None
        self.used_at = now


class Lanes:
    """This process's own view of the lanes; `room` and offers are asked on the database's thread."""

    def __init__(self, *, per_lane: int, total: int, clock: Clock, sending: bool, fleet: Fleet):
        self.flying = InFlight(per_key=per_lane, total=total)
        self.sending = sending  # False: nothing is born with a lease of ours
        self._per_lane, self._clock, self._fleet = per_lane, clock, fleet
        self._lanes: dict[int, _Lane] = {}
        self._unproven = 0  # attempts under way on lanes of one slot
        self._promised: dict[int, tuple[float, int, bool]] = {}  # when, for which lane, whether it was of one slot
        self._promises: collections.Counter[int] = collections.Counter()  # of each lane
        self._promised_unproven = 0
        self._asked: dict[int, int] = {}  # of each lane, by the claim under way
        self._count = 0
        self._promising = threading.Lock()

    def room(self, lane: int) -> int:
        """How many more attempts may start on this lane now."""
        known = self._lanes.get(lane)
        slots = known.slots if known is not None else 1
        room = min(min(slots, self._fleet.share(self._per_lane, lane)) - self.flying.count(lane), self.flying.free)
        if slots == 1:
            room = min(room, self.flying.total // 2 - self._unproven)
        if known is not None and known.failures >= FAILURES_TO_OPEN and self._clock.monotonic() < known.open_until:
            return 0
        if known is not None and known.rate is not None:
            room = min(room, self._rated(lane, known))
        return max(0, room)

    def _rated(self, lane: int, known: _Lane) -> int:
        """How many its rate lets go here now. On another node's lane one goes to look, now and then."""
        if not self._fleet.owns(lane):
            return int(self._clock.monotonic() >= known.rate_until)
        return 1 if known.bucket is None else int(known.bucket.level())

    @contextlib.contextmanager
    def claiming(self) -> Iterator[Room]:
        """`room` for the lanes of one claim, whose attempts are started inside.

        What lanes of one slot share is counted down as it is given. No slot is given to the claim and promised as well.
        """
        left = self.flying.total // 2 - self._unproven

        def room(lane: int) -> int:
            nonlocal left
            with self._promising:
                free, known = self.room(lane) - self._promises[lane], self._lanes.get(lane)
                if known is None or known.slots == 1:
                    free = min(free, left)
                    left -= free
                self._asked[lane] = max(0, free)
                return self._asked[lane]

        try:
            yield room
        finally:
            self._asked = {}

    def offer(self) -> Offer:
        """For one transaction: promises free slots, which `start` redeems and `PROMISE_S` lets go."""
        return self._promise

    def _promise(self, lane: int) -> bool:
        if not self.sending:
            return False
        with self._promising:
            now = self._clock.monotonic()
            while self._promised and next(iter(self._promised.values()))[0] < now - PROMISE_S:
                self._let_go(next(iter(self._promised)))  # its transaction was undone, or its caller is gone
            known = self._lanes.get(lane)
            unproven = known is None or known.slots == 1
            if self.room(lane) <= self._promises[lane] + self._asked.get(lane, 0):
                return False
            if unproven and self._unproven + self._promised_unproven >= self.flying.total // 2:
                return False
            if self.flying.free <= len(self._promised):
                return False
            self._count += 1
            self._promised[self._count] = (now, lane, unproven)
            self._promises[lane] += 1
            self._promised_unproven += unproven
            return True

    def _let_go(self, number: int) -> None:
        _, lane, unproven = self._promised.pop(number)
        self._promised_unproven -= unproven
        self._promises[lane] -= 1
        if not self._promises[lane]:
            del self._promises[lane]

    def start(self, lane: int, work: Coroutine[Any, Any, None], *, promised: bool) -> None:
        """Run one attempt in this lane's slots."""
        if promised:
            with self._promising:
                mine = next((n for n, entry in self._promised.items() if entry[1] == lane), None)
                if mine is not None:
                    self._let_go(mine)
        self._known(lane)
        self.flying.start(lane, self._counted(lane, work))

    async def _counted(self, lane: int, work: Coroutine[Any, Any, None]) -> None:
        if self._lanes[lane].slots > 1:
            await work
            return
        self._unproven += 1
        try:
            await work
        finally:
            self._unproven -= 1

    def over(self, lane: int) -> float:
        """Seconds that what was started has to wait as less of the lane is this node's than when it was claimed."""
        return ELSEWHERE_S if self.flying.count(lane) > self._fleet.share(self._per_lane, lane) else 0.0

    def limit(self, lane: int, rate: float | None) -> float:
        """Seconds that an attempt has to wait for the lane's rate (attempts a second); 0.0 lets it go now."""
        known = self._known(lane)
        if rate is None:
            known.rate = known.bucket = None
            return 0.0
        since = self._fleet.since(lane)
        if since is None:
            known.rate, known.bucket, known.rate_until = rate, None, self._clock.monotonic() + RATE_S
            return ELSEWHERE_S
        back = self._fleet.shared and known.rate_since != since
        if known.bucket is None or known.rate != rate or back:
            known.rate, known.rate_since = rate, since
            known.bucket = TokenBucket(rate, max(1.0, rate), self._clock, empty=self._fleet.shared)
        return known.bucket.take()

    def learned(self, lane: int, *, well: bool, answered: bool) -> None:
        """How an attempt went. Failures in a row open the circuit; what failed together counts once."""
        known, now = self._known(lane), self._clock.monotonic()
        known.used_at = now
        if well:
            known.slots = min(known.slots * 2, self._per_lane)
            known.failures, known.pause = 0, FIRST_PAUSE_S
            return
        known.slots = max(1, known.slots // 2) if answered else 1
        if known.failures >= FAILURES_TO_OPEN and now < known.open_until:
            return
        known.failures += 1
        if known.failures >= FAILURES_TO_OPEN:
            known.open_until = now + known.pause
            known.pause = min(known.pause * 2, LONGEST_PAUSE_S)

    def _known(self, lane: int) -> _Lane:
        known = self._lanes.get(lane)
        if known is None:
            if len(self._lanes) >= MOST_LANES:
                self._forget()
            known = self._lanes[lane] = _Lane(self._clock.monotonic())
        return known

    def _forget(self) -> None:
        """A quarter of them, those that were not used for longest. What is under way stays."""
        kept = sorted(self._lanes, key=lambda n: self._lanes[n].used_at, reverse=True)[: MOST_LANES * 3 // 4]
        self._lanes = {n: self._lanes[n] for n in (*kept, *(n for n in self._lanes if self.flying.count(n)))}
