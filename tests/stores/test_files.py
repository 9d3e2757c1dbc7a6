"""Uploaded files, chunk by chunk, and outputs whose links are put down anew."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from service.ids import new_id
from service.models import Detail, File
from tests.stores.world import SUCCEEDED, World, page

pytestmark = pytest.mark.anyio

HOUR = 3_600_000
DAY = 86_400_000


def a_file(world: World, **changes: Any) -> File:
    now = world.clock.at
    fields: dict[str, Any] = {
        "num": 0, "id": new_id("file", now), "tenant": world.tenant, "name": "cat.png", "content_type": "image/png",
        "size": 0, "created_at": now, "expires_at": now + HOUR,
    }  # fmt: skip
    return File(**{**fields, **changes})


async def begun(world: World, *chunks: bytes, **changes: Any) -> File:
    file = await world.store.create_file(a_file(world, **changes))
    if chunks:
        await world.store.add_chunks(file.num, 0, chunks)
    return file


async def whole(world: World, *chunks: bytes, **changes: Any) -> File:
    file = await begun(world, *chunks, **changes)
    size = sum(map(len, chunks))
    return await world.store.finish_file(file, size=size, expires_at=world.clock.at + 7 * DAY)


async def left(world: World) -> tuple[int, int]:
    """How many files and chunks there are in fact."""
    files = await world.store.rows("SELECT COUNT(*) FROM files")  # type: ignore[attr-defined]
    chunks = await world.store.rows("SELECT COUNT(*) FROM file_chunks")  # type: ignore[attr-defined]
    return files[0][0], chunks[0][0]


async def test_a_finished_file_is_found_with_its_chunks(world: World) -> None:
    file = await begun(world, b"one", b"two")
    await world.store.add_chunks(file.num, 2, [b"\x00three"])
    done = await world.store.finish_file(file, size=12, expires_at=world.clock.at + DAY)
    assert done == replace(file, size=12, expires_at=world.clock.at + DAY)
    assert await world.store.file(world.tenant, file.id) == done
    assert await world.store.file(None, file.id) == done
    assert [await world.store.file_chunk(file.num, place) for place in range(4)] == [b"one", b"two", b"\x00three", None]


async def test_an_unfinished_file_is_not_there(world: World) -> None:
    file = await begun(world, b"half")
    assert await world.store.file(world.tenant, file.id) is None
    assert await world.store.file(None, file.id) is None
    assert await world.store.files(world.tenant, page()) == []
    assert await world.store.stored_bytes(world.tenant) == 0


async def test_another_tenant_sees_nothing_of_it(world: World) -> None:
    file = await whole(world, b"mine")
    other, _ = await world.another_tenant()
    assert await world.store.file(other, file.id) is None
    assert await world.store.files(other, page()) == []
    assert await world.store.stored_bytes(other) == 0
    assert await world.store.stored_bytes(world.tenant) == 4


async def test_files_are_listed_newest_first_in_pages(world: World) -> None:
    made = [await whole(world, b"x", name=f"{number}.png") for number in range(5)]
    await begun(world, b"unfinished")
    first = await world.store.files(world.tenant, page(limit=3))
    assert first == [made[4], made[3], made[2]]
    assert await world.store.files(world.tenant, page(limit=3, before=first[-1].num)) == [made[1], made[0]]


async def test_a_deleted_file_is_gone_at_once_and_its_bytes_with_the_pruning(world: World) -> None:
    kept, file = await whole(world, b"kept"), await whole(world, b"a", b"b", b"c")
    await world.store.delete_file(file.num)
    assert await world.store.file(world.tenant, file.id) is None
    assert await world.store.files(world.tenant, page()) == [kept]
    assert await left(world) == (2, 4)
    assert await world.store.prune_files(2) == 2
    assert await left(world) == (2, 2)
    assert await world.store.prune_files(2) == 2  # the last chunk, and the file that has none left
    assert await left(world) == (1, 1)
    assert await world.store.prune_files(2) == 0
    assert await world.store.file_chunk(kept.num, 0) == b"kept"


async def test_what_expired_goes_and_so_does_what_was_never_finished(world: World) -> None:
    file, half = await whole(world, b"whole"), await begun(world, b"half")
    world.clock.forward(HOUR / 1000 - 1)
    assert await world.store.prune_files(10) == 0
    world.clock.forward(1)
    assert await world.store.prune_files(10) == 2
    assert await world.store.file_chunk(half.num, 0) is None
    world.clock.forward(7 * DAY / 1000 - HOUR / 1000 - 1)
    assert await world.store.file(world.tenant, file.id) is not None
    world.clock.forward(1)
    assert await world.store.file(world.tenant, file.id) is None
    assert await world.store.stored_bytes(world.tenant) == 0
    assert await world.store.prune_files(10) == 2
    assert await left(world) == (0, 0)


async def test_uploads_at_once_keep_their_chunks_apart(world: World) -> None:
    async def one(number: int) -> File:
        file = await begun(world, name=f"{number}.png")
        for place in range(5):
            await world.store.add_chunks(file.num, place, [b"%d:%d" % (number, place)])
        return await world.store.finish_file(file, size=15, expires_at=world.clock.at + DAY)

    files = await asyncio.gather(*(one(number) for number in range(20)))
    for number, file in enumerate(files):
        found = [await world.store.file_chunk(file.num, place) for place in range(5)]
        assert found == [b"%d:%d" % (number, place) for place in range(5)]


async def test_a_tenant_with_files_is_not_deleted(world: World) -> None:
    other = await world.store.create_tenant("other", b"sealed")
    file = await whole(world, b"x", tenant=other.num)
    assert not await world.store.delete_tenant(other.num)
    await world.store.delete_file(file.num)
    await world.store.prune_files(10)
    assert await world.store.delete_tenant(other.num)


# -- outputs


def with_url(detail: Detail, url: str) -> Detail:
    return replace(detail, outputs=(replace(detail.outputs[0], url=url, expires_at=5),))


async def test_newer_links_are_put_over_older_ones_and_nothing_else_moves(world: World) -> None:
    job = await world.succeeded()
    detail = with_url(job.detail, "https://cdn.example/newer.mp4")
    events = await world.types(job)
    assert await world.store.refresh_outputs(job, detail)
    now = await world.now(job)
    assert now == replace(job, detail=detail)
    assert await world.types(job) == events


async def test_newer_links_do_not_undo_what_happened_meanwhile(world: World) -> None:
    job = await world.succeeded()
    await world.store.erase_content(job)
    assert not await world.store.refresh_outputs(job, with_url(job.detail, "https://cdn.example/newer.mp4"))
    assert (await world.now(job)).detail.outputs == ()


async def test_of_two_that_refresh_at_once_one_wins(world: World) -> None:
    job = await world.succeeded()
    details = [with_url(job.detail, f"https://cdn.example/{number}.mp4") for number in range(8)]
    won = await asyncio.gather(*(world.store.refresh_outputs(job, detail) for detail in details))
    assert sum(won) == 1
    assert (await world.now(job)).detail == details[won.index(True)]


async def test_links_of_a_job_that_is_gone_are_not_written(world: World) -> None:
    job = await world.succeeded()
    assert SUCCEEDED.outputs == job.detail.outputs
    assert not await world.store.refresh_outputs(replace(job, num=999_999), job.detail)
