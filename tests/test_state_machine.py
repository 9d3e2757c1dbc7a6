"""The job's state machine against a model: any facts, in any order, through a real SQLite file.

`pytest -p tests.builders --hypothesis-profile=deep tests/test_state_machine.py` for the long run.
"""

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from service.app import Planning
from service.facts import (
    Accepted,
    Arrival,
    Begin,
    CancelAsked,
    CancelSent,
    Clash,
    DeadlinePassed,
    Done,
    Fact,
    Hint,
    NotFound,
    NotNow,
    RawCallback,
    Refused,
    Resolve,
    Restored,
    Unknown,
    Update,
)
from service.ids import new_correlation, new_id
from service.models import Applied, Credential, Decision, Detail, DueDelivery, Job, NewJob
from service.outcomes import announced
from service.rules_follow import LATE_FOR_MS, LATE_READ_MS
from service.states import TERMINAL, CallbackVerdict, EndpointStatus, JobStatus, Source, Work
from service.stores import open_store
from service.stores.plain import JOB_SELECT, job_from_row
from service.transitions import TABLE, Rules, Transitions
from tests.builders import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    HandClock,
    a_fan_out,
    a_job,
    a_profile,
    an_arrival,
    an_endpoint,
    an_error,
    an_operation,
    an_update,
    some_parts,
    some_rules,
)

LEASE_MS = 90 * SECOND
WAYS = ("same_key", "lookup", "token", "person")
ENDS = {f"job.{status}" for status in TERMINAL}
PENDING, CANCELED, HELD = 0, 3, 4


# -- the world: one database, whose jobs come and go with the examples


class CountingRules(Rules):
    """The rules, and which cells of the table were asked for."""

    def __init__(self, cells: Counter[tuple[str, str]], **parts: Any):
        super().__init__(**parts)
        self._cells = cells

    def decide(self, job: Job, arrival: Arrival, now: int) -> Decision:
        self._cells[type(arrival.fact).__name__, job.status] += 1
        return super().decide(job, arrival, now)


class World:
    """A store on a real file, a clock in hand, endpoints of every kind, and the counts of what was reached."""

    def __init__(self, path: Path):
        self.path, self.clock, self.runner = path, HandClock(), asyncio.Runner()
        self.reached: Counter[str] = Counter()
        self.cells: Counter[tuple[str, str]] = Counter()
        self.handed: list[DueDelivery] = []
        self.told: list[Job] = []
        operations = {way: an_operation(way) for way in WAYS}
        rules = CountingRules(
            self.cells,
            operation_of=lambda job: operations[job.operation],
            random=lambda: 0.5,
            correlate=new_correlation,
        )
        self.plan = Planning(rules, a_fan_out(free=lambda lane: lane % 2 == 1, operator=True))
        self.open()
        self.run(self._furnish())
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA foreign_keys = ON")

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    def open(self) -> None:
        self.store = self.run(open_store(f"sqlite:///{self.path}", plan=self.plan, clock=self.clock))
        self.transitions = Transitions(
            store=self.store, hand_over=self.handed.extend, tell=self.told.append, count=lambda source, verdict: None
        )

    def restart(self) -> None:
        """The process dies and another one takes over."""
        self.run(self.store.close())
        self.open()
        self.run(self.store.recover_leases())

    def close(self) -> None:
        self.db.close()
        self.run(self.store.close())
        self.runner.close()

    async def _furnish(self) -> None:
        self.tenant = (await self.store.create_tenant("default", b"")).num
        other = (await self.store.create_tenant("other", b"")).num
        wanted: dict[str, dict[str, Any]] = {
            "all": {},
            "group": {"event_types": ("job.*", "job.progress")},
            "red": {"event_types": ("job.progress", "job.succeeded"), "filter": {"metadata.team": "red"}},
            "paused": {"status": EndpointStatus.PAUSED},
            "dotted": {"filter": {"metadata.a.b": "x"}},
            "failures": {"filter": {"status": "failed"}},
            "deleted": {"deleted": True},
            "elsewhere": {"tenant": other},
        }
        self.endpoints = {}
        for name, settings in wanted.items():
            made = an_endpoint(0, **{"id": f"ep_{name}", "tenant": self.tenant, **settings})
            self.endpoints[name] = (await self.store.create_endpoint(made)).num

    def credential(self) -> int:
        """A new one for every example: its jobs and provider ids are its own."""
        self.reached["examples"] += 1
        made = Credential(
            num=0, tenant=self.tenant, provider="peakmv", source=str(self.reached["examples"]), api_key="", base_url=""
        )
        return int(self.run(self.store.put_credential(made, b"")).num)

    def jobs(self, credential: int) -> dict[int, Job]:
        rows = self.db.execute(JOB_SELECT + " WHERE j.credential = ?", (credential,)).fetchall()
        return {row[0]: job_from_row(row) for row in rows}

    def forget(self, credential: int) -> None:
        self.db.execute("DELETE FROM jobs WHERE credential = ?", (credential,))


# -- what may be said of a job


@dataclass(frozen=True)
class Said:
    """One fact on its way to a job. `lease`: the job's own, an old one, or none."""

    fact: Fact
    source: Source
    named: str | None = None
    lease: str = "none"
    dedupe: str | None = None
    token: bool = True  # False: the job is named by the provider's id alone
    who: int = 0  # even: one of the jobs that are not over; odd: one of all


IDS = ("p1", "p2", "p3", "p4", "p5", "p6")
MOST_JOBS = 12  # in one example
LOST = Unknown(reason="no reply")
ACCEPTED = Accepted(provider_job_ids=())  # stands for ids of the job's own
REFUSED = Refused(error=an_error())
PAUSING = Refused(error=an_error(), pauses=True)
CONTESTED = Accepted(provider_job_ids=("p1",))  # an id that other jobs may have
ids = st.sampled_from(IDS)
some_ids = st.sampled_from([*[(each,) for each in IDS], ("p1", "p2"), ("p2", "p3"), ("p4", "p5", "p6")])
updates = st.sampled_from(
    [
        an_update("processing"),
        an_update("processing", provider_status="a word that nobody knows"),
        an_update("processing", progress=0.2),
        an_update("processing", progress=0.9, queue_position=1),
        an_update("processing", progress=0.1),
        an_update("succeeded"),
        an_update("succeeded"),
        Update(status=JobStatus.SUCCEEDED),
        an_update("failed"),
        an_update("canceled"),
    ]
)
whos = st.integers(0, 15)
leases = st.sampled_from(["own", "own", "own", "old", "none"])
verdicts = st.one_of(
    st.builds(Accepted, provider_job_ids=some_ids),
    st.builds(Accepted, provider_job_ids=some_ids),
    st.builds(Done, update=updates, provider_job_ids=some_ids | st.just(())),
    st.just(Refused(error=an_error())),
    st.builds(Refused, error=st.just(an_error()), pauses=st.just(True), probe=st.booleans()),
    st.builds(NotNow, reason=st.just("busy"), after_s=st.sampled_from([None, 0.0, 5.0])),
    st.builds(NotNow, reason=st.just("HTTP 500"), at_most=st.sampled_from([0, 2])),
    st.just(Unknown(reason="no reply")),
    st.just(Unknown(reason="no reply")),
    st.builds(NotFound, reason=st.just("no row"), conclusive=st.booleans()),
)
submits = st.builds(
    Said, fact=st.just(Begin(called_back=True)) | verdicts, source=st.just(Source.SUBMIT), lease=leases, who=whos
)
polls = st.builds(
    Said,
    fact=st.one_of(updates, updates, st.just(NotFound(reason="404")), st.just(NotNow(reason="busy", after_s=9.0))),
    source=st.just(Source.POLL),
    named=ids,
    lease=leases,
    who=whos,
)
callbacks = st.builds(
    Said,
    fact=updates | st.sampled_from([Hint(), Hint(claims="p1"), Hint(claims="made-up")]),
    source=st.just(Source.CALLBACK),
    named=ids,
    dedupe=st.sampled_from([None, "d1", "d2", "d3", "d4"]),
    token=st.booleans(),
    who=whos,
)
resolves = st.one_of(
    st.builds(Resolve, action=st.just("adopt"), provider_job_id=ids | st.none()),
    st.just(Resolve(action="fail")),
    st.just(Resolve(action="resubmit")),
)
clients = st.builds(
    Said,
    fact=st.one_of(st.builds(CancelAsked, supported=st.booleans()), resolves),
    source=st.just(Source.CLIENT),
    who=whos,
)
cancels = st.builds(Said, fact=st.just(CancelSent()), source=st.just(Source.POLL), lease=leases, who=whos)
deadlines = st.builds(Said, fact=st.just(DeadlinePassed()), source=st.just(Source.CLOCK), lease=leases, who=whos)
copies = st.builds(Said, fact=st.just(Restored()), source=st.just(Source.CLOCK), lease=leases, who=whos)
anything = st.one_of(submits, polls, callbacks, clients, cancels, deadlines, copies)
EVERY = (  # one of each kind, and one of each status
    Begin(),
    Accepted(provider_job_ids=("p1",)),
    Done(update=an_update("succeeded"), provider_job_ids=("p2",)),
    Refused(error=an_error()),
    Refused(error=an_error(), pauses=True, probe=True),
    NotNow(reason="busy"),
    NotFound(reason="no row"),
    Unknown(reason="no reply"),
    an_update("processing", progress=0.5),
    an_update("succeeded"),
    an_update("canceled"),
    Hint(),
    Hint(claims="p1"),
    CancelAsked(supported=True),
    CancelSent(),
    DeadlinePassed(),
    Resolve(action="resubmit"),
    Restored(),
)
assert {type(fact) for fact in EVERY} == set(TABLE) - {Clash}
new_jobs = st.fixed_dictionaries(
    {
        "way": st.sampled_from(WAYS),
        "deadline": st.sampled_from([None, MINUTE, HOUR]),
        "called": st.booleans(),
        "metadata": st.sampled_from([{}, {"team": "red"}, {"a.b": "x"}]),
        "follows": st.sampled_from([False, False, False, True]),
    }
)


# -- the machine


@dataclass
class Seen:
    """What the model remembers of a job."""

    job: Job
    events: int = 0


class Machine(RuleBasedStateMachine):
    """Some jobs of one credential, and everything that may happen to them."""

    def __init__(self, world: World):
        super().__init__()
        self.world = world
        self.credential = world.credential()
        self.old_leases: list[int] = [1]
        self.seen: dict[int, Seen] = {}
        self.nums: list[int] = []
        world.handed.clear()
        world.told.clear()

    @initialize(first=new_jobs, second=new_jobs)
    def two_jobs(self, first: dict[str, Any], second: dict[str, Any]) -> None:
        self._create(first)
        self._create(second)

    @precondition(lambda self: len(self.nums) < MOST_JOBS)
    @rule(asked=new_jobs)
    def another_job_is_accepted(self, asked: dict[str, Any]) -> None:
        self._create(asked)

    @precondition(lambda self: len(self.nums) < MOST_JOBS)
    @rule(asked=new_jobs, answer=st.sampled_from([None, LOST, ACCEPTED, CONTESTED, REFUSED, PAUSING]))
    def another_job_is_submitted(self, asked: dict[str, Any], answer: Fact | None) -> None:
        """By the book: claimed, begun, and left there, or lost for good, or accepted."""
        num = self._create({**asked, "follows": False})
        if answer is ACCEPTED:
            nth = len(self.nums)
            answer = Accepted(provider_job_ids=(f"own-{nth}", f"other-{nth}")[: 1 + nth % 2])
        self._submit(num, answer)
        if answer is PAUSING and self._jobs()[num].status is not JobStatus.CANCELED:
            assert (self._jobs()[num].status, self._jobs()[num].work) == (JobStatus.QUEUED, Work.SUBMIT)
        if answer is LOST:
            self.world.clock.pass_ms(HOUR)
            self._one(Said(fact=answer, source=Source.SUBMIT), num)
            assert self._jobs()[num].status is JobStatus.UNKNOWN

    def teardown(self) -> None:
        self.world.forget(self.credential)

    # what happens

    @rule(milliseconds=st.sampled_from([1, SECOND, 6 * SECOND, LEASE_MS + 1, HOUR, 25 * HOUR]))
    def time_passes(self, milliseconds: int) -> None:
        self.world.clock.pass_ms(milliseconds)

    @rule(work=st.sampled_from(Work))
    def a_worker_claims(self, work: Work) -> None:
        before = self._jobs()
        claimed = self.world.run(self.world.store.claim_jobs(work, room=self._room, lease_ms=LEASE_MS, limit=8))
        now = self.world.clock.now()
        for job, _ in claimed:
            was = before[job.num]
            assert was.work is work
            assert was.due_at <= now, "it was not due, or its lease had not ended (I12)"
            assert (job.lease != was.lease, job.due_at) == (True, now + LEASE_MS)
            self._end_lease(was)
        due = {num for num, job in before.items() if job.work is work and job.due_at is not None and job.due_at <= now}
        assert {job.num for job, _ in claimed} == due
        self.world.reached["claimed"] += len(claimed)

    @rule(said=submits)
    def the_submit_is_answered(self, said: Said) -> None:
        self._one(said)

    @rule(said=submits)
    def a_sender_works_by_the_book(self, said: Said) -> None:
        """Claim and begin, then the answer: the way that most submits go."""
        self.world.clock.pass_ms(MINUTE)
        queued = [num for num, job in self._jobs().items() if job.status is JobStatus.QUEUED]
        if queued:
            self._submit(queued[0], said.fact)

    @rule(said=polls)
    def a_poll_is_answered(self, said: Said) -> None:
        self._one(said)

    @rule(said=polls, last=st.booleans())
    def the_ids_are_read_in_one_go(self, said: Said, last: bool) -> None:
        """As polling does: every id, then the deadline where it is over, in one transaction."""
        parts = self._jobs()[self._num(said)].provider_job_ids or (None,)
        read = [Said(said.fact, Source.POLL, named, "own", who=said.who) for named in parts]
        if last:
            read.append(Said(DeadlinePassed(), Source.CLOCK, None, "own", who=said.who))
        self._several(read, together=True)

    @rule(said=callbacks)
    def a_callback_comes(self, said: Said) -> None:
        self._one(said)

    @rule(said=callbacks, times=st.integers(2, 5))
    def a_callback_is_repeated_at_the_same_time(self, said: Said, times: int) -> None:
        results = self._several([said] * times, together=False)
        if said.dedupe is not None and not isinstance(said.fact, Hint):
            assert {result.verdict for result in results[1:]} <= {"duplicate", "missing"}

    @rule()
    def a_forged_callback_is_kept_and_moves_nothing(self) -> None:
        before, now = self._jobs(), self.world.clock.now()
        forged = RawCallback(provider="peakmv", received_at=now, verdict=CallbackVerdict.REJECTED, body=b"{}")
        self.world.run(self.world.store.record_rejected(forged, 3))
        assert self._jobs() == before
        assert len(self.world.run(self.world.store.rejected_callbacks("peakmv"))) <= 3
        self.world.reached["forged"] += 1

    @rule(said=clients)
    def a_client_speaks(self, said: Said) -> None:
        self._one(said)

    @precondition(lambda self: len(self.nums) < MOST_JOBS)
    @rule(asked=new_jobs, fact=resolves)
    def a_person_settles_what_is_unknown(self, asked: dict[str, Any], fact: Resolve) -> None:
        self.another_job_is_submitted(asked, LOST)
        self._one(Said(fact, Source.CLIENT), self.nums[-1])

    @precondition(lambda self: len(self.nums) < MOST_JOBS)
    @rule(asked=new_jobs)
    def another_job_gets_an_id_that_is_bound(self, asked: dict[str, Any]) -> None:
        bound = [named for job in self._jobs().values() for named in job.provider_job_ids]
        if bound:
            num = self._create({**asked, "follows": False})
            self._submit(num, Accepted(provider_job_ids=(bound[0],)))
            job = self._jobs()[num]
            assert (job.status, job.provider_job_ids) == (JobStatus.UNKNOWN, ())
            assert "belongs to job_" in job.reason

    @rule()
    def queued_jobs_past_their_deadline_expire(self) -> None:
        overdue = [num for num in self.world.run(self.world.store.overdue(99)) if num in self.seen]
        for num in overdue:
            self._one(Said(DeadlinePassed(), Source.CLOCK), num)
            assert self._jobs()[num].status is JobStatus.FAILED

    @rule(said=st.lists(anything, min_size=2, max_size=6), together=st.booleans())
    def much_happens_at_once(self, said: list[Said], together: bool) -> None:
        self._several(said, together=together)

    @rule(order=st.permutations(EVERY), who=whos)
    def one_job_hears_everything(self, order: list[Fact], who: int) -> None:
        num = self._num(Said(Hint(), Source.CALLBACK, who=who))
        for fact in order:
            self._one(Said(fact, Source.SUBMIT), num)
            self.every_job_is_sound()

    @rule()
    def leases_are_recovered(self) -> None:
        for job in self._jobs().values():
            self._end_lease(job)
        self.world.run(self.world.store.recover_leases())
        assert all(job.lease is None for job in self._jobs().values())
        self.world.reached["recovered"] += 1

    @rule(rarely=st.integers(0, 2))
    def the_process_dies(self, rarely: int) -> None:
        if rarely == 0:
            for job in self._jobs().values():
                self._end_lease(job)
            before = self._rows()
            self.world.restart()
            assert self._rows() == before
            self.world.reached["restarted"] += 1

    # how it is applied

    def _submit(self, num: int, answer: Fact | None) -> None:
        """What a sender does with a job that is due: it may have lost it meanwhile."""
        self.a_worker_claims(Work.SUBMIT)
        for fact in (Begin(called_back=len(self.nums) % 2 == 0), answer):
            if fact is not None:
                self._one(Said(fact=fact, source=Source.SUBMIT, lease="own"), num)

    def _create(self, asked: dict[str, Any]) -> int:
        now = self.world.clock.now()
        status = JobStatus.PROCESSING if asked["follows"] else JobStatus.QUEUED
        detail = Detail(
            parts=some_parts(f"followed-{len(self.nums)}") if asked["follows"] else (),
            callback_url=b"sealed" if asked["called"] else None,
            callback_lane=-9,
        )
        job = a_job(
            status, ids=(), num=0, id=new_id("job", now), tenant=self.world.tenant, credential=self.credential,
            operation=asked["way"], metadata=asked["metadata"], correlation=new_correlation(), detail=detail,
            followed=asked["follows"], accepted_at=now if asked["follows"] else None, submitted_at=None, sequence=0,
            created_at=now, updated_at=now, due_at=now,
            deadline_at=now + asked["deadline"] if asked["deadline"] else None,
        )  # fmt: skip
        return self._keep(announced(job, now, "job.processing") if asked["follows"] else Decision(verdict="", job=job))

    def put(self, status: JobStatus) -> int:
        """A job that is in that status already, its end told."""
        now, over = self.world.clock.now(), status in TERMINAL
        job = a_job(
            status, num=0, id=new_id("job", now), tenant=self.world.tenant, credential=self.credential, lease=None,
            ids=(f"put-{len(self.nums)}",) if status is JobStatus.PROCESSING else (), correlation=new_correlation(),
            operation="same_key", sequence=0, created_at=now, updated_at=now, submitted_at=now, accepted_at=now,
            due_at=None if over or status is JobStatus.UNKNOWN else now, finished_at=now if over else None,
        )  # fmt: skip
        return self._keep(
            announced(job, now, f"job.{status}", once="terminal") if over else Decision(verdict="", job=job)
        )

    def _keep(self, said: Decision) -> int:
        new = NewJob(job=said.job, input=b"{}", idempotency_key=None, fingerprint=b"", announcements=said.announcements)
        made = self.world.run(self.world.store.create_jobs([new]))[0].job
        self.nums.append(made.num)
        self.seen[made.num] = Seen(job=made)
        return made.num

    def hear(self, fact: Fact, num: int) -> Applied:
        return self._one(Said(fact, Source.SUBMIT), num)

    def progress_pending(self, num: int) -> list[int]:
        """The deliveries of progress that no sender has taken yet."""
        sql = (
            "SELECT x.num FROM deliveries x JOIN events e ON e.num = x.event"
            " WHERE e.job = ? AND e.type = 'job.progress' AND x.status = 0 AND x.lease IS NULL"
        )
        return [row[0] for row in self.world.db.execute(sql, (num,))]

    def _one(self, said: Said, num: int | None = None) -> Applied:
        """Apply one fact, and compare what it did with what it may do."""
        num = self._num(said) if num is None else num
        before, arrival = self._jobs(), self._arrival(said, num)
        result = self._apply([arrival])[0]
        after = self._jobs()
        changed = [each for each, job in after.items() if job != before[each]]
        if result.job is not None:
            assert result.job == after[result.job.num], "what is told is not what is kept"
        if result.verdict in ("fenced", "missing"):
            assert not changed, "a fenced or homeless fact changed a job"
        for each in changed:
            assert result.job is not None and result.job.num == each, "a fact changed another job"
            self._allowed(said, before[each], after[each], result)
        if arrival.lease is not None:
            fenced = before[num].lease != arrival.lease
            assert (result.verdict == "fenced") == fenced, "only the lease's holder writes (I12)"
        return result

    def _several(self, said: Sequence[Said], *, together: bool) -> list[Applied]:
        """In one batch, or by as many callers at the same time."""
        arrivals = [self._arrival(each, self._num(each)) for each in said]
        if together:
            return self._apply(arrivals)

        async def at_once() -> list[Applied]:
            return list(await asyncio.gather(*(self.world.transitions.apply_one(each) for each in arrivals)))

        results: list[Applied] = self.world.run(at_once())
        self._count(arrivals, results)
        return results

    def _apply(self, arrivals: list[Arrival]) -> list[Applied]:
        results: list[Applied] = self.world.run(self.world.transitions.apply(arrivals))
        self._count(arrivals, results)
        return results

    def _count(self, arrivals: list[Arrival], results: list[Applied]) -> None:
        reached = self.world.reached
        reached["steps"] += len(arrivals)
        for arrival, result in zip(arrivals, results, strict=True):
            reached[f"{type(arrival.fact).__name__} {result.verdict}"] += 1
            reached[f"verdict {result.verdict}"] += 1

    def _num(self, said: Said) -> int:
        """Which job is meant: rather one that is not over, or the example would talk to the dead."""
        going_on = [num for num, job in self._jobs().items() if not job.terminal]
        among = going_on if going_on and said.who % 2 == 0 else self.nums
        return among[said.who // 2 % len(among)]

    def _arrival(self, said: Said, num: int) -> Arrival:
        job = self._jobs()[num]
        lease = {"own": job.lease, "old": self.old_leases[-1], "none": None}[said.lease]
        raw = None
        if said.source is Source.CALLBACK:
            verdict = CallbackVerdict.HINT if isinstance(said.fact, Hint) else CallbackVerdict.VERIFIED
            raw = RawCallback(provider="peakmv", received_at=self.world.clock.now(), verdict=verdict, body=b"{}")
        return Arrival(
            fact=said.fact,
            source=said.source,
            job=job.num if said.token else None,
            credential=self.credential if said.source is Source.CALLBACK else None,
            provider_job_id=said.named,
            lease=lease,
            dedupe_key=None if isinstance(said.fact, Hint) else said.dedupe,
            callback=raw,
        )

    def _room(self, credential: int) -> int:
        return 8 if credential == self.credential else 0

    def _end_lease(self, job: Job) -> None:
        if job.lease is not None:
            self.old_leases.append(job.lease)

    def _jobs(self) -> dict[int, Job]:
        return self.world.jobs(self.credential)

    def _rows(self) -> dict[int, Job]:
        """The jobs without what a restart may change."""
        return {num: replace(job, lease=None, due_at=None) for num, job in self._jobs().items()}

    @staticmethod
    def _allowed(said: Said, before: Job, after: Job, result: Applied) -> None:
        back = before.status in (JobStatus.SUBMITTING, JobStatus.UNKNOWN) and after.status is JobStatus.QUEUED
        resubmits = isinstance(said.fact, Resolve) and said.fact.action == "resubmit"
        if back:
            refused = isinstance(said.fact, NotNow) or (isinstance(said.fact, Refused) and said.fact.pauses)
            assert refused or resubmits, "only a certain refusal or a person sends again (I2)"
        assert (after.correlation != before.correlation) == back, "a new intent, and only that, has a new correlation"
        if after.status is JobStatus.UNKNOWN and before.status is not JobStatus.UNKNOWN:
            assert before.status is JobStatus.SUBMITTING or isinstance(said.fact, Restored)
        if isinstance(said.fact, Hint):
            detail = replace(before.detail, claimed=after.detail.claimed)
            work = after.work if said.fact.claims is not None else before.work
            same = replace(before, due_at=after.due_at, version=after.version, updated_at=after.updated_at)
            same = replace(same, detail=detail, work=work)
            assert after == same, "a hint does more than to hurry a read (I4)"
        assert result.verdict in ("applied", "late", "ignored", "duplicate", "clash")

    # what must hold after every step

    @invariant()
    def every_job_is_sound(self) -> None:
        if not self.nums:
            return
        for num, job in self._jobs().items():
            self._moved_forward(self.seen[num].job, job)
            self._is_sound(job)
            self._announced_rightly(job)
            self.seen[num] = Seen(job=job, events=self.seen[num].events)
            self.world.reached[f"status {job.status}"] += 1
        self._ids_are_not_shared()
        self._handed_over_rightly()

    def _moved_forward(self, before: Job, job: Job) -> None:
        if before.terminal:
            assert job.status == before.status, "a terminal status changed (I3)"
            assert job.finished_at == before.finished_at
        if before.status is JobStatus.PROCESSING:
            assert job.status is JobStatus.PROCESSING or job.terminal
        assert job.version >= before.version
        assert job.sequence >= before.sequence
        claimed = replace(before, lease=job.lease, due_at=job.due_at)
        assert job == claimed or job.version > before.version, "a change without a new version"
        if before.status != job.status:
            self.world.reached[f"{before.status} -> {job.status}"] += 1

    def _is_sound(self, job: Job) -> None:
        work = {JobStatus.QUEUED: Work.SUBMIT, JobStatus.SUBMITTING: Work.SETTLE, JobStatus.PROCESSING: Work.POLL}
        if job.terminal:
            self._ended_soundly(job)
        elif job.status is JobStatus.UNKNOWN:
            claimed = job.work is Work.SETTLE and job.detail.claimed is not None and job.due_at is not None
            assert claimed or (job.work, job.due_at, job.lease) == (None, None, None)
            assert job.reason
        else:
            assert job.work is work[job.status]
            assert job.due_at is not None, "nothing would ever happen to it"
        assert job.status is not JobStatus.SUCCEEDED or job.detail.outputs

    def _ended_soundly(self, job: Job) -> None:
        assert job.finished_at is not None
        assert job.status is JobStatus.SUCCEEDED or job.detail.error is not None
        assert job.work in (None, Work.POLL)
        assert (job.due_at is None) == (job.work is None)
        if job.work is None:
            assert job.lease is None
            return
        assert job.status is not JobStatus.SUCCEEDED
        assert job.detail.late is None
        assert job.due_at <= self.world.clock.now() + max(LATE_READ_MS, LEASE_MS)
        assert (job.last_poll_at or 0) <= job.finished_at + LATE_FOR_MS or job.accepted_at > job.finished_at
        self.world.reached["late reads"] += 1

    def _announced_rightly(self, job: Job) -> None:
        sql = "SELECT num, type, once, body FROM events WHERE job = ? ORDER BY num"
        rows = self.world.db.execute(sql, (job.num,)).fetchall()
        kinds = Counter(row[1] for row in rows)
        ended = sum(kinds[kind] for kind in ENDS)
        assert ended == int(job.terminal), "one terminal event per terminal job (I3)"
        if job.terminal:
            assert kinds[f"job.{job.status}"] == 1
        assert kinds["job.late_result"] == int(job.detail.late is not None)
        marks = [row[2] for row in rows if row[2] is not None]
        assert len(marks) == len(set(marks))
        assert kinds["job.processing"] <= 1
        unknown = sorted(mark for mark in marks if mark.startswith("unknown:"))
        assert kinds["job.unknown"] == len(unknown), "one unknown event per intent"
        sequences = [json.loads(row[3])["data"]["sequence"] for row in rows]
        assert sequences == sorted(set(sequences)), "the sequence rises from event to event"
        assert max(sequences, default=0) <= job.sequence
        if len(rows) != self.seen[job.num].events:
            self.seen[job.num].events = len(rows)
            for num, kind, _, body in rows:
                self.world.reached[f"event {kind}"] += 1
                newest = num == rows[-1][0]
                self._delivered_rightly(job, num, kind, json.loads(body)["data"], newest=newest)

    def _delivered_rightly(self, job: Job, event: int, kind: str, data: dict[str, Any], *, newest: bool) -> None:
        """Every matching endpoint has one row, nobody else has any (I5)."""
        sql = "SELECT endpoint, status FROM deliveries WHERE event = ? ORDER BY endpoint"
        rows = self.world.db.execute(sql, (event,)).fetchall()
        overtaken = kind == "job.progress" and not newest and not rows  # by a newer event of the same transaction
        assert overtaken or [row[0] for row in rows] == sorted(self._owed(job, kind, data["status"]))
        for endpoint, status in rows:
            held = endpoint == self.world.endpoints["paused"]
            assert status == HELD if held else status == PENDING or (kind == "job.progress" and status == CANCELED)
            self.world.reached[f"delivery {status}"] += 1

    def _owed(self, job: Job, kind: str, status: str) -> set[int]:
        named, usual = self.world.endpoints, kind != "job.progress"
        owed = {
            named["all"]: usual,
            named["group"]: True,
            named["red"]: kind in ("job.progress", "job.succeeded") and job.metadata.get("team") == "red",
            named["paused"]: usual,
            named["dotted"]: usual and job.metadata.get("a.b") == "x",
            named["failures"]: usual and status == "failed",
            0: job.detail.callback_url is not None and kind in {*ENDS, "job.unknown"},
            -1: kind == "job.unknown",
        }
        return {endpoint for endpoint, is_owed in owed.items() if is_owed}

    def _ids_are_not_shared(self) -> None:
        jobs = self._jobs()
        sql = "SELECT provider_job_id, job FROM provider_ids WHERE credential = ?"
        owners = dict(self.world.db.execute(sql, (self.credential,)).fetchall())
        for job in jobs.values():
            assert len(set(job.provider_job_ids)) == len(job.provider_job_ids)
            for named in job.provider_job_ids:
                assert owners.get(named) == job.num, "an id of two jobs, or one that is not bound"

    def _handed_over_rightly(self) -> None:
        """What senders were given is what was committed, with the lease that it has there."""
        given = self.world.handed
        for delivery in given:
            sql = "SELECT lease, status, lane FROM deliveries WHERE num = ?"
            assert self.world.db.execute(sql, (delivery.num,)).fetchone() == (delivery.lease, PENDING, delivery.lane)
        self.world.reached["handed over"] += len(given)
        given.clear()
        self.world.told.clear()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("machine") / "jobs.db")
    yield made
    made.close()


def test_any_facts_in_any_order_keep_every_promise_about_jobs(world: World) -> None:
    profile = a_profile()
    run_state_machine_as_test(lambda: Machine(world), settings=profile)
    reached = world.reached
    wanted = {f"status {status}" for status in JobStatus}
    wanted |= {f"verdict {word}" for word in "applied duplicate ignored late missing fenced clash".split()}
    wanted |= {f"{fact.__name__} applied" for fact in TABLE if fact is not Clash}
    wanted |= {f"event {kind}" for kind in {*ENDS, "job.processing", "job.progress", "job.unknown", "job.late_result"}}
    wanted |= {f"delivery {status}" for status in (PENDING, HELD)}
    wanted |= {"claimed", "forged", "recovered", "restarted", "late reads", "handed over"}
    assert {what for what in wanted if not reached[what]} == set(), "the run did not reach what it should test"
    assert reached["steps"] >= profile.max_examples * 20


@pytest.mark.parametrize("status", JobStatus)
def test_every_cell_of_the_table_goes_through_the_store(world: World, status: JobStatus) -> None:
    """By construction, whatever the run above happened to draw."""
    machine, before = Machine(world), Counter(world.cells)
    for fact in EVERY:
        num = machine.put(status)
        machine.hear(fact, num)
        machine.every_job_is_sound()
    machine.teardown()
    asked = {name for (name, of), times in world.cells.items() if of == status and times > before[name, of]}
    assert asked >= {type(fact).__name__ for fact in EVERY}


def test_newer_progress_and_the_end_cancel_what_is_pending_of_it(world: World) -> None:
    machine = Machine(world)
    num = machine.put(JobStatus.PROCESSING)
    told = []
    for update in (an_update(progress=0.1), an_update(progress=0.2), an_update("succeeded")):
        machine.hear(update, num)
        machine.every_job_is_sound()
        told.append(machine.progress_pending(num))
        world.clock.pass_ms(6 * SECOND)
    machine.teardown()
    assert [len(pending) for pending in told] == [1, 1, 0]
    assert told[0] != told[1]


def test_a_resubmitted_job_is_not_overdue_at_once(world: World) -> None:
    now, credential = world.clock.now(), world.credential()
    job = a_job(
        "unknown", num=0, id=new_id("job", now), tenant=world.tenant, credential=credential, operation="person",
        created_at=now - 2 * HOUR, deadline_at=now - HOUR,
    )  # fmt: skip
    new = NewJob(job=job, input=b"{}", idempotency_key=None, fingerprint=b"")
    num = world.run(world.store.create_jobs([new]))[0].job.num
    world.run(world.transitions.apply_one(an_arrival(Resolve(action="resubmit"), Source.CLIENT, job=num)))
    overdue = world.run(world.store.overdue(1_000))
    world.forget(credential)
    assert num not in overdue


# -- every trace, without a store


@dataclass(frozen=True)
class Node:
    """A job in a state, what was announced of it, and how many traces lead here."""

    job: Job
    marks: tuple[str, ...] = ()
    intents: int = 0
    late: int = 0  # milliseconds that passed beyond a second per fact

    def key(self) -> bytes:
        return msgspec.json.encode((self.job, self.marks, self.intents, self.late))


TRACED: tuple[Fact | None, ...] = (  # None: an hour passes
    None,
    Begin(),
    Accepted(provider_job_ids=("p1",)),
    Accepted(provider_job_ids=("p1", "p2")),
    Done(update=an_update("succeeded"), provider_job_ids=("p1",)),
    Done(update=an_update("processing"), provider_job_ids=("p2",)),
    Refused(error=an_error()),
    Refused(error=an_error(), pauses=True),
    Refused(error=an_error(), pauses=True, probe=True),
    NotNow(reason="busy"),
    NotNow(reason="HTTP 500", at_most=1),
    Unknown(reason="no reply"),
    NotFound(reason="no row"),
    NotFound(reason="no row", conclusive=True),
    Clash(provider_job_id="p1", other_job="job_02"),
    an_update("processing"),
    an_update("processing", progress=0.5),
    an_update("succeeded"),
    Update(status=JobStatus.SUCCEEDED),
    an_update("failed"),
    an_update("canceled"),
    Hint(),
    Hint(claims="p1"),
    CancelAsked(supported=True),
    CancelSent(),
    CancelAsked(supported=False),
    DeadlinePassed(),
    Resolve(action="adopt", provider_job_id="p3"),
    Resolve(action="fail"),
    Resolve(action="resubmit"),
    Restored(),
)


def step(rules: Rules, node: Node, fact: Fact | None, now: int) -> Node:
    """Where a fact leads; every promise about the step is checked on the way."""
    if fact is None:
        return replace_node(node, late=node.late + HOUR)
    before, named = node.job, "p1" if isinstance(fact, Update) else None
    decision = rules.decide(before, an_arrival(fact, provider_job_id=named), now + node.late)
    job = decision.job or before
    if before.terminal:
        assert job.status == before.status
        assert [said.type for said in decision.announcements] in ([], ["job.late_result"])
    ended = [said.type for said in decision.announcements if said.type in ENDS]
    assert ended == ([f"job.{job.status}"] if job.terminal and not before.terminal else [])
    assert job.status is not JobStatus.SUCCEEDED or job.detail.outputs
    assert job.sequence == before.sequence + len(decision.announcements)
    assert decision.job is None or job.version > before.version
    fresh = tuple(said.once for said in decision.announcements if said.once is not None)
    assert not set(fresh) & set(node.marks), "announced twice"
    intents = node.intents + (job.correlation != before.correlation)
    return Node(
        job=replace(job, version=0, correlation=f"intent-{intents}"),
        marks=tuple(sorted((*node.marks, *fresh))),
        intents=intents,
        late=node.late,
    )


def replace_node(node: Node, *, late: int) -> Node:
    return Node(job=node.job, marks=node.marks, intents=node.intents, late=late)


def walk(rules: Rules, first: Job, length: int) -> tuple[int, Counter[str]]:
    """All traces of that length, those that meet in one state walked on as one; how many, and what ends were seen."""
    layer: dict[bytes, tuple[Node, int]] = {b"": (Node(job=replace(first, version=0, correlation="intent-0")), 1)}
    seen: Counter[str] = Counter()
    for depth in range(length):
        following: dict[bytes, tuple[Node, int]] = {}
        for node, traces in layer.values():
            for fact in TRACED:
                after = step(rules, node, fact, NOW + depth * SECOND)
                seen[after.job.status] += 1
                key = after.key()
                following[key] = (after, following.get(key, (after, 0))[1] + traces)
        layer = following
    return sum(traces for _, traces in layer.values()), seen


@pytest.mark.parametrize("way", ["person", "lookup"])
@pytest.mark.parametrize("status", ["queued", "submitting", "unknown", "processing", "failed"])
def test_all_traces_of_four_facts_end_a_job_at_most_once(status: str, way: str) -> None:
    length = 6 if a_profile().max_examples >= 1_000 else 4
    first = a_job(status, lease=None, ids=("p1",) if status == "processing" else ())
    traces, seen = walk(some_rules(an_operation(way)), first, length)
    assert traces == len(TRACED) ** length
    assert set(seen) >= ({"failed"} if status == "failed" else {"succeeded", "failed", "canceled", "processing"})


def test_the_traces_use_every_fact_of_the_table() -> None:
    assert {type(fact) for fact in TRACED if fact is not None} == set(TABLE)
