"""transitions: the table cell by cell, then what the table's rules promise about time, retries and late news."""

import itertools
from typing import get_args

import pytest
from msgspec.structs import replace

from service.facts import (
    Accepted,
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
    Refused,
    Resolve,
    Restored,
    Unknown,
    Update,
)
from service.models import Decision, Detail, Job, Part
from service.rules_follow import (
    GONE_AFTER_MS,
    HINT_EVERY_MS,
    LATE_FOR_MS,
    LATE_READ_MS,
    MISSES_BEFORE_GONE,
    PROGRESS_EVERY_MS,
)
from service.states import TERMINAL, ErrorCode, JobStatus, Source, Work
from service.transitions import TABLE
from tests.builders import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    a_cost,
    a_job,
    an_arrival,
    an_error,
    an_operation,
    an_output,
    an_update,
    some_parts,
    some_rules,
)

STATUSES = ("queued", "submitting", "unknown", "processing", "succeeded", "failed", "canceled")


def decide(job: Job, fact: Fact, source: Source = Source.POLL, *, now: int = NOW, rules=None, **named) -> Decision:
    return (rules or some_rules()).decide(job, an_arrival(fact, source, **named), now)


def after(job: Job, *facts: Fact, now: int = NOW, rules=None, **named) -> Job:
    """The job after these facts, one millisecond apart."""
    rules = rules or some_rules()
    for step, fact in enumerate(facts):
        job = decide(job, fact, now=now + step, rules=rules, **named).job or job
    return job


def events(decision: Decision) -> list[str]:
    return [said.type for said in decision.announcements]


def outcome(job: Job, decision: Decision) -> str:
    """A cell of the table below."""
    if decision.job is None:
        return decision.verdict
    return " ".join([decision.verdict, decision.job.status, *events(decision)])


# -- the table

PLAYS = "applied processing job.processing"
WINS = "applied succeeded job.succeeded"
FAILS = "applied failed job.failed"
STOPS = "applied canceled job.canceled"
LATE = "late {} job.late_result"
SAME = "duplicate"
NO = "ignored"

ROWS: dict[str, tuple[Fact, tuple[str, ...]]] = {
    # what:           fact, then queued, submitting, unknown, processing, succeeded, failed, canceled
    "begin": (Begin(), ("applied submitting", "applied submitting", NO, NO, NO, NO, NO)),
    "accepted": (Accepted(provider_job_ids=("p1",)), (PLAYS, PLAYS, PLAYS, SAME, SAME, SAME, SAME)),
    "accepted with another id": (Accepted(provider_job_ids=("p9",)), (PLAYS, PLAYS, PLAYS, NO, NO, NO, NO)),
    "accepted with an id more": (
        Accepted(provider_job_ids=("p1", "p2")),
        (PLAYS, PLAYS, PLAYS, "applied processing", NO, "late failed", "late canceled"),
    ),
    "done": (
        Done(update=an_update("succeeded"), provider_job_ids=("p1",)),
        (WINS, WINS, WINS, WINS, SAME, LATE.format("failed"), LATE.format("canceled")),
    ),
    "done, failed": (
        Done(update=an_update("failed"), provider_job_ids=("p1",)),
        (FAILS, FAILS, FAILS, FAILS, SAME, SAME, SAME),
    ),
    "done, but going on": (
        Done(update=an_update("processing"), provider_job_ids=("p1",)),
        (PLAYS, PLAYS, PLAYS, SAME, SAME, SAME, SAME),
    ),
    "done without an output": (
        Done(update=Update(status=JobStatus.SUCCEEDED), provider_job_ids=("p1",)),
        (FAILS, FAILS, FAILS, FAILS, SAME, SAME, SAME),
    ),
    "refused": (Refused(error=an_error()), (FAILS, FAILS, NO, NO, NO, NO, NO)),
    "refused for its credential": (
        Refused(error=an_error(), pauses=True), ("applied queued", "applied queued", NO, NO, NO, NO, NO)
    ),
    "not now": (
        NotNow(reason="busy"), ("applied queued", "applied queued", NO, "applied processing", NO, NO, NO)
    ),
    "not now for the last time": (
        NotNow(reason="500", at_most=0), (FAILS, FAILS, NO, "applied processing", NO, NO, NO)
    ),
    "unknown": (Unknown(reason="no reply"), (NO, "applied submitting", NO, NO, NO, NO, NO)),
    "not found": (
        NotFound(reason="no row"), (NO, "applied submitting", NO, "applied processing", NO, NO, NO)
    ),
    "not found for certain": (
        NotFound(reason="no row", conclusive=True), (NO, FAILS, NO, "applied processing", NO, NO, NO)
    ),
    "clash": (
        Clash(provider_job_id="p1", other_job="job_02"),
        (NO, "clash unknown job.unknown", "clash unknown", NO, NO, NO, NO),
    ),
    "processing": (an_update("processing"), (PLAYS, PLAYS, PLAYS, "applied processing", NO, NO, NO)),
    "progress": (
        an_update("processing", progress=0.5), (PLAYS, PLAYS, PLAYS, "applied processing job.progress", NO, NO, NO)
    ),
    "succeeded": (
        an_update("succeeded"),
        (WINS, WINS, WINS, WINS, SAME, LATE.format("failed"), LATE.format("canceled")),
    ),
    "succeeded without an output": (
        Update(status=JobStatus.SUCCEEDED), (FAILS, FAILS, FAILS, FAILS, SAME, NO, NO)
    ),
    "failed": (an_update("failed"), (NO, FAILS, FAILS, FAILS, NO, SAME, NO)),
    "canceled": (an_update("canceled"), (NO, STOPS, STOPS, STOPS, NO, NO, SAME)),
    "hint that names an id": (
        Hint(claims="p9"),
        (NO, "applied submitting", "applied unknown", "applied processing", NO, NO, NO),
    ),
    "cancel that was sent": (CancelSent(), (NO, NO, NO, "applied processing", NO, NO, NO)),
    "hint": (Hint(), (NO, "applied submitting", NO, "applied processing", NO, NO, NO)),
    "cancel": (
        CancelAsked(supported=True),
        (STOPS, "applied submitting", "applied unknown", "applied processing", NO, NO, NO),
    ),
    "cancel that the provider has not": (CancelAsked(supported=False), (STOPS, NO, NO, NO, NO, NO, NO)),
    "deadline": (DeadlinePassed(), (FAILS, NO, NO, FAILS, NO, NO, NO)),
    "adopt": (Resolve(action="adopt", provider_job_id="p1"), (NO, NO, PLAYS, NO, NO, NO, NO)),
    "adopt nothing": (Resolve(action="adopt"), (NO,) * 7),
    "resolve as failed": (Resolve(action="fail"), (NO, NO, FAILS, NO, NO, NO, NO)),
    "restored": (Restored(), ("applied unknown job.unknown", "applied unknown job.unknown", NO, NO, NO, NO, NO)),
    "resubmit": (Resolve(action="resubmit", correlation="new"), (NO, NO, "applied queued", NO, NO, NO, NO)),
}  # fmt: skip
CELLS = [
    pytest.param(fact, status, cell, id=f"{what}-{status}")
    for what, (fact, cells) in ROWS.items()
    for status, cell in zip(STATUSES, cells, strict=True)
]


def unleased(status: str) -> Job:
    return a_job(status, lease=None)


@pytest.mark.parametrize(("fact", "status", "cell"), CELLS)
def test_every_fact_does_what_the_table_says_to_every_status(fact, status, cell):
    job = unleased(status)
    assert outcome(job, decide(job, fact)) == cell


def test_the_cells_above_are_all_that_there_are():
    assert set(STATUSES) == set(JobStatus)
    assert {type(fact) for fact, _ in ROWS.values()} == set(TABLE)
    assert all(set(row) == set(JobStatus) for row in TABLE.values())


def test_every_fact_that_there_is_has_a_row():
    assert set(get_args(Fact)) == set(TABLE)


@pytest.mark.parametrize("status", sorted(TERMINAL))
@pytest.mark.parametrize("what", sorted(ROWS))
def test_no_fact_changes_a_terminal_status(what, status):
    job = unleased(status)
    decision = decide(job, ROWS[what][0])
    assert decision.job is None or decision.job.status == status
    assert set(events(decision)) <= {"job.late_result"}


@pytest.mark.parametrize(("fact", "status", "cell"), CELLS)
def test_every_change_raises_the_version_and_every_event_the_sequence_by_one(fact, status, cell):
    job = replace(unleased(status), version=7, sequence=3)
    decision = decide(job, fact)
    if decision.job is not None:
        assert decision.job.version == 8
        assert decision.job.sequence == 3 + len(decision.announcements)
    for said in decision.announcements:
        assert said.data["sequence"] == decision.job.sequence


@pytest.mark.parametrize(("fact", "status", "cell"), CELLS)
def test_deciding_twice_gives_the_same_answer_and_leaves_the_job_alone(fact, status, cell):
    job = unleased(status)
    before = replace(job)
    assert decide(job, fact) == decide(job, fact)
    assert job == before


@pytest.mark.parametrize(("fact", "status", "cell"), CELLS)
def test_what_changes_nothing_says_why(fact, status, cell):
    decision = decide(unleased(status), fact)
    if decision.verdict in ("ignored", "duplicate"):
        assert decision.reason
        assert not decision.binds
        assert not decision.announcements


# -- terminal: one event, nothing left to do


@pytest.mark.parametrize("status", ["succeeded", "failed", "canceled"])
@pytest.mark.parametrize("begun", ["submitting", "unknown", "processing"])
def test_the_end_leaves_no_work_no_lease_and_one_terminal_event(begun, status):
    decision = decide(a_job(begun), an_update(status), provider_job_id="p1")
    job = decision.job
    assert (job.status, job.work, job.due_at, job.lease) == (status, None, None, None)
    assert job.finished_at == NOW
    assert [(said.type, said.once) for said in decision.announcements] == [(f"job.{status}", "terminal")]


def test_a_canceled_queued_job_tells_when_it_was_asked_and_why_it_ended():
    job = decide(a_job("queued"), CancelAsked(supported=False), Source.CLIENT).job
    assert job.cancel_requested_at == NOW
    assert job.detail.error.code is ErrorCode.CANCELED


def test_success_without_an_output_is_a_failure_that_says_so():
    job = decide(a_job("processing"), Update(status=JobStatus.SUCCEEDED)).job
    assert job.detail.error.code is ErrorCode.PROVIDER_ERROR
    assert "without an output" in job.detail.error.message


@pytest.mark.parametrize(("status", "code"), [("failed", ErrorCode.PROVIDER_ERROR), ("canceled", ErrorCode.CANCELED)])
def test_an_end_without_a_reason_gets_one(status, code):
    job = decide(a_job("processing"), Update(status=JobStatus(status))).job
    assert job.detail.error.code is code


def test_what_the_provider_says_at_the_end_joins_what_it_said_at_the_submit():
    job = a_job("processing", detail=Detail(provider_data={"queue": "fast"}))
    assert decide(job, an_update("succeeded", provider_data={"seed": 4})).job.detail.provider_data == {
        "queue": "fast",
        "seed": 4,
    }


def test_a_reported_cost_replaces_the_quoted_one_and_no_report_leaves_it():
    quoted = a_job("processing", detail=Detail(cost=a_cost("8", "quoted")))
    assert decide(quoted, an_update("succeeded", cost=a_cost("9"))).job.detail.cost == a_cost("9")
    assert decide(quoted, an_update("succeeded")).job.detail.cost == a_cost("8", "quoted")


# -- restored from a backup


@pytest.mark.parametrize("status", ["queued", "submitting"])
def test_what_a_backup_shows_as_not_sent_is_never_sent_by_itself(status):
    job = decide(a_job(status), Restored(), Source.CLOCK).job
    assert (job.status, job.work, job.due_at, job.lease) == ("unknown", None, None, None)
    assert "restored from a backup" in job.reason
    assert job.submitted_at is not None  # a look-up reads back to before it


# -- submitting


def test_the_submit_begins_once_and_keeps_the_time_of_its_first_post():
    first = decide(a_job("queued"), Begin(called_back=True)).job
    again = decide(first, Begin(called_back=True), now=NOW + MINUTE).job
    assert (first.submitted_at, again.submitted_at) == (NOW, NOW)
    assert (first.tries, again.tries) == (1, 2)
    assert first.work is Work.SETTLE
    assert first.detail.called_back
    assert first.correlation == again.correlation


def test_begin_keeps_the_lease_that_the_sender_holds():
    assert decide(a_job("queued", lease=5, due_at=NOW + 9), Begin()).job.lease == 5


def test_acceptance_binds_the_ids_and_schedules_the_first_read():
    decision = decide(a_job("submitting"), Accepted(provider_job_ids=("a", "b"), cost=a_cost("3", "quoted")))
    job = decision.job
    assert decision.binds == job.provider_job_ids == ("a", "b")
    assert (job.work, job.due_at, job.lease, job.accepted_at) == (Work.POLL, NOW + 5 * SECOND, None, NOW)
    assert job.detail.cost == a_cost("3", "quoted")


def test_the_first_read_of_a_job_that_is_called_back_comes_late():
    job = a_job("submitting", detail=Detail(called_back=True))
    assert decide(job, Accepted(provider_job_ids=("p1",))).job.due_at == NOW + 60 * SECOND


def test_the_first_read_is_not_planned_past_the_deadline():
    job = a_job("submitting", detail=Detail(called_back=True), deadline_at=NOW + 20 * SECOND)
    assert decide(job, Accepted(provider_job_ids=("p1",))).job.due_at == NOW + 20 * SECOND
    assert decide(job, an_update("processing"), provider_job_id="p1").job.due_at == NOW + 20 * SECOND


def test_a_cancel_asked_while_submitting_is_due_as_soon_as_the_id_is_known():
    asked = decide(a_job("submitting"), CancelAsked(supported=True), Source.CLIENT).job
    assert asked.due_at == NOW + 90 * SECOND  # the lease of the POST under way is left alone
    assert decide(asked, Accepted(provider_job_ids=("p1",))).job.due_at == NOW


def test_a_refused_submit_fails_with_the_providers_error():
    error = an_error("nothing for you", ErrorCode.CONTENT_MODERATED)
    assert decide(a_job("submitting"), Refused(error=error)).job.detail.error == error


def test_a_callback_before_the_reply_finds_its_job_and_the_reply_is_no_news():
    """F4: the callback comes first, by its token; the reply names the same id."""
    early = decide(a_job("submitting"), an_update("processing"), Source.CALLBACK, provider_job_id="p1")
    assert (early.binds, early.job.lease, early.job.status) == (("p1",), None, "processing")
    assert decide(early.job, Accepted(provider_job_ids=("p1",)), Source.SUBMIT).verdict == "duplicate"
    assert decide(early.job, Unknown(reason="no reply"), Source.SUBMIT).job is None


def test_ids_that_the_reply_names_beyond_the_callbacks_are_followed_too():
    early = decide(a_job("submitting"), an_update("processing"), Source.CALLBACK, provider_job_id="p1").job
    reply = decide(early, Accepted(provider_job_ids=("p1", "p2")), Source.SUBMIT)
    assert (reply.verdict, reply.binds, reply.job.provider_job_ids) == ("applied", ("p2",), ("p1", "p2"))


def test_a_second_acceptance_under_another_id_is_said_aloud_and_not_followed():
    decision = decide(a_job("processing"), Accepted(provider_job_ids=("p9",)), Source.SUBMIT)
    assert (decision.job, decision.binds) == (None, ())
    assert decision.notes[0].data["provider_job_ids"] == ["p9"]


# -- not now: back to the queue


def test_a_certain_refusal_goes_back_to_the_queue_under_a_fresh_correlation():
    job = decide(a_job("submitting"), NotNow(reason="rate_limited"), Source.SUBMIT).job
    assert (job.status, job.reason, job.correlation) == ("queued", "rate_limited", "intent-1")
    assert (job.submitted_at, job.lease, job.work) == (None, None, Work.SUBMIT)


def test_what_was_not_sent_keeps_its_correlation():
    assert decide(a_job("queued"), NotNow(reason="not sent: dns")).job.correlation == "intent-0"


def test_an_unknown_outcome_keeps_its_correlation():
    job = after(a_job("submitting"), Unknown(reason="no reply"), Begin(), Unknown(reason="no reply"))
    assert (job.status, job.correlation) == ("submitting", "intent-0")


def test_refusals_wait_longer_each_time_up_to_a_minute():
    rules, job, waits = some_rules(), a_job("queued"), []
    for _ in range(9):
        job = after(job, Begin(), NotNow(reason="busy"), rules=rules)
        waits.append((job.due_at - NOW - 1) // SECOND)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_what_fails_before_the_first_byte_waits_longer_each_time_too():
    rules, job, waits = some_rules(), a_job("queued"), []
    for _ in range(4):
        job = after(job, NotNow(reason="not sent: refused"), rules=rules)
        waits.append((job.due_at - NOW) // SECOND)
    assert waits == [1, 2, 4, 8]


def test_a_longer_retry_after_is_obeyed_and_a_shorter_one_does_not_hurry():
    assert decide(a_job("submitting"), NotNow(reason="busy", after_s=90)).job.due_at == NOW + 90 * SECOND
    assert decide(a_job("submitting", tries=5), NotNow(reason="busy", after_s=1)).job.due_at == NOW + 16 * SECOND


@pytest.mark.parametrize("after_s", [3_601.0, 86_400_000.0, 999_999_999.0, float("inf")])
def test_a_provider_cannot_push_one_job_further_than_an_hour(after_s):
    assert decide(a_job("submitting"), NotNow(reason="busy", after_s=after_s)).job.due_at == NOW + HOUR
    read = decide(a_job("processing", deadline_at=None), NotNow(reason="busy", after_s=after_s)).job
    assert read.due_at == NOW + HOUR


@pytest.mark.parametrize("after_s", [None, 0.0, -1.0, -86_400.0, float("nan"), float("-inf")])
def test_a_wait_that_is_none_leaves_our_own_pace(after_s):
    assert decide(a_job("submitting"), NotNow(reason="busy", after_s=after_s)).job.due_at == NOW + SECOND


# -- a refused credential: nobody fails for it


def credential_refused(probe=False, code="authentication"):
    return Refused(error=an_error("no", code=code), pauses=True, probe=probe)


def test_who_is_refused_for_its_credential_keeps_its_place_in_the_queue():
    born = a_job("submitting", created_at=NOW - HOUR, tries=1)
    job = decide(born, credential_refused(code="out_of_credit"), Source.SUBMIT).job
    assert (job.status, job.reason, job.due_at) == ("queued", "credential_paused: out_of_credit", NOW - HOUR)
    assert (job.submitted_at, job.lease, job.work, job.correlation) == (None, None, Work.SUBMIT, "intent-1")
    assert job.detail.error is None


def test_only_the_second_refusal_of_a_probe_fails():
    once = after(a_job("queued"), Begin(), credential_refused())
    again = after(once, Begin(), credential_refused())
    assert again.status == "queued", "what had left together with others is no probe"
    assert after(a_job("queued"), Begin(), credential_refused(probe=True)).status == "queued", "its first one"
    for refused in (once, again):
        failed = after(refused, Begin(), credential_refused(probe=True))
        assert (failed.status, failed.detail.error.code) == ("failed", "authentication")


def test_a_resubmitted_job_begins_to_count_its_refusals_anew():
    lost = after(a_job("queued"), Begin(), credential_refused(), Begin())
    unknown = replace(lost, status="unknown", work=None, due_at=None)
    again = after(unknown, Resolve(action="resubmit"), Begin(), credential_refused(probe=True))
    assert again.status == "queued"


def test_a_passthrough_submit_is_never_queued():
    through = a_job("submitting", detail=Detail(passthrough=True))
    assert outcome(through, decide(through, credential_refused(), Source.SUBMIT)) == FAILS


def test_a_canceled_job_that_is_refused_for_its_credential_is_not_sent_again():
    asked = decide(a_job("submitting"), CancelAsked(supported=True), Source.CLIENT).job
    assert outcome(asked, decide(asked, credential_refused(), Source.SUBMIT)) == STOPS


def sends_until_it_fails(at_most: int) -> tuple[int, Job]:
    rules, job, sent = some_rules(), a_job("queued"), 0
    error = an_error("HTTP 500")
    while job.status == "queued":
        job = after(job, Begin(), NotNow(reason="provider_error", at_most=at_most, error=error), rules=rules)
        sent += 1
    return sent, job


@pytest.mark.parametrize("at_most", [0, 1, 3])
def test_an_answer_that_may_be_repeated_so_often_fails_after_that(at_most):
    """PeakMV's JSON 500: its documents allow a few repeats."""
    sent, job = sends_until_it_fails(at_most)
    assert sent == at_most + 1
    assert (job.status, job.detail.error) == ("failed", an_error("HTTP 500"))


def test_a_limited_answer_without_an_error_of_its_own_still_says_why():
    job = decide(a_job("submitting"), NotNow(reason="HTTP 500", at_most=0)).job
    assert job.detail.error.message == "HTTP 500"


def test_only_limited_answers_in_a_row_are_counted():
    limited, other = NotNow(reason="HTTP 500", at_most=1), NotNow(reason="rate_limited")
    job = after(a_job("queued"), Begin(), limited, Begin(), other, Begin(), limited)
    assert job.status == "queued"
    assert after(job, Begin(), limited).status == "failed"


def test_a_job_whose_cancel_was_asked_while_submitting_is_not_sent_again():
    asked = decide(a_job("submitting"), CancelAsked(supported=True), Source.CLIENT).job
    decision = decide(asked, NotNow(reason="busy"), Source.SUBMIT, now=NOW + SECOND)
    assert outcome(asked, decision) == STOPS
    assert decision.job.cancel_requested_at == NOW


@pytest.mark.parametrize("status", ["processing", "succeeded"])
def test_a_queued_job_whose_earlier_submit_proves_accepted_is_followed_instead_of_sent(status):
    job = after(a_job("submitting"), NotNow(reason="busy"))
    decision = decide(job, an_update(status), Source.CALLBACK, provider_job_id="p1")
    assert (decision.job.status, decision.binds) == (status, ("p1",))
    assert decision.job.work is not Work.SUBMIT
    assert decide(decision.job, Begin()).job is None


# -- unknown: only after the automatic ways


def settled(by: str, **changes):
    return some_rules(an_operation(by, **changes))


@pytest.mark.parametrize("way", ["person", "same_key", "token"])
def test_what_went_through_unchanged_is_unknown_at_once_where_only_a_look_up_could_tell(way):
    job = a_job("submitting", detail=Detail(passthrough=True))
    assert decide(job, Unknown(reason="no reply"), Source.SUBMIT, rules=settled(way)).job.status == "unknown"
    looked_up = decide(job, Unknown(reason="no reply"), Source.SUBMIT, rules=settled("lookup")).job
    assert looked_up.status == "submitting"


def test_where_a_person_settles_it_the_outcome_is_unknown_at_once():
    decision = decide(a_job("submitting"), Unknown(reason="no reply"), Source.SUBMIT, rules=settled("person"))
    assert outcome(a_job("submitting"), decision) == "applied unknown job.unknown"
    assert (decision.job.reason, decision.job.work, decision.job.due_at) == ("no reply", None, None)


@pytest.mark.parametrize("by", ["same_key", "lookup", "token"])
@pytest.mark.parametrize("lost", [Unknown(reason="no reply"), NotFound(reason="no row")])
def test_the_automatic_ways_are_tried_until_their_time_is_over(by, lost):
    rules, last = settled(by), NOW + 2_400 * SECOND  # the longest duration and the time to settle
    during = decide(a_job("submitting"), lost, now=last - 1, rules=rules)
    assert outcome(a_job("submitting"), during) == "applied submitting"
    assert (during.job.reason, during.job.work, during.job.lease) == (lost.reason, Work.SETTLE, None)
    assert outcome(a_job("submitting"), decide(a_job("submitting"), lost, now=last, rules=rules)) == (
        "applied unknown job.unknown"
    )


def test_the_time_to_settle_counts_from_the_first_post():
    job = a_job("submitting", created_at=NOW - HOUR)
    assert decide(job, Unknown(reason="no reply"), now=NOW + MINUTE).job.status == "submitting"


def test_look_ups_slow_down_to_one_in_half_a_minute():
    rules, job, now, waits = settled("lookup"), a_job("submitting"), NOW, []
    while job.status == "submitting":
        job = decide(job, NotFound(reason="no row"), now=now, rules=rules).job
        if job.due_at is not None:
            waits.append((job.due_at - now) / SECOND)
            now = job.due_at
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (1, 30)
    assert len(waits) < 100


def test_a_look_up_that_finds_nothing_never_sends_again():
    for conclusive in (False, True):
        job = decide(a_job("submitting"), NotFound(reason="no row", conclusive=conclusive)).job
        assert job.work is not Work.SUBMIT
        assert job.status in ("submitting", "failed")


def test_a_conclusive_look_up_ends_as_not_accepted():
    error = decide(a_job("submitting"), NotFound(reason="no row", conclusive=True)).job.detail.error
    assert (error.code, error.retryable) == (ErrorCode.NOT_ACCEPTED, True)


def test_unknown_is_announced_once_per_intent():
    said = decide(a_job("submitting"), Unknown(reason="no reply"), rules=settled("person")).announcements
    assert [each.once for each in said] == ["unknown:intent-0"]


def test_no_deadline_ends_a_submit_of_unknown_outcome_but_it_shows_as_overdue():
    for status in ("submitting", "unknown"):
        assert decide(a_job(status), DeadlinePassed(), now=NOW + 2 * HOUR).job is None
    late = decide(a_job("submitting"), Unknown(reason="x"), now=NOW + 2 * HOUR, rules=settled("person"))
    assert late.announcements[0].data["overdue"] is True


@pytest.mark.parametrize("fact", [Accepted(provider_job_ids=("p1",)), an_update("succeeded"), an_update("failed")])
def test_an_unknown_job_moves_when_the_truth_is_learned(fact):
    decision = decide(a_job("unknown"), fact, Source.CALLBACK, provider_job_id="p1")
    assert decision.job.status in ("processing", "succeeded", "failed")
    assert decision.binds == ("p1",)
    assert decision.job.reason is None


# -- a person settles it


def test_a_person_adopts_an_id():
    decision = decide(a_job("unknown"), Resolve(action="adopt", provider_job_id="p7"), Source.CLIENT)
    assert (decision.binds, decision.job.provider_job_ids, decision.job.work) == (("p7",), ("p7",), Work.POLL)
    assert decision.notes[0].data["note"] == "adopted by a person"


def test_a_person_says_that_it_was_not_accepted():
    job = decide(a_job("unknown"), Resolve(action="fail"), Source.CLIENT).job
    assert job.detail.error.code is ErrorCode.NOT_ACCEPTED


def test_a_person_has_it_sent_again_as_a_new_intent():
    given_up = a_job("unknown", detail=Detail(retries=2), tries=9, cancel_requested_at=NOW)
    job = decide(given_up, Resolve(action="resubmit", correlation="mine"), Source.CLIENT, now=NOW + 5).job
    assert (job.correlation, job.tries, job.detail.retries, job.submitted_at) == ("mine", 0, 0, None)
    assert (job.work, job.due_at, job.cancel_requested_at) == (Work.SUBMIT, NOW + 5, None)


def test_what_was_claimed_for_a_submit_is_not_claimed_for_the_one_that_follows_it():
    unknown = a_job("unknown", detail=Detail(claimed="p9"), work=Work.SETTLE, due_at=NOW)
    assert after(unknown, Resolve(action="resubmit")).detail.claimed is None


@pytest.mark.parametrize("status", ["submitting", "unknown"])
def test_a_claimed_id_that_is_another_jobs_is_read_no_more(status):
    claimed = a_job(status, detail=Detail(claimed="p9"), work=Work.SETTLE, due_at=NOW, lease=7)
    job = after(claimed, Clash(provider_job_id="p9", other_job="job_02"))
    assert (job.status, job.work, job.due_at, job.lease) == ("unknown", None, None, None)
    assert job.detail.claimed is None
    still = after(claimed, Clash(provider_job_id="p1", other_job="job_02"))  # by a person who mistook it
    assert (still.work, still.detail.claimed) == (Work.SETTLE, "p9")


def test_a_resubmit_without_a_correlation_still_is_a_new_intent():
    """Else the second job.unknown would carry the first one's mark."""
    assert decide(a_job("unknown"), Resolve(action="resubmit")).job.correlation == "intent-1"


def test_a_resubmitted_job_has_its_whole_time_again():
    """An unknown job is found when its deadline is long over: it would fail before it is sent."""
    job = decide(a_job("unknown"), Resolve(action="resubmit"), now=NOW + 9 * HOUR).job
    assert job.deadline_at == NOW + 10 * HOUR
    assert decide(a_job("unknown", deadline_at=None), Resolve(action="resubmit")).job.deadline_at is None


@pytest.mark.parametrize("action", ["adopt", "", "delete"])
def test_nothing_but_the_word_resubmit_sends_again(action):
    assert decide(a_job("unknown"), Resolve(action=action)).job is None


def test_adopting_another_jobs_id_is_refused_by_name_and_makes_no_second_unknown_event():
    decision = decide(a_job("unknown"), Clash(provider_job_id="p1", other_job="job_02"), Source.CLIENT)
    assert decision.verdict == "clash"
    assert "job_02" in decision.reason
    assert not decision.announcements


def test_a_submit_that_got_another_jobs_id_becomes_unknown_and_names_it():
    job = decide(a_job("submitting"), Clash(provider_job_id="p1", other_job="job_02"), Source.SUBMIT).job
    assert job.reason == "the provider's id p1 already belongs to job_02"


# -- reads: their pace


def test_reads_slow_down_while_nothing_changes_up_to_the_slowest_pace():
    rules, job, now, waits = some_rules(), a_job("processing", deadline_at=None), NOW, []
    for _ in range(20):
        job = decide(job, an_update(), now=now, rules=rules).job
        waits.append((job.due_at - now) / SECOND)
        now = job.due_at
    assert waits[:3] == [5.0, 6.25, 7.812]
    assert waits == sorted(waits)
    assert waits[-1] == 30


def test_news_brings_the_pace_back():
    slow = a_job("processing", tries=20)
    assert decide(slow, an_update(progress=0.3)).job.due_at == NOW + 4 * SECOND
    assert decide(slow, an_update(progress=0.3)).job.tries == 0


def test_a_job_that_is_called_back_is_read_rarely():
    job = a_job("processing", detail=Detail(called_back=True))
    assert decide(job, an_update()).job.due_at == NOW + 60 * SECOND  # slower than its slowest pace: no slower still


def test_jitter_only_ever_adds():
    late = decide(a_job("processing"), an_update(progress=0.1), rules=some_rules(random=1.0)).job.due_at
    assert late == NOW + 4_400


@pytest.mark.parametrize("fact", [an_update(), NotNow(reason="busy", after_s=7_200), NotFound(reason="404")])
def test_the_next_read_is_never_past_the_deadline(fact):
    job = a_job("processing", deadline_at=NOW + 2 * SECOND, tries=9)
    assert decide(job, fact).job.due_at == NOW + 2 * SECOND


def test_a_longer_retry_after_of_a_read_is_obeyed():
    assert decide(a_job("processing"), NotNow(reason="busy", after_s=300)).job.due_at == NOW + 300 * SECOND


def test_reads_that_changed_nothing_are_counted_with_the_first_and_the_last():
    job = after(a_job("processing"), an_update(), NotNow(reason="busy"), an_update(), now=NOW + 10)
    assert (job.polls, job.first_poll_at, job.last_poll_at) == (3, NOW + 10, NOW + 12)


def test_a_callback_without_news_neither_counts_as_a_read_nor_moves_the_next():
    job = decide(a_job("processing", lease=4), an_update(), Source.CALLBACK).job
    assert (job.polls, job.due_at, job.lease) == (0, NOW + 5 * SECOND, 4)


def test_a_read_that_told_nothing_shows_its_reason_until_one_does():
    job = decide(a_job("processing"), NotNow(reason="rate_limited")).job
    assert job.reason == "rate_limited"
    assert decide(job, an_update()).job.reason is None


def test_an_unchanged_job_keeps_its_detail_so_that_it_is_not_written_again():
    job = a_job("processing")
    assert decide(job, an_update()).job.detail is job.detail


# -- the provider does not know the id


def read_misses(job: Job, count: int, *, now: int) -> Job:
    return after(job, *[NotFound(reason="404")] * count, now=now)


def test_an_id_that_is_not_known_for_long_fails():
    job = read_misses(a_job("processing"), MISSES_BEFORE_GONE, now=NOW + GONE_AFTER_MS)
    assert (job.status, job.detail.error.message) == ("failed", "The provider does not know this job.")


def test_right_after_the_submit_an_unknown_id_is_not_final():
    assert read_misses(a_job("processing"), 3 * MISSES_BEFORE_GONE, now=NOW + MINUTE).status == "processing"


def test_a_followed_job_whose_id_nobody_knows_fails_without_patience():
    assert read_misses(a_job("processing", followed=True), MISSES_BEFORE_GONE, now=NOW).status == "failed"


def test_one_miss_after_many_quiet_reads_does_not_fail_a_paid_job():
    quiet = after(a_job("processing"), *[an_update()] * 40, now=NOW + HOUR // 2)
    assert read_misses(quiet, MISSES_BEFORE_GONE - 1, now=NOW + HOUR // 2).status == "processing"


def test_only_misses_in_a_row_count():
    job = read_misses(a_job("processing"), MISSES_BEFORE_GONE - 1, now=NOW + GONE_AFTER_MS)
    job = after(job, an_update(), now=NOW + GONE_AFTER_MS)
    assert read_misses(job, MISSES_BEFORE_GONE - 1, now=NOW + GONE_AFTER_MS).status == "processing"


def test_refused_submits_are_no_misses():
    job = a_job("submitting", detail=Detail(retries=MISSES_BEFORE_GONE))
    accepted = after(job, Accepted(provider_job_ids=("p1",)))
    assert read_misses(accepted, 1, now=NOW + GONE_AFTER_MS).status == "processing"


# -- hints


def test_a_hint_makes_the_next_read_due_now():
    job = decide(a_job("processing", due_at=NOW + MINUTE), Hint(), Source.CALLBACK).job
    assert (job.due_at, job.status) == (NOW, "processing")


def test_hints_make_us_read_no_faster_than_once_a_second():
    job = a_job("processing", due_at=NOW + MINUTE, last_poll_at=NOW - 1)
    assert decide(job, Hint()).job.due_at == NOW - 1 + HINT_EVERY_MS
    assert decide(replace(job, due_at=NOW + HINT_EVERY_MS - 1), Hint()).job is None


def test_a_hint_changes_nothing_while_a_read_is_under_way():
    assert decide(a_job("processing", lease=9, due_at=NOW + MINUTE), Hint()).job is None


def test_a_thousand_hints_are_one_read():
    job = decide(a_job("processing", due_at=NOW + MINUTE), Hint()).job
    assert all(decide(job, Hint(), now=NOW + n).job is None for n in range(1_000))


# -- progress


def test_progress_is_published_at_most_once_in_five_seconds():
    rules, job, told = some_rules(), a_job("processing"), []
    for tenth in range(1, 151):
        now = NOW + tenth * 100
        decision = decide(job, an_update(progress=tenth / 200), Source.CALLBACK, now=now, rules=rules)
        job = decision.job
        told += [now for said in decision.announcements if said.type == "job.progress"]
    assert len(told) == 3
    assert all(later - earlier >= PROGRESS_EVERY_MS for earlier, later in itertools.pairwise(told))
    assert job.detail.progress == 0.75  # kept all the same


def test_progress_is_kept_only_where_it_is_wanted_and_replaces_what_is_pending():
    said = decide(a_job("processing"), an_update(progress=0.5)).announcements[0]
    assert (said.only_if_wanted, said.supersedes_progress, said.once) == (True, True, None)


def test_the_end_replaces_progress_that_is_still_pending():
    with_progress = decide(a_job("processing"), an_update(progress=0.5)).job
    assert decide(with_progress, an_update("succeeded")).announcements[0].supersedes_progress
    assert not decide(a_job("processing"), an_update("succeeded")).announcements[0].supersedes_progress


def test_a_new_place_in_the_queue_is_news():
    decision = decide(a_job("processing"), an_update(queue_position=3))
    assert events(decision) == ["job.progress"]
    assert decision.announcements[0].data["queue_position"] == 3


def test_success_is_complete_and_no_longer_in_the_queue():
    job = after(a_job("processing"), an_update(progress=0.4, queue_position=2), an_update("succeeded"))
    assert (job.detail.progress, job.detail.queue_position) == (1.0, None)


# -- a result beside a word that nobody knows for an end


def shown(**changes) -> Decision:
    update = an_update(outputs=(an_output(),), provider_status="done", provider_data={"status": "done"}, **changes)
    return decide(a_job("processing"), update)


def test_a_result_beside_an_unknown_word_is_kept_and_shown_at_once():
    said = shown()
    assert (said.job.status, said.job.detail.outputs) == ("processing", (an_output(),))
    assert said.job.detail.provider_data == {"status": "done"} and events(said) == ["job.progress"]
    assert said.announcements[0].data["outputs"]
    assert events(decide(said.job, an_update(outputs=(an_output(),)), now=NOW + MINUTE)) == [], "it is no news"


@pytest.mark.parametrize(
    ("fact", "status"),
    [
        (DeadlinePassed(), "failed"),
        (an_update("failed"), "failed"),
        (an_update("canceled"), "canceled"),
        (an_update("succeeded", outputs=()), "succeeded"),
    ],
)
def test_whatever_its_end_it_stays(fact, status):
    ended = decide(shown().job, fact).job
    assert (ended.status, ended.detail.outputs) == (status, (an_output(),))


@pytest.mark.parametrize("fact", [an_update(), an_update(progress=0.5), NotNow(reason="unreadable")])
def test_news_without_it_leaves_it(fact):
    assert decide(shown().job, fact, now=NOW + MINUTE).job.detail.outputs == (an_output(),)


def test_the_outputs_of_its_end_take_its_place():
    ended = decide(shown().job, an_update("succeeded", outputs=(an_output("whole"),))).job
    assert ended.detail.outputs == (an_output("whole"),)


# -- a cost that only a read tells


READ_FOR_COST = some_rules(operation=an_operation(cost_by_read=True))


def called_back(status: str = "succeeded", rules=READ_FOR_COST, **changes) -> Decision:
    return decide(a_job("processing"), an_update(status, **changes), Source.CALLBACK, rules=rules)


def test_a_success_that_a_callback_told_is_read_once_more_for_its_cost():
    told = called_back()
    assert (told.job.status, told.job.work, events(told)) == ("succeeded", Work.POLL, ["job.succeeded"])
    assert told.job.due_at > NOW
    read = decide(told.job, an_update("succeeded", cost=a_cost("1.5")), rules=READ_FOR_COST)
    assert (read.job.detail.cost, read.job.work, events(read)) == (a_cost("1.5"), None, [])
    assert read.job.detail.outputs == told.job.detail.outputs


@pytest.mark.parametrize(
    "told",
    [
        called_back(rules=some_rules()),
        called_back("failed"),
        called_back("canceled"),
        called_back(cost=a_cost()),
        decide(a_job("processing"), an_update("succeeded"), Source.POLL, rules=READ_FOR_COST),
    ],
)
def test_nothing_else_is_read_after_its_end(told):
    assert told.job.terminal and told.job.work is None


@pytest.mark.parametrize("fact", [NotNow(reason="provider_error"), NotFound(reason="gone"), an_update("processing")])
def test_a_read_that_tells_no_cost_is_tried_rarely_for_a_day_and_changes_nothing_else(fact):
    job = decide(called_back().job, fact, rules=READ_FOR_COST).job
    assert (job.status, job.detail.cost, job.due_at) == ("succeeded", None, NOW + LATE_READ_MS)
    later = decide(job, fact, rules=READ_FOR_COST, now=NOW + LATE_FOR_MS + 1).job
    assert (later.status, later.work) == ("succeeded", None)


@pytest.mark.parametrize("later", [a_cost("9"), a_cost("9", "quoted"), None])
def test_a_cost_that_was_reported_stays(later):
    ended = replace(called_back(cost=a_cost("1")).job, work=Work.POLL, due_at=NOW)
    job = decide(ended, an_update("succeeded", cost=later), rules=READ_FOR_COST).job
    assert job.detail.cost == a_cost("1")


# -- the deadline, and what comes after it


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("result_expired", ErrorCode.RESULT_EXPIRED),
        ("provider_error", ErrorCode.DEADLINE_EXCEEDED),
        (None, ErrorCode.DEADLINE_EXCEEDED),
    ],
)
def test_what_was_completed_and_is_gone_ends_as_that_and_may_still_come(reason, code):
    gone = decide(a_job("processing"), NotNow(reason=reason or "unreadable")).job
    gone = gone if reason is not None else replace(gone, reason=None)
    assert gone.status == "processing"
    job = decide(gone, DeadlinePassed(), Source.CLOCK).job
    assert (job.status, job.detail.error.code, job.work) == ("failed", code, Work.POLL)
    assert events(decide(job, an_update("succeeded"))) == ["job.late_result"]


def test_a_queued_job_past_its_deadline_fails_and_is_done_with():
    job = decide(a_job("queued"), DeadlinePassed(), Source.CLOCK, now=NOW + HOUR).job
    assert (job.detail.error.code, job.work, job.due_at) == (ErrorCode.DEADLINE_EXCEEDED, None, None)


def expired(now: int = NOW, **changes) -> Job:
    return decide(a_job("processing", **changes), DeadlinePassed(), Source.CLOCK, now=now).job


@pytest.mark.parametrize("fact", [an_update("canceled"), NotFound(reason="gone")])
def test_what_the_deadline_canceled_failed_by_the_deadline(fact):
    late = a_job("processing", deadline_at=NOW, detail=Detail(retries=2))
    decision = decide(after(late, CancelSent()), fact)
    assert outcome(late, decision) == FAILS
    assert decision.job.detail.error.code is ErrorCode.DEADLINE_EXCEEDED
    asked = after(late, CancelAsked(supported=True), CancelSent())
    assert outcome(asked, decide(asked, fact)) == STOPS
    early = after(replace(late, deadline_at=NOW + 1), fact)  # nobody here asked for it
    assert early.detail.error is None or early.detail.error.code is ErrorCode.CANCELED


def test_a_paid_job_past_its_deadline_fails_and_is_still_read_rarely():
    job = expired(NOW + HOUR, lease=4)
    assert (job.status, job.detail.error.code) == ("failed", ErrorCode.DEADLINE_EXCEEDED)
    assert (job.work, job.due_at, job.lease) == (Work.POLL, NOW + HOUR + LATE_READ_MS, None)


@pytest.mark.parametrize("fact", [an_update(), NotNow(reason="busy"), NotFound(reason="404")])
def test_late_reads_go_on_for_a_day_and_then_end(fact):
    job, reads, now = expired(), 0, NOW
    while job.due_at is not None:
        now, reads = job.due_at, reads + 1
        job = decide(job, fact, now=now).job
    assert LATE_FOR_MS < now - NOW <= LATE_FOR_MS + LATE_READ_MS
    assert (reads, job.polls, job.status, job.work) == (49, 49, "failed", None)


@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_late_reads_end_when_the_provider_says_that_it_is_over(status):
    job = decide(expired(), an_update(status), now=NOW + LATE_READ_MS).job
    assert (job.status, job.work, job.due_at) == ("failed", None, None)


def test_a_late_result_is_kept_and_announced_once():
    late = decide(expired(), an_update("succeeded", cost=a_cost("5")), now=NOW + LATE_READ_MS)
    assert (late.verdict, events(late)) == ("late", ["job.late_result"])
    assert late.announcements[0].once == "late_result"
    assert (late.job.status, late.job.detail.outputs, late.job.work) == ("failed", (an_output(),), None)
    assert late.job.detail.cost == a_cost("5")
    again = decide(late.job, an_update("succeeded", outputs=(an_output("other"),)), now=NOW + HOUR)
    assert (again.verdict, again.job) == ("ignored", None)


def test_a_late_success_without_an_output_does_not_use_up_the_announcement():
    job = after(expired(), Update(status=JobStatus.SUCCEEDED))
    assert events(decide(job, an_update("succeeded"), Source.CALLBACK)) == ["job.late_result"]


def test_a_late_result_by_callback_counts_too():
    assert decide(a_job("canceled"), an_update("succeeded"), Source.CALLBACK).verdict == "late"


def test_a_job_given_up_and_accepted_after_all_is_followed_for_what_it_yields():
    given_up = a_job("failed", ids=())
    late = decide(given_up, Accepted(provider_job_ids=("p1",)), Source.SUBMIT)
    assert (late.verdict, late.binds, events(late)) == ("late", ("p1",), [])
    assert (late.job.status, late.job.work, late.job.due_at) == ("failed", Work.POLL, NOW)
    assert events(decide(late.job, an_update("succeeded"), provider_job_id="p1")) == ["job.late_result"]


def test_a_reply_that_is_the_result_of_a_job_given_up_is_a_late_result():
    late = decide(a_job("failed", ids=()), Done(update=an_update("succeeded")), Source.SUBMIT)
    assert (late.verdict, events(late), late.job.detail.outputs) == ("late", ["job.late_result"], (an_output(),))


# -- cancel


def test_a_cancel_of_an_accepted_job_is_kept_and_due_now():
    decision = decide(a_job("processing"), CancelAsked(supported=True), Source.CLIENT)
    assert (decision.job.cancel_requested_at, decision.job.due_at, decision.job.status) == (NOW, NOW, "processing")


@pytest.mark.parametrize("status", ["submitting", "unknown", "processing"])
def test_a_second_cancel_is_a_duplicate_and_keeps_the_first_ones_time(status):
    asked = decide(a_job(status), CancelAsked(supported=True), Source.CLIENT).job
    assert decide(asked, CancelAsked(supported=True), Source.CLIENT, now=NOW + 9).verdict == "duplicate"
    assert asked.cancel_requested_at == NOW


@pytest.mark.parametrize("status", ["submitting", "unknown", "processing"])
def test_a_cancel_that_the_provider_has_not_says_so(status):
    assert decide(a_job(status), CancelAsked(supported=False), Source.CLIENT).reason == "cancel_unsupported"


# -- several provider ids


def two(**changes) -> Job:
    return a_job("processing", ids=("a", "b"), **changes)


def hears(job: Job, named: str, update: Update, source: Source = Source.POLL) -> Decision:
    return decide(job, update, source, provider_job_id=named)


def test_a_job_of_two_ids_ends_when_both_have():
    first = hears(two(), "a", an_update("succeeded", outputs=(an_output("a"),), cost=a_cost("1.5")))
    assert first.job.status == "processing"
    second = hears(first.job, "b", an_update("succeeded", outputs=(an_output("b"),), cost=a_cost("2.25")))
    assert second.job.status == "succeeded"
    assert second.job.detail.outputs == (an_output("a"), an_output("b"))
    assert second.job.detail.cost == a_cost("3.75")


def test_outputs_come_in_the_order_of_the_ids():
    job = hears(two(), "b", an_update("succeeded", outputs=(an_output("b"),))).job
    job = hears(job, "a", an_update("succeeded", outputs=(an_output("a"),))).job
    assert job.detail.outputs == (an_output("a"), an_output("b"))


@pytest.mark.parametrize("error", [an_error("b broke"), None])
def test_one_success_is_success_and_the_failure_is_listed(error):
    job = hears(two(), "b", Update(status=JobStatus.FAILED, error=error)).job
    decision = hears(job, "a", an_update("succeeded"))
    assert (decision.job.status, decision.job.detail.error) == ("succeeded", None)
    listed = decision.announcements[0].data["failures"]
    assert [each["provider_job_id"] for each in listed] == ["b"]
    assert (listed[0]["error"] or {}).get("message") == (error.message if error else None)


def test_when_all_fail_the_job_fails_with_the_first_error():
    job = hears(two(), "b", an_update("failed", error=an_error("second"))).job
    job = hears(job, "a", an_update("failed", error=an_error("first"))).job
    assert (job.status, job.detail.error.message) == ("failed", "first")


def test_costs_of_different_units_are_never_added():
    job = two(detail=Detail(parts=some_parts("a", "b"), cost=a_cost("4", "quoted")))
    job = hears(job, "a", an_update("succeeded", cost=a_cost("1"))).job
    assert hears(job, "b", an_update("succeeded", cost=a_cost("1", unit="usd"))).job.detail.cost == a_cost(
        "4", "quoted"
    )


def test_the_progress_of_two_is_their_mean():
    job = hears(two(), "a", an_update("succeeded")).job
    assert hears(job, "b", an_update(progress=0.5), Source.CALLBACK).job.detail.progress == 0.75


def test_a_part_that_reported_all_of_its_progress_before_its_end_still_ends():
    job = hears(two(), "a", an_update(progress=1.0)).job
    job = hears(job, "b", an_update(progress=1.0)).job
    job = hears(job, "a", an_update("succeeded")).job
    assert hears(job, "b", an_update("succeeded")).job.status == "succeeded"


def test_a_part_that_is_over_stays_over():
    job = hears(two(), "a", an_update("succeeded")).job
    job = hears(job, "a", an_update("processing", progress=0.1)).job
    job = hears(job, "a", an_update("failed")).job
    assert hears(job, "b", an_update("failed")).job.status == "succeeded"


def test_an_id_that_is_not_known_fails_that_part_alone():
    job = hears(two(), "a", an_update("succeeded")).job
    for step in range(MISSES_BEFORE_GONE):
        job = decide(job, NotFound(reason="404"), now=NOW + GONE_AFTER_MS + step, provider_job_id="b").job
    assert (job.status, job.detail.outputs) == ("succeeded", (an_output(),))
    assert job.detail.parts[1].update.error.message == "The provider does not know this job."


def test_a_deadline_keeps_the_outputs_of_the_parts_that_ended_well():
    job = decide(hears(two(), "a", an_update("succeeded")).job, DeadlinePassed(), Source.CLOCK).job
    assert (job.status, job.detail.outputs) == ("failed", (an_output(),))


def test_the_late_result_of_two_ids_is_announced_when_both_are_over_with_all_outputs():
    job = decide(two(), DeadlinePassed(), Source.CLOCK).job
    first = hears(job, "a", an_update("succeeded", outputs=(an_output("a"),)))
    assert (first.verdict, events(first), first.job.work) == ("late", [], Work.POLL)
    second = hears(first.job, "b", an_update("succeeded", outputs=(an_output("b"),)))
    assert events(second) == ["job.late_result"]
    assert second.job.detail.outputs == (an_output("a"), an_output("b"))


@pytest.mark.parametrize("status", ["processing", "failed"])
def test_news_that_names_another_id_than_the_jobs_own_changes_nothing(status):
    decision = hears(a_job(status), "p9", an_update("succeeded"), Source.CALLBACK)
    assert (decision.verdict, decision.job, decision.binds) == ("ignored", None, ())


def test_a_result_at_once_of_an_id_already_known_does_not_double_it():
    job = decide(a_job("processing"), Done(update=an_update("succeeded"), provider_job_ids=("p1",))).job
    assert job.detail.parts == (Part(provider_job_id="p1", update=an_update("succeeded")),)
