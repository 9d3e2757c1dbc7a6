"""Replicate: the shapes of its pages, results that are removed, callbacks that the reference library verifies."""

import base64
import json
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import standardwebhooks

from .conftest import Receiver, Sandbox

Until = Callable[[Callable[[], Any]], Any]

VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
# The shape of the documents' sample of a prediction.
PREDICTION = {
    "id": "x", "model": "x", "version": "x", "input": {}, "logs": "", "output": None, "error": None,
    "status": "starting", "created_at": "x", "data_removed": False, "urls": {"get": "x", "cancel": "x"},
    "metrics": {}, "source": "api", "started_at": None, "completed_at": None,
}  # fmt: skip


class Replicate:
    """Calls the sandbox as its client would."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        sandbox.control("POST", "replicate/reset")
        self.faults()

    def faults(self, **faults: Any) -> None:
        self.sandbox.faults("replicate", **faults)

    def account(self, **changes: Any) -> Any:
        return self.sandbox.control("PUT", "replicate/account", **changes)

    def __call__(
        self, method: str, path: str, *, key: str = "sandbox", scheme: str = "Bearer", **more: Any
    ) -> httpx2.Response:
        headers = {"Authorization": f"{scheme} {key}"}
        return self.sandbox.http.request(method, f"/replicate/v1/{path}", headers=headers, **more)

    def submit(self, **fields: Any) -> dict[str, Any]:
        reply = self("POST", "predictions", json={"version": VERSION, "input": {"prompt": "a red kite"}, **fields})
        assert reply.status_code == 201, reply.text
        made: dict[str, Any] = reply.json()
        return made

    def read(self, prediction: dict[str, Any]) -> dict[str, Any]:
        read: dict[str, Any] = self("GET", f"predictions/{prediction['id']}").json()
        return read


@pytest.fixture
def replicate(sandbox: Sandbox) -> Replicate:
    return Replicate(sandbox)


@pytest.fixture
def told(receiver: Receiver) -> dict[str, Any]:
    """The fields that make the receiver called back, at a path of this test's own."""
    return {"webhook": f"{receiver.url}/callbacks/{uuid.uuid4()}/", "webhook_events_filter": ["completed"]}


def received(receiver: Receiver, told: dict[str, Any]) -> list[dict[str, Any]]:
    return receiver.received(told["webhook"].removeprefix(receiver.url))


def verified(replicate: Replicate, row: dict[str, Any]) -> Any:
    """The body, proved by the account's secret as the reference library proves it."""
    secret = replicate("GET", "webhooks/default/secret").json()["key"]
    return standardwebhooks.Webhook(secret).verify(row["body"], row["headers"])


# -- a prediction's course ------------------------------------------------------------------------


def test_prediction_is_taken_in_the_documents_shape_and_ends_with_a_file(replicate: Replicate, until: Until) -> None:
    replicate.faults(duration_s=[1.5, 1.5])
    made = replicate.submit()
    assert set(PREDICTION) <= set(made)
    assert {type(made[name]) for name in PREDICTION} == {type(value) for value in PREDICTION.values()}
    assert re.fullmatch(r"[a-z2-7]{26}", made["id"]) and made["status"] == "starting" and made["version"] == VERSION
    assert made["urls"]["get"] == f"{replicate.sandbox.url}/replicate/v1/predictions/{made['id']}"
    seen: list[str] = []

    def ended() -> dict[str, Any] | None:
        read = replicate.read(made)
        seen.append(read["status"])
        return read if read["status"] == "succeeded" else None

    done = until(ended)
    assert list(dict.fromkeys(seen)) == ["starting", "processing", "succeeded"]
    assert done["completed_at"] and done["metrics"]["predict_time"] > 0 and "100%|" in done["logs"]
    file = replicate.sandbox.http.get(done["output"][0])
    assert file.headers["content-type"] == "image/png" and file.content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("models/acme/video-1/predictions", "mp4"),
        ("models/acme/music-1/predictions", "mp3"),
        ("deployments/acme/anything/predictions", "png"),
    ],
)
def test_models_and_deployments_make_what_their_names_say(
    replicate: Replicate, until: Until, path: str, kind: str
) -> None:
    made = replicate("POST", path, json={"input": {"prompt": "x"}}).json()
    done = until(lambda: (read := replicate.read(made))["status"] == "succeeded" and read)
    output = done["output"] if isinstance(done["output"], str) else done["output"][0]
    assert output.endswith(f".{kind}") and replicate.sandbox.http.get(output).status_code == 200


def test_outputs_have_every_shape_that_models_give(replicate: Replicate, until: Until) -> None:
    def output(name: str) -> Any:
        made = replicate("POST", f"models/acme/{name}/predictions", json={"input": {}}).json()
        return until(lambda: (read := replicate.read(made))["status"] == "succeeded" and read)["output"]

    words, mesh, picture = output("llama"), output("mesh"), output("flux")
    assert all(isinstance(word, str) for word in words) and len(words) > 1
    assert mesh["mesh"].endswith(".glb") and mesh["captions"].endswith(".srt") and mesh["score"] == 0.5
    assert [url.rpartition(".")[2] for url in picture] == ["png"]


def test_progress_stands_in_the_logs(replicate: Replicate, until: Until) -> None:
    replicate.faults(duration_s=[3, 3])
    made = replicate.submit()
    percent = until(lambda: re.findall(r"([1-9]\d?)%\|", replicate.read(made)["logs"]))
    assert 0 < int(percent[-1]) < 100


@pytest.mark.parametrize(("fault", "text"), [("fail", "memory"), ("moderation", "NSFW")])
def test_failure_says_why(replicate: Replicate, until: Until, fault: str, text: str) -> None:
    replicate.faults(**{fault: 1})
    made = replicate.submit()
    done = until(lambda: (read := replicate.read(made))["status"] == "failed" and read)
    assert text in done["error"] and done["output"] is None


def test_output_input_and_logs_are_removed_after_the_datas_life(replicate: Replicate, until: Until) -> None:
    made = replicate.submit()
    done = until(lambda: (read := replicate.read(made))["status"] == "succeeded" and read)
    assert not done["data_removed"] and done["output"]
    replicate.account(data_life_s=0)
    emptied = replicate.read(made)
    assert (emptied["status"], emptied["data_removed"]) == ("succeeded", True)
    assert (emptied["output"], emptied["input"], emptied["logs"]) == (None, {}, "")
    assert replicate.sandbox.http.get(done["output"][0]).status_code == 404


def test_cancel_ends_what_is_under_way_and_changes_nothing_that_is_over(replicate: Replicate, until: Until) -> None:
    replicate.faults(duration_s=[60, 60])
    made = replicate.submit()
    assert replicate("POST", f"predictions/{made['id']}/cancel").json()["status"] == "canceled"
    assert replicate.read(made)["status"] == "canceled"
    replicate.faults()
    other = replicate.submit()
    until(lambda: replicate.read(other)["status"] == "succeeded")
    assert replicate("POST", f"predictions/{other['id']}/cancel").json()["status"] == "succeeded"


# -- the list and the account ---------------------------------------------------------------------


def test_list_is_newest_first_and_its_next_page_goes_on_where_it_ended(replicate: Replicate) -> None:
    made = [replicate.submit()["id"] for _ in range(5)]
    replicate.account(page_size=2)
    url, seen = f"{replicate.sandbox.url}/replicate/v1/predictions", []
    first = replicate("GET", "predictions").json()
    late = replicate.submit()["id"]
    page = first
    while True:
        seen += [row["id"] for row in page["results"]]
        if page["next"] is None:
            break
        assert page["next"].startswith(f"{url}?cursor=")
        page = replicate.sandbox.http.get(page["next"], headers={"Authorization": "Token sandbox"}).json()
    assert seen == made[::-1] and late not in seen


def test_list_shows_the_webhook_unless_told_not_to(replicate: Replicate, told: dict[str, Any]) -> None:
    replicate.submit(**told)
    assert replicate("GET", "predictions").json()["results"][0]["webhook"] == told["webhook"]
    replicate.account(list_shows_webhook=False)
    assert "webhook" not in replicate("GET", "predictions").json()["results"][0]


def test_account_has_a_name_and_a_secret_that_stays_over_a_reset(replicate: Replicate) -> None:
    assert replicate("GET", "account").json()["username"] == "sandbox"
    secret = replicate("GET", "webhooks/default/secret").json()["key"]
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 24
    replicate.sandbox.control("POST", "replicate/reset")
    assert replicate("GET", "webhooks/default/secret").json()["key"] == secret


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["Bearer", "Token"])
def test_both_words_for_a_token_are_taken(replicate: Replicate, scheme: str) -> None:
    assert replicate("GET", "account", scheme=scheme).status_code == 200


@pytest.mark.parametrize(("scheme", "key"), [("Bearer", "wrong"), ("Key", "sandbox"), ("Basic", "sandbox")])
def test_wrong_key_is_401_everywhere(replicate: Replicate, scheme: str, key: str) -> None:
    calls = [
        ("POST", "predictions"), ("GET", "predictions"), ("GET", "predictions/x"), ("POST", "predictions/x/cancel"),
        ("GET", "account"), ("GET", "webhooks/default/secret"),
    ]  # fmt: skip
    for method, path in calls:
        reply = replicate(method, path, key=key, scheme=scheme)
        assert reply.status_code == 401 and set(reply.json()) == {"title", "detail", "status"}
    assert replicate.sandbox.ledger("replicate") == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"version": None}, "version"),
        ({"version": 5}, "version"),
        ({"input": None}, "input"),
        ({"input": "x"}, "input"),
        ({"webhook": "not a URL"}, "webhook"),
        ({"webhook_events_filter": ["finished"]}, "webhook_events_filter"),
    ],
)
def test_wrong_input_is_422_with_the_field_named(replicate: Replicate, fields: dict[str, Any], named: str) -> None:
    reply = replicate("POST", "predictions", json={"version": VERSION, "input": {}, **fields})
    assert reply.status_code == 422
    assert [field["field"] for field in reply.json()["invalid_fields"]] == [named] and named in reply.json()["detail"]
    assert replicate.sandbox.ledger("replicate") == []


@pytest.mark.parametrize("body", [b"", b"[]", b"no json"])
def test_body_that_is_no_object_is_422(replicate: Replicate, body: bytes) -> None:
    assert replicate("POST", "predictions", content=body).status_code == 422


def test_too_little_credit_is_402_and_a_full_account_429(replicate: Replicate) -> None:
    replicate.account(credits=0)
    reply = replicate("POST", "predictions", json={"version": VERSION, "input": {}})
    assert (reply.status_code, reply.json()["title"]) == (402, "Insufficient credit")
    replicate.account(credits=9, concurrency=0, retry_after_seconds=7)
    reply = replicate("POST", "predictions", json={"version": VERSION, "input": {}})
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "7")
    assert replicate.sandbox.ledger("replicate") == []


@pytest.mark.parametrize("code", ["402", "429", "500"])
def test_error_before_accept_is_in_its_own_shape(replicate: Replicate, code: str) -> None:
    replicate.faults(error_before_accept={code: 1})
    reply = replicate("POST", "predictions", json={"version": VERSION, "input": {}})
    assert reply.status_code == int(code) == reply.json()["status"]
    assert replicate.sandbox.happened("replicate")[f"error_before_accept.{code}"] == 1
    assert replicate.sandbox.ledger("replicate") == []


def test_unknown_prediction_is_404(replicate: Replicate) -> None:
    for method, path in (("GET", "predictions/nope"), ("POST", "predictions/nope/cancel")):
        assert replicate(method, path).json()["status"] == 404


# -- the ledger -----------------------------------------------------------------------------------


def test_ledger_has_every_accepted_submit_with_the_token_of_its_webhook(
    replicate: Replicate, receiver: Receiver
) -> None:
    before = replicate.account()["credits"]
    first = replicate.submit(webhook=f"{receiver.url}/callbacks/token-1")
    replicate.faults(drop_reply_after_accept=1)
    with pytest.raises(httpx2.RemoteProtocolError):
        replicate("POST", "models/a/b/predictions", json={"input": {"n": 9007199254740993}})
    rows = replicate.sandbox.ledger("replicate")
    assert [(row["operation"], row["reference"], row["charged"]) for row in rows] == [
        ("prediction", "token-1", 1),
        ("model_prediction", None, 1),
    ]
    assert rows[0]["provider_job_id"] == first["id"] and rows[1]["input"] == {"input": {"n": 9007199254740993}}
    assert replicate.account()["credits"] == before - 2


# -- callbacks ------------------------------------------------------------------------------------


def test_end_is_called_back_as_the_prediction_itself_and_signed(
    replicate: Replicate, receiver: Receiver, until: Until, told: dict[str, Any]
) -> None:
    made = replicate.submit(**told)
    (row,) = until(lambda: received(receiver, told))
    said = verified(replicate, row)
    assert said["id"] == made["id"] and said["status"] == "succeeded" and said["webhook"] == told["webhook"]
    assert {**replicate.read(made)} == said
    spoilt = {**row, "body": row["body"].replace("succeeded", "failed")}
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verified(replicate, spoilt)


@pytest.mark.parametrize("events", [["start"], ["output", "logs"], []])
def test_who_does_not_ask_for_the_end_is_not_called(
    replicate: Replicate, receiver: Receiver, told: dict[str, Any], events: list[str]
) -> None:
    made = replicate.submit(**{**told, "webhook_events_filter": events})
    time.sleep(0.3)
    assert replicate.read(made)["status"] == "succeeded" and received(receiver, told) == []


def test_callback_is_repeated_under_the_same_id_until_it_is_taken(
    replicate: Replicate, receiver: Receiver, until: Until, told: dict[str, Any]
) -> None:
    receiver.behave(mode="503")
    replicate.faults(callback={"retry_s": [0.1, 2, 0.1]})
    replicate.submit(**told)
    until(lambda: len(received(receiver, told)) >= 2)
    receiver.behave(mode="204")
    rows = until(lambda: (found := received(receiver, told))[-1]["status"] == 204 and found)
    assert len(rows) == 3 and len({row["headers"]["webhook-id"] for row in rows}) == 1
    assert all(verified(replicate, row) for row in rows)


def test_schedule_ends_a_minute_after_the_end() -> None:
    from service.sandbox.replicate import Replicate as Played

    assert Played.retry_s == tuple(sorted(Played.retry_s)) and sum(Played.retry_s) == 60


def test_duplicates_forgeries_and_losses_happen_as_asked(
    replicate: Replicate, receiver: Receiver, until: Until, told: dict[str, Any]
) -> None:
    replicate.faults(callback={"duplicate": 3, "forge": 1})
    made = replicate.submit(**told)
    rows = until(lambda: len(found := received(receiver, told)) >= 4 and found)
    forged, *real = rows
    assert [verified(replicate, row)["id"] for row in real] == [made["id"]] * 3
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verified(replicate, forged)
    false = json.loads(forged["body"])
    assert false["id"] == made["id"] and (false["status"] == "failed" or "forged" in false["output"][0])
    replicate.faults(callback={"lose": 1})
    replicate.submit(**told)
    until(lambda: replicate.sandbox.happened("replicate")["callback.lose"] == 1)
    assert len(received(receiver, told)) == 4


def test_callback_may_come_before_the_reply(replicate: Replicate, receiver: Receiver, told: dict[str, Any]) -> None:
    replicate.faults(duration_s=[60, 60], callback={"before_reply": 1})
    made = replicate.submit(**told)
    (row,) = received(receiver, told)
    assert verified(replicate, row)["id"] == made["id"] and replicate.read(made)["status"] == "succeeded"


def test_cancel_is_called_back_once(
    replicate: Replicate, receiver: Receiver, until: Until, told: dict[str, Any]
) -> None:
    replicate.faults(duration_s=[1.5, 1.5])
    made = replicate.submit(**told)
    replicate("POST", f"predictions/{made['id']}/cancel")
    (row,) = until(lambda: received(receiver, told))
    assert verified(replicate, row)["status"] == "canceled"
    time.sleep(1.7)
    assert len(received(receiver, told)) == 1, "its former end calls nobody"


def test_another_secret_signs_what_comes_after_it(
    replicate: Replicate, receiver: Receiver, until: Until, told: dict[str, Any]
) -> None:
    before = replicate("GET", "webhooks/default/secret").json()["key"]
    replicate.account(webhook_secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    replicate.submit(**told)
    (row,) = until(lambda: received(receiver, told))
    assert verified(replicate, row)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(before).verify(row["body"], row["headers"])
