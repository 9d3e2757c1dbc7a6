"""Credentials, and what keeps their submits back: pauses, trials, what runs. One statement each, with `$1` marks."""

from collections.abc import Sequence
from typing import Any

from service.models import Credential, CredentialRow
from service.stores import Gate

COLUMNS = (
    "num tenant provider source sealed created_at updated_at paused_at paused_reason resumed_at on_trial deleted_at"
).split()
RESUMED_SEEN_MS = 3_600_000  # longer than any hold of a credential lasts
_CREDENTIALS = f"SELECT {', '.join(COLUMNS)} FROM credentials"  # noqa: S608 - fixed names
# A changed key ends what held the one before it; where that was refused, the new one is tried first.
_PUT_CREDENTIAL = (
    "INSERT INTO credentials (tenant, provider, source, sealed, created_at, updated_at)"  # noqa: S608 - fixed names
    " VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (tenant, provider, source)"
    " DO UPDATE SET sealed = excluded.sealed, updated_at = excluded.updated_at, resumed_at = excluded.updated_at,"
    " on_trial = CASE WHEN credentials.paused_at IS NULL THEN credentials.on_trial ELSE 1 END, paused_at = NULL,"
    f" paused_reason = NULL, deleted_at = NULL RETURNING {', '.join(COLUMNS)}"
)
_GATES = (
    "SELECT num, paused_reason, resumed_at, on_trial FROM credentials"
    " WHERE paused_at IS NOT NULL OR on_trial = 1 OR resumed_at >= $1"
)
_RESUME = (
    "UPDATE credentials SET paused_at = NULL, paused_reason = NULL, resumed_at = $2, on_trial = 1"
    " WHERE num = $1 RETURNING num"
)
# Reads, too, where the provider said when: the others have their own pace.
_HURRY = (
    "UPDATE jobs SET due_at = $2 WHERE credential = $1 AND work IN ('submit', 'poll') AND lease IS NULL AND due_at > $2"
    " AND (work = 'submit' OR (status = 'processing' AND reason IS NOT NULL)) RETURNING num"
)
# A time that is yet to come was written before the clock was set back: nobody knows which of the two was first.
_PROVE = (
    "UPDATE credentials SET on_trial = 0 WHERE num = $1 AND on_trial = 1 AND (resumed_at <= $2 OR resumed_at > $3)"
    " RETURNING num"
)
# Who is leased is due when the lease ends; work that is due by now is in nobody's hands.
_RUNNING = (
    "SELECT (SELECT COUNT(*) FROM jobs WHERE credential = $1 AND status IN ('submitting', 'processing'))"
    " + (SELECT COUNT(*) FROM jobs WHERE work = 'submit' AND credential = $1 AND due_at > $2 AND lease IS NOT NULL"
    " AND status = 'queued')"
)


def _credential(row: Sequence[Any]) -> CredentialRow:
    fields = dict(zip(COLUMNS, row, strict=True))
    return CredentialRow(**{**fields, "sealed": bytes(fields["sealed"]), "on_trial": bool(fields["on_trial"])})


class PlainCredentials:
    def now(self) -> int:
        raise NotImplementedError

    def due(self) -> int:
        raise NotImplementedError

    async def rows(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        raise NotImplementedError

    async def urgent(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        raise NotImplementedError

    async def write(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        raise NotImplementedError

    async def put_credential(self, credential: Credential, sealed: bytes) -> CredentialRow:
        values = (credential.tenant, credential.provider, credential.source, sealed, self.now())
        return _credential((await self.write(_PUT_CREDENTIAL, *values))[0])

    async def drop_credential(self, num: int) -> bool:
        """Nothing new uses it; the row stays for the jobs that name it. False where there is none."""
        sql = "UPDATE credentials SET deleted_at = $1, updated_at = $1 WHERE num = $2 AND deleted_at IS NULL"
        return bool(await self.write(sql + " RETURNING num", self.now(), num))

    async def paused_credentials(self) -> dict[int, str]:
        """Those that their provider refuses, and why."""
        rows = await self.urgent("SELECT num, paused_reason FROM credentials WHERE paused_at IS NOT NULL")
        return {row[0]: row[1] for row in rows}

    async def gates(self) -> list[Gate]:
        """Of the credentials that are paused or on trial, or were resumed lately."""
        rows = await self.urgent(_GATES, self.now() - RESUMED_SEEN_MS)
        return [Gate(num=row[0], paused=row[1], resumed_at=row[2], on_trial=bool(row[3])) for row in rows]

    async def resume_credential(self, num: int) -> None:
        """End its pause and every hold: also those of its jobs. One submit at a time tries it, until one is taken."""
        await self.write(_RESUME, num, self.now())
        await self.write(_HURRY, num, self.due())

    async def prove_credential(self, num: int, sent_at: int) -> bool:
        """A submit that left at that time was accepted under it. False where that ends no trial."""
        return bool(await self.write(_PROVE, num, sent_at, self.now()))

    async def move_queued(self, before: int, after: int) -> int:
        """What waits under one credential waits under another from now on; what is being sent stays. How many moved."""
        sql = "UPDATE jobs SET credential = $2 WHERE credential = $1 AND status = 'queued' AND lease IS NULL"
        return len(await self.write(sql + " RETURNING num", before, after))

    async def running(self, credential: int) -> int:
        """How many of its jobs are at the provider, or may be, or are on their way in some node's hands."""
        return int((await self.urgent(_RUNNING, credential, self.due()))[0][0])

    async def credentials(self, changed_since: int = 0) -> list[CredentialRow]:
        """All, also the deleted ones that jobs name; or those that were changed at or after a moment."""
        rows = await self.urgent(_CREDENTIALS + " WHERE updated_at >= $1 ORDER BY num", changed_since)
        return [_credential(row) for row in rows]

    async def credential(self, num: int) -> CredentialRow | None:
        rows = await self.rows(_CREDENTIALS + " WHERE num = $1", num)
        return _credential(rows[0]) if rows else None
