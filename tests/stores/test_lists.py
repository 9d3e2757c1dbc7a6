"""What is read: pages by cursor, filters, one tenant's rows only, and a job's timeline."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from service.facts import Begin, Hint
from service.ids import row_number
from service.models import Detail, Job
from service.states import CallbackVerdict, DeliveryStatus, EndpointStatus, JobStatus, Source
from tests.stores.world import DAY, FAILED, NOBODY, START, SUCCEEDED, World, a_callback, outcome, page, said

pytestmark = pytest.mark.anyio


async def numbers(world: World, **filters: Any) -> list[int]:
    return [job.num for job in await world.store.jobs(world.tenant, page(), filters)]


async def all_pages(read: Callable[[int | None], Awaitable[Sequence[Any]]]) -> list[list[int]]:
    """The numbers on each page, each beginning below the last one of the page before."""
    pages: list[list[int]] = []
    before = None
    while rows := await read(before):
        pages.append([row.num for row in rows])
        before = pages[-1][-1]
    return pages


# -- jobs


async def test_jobs_come_newest_first_page_by_page(world: World) -> None:
    made = [(await world.queued()).num for _ in range(7)]
    pages = await all_pages(lambda before: world.store.jobs(world.tenant, page(3, before), {}))
    assert pages == [made[:3:-1], made[3:0:-1], made[:1]]


async def test_a_cursor_skips_nothing_when_rows_come_in_between(world: World) -> None:
    made = [(await world.queued()).num for _ in range(4)]
    first = await world.store.jobs(world.tenant, page(2), {})
    await asyncio.gather(*(world.queued() for _ in range(5)))
    rest = await world.store.jobs(world.tenant, page(10, first[-1].num), {})
    assert [job.num for job in (*first, *rest)] == made[::-1]


async def test_jobs_are_filtered_by_each_field_and_by_all_together(world: World) -> None:
    one = await world.queued(metadata={"order": "7", "who": "né"})
    two = await world.queued(provider="peakmv", operation="generate", metadata={"order": "7"}, now=START + 10)
    three = await world.processing(metadata={"order": "70", "7": "order"}, now=START + 20)
    for filters, expected in (
        ({}, [three, two, one]),
        ({"status": "queued"}, [two, one]),
        ({"status": JobStatus.PROCESSING}, [three]),
        ({"status": None}, [three, two, one]),
        ({"provider": "pixverse"}, [three, one]),
        ({"operation": "generate"}, [two]),
        ({"created_after": START}, [three, two]),
        ({"created_before": START + 20}, [two, one]),
        ({"created_after": START, "created_before": START + 20}, [two]),
        ({"metadata": {"order": "7"}}, [two, one]),
        ({"metadata": {"order": "7", "who": "né"}}, [one]),
        ({"metadata": {"who": "' OR 1=1 --"}}, []),
        ({"metadata": {"nothing": "7"}}, []),
        ({"metadata": {}}, [three, two, one]),
        ({"status": "queued", "provider": "peakmv", "metadata": {"order": "7"}}, [two]),
        ({"status": "failed"}, []),
    ):
        assert await numbers(world, **filters) == [job.num for job in expected], filters
    assert [job.num for job in await world.store.jobs(world.tenant, page(1, two.num), {"status": "queued"})] == [
        one.num
    ]


async def test_a_listed_job_is_the_job(world: World) -> None:
    job = await world.succeeded(metadata={"order": "7"}, detail=Detail(traceparent="00-a-b-01"))
    assert await world.store.jobs(world.tenant, page(), {}) == [job]


async def test_waiting_jobs_are_counted_up_to_a_ceiling(world: World) -> None:
    tenant, credential = await world.another_tenant()
    for _ in range(5):
        await world.queued()
    await world.queued(tenant=tenant, credential=credential)
    await world.processing()
    await world.tell(await world.queued(), Begin(), Source.SUBMIT)
    assert await world.store.queued(world.tenant, 100) == 5
    assert await world.store.queued(world.tenant, 3) == 3
    assert await world.store.queued(tenant, 100) == 1
    assert await world.store.queued(NOBODY, 100) == 0
    await world.claim_jobs(limit=2)
    assert await world.store.queued(world.tenant, 100) == 5  # leased, and not sent yet


# -- events and deliveries


async def test_events_are_listed_by_type_and_job_newest_first(world: World) -> None:
    one, two = await world.succeeded(), await world.processing()
    await world.store.publish(world.tenant, said("credential.paused"), None)
    assert await world.types() == ["job.processing", "job.succeeded", "job.processing", "credential.paused"]
    assert await world.types(one) == ["job.processing", "job.succeeded"]
    found = await world.events(page(), {"type": "job.processing"})
    assert [event.job for event in found] == [two.id, one.id]
    assert await world.events(page(), {"type": "job.processing", "job": one.id}) == found[1:]
    assert await world.events(page(), {"job": "job_nothing"}) == []
    pages = await all_pages(lambda before: world.events(page(3, before), {}))
    assert [len(each) for each in pages] == [3, 1]
    assert pages[0] == sorted(pages[0], reverse=True) and pages[1][0] < pages[0][-1]


async def test_an_event_is_found_by_the_number_in_its_id(world: World) -> None:
    await world.processing()
    (event,) = await world.events(page(), {})
    assert row_number("evt", event.id, world.store.nonce) == event.num
    assert await world.store.event(world.tenant, event.num) == event
    assert event.created_at == world.clock.at
    assert b'"type":"job.processing"' in event.body


async def test_deliveries_are_listed_by_state_endpoint_event_and_job(world: World) -> None:
    one, two = await world.endpoint(), await world.endpoint(status=EndpointStatus.PAUSED)
    first = await world.processing()
    await world.store.record_attempts([outcome(await world.claim_one())])
    second = await world.succeeded(detail=Detail(callback_url=b"sealed", callback_lane=-5))
    events = await world.events(page(), {"job": first.id})

    async def count(**filters: Any) -> int:
        return len(await world.store.deliveries(world.tenant, page(), filters))

    assert await count() == 7
    assert await count(status="held") == await count(status=DeliveryStatus.HELD) == 3
    assert await count(status="delivered") == 1
    assert await count(endpoint=one.num) == await count(endpoint=two.num) == 3
    assert await count(endpoint=0) == 1
    assert await count(event=events[0].num) == 2
    assert await count(job=second.id) == 5
    assert await count(job=second.id, endpoint=one.num, status="pending") == 2
    assert await count(job="job_nothing") == 0
    pages = await all_pages(lambda before: world.store.deliveries(world.tenant, page(4, before), {}))
    assert [len(each) for each in pages] == [4, 3]


async def test_a_delivery_shows_its_event_its_job_and_where_it_goes(world: World) -> None:
    endpoint = await world.endpoint()
    job = await world.processing(detail=Detail(callback_url=b"sealed", callback_lane=-5))
    await world.tell(job, FAILED)
    own, theirs = await world.store.deliveries(world.tenant, page(2), {})
    assert {own.endpoint_id, theirs.endpoint_id} == {None, endpoint.id}
    assert own.job_id == theirs.job_id == job.id
    assert own.event_id == theirs.event_id and own.event_type == "job.failed"
    assert row_number("dlv", own.id, world.store.nonce) == own.num
    assert await world.store.delivery(world.tenant, own.num) == own


# -- tenants see their own


async def test_no_read_shows_another_tenants_rows(world: World) -> None:
    tenant, credential = await world.another_tenant()
    endpoint = await world.endpoint()
    job = await world.succeeded(metadata={"order": "7"})
    (event, *_) = await world.events(page(), {})
    (delivery, *_) = await world.store.deliveries(world.tenant, page(), {})
    store = world.store
    assert await store.job(tenant, job.id) is None
    assert await store.jobs(tenant, page(), {"metadata": {"order": "7"}}) == []
    assert await store.event(tenant, event.num) is None
    assert await store.events(tenant, page(), {"job": job.id}) == []
    assert await store.delivery(tenant, delivery.num) is None
    assert await store.deliveries(tenant, page(), {"job": job.id}) == []
    assert await store.deliveries(tenant, page(), {"endpoint": endpoint.num, "event": event.num}) == []
    assert await store.endpoint(tenant, endpoint.id) is None
    assert await store.endpoints(tenant, page()) == []
    assert await store.job_by_provider_id(credential, job.provider_job_ids[0]) is None
    foreign = replace(endpoint, tenant=tenant)
    assert await store.recover(foreign, since=0, after=0, limit=10) == (0, None)


# -- the timeline


async def test_the_timeline_has_all_that_happened_to_a_job(world: World) -> None:
    endpoint = await world.endpoint()
    job = await world.queued()
    await world.tell(job, Begin(told="the provider calls back"), Source.SUBMIT)
    world.clock.forward(1)
    raw = a_callback(b"{}", verdict=CallbackVerdict.HINT, received_at=world.clock.at)
    await world.tell(job, Hint(), Source.CALLBACK, callback=raw)
    world.clock.forward(1)
    raw = a_callback(b'{"status": 1}', received_at=world.clock.at)
    await world.tell(job, SUCCEEDED, Source.CALLBACK, provider_job_id="77", dedupe_key="d", callback=raw)
    world.clock.forward(1)
    due = await world.claim_one()
    failed = outcome(due, at=world.clock.at, status=DeliveryStatus.PENDING, due_at=world.clock.at, status_code=503)
    await world.store.record_attempts([failed])
    entries = sorted(await world.store.timeline(await world.now(job)), key=lambda entry: entry["at"])
    kinds = [entry["kind"] for entry in entries]
    assert kinds[:2] == ["submit", "callback"] and kinds[-1] == "attempt"
    assert sorted(kinds) == sorted(["submit", "callback", "callback", "update", "event", "delivery", "attempt"])
    by_kind = {entry["kind"]: entry for entry in entries}
    assert by_kind["submit"]["outcome"] == "sending"
    assert by_kind["callback"]["verdict"] == "verified" and by_kind["callback"]["body"] == '{"status": 1}'
    assert by_kind["update"]["status"] == "succeeded"
    assert by_kind["event"] == {"at": START + 2_000, "kind": "event", "id": due.event_id, "type": "job.succeeded"}
    delivery = by_kind["delivery"]
    assert (delivery["event"], delivery["endpoint"]) == (due.event_id, endpoint.id)
    assert (delivery["status"], delivery["attempts"]) == ("pending", 1)
    attempt = by_kind["attempt"]
    assert (attempt["delivery"], attempt["number"]) == (delivery["id"], 1)
    assert (attempt["status_code"], attempt["at"]) == (503, START + 3_000)


async def test_a_timeline_shows_its_own_job_only(world: World) -> None:
    await world.endpoint()
    jobs: list[Job] = []
    for n in range(2):
        job = await world.processing()
        await world.tell(job, FAILED, callback=a_callback(b"%d" % n))
        jobs.append(job)
    for n, job in enumerate(jobs):
        entries = await world.store.timeline(job)
        assert [entry["body"] for entry in entries if entry["kind"] == "callback"] == [str(n)]
        assert [entry["kind"] for entry in entries].count("event") == 2
        assert [entry["kind"] for entry in entries].count("delivery") == 2


# -- what waits


async def test_the_backlog_counts_what_waits_and_how_long(world: World) -> None:
    await world.endpoint()
    assert await world.store.backlog() == {
        name: {"count": 0, "oldest_ms": 0} for name in ("submit", "settle", "poll", "deliveries")
    }
    for _ in range(3):
        await world.queued()
    await world.processing()
    world.clock.forward(2)
    found = await world.store.backlog()
    assert found["submit"] == {"count": 3, "oldest_ms": 2_000}
    assert found["settle"] == {"count": 0, "oldest_ms": 0}
    assert found["poll"] == {"count": 1, "oldest_ms": 0}  # its first read is not due yet
    assert found["deliveries"] == {"count": 1, "oldest_ms": 2_000}
    await world.store.record_attempts([outcome(await world.claim_one())])
    assert (await world.store.backlog())["deliveries"]["count"] == 0


async def test_a_read_sees_what_was_committed_before_it_began(world: World) -> None:
    for n in range(50):
        job = await world.queued(created_at=START + n * DAY)
        assert await world.store.job(world.tenant, job.id) == job
