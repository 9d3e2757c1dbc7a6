"""Outputs at their stable URLs, over real sockets: redirects, links made anew, bytes that only a key opens."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from msgspec.structs import replace

from service import providers
from service.app import Service, build
from service.errors import Unavailable
from service.facts import Accepted, Arrival, Begin, DeadlinePassed, Output, Update
from service.fetching import Asked, Fetching
from service.models import Job
from service.providers import Request
from service.settings import load
from service.states import JobStatus, Source
from service.web.server import create_web
from tests.keyed import KEY, Keyed, Server, content
from tests.test_masking import FORMS
from tests.web.conftest import ADMIN, environment

pytestmark = pytest.mark.anyio

KB, MB = 1024, 1024 * 1024
SIZE = 700_001


class World:
    """The service on a socket, the provider's server, and a client that follows nothing."""

    def __init__(self, service: Service, server: Server, url: str):
        self.service, self.context, self.server, self.url = service, service.context, server, url
        self.http = httpx2.AsyncClient(base_url=url, timeout=20)
        self.numbers = iter(range(1, 1000))

    async def admin(self, method: str, path: str, **more: Any) -> Any:
        response = await self.http.request(method, path, headers={"authorization": f"Bearer {ADMIN}"}, **more)
        assert response.status_code < 300, response.text
        return response.json() if response.content else None

    async def job(self, *outputs: Output, ids: int = 1) -> Job:
        """A job that succeeded with these outputs; with several ids, one of them under each."""
        made = await self.admin("POST", "/v1/jobs", json={"provider": "keyed", "operation": "paint", "input": {}})
        named = tuple(f"p{next(self.numbers)}" for _ in range(ids))
        job = await self.tell(made["id"], Begin(), Accepted(provider_job_ids=named))
        for place, name in enumerate(named):
            mine = outputs if ids == 1 else (outputs[place],)
            job = await self.tell(made["id"], Update(status=JobStatus.SUCCEEDED, outputs=mine), provider_job_id=name)
        return job

    async def tell(self, job_id: str, *facts: Any, **more: Any) -> Job:
        job = await self.context.store.job_by_id(job_id)
        assert job is not None
        for fact in facts:
            applied = await self.context.transitions.apply_one(
                Arrival(job=job.num, fact=fact, source=Source.SUBMIT, **more)
            )
            assert applied.verdict in ("applied", "late") and applied.job is not None, applied
            job = applied.job
        return job

    async def shown(self, job: Job) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.admin("GET", f"/v1/jobs/{job.id}"))["outputs"]
        return found

    async def stable(self, job: Job, place: int = 0) -> str:
        return str((await self.shown(job))[place]["stable_url"])

    async def open(self, job: Job, place: int = 0, method: str = "GET", query: str = "", **headers: str) -> Any:
        url = await self.stable(job, place)
        return await self.http.request(
            method, url + query, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    def keyed(self, behaviour: str, size: int = SIZE, **more: Any) -> Output:
        """At a URL of its own: what is learned of one is not known of another."""
        return Output(url=f"{self.server.url}/{behaviour}/{size}?{next(self.numbers)}", needs_key=True, **more)

    def plain(self, name: str = "1.mp4", **more: Any) -> Output:
        return Output(url=f"{self.server.url}/media/{name}", **more)

    def in_s(self, seconds: float) -> int:
        return self.context.clock.now() + int(seconds * 1000)


@asynccontextmanager
async def serving(tmp_path: Path, **more: str) -> AsyncIterator[World]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with Server().running() as server:
        provider = {"CALLSHEET_KEYED_BASE_URL": server.url, "CALLSHEET_KEYED_API_KEY": KEY}
        given = environment(tmp_path, CALLSHEET_PUBLIC_URL=url, **provider, **more)
        service = await build(load(given, known_providers=[*providers.names(), "keyed"]), role="api")
        service.context.providers["keyed"] = Keyed()  # type: ignore[index]
        app = create_web(service.context)
        web = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, lifespan="off"))
        task = asyncio.create_task(web.serve(sockets=[listener]))
        world = World(service, server, url)
        try:
            yield world
        finally:
            await world.http.aclose()
            web.should_exit = True
            await task
            await service.close()


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with serving(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture
def world(running: World) -> World:
    """The same service for every test, and a provider's server that knows nothing of earlier ones."""
    running.server.requests.clear()
    running.server.json.clear()
    running.server.left_early.clear()
    running.server.sent = 0
    return running


# -- stable URLs


async def test_every_output_has_one_in_the_job_and_in_its_event_and_it_stays(world: World) -> None:
    job = await world.job(world.plain("1.mp4"), world.plain("2.mp4"))
    urls = [output["stable_url"] for output in await world.shown(job)]
    assert len(set(urls)) == 2 and all(url.startswith(f"{world.url}/v1/outputs/output-{job.id}-") for url in urls)
    assert [output["stable_url"] for output in await world.shown(job)] == urls
    events = (await world.admin("GET", f"/v1/events?job={job.id}&type=job.succeeded"))["data"]
    assert [output["stable_url"] for output in events[0]["data"]["outputs"]] == urls
    listed = (await world.admin("GET", "/v1/jobs"))["data"][0]
    assert [output["stable_url"] for output in listed["outputs"]] == urls


async def test_what_comes_late_has_a_place_of_its_own(world: World) -> None:
    """A job of two ids past its deadline: the second's result was announced first, and keeps its URL."""
    first, second = world.plain("first.mp4"), world.plain("second.mp4")
    made = await world.admin("POST", "/v1/jobs", json={"provider": "keyed", "operation": "paint", "input": {}})
    await world.tell(made["id"], Begin(), Accepted(provider_job_ids=("a", "b")))
    await world.tell(made["id"], Update(status=JobStatus.SUCCEEDED, outputs=(second,)), provider_job_id="b")
    job = await world.tell(made["id"], DeadlinePassed())
    stable = await world.stable(job)
    job = await world.tell(made["id"], Update(status=JobStatus.SUCCEEDED, outputs=(first,)), provider_job_id="a")
    assert {output["url"] for output in await world.shown(job)} == {first.url, second.url}
    assert (await world.http.get(stable)).headers["location"] == second.url


async def test_a_link_that_lives_is_where_one_is_sent(world: World) -> None:
    for output in (world.plain(), world.plain(expires_at=world.in_s(60))):
        job = await world.job(output)
        for method in ("GET", "HEAD"):
            response = await world.open(job, method=method)
            assert (response.status_code, response.headers["location"]) == (302, output.url)
            assert response.content == b"" and response.headers["cache-control"] == "no-store"
    assert world.server.requests == []


@pytest.mark.parametrize(
    ("url", "location"),
    [("https://cdn.example/a b?c=d%20e&f='\"", "https://cdn.example/a%20b?c=d%20e&f='%22"),
     ("https://cdn.example/\r\nSet-Cookie: x=1", "https://cdn.example/%0D%0ASet-Cookie:%20x=1"),
     ("https://cdn.example/größe.mp4", "https://cdn.example/gr%C3%B6%C3%9Fe.mp4")],
)  # fmt: skip
async def test_a_link_is_a_header_and_nothing_more(world: World, url: str, location: str) -> None:
    response = await world.open(await world.job(Output(url=url)))
    assert (response.status_code, response.headers["location"]) == (302, location)
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("url", ["javascript:alert(1)", "file:///etc/passwd", "//evil.example/", "ftp://x/y", ""])
async def test_a_link_that_is_no_web_address_leads_nowhere(world: World, url: str) -> None:
    response = await world.open(await world.job(Output(url=url)))
    assert (response.status_code, response.json()["code"]) == (503, "output_unavailable")


async def test_a_url_that_was_not_made_here_opens_nothing(world: World) -> None:
    job = await world.job(world.plain())
    stable = await world.stable(job)
    vault = world.context.outputs._vault
    base = stable.rpartition("/")[0]
    other = stable[:-1] + ("a" if stable[-1] != "a" else "b")
    for url in (other, f"{base}/{vault.callback_token(job.id)}", f"{base}/x", f"{base}/output-{job.id}-0",
                f"{base}/{vault.callback_token(f'file-{job.id}-0')}"):  # fmt: skip
        response = await world.http.get(url)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_what_was_erased_is_gone_and_so_is_what_never_was(world: World) -> None:
    job = await world.job(world.plain())
    stable = await world.stable(job)
    await world.admin("DELETE", f"/v1/jobs/{job.id}/content")
    response = await world.http.get(stable)
    assert (response.status_code, response.json()["code"]) == (410, "content_erased")
    assert (await world.http.get(stable + "?refresh=1")).status_code == 410
    token = world.context.outputs._vault.callback_token(f"output-{job.id[:-1]}0-0")
    assert (await world.http.get(f"/v1/outputs/{token}")).status_code == 410


# -- links made anew


def said(output: Output, **changes: Any) -> dict[str, Any]:
    fields = {name: getattr(output, name) for name in ("url", "kind", "expires_at", "needs_key")}
    return {**fields, **changes}


async def test_a_link_that_has_ended_is_made_anew_and_kept(world: World) -> None:
    old = world.plain("old.mp4", expires_at=world.in_s(-1), width=640)
    job = await world.job(old)
    new = f"{world.server.url}/media/new.mp4"
    world.server.json[f"/status/{job.provider_job_ids[0]}"] = [said(old, url=new, expires_at=world.in_s(600))]
    events = len((await world.admin("GET", f"/v1/events?job={job.id}"))["data"])
    for _ in range(3):
        assert (await world.open(job)).headers["location"] == new
    assert len(world.server.asked("/status/")) == 1
    assert world.server.asked("/status/")[0]["authorization"] == f"Bearer {KEY}"
    shown = (await world.shown(job))[0]
    assert (shown["url"], shown["width"]) == (new, 640)
    stored = await world.context.store.job_by_id(job.id)
    assert stored is not None
    assert (stored.status, stored.sequence, stored.updated_at) == (job.status, job.sequence, job.updated_at)
    assert len((await world.admin("GET", f"/v1/events?job={job.id}"))["data"]) == events


async def test_a_link_about_to_end_is_made_anew_first(world: World) -> None:
    old = world.plain("old.mp4", expires_at=world.in_s(20))
    job = await world.job(old)
    world.server.json[f"/status/{job.provider_job_ids[0]}"] = [
        said(old, url="https://cdn.example/new", expires_at=None)
    ]
    assert (await world.open(job)).headers["location"] == "https://cdn.example/new"


async def test_who_asks_gets_a_newer_link_but_not_at_any_pace(world: World) -> None:
    old = world.plain("old.mp4")
    job = await world.job(old)
    path = f"/status/{job.provider_job_ids[0]}"
    world.server.json[path] = [said(old, url="https://cdn.example/1")]
    assert (await world.open(job)).headers["location"] == old.url
    responses = await asyncio.gather(*(world.open(job, query="?refresh=1") for _ in range(20)))
    assert {response.headers["location"] for response in responses} == {"https://cdn.example/1"}
    world.server.json[path] = [said(old, url="https://cdn.example/2")]
    assert (await world.open(job, query="?refresh=1")).headers["location"] == "https://cdn.example/1"
    assert len(world.server.asked("/status/")) == 1


async def test_a_provider_that_gives_no_newer_link_ends_it(world: World) -> None:
    old = world.plain("old.mp4", expires_at=world.in_s(-10))
    job = await world.job(old)
    world.server.json[f"/status/{job.provider_job_ids[0]}"] = [said(old)]
    for _ in range(2):
        response = await world.open(job)
        assert (response.status_code, response.json()["code"]) == (410, "result_expired")
    assert len(world.server.asked("/status/")) == 1
    gone = await world.job(old)
    world.server.json[f"/status/{gone.provider_job_ids[0]}"] = []
    assert (await world.open(gone)).status_code == 410


async def test_a_provider_that_cannot_be_asked_ends_nothing(world: World) -> None:
    job = await world.job(world.plain("old.mp4", expires_at=world.in_s(-10)))
    response = await world.open(job)  # its status answers 503
    assert (response.status_code, response.json()["code"]) == (503, "output_unavailable")
    assert response.headers["retry-after"]
    alive = await world.job(world.plain("still.mp4"))
    assert (await world.open(alive, query="?refresh=1")).headers["location"].endswith("still.mp4")


async def test_of_several_ids_each_link_is_asked_for_under_its_own(world: World) -> None:
    olds = [world.plain(f"{n}.mp4", expires_at=world.in_s(-1)) for n in range(3)]
    job = await world.job(*olds, ids=3)
    for n, name in enumerate(job.provider_job_ids):
        world.server.json[f"/status/{name}"] = [said(olds[n], url=f"https://cdn.example/{n}", expires_at=None)]
    for n in range(3):
        assert (await world.open(job, n)).headers["location"] == f"https://cdn.example/{n}"
    assert len(world.server.asked("/status/")) == 3


# -- what was in the provider's answer


async def test_data_is_given_as_what_it_is_and_runs_nowhere(world: World) -> None:
    png = b"\x89PNG\r\n\x1a\n" + b"x" * 500
    job = await world.job(
        Output(url="data:image/png;base64," + base64.b64encode(png).decode()),
        Output(url="data:text/html,%3Cscript%3Ealert(1)%3C/script%3E"),
        Output(url="data:image/svg+xml;charset=utf-8;base64," + base64.b64encode(b"<svg/>").decode().rstrip("=")),
        Output(url="data:,plain"),
    )
    image = await world.open(job)
    assert (image.status_code, image.content, image.headers["content-type"]) == (200, png, "image/png")
    page = await world.open(job, 1)
    assert page.content == b"<script>alert(1)</script>"
    assert (await world.open(job, 2)).content == b"<svg/>"
    assert (await world.open(job, 3)).headers["content-type"] == "application/octet-stream"
    for place in range(4):
        headers = (await world.open(job, place)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert headers["content-disposition"].startswith("inline" if place == 0 else "attachment")
    part = await world.open(job, range="bytes=0-3")
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"\x89PNG", "bytes 0-3/508")
    head = await world.open(job, method="HEAD")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "508")
    assert (await world.open(job, range="bytes=508-")).status_code == 416


@pytest.mark.parametrize("url", ["data:image/png;base64,@@@@", "data:", "data:image/png;base64"])
async def test_data_that_cannot_be_read(world: World, url: str) -> None:
    assert (await world.open(await world.job(Output(url=url)))).status_code == 503


# -- what only the key opens


@pytest.mark.parametrize("behaviour", ["ranges", "ignores", "unknown"])
async def test_the_whole_of_it(world: World, behaviour: str) -> None:
    job = await world.job(world.keyed(behaviour, file_name="a film.mp4"))
    response = await world.open(job)
    assert (response.status_code, response.content) == (200, content(0, SIZE))
    headers = response.headers
    assert headers.get("content-length") == (None if behaviour == "unknown" else str(SIZE))
    assert (headers["content-type"], headers["etag"], headers["accept-ranges"]) == ("video/mp4", '"e1"', "bytes")
    assert headers["content-disposition"] == 'inline; filename="a film.mp4"'
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert KEY not in str(headers) and "authorization" not in headers


@pytest.mark.parametrize("form", ["plain", "percent-encoded, every byte", "in JSON, every letter escaped", "base64"])
@pytest.mark.parametrize("part", ["bytes=0-", "bytes=2-", ""])
async def test_a_result_that_tells_the_key_is_passed_on_without_it(world: World, form: str, part: str) -> None:
    told = FORMS[form](KEY).decode()
    world.server.json["/told/0"] = {"prefix": "x" * 70_000, "seen": told}
    response = await world.open(await world.job(world.keyed("told", 0)), **({"range": part} if part else {}))
    whole = json.dumps({"prefix": "x" * 70_000, "seen": "*" * len(json.dumps(told)[1:-1])}).encode()
    assert response.content == whole[2 if part == "bytes=2-" else 0 :]


PARTS = {
    "the beginning": ("bytes=0-99", 0, 100), "the first byte": ("bytes=0-0", 0, 1),
    "the middle": ("bytes=300000-599999", 300_000, 600_000), "to its end": ("bytes=400000-", 400_000, SIZE),
    "its last bytes": ("bytes=-5", SIZE - 5, SIZE), "beyond its end": (f"bytes=700000-{SIZE + 9}", 700_000, SIZE),
    "more than there is": (f"bytes=0-{SIZE * 2}", 0, SIZE), "more than its end": (f"bytes=-{SIZE * 2}", 0, SIZE),
    "its last byte": (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("behaviour", ["ranges", "ignores"])
async def test_a_part_of_it(world: World, behaviour: str, part: str) -> None:
    asked, start, end = PARTS[part]
    response = await world.open(await world.job(world.keyed(behaviour)), range=asked)
    assert (response.status_code, response.headers["content-length"]) == (206, str(end - start))
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert response.content == content(start, end)
    assert world.server.asked(f"/{behaviour}")[0]["range"] == asked.replace(" ", "")


@pytest.mark.parametrize("part", sorted(set(PARTS) - {"more than there is"}))
async def test_a_part_of_what_has_no_known_length(world: World, part: str) -> None:
    asked, start, end = PARTS[part]
    job = await world.job(world.keyed("unknown"))
    response = await world.open(job, range=asked)
    assert (response.status_code, response.content) == (206, content(start, end))
    assert response.headers["content-range"] in (f"bytes {start}-{end - 1}/{SIZE}", f"bytes {start}-{end - 1}/*")
    again = await world.open(job, range="bytes=-1")  # its length is learned, at the latest now
    assert again.headers["content-range"] == f"bytes {SIZE - 1}-{SIZE - 1}/{SIZE}"
    before = len(world.server.requests)
    exact = await world.open(job, range=asked)
    assert exact.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert len(world.server.requests) == before + 1


async def test_all_of_what_has_no_known_length_needs_no_measuring(world: World) -> None:
    job = await world.job(world.keyed("unknown"))
    response = await world.open(job, range="bytes=0-")
    assert (response.status_code, response.content) == (200, content(0, SIZE))
    assert len(world.server.asked("/unknown")) == 1


async def test_a_part_that_ends_before_it_was_said_to_is_cut_and_the_next_is_exact(world: World) -> None:
    """Nobody can know where it ends before it ends: what was promised and does not come breaks the connection."""
    job = await world.job(world.keyed("unknown"))
    asked = f"bytes=0-{SIZE * 2}"
    with pytest.raises(httpx2.RemoteProtocolError):
        await world.open(job, range=asked)
    response = await world.open(job, range=asked)
    assert (response.status_code, response.headers["content-range"]) == (206, f"bytes 0-{SIZE - 1}/{SIZE}")


@pytest.mark.parametrize("behaviour", ["ranges", "ignores", "unknown"])
async def test_a_part_that_begins_beyond_the_end(world: World, behaviour: str) -> None:
    response = await world.open(await world.job(world.keyed(behaviour)), range=f"bytes={SIZE}-{SIZE + 5}")
    assert (response.status_code, response.json()["code"]) == (416, "range_not_satisfiable")
    assert response.headers["content-range"] == f"bytes */{SIZE}"


async def test_head_says_what_it_is(world: World) -> None:
    for behaviour, length in (("ranges", str(SIZE)), ("ignores", str(SIZE)), ("unknown", None)):
        response = await world.open(await world.job(world.keyed(behaviour)), method="HEAD", range="bytes=0-5")
        assert (response.status_code, response.content) == (200, b"")
        assert (response.headers.get("content-length"), response.headers["content-type"]) == (length, "video/mp4")


async def test_a_client_with_another_copy_gets_the_whole(world: World) -> None:
    response = await world.open(await world.job(world.keyed("ignores")), range="bytes=0-9", if_range='"e0"')
    assert (response.status_code, len(response.content)) == (200, SIZE)
    assert world.server.asked("/ignores")[0]["if-range"] == '"e0"'


async def test_several_ranges_are_the_whole(world: World) -> None:
    response = await world.open(await world.job(world.keyed("ranges")), range="bytes=0-1,5-6")
    assert (response.status_code, len(response.content)) == (200, SIZE)
    assert "range" not in world.server.asked("/ranges")[0]


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [("302", 503, "output_unavailable"), ("307", 503, "output_unavailable"), ("403", 503, "output_unavailable"),
     ("404", 410, "result_expired"), ("410", 410, "result_expired"), ("429", 503, "output_unavailable"),
     ("500", 503, "output_unavailable"), ("wrong", 503, "output_unavailable"), ("204", 503, "output_unavailable")],
)  # fmt: skip
async def test_what_the_provider_answers_otherwise(world: World, behaviour: str, status: int, code: str) -> None:
    response = await world.open(await world.job(world.keyed(behaviour)), range="bytes=5-9")
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert KEY not in response.text and "location" not in response.headers
    assert len(world.server.requests) == 1  # no redirect is followed


async def test_a_provider_that_is_not_there(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        job = await world.job(world.keyed("ranges"))
        await world.server.stop()
        response = await world.open(job)
        assert (response.status_code, response.json()["code"]) == (503, "output_unavailable")


async def test_the_key_goes_nowhere_but_to_the_providers_own_origin(world: World) -> None:
    async with Server().running() as evil:
        host = evil.url.removeprefix("http://")
        own = world.server.url.removeprefix("http://")
        for url in (f"{evil.url}/ranges/9", f"http://{own}@{host}/ranges/9", f"http://localhost:{own.split(':')[1]}/x",
                    f"https://{own}/ranges/9", f"http://{host}/?x={own}", "file:///etc/passwd"):  # fmt: skip
            response = await world.open(await world.job(Output(url=url, needs_key=True)))
            assert (response.status_code, response.json()["code"]) == (503, "output_unavailable"), url
            assert KEY not in response.text
        assert evil.requests == [] and world.server.requests == []


async def test_a_page_is_saved_and_never_shown(world: World) -> None:
    response = await world.open(await world.job(world.keyed("page", file_name="a.html")))
    assert response.headers["content-disposition"] == 'attachment; filename="a.html"'
    assert response.headers["content-security-policy"] == "sandbox; default-src 'none'"


async def test_what_breaks_off_is_not_taken_for_the_whole(world: World) -> None:
    with pytest.raises(httpx2.RemoteProtocolError):
        await world.open(await world.job(world.keyed("short")))
    assert (await world.http.get("/health")).status_code == 200


@asynccontextmanager
async def connected(world: World, url: str, asked: str = "") -> AsyncIterator[asyncio.StreamReader]:
    """A client that reads when the test does, and is gone at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rpartition(":")[2]))
    head = f"GET {url.removeprefix(world.url)} HTTP/1.1\r\nHost: x\r\n" + (f"Range: {asked}\r\n" if asked else "")
    writer.write(f"{head}\r\n".encode())
    yield reader
    writer.close()


async def test_a_client_that_leaves_ends_the_request_at_the_provider(world: World) -> None:
    job = await world.job(world.keyed("ignores", 500 * MB), world.keyed("unknown", 500 * MB))
    for place, asked in ((0, ""), (0, "bytes=1000000-"), (1, "")):
        sent = world.server.sent
        url = await world.stable(job, place)
        async with connected(world, url, asked) as reader:
            assert (await reader.readline()).split()[1] in (b"200", b"206")
            await reader.readexactly(100_000)
        async with asyncio.timeout(20):
            await world.server.left_early.wait()
        world.server.left_early.clear()
        assert world.server.sent - sent < 100 * MB
    assert world.context.outputs._fetching._streams == {}


async def test_a_client_that_does_not_read_stops_the_provider(world: World) -> None:
    job = await world.job(world.keyed("ignores", 500 * MB))
    url = await world.stable(job)
    async with connected(world, url):
        before = -1
        async with asyncio.timeout(20):
            while before != world.server.sent:  # until what lies between is full
                before = world.server.sent
                await asyncio.sleep(0.5)
        await asyncio.sleep(0.3)
        assert world.server.sent == before < 64 * MB


async def test_only_so_many_are_read_at_a_time(world: World) -> None:
    fetching = Fetching(world.service.egress, most=4)
    request = Request(method="GET", url=f"{world.server.url}/ranges/9", headers={"Authorization": f"Bearer {KEY}"})
    first = await fetching.open(request, "a", Asked(), tenant=1)
    with pytest.raises(Unavailable) as refused:  # of one tenant a quarter, so that its readers keep nobody waiting
        await fetching.open(request, "a", Asked(), tenant=1)
    assert refused.value.code == "output_unavailable" and refused.value.retry_after
    others = [await fetching.open(request, "a", Asked(), tenant=tenant) for tenant in (2, 3, 4)]
    with pytest.raises(Unavailable):
        await fetching.open(request, "a", Asked(), tenant=5)
    await first.body.aclose()  # type: ignore[union-attr]
    again = await fetching.open(request, "a", Asked(), tenant=1)
    assert b"".join([chunk async for chunk in again.body]) == content(0, 9)  # type: ignore[union-attr]
    for opened in (*others, again):
        await opened.body.aclose()  # type: ignore[union-attr]


async def test_a_share_link_is_given_where_the_credential_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path, CALLSHEET_KEYED_SHARE="true") as world:
        world.server.json["/share"] = {"url": "https://keyed.example/shared?token=1"}
        job = await world.job(world.keyed("ranges"))
        for _ in range(3):
            response = await world.open(job)
            assert (response.status_code, response.headers["location"]) == (302, "https://keyed.example/shared?token=1")
        assert len(world.server.asked("/share")) == 1 and world.server.asked("/ranges") == []


async def test_without_a_share_link_it_comes_through_us(tmp_path: Path) -> None:
    async with serving(tmp_path, CALLSHEET_KEYED_SHARE="1") as world:
        job = await world.job(world.keyed("ranges", 10))  # its server shares nothing
        assert (await world.open(job)).content == content(0, 10)


async def test_a_keyed_output_that_has_ended_is_asked_for_anew_too(world: World) -> None:
    old = world.keyed("404", expires_at=world.in_s(-1))
    job = await world.job(old)
    world.server.json[f"/status/{job.provider_job_ids[0]}"] = [said(world.keyed("ranges", 9), expires_at=None)]
    assert (await world.open(job)).content == content(0, 9)


async def test_no_token_stands_in_what_is_logged() -> None:
    from service.crypto import redact

    vault_tag = "a" * 26
    for path in (
        f"/v1/outputs/output-job_01-0-{vault_tag}",
        f"/v1/files/content/file-file_01-1800000000000-{vault_tag}",
    ):
        assert vault_tag not in redact(f'127.0.0.1 - "GET {path} HTTP/1.1" 200')
        assert vault_tag not in redact(f"token {path.rpartition('/')[2]} was used")


async def test_the_output_in_the_store_is_what_the_job_shows(world: World) -> None:
    """What a link is made anew from is the part's own update: both say the same afterwards."""
    old = world.plain("old.mp4", expires_at=world.in_s(-1))
    job = await world.job(old)
    world.server.json[f"/status/{job.provider_job_ids[0]}"] = [said(old, url="https://cdn.example/n", expires_at=None)]
    await world.open(job)
    stored = await world.context.store.job_by_id(job.id)
    assert stored is not None and stored.detail.parts[0].update is not None
    assert stored.detail.parts[0].update.outputs == stored.detail.outputs
    assert stored.detail.outputs == (replace(old, url="https://cdn.example/n", expires_at=None),)
