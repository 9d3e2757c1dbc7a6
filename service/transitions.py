"""What a fact makes of a job: one table, boring cases included. Deciding is pure; the store makes it true.

Terminal states never change. What a paid job still yields afterwards is kept and announced once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from service.facts import (
    Accepted,
    Arrival,
    Begin,
    CancelAsked,
    CancelSent,
    Clash,
    DeadlinePassed,
    Done,
    Hint,
    NotFound,
    NotNow,
    Refused,
    Resolve,
    Restored,
    Unknown,
    Update,
)
from service.models import Applied, Decision, DueDelivery, Job
from service.outcomes import linked
from service.rules_follow import FollowRules
from service.states import TERMINAL, JobStatus
from service.stores import Store
from service.views import Link, no_link

Rule = Callable[["Rules", Job, Arrival, int], Decision]


class Rules(FollowRules):
    """Decides for every job, by the table below. `link` makes the stable URLs of outputs, the same each time."""

    def __init__(self, *, link: Link = no_link, **policy: Any):
        super().__init__(**policy)
        self._link = link

    def decide(self, job: Job, arrival: Arrival, now: int) -> Decision:
        """The table's answer. Asked again with the same arguments it gives the same state."""
        return linked(TABLE[type(arrival.fact)][job.status](self, job, arrival, now), self._link, now)


def ignore(rules: Rules, job: Job, arrival: Arrival, now: int) -> Decision:
    return Decision(verdict="ignored", reason=f"a job that is {job.status} takes no {type(arrival.fact).__name__}")


def _row(
    queued: Rule = ignore,
    submitting: Rule = ignore,
    unknown: Rule = ignore,
    processing: Rule = ignore,
    terminal: Rule = ignore,
) -> Mapping[JobStatus, Rule]:
    open_states = {
        JobStatus.QUEUED: queued,
        JobStatus.SUBMITTING: submitting,
        JobStatus.UNKNOWN: unknown,
        JobStatus.PROCESSING: processing,
    }
    return open_states | dict.fromkeys(TERMINAL, terminal)


R = Rules
# fmt: off
TABLE: Mapping[type, Mapping[JobStatus, Rule]] = {
    #                    queued            submitting        unknown           processing        terminal
    Begin:          _row(R.begin,          R.begin),
    Accepted:       _row(R.accept,         R.accept,         R.accept,         R.accept_again,   R.accept_late),
    Done:           _row(R.finish_at_once, R.finish_at_once, R.finish_at_once, R.finish_at_once, R.finish_late),
    Refused:        _row(R.refuse,         R.refuse),
    NotNow:         _row(R.wait,           R.wait,           ignore,           R.read_later,     R.stop_reading),
    Unknown:        _row(ignore,           R.lose,           R.ask_again,      ignore,           ignore),
    NotFound:       _row(ignore,           R.lose,           R.disbelieve,     R.missing,        R.stop_reading),
    Clash:          _row(ignore,           R.clash,          R.clash,          ignore,           ignore),
    Update:         _row(R.update_queued,  R.update,         R.update,         R.update,         R.update_late),
    Hint:           _row(ignore,           R.claim,          R.claim,          R.hint,           ignore),
    CancelAsked:    _row(R.cancel_queued,  R.ask_cancel,     R.ask_cancel,     R.ask_cancel,     ignore),
    CancelSent:     _row(ignore,           ignore,           ignore,           R.cancel_sent,    R.cancel_sent),
    DeadlinePassed: _row(R.expire,         ignore,           ignore,           R.expire,         ignore),
    Resolve:        _row(ignore,           ignore,           R.resolve,        ignore,           ignore),
    Restored:       _row(R.distrust,       R.distrust,       ignore,           ignore,           ignore),
}
# fmt: on


class Transitions:
    """Applies facts, then hands on what the commit made due: deliveries to senders here, news to whoever waits."""

    def __init__(
        self,
        *,
        store: Store,
        hand_over: Callable[[Sequence[DueDelivery]], None],
        tell: Callable[[Job], None],
        count: Callable[[str, str], Any],
    ):
        self._store, self._hand_over, self._tell, self._count = store, hand_over, tell, count

    async def apply(self, arrivals: Sequence[Arrival]) -> list[Applied]:
        """One result per arrival, in their order, all durable. Raises `StoreUnavailable`."""
        applied = await self._store.apply(arrivals)
        for arrival, result in zip(arrivals, applied, strict=True):
            self._count(arrival.source, result.verdict)
            if result.fresh:
                self._hand_over(result.fresh)
            if result.job is not None and result.verdict in ("applied", "late", "clash"):
                self._tell(result.job)
        return applied

    async def apply_one(self, arrival: Arrival) -> Applied:
        return (await self.apply([arrival]))[0]
