"""limits: the bucket, by a clock that the test moves."""

import math

import pytest

from service.limits import TokenBucket


class HandClock:
    def __init__(self, at=1000.0):
        self.at = at

    def now(self):
        return int(self.at * 1000)

    def monotonic(self):
        return self.at


def test_the_burst_is_there_at_once_and_then_the_rate():
    clock = HandClock()
    bucket = TokenBucket(2.0, 3, clock)
    assert [bucket.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    clock.at += 0.5
    assert [bucket.take(), bucket.take()] == [0.0, 0.5]


def test_a_refused_take_takes_nothing():
    clock = HandClock()
    bucket = TokenBucket(1.0, 5, clock)
    assert bucket.take(4) == 0.0
    assert bucket.take(3) == 2.0
    assert bucket.take(1) == 0.0


def test_the_bucket_never_holds_more_than_its_burst():
    clock = HandClock()
    bucket = TokenBucket(100.0, 2, clock)
    clock.at += 3600
    assert [bucket.take(), bucket.take()] == [0.0, 0.0]
    assert bucket.take() > 0


@pytest.mark.parametrize("start", [0.0, 1e6, 1e8])
@pytest.mark.parametrize("rate", [0.1, 1 / 3, 7.0, 333.0])
def test_who_waits_as_long_as_told_is_served(rate, start):
    clock = HandClock(start)
    bucket = TokenBucket(rate, 1, clock)
    for _ in range(200):
        wait = bucket.take()
        clock.at += wait
        if wait:
            assert bucket.take() == pytest.approx(0.0, abs=1e-6)


def test_over_time_the_rate_holds():
    clock = HandClock()
    bucket = TokenBucket(10.0, 5, clock)
    taken = 0
    for _ in range(10_000):
        clock.at += 0.001
        taken += bucket.take() == 0.0
    assert 100 <= taken <= 106


@pytest.mark.parametrize("n", [0, -1, 3.5, math.inf, math.nan])
def test_what_no_wait_would_bring_is_refused(n):
    with pytest.raises(ValueError):
        TokenBucket(1.0, 3, HandClock()).take(n)


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (math.inf, 1), (math.nan, 1), (1, 0.5), (1, math.inf)])
def test_a_bucket_that_could_not_work_is_refused(rate, burst):
    with pytest.raises(ValueError):
        TokenBucket(rate, burst, HandClock())
