"""Carrying out a verb: what is not known of one of its requests is not known of the whole."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from service.clock import SystemClock
from service.conversation import Conversations, Lease
from service.errors import Invalid, StoreUnavailable
from service.facts import NotNow, Unknown
from service.loops import UNLIMITED
from service.providers import Reply, Request
from tests.test_masking import FORMS
from tests.test_pipeline import receiving, status
from tests.web.sandboxed import running

pytestmark = pytest.mark.anyio
NOBODY = "http://127.0.0.1:1/closed"


def asked(first: Request, second: Request) -> Generator[Request, Reply, Any]:
    yield first
    yield second


@pytest.mark.parametrize("second_charges", [False, True])
@pytest.mark.parametrize("first_charges", [False, True])
async def test_what_was_not_sent_after_a_charge_is_no_leave_to_send_all_again(
    first_charges: bool, second_charges: bool, tmp_path: Path
) -> None:
    begun: list[Request] = []

    async def begin(request: Request) -> bool:
        begun.append(request)
        return True

    async def answer(path: str) -> bytes:
        return status(200)

    async with receiving(answer) as (receiver, url), running(tmp_path, CALLSHEET_PEAKMV_BASE_URL=url) as service:
        first = Request(method="POST", url=f"{url}/one", headers={}, charges=first_charges)
        second = Request(method="POST", url=NOBODY, headers={}, charges=second_charges)
        lease = Lease(None, UNLIMITED, SystemClock())
        verdict = await Conversations(service.egress).hold(asked(first, second), lease, begin)
        assert receiver.arrivals["/one"] == 1, "the first was not sent"
        assert len(begun) == first_charges + second_charges
        assert isinstance(verdict, Unknown if first_charges else NotNow), verdict


@pytest.mark.parametrize("charged_before", [False, True])
async def test_what_the_database_could_not_begin_was_not_sent(charged_before: bool, tmp_path: Path) -> None:
    async def begin(request: Request) -> bool:
        if request.url.endswith("/two"):
            raise StoreUnavailable("it restarts")
        return True

    async def answer(path: str) -> bytes:
        return status(200)

    async with receiving(answer) as (receiver, url), running(tmp_path, CALLSHEET_PEAKMV_BASE_URL=url) as service:
        first = Request(method="POST", url=f"{url}/one", headers={}, charges=charged_before)
        second = Request(method="POST", url=f"{url}/two", headers={}, charges=True)
        lease = Lease(None, UNLIMITED, SystemClock())
        verdict = await Conversations(service.egress).hold(asked(first, second), lease, begin)
        assert receiver.arrivals["/one"] == 1 and not receiver.arrivals["/two"]
        assert isinstance(verdict, Unknown if charged_before else NotNow), verdict


@pytest.mark.parametrize("place", ["closed", "refused"])
async def test_a_verb_goes_on_without_what_is_optional(place: str, tmp_path: Path) -> None:
    def verb(url: str) -> Generator[Request, Reply, list[int]]:
        seen = yield Request(method="GET", url=f"{url}/one", headers={})
        where = NOBODY if place == "closed" else f"{url}/refused"
        beside = yield Request(method="GET", url=where, headers={}, optional=True)
        last = yield Request(method="GET", url=f"{url}/three", headers={})
        return [seen.status, beside.status, last.status]

    async def answer(path: str) -> bytes:
        return status(503 if path == "/refused" else 200)

    async with receiving(answer) as (_, url), running(tmp_path, CALLSHEET_PEAKMV_BASE_URL=url) as service:
        found = await Conversations(service.egress).hold(verb(url), Lease(None, UNLIMITED, SystemClock()))
        assert found == [200, 503 if place == "refused" else 0, 200]


@pytest.mark.parametrize(
    "said", ["plain", "percent-encoded", "in JSON, every letter escaped", "base64 behind one byte"]
)
async def test_what_a_verb_makes_of_replies_tells_none_of_what_the_provider_was_told(said: str, tmp_path: Path) -> None:
    """Not in its verdict, nor in what is written down before it charges, nor in what it raises; it reads all of it."""
    key, secret = "sk-of-the-credential/0123", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    token = f"job_{'0' * 26}-{'a' * 26}"
    told = [FORMS[said](text).decode() for text in (key, secret, token)]
    heard: list[str] = []
    kept: list[Any] = []

    def verb(url: str, fails: bool) -> Generator[Request, Reply, Any]:
        headers = {"Authorization": f"Key {key}", "Accept": "application/json"}
        asked_for = f"{url}/one?fal_webhook=https%3A%2F%2Fus.example%2F{token}"
        reply = yield Request(method="GET", url=asked_for, headers=headers)
        heard.append(reply.body.decode())
        yield Request(method="POST", url=f"{url}/two", headers=headers, charges=True, keep={"name": heard[-1]})
        if fails:
            raise Invalid(f"the provider says {heard[-1]}")
        return Unknown(reason=heard[-1])

    async def begin(request: Request) -> bool:
        kept.append(request.keep)
        return True

    async def answer(path: str) -> bytes:
        body = " ".join(told).encode() if path.startswith("/one") else b""
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async with receiving(answer) as (_, url), running(tmp_path, CALLSHEET_PEAKMV_BASE_URL=url) as service:
        conversations = Conversations(service.egress, beside=lambda given: [secret] if given == key else [])
        lease = Lease(None, UNLIMITED, SystemClock())
        verdict = await conversations.hold(verb(url, False), lease, begin)
        with pytest.raises(Invalid) as refused:
            await conversations.hold(verb(url, True), lease, begin)
    assert heard == [" ".join(told)] * 2
    assert isinstance(verdict, Unknown)
    for text in (verdict.reason, kept[0]["name"], refused.value.detail, str(refused.value)):
        assert text.endswith(" ".join("*" * len(one) for one in told)), text
