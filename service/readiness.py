"""Whether an accept could be kept now, for askers without a key: however many they are, they cost a commit a second."""

from service.clock import Clock
from service.errors import StoreUnavailable
from service.once import Once
from service.stores import Store

HOLDS_S = 1.0


class Readiness:
    def __init__(self, store: Store, clock: Clock):
        self._store, self._once = store, Once[str, StoreUnavailable | None](clock, lambda _: HOLDS_S)

    async def check(self) -> None:
        """Raises `StoreUnavailable` where an accept could not be kept, as it was a moment ago."""
        if (refusal := await self._once.get("store", self._ask)) is not None:
            raise refusal.with_traceback(None)

    async def _ask(self) -> StoreUnavailable | None:
        try:
            await self._store.check()
        except StoreUnavailable as refusal:
            return refusal
        return None
