"""Charges and budgets: each job counted once, by the transaction that moves it; no two submits share a credit."""

import asyncio
import sqlite3
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace

from service.facts import Accepted, Begin, CancelAsked, Cost, Refused, Unknown
from service.models import Detail, Job
from service.spending import Budget, Tally, period_began, total, usage_of
from service.stores import Created
from service.stores.migrations import migrations
from tests.stores.world import CANCELED, DAY, FAILED, START, SUCCEEDED, World, a_followed_job, a_job, new, opened, page

pytestmark = pytest.mark.anyio

EVER = {"since": 0, "until": 1 << 62}
ERROR = FAILED.error
AMOUNTS = st.sampled_from(["0", "0.1", "1", "45", "12.345678", "100"])


def quoted(amount: str = "45", unit: str = "credits") -> Cost:
    return Cost(amount=amount, unit=unit, source="quoted")


def reported(amount: str, unit: str = "credits") -> Cost:
    return Cost(amount=amount, unit=unit, source="reported")


async def submit(world: World, cost: Cost | None = None, **changes: Any) -> Created:
    free = changes.pop("free_if_failed", False)
    key = changes.pop("key", None)
    tenant, credential = changes.pop("tenant", world.tenant), changes.pop("credential", world.credential)
    detail = Detail(cost=cost, free_if_failed=free)
    job = a_job(tenant, credential, detail=detail, **{"now": world.clock.at, **changes})
    return await world.create(new(job, key=key))


async def priced(world: World, cost: Cost | None = None, **changes: Any) -> Job:
    """A job that is queued at this price."""
    created = await submit(world, cost, **changes)
    assert created.verdict == "created", created
    return created.job


async def sent(world: World, cost: Cost | None = None, **changes: Any) -> Job:
    """A job that the provider accepted."""
    job = await priced(world, cost, **changes)
    await world.tell(job, Begin())
    applied = await world.tell(job, Accepted(provider_job_ids=(f"p{job.num}",)))
    assert applied.verdict == "applied" and applied.job is not None
    return applied.job


async def tallies(world: World, by: Collection[str] = (), **more: Any) -> list[Tally]:
    return await world.store.usage(more.pop("tenant", world.tenant), **{**EVER, **more}, by=by)


async def counted(world: World) -> list[tuple[str, str | None, str | None, int]]:
    """(outcome, amount, standing, jobs) of everything that is counted."""
    rows = [(row.outcome, row.amount, row.standing, row.count) for row in await tallies(world)]
    return sorted(rows, key=str)


async def limit(world: World, amount: str, period: str = "month", **changes: Any) -> Budget:
    fields: dict[str, Any] = {"tenant": world.tenant, "provider": "pixverse", "unit": "credits"}
    return await world.store.put_budget(Budget(amount=amount, period=period, **{**fields, **changes}))


async def used(world: World) -> str:
    (budget,) = await world.store.budgets(world.tenant)
    return budget.used


# -- charges


async def test_a_quote_is_counted_at_once_and_replaced_by_the_report(world: World) -> None:
    job = await priced(world, quoted("45"))
    assert await counted(world) == [("open", "45", "quoted", 1)]
    await world.tell(job, Begin())
    await world.tell(job, Accepted(provider_job_ids=("1",), cost=quoted("50")))
    assert await counted(world) == [("open", "50", "quoted", 1)]
    await world.tell(job, replace(SUCCEEDED, cost=reported("48.5")))
    assert await counted(world) == [("succeeded", "48.5", "reported", 1)]
    again = await world.tell(job, replace(SUCCEEDED, cost=reported("99")))  # told twice, counted once
    assert again.verdict == "duplicate"
    assert await counted(world) == [("succeeded", "48.5", "reported", 1)]


async def test_a_job_whose_price_nobody_says_is_counted_without_one(world: World) -> None:
    await world.tell(await sent(world), SUCCEEDED)
    assert await counted(world) == [("succeeded", None, None, 1)]


async def test_what_ends_badly_counts_by_whether_it_was_accepted(world: World) -> None:
    refused = await priced(world, quoted("1"))
    await world.tell(refused, Begin())
    assert ERROR is not None
    await world.tell(refused, Refused(error=ERROR))
    await world.tell(await sent(world, quoted("2")), FAILED)
    await world.tell(await sent(world, quoted("4")), CANCELED)
    await world.tell(await sent(world, quoted("8"), free_if_failed=True), FAILED)
    await world.tell(await sent(world, quoted("16")), replace(FAILED, cost=reported("15")))
    lost = await priced(world, quoted("32"), provider="peakmv", operation="generate")  # a person settles it
    await world.tell(lost, Begin())
    assert (await world.tell(lost, Unknown(reason="the reply was lost"))).job is not None
    assert await counted(world) == [
        ("canceled", "4", "uncertain", 1),
        ("failed", "0", "quoted", 2),
        ("failed", "15", "reported", 1),
        ("failed", "2", "uncertain", 1),
        ("unknown", "32", "uncertain", 1),
    ]


async def test_a_batch_that_moves_jobs_counts_each_of_them(world: World) -> None:
    jobs = [await sent(world, quoted("1")) for _ in range(20)]
    await asyncio.gather(*(world.tell(job, replace(SUCCEEDED, cost=reported("2"))) for job in jobs))
    assert await counted(world) == [("succeeded", "2", "reported", 20)]


async def test_a_replayed_or_refused_submit_is_not_counted(world: World) -> None:
    first = await submit(world, quoted(), key="k")
    again = await submit(world, quoted(), key="k")
    assert (first.verdict, again.verdict) == ("created", "replayed")
    assert (await submit(world, quoted(), key="k", tenant=(await world.another_tenant())[0])).verdict == "created"
    assert await counted(world) == [("open", "45", "quoted", 1)]


async def test_usage_is_told_apart_as_asked(world: World) -> None:
    await world.tell(await sent(world, quoted("1")), replace(SUCCEEDED, cost=reported("1")))
    world.clock.forward(86_400)
    await priced(world, quoted("2"), operation="image_to_video")
    await priced(world, quoted("0.05", "usd"), provider="peakmv", operation="generate")
    lines = usage_of(await tallies(world, ("day", "operation")))
    assert [(line.day, line.provider, line.operation, line.unit) for line in lines] == [
        ("2027-01-16", "peakmv", "generate", "usd"),
        ("2027-01-16", "pixverse", "image_to_video", "credits"),
        ("2027-01-15", "pixverse", "text_to_video", "credits"),
    ]
    assert [line.jobs() for line in usage_of(await tallies(world))] == [1, 2]
    assert [line.provider for line in usage_of(await tallies(world, provider="peakmv"))] == ["peakmv"]


async def test_usage_is_of_a_span_and_of_a_tenant(world: World) -> None:
    await priced(world, quoted("1"))
    world.clock.forward(86_400)
    await priced(world, quoted("2"))
    spans = [(START, START + 1), (START + 1, START + DAY), (START, START + DAY), (0, START), (START, START + DAY + 1)]
    found = [sorted(str(row.amount) for row in await tallies(world, since=a, until=b)) for a, b in spans]
    assert found == [["1"], [], ["1"], [], ["1", "2"]]
    assert await tallies(world, tenant=(await world.another_tenant())[0]) == []


async def test_the_books_outlive_the_jobs(world: World) -> None:
    await world.tell(await sent(world, quoted("45")), SUCCEEDED)
    world.clock.forward(100 * 86_400)
    assert (
        await world.store.prune(
            attempts_before=0, callbacks_before=0, held_before=0, jobs_before=world.clock.at, limit=100
        )
        > 0
    )
    assert await world.store.jobs(world.tenant, page(), {}) == []
    assert await counted(world) == [("succeeded", "45", "quoted", 1)]


# -- budgets


async def test_no_budget_is_no_limit(world: World) -> None:
    assert (await submit(world, quoted("1" + "0" * 20))).verdict == "created"
    assert await world.store.budgets(world.tenant) == []


async def test_what_has_no_room_is_not_kept(world: World) -> None:
    await limit(world, "100")
    kept = [await submit(world, quoted("45")) for _ in range(3)]
    assert [one.verdict for one in kept] == ["created", "created", "over_budget"]
    assert kept[2].budget is not None and kept[2].budget.left == "10"
    assert await world.store.job_by_id(kept[2].job.id) is None
    assert await counted(world) == [("open", "45", "quoted", 2)]
    assert (await submit(world, quoted("10"))).verdict == "created"
    assert await used(world) == "100"


async def test_racing_submits_never_share_the_last_credit(world: World) -> None:
    await limit(world, "200")
    made = await asyncio.gather(*(submit(world, quoted("45")) for _ in range(50)))
    assert sorted(one.verdict for one in made) == ["created"] * 4 + ["over_budget"] * 46
    assert await used(world) == "180"
    in_one = await world.store.create_jobs(
        [new(a_job(world.tenant, world.credential, detail=Detail(cost=quoted("20")))) for _ in range(3)]
    )
    assert [one.verdict for one in in_one] == ["created", "over_budget", "over_budget"]


async def test_an_unknown_price_passes_until_nothing_is_left(world: World) -> None:
    await limit(world, "45")
    assert (await submit(world)).verdict == "created"
    first = await sent(world, quoted("45"))
    assert (await submit(world)).verdict == "over_budget"
    await world.tell(first, replace(SUCCEEDED, cost=reported("44")))
    assert (await submit(world)).verdict == "created"


async def test_a_replay_is_answered_though_nothing_is_left(world: World) -> None:
    await limit(world, "45")
    first = await submit(world, quoted(), key="k")
    again = await submit(world, quoted(), key="k")
    assert (again.verdict, again.job.id) == ("replayed", first.job.id)


async def test_following_a_job_is_never_over_budget_and_its_report_counts(world: World) -> None:
    await limit(world, "0")
    created = await world.create(a_followed_job(a_job(world.tenant, world.credential), "77"))
    assert created.verdict == "created"
    await world.tell(created.job, replace(SUCCEEDED, cost=reported("45")))
    assert await used(world) == "45"


async def test_the_budget_follows_what_becomes_of_its_jobs(world: World) -> None:
    await limit(world, "1000")
    one, two, three = [await sent(world, quoted("100")) for _ in range(3)]
    assert await used(world) == "300"
    await world.tell(one, replace(SUCCEEDED, cost=reported("120.5")))
    assert await used(world) == "320.5"
    await world.tell(two, replace(FAILED, cost=reported("0")))
    assert await used(world) == "220.5"
    await world.tell(three, FAILED)  # it may have been charged: it counts
    assert await used(world) == "220.5"
    waiting = await priced(world, quoted("50"))
    await world.tell(waiting, CancelAsked(supported=False))
    assert await used(world) == "220.5"


async def test_a_report_may_go_beyond_and_then_nothing_more_fits(world: World) -> None:
    await limit(world, "50")
    await world.tell(await sent(world, quoted("45")), replace(SUCCEEDED, cost=reported("60")))
    (budget,) = await world.store.budgets(world.tenant)
    assert budget.left == "-10"
    assert [(await submit(world, cost)).verdict for cost in (quoted("0"), None)] == ["over_budget"] * 2


async def test_other_units_providers_and_tenants_do_not_count(world: World) -> None:
    tenant, credential = await world.another_tenant()
    await limit(world, "45")
    await priced(world, quoted("9", "usd"))
    await priced(world, quoted("50"), provider="peakmv", operation="generate")
    await priced(world, quoted("50"), tenant=tenant, credential=credential)
    assert await used(world) == "0"
    assert (await submit(world, quoted("45"))).verdict == "created"


async def test_a_budget_that_comes_later_counts_what_was_spent_before(world: World) -> None:
    await world.tell(await sent(world, quoted("45")), replace(SUCCEEDED, cost=reported("40")))
    await priced(world, quoted("45"))
    assert (await limit(world, "100")).used == "85"
    assert (await limit(world, "10", unit="usd")).used == "0"
    assert (await limit(world, "100", "total")).used == "85"
    assert await world.store.delete_budget(world.tenant, "pixverse")
    assert not await world.store.delete_budget(world.tenant, "pixverse")
    assert await world.store.budgets(world.tenant) == []


async def test_a_changed_budget_keeps_when_it_was_made(world: World) -> None:
    made = await limit(world, "10")
    world.clock.forward(60)
    later = await limit(world, "20")
    assert (later.created_at, later.updated_at, later.amount) == (made.created_at, world.clock.at, "20")
    assert await world.store.budgets(world.tenant) == [later]


async def test_a_new_month_begins_with_nothing_used(world: World) -> None:
    await limit(world, "45")
    old = await sent(world, quoted("45"))
    assert (await submit(world, quoted("1"))).verdict == "over_budget"
    world.clock.forward(31 * 86_400)
    assert (await submit(world, quoted("40"))).verdict == "created"
    assert await used(world) == "40"
    await world.tell(old, replace(SUCCEEDED, cost=reported("60")))  # of last month
    assert await used(world) == "40"
    assert (await submit(world, quoted("6"))).verdict == "over_budget"
    assert (await submit(world, quoted("5"))).verdict == "created"


async def test_a_total_goes_on_through_the_months(world: World) -> None:
    await limit(world, "100", "total")
    await priced(world, quoted("60"))
    world.clock.forward(100 * 86_400)
    assert (await submit(world, quoted("45"))).verdict == "over_budget"


async def test_what_a_fault_undoes_is_not_reserved(world: World) -> None:
    await limit(world, "100")
    nobody = new(a_job(world.tenant, 999_999, detail=Detail(cost=quoted("45"))))
    with pytest.raises(Exception, match=r"FOREIGN KEY|no credential"):
        await world.create(nobody)
    assert await used(world) == "0"
    assert await counted(world) == []


async def test_a_tenant_goes_with_its_budgets(world: World) -> None:
    other = await world.store.create_tenant("acme", b"")
    await limit(world, "10", tenant=other.num)
    assert await world.store.delete_tenant(other.num)
    assert await world.store.budgets(other.num) == []


# -- budget and books always agree


def test_a_budget_is_always_the_sum_of_its_charges(tmp_path_factory: pytest.TempPathFactory) -> None:
    class Books(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.loop = asyncio.new_event_loop()
            self.opening = opened("sqlite", tmp_path_factory.mktemp("books"))
            self.world = self.run(self.opening.__aenter__())
            self.jobs: list[Job] = []

        def run(self, work: Any) -> Any:
            return self.loop.run_until_complete(work)

        def teardown(self) -> None:
            self.run(self.opening.__aexit__(None, None, None))
            self.loop.close()

        @rule(amount=AMOUNTS, period=st.sampled_from(["month", "total"]))
        def limit(self, amount: str, period: str) -> None:
            self.run(limit(self.world, amount, period))

        @rule(amount=AMOUNTS | st.none(), unit=st.sampled_from(["credits", "credits", "usd"]), accepted=st.booleans())
        def submit(self, amount: str | None, unit: str, accepted: bool) -> None:
            cost = None if amount is None else quoted(amount, unit)
            made = self.run(submit(self.world, cost))
            if made.verdict == "created":
                self.jobs.append(made.job)
                if accepted:
                    self.run(self.world.tell(made.job, Begin()))
                    taken = Accepted(provider_job_ids=(made.job.id,))
                    assert self.run(self.world.tell(made.job, taken)).verdict == "applied"

        @rule(place=st.integers(0, 20), amount=AMOUNTS | st.none(), end=st.sampled_from([SUCCEEDED, FAILED, CANCELED]))
        def end(self, place: int, amount: str | None, end: Any) -> None:
            if self.jobs:
                cost = None if amount is None else reported(amount)
                self.run(self.world.tell(self.jobs[place % len(self.jobs)], replace(end, cost=cost)))

        @rule(days=st.sampled_from([1, 20]))
        def wait(self, days: int) -> None:
            self.world.clock.forward(days * 86_400)

        @invariant()
        def they_agree(self) -> None:
            for budget in self.run(self.world.store.budgets(self.world.tenant)):
                rows = self.run(tallies(self.world, since=budget.began_at, provider=budget.provider))
                ours = [(row.amount, row.count) for row in rows if row.unit == budget.unit]
                assert Decimal(total(ours)) == Decimal(budget.used)
                assert budget.began_at <= period_began(budget.period, self.world.clock.at)

        @invariant()
        def each_job_is_counted_once(self) -> None:
            assert sum(row.count for row in self.run(tallies(self.world))) == len(self.jobs)

    run_state_machine_as_test(Books, settings=settings(max_examples=25, stateful_step_count=25, deadline=None))


# -- credentials, as the API gives them


async def test_a_dropped_credential_stays_for_its_jobs_and_comes_back_when_it_is_given_again(world: World) -> None:
    num = await world.another_credential("api")
    await world.queued(credential=num)
    assert await world.store.drop_credential(num)
    assert not await world.store.drop_credential(num)
    row = await world.store.credential(num)
    assert row is not None and row.deleted_at == world.clock.at
    assert await world.another_credential("api") == num
    row = await world.store.credential(num)
    assert row is not None and row.deleted_at is None
    assert await world.store.credential(999_999) is None


async def test_what_was_touched_since_is_read_again(world: World) -> None:
    before = {row.num for row in await world.store.credentials()}
    world.clock.forward(60)
    num = await world.another_credential("api")
    assert [row.num for row in await world.store.credentials(world.clock.at)] == [num]
    assert {row.num for row in await world.store.credentials()} == before | {num}
    world.clock.forward(60)
    assert await world.store.credentials(world.clock.at) == []
    await world.store.drop_credential(num)
    assert [row.num for row in await world.store.credentials(world.clock.at)] == [num]


async def test_a_tenant_whose_credentials_are_dropped_and_unused_can_be_deleted(world: World) -> None:
    tenant, credential = await world.another_tenant()
    used_one, used_credential = await world.another_tenant("used")
    await world.queued(tenant=used_one, credential=used_credential)
    for num in (credential, used_credential):
        await world.store.drop_credential(num)
    assert await world.store.delete_tenant(tenant)
    assert not await world.store.delete_tenant(used_one)
    assert await world.store.credential(used_credential) is not None


# -- a database that is older


def copy_to_an_older_one(source: Path, folder: Path) -> None:
    """The rows of a database in one that knows nothing of money yet."""
    folder.mkdir()
    db = sqlite3.connect(folder / "callsheet.db", isolation_level=None)
    db.execute("CREATE TABLE migrations (version INTEGER PRIMARY KEY, name TEXT, applied_at INTEGER)")
    for migration in migrations("sqlite")[:2]:
        db.executescript(migration.sql)
        db.execute("INSERT INTO migrations VALUES (?, ?, 0)", (migration.version, migration.name))
    db.execute("ATTACH ? AS new", (str(source),))
    for table in ("meta", "tenants", "credentials", "jobs", "job_details"):
        columns = ", ".join(row[1] for row in db.execute(f"PRAGMA main.table_info({table})"))
        db.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
    assert not db.execute("SELECT 1 FROM main.sqlite_master WHERE name = 'charges'").fetchall()
    db.close()


async def test_jobs_of_an_older_database_are_in_the_books(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        first, second = await sent(world, quoted("45")), await priced(world, quoted("7"))
        await world.tell(first, replace(SUCCEEDED, cost=reported("50")))
        await world.tell(second, CancelAsked(supported=False))
        third = await sent(world, quoted("9"))
        await world.tell(third, FAILED)
        await sent(world)
        expected = await counted(world)
    copy_to_an_older_one(tmp_path / "callsheet.db", tmp_path / "old")
    async with opened("sqlite", tmp_path / "old") as world:
        assert await counted(world) == expected
        assert len(expected) == 4
