"""`callsheet backup` and `restore`: taken under load, put elsewhere, and no charge is repeated.

Charges are counted by a nonce in the input, in the sandbox's ledger. That the fault is real is shown first: the same
copy without its mark charges twice.
"""

import collections
import json
import shutil
import sqlite3
import stat
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import VIDEO, Folder, World, until

OPEN = {"queued", "submitting", "processing"}
LOAD = 48


def intent(n: int) -> tuple[str, dict[str, Any]]:
    """A nonce and its submit: two in three to PixVerse, whose books can be read, the rest to PeakMV, whose cannot."""
    if n % 3:
        nonce = f"pix-{n}"
        return nonce, {"provider": "pixverse", "operation": "text_to_video", "input": {**VIDEO, "prompt": nonce}}
    nonce = f"peak-{n}"
    given = {"audio_url": f"https://media.example.com/{nonce}.mp3", "prompt": nonce}
    return nonce, {"provider": "peakmv", "operation": "generate", "input": given}


def submit(world: World, n: int) -> None:
    nonce, body = intent(n)
    world.api("POST", "/v1/jobs", {**body, "metadata": {"nonce": nonce}})


def charges(world: World) -> collections.Counter[str]:
    rows = world.ledger("pixverse") + world.ledger("peakmv")
    return collections.Counter(row["input"]["prompt"] for row in rows)


def jobs(world: World) -> dict[str, dict[str, Any]]:
    """By nonce."""
    found, cursor = {}, ""
    while cursor is not None:
        page = world.api("GET", f"/v1/jobs?limit=100{cursor and '&cursor=' + cursor}")
        found |= {job["metadata"]["nonce"]: job for job in page["data"]}
        cursor = page["next_cursor"]
    return found


def still_open(world: World) -> dict[str, str]:
    return {nonce: job["status"] for nonce, job in jobs(world).items() if job["status"] in OPEN}


def rows(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


def unsent(path: Path) -> set[str]:
    sql = (
        "SELECT json_extract(metadata, '$.nonce') FROM jobs JOIN job_details ON job = num"
        " WHERE status IN ('queued', 'submitting')"
    )
    return {nonce for (nonce,) in rows(path, sql)}


@pytest.fixture
def loaded(asleep: World) -> World:
    """Two submits at a time for each provider, so that a backup always meets jobs that were not sent; replies lost."""
    asleep.variables.update(PIXVERSE_CONCURRENCY="2", PEAKMV_CONCURRENCY="2")
    faults = {"seed": 5, "drop_reply_after_accept": 0.3, "error_after_accept": {"500": 0.05}, "duration_s": [0.2, 0.6]}
    for provider in ("pixverse", "peakmv"):
        asleep.faults(provider, **faults)
    return asleep


def elsewhere(world: World) -> dict[str, str]:
    """The settings of a new place: another folder, the same keys."""
    place = world.path / "elsewhere"
    place.mkdir()
    shutil.copy(world.path / "callsheet.db.key", place / "callsheet.db.key")
    return {"DATABASE_URL": f"sqlite:///{place / 'callsheet.db'}"}


def backed_up_under_load(world: World, copy: Path) -> dict[str, Any]:
    """Jobs are submitted and sent while the copy is taken, and all that was accepted by then is sent before the end."""
    with world.listening("serve", "--port", world.port):
        endpoint = {"url": f"{world.subscriber}/", "event_types": ["job.unknown"]}
        world.api("POST", "/v1/endpoints", endpoint)
        loading = [threading.Thread(target=lambda k=k: [submit(world, n) for n in range(k, LOAD, 4)]) for k in range(4)]
        for thread in loading:
            thread.start()
        until(lambda: len(charges(world)) > 8)
        said: dict[str, Any] = json.loads(world.ok("backup", str(copy), "--json"))
        for thread in loading:
            thread.join()
        until(lambda: not [s for s in still_open(world).values() if s == "queued"], 60)
    return said


def test_a_backup_taken_under_load_and_restored_repeats_no_charge(loaded: World) -> None:
    world, copy = loaded, loaded.path / "copy.db"
    said = backed_up_under_load(world, copy)
    doubtful, before = unsent(copy), charges(world)
    lost = doubtful & set(before)  # the fault: not sent in the copy, and charged since
    assert {nonce.partition("-")[0] for nonce in lost} == {"pix", "peak"}, lost
    assert said["unknown_when_restored"] == len(doubtful), (said, lost)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600 and not list(world.path.glob("copy.db?*"))

    place = elsewhere(world)
    assert json.loads(world.ok("restore", str(copy), "--json", **place))["unknown_when_started"] == len(doubtful)
    for provider in ("pixverse", "peakmv"):
        world.faults(provider)
    with world.listening("serve", "--port", world.port, **place):
        until(lambda: not still_open(world), 60)
        after = jobs(world)
        assert {n for n, job in after.items() if "restored from a backup" in (job["reason"] or "")} == doubtful
        assert charges(world) == before, "something was sent again"
        told = until(lambda: len([r for r in world.received() if r["type"] == "job.unknown"]) >= len(doubtful))
        assert told
        # PixVerse's own books name them by the trace id that they were sent with: they are adopted, at no charge.
        report = json.loads(world.ok("reconcile", "--provider", "pixverse", "--since", "1h", "--json"))
        ids = {job["id"]: nonce for nonce, job in after.items()}
        assert {n for n in lost if n.startswith("pix")} <= {ids[row["job"]] for row in report["adopted"]}
        until(lambda: not still_open(world), 60)
        # What was accepted after the backup is in no row here: the books show it as a charge without a job.
        gone = {n for n in before if n.startswith("pix")} - set(after)
        assert len(report["charges_without_job"]) == len(gone)
        # A new intent is sent as ever.
        submit(world, 3_001)
        until(lambda: not still_open(world), 60)
        ended = jobs(world)
    assert charges(world) == before + collections.Counter({"pix-3001": 1}) and max(before.values()) == 1
    left = {n for n in doubtful if ended[n]["status"] == "unknown"}
    assert not {n for n in lost if n.startswith("pix")} & left
    told = f"{said['jobs']} jobs in the copy, {len(doubtful)} not sent in it, {len(lost)} of them charged by the stop"
    print(f"\n{told}; {sum(before.values())} charges, none repeated; {len(left)} jobs left to a person")


def test_without_the_mark_the_same_copy_charges_twice_and_restore_prevents_it(asleep: World) -> None:
    """The control: a copy made by other means goes through `restore`; then the same copy is started as it is."""
    world, copy = asleep, asleep.path / "plain.db"
    with world.listening("serve", "--port", world.port, "--role", "api"):
        for n in (0, 3, 6):
            submit(world, n)
        with closing(sqlite3.connect(world.path / "callsheet.db")) as db, closing(sqlite3.connect(copy)) as plain:
            db.backup(plain)
        until(lambda: world.api("POST", "/internal/tick", {})["ran"] and len(charges(world)) == 3)
    assert set(charges(world).values()) == {1} and len(unsent(copy)) == 3

    place = elsewhere(world)
    safe = Path(place["DATABASE_URL"].removeprefix("sqlite:///"))
    world.ok("restore", str(copy), **place)
    world.ok("tick", **place)
    assert set(charges(world).values()) == {1}
    assert [status for (status,) in rows(safe, "SELECT status FROM jobs")] == ["unknown"] * 3

    shutil.copy(copy, safe)  # the same without `restore`
    for suffix in ("-wal", "-shm"):
        safe.with_name(safe.name + suffix).unlink(missing_ok=True)
    until(lambda: world.ok("tick", **place) and sum(charges(world).values()) >= 6)
    assert set(charges(world).values()) == {2} and sum(charges(world).values()) == 6


def test_a_database_that_was_restored_by_other_means_is_marked_by_hand(asleep: World) -> None:
    with asleep.listening("serve", "--port", asleep.port, "--role", "api"):
        submit(asleep, 0)
    asleep.ok("restore")
    asleep.ok("tick")
    assert rows(asleep.path / "callsheet.db", "SELECT status FROM jobs") == [("unknown",)]
    assert not charges(asleep)
    asleep.ok("tick")  # the mark is gone: what comes now is sent
    with asleep.listening("serve", "--port", asleep.port):
        submit(asleep, 3)
        until(lambda: charges(asleep) == {"peak-3": 1})


def test_a_cursor_given_out_after_the_backup_stays_behind_what_comes_next(asleep: World) -> None:
    path, copy = asleep.path / "callsheet.db", asleep.path / "copy.db"
    with asleep.listening("serve", "--port", asleep.port):
        submit(asleep, 0)
        until(lambda: not still_open(asleep))
        asleep.ok("backup", str(copy))
        submit(asleep, 3)
        until(lambda: not still_open(asleep))
    seen = rows(path, "SELECT MAX(num) FROM events")[0][0]
    asleep.ok("restore", str(copy), "--replace")
    with asleep.listening("serve", "--port", asleep.port):
        submit(asleep, 6)
        until(lambda: not still_open(asleep))
    assert rows(path, f"SELECT COUNT(*) FROM events WHERE num > {seen}") == [(2,)]


def test_what_cannot_be_copied_or_replaced_is_refused_and_left_as_it_was(world: World, folder: Folder) -> None:
    """Beside a running service."""
    copy = world.path / "taken.db"
    world.ok("backup", str(copy))
    again = world.run("backup", str(copy))
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    there = world.run("restore", str(copy))
    assert (there.returncode, "--replace" in there.stderr) == (2, True)
    running = world.run("restore", str(copy), "--replace")
    assert (running.returncode, f"in use by process {world.pid}" in running.stderr) == (2, True)
    marking = world.run("restore")
    assert (marking.returncode, "in use by process" in marking.stderr) == (2, True)
    nothing = folder.run("backup", "copy.db")
    assert (nothing.returncode, "no database" in nothing.stderr) == (2, True)
    (folder.path / "notes.db").write_text("these are notes, and long enough to be looked at as a database would be" * 9)
    other = folder.run("restore", "notes.db")
    assert (other.returncode, "no database of Callsheet" in other.stderr) == (2, True)
    assert {path.name for path in folder.path.iterdir()} <= {"notes.db", "callsheet.db.lock"}
    assert "no database" in folder.run("restore").stderr


def test_an_open_database_is_not_replaced_and_a_replaced_one_is_kept_whole(asleep: World) -> None:
    path, copy = asleep.path / "callsheet.db", asleep.path / "copy.db"
    with asleep.listening("serve", "--port", asleep.port, "--role", "api"):  # holds no lock of the loops
        submit(asleep, 0)
        asleep.ok("backup", str(copy))
        submit(asleep, 3)
        refused = asleep.run("restore", str(copy), "--replace")
        assert (refused.returncode, "is open elsewhere" in refused.stderr) == (2, True)
        submit(asleep, 6)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
    moved = path.with_name(json.loads(asleep.ok("restore", str(copy), "--replace", "--json"))["replaced"])
    assert rows(moved, "SELECT COUNT(*) FROM jobs") == [(3,)]
    assert rows(path, "SELECT COUNT(*) FROM jobs") == [(1,)]


def test_a_damaged_database_makes_no_backup(asleep: World) -> None:
    path = asleep.path / "callsheet.db"
    asleep.ok("migrate")
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        page = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'jobs'").fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    damaged = asleep.run("backup", "copy.db")
    assert (damaged.returncode, (asleep.path / "copy.db").exists()) == (2, False)
    assert "damaged" in damaged.stderr


def test_a_backup_holds_nobody_up(asleep: World) -> None:
    """40 MB are copied while submits are taken; none waits as long as the copy takes."""
    with asleep.listening("serve", "--port", asleep.port, "--role", "api"):
        blob = "x" * 900_000
        for n in range(45):
            body = {"provider": "peakmv", "operation": "generate", "input": {"audio_url": "https://m.example/a.mp3"}}
            asleep.api(
                "POST", "/v1/jobs", {**body, "input": body["input"] | {"prompt": blob}, "metadata": {"n": str(n)}}
            )
        took: list[float] = []
        done = threading.Event()

        def loading() -> None:
            while not done.is_set():
                began = time.monotonic()
                submit(asleep, 0)
                took.append(time.monotonic() - began)

        thread = threading.Thread(target=loading)
        thread.start()
        began = time.monotonic()
        said = json.loads(asleep.ok("backup", "copy.db", "--json"))
        whole = time.monotonic() - began
        done.set()
        thread.join()
    assert said["bytes"] > 40_000_000 and len(took) > 5
    assert max(took) < max(0.5, whole), (max(took), whole)
    print(f"\n{said['bytes']:,} bytes in {whole:.2f} s; slowest of {len(took)} submits meanwhile {max(took):.3f} s")
