"""Applying facts: dedupe key, job, events and deliveries are one transaction, and terminal is said once."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from service.facts import Accepted, Arrival, Begin, Fact, Hint, Resolve, Unknown, Update
from service.models import Announcement, Decision, Detail, Job, Note, Target
from service.states import CallbackVerdict, DeliveryStatus, JobStatus, Source, Work
from tests.stores.world import CANCELED, FAILED, NOBODY, SUCCEEDED, Scripted, World, a_callback, opened, page, said

pytestmark = pytest.mark.anyio

Decide = Callable[[Job, Arrival, int], Decision]


def says(*announcements: Announcement) -> Decide:
    """A plan that changes nothing and announces this of every fact."""
    return lambda job, arrival, now: Decision(verdict="applied", announcements=announcements)


async def test_a_decision_is_written_whole(world: World) -> None:
    endpoint = await world.endpoint()
    job = await world.queued(metadata={"order": "7"})
    begun = await world.tell(job, Begin(), Source.SUBMIT)
    world.clock.forward(2)
    applied = await world.tell(job, Accepted(provider_job_ids=("77",)), Source.SUBMIT)
    assert (begun.verdict, applied.verdict) == ("applied", "applied")
    stored = await world.now(job)
    assert stored == applied.job
    assert (stored.status, stored.provider_job_ids, stored.sequence) == (JobStatus.PROCESSING, ("77",), 1)
    assert (stored.work, stored.metadata) == (Work.POLL, {"order": "7"})
    assert stored.version > job.version and stored.updated_at == world.clock.at
    assert await world.types(job) == ["job.processing"]
    assert await world.statuses(endpoint=endpoint.num) == [DeliveryStatus.PENDING]
    notes = [entry for entry in await world.store.timeline(stored) if entry["kind"] == "submit"]
    assert [note["outcome"] for note in notes] == ["sending", "accepted"]
    assert await world.store.job_by_provider_id(world.credential, "77") == stored


async def test_a_fact_of_no_job_is_missing_and_keeps_nothing(world: World) -> None:
    arrivals = [
        Arrival(job=NOBODY, fact=SUCCEEDED, source=Source.POLL),
        Arrival(credential=world.credential, provider_job_id="77", fact=SUCCEEDED, source=Source.CALLBACK),
        Arrival(credential=world.credential, fact=SUCCEEDED, source=Source.CALLBACK),
        Arrival(fact=SUCCEEDED, source=Source.CALLBACK),
    ]
    applied = await world.store.apply([replace(a, dedupe_key="d", callback=a_callback()) for a in arrivals])
    assert [(a.verdict, a.job) for a in applied] == [("missing", None)] * 4
    job = await world.processing("77")
    later = await world.store.apply([replace(arrivals[1], dedupe_key="d")])
    assert later[0].verdict == "applied"  # the key was not used up
    assert (await world.now(job)).status is JobStatus.SUCCEEDED


async def test_the_providers_id_names_the_job_of_its_credential_only(world: World) -> None:
    job, other = await world.processing("77"), await world.another_credential()
    arrival = Arrival(credential=other, provider_job_id="77", fact=SUCCEEDED, source=Source.CALLBACK)
    assert (await world.store.apply([arrival]))[0].verdict == "missing"
    applied = await world.store.apply([replace(arrival, credential=world.credential)])
    assert (applied[0].verdict, (await world.now(job)).status) == ("applied", JobStatus.SUCCEEDED)


async def test_every_id_of_a_job_finds_it(world: World) -> None:
    job = await world.queued()
    await world.tell(job, Begin(), Source.SUBMIT)
    await world.tell(job, Accepted(provider_job_ids=("1", "2", "3")), Source.SUBMIT)
    for named in ("1", "2", "3"):
        found = await world.store.job_by_provider_id(world.credential, named)
        assert found is not None and found.num == job.num
    first = await world.tell(job, SUCCEEDED, provider_job_id="1")
    assert first.job is not None and first.job.status is JobStatus.PROCESSING
    last = [await world.tell(job, FAILED, provider_job_id=named) for named in ("2", "3")][-1]
    assert last.job is not None and last.job.status is JobStatus.SUCCEEDED


# -- leases


async def test_only_the_lease_holder_writes(world: World) -> None:
    await world.queued()
    (job,) = await world.claim_jobs()
    assert job.lease is not None
    stranger = await world.tell(job, Begin(), Source.SUBMIT, lease=job.lease + 2)
    assert (stranger.verdict, stranger.job) == ("fenced", job)
    assert await world.now(job) == job
    assert (await world.tell(job, Begin(), Source.SUBMIT, lease=job.lease)).verdict == "applied"


async def test_a_holder_that_lost_its_lease_to_another_is_fenced(world: World) -> None:
    await world.queued()
    (stalled,) = await world.claim_jobs()
    world.clock.forward(61)
    (holder,) = await world.claim_jobs()
    assert (stalled.num, stalled.lease != holder.lease) == (holder.num, True)
    late = await world.tell(stalled, Begin(), Source.SUBMIT, lease=stalled.lease)
    assert late.verdict == "fenced"
    assert (await world.tell(holder, Begin(), Source.SUBMIT, lease=holder.lease)).verdict == "applied"


async def test_a_lease_that_was_given_back_fences_too(world: World) -> None:
    job = await world.queued()
    assert (await world.tell(job, Begin(), Source.SUBMIT, lease=5)).verdict == "fenced"
    (claimed,) = await world.claim_jobs()
    await world.store.recover_leases()
    assert (await world.tell(job, Begin(), Source.SUBMIT, lease=claimed.lease)).verdict == "fenced"
    assert (await world.now(job)).status is JobStatus.QUEUED


async def test_a_fenced_fact_uses_up_no_key_and_keeps_no_callback(world: World) -> None:
    job = await world.processing()
    fenced = await world.tell(job, SUCCEEDED, lease=5, dedupe_key="d", callback=a_callback())
    taken = await world.tell(job, SUCCEEDED, dedupe_key="d")
    assert (fenced.verdict, taken.verdict) == ("fenced", "applied")
    assert not [entry for entry in await world.store.timeline(job) if entry["kind"] == "callback"]


async def test_one_holder_may_bring_several_facts_in_one_batch(world: World) -> None:
    job = await world.queued()
    await world.tell(job, Begin(), Source.SUBMIT)
    await world.tell(job, Accepted(provider_job_ids=("1", "2")), Source.SUBMIT)
    world.clock.forward(3600)
    (claimed,) = await world.claim_jobs(Work.POLL)
    facts = [
        Arrival(job=job.num, provider_job_id=named, fact=SUCCEEDED, source=Source.POLL, lease=claimed.lease)
        for named in ("1", "2")
    ]
    assert [applied.verdict for applied in await world.store.apply(facts)] == ["applied", "applied"]
    assert (await world.now(job)).status is JobStatus.SUCCEEDED


# -- duplicates


async def test_a_key_that_was_applied_is_a_duplicate_for_ever(world: World) -> None:
    job = await world.processing()
    first = await world.tell(job, SUCCEEDED, Source.CALLBACK, dedupe_key="d")
    world.clock.forward(86_400)
    again = await world.tell(job, FAILED, Source.CALLBACK, dedupe_key="d")
    assert (first.verdict, again.verdict) == ("applied", "duplicate")
    assert again.job == await world.now(job)
    assert await world.types(job) == ["job.processing", "job.succeeded"]


async def test_a_key_twice_in_one_batch_is_a_duplicate_the_second_time(world: World) -> None:
    job = await world.processing()
    arrival = Arrival(job=job.num, fact=SUCCEEDED, source=Source.CALLBACK, dedupe_key="d", callback=a_callback())
    applied = await world.store.apply([arrival, arrival, arrival])
    assert [a.verdict for a in applied] == ["applied", "duplicate", "duplicate"]
    kept = [entry for entry in await world.store.timeline(job) if entry["kind"] == "callback"]
    assert [entry["verdict"] for entry in kept] == ["verified", "duplicate", "duplicate"]
    assert [entry["body"] for entry in kept] == ["{}", "", ""]  # the same again is not kept again


async def test_concurrent_deliveries_of_one_callback_are_applied_once(world: World) -> None:
    job = await world.processing()
    told = [world.tell(job, SUCCEEDED, Source.CALLBACK, dedupe_key="d") for _ in range(30)]
    verdicts = [applied.verdict for applied in await asyncio.gather(*told)]
    assert sorted(verdicts) == ["applied"] + ["duplicate"] * 29


async def test_one_key_of_two_credentials_is_no_duplicate(world: World) -> None:
    other = await world.another_credential()
    jobs = [await world.processing("1"), await world.processing("1", credential=other)]
    told = [await world.tell(job, SUCCEEDED, Source.CALLBACK, dedupe_key="d") for job in jobs]
    assert [applied.verdict for applied in told] == ["applied", "applied"]


async def test_a_transaction_that_fails_uses_up_no_key(store_name: str, tmp_path: Path) -> None:
    faults = [RuntimeError("a bug in a rule")]

    def decide(job: Job, arrival: Arrival, now: int) -> Decision:
        if faults:
            raise faults.pop()
        return Decision(verdict="applied", announcements=(said("job.succeeded"),))

    async with opened(store_name, tmp_path, Scripted(decide)) as world:
        job = await world.queued()
        with pytest.raises(RuntimeError, match="a bug in a rule"):
            await world.tell(job, SUCCEEDED, dedupe_key="d", callback=a_callback())
        assert await world.types() == []
        assert (await world.tell(job, SUCCEEDED, dedupe_key="d", callback=a_callback())).verdict == "applied"
        assert [entry["kind"] for entry in await world.store.timeline(job)] == ["callback", "event"]


async def test_a_verified_callback_that_was_no_news_is_kept_with_its_body_as_a_duplicate(world: World) -> None:
    job = await world.succeeded()
    again = await world.tell(job, SUCCEEDED, Source.CALLBACK, callback=a_callback(b"1"), dedupe_key="new")
    hint = await world.tell(job, Hint(), Source.CALLBACK, callback=a_callback(b"2", verdict=CallbackVerdict.HINT))
    assert (again.verdict, hint.verdict) == ("duplicate", "ignored")
    kept = [entry for entry in await world.store.timeline(job) if entry["kind"] == "callback"]
    assert [(entry["body"], entry["verdict"]) for entry in kept] == [("1", "duplicate"), ("2", "hint")]


async def test_a_verified_callback_is_stored_as_it_came(world: World) -> None:
    job = await world.processing()
    raw = a_callback('{"prompt": "né ✓"}'.encode(), received_at=world.clock.at + 7, reason="why not")
    await world.tell(job, SUCCEEDED, Source.CALLBACK, dedupe_key="d", callback=raw)
    (kept,) = [entry for entry in await world.store.timeline(job) if entry["kind"] == "callback"]
    assert kept == {
        "at": world.clock.at + 7,
        "kind": "callback",
        "verdict": "verified",
        "reason": "why not",
        "body": '{"prompt": "né ✓"}',
    }


# -- batches


async def test_a_batch_sees_what_its_earlier_facts_made_of_the_job(world: World) -> None:
    job = await world.queued()
    facts: list[Fact] = [Begin(), Accepted(provider_job_ids=("77",)), SUCCEEDED, SUCCEEDED, FAILED]
    applied = await world.store.apply([Arrival(job=job.num, fact=fact, source=Source.POLL) for fact in facts])
    assert [a.verdict for a in applied] == ["applied", "applied", "applied", "duplicate", "ignored"]
    stored = await world.now(job)
    assert stored == applied[2].job
    assert (stored.status, stored.sequence) == (JobStatus.SUCCEEDED, 2)
    assert await world.types(job) == ["job.processing", "job.succeeded"]


async def test_facts_of_many_jobs_in_one_batch_come_back_in_its_order(world: World) -> None:
    jobs = [await world.processing() for _ in range(30)]
    fates: list[Update] = [(SUCCEEDED, FAILED, CANCELED)[place % 3] for place in range(30)]
    arrivals = [
        Arrival(job=job.num, fact=fate, source=Source.POLL) for job, fate in zip(jobs[::-1], fates, strict=True)
    ]
    applied = await world.store.apply(arrivals)
    assert [a.job.num for a in applied if a.job] == [job.num for job in jobs[::-1]]
    assert [a.job.status for a in applied if a.job] == [fate.status for fate in fates]


async def test_a_batch_larger_than_one_statement_takes_is_applied(world: World) -> None:
    items = [await world.processing() for _ in range(60)]
    arrivals = [Arrival(job=job.num, fact=SUCCEEDED, source=Source.POLL) for job in items]
    padding = [Arrival(job=NOBODY + n, fact=SUCCEEDED, source=Source.POLL) for n in range(1_500)]
    applied = await world.store.apply(padding[:700] + arrivals + padding[700:])
    assert [a.verdict for a in applied].count("applied") == 60
    assert {(await world.now(job)).status for job in items} == {JobStatus.SUCCEEDED}


async def test_a_job_named_by_an_id_that_the_same_batch_binds_is_found_later(world: World) -> None:
    """The provider calls again: a callback that comes before the submit's commit is missing, and said to be."""
    job = await world.queued()
    await world.tell(job, Begin(), Source.SUBMIT)
    bound = Arrival(job=job.num, fact=Accepted(provider_job_ids=("77",)), source=Source.SUBMIT)
    called = Arrival(credential=world.credential, provider_job_id="77", fact=SUCCEEDED, source=Source.CALLBACK)
    first = await world.store.apply([bound, called])
    assert first[0].verdict == "applied" and first[1].verdict in ("applied", "missing")
    if first[1].verdict == "missing":
        assert (await world.store.apply([called]))[0].verdict == "applied"
    assert (await world.now(job)).status is JobStatus.SUCCEEDED


# -- ids that belong to another job


async def test_an_id_that_another_job_has_makes_the_second_unknown(world: World) -> None:
    first, second = await world.processing("77"), await world.queued()
    await world.tell(second, Begin(), Source.SUBMIT)
    applied = await world.tell(second, Accepted(provider_job_ids=("78", "77")), Source.SUBMIT)
    assert applied.verdict == "clash"
    stored = await world.now(second)
    assert stored.status is JobStatus.UNKNOWN
    assert stored.reason is not None and first.id in stored.reason and "77" in stored.reason
    assert await world.types(second) == ["job.unknown"]
    found = await world.store.job_by_provider_id(world.credential, "77")
    assert found is not None and found.num == first.num
    assert await world.store.job_by_provider_id(world.credential, "78") is None


async def test_two_jobs_that_bind_one_id_in_one_batch_clash(world: World) -> None:
    jobs = [await world.queued() for _ in range(2)]
    for job in jobs:
        await world.tell(job, Begin(), Source.SUBMIT)
    taken = Accepted(provider_job_ids=("77",))
    applied = await world.store.apply([Arrival(job=job.num, fact=taken, source=Source.SUBMIT) for job in jobs])
    assert [a.verdict for a in applied] == ["applied", "clash"]
    assert [(await world.now(job)).status for job in jobs] == [JobStatus.PROCESSING, JobStatus.UNKNOWN]


async def test_a_person_cannot_adopt_an_id_that_another_job_has(world: World) -> None:
    await world.processing("77")
    job = await world.queued(provider="peakmv", operation="generate")
    await world.tell(job, Begin(), Source.SUBMIT)
    assert (await world.tell(job, Unknown(reason="the reply was lost"))).verdict == "applied"
    assert (await world.now(job)).status is JobStatus.UNKNOWN
    adopted = await world.tell(job, Resolve(action="adopt", provider_job_id="77"), Source.CLIENT)
    assert adopted.verdict == "clash"
    assert (await world.now(job)).status is JobStatus.UNKNOWN


async def test_the_same_id_again_is_no_clash(world: World) -> None:
    job = await world.processing("77")
    again = await world.tell(job, Accepted(provider_job_ids=("77",)), Source.SUBMIT)
    assert again.verdict == "duplicate"
    assert (await world.now(job)).status is JobStatus.PROCESSING


# -- one terminal event


async def test_whoever_ends_a_job_first_one_terminal_event_is_written(world: World) -> None:
    for _ in range(5):
        job = await world.processing()
        fates = [SUCCEEDED, FAILED, CANCELED] * 10
        told = await asyncio.gather(*(world.tell(job, fate) for fate in fates))
        assert [a.verdict for a in told].count("applied") == 1
        ends = [kind for kind in await world.types(job) if kind not in ("job.processing", "job.late_result")]
        assert ends == [f"job.{(await world.now(job)).status}"]


async def test_a_result_after_the_end_is_announced_once(world: World) -> None:
    job = await world.processing()
    await world.tell(job, FAILED)
    told = await asyncio.gather(*(world.tell(job, SUCCEEDED, dedupe_key=f"d{n}") for n in range(10)))
    assert [a.verdict for a in told].count("late") == 1
    assert await world.types(job) == ["job.processing", "job.failed", "job.late_result"]
    stored = await world.now(job)
    assert (stored.status, stored.detail.outputs) == (JobStatus.FAILED, SUCCEEDED.outputs)


async def test_a_plan_that_says_the_end_twice_fails_alone(store_name: str, tmp_path: Path) -> None:
    plan = Scripted(says(said("job.failed", once="terminal")))
    async with opened(store_name, tmp_path, plan) as world:
        ended, others = await world.queued(), [await world.queued() for _ in range(10)]
        await world.tell(ended, FAILED)
        told = [world.tell(job, FAILED, dedupe_key=job.id, callback=a_callback()) for job in (ended, *others)]
        first, *rest = await asyncio.gather(*told, return_exceptions=True)
        assert type(first).__name__ in ("IntegrityError", "UniqueViolationError")
        assert [applied.verdict for applied in rest if not isinstance(applied, BaseException)] == ["applied"] * 10
        for job in (ended, *others):
            assert await world.types(job) == ["job.failed"]
        assert [entry["kind"] for entry in await world.store.timeline(ended)] == ["event"]


async def test_a_plan_that_says_the_end_twice_of_one_fact_writes_nothing_of_it(store_name: str, tmp_path: Path) -> None:
    end = said("job.failed", once="terminal")
    async with opened(store_name, tmp_path, Scripted(says(end, end))) as world:
        job = await world.queued()
        with pytest.raises(Exception, match=r"(?i)unique"):
            await world.tell(job, FAILED)
        assert await world.types() == []


async def test_a_mark_is_once_per_job_and_events_without_one_are_not_counted(store_name: str, tmp_path: Path) -> None:
    plan = Scripted(says(said("job.failed", once="terminal"), said("job.processing"), said("job.processing")))
    async with opened(store_name, tmp_path, plan) as world:
        for _ in range(2):
            job = await world.queued()
            await world.tell(job, FAILED)
            assert await world.types(job) == ["job.failed", "job.processing", "job.processing"]


# -- fan-out


async def test_an_event_goes_to_every_endpoint_that_wants_it_and_to_the_callback_url(world: World) -> None:
    tenant, _ = await world.another_tenant()
    wanted = [await world.endpoint(), await world.endpoint(event_types=("job.*",))]
    wanted.append(await world.endpoint(filter={"metadata.order": "7"}))
    for changes in ({"event_types": ("job.failed",)}, {"filter": {"metadata.order": "8"}}, {"tenant": tenant}):
        await world.endpoint(**changes)
    await world.change(await world.endpoint(), deleted=True)
    detail = Detail(callback_url=b"sealed url", callback_lane=-5)
    job = await world.succeeded(metadata={"order": "7"}, detail=detail)
    ended = [d for d in await world.claim() if d.event_type == "job.succeeded"]
    assert {d.job_id for d in ended} == {job.id}
    assert sorted(d.endpoint for d in ended) == [0, *sorted(endpoint.num for endpoint in wanted)]
    assert {d.lane for d in ended if d.endpoint == 0} == {-5}


async def test_a_new_endpoint_gets_the_next_event_and_a_deleted_one_does_not(world: World) -> None:
    job = await world.processing()
    first = await world.endpoint()
    await world.tell(job, FAILED)
    await world.change(first, deleted=True)
    second = await world.endpoint()
    await world.tell(job, SUCCEEDED)
    found = await world.store.deliveries(world.tenant, page(), {})
    assert [(d.event_type, d.endpoint_id) for d in found] == [("job.late_result", second.id), ("job.failed", first.id)]


async def test_what_a_paused_or_disabled_endpoint_is_owed_is_held(world: World) -> None:
    endpoint = await world.endpoint()
    world.slots.free[endpoint.num] = 10
    states = {"paused": DeliveryStatus.HELD, "disabled": DeliveryStatus.HELD, "active": DeliveryStatus.PENDING}
    for status, expected in states.items():
        await world.change(endpoint, status=status)
        job = await world.processing()
        assert await world.statuses(job=job.id) == [expected]


async def test_fresh_deliveries_are_leased_only_where_a_sender_is_free(world: World) -> None:
    endpoint, busy = await world.endpoint(), await world.endpoint()
    world.slots.free[endpoint.num] = 2
    jobs = [await world.processing() for _ in range(3)]
    await world.claim()
    applied = await world.store.apply([Arrival(job=job.num, fact=SUCCEEDED, source=Source.POLL) for job in jobs])
    assert [[d.endpoint for d in a.fresh] for a in applied] == [[endpoint.num], [endpoint.num], []]
    rest = await world.claim()
    assert sorted(d.endpoint for d in rest) == sorted([endpoint.num, busy.num, busy.num, busy.num])
    assert not {d.num for a in applied for d in a.fresh} & {d.num for d in rest}


async def test_a_fresh_delivery_is_what_a_claim_would_have_given(world: World) -> None:
    detail = Detail(callback_url=b"\x00url", callback_secret=b"\xffsecret", callback_lane=-5, traceparent="00-a-b-01")
    endpoint = await world.endpoint(event_types=("job.succeeded",))
    world.slots.free = {endpoint.num: 1, -5: 1}
    job = await world.processing(detail=detail)
    fresh = (await world.tell(job, SUCCEEDED)).fresh
    assert len(fresh) == 2
    assert {d.lease_ends for d in fresh} == {world.clock.monotonic() + 90}
    assert await world.claim() == []
    world.clock.forward(90)
    claimed = {d.num: d for d in await world.claim()}
    assert len(claimed) == 2
    for d in fresh:
        again = claimed[d.num]
        assert again.lease != d.lease
        read = replace(d, endpoint_version=again.endpoint_version)  # only where it is written by the claim itself
        assert again == replace(read, lease=again.lease, lease_ends=again.lease_ends)
        assert d.traceparent == "00-a-b-01" and d.job_id == job.id
        own = (b"\x00url", b"\xffsecret") if d.endpoint == 0 else (None, None)
        assert (d.callback_url, d.callback_secret) == own
        event = (await world.events(page(), {"type": "job.succeeded"}))[0]
        assert (d.event_id, d.body) == (event.id, event.body)


async def test_a_change_of_endpoints_is_seen_by_facts_of_the_same_group(world: World) -> None:
    job = await world.processing()
    endpoint = await world.endpoint()
    paused = world.store.update_endpoint(replace(endpoint, status="paused"))
    await asyncio.gather(paused, world.tell(job, SUCCEEDED))
    assert await world.statuses() == [DeliveryStatus.HELD]


async def test_targets_that_the_plan_picks_are_written_as_they_are(store_name: str, tmp_path: Path) -> None:
    picked = [Target(endpoint=-1, lane=-1), Target(endpoint=0, lane=-9, held=True)]
    plan = Scripted(says(said("job.unknown")), targets=lambda announcement: picked)
    async with opened(store_name, tmp_path, plan) as world:
        await world.tell(await world.queued(), FAILED)
        assert await world.statuses() == [DeliveryStatus.PENDING, DeliveryStatus.HELD]
        assert (await world.claim_one()).endpoint == -1


async def test_an_event_that_nobody_wants_is_stored_unless_it_is_only_if_wanted(
    store_name: str, tmp_path: Path
) -> None:
    plan = Scripted(says(said("job.processing"), said("job.progress", only_if_wanted=True)))
    async with opened(store_name, tmp_path, plan) as world:
        await world.tell(await world.queued(), FAILED)
        assert await world.types() == ["job.processing"]


async def test_notes_are_kept_in_their_order(store_name: str, tmp_path: Path) -> None:
    notes = tuple(Note(kind="update", at=5, data={"n": n}) for n in range(3))
    plan = Scripted(lambda job, arrival, now: Decision(verdict="ignored", notes=notes))
    async with opened(store_name, tmp_path, plan) as world:
        job = await world.queued()
        await world.tell(job, FAILED)
        kept = await world.store.timeline(job)
        assert [(entry["at"], entry["kind"], entry["n"]) for entry in kept] == [(5, "update", n) for n in range(3)]
        assert await world.now(job) == job
