"""Token buckets: a steady rate with a burst, for one key or one endpoint, in one process."""

import math

from service.clock import Clock

ROUNDING = 1e-6  # tokens; who waited exactly as long as told must not be told to wait for a float's last digit


class TokenBucket:
    """Holds at most `burst` tokens and gains `rate_per_s` of them each second of the monotonic clock.

    Full at first, unless another one of the same rate may just have been used: then it begins `empty`.
    """

    __slots__ = ("_burst", "_clock", "_filled_at", "_rate_per_s", "_tokens")

    def __init__(self, rate_per_s: float, burst: float, clock: Clock, *, empty: bool = False):
        if not (0 < rate_per_s < math.inf and 1 <= burst < math.inf):
            raise ValueError("a token bucket needs a rate above 0 and a burst of 1 or more")
        self._rate_per_s = rate_per_s
        self._burst = float(burst)
        self._clock = clock
        self._tokens = 0.0 if empty else float(burst)
        self._filled_at = clock.monotonic()

    def take(self, n: float = 1) -> float:
        """0.0 when `n` tokens were taken; else nothing was, and the seconds after which they would be there.

        Raises ValueError for more than `burst`, which no wait would bring, and for nothing or less.
        """
        if not 0 < n <= self._burst:
            raise ValueError(f"{n} tokens never fit a bucket of {self._burst:g}")
        self._fill()
        if n > self._tokens + ROUNDING:
            return (n - self._tokens) / self._rate_per_s
        self._tokens -= n
        return 0.0

    def _fill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate_per_s)
        self._filled_at = now

    def level(self) -> float:
        """How many tokens are there now. Changes nothing, so that another thread may ask."""
        return min(self._burst, self._tokens + (self._clock.monotonic() - self._filled_at) * self._rate_per_s)
