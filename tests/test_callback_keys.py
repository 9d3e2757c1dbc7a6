"""Keys that prove callbacks: fetched once, kept, fetched again when they changed, and never more than once a minute."""

from collections.abc import Generator, Sequence
from typing import Any

import pytest

from service.callback_keys import AGAIN_S, FRESH_S, KEPT_S, CallbackKeys
from service.errors import Unavailable
from service.facts import NotNow
from service.models import Credential
from service.providers import Call, Provider, Reply, Request
from service.settings import Settings
from tests.stores.world import ManualClock

pytestmark = pytest.mark.anyio


class Common(Provider):
    name, title, base_url, operations = "common", "Common", "https://common.example", {}
    callback_signed, callback_keys = True, "provider"

    def keys(self, call: Call) -> Generator[Request, Reply, Sequence[str]]:
        reply = yield Request(method="GET", url=f"{call.base_url}/keys", headers={})
        return reply.body.decode().split()

    submit = status = check = None  # type: ignore[assignment]


class PerAccount(Common):
    callback_keys = "account"


class Answers:
    """In place of the network: what each fetch gets, in turn; the last one goes on."""

    def __init__(self, *bodies: bytes | None):
        self.bodies, self.asked = list(bodies), 0

    async def hold(self, steps: Generator[Request, Reply, Any], lease: Any) -> Any:
        self.asked += 1
        body = self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]
        next(steps)
        if body is None:
            return NotNow(reason="no reply: timeout")
        try:
            steps.send(Reply(status=200, headers={}, body=body))
        except StopIteration as end:
            return end.value


def a_credential(num: int = 1, secret: str | None = None) -> Credential:
    return Credential(
        num=num, tenant=1, provider="common", source="api", api_key=f"k{num}", base_url="https://c.example",
        callback_secret=secret,
    )  # fmt: skip


def some_keys(answers: Answers) -> tuple[CallbackKeys, ManualClock]:
    clock = ManualClock()
    keys = CallbackKeys(conversations=answers, settings=Settings(), clock=clock)  # type: ignore[arg-type]
    return keys, clock


async def test_a_configured_secret_is_used_and_nothing_is_fetched() -> None:
    answers = Answers(b"fetched")
    keys, _ = some_keys(answers)
    assert await keys.of(PerAccount(), a_credential(secret="own")) == ("own",)
    assert await keys.newer(PerAccount(), a_credential(secret="own"), ("own",)) is None
    assert answers.asked == 0


async def test_they_are_fetched_once_and_kept_for_an_hour() -> None:
    answers = Answers(b"one two")
    keys, clock = some_keys(answers)
    for _ in range(5):
        assert await keys.of(Common(), a_credential()) == ("one", "two")
    assert answers.asked == 1
    clock.forward(FRESH_S + 1)
    await keys.of(Common(), a_credential())
    assert answers.asked == 2


@pytest.mark.parametrize(("provider", "fetches"), [(Common(), 1), (PerAccount(), 2)])
async def test_common_keys_are_shared_and_account_keys_are_not(provider: Provider, fetches: int) -> None:
    answers = Answers(b"one")
    keys, _ = some_keys(answers)
    for num in (1, 2):
        await keys.of(provider, a_credential(num))
    assert answers.asked == fetches


async def test_changed_keys_are_found_when_none_fits_but_not_more_than_once_a_minute() -> None:
    answers = Answers(b"old", b"old", b"new")
    keys, clock = some_keys(answers)
    old = await keys.of(Common(), a_credential())
    for _ in range(10):  # forged calls
        assert await keys.newer(Common(), a_credential(), old) is None
    assert answers.asked == 1, "it was fetched less than a minute ago"
    clock.forward(AGAIN_S + 1)
    assert await keys.newer(Common(), a_credential(), old) is None
    assert answers.asked == 2
    clock.forward(AGAIN_S + 1)
    assert await keys.newer(Common(), a_credential(), old) == ("new",)
    assert await keys.of(Common(), a_credential()) == ("new",)


async def test_keys_that_cannot_be_had_are_not_now_and_the_last_good_ones_serve_a_day() -> None:
    answers = Answers(None, b"good", None)
    keys, clock = some_keys(answers)
    with pytest.raises(Unavailable):
        await keys.of(Common(), a_credential())
    with pytest.raises(Unavailable):
        await keys.of(Common(), a_credential())
    assert answers.asked == 1, "forged calls do not make us ask more often than every two seconds"
    clock.forward(3)
    assert await keys.of(Common(), a_credential()) == ("good",)
    clock.forward(KEPT_S - 10)
    assert await keys.of(Common(), a_credential()) == ("good",)
    assert answers.asked == 3
    clock.forward(20)
    with pytest.raises(Unavailable):
        await keys.of(Common(), a_credential())
