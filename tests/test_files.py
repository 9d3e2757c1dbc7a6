"""The stage of files: what an input may name, what goes to a provider, and uploads that break, wait or crowd."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from service import media, providers
from service.app import Service, build
from service.conversation import Conversations, Lease
from service.errors import BadRequest, Invalid, Lost, NotSent
from service.facts import NotNow
from service.files import CHUNK_BYTES, CHUNKS_AT_ONCE, URL_MS, WRITERS, Arriving, Files, clean_name
from service.models import Credential, File
from service.providers import FileRule, FileUse, Form, Reply, Request
from service.settings import load
from service.stores import Page
from service.web.server import create_web
from tests.test_egress import Wire, serving
from tests.web.conftest import ADMIN, environment

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n"
MB = 1024 * 1024


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    made = await build(load(environment(tmp_path), known_providers=providers.names()), role="api")
    yield made
    await made.close()


@pytest.fixture
def files(service: Service) -> Files:
    return service.context.files


async def tenant(service: Service, name: str = "default") -> int:
    return (await service.context.accounts.create_tenant(name)).num


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        await asyncio.sleep(0)
        yield piece


def arriving(*given: bytes, name: str = "cat.png", kind: str = "image/png") -> Arriving:
    return Arriving(name=name, content_type=kind, pieces=pieces(*(given or (PNG,))))


async def kept(service: Service, content: bytes = PNG, **more: Any) -> File:
    return await service.context.files.receive(await tenant(service), arriving(content, **more))


def a_use(file: str, how: str = "upload", **rule: Any) -> FileUse:
    return FileUse(path=("images", 0, "url"), file=file, rule=FileRule(how=how, **rule))


def a_credential(base_url: str = "https://api.provider.example") -> Credential:
    return Credential(num=1, tenant=1, provider="peakmv", source="api", api_key="k", base_url=base_url)


HERE = a_credential("http://127.0.0.1:8090/peakmv")  # a provider on this machine, as a sandbox is


# -- what an input may name


async def test_a_file_is_what_its_field_wants(service: Service, files: Files) -> None:
    file = await kept(service)
    uses = [a_use(file.id, types=("image/png", "image/jpeg"), max_bytes=len(PNG)), a_use(file.id, types=("image/*",))]
    refs = await files.refs(file.tenant, uses, HERE)
    assert list(refs) == [file.id]
    ref = refs[file.id]
    assert (ref.id, ref.name, ref.content_type, ref.size) == (file.id, "cat.png", "image/png", len(PNG))
    assert ref.url is not None and await files.by_token(ref.url.rpartition("/")[2]) == file


async def test_a_url_is_given_where_the_provider_can_open_it(service: Service, files: Files, tmp_path: Path) -> None:
    file = await kept(service)
    assert (await files.refs(file.tenant, [a_use(file.id)], a_credential()))[file.id].url is None  # we are on loopback
    with pytest.raises(Invalid) as refused:
        await files.refs(file.tenant, [a_use(file.id, "url")], a_credential())
    assert (refused.value.param, refused.value.code) == ("input.images.0.url", "file_unreachable")
    assert "CALLSHEET_PUBLIC_URL" in refused.value.detail and "peakmv" in refused.value.detail
    assert (await files.refs(file.tenant, [a_use(file.id, "url")], HERE))[file.id].url is not None


async def test_a_public_service_gives_a_url_to_anybody(tmp_path: Path) -> None:
    keys = "k1:" + "QUFB" * 10 + "QUE="
    given = environment(tmp_path, CALLSHEET_PUBLIC_URL="https://callsheet.example", CALLSHEET_MASTER_KEYS=keys)
    made = await build(load(given, known_providers=providers.names()), role="api")
    try:
        file = await kept(made)
        ref = (await made.context.files.refs(file.tenant, [a_use(file.id, "url")], a_credential()))[file.id]
        assert ref.url is not None and ref.url.startswith("https://callsheet.example/v1/files/content/file-")
        until = int(ref.url.rpartition("/")[2].split("-")[2])
        assert abs(until - made.context.clock.now() - URL_MS) < 60_000
    finally:
        await made.close()


async def test_another_tenants_file_is_missing(service: Service, files: Files) -> None:
    file = await kept(service)
    other = await tenant(service, "other")
    with pytest.raises(Invalid) as refused:
        await files.refs(other, [a_use(file.id)], HERE)
    assert refused.value.param == "input.images.0.url"
    made_up = file.id[:-1] + ("0" if file.id[-1] != "0" else "1")
    with pytest.raises(Invalid) as same:
        await files.refs(other, [a_use(made_up)], HERE)
    assert same.value.detail.replace(made_up, file.id) == refused.value.detail  # nobody learns which are there


@pytest.mark.parametrize(
    ("rule", "code", "said"),
    [({"types": ("video/mp4", "video/*")}, "file_type", "video/mp4, video/*"),
     ({"max_bytes": 7}, "file_too_large", "at most 7")],
)  # fmt: skip
async def test_a_file_that_the_field_does_not_take(
    service: Service, files: Files, rule: dict[str, Any], code: str, said: str
) -> None:
    file = await kept(service)
    with pytest.raises(Invalid) as refused:
        await files.refs(file.tenant, [a_use(file.id, **rule)], HERE)
    assert (refused.value.param, refused.value.code) == ("input.images.0.url", code)
    assert said in refused.value.detail


async def test_a_deleted_or_unfinished_file_is_missing(service: Service, files: Files) -> None:
    file = await kept(service)
    await files.delete(file.tenant, file.id)
    store, now = service.context.store, service.context.clock.now()
    half = await store.create_file(
        File(num=0, id="file_half", tenant=file.tenant, name="x", content_type="image/png", size=0, created_at=now,
             expires_at=now + 60_000)
    )  # fmt: skip
    for missing in (file.id, half.id):
        with pytest.raises(Invalid):
            await files.refs(file.tenant, [a_use(missing)], HERE)
        with pytest.raises(NotSent):
            await files.form_body(Form(files=(("image", missing),)), "edge")


@pytest.mark.parametrize("provider", providers.names())
async def test_the_types_of_every_rule_are_ones_that_are_taken(provider: str) -> None:
    """A rule that names a type that no upload can have would refuse every file."""

    def rules(schema: Any) -> Any:
        if isinstance(schema, dict):
            if "x-file" in schema:
                yield schema["x-file"]
            for inner in schema.values():
                yield from rules(inner)

    for operation in providers.load(provider).operations.values():
        for rule in rules(operation.input_schema):
            for kind in rule.get("types", ()):
                assert any(media.among(known, [kind]) for known in media.known_types()), (operation.name, kind)


# -- to a provider that takes the bytes


async def answering(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await wire.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def an_upload(wire: Wire, file_id: str) -> Any:
    """A provider's verb that uploads one file."""

    def steps() -> Any:
        form = Form(files=(("image", file_id),), fields={"media_type": "image"})
        reply: Reply = yield Request(
            method="POST", url=f"http://127.0.0.1:{wire.port}/upload", headers={"API-KEY": "k"}, form=form
        )
        return reply.status

    return steps()


def lease(service: Service) -> Lease:
    return Lease(None, service.context.clock.monotonic() + 90, service.context.clock)


async def test_a_form_carries_the_file_as_it_was_uploaded(service: Service, files: Files) -> None:
    content = PNG + bytes(range(256)) * 4096  # several chunks
    file = await kept(service, content, name='a "cat".png')
    async with serving(answering) as wire:
        talk = Conversations(service.egress, files.form_body)
        assert await talk.hold(an_upload(wire, file.id), lease(service)) == 200
        head, _, body = bytes(wire.connections[0]).partition(b"\r\n\r\n")
    boundary = head.partition(b"boundary=")[2].partition(b"\r\n")[0]
    assert f"Content-Length: {len(body)}".encode() in head and b"API-KEY: k" in head
    parts = body.split(b"--" + boundary)
    assert parts[1] == b'\r\nContent-Disposition: form-data; name="media_type"\r\n\r\nimage\r\n'
    said, _, sent = parts[2].partition(b"\r\n\r\n")
    assert b'name="image"; filename="a _cat_.png"\r\nContent-Type: image/png' in said
    assert sent.removesuffix(b"\r\n") == content and parts[3] == b"--\r\n"


async def test_a_file_that_is_gone_sends_nothing(service: Service, files: Files) -> None:
    file = await kept(service)
    await files.delete(file.tenant, file.id)
    async with serving(answering) as wire:
        talk = Conversations(service.egress, files.form_body)
        assert await talk.hold(an_upload(wire, file.id), lease(service)) == NotNow(reason="not sent: file")
        assert wire.connections == []


async def test_bytes_that_are_gone_send_nothing_either(service: Service, files: Files) -> None:
    """Between the look-up and the read: its row is there, its chunks are not."""
    file = await kept(service)
    body = await files.form_body(Form(files=(("image", file.id),)), "edge")
    await service.context.store.write("DELETE FROM file_chunks")  # type: ignore[attr-defined]
    with pytest.raises(Lost):
        async for _ in body.chunks():
            pass


# -- uploads that break, wait or crowd


async def left(service: Service) -> tuple[int, int]:
    """How many files are seen, and how many chunks there are in fact."""
    store: Any = service.context.store
    now = service.context.clock.now()
    seen = await store.rows("SELECT COUNT(*) FROM files WHERE finished_at IS NOT NULL AND expires_at > $1", now)
    return seen[0][0], (await store.rows("SELECT COUNT(*) FROM file_chunks"))[0][0]


async def broken(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece
    raise BadRequest("The connection closed before the body ended.")


async def test_an_upload_that_breaks_off_leaves_nothing(service: Service, files: Files) -> None:
    much = PNG + b"x" * (CHUNK_BYTES * CHUNKS_AT_ONCE * 2)
    with pytest.raises(BadRequest):
        await files.receive(await tenant(service), Arriving(name="x", content_type="", pieces=broken(much, much)))
    seen, chunks = await left(service)
    assert seen == 0 and chunks > 0  # some were written
    while await service.context.store.prune_files(1000):
        pass
    assert await left(service) == (0, 0)


async def test_an_upload_that_is_cancelled_leaves_nothing(service: Service, files: Files) -> None:
    async def stalling() -> AsyncIterator[bytes]:
        yield PNG + b"x" * (CHUNK_BYTES * CHUNKS_AT_ONCE)
        await asyncio.sleep(60)

    task = asyncio.create_task(
        files.receive(await tenant(service), Arriving(name="x", content_type="", pieces=stalling()))
    )
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await left(service))[0] == 0
    while await service.context.store.prune_files(1000):
        pass
    assert await left(service) == (0, 0)
    await kept(service)  # its slot is free again


async def test_a_store_that_fails_halfway_leaves_nothing(service: Service, files: Files) -> None:
    given = (PNG + b"x" * (CHUNK_BYTES * CHUNKS_AT_ONCE - 8), b"y" * CHUNK_BYTES)

    async def failing() -> AsyncIterator[bytes]:
        yield given[0]
        await service.context.store.write("DROP TABLE file_chunks")  # type: ignore[attr-defined]
        yield given[1]

    with pytest.raises(Exception, match="file_chunks"):
        await files.receive(await tenant(service), Arriving(name="x", content_type="", pieces=failing()))
    assert await service.context.store.files(await tenant(service), Page()) == []


async def test_what_was_deleted_is_cleared_away_by_the_next_tick(service: Service, files: Files) -> None:
    gone = await kept(service, PNG + b"x" * 3 * CHUNK_BYTES)
    await kept(service)
    assert await left(service) == (2, 5)
    await files.delete(gone.tenant, gone.id)
    assert await left(service) == (1, 5)
    assert (await service.context.loops.tick(20))["finished"]
    assert await left(service) == (1, 1)


async def test_no_more_is_read_than_is_kept(service: Service, files: Files) -> None:
    """What a client sends faster than the disk takes it waits at the client."""
    store: Any = service.context.store
    ahead, read = 0, 0

    async def quick() -> AsyncIterator[bytes]:
        nonlocal ahead, read
        yield PNG
        for _ in range(30 * 16):
            read += 65536
            stored = (await store.rows("SELECT COALESCE(SUM(LENGTH(data)), 0) FROM file_chunks"))[0][0]
            ahead = max(ahead, read - stored)
            yield b"x" * 65536

    file = await files.receive(await tenant(service), Arriving(name="x", content_type="", pieces=quick()))
    assert file.size == len(PNG) + 30 * MB
    assert ahead <= (CHUNKS_AT_ONCE + 2) * CHUNK_BYTES


async def test_other_writes_go_on_beside_uploads(service: Service, files: Files) -> None:
    who = await tenant(service)
    chunk = PNG + b"x" * (8 * MB)
    uploads = [asyncio.create_task(files.receive(who, arriving(chunk, chunk))) for _ in range(6)]
    done, slowest = 0, 0.0
    loop = asyncio.get_running_loop()
    while not all(upload.done() for upload in uploads):
        began = loop.time()
        await service.context.store.set_meta("beside", str(done))
        done, slowest = done + 1, max(slowest, loop.time() - began)
    assert [upload.result().size for upload in uploads] == [2 * len(chunk)] * 6
    # 96 MB went in by at most so much at a time, and a write had its turn after each.
    assert done >= 6 * 16 // WRITERS // 2 and slowest < 2.0


# -- over a socket


@asynccontextmanager
async def listening(service: Service) -> AsyncIterator[int]:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind(("127.0.0.1", 0))
    config = uvicorn.Config(create_web(service.context), log_level="error", access_log=False, lifespan="off")
    web = uvicorn.Server(config)
    task = asyncio.create_task(web.serve(sockets=[bound]))
    while not web.started:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.01)
    try:
        yield bound.getsockname()[1]
    finally:
        web.should_exit = True
        await task


async def test_a_client_that_goes_away_leaves_nothing(service: Service) -> None:
    head = (
        b"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + ADMIN.encode()
        + b"\r\nContent-Length: 90000000\r\n"
        b"Content-Type: multipart/form-data; boundary=e\r\n\r\n--e\r\nContent-Disposition: form-data; name=file\r\n\r\n"
    )
    async with listening(service) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + PNG + b"x" * 3_000_000)
        await writer.drain()
        async with asyncio.timeout(20):
            while not (await left(service))[1]:  # noqa: ASYNC110 - the writer's thread rings no bell
                await asyncio.sleep(0.01)
        writer.transport.abort()
        store: Any = service.context.store
        async with asyncio.timeout(20):
            while not await store.rows("SELECT 1 FROM files WHERE expires_at = 0"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (await left(service))[0] == 0
        assert service.context.files._uploads == {}


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [("a.png", "a.png"), ("/etc/passwd", "passwd"), ("..\\..\\x.mp4", "x.mp4"), (".", "file.png"), ("", "file.png"),
     ("a\x00b\x1b[0m", "a_b_[0m"), ("\ud800x", "x"), ("nul:|<>?*", "nul"), ("é" * 300, "é" * 200)],
)  # fmt: skip
async def test_a_name_is_fit_for_headers_and_disks(name: str, cleaned: str) -> None:
    assert clean_name(name, "image/png") == cleaned
    assert media.shown_as("image/png", cleaned)[0][1].isascii()
