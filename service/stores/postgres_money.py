"""Money in PostgreSQL's transactions: each job's one charge, and what the tenants' budgets still allow.

Budgets are locked, in one order, before anything is decided by them: two nodes that submit at once never both get what
is left. A tenant without a budget locks nothing.
"""

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from service.models import Job
from service.spending import Budget, Charge, changed, charge_of, period_began, total
from service.stores.plain_money import BUDGET_COLUMNS, BUDGETS, CHARGE_COLUMNS, budget_from_row
from service.stores.planning import WriteSet
from service.stores.postgres_rows import PostgresRows, insert

PUT_CHARGE = (
    insert("charges", f"job {' '.join(CHARGE_COLUMNS)}")
    + " ON CONFLICT (job) DO UPDATE SET outcome = excluded.outcome, unit = excluded.unit, amount = excluded.amount,"
    " standing = excluded.standing"
)
PUT_BUDGET = (
    f"INSERT INTO budgets ({', '.join(BUDGET_COLUMNS)})"  # noqa: S608 - fixed names
    f" VALUES ({', '.join(f'${n}' for n in range(1, len(BUDGET_COLUMNS) + 1))})"
    " ON CONFLICT (tenant, provider) DO UPDATE SET unit = excluded.unit, amount = excluded.amount,"
    " period = excluded.period, began_at = excluded.began_at, used = excluded.used, updated_at = excluded.updated_at"
)
SET_USED = "UPDATE budgets SET used = $1, began_at = $2 WHERE tenant = $3 AND provider = $4"
CHARGED = "SELECT job, unit, amount FROM charges WHERE job = ANY($1::bigint[])"
COUNTED = (
    "SELECT amount, COUNT(*) FROM charges WHERE tenant = $1 AND at >= $2 AND provider = $3 AND unit = $4"
    " GROUP BY amount"
)
Budgets = dict[tuple[int, str], Budget]


class MoneyVerbs(PostgresRows):
    async def put_budget(self, budget: Budget) -> Budget:
        """Make it, or change it; what the period's jobs come to so far counts at once."""
        kept: Budget = (await self._pool.commit(self._put_budgets, [budget]))[0]
        return kept

    async def _put_budgets(self, budgets: list[Budget]) -> list[Budget]:
        return [await self._put_budget(budget) for budget in budgets]

    async def _put_budget(self, budget: Budget) -> Budget:
        # Charges that are being written without a budget to follow are waited for: from here on they follow.
        await self._run("LOCK TABLE charges IN SHARE ROW EXCLUSIVE MODE")
        now, known = self.now(), await self._budgets([budget.tenant])
        earlier = known.get((budget.tenant, budget.provider))
        made = earlier.created_at if earlier is not None else now
        kept = await self._counted(replace(budget, began_at=period_began(budget.period, now), created_at=made))
        kept = replace(kept, updated_at=now)
        await self._run(PUT_BUDGET, *(getattr(kept, name) for name in BUDGET_COLUMNS))
        return kept

    # -- inside the transactions that make and move jobs

    async def _over_budget(self, job: Job, budgets: Budgets) -> Budget | None:
        """The budget that does not allow this job. One that follows a job submitted elsewhere spends nothing."""
        key = (job.tenant, job.provider)
        budget = None if job.followed else budgets.get(key)
        if budget is None:
            return None
        began_at = period_began(budget.period, job.created_at)
        if began_at > budget.began_at:
            budget = budgets[key] = await self._counted(replace(budget, began_at=began_at))
            await self._set_used(budget)
        return None if budget.fits(job.detail.cost) else budget

    async def _charge_new(self, jobs: list[Job]) -> None:
        await self._many(PUT_CHARGE, [_values(job.num, charge_of(job)) for job in jobs])

    async def _charge_changes(self, writes: WriteSet) -> None:
        """What the batch made of its jobs' costs: a report replaces a quote, an end settles it."""
        pairs = ((num, charge_of(writes.before[num]), charge_of(job)) for num, job in writes.after.items())
        charges = [(num, after) for num, before, after in pairs if after != before]
        if not charges:
            return
        budgets = await self._budgets({charge.tenant for _, charge in charges})
        before = dict(budgets)
        if budgets:
            rows = await self._rows(CHARGED, [num for num, _ in charges])
            charged = {num: (unit, amount) for num, unit, amount in rows}
            for num, charge in charges:
                follow(budgets, charged.get(num, (None, None)), charge)
        await self._set_changed(before, budgets)
        await self._many(PUT_CHARGE, [_values(num, charge) for num, charge in charges])

    async def _set_changed(self, before: Budgets, after: Budgets) -> None:
        for key, budget in after.items():
            if budget is not before[key]:
                await self._set_used(budget)

    async def _set_used(self, budget: Budget) -> None:
        await self._run(SET_USED, budget.used, budget.began_at, budget.tenant, budget.provider)

    async def _budgets(self, tenants: Iterable[int]) -> Budgets:
        """The tenants' budgets, locked in one order."""
        sql = BUDGETS + " WHERE tenant = ANY($1::bigint[]) ORDER BY tenant, provider FOR UPDATE"
        budgets = map(budget_from_row, await self._rows(sql, sorted(tenants)))
        return {(budget.tenant, budget.provider): budget for budget in budgets}

    async def _counted(self, budget: Budget) -> Budget:
        """With `used` counted anew from the charges of its period."""
        rows = await self._rows(COUNTED, budget.tenant, budget.began_at, budget.provider, budget.unit)
        return replace(budget, used=total((row[0], row[1]) for row in rows))


def follow(budgets: Budgets, before: tuple[str | None, str | None], charge: Charge) -> None:
    """Move the budget by one charge in place of what it was before."""
    key = (charge.tenant, charge.provider)
    if (budget := budgets.get(key)) is None:
        return
    was = before[1] if budget.counts(before[0], charge.at) else None
    now = charge.amount if budget.counts(charge.unit, charge.at) else None
    if was != now:
        budgets[key] = replace(budget, used=changed(budget.used, was, now))


def _values(num: int, charge: Charge) -> tuple[Any, ...]:
    return (num, *(getattr(charge, name) for name in CHARGE_COLUMNS))
