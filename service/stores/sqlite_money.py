"""Money in SQLite's transactions: each job's one charge, and what the tenant's budget still allows.

A charge is written in the transaction that makes or moves its job; a budget's `used` follows it there, so that two
submits at once never both get what is left.
"""

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from service.models import Job
from service.spending import Budget, Charge, changed, charge_of, period_began, total
from service.stores.plain_money import BUDGET_COLUMNS, BUDGETS, CHARGE_COLUMNS, budget_from_row
from service.stores.planning import WriteSet
from service.stores.sqlite_rows import SqliteRows

_charge_places, _budget_places = (", ".join("?" * len(names)) for names in (CHARGE_COLUMNS, BUDGET_COLUMNS))
PUT_CHARGE = (
    f"INSERT INTO charges (job, {', '.join(CHARGE_COLUMNS)}) VALUES (?, {_charge_places})"  # noqa: S608 - fixed names
    " ON CONFLICT (job) DO UPDATE SET outcome = excluded.outcome, unit = excluded.unit, amount = excluded.amount,"
    " standing = excluded.standing"
)
PUT_BUDGET = (
    f"INSERT INTO budgets ({', '.join(BUDGET_COLUMNS)}) VALUES ({_budget_places})"  # noqa: S608 - fixed names
    " ON CONFLICT (tenant, provider) DO UPDATE SET unit = excluded.unit, amount = excluded.amount,"
    " period = excluded.period, began_at = excluded.began_at, used = excluded.used, updated_at = excluded.updated_at"
)
SET_USED = "UPDATE budgets SET used = ?, began_at = ? WHERE tenant = ? AND provider = ?"


class MoneyVerbs(SqliteRows):
    async def put_budget(self, budget: Budget) -> Budget:
        """Make it, or change it; what the period's jobs come to so far counts at once."""
        kept: Budget = (await self._files.commit(self._put_budgets, [budget]))[0]
        return kept

    def _put_budgets(self, budgets: list[Budget]) -> list[Budget]:
        return [self._put_budget(budget) for budget in budgets]

    def _put_budget(self, budget: Budget) -> Budget:
        now = self.now()
        earlier = self._budget(budget.tenant, budget.provider)
        made = earlier.created_at if earlier is not None else now
        kept = self._counted(replace(budget, began_at=period_began(budget.period, now), created_at=made))
        kept = replace(kept, updated_at=now)
        self._execute(PUT_BUDGET, [getattr(kept, name) for name in BUDGET_COLUMNS])
        return kept

    # -- inside the transactions that make and move jobs

    def _over_budget(self, job: Job) -> Budget | None:
        """The budget that does not allow this job. One that follows a job submitted elsewhere spends nothing."""
        budget = None if job.followed else self._budget(job.tenant, job.provider)
        if budget is None:
            return None
        began_at = period_began(budget.period, job.created_at)
        if began_at > budget.began_at:
            budget = self._counted(replace(budget, began_at=began_at))
            self._execute(SET_USED, (budget.used, budget.began_at, budget.tenant, budget.provider))
        return None if budget.fits(job.detail.cost) else budget

    def _charge_new(self, job: Job) -> None:
        self._put_charges([(job.num, charge_of(job))])

    def _charge_changes(self, writes: WriteSet) -> None:
        """What the batch made of its jobs' costs: a report replaces a quote, an end settles it."""
        charges = ((num, charge_of(writes.before[num]), charge_of(job)) for num, job in writes.after.items())
        self._put_charges([(num, after) for num, before, after in charges if after != before])

    def _put_charges(self, charges: list[tuple[int, Charge]]) -> None:
        self._follow(charges)
        self._many(PUT_CHARGE, [(num, *(getattr(charge, name) for name in CHARGE_COLUMNS)) for num, charge in charges])

    def _follow(self, charges: list[tuple[int, Charge]]) -> None:
        """Move the budgets by what these charges change, before they are written."""
        before = self._budgets({charge.tenant for _, charge in charges})
        budgets = dict(before)
        for num, charge in charges:
            key = (charge.tenant, charge.provider)
            if key in budgets:
                budgets[key] = _moved(budgets[key], self._charged(num), charge)
        for key, budget in budgets.items():
            if budget is not before[key]:
                self._execute(SET_USED, (budget.used, budget.began_at, *key))

    def _charged(self, job: int) -> tuple[str | None, str | None]:
        """Unit and amount of the job's charge as it is written now."""
        row: Any = self._execute("SELECT unit, amount FROM charges WHERE job = ?", (job,)).fetchone()
        return (row[0], row[1]) if row is not None else (None, None)

    def _budget(self, tenant: int, provider: str) -> Budget | None:
        row = self._execute(BUDGETS + " WHERE tenant = ? AND provider = ?", (tenant, provider)).fetchone()
        return budget_from_row(row) if row is not None else None

    def _budgets(self, tenants: Iterable[int]) -> dict[tuple[int, str], Budget]:
        rows = (row for tenant in tenants for row in self._execute(BUDGETS + " WHERE tenant = ?", (tenant,)))
        return {(budget.tenant, budget.provider): budget for budget in map(budget_from_row, rows)}

    def _counted(self, budget: Budget) -> Budget:
        """With `used` counted anew from the charges of its period."""
        sql = (
            "SELECT amount, COUNT(*) FROM charges WHERE tenant = ? AND at >= ? AND provider = ? AND unit = ?"
            " GROUP BY amount"
        )
        rows = self._execute(sql, (budget.tenant, budget.began_at, budget.provider, budget.unit))
        return replace(budget, used=total(rows))


def _moved(budget: Budget, before: tuple[str | None, str | None], charge: Charge) -> Budget:
    """With one charge in place of what it was before."""
    was = before[1] if budget.counts(before[0], charge.at) else None
    now = charge.amount if budget.counts(charge.unit, charge.at) else None
    return budget if was == now else replace(budget, used=changed(budget.used, was, now))
