"""Offers over real sockets: what is asked, for how long it is kept, and that nothing that charges ever leaves."""

import asyncio
import contextlib
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from service import providers
from service.conversation import Conversations, Stopped
from service.errors import Invalid, Missing, Unavailable
from service.facts import Cost
from service.offers import CATALOG_S, Offers
from service.providers import Call, Documented, Reply, Request
from service.states import Json
from tests.builders import HandClock
from tests.web.sandboxed import Sandboxed, running

pytestmark = pytest.mark.anyio

INPUT = {"audio_url": "https://media.example.com/a.mp3"}
LISTED = Documented(as_of="2026-08-01", data=({"name": "documented"},))


class Told(type(providers.load("peakmv"))):  # type: ignore[misc]
    """PeakMV's own file, with answers that a test gives."""

    catalogs: Mapping[str, Documented] = MappingProxyType({"models": LISTED, "voices": LISTED})
    live_catalogs = ("styles",)
    asked = 0

    def quote(self, call: Call) -> Generator[Request, Reply, Cost | None]:
        yield Request(
            method="POST", url=f"{call.base_url}/api/v2/generate", charges=True, headers=_key(call),
            body=b'{"audio_url": "https://media.example.com/a.mp3"}',
        )  # fmt: skip
        raise AssertionError("a reply came: it was sent")

    def catalog(self, call: Call, kind: str) -> Generator[Request, Reply, Sequence[Json] | None]:
        self.asked += 1
        if kind == "voices":
            return None
        reply = yield Request(method="GET", url=f"{call.base_url}/api/v2/jobs/{kind}", headers=_key(call))
        if kind == "styles":
            raise Unavailable("PeakMV lists no styles now")
        return [{"name": "live", "status": reply.status}]


def _key(call: Call) -> dict[str, str]:
    return {"Authorization": f"Bearer {call.api_key}", "Content-Type": "application/json"}


def offers(sandboxed: Sandboxed, provider: Any, clock: Any = None, name: str = "peakmv") -> Offers:
    context = sandboxed.context
    return Offers(
        accounts=context.accounts,
        providers={name: provider},
        conversations=Conversations(sandboxed.service.egress),
        settings=context.settings,
        clock=clock or context.clock,
    )


async def tenant(sandboxed: Sandboxed) -> int:
    return (await sandboxed.context.accounts.tenant("default")).num


async def test_a_quote_that_would_charge_is_never_sent(sandboxed: Sandboxed) -> None:
    with pytest.raises(Stopped):
        await offers(sandboxed, Told()).quote(await tenant(sandboxed), "peakmv", "generate", INPUT)
    assert await sandboxed.ledger("peakmv") == []
    charging = sandboxed.a_job({"provider": "peakmv", "operation": "generate", "input": INPUT})
    assert (await sandboxed.ended((await charging)["id"]))["status"] == "succeeded"
    assert len(await sandboxed.ledger("peakmv")) == 1  # the same request, sent as a job, is charged there


async def test_a_live_list_is_kept_for_ten_minutes(sandboxed: Sandboxed) -> None:
    told, clock = Told(), HandClock()
    asked = offers(sandboxed, told, clock)
    num = await tenant(sandboxed)
    first = await asked.catalog(num, "peakmv", "models")
    assert (first.source, list(first.data)) == ("live", [{"name": "live", "status": 404}])
    clock.pass_ms(int(CATALOG_S * 1000) - 1)
    assert await asked.catalog(num, "peakmv", "models") == first
    assert told.asked == 1
    clock.pass_ms(1)
    assert (await asked.catalog(num, "peakmv", "models")).as_of > first.as_of
    assert told.asked == 2


async def test_a_kind_without_a_live_list_is_as_documented(sandboxed: Sandboxed) -> None:
    found = await offers(sandboxed, Told()).catalog(await tenant(sandboxed), "peakmv", "voices")
    assert (found.source, found.as_of, found.data) == ("documented", LISTED.as_of, LISTED.data)


async def test_a_list_that_no_document_has_says_why_it_is_not_to_be_had(sandboxed: Sandboxed) -> None:
    told = Told()
    asked, num = offers(sandboxed, told), await tenant(sandboxed)
    for _ in range(3):
        with pytest.raises(Unavailable, match="no styles now"):
            await asked.catalog(num, "peakmv", "styles")
    assert told.asked == 1  # not asked again and again
    assert list(asked.kinds("peakmv")) == ["styles", "models", "voices"]


async def test_a_kind_that_there_is_not_names_those_there_are(sandboxed: Sandboxed) -> None:
    class Few(Told):
        def catalog(self, call: Call, kind: str) -> Generator[Request, Reply, Sequence[Json] | None]:
            yield from ()
            return None

    with pytest.raises(Missing, match="models, styles, voices"):
        await offers(sandboxed, Few()).catalog(await tenant(sandboxed), "peakmv", "hats")


async def test_without_a_credential_only_documents_speak(tmp_path: Path) -> None:
    async with running(tmp_path, CALLSHEET_SANDBOX_URL="") as service:
        told = Told()
        asked = Offers(
            accounts=service.context.accounts,
            providers={"peakmv": told},
            conversations=Conversations(service.egress),
            settings=service.context.settings,
            clock=service.context.clock,
        )
        num = (await service.context.accounts.tenant("default")).num
        assert (await asked.catalog(num, "peakmv", "models")).source == "documented"
        for work in (asked.quote(num, "peakmv", "generate", INPUT), asked.catalog(num, "peakmv", "styles")):
            with pytest.raises(Invalid) as refused:
                await work
            assert refused.value.code == "no_credential"


async def test_a_provider_that_hangs_is_given_up(tmp_path: Path) -> None:
    """A list of many pages, each quick enough for itself, takes no longer than one question may."""
    pages = 0

    class Endless(Told):
        def catalog(self, call: Call, kind: str) -> Generator[Request, Reply, Sequence[Json] | None]:
            while True:
                yield Request(method="GET", url=f"{call.base_url}/page", headers={})

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal pages
        with contextlib.closing(writer):
            while (await reader.readline()).strip():
                pass
            pages += 1
            await asyncio.sleep(0.5)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = {"CALLSHEET_PEAKMV_API_KEY": "k", "CALLSHEET_PEAKMV_BASE_URL": url}
    async with server, running(tmp_path, **settings) as service:
        sandboxed = Sandboxed(service, None)  # type: ignore[arg-type]
        began = asyncio.get_running_loop().time()
        found = await offers(sandboxed, Endless()).catalog(await tenant(sandboxed), "peakmv", "models")
        took = asyncio.get_running_loop().time() - began
        await sandboxed.http.aclose()
        await asyncio.sleep(0.6)  # the page that nobody waited for
    assert found.source == "documented"
    assert pages > 5 and 9 < took < 12
