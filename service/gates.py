"""Gates: which credentials may submit now. A provider's limits hold submits in `queued`; they never fail for them.

Five reasons close one: the credential is paused (the provider refuses it), it is on trial (it was resumed, and one
submit at a time tries it until one is accepted), it was told to wait (429, a full queue), as many of its jobs run at
the provider as its setting allows, or its rate is used up. A credential on trial, or with such a setting, is submitted
for by one node of the fleet; any node may do it for the others.

Pauses and trials are the database's, so that they outlast every process. Whose turn it is to try is not kept: it is
the owner's of the credential's seat, and where that dies its seat goes to another node within seconds.
"""

import collections
import contextlib
from collections.abc import Callable, Iterator, Mapping

from service.clock import Clock
from service.facts import NotNow
from service.fleet import Fleet
from service.limits import TokenBucket
from service.models import Credential
from service.retries import MAX_HOLD_S, named_wait
from service.rules_submit import CREDENTIAL_PAUSED
from service.settings import ProviderSettings
from service.states import Record
from service.stores import Room, Store

REREAD_S = 1.0  # within this a pause made, or ended, by another process is seen
FIRST_HOLD_S = 2.0
LONGEST_HOLD_S = 60.0  # where the provider names no time itself
ON_TRIAL = "credential_on_trial"


class Sent(Record, frozen=True, kw_only=True):
    """A submit on its way. `probe`: it tries whether its credential is taken again."""

    at: int
    probe: bool = False
    api_key: str | None = None  # that it was sent with


class _Hold:
    """What a provider's "not now" means for the submits behind it."""

    __slots__ = ("pause", "reason", "until")

    def __init__(self, reason: str, until: float, pause: float):
        self.reason, self.until, self.pause = reason, until, pause


class Gates:
    """One process's view. `of` gives a credential by number; `settings` are those of the providers."""

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        of: Callable[[int], Credential | None],
        settings: Mapping[str, ProviderSettings],
        clock: Clock,
    ):
        self._store, self._fleet, self._of, self._settings, self._clock = store, fleet, of, settings, clock
        self._paused: dict[int, str] = {}
        self._on_trial: frozenset[int] = frozenset()
        self._resumed: dict[int, int] = {}  # when each was last resumed, as far as this process knows
        self._closing: collections.Counter[int] = collections.Counter()  # being paused by this process
        self._holds: dict[int, _Hold] = {}
        self._buckets: dict[int, tuple[float | None, TokenBucket]] = {}  # and from when on it is ours to count
        self._running: dict[int, int] = {}  # at the provider or on the way, as the database last said
        self._asked: set[int] = set()  # by the claims since then
        self._since: collections.Counter[int] = collections.Counter()  # claimed here since the database was asked
        self._uncounted = False
        self._leaving: collections.Counter[int] = collections.Counter()  # claimed here and not answered yet
        self._read_at = float("-inf")

    async def refresh(self, *, now: bool = False) -> None:
        """Read again what other processes may have changed. Once a step, or `now`."""
        if now:
            self._read_at = float("-inf")
        await self._reread()
        await self._count_running()

    async def _reread(self) -> None:
        if self._clock.monotonic() - self._read_at >= REREAD_S:
            self._read_at = self._clock.monotonic()
            gates = await self._store.gates()
            self._paused = {gate.num: gate.paused for gate in gates if gate.paused is not None}
            self._on_trial = frozenset(gate.num for gate in gates if gate.on_trial)
            for gate in gates:
                if gate.resumed_at is not None and gate.resumed_at != self._resumed.get(gate.num):
                    self._resumed[gate.num] = gate.resumed_at
                    self._holds.pop(gate.num, None)

    def met_uncounted(self) -> bool:
        """Whether the last claim met a credential that has yet to be counted: the next step knows more."""
        met, self._uncounted = self._uncounted, False
        return met

    async def _count_running(self) -> None:
        """Those that have work: the others are counted when they do."""
        asked, self._asked = self._asked, set()
        self._running = {num: count for num, count in self._running.items() if num in asked}
        for num in [num for num in self._running if self._fleet.owns(num)]:
            before = self._since[num]
            self._running[num] = await self._store.running(num)
            self._since[num] -= before

    def _at_provider(self, num: int) -> int:
        """One that was claimed while the database was asked may count twice, rather than never."""
        return self._running.get(num, 0) + self._since[num]

    def room(self, free: Room) -> Room:
        """How many submits of a credential may start: what is free here, and what its gate lets through."""

        def through(num: int) -> int:
            most = self._through(num)
            return max(0, min(free(num), most)) if most > 0 else 0  # what is free is counted where it is asked for

        return through

    def _through(self, num: int) -> int:
        if num in self._paused or self._closing[num]:
            return 0
        if not self.ours(num):
            self._running.pop(num, None)
            return 0
        hold, most = self._holds.get(num), 1 - self._leaving[num] if num in self._on_trial else 1_000_000
        if hold is not None:
            # One asks for all, until it is let in.
            most = 0 if self._clock.monotonic() < hold.until else 1 - self._leaving[num]
        if (limit := self._limit(num)) is not None:
            self._asked.add(num)
            if num not in self._running:  # not counted yet: full until the next step
                self._running[num], self._uncounted = limit, True
            most = min(most, limit - self._at_provider(num))
        if (bucket := self._bucket(num)) is not None:
            most = min(most, int(bucket.level()))
        return most

    def claimed(self, num: int) -> Sent:
        """One queued submit leaves: it counts from now on, before its row says so, until it is `answered`."""
        self._leaving[num] += 1
        self._since[num] += 1
        self.started(num)
        probe, now = num in self._on_trial, self._clock.now()
        # A clock that steps back must not make a probe look older than the resume that it follows.
        return Sent(at=max(now, self._resumed.get(num, 0)) if probe else now, probe=probe)

    @property
    def trials(self) -> frozenset[int]:
        """The credentials that are on trial, as far as this process knows."""
        return self._on_trial

    @contextlib.contextmanager
    def closed(self, num: int) -> Iterator[None]:
        """Nothing leaves while this process writes down that the credential is paused."""
        self._closing[num] += 1
        try:
            yield
        finally:
            self._closing[num] -= 1

    def started(self, num: int) -> None:
        """One submit more of the credential's rate. A job that was born as one that runs needs no other count."""
        if (bucket := self._bucket(num)) is not None:
            bucket.take()

    def answered(self, num: int) -> None:
        """What was claimed was answered, or it never left; its row says which."""
        self._leaving[num] -= 1

    async def told(self, num: int, fact: NotNow) -> None:
        """The provider took a submit not now, which may hold what is queued behind it. That submit's row says so."""
        if fact.whole and (not fact.while_running or await self._store.running(num) > 0):
            self.refused(num, fact)

    def refused(self, num: int, fact: NotNow) -> None:
        """The provider told the credential to wait: `fact.after_s`, or, where it names no time, longer each time.

        Those that had left together are refused together, which is one time.
        """
        before, now = self._holds.get(num), self._clock.monotonic()
        named, pause = named_wait(fact.after_s, MAX_HOLD_S), FIRST_HOLD_S
        if before is not None:
            again = now >= before.until and not named
            pause = min(before.pause * 2, LONGEST_HOLD_S) if again else before.pause
        until = now + (named or pause)
        self._holds[num] = _Hold(fact.reason, max(until, before.until if before else until), pause)

    def let_in(self, num: int) -> None:
        """A submit was accepted: the way is open. Where a hold still lasts it had left before, and says nothing."""
        hold = self._holds.get(num)
        if hold is not None and self._clock.monotonic() >= hold.until:
            del self._holds[num]

    def reason(self, num: int) -> str | None:
        """Why what is queued behind this gate waits; None where it is open."""
        if num in self._paused:
            return f"{CREDENTIAL_PAUSED}: {self._paused[num]}"
        hold = self._holds.get(num)
        if hold is not None and (self._clock.monotonic() < hold.until or self._leaving[num] > 0):
            return hold.reason
        if num in self._on_trial:
            return ON_TRIAL
        limit = self._limit(num)
        if limit is not None and self._at_provider(num) >= limit:
            return "concurrency"
        bucket = self._bucket(num)
        return "rate" if bucket is not None and bucket.level() < 1 else None

    async def explain(self, num: int) -> str | None:
        """`reason`, for who asks this node, whichever node submits for the credential."""
        await self._reread()
        reason, limit = self.reason(num), self._limit(num)
        if reason is None and limit is not None and not self.ours(num) and await self._store.running(num) >= limit:
            return "concurrency"
        return reason

    def ours(self, num: int) -> bool:
        """Whether this node may submit for it: any may where nothing has to be counted."""
        given = self._given(num)
        if num in self._on_trial:
            return self._fleet.owns(num)
        return given is None or (given.concurrency is None and given.rate is None) or self._fleet.owns(num)

    def _limit(self, num: int) -> int | None:
        given = self._given(num)
        return None if given is None else given.concurrency

    def _bucket(self, num: int) -> TokenBucket | None:
        given = self._given(num)
        if given is None or given.rate is None:
            return None
        made, since = self._buckets.get(num), self._fleet.since(num)
        if made is None or (self._fleet.shared and since not in (None, made[0])):
            bucket = TokenBucket(given.rate, max(1.0, given.rate), self._clock, empty=self._fleet.shared)
            made = self._buckets[num] = (since, bucket)
        return made[1]

    def _given(self, num: int) -> ProviderSettings | None:
        credential = self._of(num)
        return None if credential is None else self._settings.get(credential.provider)
