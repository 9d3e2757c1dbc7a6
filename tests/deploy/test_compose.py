"""compose.yaml: valid by the compose specification's own schema, its commands and variables known to the service."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.reading import BIN, DEPLOY, compose, parsed, run, settings

OURS = ("migrate", "api", "worker")


def validated(path: Path) -> Any:
    return run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def test_it_is_valid_by_the_specification() -> None:
    checked = validated(DEPLOY / "compose.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_schema_would_find_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DEPLOY / "compose.yaml").read_text().replace("read_only: true", "readonly: true"))
    checked = validated(wrong)
    assert checked.returncode == 1 and "readonly" in checked.stdout


def test_the_database_is_migrated_once_and_before_the_nodes_start() -> None:
    services = compose()["services"]
    assert parsed(services["migrate"]["command"])["command"] == "migrate"
    assert services["migrate"]["restart"] == "no"
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("api", "worker"):
        assert services[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
        started = parsed(services[name]["command"])
        assert (started["command"], started["role"], started["host"]) == ("serve", name, "0.0.0.0")


def test_only_the_api_is_published_and_on_this_machine_alone() -> None:
    services = compose()["services"]
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "api": ["127.0.0.1:8080:8080"]
    }
    assert services["postgres"]["networks"] == ["database"] and compose()["networks"]["database"] == {"internal": True}


@pytest.mark.parametrize("name", OURS)
def test_the_service_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and not service.get("privileged")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["stop_grace_period"].removesuffix("s")) > 25
    assert service["build"] == {"context": "..", "dockerfile": "deploy/Dockerfile"}
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).exists()


def test_every_variable_is_known_and_the_password_is_given_once_and_must_be() -> None:
    services, given = compose()["services"], "a1b2c3"
    required = re.compile(r"\$\{POSTGRES_PASSWORD:\?[^}]+\}")
    for name in OURS:
        environment = {key: required.sub(given, value) for key, value in services[name]["environment"].items()}
        url = settings(environment).database_url
        assert url == f"postgresql://callsheet:{given}@postgres:5432/callsheet"
        assert services[name]["env_file"] == ".env"
    postgres = services["postgres"]["environment"]
    assert required.fullmatch(postgres["POSTGRES_PASSWORD"])
    assert postgres["POSTGRES_USER"] == postgres["POSTGRES_DB"] == "callsheet"
    assert "$" not in required.sub("", (DEPLOY / "compose.yaml").read_text())


def test_the_way_to_a_newer_version_names_what_is_there() -> None:
    """`up` without dependencies, as their order would stop everything; the schema before the nodes."""
    lines = re.findall(r"^#   docker compose (.*)$", (DEPLOY / "compose.yaml").read_text(), re.MULTILINE)
    said = [line.split() for line in lines[lines.index("build") :]]
    services = compose()["services"]
    assert [line[-1] for line in said[1:]] == ["migrate", "worker", "api"] and set(OURS) <= set(services)
    assert all("--no-deps" in line for line in said if line[0] == "up")
    first = next(line for line in lines if line.startswith("up")).split()
    assert first[-1] in said[2], "it keeps as many workers as were started"


def test_images_are_pinned_and_data_has_a_volume() -> None:
    services = compose()["services"]
    assert re.fullmatch(r"postgres:\d+-\w+", services["postgres"]["image"])
    (mounted,) = services["postgres"]["volumes"]
    assert mounted.partition(":")[0] in compose()["volumes"]
    assert mounted.partition(":")[2] == "/var/lib/postgresql/data"
