"""fal: the queue's shapes, URLs that are not to be built by hand, callbacks under keys that are served as a JWKS."""

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from .conftest import Receiver, Sandbox

Until = Callable[[Callable[[], Any]], Any]

SUBMITTED = {
    "request_id", "gateway_request_id", "response_url", "status_url", "cancel_url", "queue_position", "status",
}  # fmt: skip
NAMES = ("request-id", "user-id", "timestamp", "signature")


class Fal:
    """Calls the sandbox as its client would."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        sandbox.control("POST", "fal/reset")
        self.faults()

    def faults(self, **faults: Any) -> None:
        self.sandbox.faults("fal", **faults)

    def account(self, **changes: Any) -> Any:
        return self.sandbox.control("PUT", "fal/account", **changes)

    def __call__(self, method: str, url: str, *, key: str = "Key sandbox", **more: Any) -> httpx2.Response:
        url = url if url.startswith("http") else f"/fal/{url}"
        return self.sandbox.http.request(method, url, headers={"Authorization": key}, **more)

    def submit(self, model: str = "fal-ai/flux/dev", webhook: str | None = None) -> dict[str, Any]:
        path = f"{model}?fal_webhook={quote(webhook, safe='')}" if webhook else model
        reply = self("POST", path, json={"prompt": "a red kite"})
        assert reply.status_code == 200, reply.text
        made: dict[str, Any] = reply.json()
        return made

    def completed(self, made: dict[str, Any]) -> dict[str, Any] | None:
        said: dict[str, Any] = self("GET", made["status_url"]).json()
        return said if said["status"] == "COMPLETED" else None

    def keys(self) -> list[Ed25519PublicKey]:
        listed = self.sandbox.http.get("/fal/.well-known/jwks.json").json()["keys"]
        assert all((key["kty"], key["crv"]) == ("OKP", "Ed25519") for key in listed)
        return [Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "=")) for key in listed]


@pytest.fixture
def fal(sandbox: Sandbox) -> Fal:
    return Fal(sandbox)


@pytest.fixture
def webhook(receiver: Receiver) -> str:
    """A URL of the receiver, with a path of this test's own."""
    return f"{receiver.url}/callbacks/{uuid.uuid4()}/token-1"


def received(receiver: Receiver, webhook: str) -> list[dict[str, Any]]:
    return receiver.received(webhook.removeprefix(receiver.url))


def verified(fal: Fal, row: dict[str, Any]) -> bool:
    """Whether any of the served keys made the signature of the four lines."""
    request_id, user_id, timestamp, signature = (row["headers"][f"x-fal-webhook-{name}"] for name in NAMES)
    lines = [request_id, user_id, timestamp, hashlib.sha256(row["body"].encode()).hexdigest()]
    for key in fal.keys():
        try:
            key.verify(bytes.fromhex(signature), "\n".join(lines).encode())
        except InvalidSignature:
            continue
        return True
    return False


# -- a request's course ---------------------------------------------------------------------------


def test_request_is_queued_and_ends_with_a_file(fal: Fal, until: Until) -> None:
    fal.faults(duration_s=[1.5, 1.5])
    made = fal.submit()
    assert set(made) == SUBMITTED and made["status"] == "IN_QUEUE" and str(uuid.UUID(made["request_id"]))
    url = f"{fal.sandbox.url}/fal/fal-ai/flux/requests/{made['request_id']}"
    assert (made["response_url"], made["status_url"], made["cancel_url"]) == (url, f"{url}/status", f"{url}/cancel")
    seen: list[tuple[int, str]] = []

    def ended() -> dict[str, Any] | None:
        reply = fal("GET", made["status_url"])
        seen.append((reply.status_code, reply.json()["status"]))
        return reply.json() if seen[-1][1] == "COMPLETED" else None

    said = until(ended)
    assert list(dict.fromkeys(seen)) == [(202, "IN_QUEUE"), (202, "IN_PROGRESS"), (200, "COMPLETED")]
    assert said["metrics"]["inference_time"] > 0 and said["logs"] is None and "error" not in said
    (image,) = fal("GET", said["response_url"]).json()["images"]
    file = fal.sandbox.http.get(image["url"])
    assert file.headers["content-type"] == image["content_type"] == "image/png"
    assert len(file.content) == image["file_size"] and (image["width"], image["height"]) == (64, 36)


@pytest.mark.parametrize(
    ("model", "field"),
    [("fal-ai/kling-video/v2.1/master", "video"), ("fal-ai/stable-audio", "audio"), ("fal-ai/trellis", "model_mesh")],
)
def test_models_make_what_their_names_say(fal: Fal, until: Until, model: str, field: str) -> None:
    made = fal.submit(model)
    until(lambda: fal.completed(made))
    file = fal("GET", made["response_url"]).json()[field]
    assert fal.sandbox.http.get(file["url"]).headers["content-type"] == file["content_type"]


def test_language_models_give_text(fal: Fal, until: Until) -> None:
    made = fal.submit("fal-ai/any-llm")
    until(lambda: fal.completed(made))
    assert isinstance(fal("GET", made["response_url"]).json()["output"], str)


def test_urls_leave_out_the_models_sub_path(fal: Fal) -> None:
    made = fal.submit("fal-ai/kling-video/v2.1/master/text-to-video")
    by_hand = f"fal-ai/kling-video/v2.1/master/text-to-video/requests/{made['request_id']}/status"
    assert "/fal/fal-ai/kling-video/requests/" in made["status_url"]
    assert fal("GET", by_hand).status_code in (404, 405)
    assert fal("GET", f"fal-ai/flux/requests/{made['request_id']}/status").status_code == 404


def test_queue_has_positions_and_logs_come_where_they_are_asked_for(fal: Fal) -> None:
    fal.faults(duration_s=[20, 20])
    first, second = fal.submit(), fal.submit()
    asked = [fal("GET", made["status_url"]).json()["queue_position"] for made in (first, second)]
    assert asked == [0, 1] and second["queue_position"] == 1
    fal.faults(duration_s=[2, 2])
    third = fal.submit()
    time.sleep(0.8)
    said = fal("GET", third["status_url"], params={"logs": "1"}).json()
    assert said["status"] == "IN_PROGRESS" and said["logs"][0]["message"].endswith("%")


def test_result_of_what_is_under_way_is_400(fal: Fal) -> None:
    fal.faults(duration_s=[20, 20])
    reply = fal("GET", fal.submit()["response_url"])
    assert (reply.status_code, reply.json()) == (400, {"detail": "Request is still in progress"})


@pytest.mark.parametrize(
    ("fault", "status", "kind"), [("fail", 500, "internal_error"), ("moderation", 422, "content_policy_violation")]
)
@pytest.mark.parametrize("told", [True, False])
def test_failure_is_completed_with_a_result_that_is_refused(
    fal: Fal, until: Until, fault: str, status: int, kind: str, told: bool
) -> None:
    fal.faults(**{fault: 1})
    fal.account(status_tells_error=told)
    made = fal.submit()
    said = until(lambda: fal.completed(made))
    assert said.get("error_type") == (kind if told else None) and ("error" in said) is told
    reply = fal("GET", made["response_url"])
    assert reply.status_code == status and reply.headers["x-fal-error-type"] == kind and reply.json()["detail"]


def test_cancel_ends_what_is_under_way(fal: Fal, until: Until) -> None:
    fal.faults(duration_s=[60, 60])
    made = fal.submit()
    reply = fal("PUT", made["cancel_url"])
    assert (reply.status_code, reply.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert fal.completed(made) and fal("GET", made["response_url"]).status_code == 499
    reply = fal("PUT", made["cancel_url"])
    assert (reply.status_code, reply.json()) == (400, {"status": "ALREADY_COMPLETED"})
    reply = fal("PUT", "fal-ai/flux/requests/nope/cancel")
    assert (reply.status_code, reply.json()) == (404, {"status": "NOT_FOUND"})


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["Key wrong", "Bearer sandbox", "sandbox"])
def test_wrong_key_is_401_everywhere(fal: Fal, key: str) -> None:
    one = "fal-ai/flux/requests/x"
    for method, path in (("POST", "fal-ai/flux"), ("GET", f"{one}/status"), ("GET", one), ("PUT", f"{one}/cancel")):
        reply = fal(method, path, key=key, json={"prompt": "x"} if method == "POST" else None)
        assert reply.status_code == 401 and set(reply.json()) == {"detail"}
    assert fal.sandbox.ledger("fal") == []


@pytest.mark.parametrize(("body", "field"), [(b"{}", ["body", "prompt"]), (b"[]", ["body"]), (b"no json", ["body"])])
def test_wrong_input_is_422_with_the_field_named(fal: Fal, body: bytes, field: list[str]) -> None:
    reply = fal("POST", "fal-ai/flux", content=body)
    assert reply.status_code == 422 and reply.json()["detail"][0]["loc"] == field
    assert fal.sandbox.ledger("fal") == []


def test_wrong_webhook_is_422_and_a_path_that_is_no_model_404(fal: Fal) -> None:
    assert fal("POST", "fal-ai/flux?fal_webhook=nowhere", json={"prompt": "x"}).status_code == 422
    for path in ("flux", "fal-ai/flux/requests/x"):
        assert fal("POST", path, json={"prompt": "x"}).status_code in (404, 405)
    assert fal.sandbox.ledger("fal") == []


def test_too_little_credit_is_403_and_a_full_account_429(fal: Fal) -> None:
    fal.account(credits=0)
    reply = fal("POST", "fal-ai/flux", json={"prompt": "x"})
    assert reply.status_code == 403 and "Exhausted balance" in reply.json()["detail"]
    fal.account(credits=9, concurrency=0, retry_after_seconds=7)
    reply = fal("POST", "fal-ai/flux", json={"prompt": "x"})
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "7")
    assert fal.sandbox.ledger("fal") == []


@pytest.mark.parametrize("code", ["403", "429", "500"])
def test_error_before_accept_is_in_its_own_shape(fal: Fal, code: str) -> None:
    fal.faults(error_before_accept={code: 1})
    reply = fal("POST", "fal-ai/flux", json={"prompt": "x"})
    assert reply.status_code == int(code) and isinstance(reply.json()["detail"], str)
    assert fal.sandbox.happened("fal")[f"error_before_accept.{code}"] == 1 and fal.sandbox.ledger("fal") == []


# -- the ledger -----------------------------------------------------------------------------------


def test_ledger_has_every_accepted_submit_with_the_token_of_its_webhook(fal: Fal, webhook: str) -> None:
    before = fal.account()["credits"]
    first = fal.submit(webhook=webhook)
    fal.faults(drop_reply_after_accept=1)
    with pytest.raises(httpx2.RemoteProtocolError):
        fal("POST", "fal-ai/flux", json={"n": 9007199254740993})
    rows = fal.sandbox.ledger("fal")
    assert [(row["operation"], row["reference"], row["charged"]) for row in rows] == [
        ("queue", "token-1", 1),
        ("queue", None, 1),
    ]
    assert rows[0]["provider_job_id"] == first["request_id"] and rows[1]["input"] == {"n": 9007199254740993}
    assert fal.account()["credits"] == before - 2


# -- callbacks ------------------------------------------------------------------------------------


def test_end_is_called_back_with_its_payload_and_signed(
    fal: Fal, receiver: Receiver, until: Until, webhook: str
) -> None:
    made = fal.submit(webhook=webhook)
    (row,) = until(lambda: received(receiver, webhook))
    said = json.loads(row["body"])
    assert verified(fal, row) and said["status"] == "OK" and said["request_id"] == made["request_id"]
    assert said["payload"] == fal("GET", made["response_url"]).json()
    assert not verified(fal, {**row, "body": row["body"] + " "})
    older = {**row["headers"], "x-fal-webhook-timestamp": str(int(row["headers"]["x-fal-webhook-timestamp"]) - 1)}
    assert not verified(fal, {**row, "headers": older})


@pytest.mark.parametrize(("fault", "code"), [("fail", 500), ("moderation", 422)])
def test_failure_is_called_back_too(
    fal: Fal, receiver: Receiver, until: Until, webhook: str, fault: str, code: int
) -> None:
    fal.faults(**{fault: 1})
    made = fal.submit(webhook=webhook)
    (row,) = until(lambda: received(receiver, webhook))
    said = json.loads(row["body"])
    assert verified(fal, row) and (said["status"], said["error"]) == ("ERROR", f"Invalid status code: {code}")
    assert said["payload"] == fal("GET", made["response_url"]).json()


def test_payload_that_cannot_be_written_down_is_left_out(
    fal: Fal, receiver: Receiver, until: Until, webhook: str
) -> None:
    fal.account(payload_unwritable=1)
    made = fal.submit(webhook=webhook)
    (row,) = until(lambda: received(receiver, webhook))
    said = json.loads(row["body"])
    assert verified(fal, row) and (said["status"], said["payload"]) == ("OK", None) and said["payload_error"]
    assert fal("GET", made["response_url"]).json()["images"]


@pytest.mark.parametrize("share", [0, 1])
def test_gateway_has_an_id_of_its_own_after_an_inner_repeat(
    fal: Fal, receiver: Receiver, until: Until, webhook: str, share: int
) -> None:
    fal.account(gateway_differs=share)
    made = fal.submit(webhook=webhook)
    (row,) = until(lambda: received(receiver, webhook))
    said = json.loads(row["body"])
    assert (said["gateway_request_id"] != said["request_id"]) is bool(share)
    assert made["gateway_request_id"] == made["request_id"] == said["request_id"]
    assert fal.sandbox.happened("fal").get("gateway_differs", 0) == share


def test_keys_stay_over_a_reset_and_the_last_generations_are_served_beside_new_ones(
    fal: Fal, receiver: Receiver, until: Until, webhook: str
) -> None:
    def raw() -> list[bytes]:
        return [key.public_bytes_raw() for key in fal.keys()]

    first = raw()
    fal.sandbox.control("POST", "fal/reset")
    fal.faults()
    assert raw() == first and len(set(first)) == 2
    fal.account(key_generation=2)
    assert raw()[0] == first[1] and raw()[1] not in first
    fal.submit(webhook=webhook)
    (row,) = until(lambda: received(receiver, webhook))
    assert verified(fal, row)
    fal.account(key_generation=1)
    assert not verified(fal, row)


def test_callback_is_repeated_until_it_is_taken(fal: Fal, receiver: Receiver, until: Until, webhook: str) -> None:
    receiver.behave(mode="500")
    fal.faults(callback={"retry_s": [0.1, 2, 0.1]})
    fal.submit(webhook=webhook)
    until(lambda: len(received(receiver, webhook)) >= 2)
    receiver.behave(mode="202")
    rows = until(lambda: (found := received(receiver, webhook))[-1]["status"] == 202 and found)
    assert len(rows) == 3 and len({row["body"] for row in rows}) == 1 and all(verified(fal, row) for row in rows)


def test_schedule_is_ten_tries_within_two_hours() -> None:
    from service.sandbox.fal import Fal as Played

    assert len(Played.retry_s) == 10 and 3600 < sum(Played.retry_s) <= 7200


def test_duplicates_forgeries_and_losses_happen_as_asked(
    fal: Fal, receiver: Receiver, until: Until, webhook: str
) -> None:
    fal.faults(callback={"duplicate": 3, "forge": 1})
    made = fal.submit(webhook=webhook)
    forged, *real = until(lambda: len(found := received(receiver, webhook)) >= 4 and found)
    assert len(real) == 3
    assert all(verified(fal, row) for row in real) and not verified(fal, forged)
    false = json.loads(forged["body"])
    assert false["request_id"] == made["request_id"] and "forged" in forged["body"]
    fal.faults(callback={"lose": 1})
    fal.submit(webhook=webhook)
    until(lambda: fal.sandbox.happened("fal")["callback.lose"] == 1)
    assert len(received(receiver, webhook)) == 4


def test_callback_may_come_before_the_reply(fal: Fal, receiver: Receiver, webhook: str) -> None:
    fal.faults(duration_s=[60, 60], callback={"before_reply": 1})
    made = fal.submit(webhook=webhook)
    (row,) = received(receiver, webhook)
    assert verified(fal, row) and json.loads(row["body"])["request_id"] == made["request_id"]
    assert fal.completed(made)


def test_cancel_is_called_back_once(fal: Fal, receiver: Receiver, until: Until, webhook: str) -> None:
    fal.faults(duration_s=[1.5, 1.5])
    made = fal.submit(webhook=webhook)
    fal("PUT", made["cancel_url"])
    (row,) = until(lambda: received(receiver, webhook))
    said = json.loads(row["body"])
    assert verified(fal, row) and (said["status"], said["error"]) == ("ERROR", "Request was cancelled")
    time.sleep(1.7)
    assert len(received(receiver, webhook)) == 1, "its former end calls nobody"
