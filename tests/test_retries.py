"""retries: schedules, Retry-After in all its shapes, and jitter that only adds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import retries
from service.providers._reading import header_wait
from service.retries import MAX_RETRY_AFTER_S, backoff, next_attempt, parse_schedule

STANDARD = "0,5,300,1800,7200,18000,36000,50400,72000,86400"
STEPS = parse_schedule(STANDARD)
NOW = 784_111_777  # Sun, 06 Nov 1994 08:49:37 GMT, RFC 9110's own example


def lowest():
    return 0.0


def highest():
    return 1.0


# -- schedules


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("0", (0.0,)),
        (STANDARD, (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)),
        (" 0, 5 ,300 ", (0, 5, 300)),
        ("0,0.05,0.5", (0, 0.05, 0.5)),
        ("60,1", (60, 1)),
        ("2592000", (2_592_000,)),
        (",".join(["1"] * 50), (1,) * 50),
    ],
)
def test_schedules_are_read(text, steps):
    assert parse_schedule(text) == steps


@pytest.mark.parametrize(
    "text",
    ["", ",", "0,", "0,,5", "five", "-1", "+1", "1e3", "nan", "inf", "0;5", "0 5", "1_0", "2592001", "\u0665", "5s",
     ".5", "5.", "9999999999", ",".join(["1"] * 51)],
)  # fmt: skip
def test_schedules_that_cannot_be_kept_are_refused_with_the_remedy(text):
    with pytest.raises(ValueError, match=r"give|write"):
        parse_schedule(text)


def test_the_standard_schedule_takes_75_hours_35_minutes_and_5_seconds():
    assert sum(STEPS) == 75 * 3600 + 35 * 60 + 5


# -- Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        (" ", None),
        ("0", 0),
        ("1", 1),
        ("120", 120),
        (" 120\t", 120),
        ("007", 7),
        ("86400", 86_400),
        ("86401", 86_400),
        ("999999999999999", 86_400),
        ("9999999999999999", None),
        ("9" * 5000, None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1e3", None),
        ("0x10", None),
        ("1_000", None),
        ("\u0661\u0662", None),
        ("\u00b2", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("120, 60", None),
        ("120s", None),
        ("12\n", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Sun, 06 Nov 1994 08:49:38 GMT", 1),
        ("Sun, 06 Nov 1994 08:51:37 GMT", 120),
        ("Sun, 06 Nov 1994 08:49:36 GMT", 0),
        ("Sat, 05 Nov 1994 08:49:37 GMT", 0),
        ("Mon, 07 Nov 1994 08:49:37 GMT", 86_400),
        ("Mon, 07 Nov 1994 08:49:38 GMT", 86_400),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0),
        ("Tue, 06 Nov 1994 08:49:37 GMT", None),
        ("Sun, 31 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 24:00:00 GMT", None),
        ("Sun, 06 Nov 1994 08:60:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:61 GMT", None),
        ("Sun, 06 Nov 0000 08:49:37 GMT", None),
        ("Sun, 6 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 UTC", None),
        ("Sun, 06 Nov 1994 08:49:37 +0000", None),
        ("Sun, 06 Nov 1994 08:49:37", None),
        ("Sunday, 06-Nov-94 08:49:37 GMT", None),
        ("Sun Nov  6 08:49:37 1994", None),
        ("1994-11-06T08:49:37Z", None),
    ],
)
def test_retry_after(value, seconds):
    assert retries.retry_after(value, now=NOW) == seconds


@given(st.text())
def test_any_retry_after_is_nothing_or_within_a_day(value):
    seconds = retries.retry_after(value, now=NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_S


# -- the next attempt

ROWS = [
    # attempts made, Retry-After, throttled -> the step, before jitter
    (0, None, False, 0),
    (1, None, False, 5),
    (2, None, False, 300),
    (3, None, False, 1800),
    (4, None, False, 7200),
    (5, None, False, 18_000),
    (6, None, False, 36_000),
    (7, None, False, 50_400),
    (8, None, False, 72_000),
    (9, None, False, 86_400),
    (10, None, False, None),
    (11, None, False, None),
    (10, 60, True, None),
    (1, 0, False, 5),
    (1, 4, False, 5),
    (1, 5, False, 5),
    (1, 6, False, 6),
    (1, 6, True, 6),
    (1, 0, True, 5),
    (1, 3600, False, 3600),
    (1, 86_400, False, 86_400),
    (1, 86_401, False, 86_400),
    (1, math.inf, False, 86_400),
    (2, 60, True, 300),
    (2, 301, True, 301),
    (9, 60, False, 86_400),
    (9, 999_999, True, 86_400),
    (1, None, True, 10),
    (2, None, True, 600),
    (9, None, True, 172_800),
]


@pytest.mark.parametrize(("made", "asked", "throttled", "step"), ROWS)
@pytest.mark.parametrize(("random", "factor"), [(lowest, 1.0), (highest, 1.2)])
def test_the_next_attempt(made, asked, throttled, step, random, factor):
    wait = next_attempt(STEPS, made, retry_after=asked, throttled=throttled, random=random)
    assert wait is None if step is None else wait == pytest.approx(step * factor)


@given(
    st.lists(st.floats(0, 10_000), min_size=1, max_size=10),
    st.integers(0, 12),
    st.none() | st.floats(0, 200_000),
    st.booleans(),
    st.floats(0, 1),
)
def test_no_attempt_is_earlier_than_the_schedule_or_the_receiver_said(schedule, made, asked, throttled, drawn):
    wait = next_attempt(schedule, made, retry_after=asked, throttled=throttled, random=lambda: drawn)
    if made >= len(schedule):
        assert wait is None
    else:
        assert wait is not None
        assert wait >= max(schedule[made], min(asked or 0, MAX_RETRY_AFTER_S))
        assert wait <= 1.2 * max(schedule[made] * 2, min(asked or 0, MAX_RETRY_AFTER_S)) + 1e-9


def test_a_herd_spreads_over_a_fifth_of_the_step():
    draws = (n * 0.6180339887 % 1.0 for n in range(10_000))
    waits = [next_attempt(STEPS, 2, retry_after=None, throttled=False, random=draws.__next__) for _ in range(10_000)]
    busiest = max(sum(1 for wait in waits if wait and int(wait) == second) for second in range(300, 361))
    assert min(waits) >= 300 and max(waits) < 360
    assert busiest < 1.5 * len(waits) / 60


# -- back-off


@pytest.mark.parametrize(
    ("n", "step"), [(0, 1), (1, 2), (2, 4), (3, 8), (5, 32), (6, 60), (7, 60), (2000, 60), (10**6, 60)]
)
@pytest.mark.parametrize(("random", "factor"), [(lowest, 1.0), (highest, 1.2)])
def test_backoff_grows_to_its_cap(n, step, random, factor):
    assert backoff(n, first=1.0, factor=2.0, cap=60.0, random=random) == pytest.approx(step * factor)


def test_backoff_with_whole_numbers_reaches_its_cap_too():
    assert backoff(5000, first=1, factor=3, cap=60, random=lowest) == 60


SENT = "Thu, 01 Jan 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("given", "date", "seconds"),
    [
        ("42", None, 42.0),
        ("86400000", None, MAX_RETRY_AFTER_S),
        ("9" * 60, None, None),
        ("Thu, 01 Jan 2026 10:01:30 GMT", SENT, 90.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", SENT, MAX_RETRY_AFTER_S),
        ("Thu, 01 Jan 2026 09:00:00 GMT", SENT, 0.0),
        ("Thu, 01 Jan 2026 10:01:30 GMT", None, None),
        ("Thu, 01 Jan 2026 10:01:30 GMT", "yesterday", None),
        ("-5", SENT, None),
        ("NaN", SENT, None),
        ("inf", None, None),
        ("1e9", None, None),
        ("4.5", None, None),
        ("", None, None),
    ],
)
def test_a_providers_retry_after_is_read_by_its_own_clock(given, date, seconds):
    headers = {"retry-after": given} | ({"date": date} if date is not None else {})
    assert header_wait(headers) == seconds


@pytest.mark.parametrize("seconds", [None, 0, -1, -1e300, float("nan"), float("-inf")])
def test_a_wait_that_is_none_asks_for_nothing(seconds):
    assert retries.named_wait(seconds, 900.0) == 0.0


@pytest.mark.parametrize(("seconds", "waited"), [(0.5, 0.5), (900, 900), (901, 900), (1e300, 900), (float("inf"), 900)])
def test_a_named_wait_is_capped(seconds, waited):
    assert retries.named_wait(seconds, 900.0) == waited
