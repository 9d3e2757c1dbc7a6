"""The systemd units: read strictly everywhere; verified and scored by systemd where it is installed."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.deploy.reading import DEPLOY, parsed, run, settings, unit, words

UNITS = {"callsheet.service": "callsheet.service", "callsheet-worker@.service": "callsheet-worker@8081.service"}
MOST_EXPOSED = 2.0  # of 10, as `systemd-analyze security` counts; without the hardening it is above 9
# Of systemd.exec(5), systemd.service(5) and systemd.kill(5): what this file may use.
HARDENING = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "PrivateUsers": "yes",
    "CapabilityBoundingSet": "",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectControlGroups": "yes",
    "SystemCallArchitectures": "native",
    "UMask": "0077",
    "StateDirectoryMode": "0700",
}
analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@pytest.fixture(params=UNITS)
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit, or one of a template, with a command that is there: verifying looks for it."""
    file = tmp_path / UNITS[request.param]
    text = (DEPLOY / request.param).read_text().replace("%i", "8081")
    file.write_text(text.replace("/opt/callsheet/bin/callsheet", "/bin/true"))
    return file


def test_it_starts_the_service_with_its_own_user_folder_and_settings() -> None:
    found = unit()
    assert set(found) == {"Unit", "Service", "Install"}
    program, *arguments = words(found.one("Service", "ExecStart"))
    assert Path(program).is_absolute() and parsed(arguments)["command"] == "serve"
    assert found.one("Service", "DynamicUser") == "yes"
    folder = f"/var/lib/{found.one('Service', 'StateDirectory')}"
    assert found.one("Service", "WorkingDirectory") == folder
    given = dict(pair.split("=", 1) for pair in found["Service"]["Environment"])
    database = settings(given).database_path
    assert database is not None and str(database.parent) == folder
    assert found.one("Install", "WantedBy") == "multi-user.target"


def test_a_stop_has_its_time_and_a_fault_a_restart() -> None:
    found = unit()
    assert int(found.one("Service", "TimeoutStopSec")) > 25
    assert found.one("Service", "Restart") == "on-failure"
    assert "KillSignal" not in found["Service"]  # SIGTERM, as the service expects


def test_a_worker_differs_in_its_role_and_port_alone_and_has_no_database_of_its_own() -> None:
    """Its user is the service's, whose folder they share: two users would take it from each other."""
    service, worker = unit(), unit("callsheet-worker@.service")
    program, *arguments = words(worker.one("Service", "ExecStart").replace("%i", "8081"))
    started = parsed(arguments)
    assert (started["command"], started["role"], started["port"]) == ("serve", "worker", 8081)
    assert program == words(service.one("Service", "ExecStart"))[0]
    assert service.one("Service", "User") == "callsheet"
    assert "Environment" not in worker["Service"]
    own = {"ExecStart", "Environment"}
    assert {key: value for key, value in worker["Service"].items() if key not in own} == {
        key: value for key, value in service["Service"].items() if key not in own
    }
    assert worker["Install"] == service["Install"]


@pytest.mark.parametrize("key", sorted(HARDENING))
def test_it_is_hardened(key: str) -> None:
    assert unit().one("Service", key) == HARDENING[key]


def test_what_it_needs_is_left_to_it() -> None:
    """The guard on deliveries reads this machine's own addresses in /proc/net, which ProcSubset=pid hides."""
    found = unit()["Service"]
    assert "ProcSubset" not in found and "PrivateNetwork" not in found and "IPAddressDeny" not in found
    assert set(found["RestrictAddressFamilies"][0].split()) == {"AF_INET", "AF_INET6", "AF_UNIX"}
    assert Path("/proc/net/fib_trie").exists() or os.uname().sysname != "Linux"


@analyze
def test_systemd_accepts_it(installed: Path) -> None:
    verified = run("systemd-analyze", "verify", installed)
    assert (verified.returncode, verified.stderr) == (0, "")


@analyze
def test_systemd_would_find_a_mistake(installed: Path) -> None:
    installed.write_text(installed.read_text().replace("ProtectHome=yes", "ProtectHome=perhaps\nProtectHme=yes"))
    verified = run("systemd-analyze", "verify", installed)
    assert "ProtectHme" in verified.stderr and "perhaps" in verified.stderr


@analyze
def test_its_exposure_is_small(installed: Path) -> None:
    scored = run("systemd-analyze", "security", "--offline=true", "--no-pager", installed)
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", scored.stdout)
    assert found is not None, scored.stdout + scored.stderr
    assert float(found[1]) < MOST_EXPOSED
