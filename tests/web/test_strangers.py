"""What strangers say back of ours is kept, announced and relayed without it: a provider, a subscriber, a callback."""

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service import signatures
from tests.test_masking import FORMS
from tests.through import BOTH, Client, a_key
from tests.web.served import Served

pytestmark = pytest.mark.xdist_group("strangers")

KEY = "the/key+of~a.provider=7f3a"
HEADER = "Bearer what-the-subscriber-knows-us-by"
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SOME = ["plain", "percent-encoded", "in JSON, every letter escaped", "base64 behind one byte"]


class Stranger:
    """One host that plays all of them, and says what `says` holds; `heard` is what came."""

    def __init__(self) -> None:
        stranger = self

        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                stranger.heard.append({"path": self.path, "headers": dict(self.headers.items()), "body": body})
                stranger.answer(self, body)

            do_GET = do_POST = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.says, self.heard = b"", list[dict[str, Any]]()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, to: BaseHTTPRequestHandler, body: bytes) -> None:
        if to.path.endswith("/secret"):
            self.send(to, 200, json.dumps({"key": WHSEC}).encode())
        elif to.path.startswith("/hook"):
            told = f"{to.path} {to.headers['Authorization']} {to.path.encode().hex()}".encode()
            self.send(to, 500, told + b" " + self.says, "text/plain")
        elif to.path.endswith("/predictions"):
            self.send(to, 201, json.dumps({"id": "p-1", "status": "starting", "output": None}).encode())
        elif "/predictions/" in to.path:
            self.send(to, 200, json.dumps({"id": "p-1", "status": "processing", "output": None}).encode())
        elif to.path.endswith("/stream"):
            to.send_response_only(200)
            to.send_header("Content-Type", "video/mp4")
            to.send_header("Content-Length", str(len(self.says)))
            to.end_headers()
            for at in range(0, len(self.says), 5):
                to.wfile.write(self.says[at : at + 5])
                to.wfile.flush()
        elif to.path.endswith("/generate"):
            self.send(to, 400, b'{"error":"no such key: ' + self.says + b'"}')
        else:
            self.send(to, 200, b'{"key":"' + self.says + b'"}')

    def send(self, to: BaseHTTPRequestHandler, status: int, body: bytes, kind: str = "application/json") -> None:
        to.send_response_only(status)
        to.send_header("Content-Type", kind)
        to.send_header("Content-Length", str(len(body)))
        to.send_header("X-Request", self.says.decode("latin-1"))
        to.end_headers()
        to.wfile.write(body)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Stranger, Path]]:
    stranger, folder = Stranger(), tmp_path_factory.mktemp("strangers")
    thread = threading.Thread(target=stranger.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    more = {"CALLSHEET_EGRESS_ALLOW": "127.0.0.0/8"}
    for name in ("PEAKMV", "REPLICATE"):
        more |= {f"CALLSHEET_{name}_API_KEY": KEY, f"CALLSHEET_{name}_BASE_URL": stranger.url}
    served = Served(folder, **more)
    with served.running("http://127.0.0.1:9"):
        yield served, stranger, folder
    stranger.server.shutdown()
    stranger.server.server_close()


@pytest.fixture
def peakmv(running: Any) -> Iterator[Client]:
    with contextlib.closing(Client(running[0].url, "peakmv", a_key(running[0], *BOTH))) as client:
        yield client


@pytest.fixture
def stranger(running: Any) -> Stranger:
    found: Stranger = running[1]
    found.says = b""
    found.heard.clear()
    return found


def kept(folder: Path) -> bytes:
    """All that the database keeps as text or bytes, decoded where it is JSON."""
    found = []
    with contextlib.closing(sqlite3.connect(folder / "callsheet.db")) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in database.execute(f'SELECT * FROM "{table}"'):
                found += [
                    value.encode() if isinstance(value, str) else value
                    for value in row
                    if isinstance(value, str | bytes)
                ]
    return b"\n".join(found)


def until_kept(folder: Path, what: bytes) -> bytes:
    ends = time.monotonic() + 20
    while what not in (found := kept(folder)) and time.monotonic() < ends:
        time.sleep(0.05)
    assert what in found
    return found


@pytest.mark.parametrize("form", SOME)
def test_an_error_of_the_providers_is_kept_and_announced_without_our_key(
    running: Any, peakmv: Client, stranger: Stranger, form: str
) -> None:
    stranger.says = FORMS[form](KEY)
    given = {"provider": "peakmv", "operation": "generate", "input": {"audio_url": "https://media.example.com/a.mp3"}}
    job_id = peakmv.us.post("/v1/jobs", json=given).json()["id"]
    peakmv.tick()
    job = peakmv.job(job_id)
    assert job["status"] == "failed" and "no such key: ****************" in json.dumps(job["error"])
    said = json.dumps([job, peakmv.us.get(f"/v1/jobs/{job_id}/timeline").json()])
    said += peakmv.us.get(f"/v1/events?job={job_id}").text
    for text in (said.encode(), kept(running[2])):
        assert KEY.encode() not in text and stranger.says not in text


@pytest.mark.parametrize("form", SOME)
def test_what_passes_through_has_our_key_starred_at_its_length(peakmv: Client, stranger: Stranger, form: str) -> None:
    stranger.says = FORMS[form](KEY)
    stars = b"*" * len(stranger.says)
    reply = peakmv("GET", "/api/v2/anything")
    assert reply.content == b'{"key":"' + stars + b'"}'
    # A header that tells the key as it is does not cross at all.
    assert reply.headers.get("x-request", stars.decode()) == stars.decode()
    stranger.says = b"\x00mp4 " + stranger.says + b" and more"
    assert peakmv("GET", "/api/v2/stream").content == b"\x00mp4 " + stars + b" and more"
    stranger.says = FORMS[form](KEY)
    refused = peakmv("POST", "/api/v2/generate", json={"audio_url": "https://media.example.com/a.mp3"})
    assert refused.status_code == 400 and stars in refused.content and FORMS[form](KEY) not in refused.content
    assert FORMS[form](KEY).decode() not in json.dumps(peakmv.job(refused))


SAID_BACK = {
    "what it was called with": b"",
    "the URL, percent-encoded": FORMS["percent-encoded"]("/hook/services/T0123456789abcdef?token=another-secret"),
    "the header, in base64": FORMS["base64 behind one byte"](HEADER.removeprefix("Bearer ")),
    "one part of the URL, in JSON": FORMS["in JSON, every letter escaped"]("T0123456789abcdef"),
}


@pytest.mark.parametrize("what", SAID_BACK)
def test_an_attempt_shows_nothing_of_what_a_subscriber_was_called_by(
    running: Any, peakmv: Client, stranger: Stranger, what: str
) -> None:
    stranger.says = SAID_BACK[what]
    url = f"{stranger.url}/hook/services/T0123456789abcdef?token=another-secret"
    made = peakmv.us.post("/v1/endpoints", json={"url": url, "headers": {"Authorization": HEADER}}).json()
    stranger.says += b" " + made["secret"].encode() + b" <- the secret"
    event = peakmv.us.post(f"/v1/endpoints/{made['id']}/test").json()
    peakmv.tick()
    ends = time.monotonic() + 20
    attempts: list[Any] = []
    while not attempts and time.monotonic() < ends:
        row = peakmv.us.get(f"/v1/deliveries?event={event['id']}").json()["data"][0]
        attempts = peakmv.us.get(f"/v1/deliveries/{row['id']}").json()["attempts"]
    peakmv.us.delete(f"/v1/endpoints/{made['id']}")
    said = json.dumps(attempts[0])
    assert "<- the secret" in said and "****" in said
    for secret in (
        "T0123456789abcdef",
        "another-secret",
        HEADER[7:],
        made["secret"][6:],
        SAID_BACK[what].decode() or "T012",
    ):
        assert secret not in said
        assert secret.encode() not in kept(running[2])


@pytest.mark.parametrize("form", SOME[:3])
def test_a_callback_is_verified_as_it_came_and_kept_without_our_key_and_its_token(
    running: Any, peakmv: Client, stranger: Stranger, form: str
) -> None:
    given = {"provider": "replicate", "operation": "prediction", "input": {"version": "m", "input": {"prompt": form}}}
    job = peakmv.us.post("/v1/jobs", json=given).json()
    peakmv.tick()
    url = next(json.loads(sent["body"])["webhook"] for sent in stranger.heard if sent["path"].endswith("/predictions"))
    token = url.rpartition("/")[2]
    head = json.dumps({"id": "p-1", "status": "failed", "marks": form}).encode()[:-1]
    body = head + b',"error":"key ' + FORMS[form](KEY) + b'","webhook":"' + FORMS[form](token) + b'"}'
    keys = [signatures.parse_secret(WHSEC)]
    signed = signatures.signed_headers(keys, event_id="msg_1", timestamp=int(time.time()), body=body)
    answer = httpx2.post(url, content=body, headers={"content-type": "application/json", **signed})
    assert answer.status_code in (200, 404), answer.text  # the second job of one id is another's: rejected, and kept
    found = until_kept(running[2], form.encode())
    for secret in (KEY, token):
        assert FORMS[form](secret) not in found and secret.encode() not in found
    shown = json.dumps(peakmv.job(job["id"])).encode()
    assert KEY.encode() not in shown and token.encode() not in shown
