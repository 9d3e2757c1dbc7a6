"""PixVerse's callbacks: signed, repeated until `ok`, and with their faults."""

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from service.sandbox.pixverse_callbacks import Order, Space, form_of, sign

from .conftest import Receiver, Sandbox

Until = Callable[[Callable[[], Any]], Any]
SECRET = "a secret"


@pytest.fixture
def path(sandbox: Sandbox, receiver: Receiver) -> str:
    """A path of its own for each test, so that late callbacks of another do not count."""
    path = f"/callbacks/{uuid.uuid4()}"
    sandbox.control("PUT", "pixverse/callbacks", webhook_id="w", url=receiver.url + path, secret=SECRET)
    return path


def submit(sandbox: Sandbox, **fields: Any) -> str:
    return str(sandbox.text_to_video(webhook_id="w", **fields).json()["Resp"]["video_id"])


def right(row: dict[str, Any], **variant: Any) -> bool:
    headers, body = row["headers"], row["body"].encode()
    expected = sign(SECRET, headers["webhook-timestamp"], headers["webhook-nonce"], body, **variant)
    return bool(headers["webhook-signature"] == expected)


def test_signature_of_the_vectors() -> None:
    body = b'{"id":"123456789","status":1,"url":"https://media.example.test/a b.mp4"}'
    assert sign("test-secret", "1800000000", "nonce-1", body) == "TC2+9ZKtaApk3uCyHzLx4SO60+Do5FVQH5OHx15HQZg="
    six = b'{"id":"123456789","status":1,"url":"https://media.example.test/v.mp4?a=1&b=2","size":10.5,"has_audio":true,"credits":100}'
    nonce = "0123456789abcdef0123456789abcdef"
    assert sign("test-secret", "1800000000", nonce, six) == "oPqn4N8XGqUykJVZhMagu2/5+SMEDNmmC+D3Lb7ifYk="


def test_form_keeps_digits_and_writes_order_and_space_as_chosen() -> None:
    body = b'{"b":1.0,"a":"x y","c":true,"d":9007199254740993}'
    assert form_of(body, order="sorted", space="+") == "a=x+y&b=1.0&c=true&d=9007199254740993"
    assert form_of(body, order="document", space="%20") == "b=1.0&a=x%20y&c=true&d=9007199254740993"


def test_success_is_called_back_signed(sandbox: Sandbox, receiver: Receiver, until: Until, path: str) -> None:
    video_id = submit(sandbox)
    (row,) = until(lambda: receiver.received(path))
    body = json.loads(row["body"])
    assert list(body) == ["id", "status", "url", "size", "has_audio", "credits"]
    assert (body["id"], body["status"], body["credits"], body["has_audio"]) == (video_id, 1, 45, True)
    assert sandbox.http.get(body["url"]).status_code == 200
    headers = row["headers"]
    assert right(row) and len(headers["webhook-nonce"]) == 32 and uuid.UUID(headers["ai-trace-id"])
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 10
    until(lambda: sandbox.control("GET", "pixverse/callbacks")["accepted"] == 1)


@pytest.mark.parametrize(("fault", "status"), [("fail", 8), ("moderation", 7)])
def test_failure_is_called_back_too(
    sandbox: Sandbox, receiver: Receiver, until: Until, path: str, fault: str, status: int
) -> None:
    sandbox.faults("pixverse", **{fault: 1})
    submit(sandbox)
    (row,) = until(lambda: receiver.received(path))
    body = json.loads(row["body"])
    assert (body["status"], body["url"]) == (status, "") and body["fail_reason"] and right(row)


@pytest.mark.parametrize("order", ["sorted", "document"])
@pytest.mark.parametrize("space", ["+", "%20"])
def test_signature_variant_is_the_accounts(
    sandbox: Sandbox, receiver: Receiver, until: Until, path: str, order: Order, space: Space
) -> None:
    sandbox.control("PUT", "pixverse/account", signature_order=order, signature_space=space)
    sandbox.faults("pixverse", fail=1)  # its reason has spaces in it
    submit(sandbox)
    (row,) = until(lambda: receiver.received(path))
    assert right(row, order=order, space=space)


def test_submit_without_webhook_id_calls_nobody(sandbox: Sandbox, receiver: Receiver, path: str) -> None:
    sandbox.text_to_video()
    time.sleep(0.3)
    assert receiver.received(path) == []


def test_callback_repeats_until_ok(sandbox: Sandbox, receiver: Receiver, until: Until, path: str) -> None:
    receiver.behave(mode="503")
    sandbox.faults("pixverse", callback={"retry_s": [0.1, 2, 0.1]})
    submit(sandbox)
    until(lambda: len(receiver.received(path)) >= 2)
    receiver.behave(mode="ok")
    rows = until(lambda: (found := receiver.received(path))[-1]["status"] == 200 and found)
    assert all(right(row) for row in rows) and len({row["headers"]["webhook-nonce"] for row in rows}) == len(rows)
    view = until(lambda: (found := sandbox.control("GET", "pixverse/callbacks"))["accepted"] == 1 and found)
    assert (view["sent"], view["refused"], view["waiting"]) == (3, 2, 0)
    assert [answer["status"] for answer in view["last"]] == [200, 503, 503]


def test_200_without_ok_is_not_taken_and_is_given_up_in_the_end(
    sandbox: Sandbox, receiver: Receiver, until: Until, path: str
) -> None:
    receiver.behave(mode="201")
    sandbox.faults("pixverse", callback={"retry_s": [0.05]})
    submit(sandbox)
    view = until(lambda: (found := sandbox.control("GET", "pixverse/callbacks"))["given_up"] == 1 and found)
    assert view["refused"] == 2 and len(receiver.received(path)) == 2


def test_default_schedule_is_the_documented_one() -> None:
    from service.sandbox.pixverse import PixVerse

    assert PixVerse.retry_s == (2, 10, 30, 60, 300, 900, 3600, 14400)


def test_duplicates_are_copies_and_a_true_replay(sandbox: Sandbox, receiver: Receiver, until: Until, path: str) -> None:
    sandbox.faults("pixverse", callback={"duplicate": 3})
    submit(sandbox)
    rows = until(lambda: len(found := receiver.received(path)) >= 3 and found)
    assert len(rows) == 3
    assert len({row["body"] for row in rows}) == 1 and all(right(row) for row in rows)
    assert len({row["headers"]["webhook-nonce"] for row in rows}) == 2
    assert sandbox.happened("pixverse")["callback.duplicate"] == 2


def test_lost_callback_never_comes(sandbox: Sandbox, receiver: Receiver, until: Until, path: str) -> None:
    sandbox.faults("pixverse", callback={"lose": 1})
    submit(sandbox)
    until(lambda: sandbox.happened("pixverse")["callback.lose"] == 1)
    time.sleep(0.1)
    assert receiver.received(path) == []


def test_forged_callback_is_wrong_in_signature_and_body(
    sandbox: Sandbox, receiver: Receiver, until: Until, path: str
) -> None:
    sandbox.faults("pixverse", callback={"forge": 1})
    video_id = submit(sandbox)
    forged, real = until(lambda: len(found := receiver.received(path)) >= 2 and found)
    assert right(real) and not right(forged)
    false = json.loads(forged["body"])
    assert false["id"] == video_id and (false["status"] == 8 or "forged" in false["url"])
    assert sandbox.happened("pixverse")["callback.forge"] == 1
    until(lambda: sandbox.control("GET", "pixverse/callbacks")["forged_sent"] == 1)


def test_callback_before_reply(sandbox: Sandbox, receiver: Receiver, path: str) -> None:
    sandbox.faults("pixverse", duration_s=[60, 60], callback={"before_reply": 1})
    video_id = submit(sandbox)
    (row,) = receiver.received(path)
    assert json.loads(row["body"])["id"] == video_id
    assert sandbox.pixverse("GET", f"video/result/{video_id}").json()["Resp"]["status"] == 1
    assert sandbox.happened("pixverse")["callback.before_reply"] == 1


def test_delayed_callback(sandbox: Sandbox, receiver: Receiver, until: Until, path: str) -> None:
    sandbox.faults("pixverse", duration_s=[0, 0], callback={"delay_s": [0.4, 0.4]})
    started = time.monotonic()
    submit(sandbox)
    until(lambda: receiver.received(path))
    assert time.monotonic() - started > 0.2


def test_trace_id_of_the_callback_may_be_the_submits(
    sandbox: Sandbox, receiver: Receiver, until: Until, path: str
) -> None:
    sandbox.control("PUT", "pixverse/account", callback_trace_id="submit")
    submit(sandbox, trace="ours")
    (row,) = until(lambda: receiver.received(path))
    assert row["headers"]["ai-trace-id"] == "ours"


def test_nobody_listening_is_repeated(sandbox: Sandbox, until: Until) -> None:
    sandbox.faults("pixverse", callback={"retry_s": [0.05, 0.05]})
    sandbox.text_to_video(webhook_id="sandbox")  # registered at start, on a port where nobody is
    view = until(lambda: (found := sandbox.control("GET", "pixverse/callbacks"))["given_up"] == 1 and found)
    assert view["sent"] == 3 and view["last"][0]["status"] == 0
