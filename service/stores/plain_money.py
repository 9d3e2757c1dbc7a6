"""What jobs cost, read: usage counted up, budgets. One statement each, as SQL with `$1` placeholders."""

from collections.abc import Collection, Sequence
from typing import Any

from service.spending import DAY_MS, Budget, Tally

CHARGE_COLUMNS = "tenant provider operation credential at outcome unit amount standing".split()
BUDGET_COLUMNS = "tenant provider unit amount period began_at used created_at updated_at".split()
BUDGETS = f"SELECT {', '.join(BUDGET_COLUMNS)} FROM budgets"  # noqa: S608 - fixed names
GROUPS = {"operation": "operation", "day": f"at / {DAY_MS}"}
ALIKE = "unit, outcome, standing, amount"  # few prices are paid again and again: sums need no row of a job


def budget_from_row(row: Sequence[Any]) -> Budget:
    """A budget from `BUDGETS`' columns."""
    return Budget(**dict(zip(BUDGET_COLUMNS, row, strict=True)))


class PlainMoney:
    async def rows(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        raise NotImplementedError

    async def write(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        raise NotImplementedError

    async def usage(
        self, tenant: int, *, since: int, until: int, by: Collection[str] = (), provider: str | None = None
    ) -> list[Tally]:
        """Charges of jobs accepted from `since` to before `until`, alike ones counted; `by`: operation, day."""
        where, values = "tenant = $1 AND at >= $2 AND at < $3", (tenant, since, until)
        more = () if provider is None else (provider,)
        where += " AND provider = $4" if more else ""
        wanted = ["provider", *(GROUPS[name] for name in GROUPS if name in by), *ALIKE.split(", ")]
        shown = ["provider", *(GROUPS[name] if name in by else "NULL" for name in GROUPS), ALIKE, "COUNT(*)"]
        sql = f"SELECT {', '.join(shown)} FROM charges WHERE {where} GROUP BY {', '.join(wanted)}"  # noqa: S608
        found = await self.rows(sql, *values, *more)
        return [Tally(**dict(zip(Tally.__struct_fields__, row, strict=True))) for row in found]

    async def budgets(self, tenant: int) -> list[Budget]:
        """By provider. `used` is of the period that was current when a job was last accepted."""
        rows = await self.rows(BUDGETS + " WHERE tenant = $1 ORDER BY provider", tenant)
        return [budget_from_row(row) for row in rows]

    async def delete_budget(self, tenant: int, provider: str) -> bool:
        """False where there is none."""
        sql = "DELETE FROM budgets WHERE tenant = $1 AND provider = $2 RETURNING provider"
        return bool(await self.write(sql, tenant, provider))
