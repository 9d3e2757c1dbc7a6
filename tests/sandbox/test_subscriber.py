"""The subscriber: what it records, and how it misbehaves."""

import base64
import time
from datetime import UTC, datetime

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks.webhooks import Webhook

from service.sandbox.behaviour import Behaviour
from service.sandbox.verifying import verified

from .conftest import Receiver, listening

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = '{"type":"job.succeeded"}'


def headers(secret: str = SECRET, *, webhook_id: str = "evt_1", body: str = BODY) -> dict[str, str]:
    now = datetime.now(UTC)
    signature = Webhook(secret).sign(webhook_id, now, body)
    return {"webhook-id": webhook_id, "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}


def test_verifier_agrees_with_the_published_vector() -> None:
    sent = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,bm9wZQ== v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    body = b'{"test": 2432232314}'
    assert verified([SECRET], sent, body, now=1614265330)
    assert verified(["whsec_AAAA", SECRET], sent, body, now=1614265330 + 300)
    assert not verified([SECRET], sent, body, now=1614265330 + 301)
    assert not verified([SECRET], sent, body + b" ", now=1614265330)
    assert not verified([SECRET], {**sent, "webhook-signature": "v1,!!! v9 ,"}, body, now=1614265330)
    assert not verified([SECRET], {}, body, now=1614265330)


def test_verifier_reads_v1a() -> None:
    key = Ed25519PrivateKey.generate()
    public = "whpk_" + base64.b64encode(key.public_key().public_bytes_raw()).decode()
    signature = base64.b64encode(key.sign(b"evt_1.100.{}")).decode()
    sent = {"webhook-id": "evt_1", "webhook-timestamp": "100", "webhook-signature": f"v1a,{signature}"}
    assert verified([public], sent, b"{}", now=100)
    assert not verified([public], sent, b"{ }", now=100)
    assert not verified([SECRET], sent, b"{}", now=100)


def test_request_is_recorded_and_verified(receiver: Receiver) -> None:
    receiver.behave(secrets=[SECRET])
    assert receiver.http.post("/a/b", content=BODY, headers=headers()).text == "ok"
    receiver.http.post("/a/b", content=BODY + " ", headers=headers())
    first, second = receiver.received()
    assert (first["webhook_id"], first["attempt"], first["path"], first["status"]) == ("evt_1", 1, "/a/b", 200)
    assert (first["type"], first["verified"], first["body"]) == ("job.succeeded", True, BODY)
    assert (second["attempt"], second["verified"]) == (2, False)
    assert first["sha256"] != second["sha256"]


def test_secrets_may_go_by_path(receiver: Receiver) -> None:
    other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    receiver.behave(secrets={"/one": SECRET, "/two": ["whsec_AAAA", other]})
    receiver.http.post("/one/x", content=BODY, headers=headers())
    receiver.http.post("/two", content=BODY, headers=headers(other))
    receiver.http.post("/two", content=BODY, headers=headers())
    receiver.http.post("/three", content=BODY, headers=headers())
    assert [row["verified"] for row in receiver.received()] == [True, True, False, None]


def test_first_attempts_of_each_delivery_fail(receiver: Receiver) -> None:
    receiver.behave(fail=["503:2", "429:1"])
    for webhook_id in ("evt_1", "evt_2"):
        codes = [receiver.http.post("/x", headers={"webhook-id": webhook_id}).status_code for _ in range(4)]
        assert codes == [503, 503, 429, 200]
    assert receiver.http.post("/y", headers={"webhook-id": "evt_1"}).status_code == 503, (
        "another path, another delivery"
    )


def test_share_of_failures_repeats_with_the_seed(receiver: Receiver) -> None:
    runs = []
    for _ in range(2):
        receiver.behave(fail_rate=0.33, seed=7)
        runs.append([receiver.http.post("/x").status_code for _ in range(60)])
    assert runs[0] == runs[1] and 8 <= runs[0].count(500) <= 32


def test_modes_by_path(receiver: Receiver) -> None:
    receiver.behave(retry_after="7", location="/elsewhere")
    assert receiver.http.post("/m/410/x").status_code == 410
    assert receiver.http.post("/m/429").headers["retry-after"] == "7"
    assert receiver.http.post("/m/302/x").headers["location"] == "/elsewhere"
    assert receiver.http.post("/m/nonsense/x").status_code == 200
    with pytest.raises(httpx2.RemoteProtocolError):
        receiver.http.post("/m/close/x")
    with pytest.raises(httpx2.ReadTimeout):
        receiver.http.post("/m/hang/x", timeout=0.2)
    assert [row["status"] for row in receiver.received("/m/")] == [410, 429, 302, 200, None, None]


def test_drip_comes_a_byte_at_a_time(receiver: Receiver) -> None:
    receiver.behave(mode="drip", drip_s=0.05, drip_bytes=4)
    started = time.monotonic()
    assert receiver.http.post("/x").text == "...."
    assert time.monotonic() - started > 0.15


def test_behaviour_is_changed_by_what_is_named(receiver: Receiver) -> None:
    receiver.behave(mode="503")
    receiver.behave(seed=3)
    assert receiver.http.get("/_behaviour").json()["mode"] == "503"
    for wrong in ({"mode": "dance"}, {"colour": 1}, {"fail": ["503"]}, {"fail": ["dance:2"]}):
        assert receiver.http.put("/_behaviour", json=wrong).status_code == 422
    with pytest.raises(ValueError, match="dance"):
        Behaviour(mode="dance")


def test_received_is_forgotten_on_delete(receiver: Receiver) -> None:
    receiver.http.post("/x", headers={"webhook-id": "evt_1"})
    receiver.http.delete("/_received")
    assert receiver.received() == []
    receiver.http.post("/x", headers={"webhook-id": "evt_1"})
    assert receiver.received()[0]["attempt"] == 1


def test_command_line_sets_the_behaviour() -> None:
    command = ("service.sandbox.subscriber", "--port", "0", "--secret", SECRET, "--fail", "503:1", "--quiet")
    with listening(*command) as url:
        codes = [httpx2.post(f"{url}/x", content=BODY, headers=headers()).status_code for _ in range(2)]
        rows = httpx2.get(f"{url}/_received").json()["data"]
    assert codes == [503, 200] and [row["verified"] for row in rows] == [True, True]
