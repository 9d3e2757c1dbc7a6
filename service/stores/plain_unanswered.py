"""Submits whose reply nobody has taken yet: found by their digest, held by one open connection at a time.

One statement each, as SQL with `$1` placeholders. Every change names the holder that it takes the row from, so that of
several connections, on whatever nodes, one gets it.
"""

from collections.abc import Sequence
from typing import Any

from service.models import NewJob, Unanswered

COLUMNS = "job tenant digest made_at holder seen_at".split()
AT_MOST = 256  # of equal submits: more than may be under way for one tenant
UNANSWERED = f"SELECT {', '.join(COLUMNS)} FROM unanswered"  # noqa: S608 - fixed names
KEPT_MS = 3_600_000  # far longer than equal submits are held back


def unanswered_from_row(row: Sequence[Any]) -> Unanswered:
    return Unanswered(**dict(zip(COLUMNS, row, strict=True)))


def unanswered_values(item: NewJob, job: int) -> tuple[Any, ...]:
    """The row of a new job that has one."""
    return (job, *(getattr(item.unanswered, name) for name in COLUMNS[1:]))


class PlainUnanswered:
    async def rows(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        raise NotImplementedError

    async def write(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        raise NotImplementedError

    def now(self) -> int:
        raise NotImplementedError

    async def unanswered(self, tenant: int, digest: bytes, since: int) -> list[Unanswered]:
        """The submits with this digest made at `since` or later, oldest first."""
        sql = f"{UNANSWERED} WHERE tenant = $1 AND digest = $2 AND made_at >= $3 ORDER BY job LIMIT {AT_MOST}"
        return [unanswered_from_row(row) for row in await self.rows(sql, tenant, digest, since)]

    async def hold_unanswered(self, before: Unanswered, holder: int | None) -> bool:
        """Make it this connection's, or nobody's; False where it is not any more as it was."""
        where = "job = $1 AND seen_at = $4 AND (holder = $3 OR (holder IS NULL AND $3 = 0))"
        sql = f"UPDATE unanswered SET holder = $2, seen_at = $5 WHERE {where} RETURNING job"  # noqa: S608
        now = max(self.now(), before.seen_at + 1)
        return bool(await self.write(sql, before.job, holder, before.holder or 0, before.seen_at, now))

    async def take_unanswered(self, job: int, holder: int) -> None:
        """Make it this connection's, whosever it was."""
        await self.write("UPDATE unanswered SET holder = $2, seen_at = seen_at + 1 WHERE job = $1", job, holder)

    async def see_unanswered(self, job: int, holder: int) -> None:
        """The connection is still open: `seen_at` rises, also where the clock does not."""
        sql = "UPDATE unanswered SET seen_at = CASE WHEN seen_at < $3 THEN $3 ELSE seen_at + 1 END"
        await self.write(sql + " WHERE job = $1 AND holder = $2", job, holder, self.now())

    async def let_go_unanswered(self, job: int, holder: int) -> None:
        """The connection is gone, or was told that the outcome is not known."""
        await self.write("UPDATE unanswered SET holder = NULL WHERE job = $1 AND holder = $2", job, holder)

    async def answered(self, job: int, holder: int | None = None) -> None:
        """Its reply was taken by this holder. Without one: it was not accepted, so that there is none to be taken."""
        sql = "DELETE FROM unanswered WHERE job = $1 AND ($2 = 0 OR holder = $2)"
        await self.write(sql, job, holder or 0)
