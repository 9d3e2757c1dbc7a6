"""`callsheet doctor` and `callsheet migrate`."""

import json
from typing import Any

from service.stores.migrations import migrations
from tests.cli.conftest import Folder, World


def checks(said: str) -> dict[str, tuple[str, str]]:
    return {row["check"]: (row["state"], row["detail"]) for row in json.loads(said)["checks"]}


def charged(world: World) -> list[Any]:
    return world.ledger("pixverse") + world.ledger("peakmv")


def test_beside_a_service_all_is_well_and_nothing_is_spent(world: World) -> None:
    before = charged(world)
    found = checks(world.ok("doctor", "--json"))
    assert {name for name, (state, _) in found.items() if state != "ok"} <= {"loops"}
    assert found["durability"][1].startswith("synchronous=FULL")
    assert found["public URL"][1].endswith("is this service")
    assert "PixVerse accepts the key" in found["pixverse"][1]
    assert "PeakMV accepts the key" in found["peakmv"][1]
    assert f"schema {migrations('sqlite')[-1].version}" in found["database"][1]
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


def test_migrate_makes_the_database_once(folder: Folder) -> None:
    assert folder.ok("migrate") == folder.ok("migrate")
    assert (folder.path / "callsheet.db").exists()
    assert folder.run("doctor").returncode == 0
