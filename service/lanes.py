"""Who may be sent to now: concurrency, rate and circuit of each lane (an endpoint, or a callback URL's origin)."""

from service.clock import Clock
from service.limits import TokenBucket
from service.loops import InFlight
from service.stores import Offer

FAILURES_TO_OPEN = 5  # in a row; then one probe at a time
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0


class _Circuit:
    __slots__ = ("failures", "open_until", "pause")

    def __init__(self) -> None:
        self.failures, self.pause, self.open_until = 0, FIRST_PAUSE_S, 0.0


class Lanes:
    """Circuits and rates are this process's own; `room` is asked on the database's thread and only reads."""

    def __init__(self, *, per_lane: int, total: int, clock: Clock, sending: bool):
        self.flying = InFlight(per_key=per_lane, total=total)
        self._clock, self._sending = clock, sending
        self._circuits: dict[int, _Circuit] = {}
        self._buckets: dict[int, tuple[float, TokenBucket]] = {}

    def room(self, lane: int) -> int:
        """How many more attempts may start on this lane now."""
        room = self.flying.room(lane)
        circuit = self._circuits.get(lane)
        if circuit is not None and circuit.failures >= FAILURES_TO_OPEN:
            if self._clock.monotonic() < circuit.open_until or self.flying.count(lane):
                return 0
            room = min(room, 1)
        bucket = self._buckets.get(lane)
        return room if bucket is None else min(room, int(bucket[1].level()))

    def offer(self) -> Offer:
        """Promises for one transaction: each lane's free slots, counted down as they are promised."""
        left: dict[int, int] = {}
        total = self.flying.room(0) if self._sending else 0

        def take(lane: int) -> bool:
            nonlocal total
            free = left.get(lane)
            if free is None:
                free = left[lane] = self.room(lane)
            if total <= 0 or free <= 0:
                return False
            left[lane], total = free - 1, total - 1
            return True

        return take

    def limit(self, lane: int, rate: float | None) -> None:
        """Note an attempt that starts now against the lane's rate (attempts a second), where it has one."""
        if rate is None:
            self._buckets.pop(lane, None)
            return
        known = self._buckets.get(lane)
        if known is None or known[0] != rate:
            known = self._buckets[lane] = (rate, TokenBucket(rate, max(1.0, rate), self._clock))
        known[1].take()

    def learned(self, lane: int, *, well: bool) -> None:
        """How an attempt went: failures in a row open the circuit, anything else closes it."""
        if well:
            self._circuits.pop(lane, None)
            return
        circuit = self._circuits.setdefault(lane, _Circuit())
        circuit.failures += 1
        if circuit.failures >= FAILURES_TO_OPEN:
            circuit.open_until = self._clock.monotonic() + circuit.pause
            circuit.pause = min(circuit.pause * 2, LONGEST_PAUSE_S)
