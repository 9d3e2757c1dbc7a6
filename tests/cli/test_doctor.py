"""`callsheet doctor` and `callsheet migrate`."""

import base64
import json
import sqlite3
import stat
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx2
import pytest

from service.crypto import generate_master_key
from service.stores.migrations import migrations
from tests.cli.conftest import KEY, VIDEO, Folder, World, free_port, until
from tests.stores import server


def checks(said: str) -> dict[str, tuple[str, str]]:
    return {row["check"]: (row["state"], row["detail"]) for row in json.loads(said)["checks"]}


def charged(world: World) -> list[Any]:
    return world.ledger("pixverse") + world.ledger("peakmv")


def test_beside_a_service_all_is_well_and_nothing_is_spent(world: World) -> None:
    before = charged(world)
    found = checks(world.ok("doctor", "--json"))
    assert {name for name, (state, _) in found.items() if state != "ok"} <= {"sqlite"}
    assert found["durability"][1].startswith("synchronous=FULL")
    assert found["public URL"][1].endswith("is this service")
    assert "PixVerse accepts the key" in found["pixverse"][1]
    assert "PeakMV accepts the key" in found["peakmv"][1]
    assert f"schema {migrations('sqlite')[-1].version}" in found["database"][1]
    assert found["safety"][0] == "ok"
    assert "keep a copy of" in found["master keys"][1] and "callsheet.db.key" in found["master keys"][1]
    assert charged(world) == before
    assert f"in use by process {world.pid} (" in world.ok("doctor")


def test_what_fails_is_exit_code_1(world: World) -> None:
    refused = world.run("doctor", "--json", PEAKMV_API_KEY="wrong", PEAKMV_BASE_URL=f"{world.sandbox}/peakmv")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["ok"] is False
    state, detail = checks(refused.stdout)["peakmv"]
    assert (state, "does not accept this key" in detail) == ("failed", True)


def test_bad_settings_and_no_database_are_findings(folder: Folder) -> None:
    bad = folder.run("doctor", LOG_LEVEL="loud")
    assert bad.returncode == 1
    assert bad.stdout.splitlines()[1].split()[:3] == ["settings", "FAILED", "CALLSHEET_LOG_LEVEL"]
    none = folder.run("doctor")
    assert none.returncode == 1
    assert "`callsheet migrate` makes one" in none.stdout
    assert not (folder.path / "callsheet.db").exists()


def test_tables_room_and_what_is_due_are_told_with_their_figures(asleep: World) -> None:
    with asleep.listening("serve", "--role", "api", "--port", asleep.port):
        for _ in range(3):
            asleep.api("POST", "/v1/jobs", {"provider": "pixverse", "operation": "text_to_video", "input": VIDEO})
        rows = {row["check"]: row for row in json.loads(asleep.ok("doctor", "--json"))["checks"]}
    assert rows["tables"]["data"]["jobs"]["rows"] == 3 and rows["tables"]["data"]["jobs"]["bytes"] >= 4096
    assert "jobs 3 rows" in rows["tables"]["detail"]
    assert (
        rows["backlog"]["data"]["submit"]["count"] == 3 and "3 to submit, the oldest since" in rows["backlog"]["detail"]
    )
    assert 0 < rows["disk"]["data"]["free_bytes"] <= rows["disk"]["data"]["total_bytes"]
    assert rows["runtime"]["detail"].startswith("Callsheet ")
    assert f"SQLite {sqlite3.sqlite_version}" in rows["database"]["detail"]
    assert rows["loops"]["detail"] == "no process runs them now"


def test_a_copy_says_what_its_first_start_will_do(asleep: World) -> None:
    asleep.ok("migrate")
    asleep.ok("backup", "copy.db")
    asleep.ok("restore", "copy.db", "--replace")
    assert "becomes unknown" in checks(asleep.ok("doctor", "--json"))["copy"][1]
    asleep.ok("tick")
    assert checks(asleep.ok("doctor", "--json"))["copy"][1].startswith("restored from a backup at 2")


def test_what_is_unsafe_is_told_with_its_remedy_and_fails(folder: Folder) -> None:
    given = {"PUBLIC_URL": "http://callsheet.invalid", "MASTER_KEYS": f"a:{base64.b64encode(b'k' * 32).decode()}"}
    folder.ok("migrate", **given)
    assert stat.S_IMODE((folder.path / "callsheet.db").stat().st_mode) == 0o600
    (folder.path / "callsheet.db").chmod(0o644)
    (folder.path / ".env").write_text("CALLSHEET_LOG_LEVEL=INFO")
    (folder.path / ".env").chmod(0o644)
    told = folder.run("doctor", "--json", EGRESS_ALLOW="0.0.0.0/0", RETRY_SCHEDULE="0,5", **given)
    assert told.returncode == 1
    rows = [(row["check"], row["state"], row["detail"]) for row in json.loads(told.stdout)["checks"]]
    for check, state, remedy in (
        ("CALLSHEET_PUBLIC_URL", "failed", "give an https URL"),
        ("CALLSHEET_EGRESS_ALLOW", "failed", "0.0.0.0/0 lets deliveries reach nearly everything"),
        ("CALLSHEET_RETRY_SCHEDULE", "warning", "2 attempts within 0:00:05"),
        ("CALLSHEET_DATABASE_URL", "warning", "is relative"),
        ("file modes", "failed", "chmod 600 .env"),
        ("file modes", "warning", "chmod 600 callsheet.db*"),
    ):
        assert [row for row in rows if row[:2] == (check, state) and remedy in row[2]], (check, rows)


def test_migrate_makes_the_database_once(folder: Folder) -> None:
    assert folder.ok("migrate") == folder.ok("migrate")
    assert (folder.path / "callsheet.db").exists()
    assert folder.run("doctor").returncode == 0


@pytest.mark.anyio
async def test_on_postgresql_it_counts_the_nodes_that_run_the_loops(tmp_path: Path) -> None:
    url, keys, ports = await server.database(tmp_path), generate_master_key(), (free_port(), free_port())
    folder = Folder(tmp_path, DATABASE_URL=url, MASTER_KEYS=keys, API_KEY=KEY)
    folder.ok("migrate")
    found = checks(folder.run("doctor", "--json").stdout)["loops"]
    assert found == ("warning", "no node runs them: start one, --role worker or all")
    with folder.listening("serve", "--role", "worker", "--port", str(ports[0])):
        with folder.listening("serve", "--port", str(ports[1])):
            assert checks(folder.run("doctor", "--json").stdout)["loops"] == ("ok", "run by 2 nodes now")
        assert checks(folder.run("doctor", "--json").stdout)["loops"] == ("ok", "run by 1 node now")


@pytest.mark.anyio
async def test_a_database_that_nodes_run_is_not_marked_as_restored(tmp_path: Path) -> None:
    url, keys, port = await server.database(tmp_path), generate_master_key(), free_port()
    folder = Folder(tmp_path, DATABASE_URL=url, MASTER_KEYS=keys, API_KEY=KEY)
    with folder.listening("serve", "--port", str(port)):
        refused = folder.run("restore")
        assert refused.returncode == 2 and "1 node" in refused.stderr and "stop" in refused.stderr
    assert "marked as restored" in folder.ok("restore")
    assert "becomes unknown" in checks(folder.run("doctor", "--json").stdout)["copy"][1]


@pytest.mark.anyio
async def test_what_the_url_gets_wrong_and_a_role_without_rights_are_sentences(tmp_path: Path) -> None:
    url = await server.database(tmp_path)
    folder = Folder(tmp_path, DATABASE_URL=url, MASTER_KEYS=generate_master_key(), API_KEY=KEY)
    glue = "&" if "?" in url else "?"
    for option, said in (
        ("notify=maybe", "`notify` is on or off"),
        ("foo=bar", "CALLSHEET_DATABASE_URL cannot be used"),
    ):
        refused = folder.run("migrate", DATABASE_URL=f"{url}{glue}{option}")
        assert refused.returncode == 2 and said in refused.stderr and "Traceback" not in refused.stderr, refused.stderr
    db = await asyncpg.connect(url)
    low = f"low_{uuid.uuid4().hex[:8]}"
    try:
        await db.execute(f"CREATE ROLE {low} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        refused = folder.run("migrate", DATABASE_URL=with_user(url, low))
        assert refused.returncode == 2 and "give the role" in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr
    finally:
        await db.execute(f"DROP ROLE {low}")
        await db.close()


def with_user(url: str, user: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}"))


def test_a_paused_credential_is_a_warning_with_its_remedy(asleep: World) -> None:
    httpx2.put(f"{asleep.sandbox}/_sandbox/pixverse/account", json={"api_key": "another"}).raise_for_status()
    with asleep.listening("serve", "--port", asleep.port):
        asleep.api("POST", "/v1/jobs", {"provider": "pixverse", "operation": "text_to_video", "input": VIDEO})
        until(
            lambda: "paused" in asleep.ok("credentials", "show", "pixverse", "--json").replace('paused_at": null', "")
        )
        state, said = checks(asleep.run("doctor", "--json").stdout)["credentials"]
    assert state == "warning" and "pixverse is paused" in said and "`callsheet credentials resume pixverse`" in said
