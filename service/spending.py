"""What a job costs and what a budget still allows. Pure: decimal arithmetic, nothing added across units.

A job's cost is counted once, as one `Charge`: quoted first, replaced by what the provider reports. Where it ends
without a report, the quote stands if it succeeded, is dropped if nothing was accepted, and is `uncertain` otherwise.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Context, Decimal, InvalidOperation

from service.errors import Invalid
from service.facts import Cost
from service.models import Job
from service.states import TERMINAL, ErrorCode, JobStatus, Record
from service.views import instant

DAY_MS = 86_400_000
LARGEST_EXPONENT = 30  # of an amount; what is beyond says nothing about money
EXACT = Context(prec=100)  # of the sum of a million amounts of 24 digits, nothing is rounded

REPORTED, QUOTED, UNCERTAIN = "reported", "quoted", "uncertain"
MONTH, TOTAL = "month", "total"


# -- what a job costs -----------------------------------------------------------------------------


class Charge(Record, frozen=True, kw_only=True):
    """What one job counts for. `standing` says how sure it is: reported, quoted or uncertain; None: nobody knows."""

    tenant: int
    provider: str
    operation: str
    credential: int
    at: int  # when the job was accepted here: the day, and the month, that it counts for
    outcome: str  # open, unknown, succeeded, failed, canceled
    unit: str | None = None
    amount: str | None = None
    standing: str | None = None


def charge_of(job: Job) -> Charge:
    """What the job counts for as it is now."""
    amount, standing = _counted(job)
    return Charge(
        tenant=job.tenant,
        provider=job.provider,
        operation=job.operation,
        credential=job.credential,
        at=job.created_at,
        outcome=_outcome(job),
        unit=job.detail.cost.unit if job.detail.cost is not None and amount is not None else None,
        amount=amount,
        standing=standing,
    )


def _outcome(job: Job) -> str:
    return str(job.status) if job.terminal or job.status is JobStatus.UNKNOWN else "open"


def _counted(job: Job) -> tuple[str | None, str | None]:
    """The amount and its standing."""
    cost = job.detail.cost
    amount = None if cost is None else money(cost.amount)
    if cost is None or amount is None:
        return None, None
    if cost.source == REPORTED:
        return amount, REPORTED
    if job.status is JobStatus.UNKNOWN:
        return amount, UNCERTAIN
    if job.status not in TERMINAL or job.status is JobStatus.SUCCEEDED or job.detail.late is not None:
        return amount, QUOTED
    return ("0", QUOTED) if _free(job) else (amount, UNCERTAIN)


def _free(job: Job) -> bool:
    """A job that failed or was canceled and is certain to cost nothing: it was never accepted, or the provider's
    documents say so of what it fails itself (our own deadline says nothing about that).
    """
    if job.accepted_at is None:
        return True
    ours = job.detail.error is not None and job.detail.error.code == ErrorCode.DEADLINE_EXCEEDED
    return job.detail.free_if_failed and job.status is JobStatus.FAILED and not ours


# -- amounts --------------------------------------------------------------------------------------


def money(text: str) -> str | None:
    """An amount in plain digits; None where the text is none, or less than nothing."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    if not value.is_finite() or value < 0 or abs(value.adjusted()) > LARGEST_EXPONENT:
        return None
    return f"{value:f}"


def total(amounts: Iterable[tuple[str | None, int]]) -> str:
    """The exact sum of amounts, each so many times; what is unknown adds nothing."""
    value = Decimal(0)
    for amount, times in amounts:
        if amount is not None:
            value = EXACT.add(value, EXACT.multiply(Decimal(amount), Decimal(times)))
    return f"{value:f}"


# -- usage ----------------------------------------------------------------------------------------


class Tally(Record, frozen=True, kw_only=True):
    """So many charges that are alike, as a store counts them. What was not grouped by is None."""

    provider: str
    operation: str | None
    day: int | None  # since 1970
    unit: str | None
    outcome: str
    standing: str | None
    amount: str | None
    count: int


class Usage(Record, frozen=True, kw_only=True):
    """One line of usage. `num` orders the lines: the newest day has the largest."""

    num: int
    provider: str
    operation: str | None
    day: str | None
    unit: str | None
    tallies: tuple[Tally, ...]

    def jobs(self, *outcomes: str) -> int:
        return sum(tally.count for tally in self.tallies if not outcomes or tally.outcome in outcomes)

    def amount(self, standing: str) -> str | None:
        """What counts with this standing; None where no unit is known."""
        if self.unit is None:
            return None
        return total((tally.amount, tally.count) for tally in self.tallies if tally.standing == standing)


def usage_of(tallies: Iterable[Tally]) -> list[Usage]:
    """One line per provider, unit and what was grouped by: units are never added up. Newest day first, then by name."""
    lines: dict[tuple[int, str, str, str], list[Tally]] = {}
    for tally in tallies:
        key = (-(tally.day or 0), tally.provider, tally.operation or "", tally.unit or "")
        lines.setdefault(key, []).append(tally)
    return [_line(len(lines) - place, lines[key]) for place, key in enumerate(sorted(lines))]


def _line(num: int, tallies: list[Tally]) -> Usage:
    one = tallies[0]
    day = None if one.day is None else datetime.fromtimestamp(one.day * DAY_MS // 1000, UTC).date().isoformat()
    return Usage(
        num=num, provider=one.provider, operation=one.operation, day=day, unit=one.unit, tallies=tuple(tallies)
    )


# -- budgets --------------------------------------------------------------------------------------


class Budget(Record, frozen=True, kw_only=True):
    """The most that a tenant's jobs may cost at one provider, in one of its units, per month or in all."""

    tenant: int
    provider: str
    unit: str
    amount: str
    period: str  # month (a calendar month in UTC) or total
    began_at: int = 0  # of the period that `used` is for
    used: str = "0"  # what its charges come to, those of unfinished jobs too
    created_at: int = 0
    updated_at: int = 0

    def counts(self, unit: str | None, at: int) -> bool:
        """Whether a charge of that unit and moment belongs to it."""
        return unit == self.unit and at >= self.began_at

    def fits(self, cost: Cost | None) -> bool:
        """Whether one more job may be accepted. One of unknown price may, until nothing is left."""
        price = None if cost is None or cost.unit != self.unit else money(cost.amount)
        if price is None:
            return Decimal(self.used) < Decimal(self.amount)
        return EXACT.add(Decimal(self.used), Decimal(price)) <= Decimal(self.amount)

    @property
    def left(self) -> str:
        """Below zero where the provider reported more than it quoted."""
        return f"{EXACT.subtract(Decimal(self.amount), Decimal(self.used)):f}"


def period_began(period: str, now: int) -> int:
    """The first millisecond of the period that `now` is in."""
    if period == TOTAL:
        return 0
    at = datetime.fromtimestamp(now / 1000, UTC)
    return int(datetime(at.year, at.month, 1, tzinfo=UTC).timestamp() * 1000)


def changed(used: str, before: str | None, after: str | None) -> str:
    """A budget's `used` once a charge of `before` is one of `after`."""
    return f"{EXACT.add(Decimal(used), EXACT.subtract(Decimal(after or 0), Decimal(before or 0))):f}"


def over_budget(budget: Budget, cost: Cost | None) -> Invalid:
    """What the client is told."""
    span = "in all" if budget.period == TOTAL else f"since {(instant(budget.began_at) or '')[:10]}"
    price = f"this job costs {cost.amount} {cost.unit}" if cost is not None else "this job's price is not known"
    return Invalid(
        f"The budget of {budget.amount} {budget.unit} for {budget.provider} has {budget.left} left ({span}), and"
        f" {price}: raise it with PUT /v1/budgets/{budget.provider}, or wait for open jobs to end"
        f"{'' if budget.period == TOTAL else ' or for the next month'}.",
        code="over_budget",
        param="budget",
    )
