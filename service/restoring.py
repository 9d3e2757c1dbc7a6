"""Restoring: a database that is a copy sends nothing by itself of what it shows as not sent.

Jobs that were `queued` or `submitting` when the copy was taken may have been submitted since. They become `unknown`,
announced as such, and are settled as every lost submit is: by a callback, by reconciling, or by a person.
"""

from service.errors import CallsheetError, Moved
from service.facts import Arrival, Restored
from service.models import Job
from service.states import JobStatus, Source
from service.stores import COPIED_AT, MOVED_AT, Page, Store
from service.transitions import Transitions
from service.views import instant

BATCH = 500
RESTORED_AT = "restored_at"
REMEDY = (
    "Set CALLSHEET_DATABASE_URL to that one. To serve this one after all: if that one was never served,"
    " `callsheet copy --from URL --take-back`; else stop that one, and `callsheet restore` makes what is not sent here"
    " unknown, as it may have been sent from there"
)


def moved_to_another(at: str) -> str:
    return f"this database was copied into another one at {instant(int(at))}, to be served there"


class _SettledElsewhere(CallsheetError):
    """Another node has done it all, and accepts: what is queued now may be new."""


async def settle_copy(store: Store, transitions: Transitions, now: int) -> int | None:
    """Before anything is sent or accepted: where the database is marked as a copy, its open submits become `unknown`.

    How many did; None where it is no copy. The mark goes last, so that a stop in between begins anew.
    Raises `StoreUnavailable`, and `Moved` where it is the other side of a copy: what is queued here may be sent there.
    """
    if moved := await store.meta(MOVED_AT):
        raise Moved(f"{moved_to_another(moved)}. {REMEDY}")
    if not await store.meta(COPIED_AT):
        return None
    settled = 0
    try:
        for tenant in await store.tenants():
            for status in (JobStatus.QUEUED, JobStatus.SUBMITTING):
                settled += await _distrust(store, transitions, tenant.num, status)
    except _SettledElsewhere:
        return settled
    await store.set_meta(RESTORED_AT, str(now))
    await store.set_meta(COPIED_AT, "")
    return settled


async def _distrust(store: Store, transitions: Transitions, tenant: int, status: JobStatus) -> int:
    settled, before = 0, None
    while jobs := await store.jobs(tenant, Page(limit=BATCH, before=before), {"status": status}):
        # Asked behind the jobs, and of the mark, not of clocks: nobody accepts any while the mark is there.
        if not await store.meta(COPIED_AT):
            raise _SettledElsewhere
        applied = await transitions.apply([_restored(job) for job in jobs])
        settled += sum(result.verdict == "applied" for result in applied)
        before = jobs[-1].num
    return settled


def _restored(job: Job) -> Arrival:
    return Arrival(job=job.num, fact=Restored(), source=Source.CLOCK)
