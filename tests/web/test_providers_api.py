"""A tenant's own credentials, quotes, balances and catalogs over HTTP."""

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.app import Service
from service.facts import Arrival, Begin
from service.models import Announcement
from service.states import Source
from service.web import answers_money as answers
from tests.builders import HandClock
from tests.web.conftest import ADMIN, DONE, INPUT, PIXVERSE, Client
from tests.web.sandboxed import Sandboxed, calling, running
from tests.web.served import Served
from tests.web.shapes import has_exactly

pytestmark = pytest.mark.anyio

LATER = 2_000_000_000_000  # than anything was resumed
KEY, SECRET, NUMBER = "key-canary-83f1", "secret-canary-27aa", "id-canary-55d0"
GIVEN = {"api_key": KEY, "callback_secret": SECRET, "callback_id": NUMBER}
PLACE = "/v1/providers/pixverse/credentials"
OTHER = {"callsheet-tenant": "acme"}


async def current(service: Service, tenant: str = "default", provider: str = "pixverse") -> Any:
    accounts = service.context.accounts
    return await accounts.credential((await accounts.tenant(tenant)).num, provider)


def written(folder: Path) -> bytes:
    """Every byte of the database, its log included, but not the key file."""
    return b"".join(file.read_bytes() for file in folder.glob("callsheet.db*") if file.suffix != ".key")


# -- credentials


async def test_a_credential_is_written_and_never_shown(call: Any, tmp_path: Path) -> None:
    response = await call("PUT", PLACE, json=GIVEN)
    made = response.json()
    assert response.status_code == 200
    has_exactly(made, answers.Credential)
    assert (made["provider"], made["source"]) == ("pixverse", "api")
    assert made["callback_url"] == "http://127.0.0.1:8080/v1/callbacks/pixverse"
    assert made["paused_at"] is made["paused_reason"] is None
    shown = await call("GET", PLACE)
    assert shown.json() == made
    for text in (response.text, shown.text, str(await current(call.service))):
        assert not any(canary in text for canary in GIVEN.values())
    opened = await current(call.service)
    assert (opened.api_key, opened.callback_secret, opened.callback_id) == (KEY, SECRET, NUMBER)
    stored = written(tmp_path)
    assert b"pixverse" in stored and not any(canary.encode() in stored for canary in GIVEN.values())


async def test_the_given_one_comes_before_the_environments_and_the_sandboxs(tmp_path: Path) -> None:
    environment = {
        "CALLSHEET_PIXVERSE_API_KEY": "of-the-environment",
        "CALLSHEET_PIXVERSE_BASE_URL": "https://own.example",
    }
    async with running(tmp_path, **environment) as service:
        call = Client(service)
        assert [(await call.ok("GET", PLACE))["source"], (await current(service)).api_key] == [
            "environment",
            "of-the-environment",
        ]
        await call.ok("PUT", PLACE, json=GIVEN)
        opened = await current(service)
        assert (opened.source, opened.api_key, opened.base_url) == ("api", KEY, "https://own.example")
        assert (await call("DELETE", PLACE)).status_code == 204
        assert (await current(service)).source == "environment"
        await call.refused(404, "not_found", "DELETE", PLACE)
        assert (await current(service, provider="peakmv")).source == "sandbox"
        await call.http.aclose()


async def test_a_given_key_works_at_the_providers_public_address(call: Any) -> None:
    assert (await current(call.service)).base_url == "http://127.0.0.1:9/pixverse"  # the sandbox's
    await call.ok("PUT", PLACE, json={"api_key": KEY})
    opened = await current(call.service)
    assert opened.base_url == call.context.providers["pixverse"].base_url
    assert (opened.callback_secret, opened.callback_id) == (None, None)
    assert not call.context.accounts.is_sandbox(opened.num)


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"base_url": "https://evil.example"}, "unknown_field", "base_url"),  # our key would go there
        ({"options": {}}, "unknown_field", "options"),
        ({"api_key": None}, "invalid", "api_key"),
        ({"api_key": ""}, "invalid", "api_key"),
        ({"api_key": "with space"}, "invalid", "api_key"),
        ({"api_key": "a\r\nX-Injected: 1"}, "invalid", "api_key"),
        ({"api_key": "ключ"}, "invalid", "api_key"),
        ({"api_key": "k" * 1001}, "invalid", "api_key"),
        ({"callback_secret": ""}, "invalid", "callback_secret"),
        ({"callback_secret": "a\nb"}, "invalid", "callback_secret"),
        ({"callback_id": 7}, "invalid", "callback_id"),
    ],
)
async def test_a_credential_that_is_none(call: Any, change: Any, code: str, param: str) -> None:
    response = await call("PUT", PLACE, json={**GIVEN, **change})
    assert (response.status_code, response.json()["code"], response.json()["param"]) == (422, code, param)
    assert KEY not in response.text
    assert (await call.ok("GET", PLACE))["source"] == "sandbox"


async def test_a_tenant_has_its_own_and_a_url_that_names_it(call: Any) -> None:
    await call.ok("POST", "/v1/tenants", json={"name": "acme"})
    made = await call.ok("PUT", PLACE, json=GIVEN, headers=OTHER)
    assert (await current(call.service, "acme")).api_key == KEY
    assert (await current(call.service)).source == "sandbox"
    path = made["callback_url"].removeprefix("http://127.0.0.1:8080")
    assert path.startswith("/v1/callbacks/pixverse/credential-")
    await call.refused(401, "bad_signature", "POST", path, key=None, content=b"{}")  # known, and not signed
    await call.refused(404, "unknown_callback_url", "POST", path[:-1], key=None, content=b"{}")
    assert (await call.ok("GET", "/v1/providers/peakmv/credentials", headers=OTHER))["callback_url"] is None


async def test_only_who_may_writes_credentials(call: Any) -> None:
    key = await call.a_key("credentials:write")
    await call.ok("PUT", PLACE, json=GIVEN, key=key)
    await call.ok("GET", PLACE, key=key)
    ordinary = await call.a_key("jobs:write", "providers:read", "secrets:write")
    for method in ("PUT", "GET", "DELETE"):
        await call.refused(403, "forbidden", method, PLACE, key=ordinary)
    assert "credentials:write" not in (await call.ok("GET", "/v1/keys"))["data"][0]["scopes"]
    await call.refused(404, "not_found", "PUT", "/v1/providers/nobody/credentials", json=GIVEN)


async def test_there_is_none_where_nobody_gave_one(tmp_path: Path) -> None:
    async with running(tmp_path, CALLSHEET_SANDBOX_URL="") as service:
        call = Client(service)
        said = await call.refused(404, "not_found", "GET", PLACE)
        assert "PUT /v1/providers/pixverse/credentials" in said["detail"]
        await call.refused(422, "no_credential", "POST", "/v1/jobs", json=PIXVERSE)
        await call.ok("PUT", PLACE, json=GIVEN)
        await call.a_job()
        await call.http.aclose()


async def test_another_process_sees_it_within_seconds(tmp_path: Path) -> None:
    async with running(tmp_path) as here, running(tmp_path) as there:
        call = Client(here)

        async def seen(source: str) -> Any:
            ends = time.monotonic() + 15
            while (found := await current(there)).source != source:
                assert time.monotonic() < ends, found
                await asyncio.sleep(0.05)
            return found

        await call.ok("PUT", PLACE, json=GIVEN)
        assert (await seen("api")).api_key == KEY
        await call.ok("PUT", PLACE, json={"api_key": "the-next-key"})
        ends = time.monotonic() + 15
        while (await current(there)).api_key != "the-next-key":
            assert time.monotonic() < ends
            await asyncio.sleep(0.05)
        await call.ok("DELETE", PLACE)
        await seen("sandbox")
        await call.http.aclose()


async def test_what_is_written_in_the_same_millisecond_is_seen_too(tmp_path: Path) -> None:
    still, clock = HandClock(), HandClock()
    async with running(tmp_path, clock=still) as here, running(tmp_path, clock=clock) as there:
        call = Client(here)
        for provider in ("pixverse", "peakmv"):  # it reads between the two
            await call.ok("PUT", f"/v1/providers/{provider}/credentials", json=GIVEN)
            clock.pass_ms(1_000)
            assert (await current(there, provider=provider)).source == "api"
        await call.http.aclose()


async def test_a_given_key_goes_where_the_settings_say_now(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        call = Client(service)
        await call.ok("PUT", PLACE, json=GIVEN)
        await call.http.aclose()
    async with running(tmp_path, CALLSHEET_PIXVERSE_BASE_URL="https://moved.example") as service:
        opened = await current(service)
        assert (opened.source, opened.api_key, opened.base_url) == ("api", KEY, "https://moved.example")


async def test_what_a_job_names_is_there_at_once_in_another_process(tmp_path: Path) -> None:
    async with running(tmp_path) as here, running(tmp_path) as there:
        call = Client(here)
        await current(there)  # it has read just now
        await call.ok("PUT", PLACE, json=GIVEN)
        num = (await current(here)).num
        found = await there.context.accounts.credential_by_number(num)
        assert found is not None and found.api_key == KEY
        await call.http.aclose()


async def test_jobs_go_on_with_a_key_that_was_replaced_or_deleted(call: Any) -> None:
    await call.ok("PUT", PLACE, json=GIVEN)
    job = await call.a_processing_job()
    num = (await call.context.store.job_by_id(job["id"])).credential
    await call.ok("PUT", PLACE, json={"api_key": "the-next-key"})
    assert (await call.context.accounts.credential_by_number(num)).api_key == "the-next-key"
    assert (await current(call.service)).num == num
    await call.ok("DELETE", PLACE)
    assert (await current(call.service)).num != num
    assert (await call.context.accounts.credential_by_number(num)).api_key == "the-next-key"
    await call.tell(job["id"], DONE)
    await call.ok("PUT", PLACE, json=GIVEN)
    assert (await current(call.service)).num == num


async def test_a_key_given_again_ends_a_pause(call: Any) -> None:
    await call.ok("PUT", PLACE, json=GIVEN)
    said = Announcement(type="credential.paused", body=b"{}", data={})
    paused = await call.context.store.pause_credential(await current(call.service), "out_of_credit", said, LATER)
    assert paused is not None
    shown = await call.ok("GET", PLACE)
    assert shown["paused_reason"] == "out_of_credit" and shown["paused_at"] is not None
    assert (await call.ok("PUT", PLACE, json=GIVEN))["paused_at"] is None
    assert await call.context.store.paused_credentials() == {}


async def test_a_restart_does_not_end_a_pause_of_an_unchanged_key(tmp_path: Path) -> None:
    said = Announcement(type="credential.paused", body=b"{}", data={})
    key = {"CALLSHEET_PIXVERSE_API_KEY": "of-the-environment"}
    async with running(tmp_path, **key) as service:
        paused = await service.context.store.pause_credential(await current(service), "authentication", said, LATER)
        assert paused is not None
    async with running(tmp_path, **key) as service:
        assert list((await service.context.store.paused_credentials()).values()) == ["authentication"]
    async with running(tmp_path, CALLSHEET_PIXVERSE_API_KEY="another") as service:
        assert await service.context.store.paused_credentials() == {}
        assert (await current(service)).api_key == "another"


# -- quotes, balances, catalogs


async def test_a_price_that_is_documented_is_quoted(call: Any) -> None:
    body = {"operation": "text_to_video", "input": INPUT}
    quote = await call.ok("POST", "/v1/providers/pixverse/quote", json=body)
    has_exactly(quote, answers.Quote)
    assert quote == {"cost": {"amount": "45", "unit": "credits", "source": "quoted"}, "reason": None}
    assert (await call.ok("GET", "/v1/jobs"))["data"] == []


async def test_a_price_that_nobody_says_is_not_guessed(call: Any) -> None:
    body = {"operation": "text_to_video", "input": {**INPUT, "model": "v99-of-the-future"}}
    quote = await call.ok("POST", "/v1/providers/pixverse/quote", json=body)
    assert quote["cost"] is None and "no price" in quote["reason"]


@pytest.mark.parametrize(
    ("provider", "body", "status", "param"),
    [
        ("pixverse", {"operation": "text_to_video", "input": {**INPUT, "duration": "5"}}, 422, "input.duration"),
        ("pixverse", {"operation": "nothing", "input": {}}, 422, "operation"),
        ("pixverse", {"operation": "text_to_video"}, 422, "input"),
        ("pixverse", {"operation": "text_to_video", "input": INPUT, "provider": "x"}, 422, "provider"),
        ("nobody", {"operation": "text_to_video", "input": INPUT}, 404, "provider"),
    ],
)
async def test_a_question_that_cannot_be_asked(call: Any, provider: str, body: Any, status: int, param: str) -> None:
    response = await call("POST", f"/v1/providers/{provider}/quote", json=body)
    assert (response.status_code, response.json()["param"]) == (status, param), response.text


async def test_the_providers_own_quote_wins_and_its_documents_stand_in(sandboxed: Sandboxed, call: Any) -> None:
    body = {"operation": "generate", "input": {"prompt": "a cat", "model": "animatediff", "frames": 41, "steps": 4}}
    path = "/v1/providers/progressiverobot/quote"
    own = await sandboxed.ok("POST", path, json=body)
    assert own["cost"]["source"] == "quoted" and own["reason"] is None
    documented = await call.ok("POST", path, json=body)  # its sandbox is not there
    assert documented["cost"]["unit"] == own["cost"]["unit"]
    assert "could not be asked" in documented["reason"] and "documents" in documented["reason"]


async def test_a_balance_is_told_in_the_providers_unit(sandboxed: Sandboxed) -> None:
    await sandboxed.control("PUT", "pixverse", "account", credits=1234.5)
    balance = await sandboxed.ok("GET", "/v1/providers/pixverse/balance")
    has_exactly(balance, answers.Balance)
    assert (balance["amount"], balance["unit"]) == ("1234.5", "credits")
    assert balance["provider_data"]["account_id"] == 1
    said = await sandboxed.refused(422, "no_balance", "GET", "/v1/providers/peakmv/balance")
    assert "dashboard" in said["detail"]


async def test_a_provider_that_is_not_there_is_a_503_that_says_when(call: Any) -> None:
    response = await call("GET", "/v1/providers/pixverse/balance")
    assert (response.status_code, response.json()["code"]) == (503, "provider_unavailable")
    assert int(response.headers["retry-after"]) > 0


async def test_catalogs_are_listed_and_read(call: Any, sandboxed: Sandboxed) -> None:
    path = "/v1/providers/progressiverobot/catalog"
    kinds = (await call.ok("GET", path))["data"]
    has_exactly(kinds[0], answers.CatalogKind)
    assert {row["kind"] for row in kinds} >= {"models", "voices", "tiers"}
    documented = await call.ok("GET", f"{path}/models")  # its sandbox is not there
    has_exactly(documented, answers.Catalog)
    assert documented["source"] == "documented" and len(documented["data"]) > 10
    live = await sandboxed.ok("GET", f"{path}/models")
    assert live["source"] == "live" and live["as_of"].endswith("Z") and live["data"]
    said = await call.refused(404, "not_found", "GET", f"{path}/hats")
    assert said["param"] == "kind" and "tiers" in said["detail"]
    await call.refused(404, "not_found", "GET", "/v1/providers/nobody/catalog")


async def test_documented_lists_need_no_credential(tmp_path: Path) -> None:
    async with running(tmp_path, CALLSHEET_SANDBOX_URL="") as service:
        call = Client(service)
        assert (await call.ok("GET", "/v1/providers/aimlapi/catalog/models"))["source"] == "documented"
        body = {"operation": "text_to_video", "input": INPUT}
        assert (await call.ok("POST", "/v1/providers/pixverse/quote", json=body))["cost"]["amount"] == "45"
        await call.refused(422, "no_credential", "GET", "/v1/providers/pixverse/balance")
        await call.refused(422, "no_balance", "GET", "/v1/providers/peakmv/balance")
        await call.http.aclose()


async def test_a_given_key_is_used_from_the_next_job_on(sandboxed: Sandboxed, tmp_path: Path, sandbox_url: str) -> None:
    """Against the sandbox at the provider's address: its key is wrong, then right."""
    settings = {"CALLSHEET_PEAKMV_BASE_URL": f"{sandbox_url}/peakmv"}
    body = {"provider": "peakmv", "operation": "generate", "input": {"audio_url": "https://media.example.com/a.mp3"}}
    place = "/v1/providers/peakmv/credentials"
    (tmp_path / "other").mkdir()
    async with calling(tmp_path / "other", sandbox_url, **settings) as call:
        await call.ok("PUT", place, json={"api_key": "wrong"})
        refused = await call.a_job(body)
        await call.ok("POST", "/internal/tick", json={"budget_seconds": 30})
        waits = await call.ok("GET", f"/v1/jobs/{refused['id']}")
        assert (waits["status"], waits["reason"]) == ("queued", "credential_paused: authentication")
        assert await call.ledger("peakmv") == []
        await call.ok("PUT", place, json={"api_key": "sandbox"})
        job = await call.a_job(body)
        async with asyncio.timeout(30):
            while len(await call.ledger("peakmv")) < 2:
                await call.ok("POST", "/internal/tick", json={"budget_seconds": 30})
                await asyncio.sleep(0.1)
        for made in (refused, job):
            assert (await call.ok("GET", f"/v1/jobs/{made['id']}"))["status"] == "processing"


def test_a_tenants_own_callback_url_moves_its_jobs(tmp_path: Path, sandbox_url: str) -> None:
    """Registered as the answer says, the provider's signed callback ends the tenant's job long before a poll is due."""
    with ExitStack() as ends:
        http = ends.enter_context(httpx2.Client(timeout=60, headers={"authorization": f"Bearer {ADMIN}", **OTHER}))
        served = Served(tmp_path, CALLSHEET_PIXVERSE_BASE_URL=f"{sandbox_url}/pixverse")
        ends.enter_context(served.running(sandbox_url))
        http.post(f"{served.url}/v1/tenants", json={"name": "acme"}, headers={"callsheet-tenant": "default"})
        given = {"api_key": "sandbox", "callback_secret": SECRET, "callback_id": "acme-1"}
        made = http.put(f"{served.url}{PLACE}", json=given).json()
        target = {"webhook_id": "acme-1", "url": made["callback_url"], "secret": SECRET}
        assert http.put(f"{sandbox_url}/_sandbox/pixverse/callbacks", json=target).status_code == 200
        job = http.post(f"{served.url}/v1/jobs", json=PIXVERSE).json()
        assert http.post(f"{served.url}/internal/tick", json={"budget_seconds": 60}).json()["ran"]
        place = f"{served.url}/v1/jobs/{job['id']}"
        assert http.get(place, headers={"prefer": "wait=20"}).json()["status"] == "succeeded"
        timeline = http.get(f"{place}/timeline").json()["data"]
    assert [entry["verdict"] for entry in timeline if entry["kind"] == "callback"] == ["verified"]
    assert not [entry for entry in timeline if entry["kind"] == "poll"]


async def test_what_waits_under_a_refused_key_goes_on_with_the_one_that_is_given(call: Any) -> None:
    """It was not sent, so that nothing binds it to the key from the settings."""
    context = call.context
    tenant = await context.accounts.tenant("default")
    before = await context.accounts.credential(tenant.num, "pixverse")
    waits, sent = [await context.store.job_by_id((await call.a_job())["id"]) for _ in "ab"]
    started = Arrival(job=sent.num, fact=Begin(), source=Source.SUBMIT)
    assert (await context.transitions.apply_one(started)).verdict == "applied"
    await context.store.pause_credential(before, "authentication", Announcement(type="x", body=b"{}", data={}), LATER)
    await call.ok("PUT", "/v1/providers/pixverse/credentials", json={"api_key": "mended"})
    after = await context.accounts.credential(tenant.num, "pixverse")
    assert after.num != before.num
    assert (await context.store.job_by_number(waits.num)).credential == after.num
    assert (await context.store.job_by_number(sent.num)).credential == before.num
    assert (await call.ok("GET", f"/v1/jobs/{waits.id}"))["reason"] is None
