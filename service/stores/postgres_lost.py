"""What the driver's errors mean: the connection is lost, the database is not available now, run it again."""

from typing import Any

import asyncpg

from service.errors import StoreUnavailable

LOST = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # its state is no longer known
    asyncpg.PostgresConnectionError,
    TimeoutError,
)
# The server is going down, or ended the session; or writes nothing any more: a primary that became a standby.
LOST_CODES = ("57P01", "57P02", "57P03", "25P03", "25P04", "57P05", "25006")
FULL_CODES = ("53", "58")  # out of disk, memory or connections; its own disk failed
# Or for a while, by who looks after it: the role or the database takes no logins, or is away; a statement is canceled.
# Or it lacks a right.
CLOSED_CODES = ("28000", "28P01", "3D000", "55000", "57014", "42501")
BUSY_CODES = ("40P01", "40001", "55P03", "57014")  # it answers; somebody else's work is in the way
RIGHTS = "; give the role of CALLSHEET_DATABASE_URL USAGE and CREATE on the schema, or the tables to that role"
OUTSIDE = "The database cannot be used now."  # what clients are told; the driver's words are for the operator
RERUN = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.UniqueViolationError,  # another node was first: read again what it wrote
    asyncpg.InvalidCachedStatementError,  # another node migrated
    asyncpg.CheckViolationError,  # no partition for the row: another node dropped it, or has yet to make it
)


class Busy(StoreUnavailable):
    """Not now, for what else is under way at the database, which is there."""


class translated:
    """The driver's "not now" errors become ours; its other errors are bugs and stay what they are."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, Exception) and unavailable(error) and not isinstance(error, StoreUnavailable):
            code = getattr(error, "sqlstate", None)
            remedy, meaning = RIGHTS if code == "42501" else "", Busy if code in BUSY_CODES else StoreUnavailable
            said = meaning(f"the database cannot be used now: {error or type(error).__name__}{remedy}")
            said.detail = OUTSIDE
            raise said from error


def unavailable(error: BaseException) -> bool:
    code = getattr(error, "sqlstate", None) or ""
    return (
        isinstance(error, StoreUnavailable)
        or lost(error)
        or code.startswith(FULL_CODES)
        or code in ("40P01", "40001", "55P03", *CLOSED_CODES)
    )


def lost(error: BaseException) -> bool:
    if isinstance(error, asyncpg.DataError):  # a value that the driver cannot send: our fault, not the line's
        return False
    return isinstance(error, LOST) or (getattr(error, "sqlstate", None) or "") in LOST_CODES


def waited(error: BaseException) -> bool:
    """Whether somebody's lock was not to be had in time."""
    return isinstance(error.__cause__, asyncpg.LockNotAvailableError)
