"""What every operation refuses over HTTP before its provider is called: the field is named, the ledgers stay empty."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from service import providers
from service.providers import Operation
from tests.charges.running import serving
from tests.providers.cases import NAMES, example_call
from tests.providers.test_contract_input import WRONG, param_of, required_places, without
from tests.web.served import ADMIN, Served

OPERATIONS = [(name, operation) for name in NAMES for operation in providers.load(name).operations]
EXCLUSIVE = [
    ("peakmv", "generate", {"audio_url": "https://a.example/s.mp3", "version": "v1", "lipsync": True}, "input.lipsync"),
    ("pixverse", "lip_sync",
     {"source_video_id": 1, "video_media_id": 2, "audio_media_id": 3}, "input.source_video_id"),
    ("pixverse", "restyle", {"source_video_id": 1, "restyle_id": 2, "restyle_prompt": "ink"}, "input.restyle_id"),
    ("aimlapi", "video",
     {"model": "pixverse/lip-sync", "video_url": "https://a.example/v.mp4", "audio_url": "https://a.example/a.mp3",
      "lip_sync_tts_speaker": "Harper", "lip_sync_tts_content": "hello"}, "input."),
]  # fmt: skip
PROSE = ("notes.txt", b"only words\n", "text/plain")


class World:
    def __init__(self, served: Served, sandbox: str):
        self.served, self.sandbox = served, sandbox
        self.http = httpx2.Client(base_url=served.url, headers={"Authorization": f"Bearer {ADMIN}"}, timeout=20)

    def refused(self, provider: str, operation: str, given: Any, status: int = 422) -> Any:
        body = {"provider": provider, "operation": operation, "input": given}
        reply = self.http.post("/v1/jobs", json=body)
        assert reply.status_code == status, (provider, operation, given, reply.text[:500])
        return reply.json()

    def ledger(self, provider: str) -> list[Any]:
        rows: list[Any] = httpx2.get(f"{self.sandbox}/_sandbox/{provider}/ledger").json()["data"]
        return rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as ends:
        served, sandbox = ends.enter_context(serving(tmp_path_factory.mktemp("refused")))
        world = World(served, sandbox)
        ends.callback(world.http.close)
        yield world
        time_for_the_loops = world.http.post("/internal/tick", json={"budget_seconds": 5})
        assert time_for_the_loops.status_code == 200
        assert {name: world.ledger(name) for name in NAMES} == {name: [] for name in NAMES}


def row_of(name: str, operation: str) -> Operation:
    return providers.load(name).operations[operation]


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_what_is_missing_or_of_a_wrong_type_is_named(world: World, name: str, operation: str) -> None:
    row, given = row_of(name, operation), example_call(name, operation)["input"]
    for path in required_places(row.input_schema, given):
        assert world.refused(name, operation, without(given, path))["param"] == param_of(path)
    for path in required_places(row.input_schema, given):
        if len(path) == 1 and row.input_schema["properties"][path[0]].get("type") not in (None, "object"):
            refused = world.refused(name, operation, {**given, path[0]: WRONG})
            assert refused["param"] == param_of(path)
            assert refused["detail"]


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_what_is_too_large_is_refused(world: World, name: str, operation: str) -> None:
    most = row_of(name, operation).max_body
    if most > 4 * 1024 * 1024:
        pytest.skip(f"it takes {most} bytes; the limit itself is the same code")
    given = {**example_call(name, operation)["input"], "padding": "x" * most}
    assert world.refused(name, operation, given, 413)["code"] == "too_large"


@pytest.mark.parametrize(("name", "operation", "given", "param"), EXCLUSIVE)
def test_what_excludes_each_other_is_named(
    world: World, name: str, operation: str, given: dict[str, Any], param: str
) -> None:
    assert world.refused(name, operation, given)["param"].startswith(param)


def test_a_file_of_the_wrong_kind_is_refused_by_the_field_that_names_it(world: World) -> None:
    made = world.http.post("/v1/files", files={"file": PROSE})
    assert made.status_code == 201, made.text
    tried = 0
    for name, operation in OPERATIONS:
        row, given = row_of(name, operation), example_call(name, operation)["input"]
        for field, schema in row.input_schema.get("properties", {}).items():
            others = [use for use in row.files(given) if use.path != (field,)]  # there is no such file
            if schema.get("x-file", {}).get("types") and field in given and not others:
                refused = world.refused(name, operation, {**given, field: made.json()["id"]})
                assert refused["param"] == f"input.{field}", (name, operation, refused)
                tried += 1
    assert tried >= 12


def test_what_is_beyond_the_tier_is_refused_naming_the_tier_that_allows_it(world: World) -> None:
    account = f"{world.sandbox}/_sandbox/progressiverobot/account"
    assert httpx2.put(account, json={"tier": "free"}).status_code == 200
    large = {"prompt": "a cat", "model": "wan-t2v", "frames": 300}
    refused = world.refused("progressiverobot", "generate", large)
    assert refused["param"] == "input.frames"
    assert "pro" in refused["detail"].lower()
    for operation, tier in (("tts_generate", "creator"), ("tools_face_swap", "pro"), ("brand_kits_apply", "pro")):
        given = example_call("progressiverobot", operation)["input"]
        files = [use for use in row_of("progressiverobot", operation).files(given)]
        if not files:
            assert tier in world.refused("progressiverobot", operation, given)["detail"].lower()
