"""Quotes, balances, catalogs, usage, credentials and budgets by command, against a service and a sandbox."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.conftest import VIDEO, World, until

FIELDS = [text for name, value in VIDEO.items() for text in ("-f", f"{name}={value}")]


def of(world: World, *arguments: str, **more: Any) -> Any:
    return json.loads(world.ok(*arguments, "--json", **more))


@pytest.fixture
def tenant(world: World, request: pytest.FixtureRequest) -> Iterator[str]:
    """A tenant of the test's own, so that no other test meets its budgets."""
    name = request.node.name.replace("test_", "")[:60]
    world.ok("tenants", "create", name)
    yield name


def test_a_quote_is_a_price_or_says_that_there_is_none(world: World) -> None:
    assert world.ok("quote", "pixverse", "text_to_video", *FIELDS) == "45 credits\n"
    found = of(world, "quote", "pixverse", "text_to_video", "--input", json.dumps(VIDEO))
    assert found == {"cost": {"amount": "45", "unit": "credits", "source": "quoted"}, "reason": None}
    unknown = world.run("quote", "pixverse", "text_to_video", "--input", json.dumps({**VIDEO, "model": "v99"}))
    assert (unknown.returncode, unknown.stdout) == (0, "no price is known\n")
    assert "says no price" in unknown.stderr
    refused = world.run("quote", "pixverse", "text_to_video", "-f", "prompt=x")
    assert refused.returncode == 1 and "(input." in refused.stderr


def test_the_balance_is_what_the_sandbox_has(world: World) -> None:
    amount, unit = world.ok("balance", "pixverse").split()
    assert (float(amount) > 0, unit) == (True, "credits")
    assert of(world, "balance", "pixverse")["provider_data"]["account_id"] == 1
    refused = world.run("balance", "peakmv")
    assert refused.returncode == 1 and "dashboard" in refused.stderr


def test_a_time_before_all_dates_is_refused(world: World) -> None:
    for arguments in (("usage",), ("reconcile", "--provider", "pixverse")):
        refused = world.run(*arguments, "--since", "999999d")
        assert refused.returncode == 2 and "999999d" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.parametrize("named", ["../../../keys", "..", ".", "a/../b", "", "a?b", "a#b", "a\nb", "a\\b"])
def test_an_argument_leads_to_no_other_path(world: World, named: str) -> None:
    """An admin's `files delete ../keys/key_...` would revoke a key."""
    for command in (("catalog", "pixverse"), ("files", "delete"), ("jobs", "get")):
        refused = world.run(*command, named)
        assert (refused.returncode, refused.stdout) == (2, "") and "error: " in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr


def test_catalogs_are_named_and_read(world: World) -> None:
    kinds = world.ok("catalog", "aimlapi").splitlines()
    assert kinds[0].split() == ["KIND", "DOCUMENTED", "AS_OF"]
    assert any(line.startswith("models ") for line in kinds)
    shown = world.run("catalog", "pixverse", "models")
    assert shown.returncode == 0 and len(shown.stdout.splitlines()) > 2
    assert "documented, as of 20" in shown.stderr
    assert of(world, "catalog", "pixverse", "models")["source"] == "documented"
    refused = world.run("catalog", "pixverse", "hats")
    assert refused.returncode == 1 and "models" in refused.stderr and "(kind)" in refused.stderr


def test_usage_counts_a_job_once_quoted_then_reported(world: World, tenant: str) -> None:
    job = of(world, "submit", "pixverse", "text_to_video", "--input", json.dumps(VIDEO), "--tenant", tenant)
    assert job["cost"] == {"amount": "45", "unit": "credits", "source": "quoted"}
    until(lambda: usage_line(world, tenant)["succeeded"] == 1)
    line = usage_line(world, tenant)
    assert (line["jobs"], line["amount_quoted"], line["amount_reported"]) == (1, "0", "45")
    table = world.ok("usage", "--tenant", tenant, "--by", "day", "--by", "operation", "--since", "1d").splitlines()
    assert table[0].split()[:4] == ["DAY", "OPERATION", "PROVIDER", "UNIT"]
    assert table[1].split()[1:5] == ["text_to_video", "pixverse", "credits", "1"]
    assert of(world, "usage", "--tenant", tenant, "--until", "1h")["data"] == []
    assert of(world, "usage", "--tenant", tenant, "--provider", "peakmv")["data"] == []


def usage_line(world: World, tenant: str) -> Any:
    (line,) = of(world, "usage", "--tenant", tenant)["data"]
    return line


def test_a_credential_from_stdin_to_deletion(world: World, tenant: str) -> None:
    made = world.run("credentials", "set", "pixverse", "--api-key-file", "-", "--tenant", tenant, given="key-9f2\n")
    assert (made.returncode, made.stdout) == (0, "new jobs use this key for pixverse\n")
    assert f"{world.url}/v1/callbacks/pixverse/credential-" in made.stderr
    shown = world.ok("credentials", "show", "pixverse", "--tenant", tenant)
    assert ["source", "api"] in [line.split() for line in shown.splitlines()]
    (world.path / "secret.txt").write_text("callback-secret-1d\n")
    file = ("--callback-secret-file", "secret.txt", "--callback-id", "4711")
    replaced = of(world, "credentials", "set", "pixverse", "--api-key-file", "-", *file, "--tenant", tenant, given="k")
    assert replaced["source"] == "api"
    for secret in ("key-9f2", "callback-secret-1d"):
        assert secret not in made.stdout + made.stderr + shown + json.dumps(replaced)
    assert world.run("credentials", "delete", "pixverse", "--tenant", tenant, given="n\n").returncode == 1
    assert "settings" in world.ok("credentials", "delete", "pixverse", "--yes", "--tenant", tenant)
    assert of(world, "credentials", "show", "pixverse", "--tenant", tenant)["source"] == "sandbox"
    assert world.run("credentials", "delete", "pixverse", "--yes", "--tenant", tenant).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "given", "sentence"),
    [
        (("--api-key-file", "missing.txt"), None, "missing.txt cannot be read"),
        (("--api-key-file", "-"), " \n", "- is empty"),
        (("--api-key-file", "-", "--callback-secret-file", "-"), "k", "only one of the two can come from stdin"),
    ],
)
def test_a_key_that_cannot_be_read_is_not_sent(
    world: World, arguments: tuple[str, ...], given: str | None, sentence: str
) -> None:
    refused = world.run("credentials", "set", "peakmv", *arguments, given=given)
    assert refused.returncode == 2 and sentence in refused.stderr
    assert of(world, "credentials", "show", "peakmv")["source"] == "sandbox"


def test_a_budget_holds_jobs_back_until_it_is_raised(world: World, tenant: str) -> None:
    said = world.ok("budgets", "set", "pixverse", "50", "--tenant", tenant)
    assert said == "50 credits a month for pixverse; 50 left\n"
    submit = ("submit", "pixverse", "text_to_video", "--input", json.dumps(VIDEO), "--tenant", tenant)
    world.ok(*submit)
    refused = world.run(*submit)
    assert refused.returncode == 1
    assert "5 left" in refused.stderr and refused.stderr.endswith("(budget)\n")
    table = world.ok("budgets", "list", "--tenant", tenant).splitlines()
    assert table[0].split()[:5] == ["PROVIDER", "PERIOD", "AMOUNT", "UNIT", "LEFT"]
    assert table[1].split()[:5] == ["pixverse", "month", "50", "credits", "5"]
    assert "in all" in world.ok("budgets", "set", "pixverse", "90", "--total", "--tenant", tenant)
    world.ok(*submit)
    assert world.ok("budgets", "delete", "pixverse", "--tenant", tenant) == "pixverse has no budget\n"
    world.ok(*submit)
    assert of(world, "budgets", "list", "--tenant", tenant)["data"] == []
    assert world.run("budgets", "set", "pixverse", "much", "--tenant", tenant).returncode == 1
