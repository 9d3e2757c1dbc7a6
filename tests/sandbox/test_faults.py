"""Each fault really happens, and is counted; and the calls that set them."""

import json
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from service.sandbox.app import PROVIDERS

from .conftest import MINIMAL, Sandbox, listening

Until = Callable[[Callable[[], Any]], Any]

SUBMITS = {
    "peakmv": ("/peakmv/api/v2/generate", {"Authorization": "Bearer sandbox"}, {"audio_url": "https://e.test/a.mp3"}),
    "pixverse": ("/pixverse/openapi/v2/video/text/generate", {"API-KEY": "sandbox"}, MINIMAL),
}


def submit(sandbox: Sandbox, provider: str) -> httpx2.Response:
    path, headers, body = SUBMITS[provider]
    return sandbox.http.post(path, headers={**headers, "Ai-trace-id": str(uuid.uuid4())}, json=body)


def raw_submit(sandbox: Sandbox, provider: str, *, wait_s: float) -> tuple[bytes, bool]:
    """All bytes of the answer, and whether the server closed."""
    path, headers, fields = SUBMITS[provider]
    body = json.dumps(fields)
    lines = [f"POST {path} HTTP/1.1", "Host: sandbox", f"Ai-trace-id: {uuid.uuid4()}", f"Content-Length: {len(body)}"]
    head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items())])
    address = urlsplit(sandbox.url)
    assert address.hostname and address.port
    with socket.create_connection((address.hostname, address.port), timeout=wait_s) as connection:
        connection.sendall(f"{head}\r\n\r\n{body}".encode())
        found = b""
        try:
            while piece := connection.recv(4096):
                found += piece
        except TimeoutError:
            return found, False
        except ConnectionResetError:
            pass
        return found, True


@pytest.mark.parametrize("provider", SUBMITS)
def test_dropped_reply_is_zero_bytes_of_an_accepted_submit(sandbox: Sandbox, provider: str) -> None:
    sandbox.faults(provider, drop_reply_after_accept=1)
    started = time.monotonic()
    assert raw_submit(sandbox, provider, wait_s=20) == (b"", True)
    assert time.monotonic() - started < 1, "closed at once"
    assert len(sandbox.ledger(provider)) == sandbox.happened(provider)["drop_reply_after_accept"] == 1


def test_hung_reply_does_not_come_and_holds_up_nobody_else(sandbox: Sandbox) -> None:
    sandbox.faults("peakmv", hang_after_accept=1)
    assert raw_submit(sandbox, "peakmv", wait_s=0.2) == (b"", False)
    sandbox.faults("peakmv", hang_after_accept=1, hang_s=0.1)
    assert raw_submit(sandbox, "peakmv", wait_s=20) == (b"", True)
    assert len(sandbox.ledger("peakmv")) == sandbox.happened("peakmv")["hang_after_accept"] == 2


def test_error_before_accept_is_in_the_providers_own_shape(sandbox: Sandbox) -> None:
    sandbox.faults("peakmv", error_before_accept={"500": 1})
    reply = submit(sandbox, "peakmv")
    assert (reply.status_code, reply.json()) == (500, {"error": "Server Error"})
    sandbox.faults("peakmv", error_before_accept={"429": 1})
    reply = submit(sandbox, "peakmv")
    assert (reply.status_code, reply.json()) == (429, {"error": "Rate limit exceeded", "retry_after_seconds": 1})
    for code, status in (("500", 500), ("429", 429), ("500044", 200)):
        sandbox.faults("pixverse", error_before_accept={code: 1})
        reply = submit(sandbox, "pixverse")
        assert (reply.status_code, reply.json()["ErrCode"], reply.json()["Resp"]) == (status, int(code), None)
    assert sandbox.ledger("peakmv") == sandbox.ledger("pixverse") == []
    assert sandbox.happened("pixverse")["error_before_accept.500044"] == 1
    assert sandbox.happened("peakmv")["error_before_accept.429"] == 1


@pytest.mark.parametrize("provider", SUBMITS)
def test_error_after_accept_is_a_gateways_page(sandbox: Sandbox, provider: str) -> None:
    sandbox.faults(provider, error_after_accept={"502": 1})
    reply = submit(sandbox, provider)
    assert reply.status_code == 502 and reply.headers["content-type"].startswith("text/html")
    assert len(sandbox.ledger(provider)) == sandbox.happened(provider)["error_after_accept.502"] == 1


def test_lost_reply_is_found_by_the_same_trace_id(sandbox: Sandbox) -> None:
    trace = str(uuid.uuid4())
    sandbox.faults("pixverse", drop_reply_after_accept=1)
    with pytest.raises(httpx2.RemoteProtocolError):
        sandbox.text_to_video(trace=trace)
    again = sandbox.text_to_video(trace=trace).json()
    assert [row["provider_job_id"] for row in sandbox.ledger("pixverse")] == [str(again["Resp"]["video_id"])]


def test_status_regresses_after_the_end(sandbox: Sandbox, until: Until) -> None:
    job_id = submit(sandbox, "peakmv").json()["job_id"]

    def status() -> str:
        return str(sandbox.peakmv("GET", f"v2/jobs/{job_id}").json()["status"])

    until(lambda: status() == "ready")
    sandbox.faults("peakmv", status_regress=0.5, seed=1)
    assert {status() for _ in range(40)} == {"ready", "processing"}
    assert 0 < sandbox.happened("peakmv")["status_regress"] < 40


def test_shares_are_about_right_and_repeat_with_the_seed(sandbox: Sandbox) -> None:
    def codes(seed: int) -> list[int]:
        sandbox.control("POST", "peakmv/reset")
        sandbox.faults("peakmv", seed=seed, error_before_accept={"500": 0.3, "429": 0.2})
        return [submit(sandbox, "peakmv").status_code for _ in range(100)]

    first = codes(7)
    assert first == codes(7) != codes(8)
    assert 15 <= first.count(500) <= 45 and 8 <= first.count(429) <= 35
    assert len(sandbox.ledger("peakmv")) + sum(sandbox.happened("peakmv").values()) == 100


def test_default_duration_is_one_to_three_seconds(sandbox: Sandbox) -> None:
    assert sandbox.control("PUT", "peakmv/faults")["faults"]["duration_s"] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("faults", "named"),
    [
        ({"drop_everything": 1}, "drop_everything"),
        ({"callback": {"steal": 1}}, "steal"),
        ({"error_before_accept": {"418": 1}}, "418"),
        ({"error_after_accept": {"429": 1}}, "429"),
        ({"fail": 2}, "fail"),
        ({"error_before_accept": {"500": 0.7, "429": 0.7}}, "more than 1"),
    ],
)
def test_unknown_fault_is_422_and_named(sandbox: Sandbox, faults: dict[str, Any], named: str) -> None:
    reply = sandbox.http.put("/_sandbox/peakmv/faults", json=faults)
    assert reply.status_code == 422 and named in reply.json()["error"]


def test_faults_example_of_the_design_is_understood(sandbox: Sandbox) -> None:
    callback = {"duplicate": 3, "before_reply": 0.2, "lose": 0.1, "forge": 0.1, "delay_s": [0, 2]}
    example = {
        "seed": 7, "drop_reply_after_accept": 0.3, "error_before_accept": {"500": 0.05, "429": 0.05},
        "error_after_accept": {"500": 0.05}, "callback": callback, "status_regress": 0.1, "duration_s": [0.05, 0.2],
    }  # fmt: skip
    for provider in SUBMITS:
        assert sandbox.control("PUT", f"{provider}/faults", **example)["faults"]["callback"]["duplicate"] == 3


def test_control_calls_name_what_is_unknown(sandbox: Sandbox) -> None:
    assert sandbox.http.get("/_sandbox").json()["providers"] == sorted(kind.name for kind in PROVIDERS)
    assert sandbox.http.get("/_sandbox/nobody/ledger").status_code == 404
    assert "colour" in sandbox.http.put("/_sandbox/peakmv/account", json={"colour": 1}).json()["error"]
    assert sandbox.http.put("/_sandbox/peakmv/account", content=b"{").status_code == 422
    sandbox.control("PUT", "peakmv/account", api_key="other")
    assert submit(sandbox, "peakmv").status_code == 401


def test_ledger_counts_every_charge_under_load(sandbox: Sandbox) -> None:
    def many() -> None:
        with httpx2.Client() as client:
            path, headers, body = SUBMITS["peakmv"]
            for _ in range(50):
                client.post(sandbox.url + path, headers=headers, json=body)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = sandbox.ledger("peakmv")
    assert len({row["provider_job_id"] for row in rows}) == len(rows) == 200


def test_service_url_is_registered_at_start() -> None:
    with listening("service.sandbox", "--port", "0", "--service-url", "http://127.0.0.1:8080/") as url:
        registered = httpx2.get(f"{url}/_sandbox/pixverse/callbacks").json()["registered"]
    assert registered == [{"webhook_id": "sandbox", "url": "http://127.0.0.1:8080/v1/callbacks/pixverse"}]
