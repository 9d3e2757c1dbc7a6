"""Replicate: what its published clients ask beside predictions, replies that are held, limits of time."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from .conftest import Sandbox
from .test_replicate import VERSION, Replicate

Until = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def replicate(sandbox: Sandbox) -> Replicate:
    return Replicate(sandbox)


def submitted(replicate: Replicate, path: str = "predictions", **headers: str) -> httpx2.Response:
    body = {"version": VERSION, "input": {"prompt": "a red kite"}}
    named = {"Authorization": "Bearer sandbox", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return replicate.sandbox.http.post(f"/replicate/v1/{path}", json=body, headers=named)


@pytest.mark.parametrize("prefer", ["wait", "wait=5", "respond-async, wait=3"])
def test_prefer_wait_holds_the_reply_until_the_end(replicate: Replicate, prefer: str) -> None:
    replicate.faults(duration_s=[0.3, 0.3])
    reply = submitted(replicate, Prefer=prefer)
    assert (reply.status_code, reply.json()["status"]) == (201, "succeeded") and reply.json()["output"]


@pytest.mark.parametrize("prefer", ["wait=1", "wait=0", "wait=61", "waiting", "wait=x"])
def test_the_wait_ends_without_an_output_after_its_time(replicate: Replicate, prefer: str) -> None:
    replicate.faults(duration_s=[30, 30])
    reply = submitted(replicate, Prefer=prefer)
    assert (reply.status_code, reply.json()["status"], reply.json()["output"]) == (201, "starting", None)


@pytest.mark.parametrize(("duration", "status"), [(60, "aborted"), (8, "canceled")])
def test_cancel_after_ends_what_takes_too_long(
    replicate: Replicate, until: Until, duration: float, status: str
) -> None:
    before = replicate.account()["credits"]
    replicate.faults(duration_s=[duration, duration])
    reply = submitted(replicate, Cancel_After="5s")
    made = until(lambda: (read := replicate.read(reply.json()))["completed_at"] and read)
    assert made["status"] == status and made["error"] is None
    replicate.faults()
    submitted(replicate)
    charged = [row["charged"] for row in replicate.sandbox.ledger("replicate")]
    assert charged == [0 if status == "aborted" else 1, 1]
    assert replicate.account()["credits"] == before - sum(charged)


@pytest.mark.parametrize("given", ["1m", "90", "1h30m", "24h", "5s"])
def test_every_notation_of_a_duration_is_taken(replicate: Replicate, given: str) -> None:
    assert submitted(replicate, Cancel_After=given).status_code == 201


@pytest.mark.parametrize("given", ["", "1s", "soon", "25h", "-5s", "1.5m"])
def test_duration_that_cannot_be_is_refused(replicate: Replicate, given: str) -> None:
    reply = submitted(replicate, Cancel_After=given)
    assert reply.status_code == 400 and "Cancel-After" in reply.json()["detail"]
    assert replicate.sandbox.ledger("replicate") == []


@pytest.mark.parametrize("version", ["abc", "A" * 64, "a" * 63, "acme/model:short", "/model", "acme/"])
def test_version_that_nobody_has_is_refused(replicate: Replicate, version: str) -> None:
    reply = replicate("POST", "predictions", json={"version": version, "input": {}})
    assert (reply.status_code, reply.json()["title"]) == (422, "Invalid version or not permitted")
    assert replicate.sandbox.ledger("replicate") == []


@pytest.mark.parametrize("version", ["a" * 64, f"acme/model:{'0' * 64}", "acme/model"])
def test_version_is_its_digits_or_a_models_name(replicate: Replicate, version: str) -> None:
    assert replicate("POST", "predictions", json={"version": version, "input": {}}).status_code == 201


def test_only_named_models_are_there_where_any_are_named(replicate: Replicate) -> None:
    replicate.account(models=["acme/flux"])
    assert replicate("POST", "models/acme/flux/predictions", json={"input": {}}).status_code == 201
    for method, path in (
        ("POST", "models/acme/other/predictions"), ("POST", "deployments/acme/other/predictions"),
        ("GET", "models/acme/other"), ("GET", "models/acme/other/versions"), ("GET", "deployments/acme/other"),
    ):  # fmt: skip
        reply = replicate(method, path, json={"input": {}} if method == "POST" else None)
        assert reply.status_code == 404 and set(reply.json()) == {"title", "detail", "status"}


def test_models_and_versions_are_shown_with_the_schema_of_their_output(replicate: Replicate) -> None:
    model = replicate("GET", "models/acme/llama-3").json()
    assert (model["owner"], model["name"], model["visibility"]) == ("acme", "llama-3", "public")
    listed = replicate("GET", "models/acme/llama-3/versions").json()["results"]
    assert [row["id"] for row in listed] == [model["latest_version"]["id"]]
    version = replicate("GET", f"models/acme/llama-3/versions/{VERSION}").json()
    output = version["openapi_schema"]["components"]["schemas"]["Output"]
    assert version["id"] == VERSION and output["x-cog-array-type"] == "iterator"
    assert replicate("GET", "models/acme/llama-3/versions/nope").status_code == 404
    assert len(replicate("GET", "models").json()["results"]) > 1
    found = replicate("QUERY", "models", content=b"llama").json()["results"]
    assert [row["name"] for row in found] == ["llama"]


def test_what_else_an_account_may_list(replicate: Replicate) -> None:
    assert {row["sku"] for row in replicate("GET", "hardware").json()} >= {"cpu", "gpu-t4"}
    (one,) = replicate("GET", "collections").json()["results"]
    assert replicate("GET", f"collections/{one['slug']}").json()["models"] and "models" not in one
    (deployed,) = replicate("GET", "deployments").json()["results"]
    shown = replicate("GET", f"deployments/{deployed['owner']}/{deployed['name']}").json()
    assert shown == deployed and shown["current_release"]["configuration"]["hardware"]
    assert replicate("GET", "trainings").json()["results"] == []


def test_files_are_kept_shown_downloaded_and_deleted(replicate: Replicate) -> None:
    given = {"content": ("cat.png", b"\x89PNG\r\n--x\x00", "image/png")}
    made = replicate("POST", "files", files=given, data={"metadata": '{"a": 1}'})
    assert made.status_code == 201
    file = made.json()
    assert (file["name"], file["content_type"], file["size"], file["metadata"]) == (
        "cat.png",
        "image/png",
        10,
        {"a": 1},
    )
    assert replicate("GET", f"files/{file['id']}").json() == file == replicate("GET", "files").json()["results"][0]
    assert replicate("GET", f"files/{file['id']}/download").content == given["content"][1]
    assert replicate("DELETE", f"files/{file['id']}").status_code == 204
    assert replicate("GET", f"files/{file['id']}").status_code == 404
    assert replicate("POST", "files", data={"name": "x"}).status_code == 422


@pytest.mark.parametrize("name", ["llama", "flux"])
def test_stream_gives_the_output_and_ends(replicate: Replicate, name: str) -> None:
    made = replicate("POST", f"models/acme/{name}/predictions", json={"input": {}, "stream": True}).json()
    reply = replicate.sandbox.http.get(made["urls"]["stream"])
    assert reply.headers["content-type"].startswith("text/event-stream")
    said = [dict(line.split(": ", 1) for line in event.split("\n")) for event in reply.text.strip("\n").split("\n\n")]
    assert [one["event"] for one in said][-1] == "done" and {one["event"] for one in said[:-1]} == {"output"}


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "nothing", 404), ("DELETE", "predictions/x", 405)])
def test_what_is_not_there_is_said_in_json(replicate: Replicate, method: str, path: str, status: int) -> None:
    reply = replicate(method, path)
    assert reply.status_code == reply.json()["status"] == status


@pytest.mark.parametrize(
    "path", ["models", "models/a/b", "models/a/b/versions", "hardware", "collections", "files", "deployments"]
)
def test_wrong_key_is_401(replicate: Replicate, path: str) -> None:
    assert replicate("GET", path, key="wrong").status_code == 401
