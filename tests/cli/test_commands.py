"""The commands that talk to a service: tables for people, the API's JSON for scripts."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import VIDEO, World, until


@pytest.fixture(scope="module")
def job(world: World) -> str:
    """A job that has succeeded and whose events have arrived."""
    world.api("POST", "/v1/endpoints", {"url": f"{world.subscriber}/", "description": "the module's"})
    body = {"provider": "pixverse", "operation": "text_to_video", "input": VIDEO, "metadata": {"from": "commands"}}
    job_id = str(world.api("POST", "/v1/jobs", body)["id"])

    def arrived() -> bool:
        return any(row["type"] == "job.succeeded" and job_id in row["body"] for row in world.received())

    until(arrived)
    return job_id


def of(world: World, *arguments: str) -> Any:
    return json.loads(world.ok(*arguments, "--json"))


def test_jobs_are_listed_filtered_and_shown(world: World, job: str) -> None:
    lines = world.ok("jobs", "list", "--metadata", "from=commands").splitlines()
    assert lines[0].split()[:4] == ["ID", "STATUS", "PROVIDER", "OPERATION"]
    assert lines[1].split()[:4] == [job, "succeeded", "pixverse", "text_to_video"]
    assert of(world, "jobs", "list", "--status", "failed")["data"] == []
    assert of(world, "jobs", "list", "--since", "1h", "--metadata", "from=commands")["data"][0]["id"] == job
    assert of(world, "jobs", "list", "--until", "1h")["data"] == []
    assert of(world, "jobs", "get", job)["status"] == "succeeded"
    assert world.ok("jobs", "get", job).splitlines()[0].split() == ["id", job]
    missing = world.run("jobs", "get", "job_nobody")
    assert (missing.returncode, missing.stderr) == (1, "error: There is no such job. See GET /v1/jobs. (job_id)\n")


def test_a_timeline_reads_downward(world: World, job: str) -> None:
    until(lambda: "200, accepted" in world.ok("jobs", "timeline", job))  # written after it has arrived
    lines = world.ok("jobs", "timeline", job).splitlines()
    assert lines[0] == "+  0.000 s  accepted: durable from here on"
    said = "\n".join(lines)
    for words in ("submit: accepted", "callback verified", "event job.succeeded", "200, accepted"):
        assert words in said
    assert of(world, "jobs", "timeline", job)["data"][0]["kind"] == "accepted"


def test_jobs_that_are_over_are_not_canceled_or_resolved(world: World, job: str) -> None:
    for arguments in (("jobs", "cancel", job), ("jobs", "resolve", job, "fail")):
        refused = world.run(*arguments)
        assert refused.returncode == 1
        assert "The job is succeeded" in refused.stderr


def test_content_is_erased_once_it_is_confirmed(world: World, job: str) -> None:
    body = {"provider": "pixverse", "operation": "text_to_video", "input": VIDEO}
    other = world.api("POST", "/v1/jobs", body)["id"]
    until(lambda: world.api("GET", f"/v1/jobs/{other}")["status"] == "succeeded")
    assert world.run("jobs", "erase", other, given="n\n").returncode == 1
    assert "no content any more" in world.ok("jobs", "erase", other, "--yes")
    assert world.api("GET", f"/v1/jobs/{other}")["input"] is None


def test_an_endpoint_from_creation_to_deletion(world: World, job: str) -> None:
    url = f"{world.subscriber}/second"
    made = of(world, "endpoints", "create", url, "--type", "job.failed", "--filter", "provider=peakmv")
    endpoint = made["id"]
    assert made["secret"].startswith("whsec_")
    assert (made["event_types"], made["filter"]) == (["job.failed"], {"provider": "peakmv"})
    assert endpoint in world.ok("endpoints", "list")
    assert of(world, "endpoints", "update", endpoint, "--status", "paused")["status"] == "paused"
    assert of(world, "endpoints", "update", endpoint, "--status", "active")["status"] == "active"
    assert of(world, "endpoints", "rotate", endpoint, "--overlap", "1h")["secret"] != made["secret"]
    assert "is on its way" in world.ok("endpoints", "test", endpoint)
    until(lambda: any(row["type"] == "endpoint.test" for row in world.received()))
    assert "deliveries are due again" in world.ok("endpoints", "recover", endpoint, "--since", "1h")
    assert "secret" not in of(world, "endpoints", "get", endpoint)
    assert world.ok("endpoints", "delete", endpoint) == f"{endpoint} is deleted\n"
    assert world.run("endpoints", "get", endpoint).returncode == 1


def test_a_filter_compares_metadata_as_submit_sends_it(world: World) -> None:
    url = f"{world.subscriber}/filtered"
    made = of(world, "endpoints", "create", url, "--type", "job.processing", "--filter", "metadata.order=1042")
    assert made["filter"] == {"metadata.order": "1042"}
    fields = [part for name, value in VIDEO.items() for part in ("-f", f"{name}={value}")]
    other, ours = (
        of(world, "submit", "pixverse", "text_to_video", *fields, "--metadata", f"order={order}")["id"]
        for order in ("1043", "1042")
    )
    listed = until(lambda: of(world, "deliveries", "list", "--endpoint", made["id"])["data"])
    assert [row["job"] for row in listed] == [ours] != [other]
    refused = world.run("endpoints", "update", made["id"], "--filter", "metdata.order=1042")
    assert refused.returncode == 1 and "metadata.<name>" in refused.stderr, refused.stderr
    world.ok("endpoints", "delete", made["id"])


def test_a_refused_endpoint_names_the_field(world: World) -> None:
    refused = world.run("endpoints", "create", "ftp://example.com/")
    assert refused.returncode == 1
    assert refused.stderr.endswith("(url)\n")


def test_events_and_deliveries_are_listed_and_sent_again(world: World, job: str) -> None:
    (event,) = of(world, "events", "list", "--type", "job.succeeded", "--job", job)["data"]
    assert event["id"] in world.ok("events", "list")
    assert of(world, "events", "get", event["id"])["job"] == job
    assert "job.succeeded" in world.ok("events", "types")
    (delivery,) = of(world, "deliveries", "list", "--event", event["id"])["data"]
    path = f"/v1/deliveries/{delivery['id']}"
    until(lambda: world.api("GET", path)["status"] == "delivered")
    assert delivery["id"] in world.ok("deliveries", "list", "--job", job)
    shown = world.ok("deliveries", "get", delivery["id"])
    assert "STATUS_CODE" in shown
    assert of(world, "deliveries", "get", delivery["id"])["attempts"][0]["status_code"] == 200

    def times() -> int:
        return sum(row["webhook_id"] == event["id"] for row in world.received())

    before = times()
    assert world.ok("deliveries", "retry", delivery["id"]) == f"{delivery['id']} is due now\n"
    until(lambda: times() >= before + 1)
    assert times() == before + 1
    until(lambda: world.api("GET", path)["status"] == "delivered")
    assert world.ok("events", "replay", event["id"]) == "1 deliveries are due again\n"
    until(lambda: times() >= before + 2)
    assert times() == before + 2


def test_lists_are_paged(world: World, job: str) -> None:
    world.ok("tenants", "create", "one")
    for name in ("two", "three"):
        world.api("POST", "/v1/tenants", {"name": name})
    shown = world.run("tenants", "list", "--limit", "2")
    assert len(shown.stdout.splitlines()) == 3
    assert "there are more: --limit or --all" in shown.stderr
    everything = of(world, "tenants", "list", "--all")
    assert {row["name"] for row in everything["data"]} >= {"default", "one", "two", "three"}
    assert everything["next_cursor"] is None
    assert world.ok("tenants", "delete", "one") == "one is deleted\n"
    assert of(world, "jobs", "list", "--tenant", "two")["data"] == []


def test_keys_are_made_beside_the_service_and_work_at_once(world: World) -> None:
    made = world.run("keys", "create", "--name", "shop")
    key = made.stdout.strip()
    assert key.startswith("cs_sk_")
    assert "not shown again" in made.stderr
    assert key not in made.stderr
    assert of(world, "jobs", "list", "--limit", "1") == json.loads(
        world.ok("jobs", "list", "--limit", "1", "--json", API_KEY=key)
    )
    scoped = world.run("keys", "list", API_KEY=key)
    assert scoped.returncode == 1
    assert "lacks the scope" in scoped.stderr
    (row,) = [row for row in of(world, "keys", "list")["data"] if row["name"] == "shop"]
    assert key.startswith(row["prefix"])
    assert world.ok("keys", "revoke", row["id"]) == f"{row['id']} is revoked\n"
    assert world.run("jobs", "list", API_KEY=key).returncode == 1


def test_a_key_of_a_tenant_sees_that_tenant_alone(world: World, job: str) -> None:
    world.ok("tenants", "create", "acme")
    made = of(
        world, "keys", "create", "--name", "theirs", "--tenant", "acme", "--scope", "jobs:read", "--expires-in", "1h"
    )
    assert (made["tenant"], made["scopes"]) == ("acme", ["jobs:read"])
    assert made["expires_at"] is not None
    assert json.loads(world.ok("jobs", "list", "--json", API_KEY=made["key"]))["data"] == []
    for arguments in (("--tenant", "nobody"), ("--scope", "everything")):
        refused = world.run("keys", "create", "--name", "x", *arguments)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_files_are_uploaded_listed_and_deleted(world: World, tmp_path: Path) -> None:
    image = tmp_path / "a cat.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 3_000_000)
    file_id = world.ok("files", "upload", str(image)).strip()
    lines = world.ok("files", "list").splitlines()
    assert lines[0].split() == ["ID", "NAME", "CONTENT_TYPE", "BYTES", "EXPIRES_AT"]
    assert lines[1].split()[:5] == [file_id, "a", "cat.png", "image/png", "3000008"]
    assert of(world, "files", "list")["data"][0]["id"] == file_id
    refused = world.run("files", "upload", str(image), "--type", "video/mp4")
    assert refused.returncode == 1 and "begins like image/png" in refused.stderr
    assert world.ok("files", "delete", file_id) == f"{file_id} is deleted\n"
    assert of(world, "files", "list")["data"] == []
