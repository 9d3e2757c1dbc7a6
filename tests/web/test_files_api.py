"""Files over HTTP: uploads of every shape, what is refused, who sees what, and the URL for providers."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service import media
from service.files import CHUNK_BYTES, MOST_UPLOADS
from service.web import answers
from tests.web.conftest import environment
from tests.web.shapes import has_exactly

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
EDGE = "-=edge=-"
SAMPLES = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "image/webp": b"RIFF\x24\x00\x00\x00WEBPVP8 ",
    "image/gif": b"GIF89a\x01\x00\x01\x00",
    "video/mp4": b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00",
    "video/quicktime": b"\x00\x00\x00\x14ftypqt  \x20\x05\x03\x00",
    "video/webm": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm",
    "audio/mpeg": b"ID3\x04\x00\x00\x00\x00\x00\x23",
    "audio/wav": b"RIFF\x24\x00\x00\x00WAVEfmt ",
    "audio/mp4": b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00",
    "audio/aac": b"\xff\xf1\x50\x80\x02\x1f\xfc",
    "audio/ogg": b"OggS\x00\x02\x00\x00",
    "audio/flac": b"fLaC\x00\x00\x00\x22",
    "application/x-subrip": b"1\n00:00:00,000 --> 00:00:01,000\nHi\n",
    "text/vtt": b"WEBVTT\n\n00:00.000 --> 00:01.000\nHi\n",
    "text/plain": "Größe\n".encode(),
}


async def upload(call: Any, content: bytes = PNG, name: str = "cat.png", kind: str = "image/png", **more: Any) -> Any:
    return await call("POST", "/v1/files", files={"file": (name, content, kind)}, **more)


async def uploaded(call: Any, *args: Any, **more: Any) -> dict[str, Any]:
    response = await upload(call, *args, **more)
    assert response.status_code == 201, response.text
    file: dict[str, Any] = response.json()
    return file


async def raw(call: Any, body: bytes, kind: str = f"multipart/form-data; boundary={EDGE}", **headers: str) -> Any:
    return await call("POST", "/v1/files", content=body, headers={"content-type": kind, **headers})


def form(*parts: bytes, end: bytes = b"--\r\n") -> bytes:
    return b"".join(b"--" + EDGE.encode() + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + EDGE.encode() + end


def part(head: str, content: bytes = PNG) -> bytes:
    return head.encode() + b"\r\n\r\n" + content


NAMED = 'Content-Disposition: form-data; name="file"; filename="cat.png"\r\nContent-Type: image/png'


async def read(call: Any, file_id: str) -> bytes:
    """All that is kept, by the URL that a provider would be given."""
    found = await call.context.store.file(None, file_id)
    url = call.context.files.url(found).removeprefix(call.context.settings.public_url)
    response = await call("GET", url, key=None)
    assert response.status_code == 200
    return bytes(response.content)


# -- what is taken


async def test_an_upload_is_kept_as_it_came(call: Any) -> None:
    response = await upload(call)
    file = response.json()
    has_exactly(file, answers.File)
    assert response.headers["location"] == f"/v1/files/{file['id']}"
    assert re.fullmatch("file_[0-9a-z]{26}", file["id"])
    assert (file["name"], file["content_type"], file["bytes"]) == ("cat.png", "image/png", len(PNG))
    assert file["created_at"] < file["expires_at"]
    assert await call.ok("GET", f"/v1/files/{file['id']}") == file
    assert await call.ok("GET", "/v1/files") == {"data": [file], "next_cursor": None}
    assert await read(call, file["id"]) == PNG


@pytest.mark.parametrize("size", [CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 4 * CHUNK_BYTES, 9 * CHUNK_BYTES + 7])
async def test_chunks_come_together_again(call: Any, size: int) -> None:
    content = (PNG * (size // len(PNG) + 1))[:size]
    file = await uploaded(call, content)
    assert file["bytes"] == size
    assert await read(call, file["id"]) == content


def test_a_sample_of_every_type() -> None:
    assert sorted(SAMPLES) == media.known_types() and set(media.ENDINGS) == set(SAMPLES)


@pytest.mark.parametrize("kind", SAMPLES)
async def test_every_type_is_taken_for_what_it_is(call: Any, kind: str) -> None:
    name = "a" + media.ENDINGS[kind]
    assert (await uploaded(call, SAMPLES[kind], name, kind))["content_type"] == kind
    assert (await uploaded(call, SAMPLES[kind], name, f"{kind.upper()}; x=1"))["content_type"] == kind
    assert (await uploaded(call, SAMPLES[kind], name, "application/octet-stream"))["content_type"] == kind


@pytest.mark.parametrize(
    ("declared", "kind"),
    [("image/jpg", "image/jpeg"), ("audio/mp3", "audio/mpeg"), ("audio/x-wav", "audio/wav"), ("audio/m4a", "audio/mp4"),
     ("text/srt", "application/x-subrip"), ("audio/x-flac", "audio/flac")],
)  # fmt: skip
async def test_a_type_under_another_name_is_the_same(call: Any, declared: str, kind: str) -> None:
    assert (await uploaded(call, SAMPLES[kind], "a", declared))["content_type"] == kind


@pytest.mark.parametrize("kind", sorted(SAMPLES))
async def test_a_type_that_it_is_not_is_refused(call: Any, kind: str) -> None:
    other = "image/gif" if kind != "image/gif" else "image/png"
    response = await upload(call, SAMPLES[kind], "a" + media.ENDINGS[kind], other)
    problem = response.json()
    assert (response.status_code, problem["code"], problem["param"]) == (415, "unsupported_file_type", "file")
    assert kind in problem["detail"] or kind == "text/plain"


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"<!doctype html><script>", "text/html"), (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
     (b"%PDF-1.7", "application/pdf"), (b"MZ\x90\x00", "application/octet-stream"), (b"\x7fELF", "video/mp4"),
     (b"PK\x03\x04", "application/zip"), (b"<html>", "application/octet-stream"), (b"caf\xe9", "text/plain"),
     (b"a\x00b", "text/plain"), (b"\x00\x00\x00\x20ftypavif", "video/mp4")],
)  # fmt: skip
async def test_what_is_no_medium_is_refused(call: Any, content: bytes, kind: str) -> None:
    response = await upload(call, content, "a", kind)
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_file_type"), response.text
    assert await call.ok("GET", "/v1/files") == {"data": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("../../etc/passwd.png", "passwd.png"), ("C:\\Users\\me\\cat.png", "cat.png"), ("größe 1.png", "größe 1.png"),
     ("", "file.png"), ("...", "file.png"), ("a\r\nX-Evil: 1.png", "X-Evil_ 1.png"),
     ("\u202egnp.exe.png", "gnp.exe.png"),
     ("x" * 500 + ".png", "x" * 196 + ".png"), ('a"b.png', "a_b.png"), ("/", "file.png"), ("a;b=c.png", "a;b=c.png")],
)  # fmt: skip
async def test_names_are_cleaned(call: Any, sent: str, kept: str) -> None:
    content = part(f'Content-Disposition: form-data; name="file"; filename="{_escaped(sent)}"')
    response = await raw(call, form(content))
    assert response.status_code == 201, response.text
    assert response.json()["name"] == kept


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"').replace("\r\n", "/")


# -- forms of every shape


@pytest.mark.parametrize(
    "body",
    [
        form(part(NAMED)),
        form(part(NAMED), end=b"--"),
        form(part(NAMED), end=b"--\r\nan epilogue"),
        b"a preamble\r\n" + form(part(NAMED)),
        form(part("content-disposition:form-data;name=file")),
        form(part('CONTENT-DISPOSITION: form-data; filename="x"; name="file"')),
        form(part("X-Other: 1\r\n" + NAMED)),
        form(part(NAMED)).replace(EDGE.encode() + b"\r\n", EDGE.encode() + b" \t\r\n", 1),
    ],
)
async def test_a_form_may_be_written_so(call: Any, body: bytes) -> None:
    response = await raw(call, body)
    assert response.status_code == 201, response.text
    assert await read(call, response.json()["id"]) == PNG


async def test_what_looks_like_a_delimiter_is_content(call: Any) -> None:
    edge = EDGE.encode()
    tricky = PNG + b"\r\n--" + edge[:-1] + b"\r\n-" + b"--" + edge + b"\r\n--" + edge[:3] + b"\r\n\r\n--"
    assert await read(call, (await raw(call, form(part(NAMED, tricky)))).json()["id"]) == tricky


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 64])
async def test_pieces_of_any_size_make_the_same_file(call: Any, size: int) -> None:
    content = PNG[:300] + b"\r\n--" + EDGE.encode()[:-2] + b"\r\n" + PNG[:99]
    body = form(part(NAMED, content))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    headers = {"content-type": f'multipart/form-data; boundary="{EDGE}"', "transfer-encoding": "chunked"}
    response = await call("POST", "/v1/files", content=pieces(), headers=headers)
    assert response.status_code == 201, response.text
    assert await read(call, response.json()["id"]) == content


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"", 400, None),
        (b"--" + EDGE.encode(), 400, None),
        (form(), 422, "file"),
        (form(part(NAMED), end=b""), 400, None),
        (form(part(NAMED))[:-30], 400, None),
        (form(b"no headers at all"), 400, None),
        (form(part("X: 1")), 422, "file"),
        (form(part('Content-Disposition: attachment; name="file"')), 422, "file"),
        (form(part('Content-Disposition: form-data; name="image"')), 422, "image"),
        (form(part('Content-Disposition: form-data; name="model"', b"v5"), part(NAMED)), 422, "model"),
        (form(part(NAMED), part('Content-Disposition: form-data; name="model"', b"v5")), 422, "model"),
        (form(part(NAMED), part(NAMED)), 422, "file"),
        (form(part(NAMED, b"")), 422, "file"),
        (form(part("X: " + "y" * 70_000 + "\r\n" + NAMED)), 400, None),
        (b"x" * 2000 + b"\r\n" + form(part(NAMED)), 400, None),
        (form(part(NAMED)).replace(EDGE.encode() + b"\r\n", EDGE.encode() + b"x\r\n", 1), 400, None),
        (PNG, 400, None),
        (b"{}", 400, None),
    ],
)
async def test_a_form_that_cannot_be_used_leaves_nothing(
    call: Any, body: bytes, status: int, param: str | None
) -> None:
    response = await raw(call, body)
    assert response.status_code == status, response.text
    assert response.json()["param"] == param
    assert (await call.ok("GET", "/v1/files"))["data"] == []


@pytest.mark.parametrize(
    "kind",
    ["application/json", "image/png", "multipart/form-data", "multipart/mixed; boundary=x", "", "multipart/form-data;"],
)
async def test_what_is_no_form_is_refused(call: Any, kind: str) -> None:
    response = await raw(call, form(part(NAMED)), kind)
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


async def test_a_compressed_form_is_refused(call: Any) -> None:
    response = await raw(call, form(part(NAMED)), **{"content-encoding": "gzip"})
    assert (response.status_code, response.json()["param"]) == (415, "Content-Encoding")


# -- limits


@pytest.fixture
async def small(tmp_path: Any, make_client: Any) -> AsyncIterator[Any]:
    """A service that takes files of 10,000 bytes and keeps 25,000."""
    from service import providers
    from service.app import build
    from service.settings import load

    more = {"CALLSHEET_MAX_FILE_BYTES": "10000", "CALLSHEET_MAX_STORED_BYTES": "25000"}
    service = await build(load(environment(tmp_path, **more), known_providers=providers.names()), role="api")
    client = make_client(service)
    yield client
    await client.http.aclose()
    await service.close()


async def test_a_file_may_be_as_large_as_the_limit_and_no_larger(small: Any) -> None:
    assert (await uploaded(small, (PNG * 9)[:10_000]))["bytes"] == 10_000
    for declared in (True, False):
        body = form(part(NAMED, (PNG * 9)[:10_001]))

        async def pieces(body: bytes = body) -> AsyncIterator[bytes]:
            yield body

        sent: Any = body if declared else pieces()
        response = await small(
            "POST", "/v1/files", content=sent, headers={"content-type": f"multipart/form-data; boundary={EDGE}"}
        )
        assert (response.status_code, response.json()["param"]) == (413, "file"), response.text
        assert "10000" in response.json()["detail"]
    assert len((await small.ok("GET", "/v1/files"))["data"]) == 1


async def test_far_too_much_is_refused_before_it_is_read(small: Any) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        yield form(part(NAMED))[:-20]
        while taken < 10_000_000:
            taken += 10_000
            yield b"x" * 10_000

    headers = {"content-type": f"multipart/form-data; boundary={EDGE}", "content-length": "10000000"}
    response = await small("POST", "/v1/files", content=endless(), headers=headers)
    assert response.status_code == 413 and taken == 0
    response = await small("POST", "/v1/files", content=endless(), headers={"content-type": headers["content-type"]})
    assert response.status_code == 413 and taken < 100_000


async def test_a_tenants_files_have_a_ceiling_and_deleting_makes_room(small: Any) -> None:
    content = (PNG * 9)[:10_000]
    files = [await uploaded(small, content) for _ in range(3)]  # the last one begins below the ceiling
    response = await upload(small, content)
    assert (response.status_code, response.json()["code"]) == (429, "storage_full")
    assert response.headers["retry-after"]
    assert (await small("DELETE", f"/v1/files/{files[0]['id']}")).status_code == 204
    await uploaded(small, content)


async def test_too_many_uploads_at_once_are_refused_and_another_tenants_go_on(call: Any) -> None:
    release, begun = asyncio.Event(), list[bool]()
    body = form(part(NAMED))

    async def slow() -> AsyncIterator[bytes]:
        yield body[:200]
        begun.append(True)
        await release.wait()
        yield body[200:]

    headers = {"content-type": f"multipart/form-data; boundary={EDGE}"}
    waiting = [
        asyncio.create_task(call("POST", "/v1/files", content=slow(), headers=headers))
        for _ in range(MOST_UPLOADS // 2)
    ]
    async with asyncio.timeout(20):
        while len(begun) < len(waiting):  # noqa: ASYNC110 - of what was read nobody tells
            await asyncio.sleep(0.05)
    assert not any(task.done() for task in waiting)
    response = await upload(call)
    assert (response.status_code, response.json()["code"]) == (429, "too_many")
    await call.ok("POST", "/v1/tenants", json={"name": "other"})
    await uploaded(call, headers={"callsheet-tenant": "other"})
    release.set()
    assert {response.status_code for response in await asyncio.gather(*waiting)} == {201}
    await uploaded(call)


# -- whose they are


async def test_another_tenants_file_is_not_there(call: Any) -> None:
    file = await uploaded(call)
    await call.ok("POST", "/v1/tenants", json={"name": "other"})
    key = await call.a_key("jobs:read", "jobs:write", tenant="other")
    path = f"/v1/files/{file['id']}"
    await call.refused(404, "not_found", "GET", path, key=key)
    await call.refused(404, "not_found", "DELETE", path, key=key)
    assert (await call.ok("GET", "/v1/files", key=key))["data"] == []
    assert (await call.ok("GET", path)) == file


async def test_a_key_needs_the_scope(call: Any) -> None:
    reader = await call.a_key("jobs:read")
    assert (await upload(call, key=reader)).status_code == 403
    writer = await call.a_key("jobs:write")
    assert (await upload(call, key=writer)).status_code == 201


async def test_files_are_listed_in_pages(call: Any) -> None:
    made = [await uploaded(call, name=f"{number}.png") for number in range(5)]
    first = await call.ok("GET", "/v1/files?limit=3")
    second = await call.ok("GET", f"/v1/files?limit=3&cursor={first['next_cursor']}")
    assert first["data"] + second["data"] == made[::-1] and second["next_cursor"] is None


async def test_a_deleted_file_is_gone(call: Any) -> None:
    file = await uploaded(call)
    url = call.context.files.url(await call.context.store.file(None, file["id"]))
    assert (await call("DELETE", f"/v1/files/{file['id']}")).status_code == 204
    await call.refused(404, "not_found", "GET", f"/v1/files/{file['id']}")
    await call.refused(404, "not_found", "DELETE", f"/v1/files/{file['id']}")
    await call.refused(404, "not_found", "GET", url.removeprefix(call.context.settings.public_url), key=None)


# -- the URL for providers


async def path_of(call: Any, content: bytes = PNG, name: str = "größe.png", kind: str = "image/png") -> str:
    file = await uploaded(call, content, name, kind)
    found = await call.context.store.file(None, file["id"])
    url: str = call.context.files.url(found)
    return url.removeprefix(call.context.settings.public_url)


async def test_whoever_has_the_url_gets_the_bytes_and_nothing_that_runs(call: Any) -> None:
    response = await call("GET", await path_of(call), key=None)
    assert (response.status_code, response.content) == (200, PNG)
    headers = response.headers
    assert (headers["content-type"], headers["content-length"]) == ("image/png", str(len(PNG)))
    assert headers["x-content-type-options"] == "nosniff" and headers["accept-ranges"] == "bytes"
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert headers["content-disposition"] == "inline; filename=\"gr__e.png\"; filename*=UTF-8''gr%C3%B6%C3%9Fe.png"
    text = await call("GET", await path_of(call, b"<script>alert(1)</script>", "a.txt", "text/plain"), key=None)
    assert text.headers["content-disposition"].startswith("attachment")


async def test_head_says_what_get_would(call: Any) -> None:
    path = await path_of(call)
    response = await call("HEAD", path, key=None)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(len(PNG))


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-", 0, 2056), ("bytes=0-0", 0, 1), ("bytes=100-199", 100, 200), ("bytes=2000-", 2000, 2056),
     ("bytes=-56", 2000, 2056), ("bytes=-9999", 0, 2056), ("bytes=50-9999", 50, 2056), ("Bytes = 1-2", 1, 3)],
)  # fmt: skip
async def test_a_part_of_it(call: Any, asked: str, start: int, end: int) -> None:
    response = await call("GET", await path_of(call), key=None, headers={"range": asked})
    assert (response.status_code, response.content) == (206, PNG[start:end])
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{len(PNG)}"
    assert response.headers["content-length"] == str(end - start)


async def test_a_part_over_several_chunks(call: Any) -> None:
    content = (PNG * 400)[: 3 * CHUNK_BYTES]
    path = await path_of(call, content)
    for start, end in (
        (CHUNK_BYTES - 5, CHUNK_BYTES + 5),
        (1, 3 * CHUNK_BYTES - 1),
        (2 * CHUNK_BYTES, 3 * CHUNK_BYTES),
    ):
        response = await call("GET", path, key=None, headers={"range": f"bytes={start}-{end - 1}"})
        assert (response.status_code, response.content) == (206, content[start:end])


@pytest.mark.parametrize("asked", ["bytes=1-0", "bytes=a-b", "items=0-1", "bytes=0-1,5-6", "bytes=-", "0-1"])
async def test_a_range_that_is_not_understood_is_the_whole(call: Any, asked: str) -> None:
    response = await call("GET", await path_of(call), key=None, headers={"range": asked})
    assert (response.status_code, response.content) == (200, PNG)


@pytest.mark.parametrize("asked", ["bytes=2056-", "bytes=9999-10000", "bytes=-0"])
async def test_a_range_beyond_the_end(call: Any, asked: str) -> None:
    response = await call("GET", await path_of(call), key=None, headers={"range": asked})
    assert (response.status_code, response.json()["code"]) == (416, "range_not_satisfiable")
    assert response.headers["content-range"] == "bytes */2056"


async def test_any_other_token_opens_nothing(call: Any) -> None:
    path = await path_of(call)
    file = (await call.ok("GET", "/v1/files"))["data"][0]["id"]
    vault = call.context.files._vault
    later = call.context.clock.now() + 1000
    wrong = [
        path[:-1] + ("a" if path[-1] != "a" else "b"),
        f"/v1/files/content/{vault.callback_token(file)}",
        f"/v1/files/content/{vault.callback_token(f'output-{file}-{later}')}",
        f"/v1/files/content/{vault.callback_token(f'file-{file}-{call.context.clock.now() - 1}')}",
        f"/v1/files/content/{vault.callback_token(f'file-{file}-x')}",
        f"/v1/files/content/file-{file}-{later}",
        "/v1/files/content/x",
    ]
    for other in wrong:
        await call.refused(404, "not_found", "GET", other, key=None)
    token = path.rpartition("/")[2]
    await call.refused(404, "unknown_callback_url", "POST", f"/v1/callbacks/pixverse/{token}", key=None, json={})
    await call.refused(404, "not_found", "GET", f"/v1/outputs/{token}", key=None)
