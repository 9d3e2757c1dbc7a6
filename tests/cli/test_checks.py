"""The doctor's judgments: each unsafe setting, each SQLite version, each file system; and what is fine."""

from pathlib import Path

import pytest

from service import providers
from service.app import build
from service.cli.checks import examine
from service.cli.checks_safety import unsafe
from service.cli.checks_storage import clocks, file_system, size, sqlite_version
from service.crypto import generate_master_key
from service.settings import load
from tests.stores import server
from tests.test_wrong_clocks import WrongClock

PUBLIC = {"PUBLIC_URL": "https://callsheet.example.com", "DATABASE_URL": "sqlite:////var/lib/callsheet/callsheet.db"}


def found(folder: Path, **variables: str) -> set[tuple[str, str]]:
    given = {f"CALLSHEET_{name}": value for name, value in variables.items()}
    settings = load(given, known_providers=providers.names())
    return {(finding.check.removeprefix("CALLSHEET_"), finding.state) for finding in unsafe(settings, folder)}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ("safety", "ok")),
        (PUBLIC, ("safety", "ok")),
        ({**PUBLIC, "PUBLIC_URL": "http://callsheet.example.com"}, ("PUBLIC_URL", "failed")),
        ({**PUBLIC, "SANDBOX_URL": "http://127.0.0.1:8090"}, ("SANDBOX_URL", "failed")),
        ({**PUBLIC, "RETRY_SCHEDULE": "0"}, ("RETRY_SCHEDULE", "warning")),
        ({**PUBLIC, "RETRY_SCHEDULE": "0,5,60"}, ("RETRY_SCHEDULE", "warning")),
        ({**PUBLIC, "RETRY_SCHEDULE": "0,60,3600"}, ("safety", "ok")),
        ({**PUBLIC, "DATABASE_URL": "sqlite:///callsheet.db"}, ("DATABASE_URL", "warning")),
        ({**PUBLIC, "EGRESS_ALLOW": "127.0.0.0/8"}, ("EGRESS_ALLOW", "warning")),
        ({**PUBLIC, "EGRESS_ALLOW": "10.1.0.0/16"}, ("safety", "ok")),
        (
            {"EGRESS_ALLOW": "127.0.0.0/8", "SANDBOX_URL": "http://127.0.0.1:1", "RETRY_SCHEDULE": "0,1"},
            ("safety", "ok"),
        ),
        ({"EGRESS_ALLOW": "0.0.0.0/0"}, ("EGRESS_ALLOW", "failed")),
        ({"EGRESS_ALLOW": "10.1.0.0/16,128.0.0.0/2"}, ("EGRESS_ALLOW", "failed")),
        ({"EGRESS_ALLOW": "::/0"}, ("EGRESS_ALLOW", "failed")),
        ({"EGRESS_ALLOW": "169.254.169.254/32"}, ("EGRESS_ALLOW", "failed")),
        ({"EGRESS_ALLOW": "fd00::/16"}, ("EGRESS_ALLOW", "failed")),
    ],
)
def test_each_setting_is_judged(variables: dict[str, str], expected: tuple[str, str], tmp_path: Path) -> None:
    assert found(tmp_path, **variables) == {expected}


@pytest.mark.parametrize("name", [".env", ".env.old", "callsheet.db.key", "callsheet.db"])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_what_everybody_can_read_is_told(name: str, mode: int, tmp_path: Path) -> None:
    (tmp_path / name).write_text("")
    (tmp_path / name).chmod(mode)
    state = "warning" if name == "callsheet.db" else "failed"
    expected = ("file modes", state) if mode == 0o644 else ("safety", "ok")
    assert found(tmp_path, DATABASE_URL=f"sqlite:///{tmp_path}/callsheet.db") == {expected}


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ((3, 34, 1), "failed"),
        ((3, 40, 1), "warning"),
        ((3, 44, 5), "warning"),
        ((3, 44, 6), "ok"),
        ((3, 45, 0), "warning"),
        ((3, 50, 6), "warning"),
        ((3, 50, 7), "ok"),
        ((3, 51, 2), "warning"),
        ((3, 51, 3), "ok"),
        ((3, 53, 0), "ok"),
    ],
)
def test_each_sqlite_version_is_judged(version: tuple[int, int, int], state: str) -> None:
    finding = sqlite_version(version)
    assert finding.state == state
    assert ("walresetbug" in finding.detail) == (state == "warning")


@pytest.mark.parametrize(
    ("place", "kind", "state"),
    [("data/here.db", "ext4", "ok"), ("shared/here.db", "nfs4", "failed"), ("shared/local disk/here.db", "xfs", "ok")],
)
def test_the_file_system_is_that_of_the_deepest_mount(place: str, kind: str, state: str, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    root = str(tmp_path.resolve())
    rows = ["overlay / overlay rw 0 0", f"/dev/sda {root} ext4 rw 0 0", f"srv:/x {root}/shared nfs4 rw 0 0"]
    mounts.write_text("\n".join([*rows, f"/dev/sdb {root}/shared/local\\040disk xfs rw 0 0"]))
    finding = file_system(tmp_path / place, mounts)
    assert (kind in finding.detail, finding.state) == (True, state)


def test_bytes_are_said_as_people_say_them() -> None:
    assert [size(n) for n in (0, 999, 4096, 40_808_448, 3 * 10**12)] == ["0 B", "999 B", "4.1 kB", "41 MB", "3.0 TB"]


@pytest.mark.parametrize(
    ("ahead_ms", "state", "said"),
    [
        (1_999, "ok", "agree"),
        (-1_999, "ok", "agree"),
        (2_500, "warning", "the database's clock is 2.5 s ahead of this node's"),
        (-90_000, "warning", "this node's clock is 90.0 s ahead of the database's"),
    ],
)
def test_clocks_that_differ_are_told_with_what_follows_which(ahead_ms: int, state: str, said: str) -> None:
    finding = clocks(ahead_ms)
    assert (finding.state, finding.data) == (state, {"database_ahead_ms": ahead_ms}) and said in finding.detail
    assert state == "ok" or ("signatures" in finding.detail and "NTP" in finding.detail)


@pytest.mark.anyio
@pytest.mark.parametrize(("by", "state"), [(0.0, "ok"), (-60.0, "warning"), (60.0, "warning")])
async def test_the_nodes_clock_is_compared_with_the_databases(by: float, state: str, tmp_path: Path) -> None:
    given = {"DATABASE_URL": await server.database(tmp_path), "MASTER_KEYS": generate_master_key()}
    settings = load({f"CALLSHEET_{name}": value for name, value in given.items()}, known_providers=providers.names())
    await (await build(settings)).close()
    (finding,) = [row for row in await examine(settings, clock=WrongClock(by)) if row.check == "clock"]
    assert finding.state == state and abs(finding.data["database_ahead_ms"] + by * 1000) < 1_000
