"""What reconciling reads of a credential's jobs: their provider ids, correlations and states. SQL with `$1` marks."""

from collections.abc import Iterable, Sequence
from typing import Any

from service.states import JobStatus
from service.stores import Booked

MARKS = 500  # placeholders in one statement
COLUMNS = "num id status operation correlation submitted_at accepted_at".split()
_BOOKED = ", ".join(f"j.{name}" for name in COLUMNS)
# A job counts from when its submit left, one that is followed from when it came here; what is lost counts always.
_OF_PERIOD = (
    f"SELECT {_BOOKED}, p.provider_job_id FROM (SELECT * FROM jobs WHERE credential = $1 AND num > $2"  # noqa: S608
    " AND (submitted_at >= $3 OR accepted_at >= $3 OR status IN ('submitting', 'unknown')) ORDER BY num LIMIT $4) j"
    " LEFT JOIN provider_ids p ON p.job = j.num ORDER BY j.num"
)
_OWNERS = (
    f"SELECT {_BOOKED}, p.provider_job_id FROM provider_ids p JOIN jobs j ON j.num = p.job"  # noqa: S608
    " WHERE p.credential = $1 AND p.provider_job_id IN ({}) ORDER BY j.num"
)


class PlainReconcile:
    async def rows(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        raise NotImplementedError

    async def booked(self, credential: int, *, since: int, after: int, limit: int) -> list[Booked]:
        """Jobs submitted or accepted since then, and all of unknown outcome, with a number above `after`."""
        return _by_job(await self.rows(_OF_PERIOD, credential, after, since, limit))

    async def owners(self, credential: int, provider_job_ids: Sequence[str]) -> list[Booked]:
        """The jobs that these ids are bound to."""
        found: list[Booked] = []
        for start in range(0, len(provider_job_ids), MARKS):
            chunk = provider_job_ids[start : start + MARKS]
            marks = ", ".join(f"${n}" for n in range(2, len(chunk) + 2))
            found += _by_job(await self.rows(_OWNERS.format(marks), credential, *chunk))
        return found


def _by_job(rows: Iterable[Sequence[Any]]) -> list[Booked]:
    """One record per job from one row per provider id."""
    jobs: dict[int, Booked] = {}
    for *columns, provider_job_id in rows:
        fields = dict(zip(COLUMNS, columns, strict=True))
        known = jobs[fields["num"]].provider_job_ids if fields["num"] in jobs else ()
        ids = known if provider_job_id is None else (*known, provider_job_id)
        jobs[fields["num"]] = Booked(**{**fields, "status": JobStatus(fields["status"]), "provider_job_ids": ids})
    return list(jobs.values())
