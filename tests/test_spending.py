"""What a job counts for, sums in decimal, what a budget allows: pure, by example and by property."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.facts import Cost, JobError
from service.models import Detail
from service.spending import Budget, Tally, changed, charge_of, money, over_budget, period_began, total, usage_of
from service.states import ErrorCode
from service.views import parse_instant
from tests.builders import NOW, a_cost, a_job, a_profile, an_error, an_update

QUOTED = a_cost("45", "quoted")


def counted(status: str, cost: Cost | None = QUOTED, *, detail: dict[str, Any] | None = None, **row: Any) -> Any:
    charge = charge_of(a_job(status, detail=Detail(cost=cost, **(detail or {})), **row))
    return charge.outcome, charge.amount, charge.unit, charge.standing


@pytest.mark.parametrize(
    ("status", "outcome", "amount", "standing"),
    [
        ("queued", "open", "45", "quoted"),
        ("submitting", "open", "45", "quoted"),
        ("processing", "open", "45", "quoted"),
        ("unknown", "unknown", "45", "uncertain"),
        ("succeeded", "succeeded", "45", "quoted"),
        ("failed", "failed", "45", "uncertain"),  # accepted, and nobody says what becomes of the charge
        ("canceled", "canceled", "45", "uncertain"),
    ],
)
def test_a_quote_stands_until_the_job_ends_badly(status: str, outcome: str, amount: str, standing: str) -> None:
    assert counted(status) == (outcome, amount, "credits", standing)


@pytest.mark.parametrize("status", ["processing", "unknown", "succeeded", "failed", "canceled"])
def test_what_the_provider_reports_counts_however_it_ended(status: str) -> None:
    assert counted(status, a_cost("60.50"))[1:] == ("60.50", "credits", "reported")


@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_what_was_never_accepted_costs_nothing(status: str) -> None:
    assert counted(status, accepted_at=None) == (status, "0", "credits", "quoted")


def test_a_failure_is_free_where_the_documents_say_so() -> None:
    free = {"free_if_failed": True}
    assert counted("failed", detail=free)[1] == "0"
    assert counted("canceled", detail=free)[3] == "uncertain"  # they say it of failures alone
    ours = {**free, "error": an_error(code=ErrorCode.DEADLINE_EXCEEDED)}
    assert counted("failed", detail=ours)[3] == "uncertain"  # the provider may still finish it, and charge
    assert counted("succeeded", detail=free)[1] == "45"


def test_a_late_result_was_paid_for() -> None:
    error = JobError(code=ErrorCode.DEADLINE_EXCEEDED, message="late")
    assert counted("failed", detail={"late": an_update("succeeded"), "error": error}) == (
        "failed", "45", "credits", "quoted",
    )  # fmt: skip


@pytest.mark.parametrize("amount", ["", "free", "NaN", "-1", "Infinity", "1e400", "1e-400", "1,5", "0x10"])
def test_an_amount_that_is_none_is_no_amount(amount: str) -> None:
    assert money(amount) is None
    assert counted("succeeded", Cost(amount=amount, unit="credits", source="reported"))[1:] == (None, None, None)


def test_no_cost_is_no_amount() -> None:
    assert counted("processing", None) == ("open", None, None, None)


def test_amounts_are_plain_digits() -> None:
    assert [money(text) for text in ("1E2", "1e-2", "007.50", "0")] == ["100", "0.01", "7.50", "0"]


amounts = st.decimals(min_value=0, max_value=10**12, places=12, allow_nan=False).map(lambda value: f"{value:f}")


@given(st.lists(st.tuples(amounts | st.none(), st.integers(1, 10**6)), max_size=30))
@a_profile()
def test_sums_are_exact(rows: list[tuple[str | None, int]]) -> None:
    assert Fraction(total(rows)) == sum(Fraction(text) * times for text, times in rows if text is not None)
    assert "E" not in total(rows)


def test_a_million_tenths_are_a_hundred_thousand() -> None:
    assert total([("0.1", 1_000_000)]) == "100000.0"
    assert total([("0.1", 1), ("0.2", 1)]) == "0.3"


# -- usage


def a_tally(count: int = 1, **changes: Any) -> Tally:
    fields: dict[str, Any] = {
        "provider": "pixverse", "operation": None, "day": None, "unit": "credits", "outcome": "succeeded",
        "standing": "reported", "amount": "45",
    }  # fmt: skip
    return Tally(**{**fields, **changes}, count=count)


def test_usage_never_adds_units_or_providers() -> None:
    lines = usage_of(
        [a_tally(2), a_tally(amount="60"), a_tally(unit="usd", amount="0.45"), a_tally(provider="peakmv", amount="18")]
    )
    assert [(line.provider, line.unit, line.amount("reported")) for line in lines] == [
        ("peakmv", "credits", "18"), ("pixverse", "credits", "150"), ("pixverse", "usd", "0.45"),
    ]  # fmt: skip


def test_usage_keeps_what_is_sure_from_what_is_not() -> None:
    (line,) = usage_of(
        [
            a_tally(3), a_tally(2, standing="quoted", outcome="open"), a_tally(outcome="unknown", standing="uncertain"),
            a_tally(outcome="failed", standing="uncertain", amount="60"),
        ]
    )  # fmt: skip
    assert [line.amount(standing) for standing in ("reported", "quoted", "uncertain")] == ["135", "90", "105"]
    assert (line.jobs(), line.jobs("succeeded"), line.jobs("open"), line.jobs("failed", "unknown")) == (7, 3, 2, 2)


def test_jobs_of_unknown_price_are_a_line_without_amounts() -> None:
    (line,) = usage_of([a_tally(4, unit=None, amount=None, standing=None)])
    assert (line.jobs(), line.amount("reported"), line.amount("quoted")) == (4, None, None)


def test_the_newest_day_comes_first_and_numbers_fall() -> None:
    days = [a_tally(day=20_000 + n, operation=name) for n in (0, 1) for name in ("b", "a")]
    lines = usage_of(days)
    assert [(line.num, line.day, line.operation) for line in lines] == [
        (4, "2024-10-05", "a"), (3, "2024-10-05", "b"), (2, "2024-10-04", "a"), (1, "2024-10-04", "b"),
    ]  # fmt: skip


# -- budgets


def a_budget(amount: str = "100", used: str = "0", **changes: Any) -> Budget:
    fields: dict[str, Any] = {"tenant": 1, "provider": "pixverse", "unit": "credits", "period": "month"}
    return Budget(amount=amount, used=used, **{**fields, **changes})


@pytest.mark.parametrize(
    ("amount", "used", "price", "fits"),
    [
        ("100", "55", "45", True),  # to the last credit
        ("100", "55.01", "45", False),
        ("0.3", "0.1", "0.2", True),  # as floats these do not
        ("100", "99", None, True),  # of unknown price: while anything is left
        ("100", "100", None, False),
        ("0", "0", "0", True),
        ("0", "0", None, False),
        ("10", "12", "0", False),
    ],
)
def test_what_fits(amount: str, used: str, price: str | None, fits: bool) -> None:
    cost = None if price is None else a_cost(price, "quoted")
    assert a_budget(amount, used).fits(cost) is fits


def test_a_price_in_another_unit_is_none_to_a_budget() -> None:
    budget = a_budget("1", "0.5")
    assert budget.fits(a_cost("1000", "quoted", "tokens"))
    assert not budget.fits(a_cost("1000", "quoted"))
    assert budget.counts("credits", 0) and not budget.counts("tokens", 0) and not budget.counts(None, 0)


def test_a_month_begins_on_its_first_in_utc() -> None:
    assert period_began("month", parse_instant("2028-02-29T23:59:59.999Z") or 0) == parse_instant(
        "2028-02-01T00:00:00Z"
    )
    assert period_began("month", parse_instant("2028-03-01T00:00:00Z") or 0) == parse_instant("2028-03-01T00:00:00Z")
    assert period_began("month", parse_instant("2028-03-01T00:30:00+01:00") or 0) == parse_instant(
        "2028-02-01T00:00:00Z"
    )
    assert period_began("total", NOW) == 0


@given(amounts, amounts | st.none(), amounts | st.none())
@a_profile()
def test_a_change_that_is_taken_back_leaves_no_trace(used: str, one: str | None, other: str | None) -> None:
    assert Decimal(changed(changed(used, one, other), other, one)) == Decimal(used)


def test_a_refusal_says_what_is_left_and_the_way_out() -> None:
    refused = over_budget(a_budget("100", "90", began_at=period_began("month", NOW)), a_cost("45", "quoted"))
    assert (refused.code, refused.param) == ("over_budget", "budget")
    for words in ("100 credits", "10 left", "since 2027-01-01", "costs 45 credits", "PUT /v1/budgets/pixverse"):
        assert words in refused.detail
    assert "price is not known" in over_budget(a_budget(used="100", period="total"), None).detail
