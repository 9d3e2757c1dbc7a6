"""An outage of the database, in the log: when it begins, every 30 s while it lasts, and once it is over.

A node that has work fails many times a second then, one that has none not at all; so it is said here, where each of
them asks, and whoever catches one of these errors adds nothing.
"""

import logging
from collections.abc import Callable
from typing import Any

from service.errors import StoreUnavailable
from service.stores.postgres_lost import Busy

log = logging.getLogger("callsheet.stores")

EVERY_S = 30.0  # between two lines while it lasts
CALM_S = 3.0  # without a failure until it counts as over: a server that takes no writes still answers reads


class Outage:
    """Entered around what asks the database, outside of what translates errors; by many at a time.

    Beginning and end are warnings both: who hides one must not see the other.
    """

    def __init__(self, monotonic: Callable[[], float]):
        self._monotonic = monotonic
        self._watching = False
        self._began: float | None = None
        self._failed_at = self._said_at = 0.0
        self._back_at: float | None = None  # when something worked for the first time after the last failure

    def watch(self) -> None:
        """From now on: whoever opens the database says by itself that it cannot be used."""
        self._watching = True

    @property
    def lasts(self) -> bool:
        return self._began is not None

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if not self._watching:
            return
        if isinstance(error, StoreUnavailable) and not isinstance(error, Busy):
            error.level = logging.DEBUG
            self._failed(error, self._monotonic())
        elif error is None and self._began is not None:
            self._worked(self._began, self._monotonic())

    def _failed(self, error: StoreUnavailable, now: float) -> None:
        self._failed_at, self._back_at = now, None
        if self._began is None:
            self._began = self._said_at = now
            log.warning("%s; meanwhile work waits, and requests are refused with 503", error)
        elif now - self._said_at >= EVERY_S:
            self._said_at = now
            log.warning("%s; so for %.0f s", error, now - self._began)

    def _worked(self, began: float, now: float) -> None:
        if self._back_at is None:
            self._back_at = now
        if now - self._failed_at >= CALM_S:
            log.warning("the database can be used again, after %.1f s", self._back_at - began)
            self._began = self._back_at = None
