"""A disk that is really full: refused before it is accepted, and taken again by the same process once there is room.

Twice: with a limit on the size of the files that the process writes (EFBIG, everywhere), and on a small file system
of its own that is filled up (ENOSPC, where the tests may mount one).
"""

import collections
import os
import resource
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cli.conftest import KEY, VIDEO, World, until

MP4 = b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00"
BIG = {f"text-{n}": "x" * 490 for n in range(40)}


class Disk:
    """`full()` takes the room away, `room()` gives it back."""

    def __init__(self, full: Callable[[int, Path], None], room: Callable[[int, Path], None]) -> None:
        self.full, self.room = full, room


def limit(pid: int, most: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


LIMITED = Disk(
    lambda pid, database: limit(pid, database.with_name(database.name + "-wal").stat().st_size + 50_000),
    lambda pid, database: limit(pid, resource.RLIM_INFINITY),
)


def fill(pid: int, database: Path) -> None:
    with pytest.raises(OSError, match="No space left"), (database.parent / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            while file.write(b"\0" * size) == size:
                pass
        os.fsync(file.fileno())


FILLED = Disk(fill, lambda pid, database: (database.parent / "filler").unlink())


@contextmanager
def small_file_system(path: Path, size: str = "6m") -> Iterator[None]:
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def submit(world: World, nonce: str, more: dict[str, str] | None = None) -> httpx2.Response:
    body = {"provider": "pixverse", "operation": "text_to_video", "input": {**VIDEO, "prompt": nonce}}
    headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": nonce}
    return httpx2.post(
        f"{world.url}/v1/jobs", json={**body, "metadata": {"nonce": nonce, **(more or {})}}, headers=headers
    )


def fill_the_rest(world: World, accepted: dict[str, str]) -> str:
    """Submit until the first refusal; its nonce. The request is large, so that what is left soon is too little."""
    for n in range(500):
        nonce = f"filling-{n}"
        answer = submit(world, nonce, BIG)
        if answer.status_code == 503:
            assert answer.json()["code"] == "store_unavailable" and int(answer.headers["retry-after"]) > 0
            return nonce
        assert answer.status_code == 202, answer.text
        accepted[nonce] = answer.json()["id"]
    raise AssertionError("it never became full")


def ready(world: World) -> Any:
    return httpx2.get(f"{world.url}/ready")


def callbacks(world: World) -> collections.Counter[int]:
    sent = httpx2.get(f"{world.sandbox}/_sandbox/pixverse/callbacks").json()["last"]
    return collections.Counter(row["status"] for row in sent)


def all_jobs(world: World) -> dict[str, Any]:
    found, cursor = {}, ""
    while cursor is not None:
        page = world.api("GET", f"/v1/jobs?limit=100{cursor and '&cursor=' + cursor}")
        found |= {job["metadata"]["nonce"]: job for job in page["data"]}
        cursor = page["next_cursor"]
    return found


@pytest.mark.parametrize("kind", ["limited", "filled"])
def test_a_full_disk_refuses_loses_nothing_and_the_same_process_goes_on(kind: str, asleep: World) -> None:
    world, disk = asleep, {"limited": LIMITED, "filled": FILLED}[kind]
    place = world.path / "disk"
    with ExitStack() as ends:
        if kind == "filled":
            ends.enter_context(small_file_system(place))
        else:
            place.mkdir()
        world.variables["DATABASE_URL"] = f"sqlite:///{place / 'callsheet.db'}"
        world.variables["PIXVERSE_POLL"] = "false"
        world.faults("pixverse", duration_s=[2.0, 2.5], callback={"retry_s": [0.5, 1, 1, 2, 2, 4, 8]})
        service = ends.enter_context(world.listening("serve", "--port", world.port))
        world.api("POST", "/v1/endpoints", {"url": f"{world.subscriber}/", "event_types": ["job.succeeded"]})
        walk(world, disk, service.process.pid, place / "callsheet.db")
        assert service.process.poll() is None, "it was another process in the end"


@pytest.mark.parametrize("at_once", [1, 6])
def test_a_full_disk_lets_be_deleted_what_takes_room(at_once: int, asleep: World) -> None:
    world, place = asleep, asleep.path / "disk"
    headers = {"Authorization": f"Bearer {KEY}"}
    with ExitStack() as ends:
        ends.enter_context(small_file_system(place, "64m"))
        world.variables["DATABASE_URL"] = f"sqlite:///{place / 'callsheet.db'}"
        service = ends.enter_context(world.listening("serve", "--port", world.port))
        http = ends.enter_context(httpx2.Client(base_url=world.url, headers=headers, timeout=60))

        def uploaded() -> httpx2.Response:
            return http.post("/v1/files", files={"file": ("a.mp4", MP4 + bytes(3_000_000), "video/mp4")})

        job = submit(world, "early").json()["id"]
        until(lambda: world.api("GET", f"/v1/jobs/{job}")["status"] == "succeeded")
        names = [uploaded().json()["id"] for _ in range(6)]
        fill(service.process.pid, place / "callsheet.db")
        until(lambda: uploaded().status_code == 503)
        fill_the_rest(world, {})
        until(lambda: ready(world).status_code == 503)  # what is left takes a few small writes
        with ThreadPoolExecutor(at_once) as pool:
            gone = list(pool.map(lambda name: http.delete(f"/v1/files/{name}").status_code, names))
        assert gone == [204] * 6
        assert http.delete(f"/v1/jobs/{job}/content").status_code == 204
        assert [http.get(f"/v1/files/{name}").status_code for name in names] == [404] * 6
        service.process.kill()
        service.process.wait()
        with closing(sqlite3.connect(place / "callsheet.db")) as db:
            marks = ", ".join("?" * 6)
            left = f"SELECT count(*) FROM files WHERE id IN ({marks}) AND expires_at > 0"
            assert db.execute(left, names).fetchone() == (0,)


def walk(world: World, disk: Disk, pid: int, database: Path) -> None:
    accepted: dict[str, str] = {}
    for n in range(6):  # at the provider while the disk is full: their callbacks come then
        accepted[f"early-{n}"] = submit(world, f"early-{n}").json()["id"]
    until(lambda: len(world.ledger("pixverse")) >= 6)
    assert len(world.ledger("pixverse")) == 6

    disk.full(pid, database)
    refused = fill_the_rest(world, accepted)
    answer = until(lambda: (said := ready(world)).status_code == 503 and said)  # what is left takes a few small writes
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    late = [f"late-{n}" for n in range(5)]
    assert [submit(world, nonce, BIG).status_code for nonce in late] == [503] * 5
    assert httpx2.get(f"{world.url}/health").status_code == 200
    assert set(all_jobs(world)) == set(accepted), "what was refused is half there, or what was accepted is not"
    until(lambda: callbacks(world)[503] > 0)
    charged = len(world.ledger("pixverse"))

    disk.room(pid, database)
    until(lambda: ready(world).status_code == 200)
    for nonce in (refused, *late):
        answer = submit(world, nonce, BIG)
        assert (answer.status_code, "idempotent-replayed" in answer.headers) == (202, False)
        accepted[nonce] = answer.json()["id"]
    until(lambda: {job["status"] for job in all_jobs(world).values()} <= {"succeeded"}, 90)

    jobs = all_jobs(world)
    assert {nonce: job["id"] for nonce, job in jobs.items()} == accepted
    charges = collections.Counter(row["input"]["prompt"] for row in world.ledger("pixverse"))
    assert charges == dict.fromkeys(accepted, 1)
    events = until(lambda: _delivered(world, len(accepted)))
    assert sorted(events) == sorted(accepted.values())
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    told = f"{len(accepted)} jobs, {charged} of them charged by the time it was full"
    print(f"\n{told}; {callbacks(world)[503]} callbacks answered 503, {len(late) + 1} submits refused and taken later")


def _delivered(world: World, count: int) -> list[str] | None:
    """The jobs whose end the subscriber took, once for each event."""
    rows = {row["webhook_id"]: row for row in world.received() if row["status"] == 200}
    events = {event["id"]: event["data"]["id"] for event in _events(world)}
    return list(events.values()) if set(events) <= set(rows) and len(events) == count else None


def _events(world: World) -> list[Any]:
    found, cursor = [], ""
    while cursor is not None:
        page = world.api("GET", f"/v1/events?limit=100&type=job.succeeded{cursor and '&cursor=' + cursor}")
        found += page["data"]
        cursor = page["next_cursor"]
    return found
