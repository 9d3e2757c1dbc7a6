"""Limits hold over all nodes of a database: the division by itself, then nodes that send."""

import asyncio
import collections
import contextlib
import itertools
import math
import random
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service import providers
from service.app import Service, build
from service.errors import StoreUnavailable
from service.fleet import PROVING_S, TERM_S, Fleet
from service.gates import REREAD_S, Gates
from service.lanes import Lanes
from service.loops import IDLE_S
from service.models import Announcement, Credential
from service.settings import ProviderSettings, load
from service.stores import SEATS, Held, open_store
from service.views import event_body
from tests.stores import server
from tests.stores.world import ManualClock, World, opened
from tests.test_nodes import KEYS as KEYS_OF_NODES
from tests.test_nodes import node, submit
from tests.test_pipeline import receiving, status, until
from tests.web.served import ADMIN, sandbox_running

pytestmark = pytest.mark.anyio

LIMITS = (1, 2, 3, 16)
KEYS = (0, 1, 2, 3, 5, -7)


class Slow:
    """The store's seats over a line that takes its time, before the statement and after it."""

    def __init__(self, world: World):
        self._world, self.before, self.after = world, 0.0, 0.0

    async def beat(self, *given: Any) -> Held | None:
        self._world.clock.forward(self.before)
        held = await self._world.store.beat(*given)
        self._world.clock.forward(self.after)
        return held

    async def leave(self, node: int) -> None:
        await self._world.store.leave(node)


def most(nodes: Sequence[Fleet], limit: int, key: int) -> int:
    return sum(one.share(limit, key) for one in nodes)


def check(nodes: Sequence[Fleet]) -> None:
    for key in KEYS:
        assert sum(one.owns(key) for one in nodes) <= 1
        for limit in LIMITS:
            assert most(nodes, limit, key) <= limit


async def settle(world: World, nodes: Sequence[Fleet]) -> None:
    for _ in range(9):
        world.clock.forward(1.0)
        for one in nodes:
            await one.beat()


async def joined(world: World, number: int, store: Any = None) -> Fleet:
    made = Fleet(clock=world.clock, node=number)
    await made.join(store or world.store)
    return made


@pytest.mark.parametrize("seed", range(30))
async def test_shares_never_add_up_to_more_than_the_limit_whatever_nodes_do(seed: int, tmp_path: Path) -> None:
    """Nodes come, fall silent, come back, leave, and their line is slow, in any order."""
    async with opened("postgres", tmp_path) as world:
        chance, numbers, line, nodes = random.Random(seed), itertools.count(1), Slow(world), list[Fleet]()
        used = 0
        for _ in range(150):
            line.before, line.after = chance.choices((0.0, 0.3, 3.0, 6.0), (20, 4, 1, 1), k=2)
            act = chance.choice(("join", "beat", "beat", "beat", "beat", "all", "leave", "wait"))
            if act == "join" and len(nodes) < 5:
                nodes.append(await joined(world, next(numbers), line))
            elif act == "leave" and nodes and chance.random() < 0.4:
                await nodes.pop(chance.randrange(len(nodes))).leave()
            elif act == "wait":
                world.clock.forward(chance.choice((0.1, 0.5, 1.0, 2.0, 5.5)))
            elif nodes:
                for one in nodes if act == "all" else [chance.choice(nodes)]:
                    await one.beat()
                    check(nodes)
            check(nodes)
            used += any(one.share(16, 0) for one in nodes)
        assert used > 20, "nobody ever had a share"
        line.before = line.after = 0.0
        nodes.append(await joined(world, next(numbers), line))
        await settle(world, nodes)
        for key in KEYS:
            assert sum(one.owns(key) for one in nodes) == 1
            assert [most(nodes, limit, key) for limit in LIMITS] == list(LIMITS), "nothing of a limit is lost for good"


async def test_a_node_alone_has_everything_at_once(tmp_path: Path) -> None:
    async with opened("postgres", tmp_path) as world:
        one = await joined(world, 1)
        assert (one.share(16, 3), one.owns(3), one.settled, one.shared) == (16, True, True, False)


async def test_on_sqlite_the_one_process_has_everything_for_good(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as world:
        one = await joined(world, 1)
        world.clock.forward(1_000_000)
        assert (one.share(16, 3), one.owns(3), one.settled) == (16, True, True)


async def test_a_new_node_has_its_part_once_it_is_proven_and_others_have_let_go(tmp_path: Path) -> None:
    async with opened("postgres", tmp_path) as world:
        first = await joined(world, 1)
        world.clock.forward(0.5)
        second = await joined(world, 2)
        for _ in range(int(PROVING_S) + 1):
            assert (first.share(16, 0), second.share(16, 0)) == (16, 0)
            for one in (first, second):
                await one.beat()
            world.clock.forward(1.0)
        await first.beat()
        await second.beat()
        assert (first.share(16, 0), second.share(16, 0)) == (8, 0), "not used any more, and not let go of yet"
        await first.beat()
        await second.beat()
        assert (first.share(16, 0), second.share(16, 0)) == (8, 8)
        assert first.owns(0) != second.owns(0)


async def test_a_node_that_dies_at_each_start_takes_nothing_from_the_others(tmp_path: Path) -> None:
    async with opened("postgres", tmp_path) as world:
        nodes = [await joined(world, 1), await joined(world, 2)]
        await settle(world, nodes)
        for number in range(3, 40):
            await joined(world, number)  # and is heard of no more
            for _ in range(5):
                world.clock.forward(0.5)
                for one in nodes:
                    await one.beat()
                assert [most(nodes, limit, 0) for limit in LIMITS] == list(LIMITS)
                assert sum(one.owns(5) for one in nodes) == 1


async def test_while_nodes_die_and_start_all_the_time_most_is_still_in_use(tmp_path: Path) -> None:
    async with opened("postgres", tmp_path) as world:
        chance, numbers = random.Random(5), itertools.count(1)
        nodes = [await joined(world, next(numbers)) for _ in range(4)]
        used = []
        for n in range(400):
            world.clock.forward(0.25)
            if n % 5 == 4:  # one dies each 1.25 s, and another one starts
                nodes[chance.randrange(4)] = await joined(world, next(numbers))
            for one in nodes:
                await one.beat()
            check(nodes)
            used.append(most(nodes, 16, n))
        assert sum(used[40:]) / len(used[40:]) > 16 * 0.4, "half, as a seat is out of use for as long as it is used"


async def test_a_node_that_fell_silent_stops_by_itself_before_the_others_take_its_seats(tmp_path: Path) -> None:
    async with opened("postgres", tmp_path) as world:
        first, second = await joined(world, 1), await joined(world, 2)
        await settle(world, (first, second))
        assert (first.share(16, 0), second.share(16, 0)) == (8, 8)
        world.clock.forward(TERM_S - 1.0)
        await first.beat()
        assert (first.share(16, 0), second.share(16, 0)) == (8, 8)
        world.clock.forward(1.0)
        assert second.share(16, 0) == 0, "as it was not heard of"
        await first.beat()
        assert first.share(16, 0) == 16
        await second.beat()
        assert second.share(16, 0) == 0


async def test_what_a_node_leaves_is_taken_at_once(tmp_path: Path) -> None:
    async with opened("postgres", tmp_path) as world:
        first, second = await joined(world, 1), await joined(world, 2)
        await settle(world, (first, second))
        await second.leave()
        await first.beat()
        assert (first.share(16, 0), second.share(16, 0)) == (16, 0)


@pytest.mark.parametrize("limit", [1, 2, 5, 16, 63, 64, 65, 1000])
async def test_seats_of_one_node_have_their_part_of_each_limit(limit: int, tmp_path: Path) -> None:
    async with opened("postgres", tmp_path) as world:
        nodes = [await joined(world, number) for number in (1, 2, 3, 4)]
        await settle(world, nodes)
        for key in range(SEATS):
            shares = [one.share(limit, key) for one in nodes]
            assert sum(shares) == limit and max(shares) - min(shares) <= max(1, limit // SEATS), shares


async def owners_and_back(world: World) -> tuple[int, Fleet, Fleet]:
    """What a key names is the first node's, which then falls silent: it is the second one's."""
    first, second = await joined(world, 1), await joined(world, 2)
    await settle(world, (first, second))
    key = next(key for key in range(1, SEATS) if first.owns(key))
    return key, first, second


async def silent(world: World, talking: Fleet) -> None:
    for _ in range(int(TERM_S) + 2):
        world.clock.forward(1.0)
        await talking.beat()


def sent(lanes: Lanes, lane: int, rate: float) -> int:
    """How many attempts the lane's rate lets go now."""
    return next(n for n in itertools.count() if lanes.limit(lane, rate) > 0)


async def test_a_rate_that_was_another_nodes_for_a_while_is_used_up_when_it_comes_back(tmp_path: Path) -> None:
    """Also where the node did not see that it was: nothing was due there."""
    async with opened("postgres", tmp_path) as world:
        lane, first, second = await owners_and_back(world)
        one, two = (
            Lanes(per_lane=16, total=256, clock=world.clock, sending=True, fleet=fleet) for fleet in (first, second)
        )
        assert one.limit(lane, 5.0) > 0, "the other one was there"
        world.clock.forward(1.0)
        await first.beat()
        assert sent(one, lane, 5.0) == 5
        await silent(world, second)
        assert second.owns(lane) and sent(two, lane, 5.0) == 0
        world.clock.forward(1.0)
        assert sent(two, lane, 5.0) == 5
        await second.leave()
        await first.beat()
        assert first.owns(lane) and sent(one, lane, 5.0) == 0
        world.clock.forward(1.0)
        assert sent(one, lane, 5.0) == 5
        await first.beat()
        assert sent(one, lane, 5.0) == 0, "a beat in time changes nothing"
        world.clock.forward(1.0)
        assert sent(one, lane, 5.0) == 5


async def test_a_node_alone_goes_on_counting_a_rate_where_it_was_between_its_ticks(tmp_path: Path) -> None:
    """A rate of less than one in a tick would else never come to one."""
    async with opened("postgres", tmp_path) as world:
        one = Fleet(clock=world.clock, node=1)
        lanes = Lanes(per_lane=16, total=256, clock=world.clock, sending=True, fleet=one)
        let_go = []
        for _ in range(10):
            await one.join(world.store)
            let_go.append(sent(lanes, 1, 0.05))
            await one.leave()
            world.clock.forward(5.0)
        assert let_go == [1, 0, 0, 0, 1, 0, 0, 0, 1, 0]


async def test_a_credentials_rate_that_was_another_nodes_is_used_up_when_it_comes_back(tmp_path: Path) -> None:
    async with opened("postgres", tmp_path) as world:
        num, first, second = await owners_and_back(world)
        credential = Credential(
            num=num, tenant=1, provider="p", source="api", api_key="k", base_url="https://a.example"
        )
        settings = {"p": ProviderSettings(rate=4.0)}
        gates = Gates(store=world.store, fleet=first, of={num: credential}.get, settings=settings, clock=world.clock)
        assert gates.reason(num) == "rate"
        world.clock.forward(1.0)
        await first.beat()
        assert gates.room(lambda _: 50)(num) == 4
        await silent(world, second)
        assert second.owns(num)
        assert gates.reason(num) is None, "as far as it knows"
        await second.leave()
        await first.beat()
        assert gates.room(lambda _: 50)(num) == 0
        world.clock.forward(1.0)
        assert gates.room(lambda _: 50)(num) == 4
        await first.beat()
        assert gates.room(lambda _: 50)(num) == 4, "a beat in time changes nothing"


# -- nodes that send


NOWHERE = "http://127.0.0.1:1"  # where no sandbox is needed


@contextlib.asynccontextmanager
async def fleet(count: int, url: str, sandbox: str = NOWHERE, **more: str) -> AsyncIterator[list[Any]]:
    """So many nodes on one database, each settled, with its client."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(node(url, sandbox, **more)) for _ in range(count)]
        await until(lambda: all(service.fleet.settled for service, _ in nodes))
        yield nodes


async def publish(service: Service, count: int) -> None:
    """Events committed on this node, and sent from memory where it has room."""
    context = service.context
    tenant = await context.accounts.tenant("default")
    said = Announcement(type="job.succeeded", body=event_body("job.succeeded", 0, {"id": "job_1"}), data={})
    for _ in range(count):
        _, fresh = await context.store.publish(tenant.num, said, None)
        context.delivery.hand_over(fresh)


async def endpoint(service: Service, url: str, **more: Any) -> None:
    tenant = await service.context.accounts.tenant("default")
    await service.context.endpoints.create(tenant.num, {"url": url, **more})


async def test_the_rate_of_an_endpoint_holds_over_three_nodes(tmp_path: Path) -> None:
    """Also while one of them leaves and another one joins."""
    arrived: dict[str, list[float]] = collections.defaultdict(list)

    async def answer(path: str) -> bytes:
        arrived[path].append(asyncio.get_running_loop().time())
        return status(200)

    url, rate, paths = await server.database(tmp_path), 5.0, ("/a", "/b", "/c")
    async with receiving(answer) as (_, target), fleet(2, url) as nodes:
        async with node(url, NOWHERE) as third:
            await until(lambda: third[0].fleet.settled)
            for path in paths:
                await endpoint(nodes[0][0], target + path, rate=rate)
            for service, _ in (*nodes, third):
                await publish(service, 8)
            await until(lambda: all(len(arrived[path]) >= 8 for path in paths))
            owners = [n for n, (one, _) in enumerate((*nodes, third)) for lane in (1, 2, 3) if one.fleet.owns(lane)]
            assert len(owners) == 3 and len(set(owners)) > 1, "one node had all of them"
        async with node(url, NOWHERE):
            await until(lambda: all(len(arrived[path]) >= 24 for path in paths))
    assert [len(arrived[path]) for path in paths] == [24, 24, 24]
    for times in arrived.values():
        for first, second in itertools.combinations(range(24), 2):
            took = times[second] - times[first]
            assert second - first + 1 <= rate + rate * took + 1, "more than the burst and the rate let go"


class Busy:
    """A subscriber that takes its time, and writes down how many deliveries were under way as each came."""

    def __init__(self, seconds: float):
        self._seconds, self.flying = seconds, 0
        self.seen: list[int] = []

    async def answer(self, path: str) -> bytes:
        self.flying += 1
        self.seen.append(self.flying)
        await asyncio.sleep(self._seconds)
        self.flying -= 1
        return status(200)


async def test_what_is_under_way_to_an_endpoint_is_limited_over_three_nodes(tmp_path: Path) -> None:
    slow = Busy(0.1)
    url, limit = await server.database(tmp_path), 4
    more = {"CALLSHEET_ENDPOINT_CONCURRENCY": str(limit)}
    async with receiving(slow.answer) as (_, target), fleet(3, url, **more) as nodes:
        await endpoint(nodes[0][0], f"{target}/in")
        assert [service.context.delivery.lanes.room(1) for service, _ in nodes] == [1, 1, 1]
        await asyncio.gather(*(publish(service, 30) for service, _ in nodes))
        await until(lambda: len(slow.seen) >= 90)
    assert len(slow.seen) == 90
    assert max(slow.seen) == limit, collections.Counter(slow.seen)


async def outcomes(client: httpx2.AsyncClient, job_id: str) -> list[str]:
    """What each submit of the job came to."""
    timeline = (await client.get(f"/v1/jobs/{job_id}/timeline")).json()["data"]
    found = [entry["outcome"] for entry in timeline if entry["kind"] == "submit"]
    return [outcome for outcome in found if outcome != "sending"]


async def test_a_credentials_concurrency_and_rate_hold_over_three_nodes(tmp_path: Path) -> None:
    """The provider itself refuses more, and its ledger says when each was accepted."""
    url, many, limit, rate = await server.database(tmp_path), 9, 2, 4.0
    more = {"CALLSHEET_PIXVERSE_CONCURRENCY": str(limit), "CALLSHEET_PIXVERSE_RATE": str(rate)}
    with sandbox_running(NOWHERE) as sandbox:
        httpx2.put(f"{sandbox}/_sandbox/pixverse/account", json={"concurrency": limit}).raise_for_status()
        httpx2.put(f"{sandbox}/_sandbox/pixverse/faults", json={"duration_s": [0.2, 0.4]}).raise_for_status()
        async with fleet(3, url, sandbox, **more) as nodes:
            jobs = await asyncio.gather(*(submit(nodes[n % 3][1], f"nonce-{n}") for n in range(many)))
            client = nodes[0][1]
            ended = [await client.get(f"/v1/jobs/{job['id']}", headers={"prefer": "wait=60"}) for job in jobs]
            assert {answer.json()["status"] for answer in ended} == {"succeeded"}
            found = [await outcomes(client, job["id"]) for job in jobs]
        times = [row["accepted_at"] for row in httpx2.get(f"{sandbox}/_sandbox/pixverse/ledger").json()["data"]]
    assert found == [["accepted"]] * many, "the provider never had to refuse one"
    at = sorted(datetime.fromisoformat(text).timestamp() for text in times)
    for first, second in itertools.combinations(range(many), 2):
        assert second - first + 1 <= rate + rate * (at[second] - at[first]) + 1


async def test_a_credential_that_one_node_sees_refused_is_paused_for_all(tmp_path: Path) -> None:
    url = await server.database(tmp_path)
    with sandbox_running(NOWHERE) as sandbox:
        async with fleet(3, url, sandbox) as nodes, node(url, sandbox, role="api") as (_, only_answers):
            httpx2.put(f"{sandbox}/_sandbox/pixverse/account", json={"api_key": "another"}).raise_for_status()
            first = await submit(nodes[0][1], "first")

            async def shown_paused() -> bool:
                met = (await nodes[1][1].get(f"/v1/jobs/{first['id']}")).json()
                return (met["status"], met["reason"]) == ("queued", "credential_paused: authentication")

            async with asyncio.timeout(60):
                while not await shown_paused():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await asyncio.sleep(REREAD_S + IDLE_S)  # within this every node has read it
            jobs = [await submit(client, f"behind-{n}") for n, (_, client) in enumerate(nodes)]
            await asyncio.sleep(1)
            for job in jobs:
                for client in (nodes[2][1], only_answers):
                    shown = (await client.get(f"/v1/jobs/{job['id']}")).json()
                    assert (shown["status"], shown["reason"]) == ("queued", "credential_paused: authentication")
                assert await outcomes(nodes[0][1], job["id"]) == []


async def test_the_limit_holds_while_a_node_that_stops_waits_for_its_attempts(tmp_path: Path) -> None:
    """For longer than a node counts that is not heard of."""
    slow = Busy(TERM_S + 2)
    url, limit = await server.database(tmp_path), 4
    more = {"CALLSHEET_ENDPOINT_CONCURRENCY": str(limit)}
    async with receiving(slow.answer) as (_, target), fleet(2, url, **more) as ((first, _), (second, _)):
        await endpoint(first, f"{target}/in")
        for service in (first, second):  # as after successes: each may use all of its share
            for _ in range(3):
                service.context.delivery.lanes.learned(1, well=True, answered=True)
        await publish(first, 12)
        await until(lambda: slow.flying >= limit)
        ending = asyncio.create_task(first.context.loops.stop(15))
        await until(lambda: len(slow.seen) >= limit + 2)
        await ending
    assert max(slow.seen) == limit, slow.seen


# -- claims whose commit took longer than the seats were held


class Late:
    """The node's store. A claim takes so long that others have the node's seats by the time it is answered."""

    def __init__(self, store: Any, clock: Any):
        self._store, self._clock = store, clock
        self.late = False
        self.refusing = 0  # how many leases cannot be ended for now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def claim_jobs(self, work: Any, **given: Any) -> Any:
        return await self._after(await self._store.claim_jobs(work, **given))

    async def claim_deliveries(self, **given: Any) -> Any:
        return await self._after(await self._store.claim_deliveries(**given))

    async def _after(self, claimed: Any) -> Any:
        if claimed and self.late:
            self._clock.forward(TERM_S)
        return claimed

    async def renew_lease(self, job: Any, lease_ms: int) -> bool:
        if self.refusing:
            self.refusing -= 1
            raise StoreUnavailable("not now")
        return bool(await self._store.renew_lease(job, lease_ms))


@contextlib.asynccontextmanager
async def late(url: str, sandbox: str = NOWHERE, **more: str) -> AsyncIterator[tuple[Service, Late]]:
    """A node whose loops are stepped by hand."""
    clock, made = ManualClock(), list[Late]()

    async def open_late(url: str, **given: Any) -> Any:
        made.append(Late(await open_store(url, **given), clock))
        return made[0]

    environment = {
        "CALLSHEET_DATABASE_URL": url, "CALLSHEET_API_KEY": ADMIN, "CALLSHEET_MASTER_KEYS": KEYS_OF_NODES,
        "CALLSHEET_PUBLIC_URL": "http://127.0.0.1:1", "CALLSHEET_SANDBOX_URL": sandbox, **more,
    }  # fmt: skip
    service = await build(load(environment, known_providers=providers.names()), clock=clock, open_database=open_late)
    try:
        yield service, made[0]
    finally:
        await service.close()


async def test_what_was_claimed_by_seats_that_are_gone_since_is_not_sent_here(tmp_path: Path) -> None:
    arrived = []

    async def answer(path: str) -> bytes:
        arrived.append(path)
        return status(200)

    async with receiving(answer) as (_, target), late(await server.database(tmp_path)) as (service, store):
        delivery = service.context.delivery
        await endpoint(service, f"{target}/in")
        delivery.lanes.sending = False  # all of it is claimed
        await publish(service, 3)
        store.late = True
        assert await delivery.step(math.inf)
        await delivery.flying.drain(5)
        assert not service.fleet.settled and arrived == []
        store.late = False
        await service.fleet.beat()
        async with asyncio.timeout(20):
            while len(arrived) < 3:
                await delivery.step(math.inf)
                await asyncio.sleep(0.02)
    assert arrived == ["/in"] * 3


async def test_all_that_was_claimed_too_late_is_given_back_also_where_the_store_refuses_once(tmp_path: Path) -> None:
    url = await server.database(tmp_path)
    async with node(url, NOWHERE, role="api") as (_, client):
        for n in range(3):
            await submit(client, f"nonce-{n}")
    async with late(url, **{"CALLSHEET_PIXVERSE_CONCURRENCY": "5"}) as (service, store):
        submission = service.context.loops._stages[0]
        await submission.step(math.inf)  # the credential is counted
        store.late, store.refusing = True, 1
        assert await submission.step(math.inf)
        await submission.flying.drain(5)
        assert store.refusing == 0
        ends = await store.rows("SELECT due_at FROM jobs WHERE work = 'submit' AND status = 'queued'")
        soon = store.now() + (TERM_S + 1) * 1000  # the node's clock was put forward, and the database's was not
        assert [row[0] < soon for row in ends] == [True] * 3, "and not with the lease's end"
