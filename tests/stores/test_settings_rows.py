"""Tenants, keys, credentials, endpoints, meta: the rows that people change."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from service.facts import NotNow
from service.ids import new_id
from service.models import ApiKey, Credential
from service.states import DeliveryStatus, EndpointStatus, Work
from tests.stores.world import DAY, FAILED, NOBODY, START, SUCCEEDED, World, page, said

pytestmark = pytest.mark.anyio


def a_key(world: World, lookup: str = "abc", **changes: Any) -> ApiKey:
    fields: dict[str, Any] = {
        "num": 0,
        "id": new_id("key", START),
        "tenant": world.tenant,
        "tenant_name": "default",
        "name": "laptop",
        "scopes": ("jobs:read", "jobs:write"),
        "lookup": lookup,
        "digest": b"\x00digest\xff",
        "created_at": START,
        "expires_at": None,
    }
    return ApiKey(**{**fields, **changes})


# -- tenants


async def test_a_tenant_is_made_once(world: World) -> None:
    made = await asyncio.gather(*(world.store.create_tenant("acme", b"%d" % n) for n in range(10)))
    assert len({(tenant.num, tenant.secrets) for tenant in made}) == 1
    assert await world.store.tenant("acme") == made[0]
    assert [tenant.name for tenant in await world.store.tenants()] == ["default", "acme"]
    assert await world.store.tenant("nobody") is None


async def test_a_tenants_secrets_are_replaced(world: World) -> None:
    made = await world.store.create_tenant("acme", b"one")
    await world.store.set_tenant_secrets(made.num, b"\x00two")
    found = await world.store.tenant("acme")
    assert found == replace(made, secrets=b"\x00two")


async def test_a_tenant_that_owns_nothing_can_be_deleted(world: World) -> None:
    made = await world.store.create_tenant("acme", b"")
    assert await world.store.delete_tenant(made.num)
    assert await world.store.tenant("acme") is None
    assert not await world.store.delete_tenant(made.num)
    again = await world.store.create_tenant("acme", b"")
    assert again.num != made.num  # what was made under the old number is not the new tenant's


async def test_a_tenant_that_owns_something_stays(world: World) -> None:
    tenant, credential = await world.another_tenant("credential")
    owners = {"credential": tenant}
    for name in ("endpoint", "key", "event"):
        owners[name] = (await world.store.create_tenant(name, b"")).num
    await world.endpoint(tenant=owners["endpoint"])
    await world.store.create_key(a_key(world, tenant=owners["key"]))
    await world.store.publish(owners["event"], said("credential.paused"), None)
    await world.queued(tenant=tenant, credential=credential)
    assert [await world.store.delete_tenant(owner) for owner in owners.values()] == [False] * 4
    assert {tenant.name for tenant in await world.store.tenants()} == {"default", *owners}


async def test_revoked_keys_keep_no_tenant(world: World) -> None:
    made = await world.store.create_tenant("acme", b"")
    key = a_key(world, tenant=made.num)
    await world.store.create_key(key)
    assert not await world.store.delete_tenant(made.num)
    await world.store.revoke_key(key.id, None)
    assert await world.store.delete_tenant(made.num)


# -- keys


async def test_a_key_is_found_by_its_lookup_with_its_tenants_name(world: World) -> None:
    key = a_key(world, expires_at=START + 5)
    await world.store.create_key(key)
    found = await world.store.find_key("abc")
    assert found is not None and found == replace(key, num=found.num)
    assert await world.store.keys(world.tenant) == [found]
    assert await world.store.find_key("ABC") is None


async def test_keys_are_listed_for_one_tenant_or_all(world: World) -> None:
    tenant, _ = await world.another_tenant()
    await world.store.create_key(a_key(world, "a"))
    await world.store.create_key(a_key(world, "b", tenant=tenant))
    assert [key.lookup for key in await world.store.keys(world.tenant)] == ["a"]
    assert [(key.lookup, key.tenant_name) for key in await world.store.keys(None)] == [("a", "default"), ("b", "other")]
    assert await world.store.keys(NOBODY) == []


async def test_a_revoked_key_is_gone(world: World) -> None:
    tenant, _ = await world.another_tenant()
    key = a_key(world)
    await world.store.create_key(key)
    assert not await world.store.revoke_key(key.id, tenant)
    assert await world.store.find_key("abc") is not None
    assert await world.store.revoke_key(key.id, world.tenant)
    assert await world.store.find_key("abc") is None
    assert await world.store.keys(None) == []
    assert not await world.store.revoke_key(key.id, None)
    assert not await world.store.revoke_key("key_nothing", None)


async def test_a_lookup_is_used_once(world: World) -> None:
    await world.store.create_key(a_key(world))
    with pytest.raises(Exception, match=r"(?i)unique"):
        await world.store.create_key(a_key(world))


# -- credentials


async def test_a_credential_is_kept_under_its_tenant_provider_and_source(world: World) -> None:
    given = Credential(num=0, tenant=world.tenant, provider="peakmv", source="api", api_key="k", base_url="https://x")
    first = await world.store.put_credential(given, b"\x00one")
    second = await world.store.put_credential(given, b"\xfftwo")
    other = await world.store.put_credential(replace(given, source="sandbox"), b"three")
    assert (second.num, second.sealed) == (first.num, b"\xfftwo")
    assert other.num != first.num
    assert await world.store.credentials() == [(await world.store.credentials())[0], second, other]
    assert (second.tenant, second.provider, second.source) == (world.tenant, "peakmv", "api")


async def refused(world: World, sent_at: int, reason: str = "authentication") -> bool:
    credential = Credential(
        num=world.credential, tenant=world.tenant, provider="pixverse", source="api", api_key="k", base_url="https://x"
    )
    return await world.store.pause_credential(credential, reason, said("credential.paused"), sent_at) is not None


async def gate(world: World) -> tuple[str | None, int | None, bool] | None:
    rows = {row.num: (row.paused, row.resumed_at, row.on_trial) for row in await world.store.gates()}
    return rows.get(world.credential)


@pytest.mark.parametrize("back", [60_000, 86_400_000, 365 * 86_400_000])
async def test_a_trial_goes_on_when_the_clock_was_set_back_since_it_began(world: World, back: int) -> None:
    """Which of the two was first, nobody knows: neither a refusal nor an acceptance is lost by it."""
    assert await refused(world, START)
    await world.store.resume_credential(world.credential)
    world.clock.at -= back
    assert await refused(world, world.clock.at)
    await world.store.resume_credential(world.credential)
    world.clock.at -= back
    assert await world.store.prove_credential(world.credential, world.clock.at)


async def test_a_refused_credential_is_paused_once_then_on_trial_until_a_submit_is_accepted(world: World) -> None:
    assert await gate(world) is None
    assert [await refused(world, START), await refused(world, START)] == [True, False]
    assert await gate(world) == ("authentication", None, False)
    assert await world.store.paused_credentials() == {world.credential: "authentication"}
    world.clock.forward(60)
    resumed = world.clock.at
    await world.store.resume_credential(world.credential)
    assert await gate(world) == (None, resumed, True)
    world.clock.forward(1)
    assert not await world.store.prove_credential(world.credential, resumed - 1), "accepted before it was resumed"
    assert await world.store.prove_credential(world.credential, resumed)
    assert not await world.store.prove_credential(world.credential, resumed), "once"
    assert await gate(world) == (None, resumed, False)
    world.clock.forward(2 * 3_600)
    assert await gate(world) is None


async def test_a_refusal_from_before_a_resume_pauses_nothing(world: World) -> None:
    await refused(world, START)
    world.clock.forward(60)
    await world.store.resume_credential(world.credential)
    assert not await refused(world, world.clock.at - 1)
    assert await gate(world) == (None, world.clock.at, True)
    assert await refused(world, world.clock.at, "out_of_credit")
    assert await gate(world) == ("out_of_credit", world.clock.at, False)


async def test_a_resume_ends_the_waits_of_its_own_jobs(world: World) -> None:
    _, other = await world.another_tenant()
    hour, at = 3_600_000, world.clock.at
    waiting = await world.queued(due_at=at + hour, reason="rate_limited")
    elsewhere = await world.queued(due_at=at + hour, reason="rate_limited", credential=other)
    told, paced = await world.processing(), await world.processing()
    await world.tell(told, NotNow(reason="rate_limited", after_s=3_600.0))
    own_pace = (await world.now(paced)).due_at
    taken = await world.queued(due_at=at, reason=None)
    await world.claim_jobs(Work.SUBMIT)
    before = (await world.now(taken)).due_at
    await world.store.resume_credential(world.credential)
    jobs = [waiting, told, elsewhere, paced, taken]
    assert [(await world.now(job)).due_at for job in jobs] == [at, at, at + hour, own_pace, before]


async def test_nothing_leaves_under_a_paused_credential_even_by_who_has_not_heard_of_it(world: World) -> None:
    read, waiting = await world.processing(), await world.queued()
    other = await world.queued(credential=await world.another_credential())
    await refused(world, world.clock.at)
    assert [job.num for job in await world.claim_jobs()] == [other.num]
    assert await world.claim_jobs(trials=[world.credential]) == []
    await world.store.resume_credential(world.credential)
    assert await world.claim_jobs() == [], "one submit at a time, and only by who knows"
    claimed = await world.claim_jobs(trials=[world.credential], room=lambda num: 1)
    assert [job.num for job in claimed] == [waiting.num]
    await refused(world, world.clock.at)
    world.clock.forward(DAY / 1_000)
    assert [job.num for job in await world.claim_jobs(Work.POLL)] == [read.num], "what is at the provider is read"


async def test_a_key_given_again_is_tried_first_where_the_one_before_it_was_refused(world: World) -> None:
    given = Credential(num=0, tenant=world.tenant, provider="peakmv", source="api", api_key="k", base_url="https://x")
    row = await world.store.put_credential(given, b"one")
    assert (row.resumed_at, row.on_trial) == (None, False)
    row = await world.store.put_credential(given, b"two")
    assert (row.resumed_at, row.on_trial) == (START, False), "nothing was wrong; what held the old key is over"
    await world.store.pause_credential(replace(given, num=row.num), "authentication", said("x.y"), START)
    row = await world.store.put_credential(given, b"three")
    assert (row.paused_at, row.paused_reason, row.on_trial) == (None, None, True)


# -- endpoints


async def test_an_endpoint_reads_back_as_it_was(world: World) -> None:
    made = await world.endpoint(
        target=b"\x00sealed",
        event_types=("job.*", "endpoint.test"),
        filter={"metadata.a": "b", "cost.amount": 1.5, "overdue": False, "sequence": 3},
        format="cloudevents",
        signature="both",
        rate=0.5,
        timeout_s=7.0,
        description="né",
    )
    assert made.num > 0
    assert await world.store.endpoint(world.tenant, made.id) == made
    assert await world.store.endpoint_by_number(made.num) == made
    assert await world.store.endpoints(world.tenant, page()) == [made]
    assert await world.store.endpoint_by_number(NOBODY) is None


async def test_endpoints_come_newest_first_page_by_page_without_the_deleted(world: World) -> None:
    made = [await world.endpoint() for _ in range(4)]
    await world.change(made[1], deleted=True)
    first = await world.store.endpoints(world.tenant, page(2))
    rest = await world.store.endpoints(world.tenant, page(2, first[-1].num))
    assert [endpoint.num for endpoint in (*first, *rest)] == [made[3].num, made[2].num, made[0].num]
    assert await world.store.endpoint(world.tenant, made[1].id) is None
    gone = await world.store.endpoint_by_number(made[1].num)  # senders still ask for it
    assert gone is not None and gone.deleted


async def test_of_two_changes_of_one_version_the_second_is_refused(world: World) -> None:
    read = await world.endpoint()
    world.clock.forward(5)
    first = await world.store.update_endpoint(replace(read, description="one"))
    second = await world.store.update_endpoint(replace(read, description="two"))
    assert first is not None
    assert (first.version, first.updated_at) == (read.version + 1, world.clock.at)
    assert second is None
    assert await world.store.endpoint(world.tenant, read.id) == first
    assert await world.store.update_endpoint(replace(read, num=NOBODY)) is None


async def test_of_many_concurrent_changes_one_wins(world: World) -> None:
    read = await world.endpoint()
    asked = [world.store.update_endpoint(replace(read, description=str(n))) for n in range(20)]
    won = [changed for changed in await asyncio.gather(*asked) if changed is not None]
    assert [await world.store.endpoint(world.tenant, read.id)] == won


async def test_every_change_of_endpoints_is_seen_by_the_next_fact(world: World) -> None:
    async def told() -> list[tuple[int, str]]:
        job = await world.processing()
        rows = await world.store.deliveries(world.tenant, page(), {"job": job.id})
        found = [(await world.store.endpoint(world.tenant, str(row.endpoint_id)), row) for row in rows]
        return sorted((endpoint.num, row.status) for endpoint, row in found if endpoint)

    assert await told() == []
    one = await world.endpoint()
    assert await told() == [(one.num, DeliveryStatus.PENDING)]
    two = await world.endpoint(event_types=("job.failed",))
    assert await told() == [(one.num, DeliveryStatus.PENDING)]
    await world.change(two, event_types=("job.processing",))
    await world.change(one, status=EndpointStatus.PAUSED)
    assert await told() == [(one.num, DeliveryStatus.HELD), (two.num, DeliveryStatus.PENDING)]
    await world.change(one, deleted=True)
    await world.change(two, filter={"metadata.order": "7"})
    assert await told() == []


async def test_one_tenants_endpoints_are_no_others(world: World) -> None:
    tenant, credential = await world.another_tenant()
    mine, theirs = await world.endpoint(), await world.endpoint(tenant=tenant)
    job = await world.processing(tenant=tenant, credential=credential)
    await world.tell(job, SUCCEEDED)
    await world.tell(await world.processing(), FAILED)
    due = await world.claim()
    assert {(d.tenant, d.endpoint) for d in due} == {(world.tenant, mine.num), (tenant, theirs.num)}
    assert len(due) == 4


# -- meta


async def test_meta_keeps_the_last_text_under_a_key(world: World) -> None:
    assert await world.store.meta("canary") is None
    await world.store.set_meta("canary", "one")
    await world.store.set_meta("canary", "two")
    assert await world.store.meta("canary") == "two"


async def test_a_store_that_can_keep_things_says_nothing_when_asked(world: World) -> None:
    await world.store.check()
    await world.store.check()
