"""Submits by the provider's own API whose reply nobody has taken: their repeats are not sent again."""

import concurrent.futures
import contextlib
import json
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.through import BOTH, Client, Sandbox, a_key
from tests.upstream import Upstream, upstream_running
from tests.web.served import Served, sandbox_running

pytestmark = pytest.mark.xdist_group("passthrough")

PATH = "/api/v2/generate"
FAL = "/fal-ai/flux/dev"
SETTLED = (
    "fal",
    "aimlapi",
)  # what becomes of a lost submit can be looked up there, though only its caller has its body
SUBMITS: dict[str, tuple[str, dict[str, Any]]] = {
    "fal": (FAL, {"prompt": "a cat"}),
    "aimlapi": ("/v2/video/generations", {"model": "pixverse/v5/text-to-video", "prompt": "a cat"}),
    "replicate": ("/v1/predictions", {"version": "stability-ai/sdxl", "input": {"prompt": "a cat"}}),
    "pixverse": (
        "/openapi/v2/video/text/generate",
        {"prompt": "a cat", "model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"},
    ),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Sandbox, Upstream]]:
    with upstream_running() as upstream:
        more = {"CALLSHEET_PEAKMV_API_KEY": "k" * 20, "CALLSHEET_PEAKMV_BASE_URL": upstream.url}
        served = Served(tmp_path_factory.mktemp("served"), **more)
        with sandbox_running(served.url) as sandbox_url, served.running(sandbox_url):
            sandbox = Sandbox(sandbox_url)
            with contextlib.closing(sandbox.http):
                yield served, sandbox, upstream


@pytest.fixture
def upstream(running: Any) -> Upstream:
    found: Upstream = running[2]
    found.requests.clear()
    found.submit = "accept"
    return found


@pytest.fixture
def peakmv(running: Any, upstream: Upstream) -> Iterator[Client]:
    with contextlib.closing(Client(running[0].url, "peakmv", a_key(running[0], *BOTH))) as client:
        yield client


def song(**more: Any) -> dict[str, Any]:
    """Equal to no other."""
    return {"audio_url": f"https://media.example.com/{uuid.uuid4()}.mp3", **more}


def lost(client: Client, upstream: Upstream, **request: Any) -> str:
    """A submit whose reply is lost; its job's id."""
    upstream.submit, before = "drop", len(upstream.paths("POST"))
    reply = client("POST", PATH, **request)
    assert len(upstream.paths("POST")) == before + 1, "the fault did not happen"
    assert (reply.status_code, reply.json()["code"]) == (424, "reply_lost")
    assert reply.headers["x-should-retry"] == "false"
    upstream.submit = "accept"
    return reply.headers["callsheet-job-id"]


def multipart(boundary: str, prompt: str, file: bytes = b"\x00\x01" * 40_000) -> dict[str, Any]:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n{prompt}\r\n'
    head += f'--{boundary}\r\nContent-Disposition: form-data; name="audio"; filename="a.mp3"\r\n\r\n'
    body = head.encode() + file + f"\r\n--{boundary}--\r\n".encode()
    return {"content": body, "headers": {"content-type": f"multipart/form-data; boundary={boundary}"}}


def test_a_repeat_of_what_is_unknown_is_not_sent_and_says_so(peakmv: Client, upstream: Upstream) -> None:
    body = song()
    job = lost(peakmv, upstream, json=body)
    for _ in range(3):
        again = peakmv("POST", PATH, json=body)
        assert (again.status_code, again.json()["code"]) == (424, "reply_lost")
        assert again.headers["callsheet-job-id"] == job and job in again.json()["detail"]
        assert again.headers["x-should-retry"] == "false"
    assert len(upstream.paths("POST")) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"json": "other"},
        {"params": {"a": "1"}},
        {"headers": {"prefer": "wait"}},
        {"headers": {"callsheet-repeat": "new"}},
        {"headers": {"Callsheet-Repeat": "NEW"}},
        {"headers": {"idempotency-key": "mine-1"}},
        {"content": "spaces"},
    ],
    ids=str,
)
def test_what_differs_in_anything_that_counts_is_another_submit(
    peakmv: Client, upstream: Upstream, changes: dict[str, Any]
) -> None:
    body = song()
    lost(peakmv, upstream, content=json.dumps(body))
    changed = {"content": json.dumps(body), **changes}
    if changes.get("json"):
        changed = {"json": song()}
    if changes.get("content"):
        changed = {"content": json.dumps(body, indent=1)}
    assert peakmv("POST", PATH, **changed).status_code == 200
    assert len(upstream.paths("POST")) == 2


def test_a_form_is_equal_by_fields_and_files_whatever_its_boundary(peakmv: Client, upstream: Upstream) -> None:
    prompt = str(uuid.uuid4())
    lost(peakmv, upstream, **multipart("first", prompt))
    assert peakmv("POST", PATH, **multipart("another-boundary", prompt)).status_code == 424
    assert len(upstream.paths("POST")) == 1
    assert peakmv("POST", PATH, **multipart("first", prompt, b"\x00\x02" * 40_000)).status_code == 200
    assert peakmv("POST", PATH, **multipart("first", prompt + "!")).status_code == 200


def test_another_tenant_and_another_value_of_the_header(running: Any, peakmv: Client, upstream: Upstream) -> None:
    refused = peakmv("POST", PATH, json=song(), headers={"callsheet-repeat": "yes"})
    assert (refused.status_code, refused.json()["param"]) == (422, "callsheet-repeat")
    assert upstream.paths("POST") == []


def test_what_was_certainly_not_accepted_is_sent_again(peakmv: Client, upstream: Upstream) -> None:
    for mode, status in (("refuse", 400), ("full", 429)):
        body, upstream.submit = song(), mode
        assert peakmv("POST", PATH, json=body).status_code == status
        upstream.submit = "accept"
        assert peakmv("POST", PATH, json=body).status_code == 200
    assert len(upstream.paths("POST")) == 4


def test_equal_submits_one_after_the_other_whose_replies_were_taken_are_all_sent(
    peakmv: Client, upstream: Upstream
) -> None:
    body = song()
    ids = {peakmv("POST", PATH, json=body).json()["job_id"] for _ in range(3)}
    assert len(ids) == 3 == len(upstream.paths("POST"))


def test_equal_submits_side_by_side_are_all_sent(peakmv: Client, upstream: Upstream) -> None:
    body, upstream.submit = song(), "slow"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: peakmv("POST", PATH, json=body), range(4)))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.json()["job_id"] for reply in replies}) == 4 == len(upstream.paths("POST"))


def test_four_equal_submits_with_all_replies_lost_are_charged_four_times_and_no_more(
    peakmv: Client, upstream: Upstream
) -> None:
    body, upstream.submit = song(), "drop"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        first = {r.headers["callsheet-job-id"] for r in pool.map(lambda _: peakmv("POST", PATH, json=body), range(4))}
        charged = len(upstream.paths("POST"))
        again = {r.headers["callsheet-job-id"] for r in pool.map(lambda _: peakmv("POST", PATH, json=body), range(4))}
    assert charged == len(first) <= 4
    assert len(upstream.paths("POST")) == charged and again <= first


def test_a_page_of_a_gateway_after_acceptance_is_relayed_once_and_not_sent_again(
    peakmv: Client, upstream: Upstream
) -> None:
    body, upstream.submit = song(), "page"
    assert peakmv("POST", PATH, json=body).status_code == 502
    assert peakmv("POST", PATH, json=body).status_code == 424
    assert len(upstream.paths("POST")) == 1


def test_a_client_that_hangs_up_before_its_answer_gets_it_when_it_asks_again(
    peakmv: Client, upstream: Upstream
) -> None:
    body, upstream.submit, base = json.dumps(song()).encode(), "slow", urlsplit(peakmv.base)
    head = f"POST {base.path}{PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {peakmv.key}\r\n"
    with socket.create_connection((base.hostname, base.port), 10) as connection:  # type: ignore[arg-type]
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        deadline = time.monotonic() + 30
        while not upstream.paths("POST"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    again = peakmv("POST", PATH, content=body)
    assert again.status_code == 200 and len(upstream.paths("POST")) == 1
    said, job = again.json(), peakmv.job(again)
    assert [said["job_id"]] == job["provider_job_ids"] and said["status_url"].startswith(peakmv.base)
    assert again.headers["idempotent-replayed"] == "true"
    assert peakmv("GET", said["status_url"].removeprefix(peakmv.base)).status_code == 200
    upstream.submit = "accept"
    assert peakmv("POST", PATH, content=body).json()["job_id"] != said["job_id"], "that answer was taken"
    assert len(upstream.paths("POST")) == 2


def test_a_success_that_cannot_be_read_is_relayed_once_and_not_sent_again(peakmv: Client, upstream: Upstream) -> None:
    body, upstream.submit = song(), "odd"
    first = peakmv("POST", PATH, json=body)
    assert (first.status_code, first.json()) == (200, {"hello": "there"})
    again = peakmv("POST", PATH, json=body)
    assert (again.status_code, again.headers["callsheet-job-id"]) == (424, first.headers["callsheet-job-id"])
    assert len(upstream.paths("POST")) == 1


# -- keys of the caller's


def test_an_idempotency_key_is_one_submit(peakmv: Client, upstream: Upstream) -> None:
    body, key = song(), {"idempotency-key": f"order-{uuid.uuid4()}"}
    first = peakmv("POST", PATH, json=body, headers=key)
    again = [peakmv("POST", PATH, json=body, headers=key) for _ in range(3)]
    assert {reply.json()["job_id"] for reply in (first, *again)} == {first.json()["job_id"]}
    assert all(reply.headers["idempotent-replayed"] == "true" for reply in again)
    other = peakmv("POST", PATH, json=song(), headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len(upstream.paths("POST")) == 1
    bad = peakmv("POST", PATH, json=body, headers={"idempotency-key": "a b"})
    assert (bad.status_code, bad.json()["code"]) == (400, "bad_idempotency_key")


def test_an_idempotency_key_whose_submit_was_refused_is_free_again(peakmv: Client, upstream: Upstream) -> None:
    body, key = song(), {"idempotency-key": f"order-{uuid.uuid4()}"}
    upstream.submit = "full"
    assert peakmv("POST", PATH, json=body, headers=key).status_code == 429
    upstream.submit = "accept"
    assert peakmv("POST", PATH, json=body, headers=key).status_code == 200
    assert len(upstream.paths("POST")) == 2


def test_under_an_idempotency_key_a_lost_reply_is_not_sent_again(peakmv: Client, upstream: Upstream) -> None:
    body, key = song(), {"idempotency-key": f"order-{uuid.uuid4()}"}
    job = lost(peakmv, upstream, json=body, headers=key)
    again = peakmv("POST", PATH, json=body, headers=key)
    assert (again.status_code, again.headers["callsheet-job-id"]) == (424, job)
    assert len(upstream.paths("POST")) == 1


# -- what can be settled is answered


@pytest.mark.parametrize("fault", ["drop_reply_after_accept", "error_after_accept"])
@pytest.mark.parametrize("provider", SUBMITS)
def test_a_repeat_is_not_charged_and_gets_the_first_ones_reply_where_that_can_be_settled(
    running: Any, provider: str, fault: str
) -> None:
    served, sandbox, _ = running
    path, body = SUBMITS[provider]
    nonce = str(uuid.uuid4())
    body = json.loads(json.dumps(body).replace("a cat", nonce))
    sandbox.faults(provider, **{fault: 1.0 if fault.startswith("drop") else {"502": 1.0}})
    with contextlib.closing(Client(served.url, provider, a_key(served, *BOTH))) as client:
        first = client("POST", path, json=body)
        assert first.status_code in (424, 502)
        rows = [row for row in sandbox.ledger(provider) if nonce in json.dumps(row["input"])]
        assert len(rows) == 1, "the fault did not happen"
        sandbox.http.put(f"{sandbox.url}/_sandbox/{provider}/faults", json={"duration_s": [0.05, 0.1]})
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            again = pool.submit(client, "POST", path, json=body)
            while not again.done():
                client.tick()
        reply = again.result()
    rows = [row for row in sandbox.ledger(provider) if nonce in json.dumps(row["input"])]
    assert len(rows) == 1, "it was charged again"
    assert reply.headers["callsheet-job-id"] == first.headers["callsheet-job-id"]
    if provider in SETTLED:
        assert reply.status_code == 200 and rows[0]["provider_job_id"] in reply.text
    else:
        assert (reply.status_code, reply.json()["code"]) == (424, "reply_lost")
