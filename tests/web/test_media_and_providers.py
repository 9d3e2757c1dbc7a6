"""Media all the way, with the sandbox: files taken there as their rules say, results that only the key opens."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.web.served import ADMIN, Served, sandbox_running

SIZE = 3_000_000
PNG = b"\x89PNG\r\n\x1a\n" + b"x" * SIZE
MP3 = b"ID3\x04\x00\x00\x00\x00\x00\x23" + b"x" * 1000
IMAGE = {"prompt": "it moves", "model": "v5", "duration": 5, "quality": "540p"}


class World:
    def __init__(self, served: Served, sandbox_url: str):
        self.served, self.sandbox_url = served, sandbox_url
        self.http = httpx2.Client(base_url=served.url, headers={"Authorization": f"Bearer {ADMIN}"}, timeout=60)

    def uploaded(self, content: bytes, name: str, kind: str) -> str:
        reply = self.http.post("/v1/files", files={"file": (name, content, kind)})
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])

    def submit(self, **body: Any) -> Any:
        return self.http.post("/v1/jobs", json=body)

    def accepted(self, **body: Any) -> Any:
        """The job once its provider has taken it."""
        made = self.submit(**body)
        assert made.status_code == 202, made.text
        for _ in range(5):
            assert self.http.post("/internal/tick", json={"budget_seconds": 30}).status_code == 200
            job = self.http.get(f"/v1/jobs/{made.json()['id']}").json()
            if job["provider_job_ids"]:
                return job
        raise AssertionError(job)

    def finished(self, **body: Any) -> Any:
        job = self.accepted(**body)
        ends = time.monotonic() + 40
        while job["status"] == "processing" and time.monotonic() < ends:
            assert self.http.post("/internal/tick", json={"budget_seconds": 10}).status_code == 200
            job = self.http.get(f"/v1/jobs/{job['id']}").json()
            time.sleep(0.1)
        assert job["status"] == "succeeded", job
        return job

    def ledger(self, provider: str) -> list[Any]:
        rows: list[Any] = httpx2.get(f"{self.sandbox_url}/_sandbox/{provider}/ledger").json()["data"]
        return rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    served = Served(Path(tmp_path_factory.mktemp("served")))
    with sandbox_running(served.url) as sandbox_url, served.running(sandbox_url):
        made = World(served, sandbox_url)
        yield made
        made.http.close()


def test_pixverse_is_given_the_bytes(world: World) -> None:
    file_id = world.uploaded(PNG, "cat.png", "image/png")
    job = world.accepted(provider="pixverse", operation="image_to_video", input={**IMAGE, "img_id": file_id})
    row = world.ledger("pixverse")[-1]
    assert row["provider_job_id"] == job["provider_job_ids"][0]
    assert isinstance(row["input"]["img_id"], int)  # the id that its upload gave
    assert job["input"]["img_id"] == file_id


def test_peakmv_is_given_a_url_and_can_open_it(world: World) -> None:
    file_id = world.uploaded(MP3, "song.mp3", "audio/mpeg")
    world.accepted(provider="peakmv", operation="generate", input={"audio_url": file_id})
    url = world.ledger("peakmv")[-1]["input"]["audio_url"]
    assert url.startswith(f"{world.served.url}/v1/files/content/")
    reply = httpx2.get(url)
    assert (reply.status_code, reply.content, reply.headers["content-type"]) == (200, MP3, "audio/mpeg")


@pytest.mark.parametrize("how", ["missing", "type"])
def test_a_file_that_cannot_be_used_is_refused_before_the_provider_is_called(world: World, how: str) -> None:
    before = len(world.ledger("pixverse"))
    file_id = world.uploaded(MP3, "song.mp3", "audio/mpeg") if how == "type" else "file_00000000000000000000000000"
    reply = world.submit(provider="pixverse", operation="image_to_video", input={**IMAGE, "img_id": file_id})
    assert (reply.status_code, reply.json()["param"]) == (422, "input.img_id")
    assert len(world.ledger("pixverse")) == before


def test_a_result_that_only_the_providers_key_opens_comes_through_us(world: World) -> None:
    job = world.finished(
        provider="progressiverobot", operation="generate", input={"prompt": "a cat", "model": "wan-t2v"}
    )
    output = job["outputs"][0]
    assert httpx2.get(output["url"]).status_code in (401, 403)
    whole = httpx2.get(output["stable_url"])
    assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
    assert whole.content[4:8] == b"ftyp" and len(whole.content) == int(whole.headers["content-length"])
    part = httpx2.get(output["stable_url"], headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert part.headers["content-range"] == f"bytes 4-7/{len(whole.content)}"


def test_a_result_that_anybody_may_open_is_where_its_url_leads(world: World) -> None:
    job = world.finished(
        provider="peakmv", operation="generate", input={"audio_url": "https://media.example.com/a.mp3"}
    )
    reply = httpx2.get(job["outputs"][0]["stable_url"], follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (302, job["outputs"][0]["url"])
    assert httpx2.get(reply.headers["location"]).status_code == 200
