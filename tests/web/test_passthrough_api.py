"""Passthrough over sockets: what reaches the provider, what comes back, and the job that a submit leaves."""

import concurrent.futures
import contextlib
import gc
import hashlib
import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from service.passthrough.intents import Intent, new_job
from tests.through import BOTH, Client, Sandbox, a_key
from tests.upstream import PIECE, Upstream, upstream_running
from tests.web.served import ADMIN, Served, sandbox_running

pytestmark = pytest.mark.xdist_group("passthrough")

CREDENTIAL = "peakmv-credential-canary-77aa"
SONG = {"audio_url": "https://media.example.com/song.mp3"}
INPUT = {"prompt": "a cat", "model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"}
GENERATE = "/openapi/v2/video/text/generate"
ANOTHER = {"callsheet-repeat": "new"}  # the tests of this module lose equal submits, each of which is another one


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Sandbox, Upstream]]:
    with upstream_running() as upstream:
        more = {"CALLSHEET_PEAKMV_API_KEY": CREDENTIAL, "CALLSHEET_PEAKMV_BASE_URL": upstream.url}
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
def sandbox(running: Any) -> Sandbox:
    found: Sandbox = running[1]
    found.faults("pixverse")
    return found


@pytest.fixture
def peakmv(running: Any, upstream: Upstream) -> Iterator[Client]:
    with contextlib.closing(Client(running[0].url, "peakmv", a_key(running[0], *BOTH))) as client:
        yield client


@pytest.fixture
def pixverse(running: Any, sandbox: Sandbox) -> Iterator[Client]:
    with contextlib.closing(Client(running[0].url, "pixverse", a_key(running[0], *BOTH))) as client:
        yield client


# -- what reaches the provider


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_reaches_the_provider_with_its_path_and_query_untouched(
    peakmv: Client, upstream: Upstream, method: str
) -> None:
    path = "/echo/a%2Fb/%C3%A9;v=1?x=%2f&x=1&y=a+b&&z"
    reply = peakmv(method, path)
    assert reply.status_code == 200
    assert [(request["method"], request["path"]) for request in upstream.requests] == [(method, path)]


def test_the_key_is_swapped_and_no_cookie_and_nothing_of_ours_crosses(peakmv: Client, upstream: Upstream) -> None:
    ours = {
        "cookie": "session=mine", "x-forwarded-for": "10.1.2.3", "callsheet-tenant": "default", "forwarded": "for=x",
        "x-http-method-override": "DELETE", "connection": "x-hop", "x-hop": "1", "x-again": f"it is {peakmv.key}",
    }  # fmt: skip
    theirs = {"x-own": "1", "user-agent": "script/2", "accept": "text/x", "prefer": "wait=1"}
    reply = peakmv("POST", "/echo", headers={**ours, **theirs}, json={"a": 1.10})
    got = upstream.requests[0]["headers"]
    assert got["authorization"] == f"Bearer {CREDENTIAL}"
    assert {name: got[name] for name in theirs} == theirs
    assert not set(got) & (set(ours) - {"connection"})
    assert peakmv.key not in json.dumps(upstream.requests) and reply.json()["body"] == '{"a":1.1}'
    assert got["host"] == urlsplit(upstream.url).netloc


def test_what_comes_back_has_no_cookie_no_credential_and_no_headers_that_would_act_on_our_origin(
    peakmv: Client, upstream: Upstream
) -> None:
    reply = peakmv("GET", "/marked")
    assert reply.json() == {"marked": True}
    assert reply.headers["etag"] == '"1"' and reply.headers["x-own"].encode("latin-1") == "grün".encode("latin-1")
    assert not {"set-cookie", "x-echo", "x-accel-redirect", "callsheet-job-id"} & set(reply.headers)
    assert CREDENTIAL not in str(reply.headers) and len(reply.headers.get_list("date")) == 1
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("status", [200, 201, 204, 207, 304, 400, 402, 404, 418, 429, 500, 503])
def test_a_status_code_stays_and_so_does_the_body(peakmv: Client, status: int) -> None:
    reply = peakmv("GET", f"/status/{status}")
    assert reply.status_code == status
    assert reply.content == (b"" if status in (204, 304) else b"as it is")
    assert reply.headers["content-type"] == "text/x-own; charset=latin-1"


def test_a_304_may_name_the_length_that_it_does_not_send(peakmv: Client, caplog: pytest.LogCaptureFixture) -> None:
    """RFC 9110 section 8.6: it is that of the 200, and no bytes follow."""
    reply = peakmv("GET", "/unchanged", headers={"if-none-match": '"1"'})
    assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", '"1"')
    assert peakmv("GET", "/echo").status_code == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_redirect_is_relayed_and_leads_through_us(peakmv: Client, upstream: Upstream) -> None:
    reply = peakmv("GET", "/moved")
    assert (reply.status_code, reply.headers["location"]) == (302, f"{peakmv.base}/echo?x=1")
    assert upstream.paths() == ["/moved"]


@pytest.mark.parametrize("path", ["/..%2fkeys", "/a/%2e%2e/b", "/a/..;/b", "/a%252f..%252fb", "/a%5c..%5cb", "/a%00"])
def test_a_path_that_climbs_is_refused_before_the_provider_is_called(
    peakmv: Client, upstream: Upstream, path: str
) -> None:
    reply = raw_get(peakmv, path)
    assert b"422" in reply.split(b"\r\n")[0] and b'"bad_path"' in reply
    assert upstream.requests == []


def raw(client: Client, line: str, *headers: str, body: bytes = b"") -> bytes:
    """A request that no client library would write: `line` is its method and the provider's path."""
    base, (method, path) = urlsplit(client.base), line.split(" ", 1)
    with socket.create_connection((base.hostname, base.port), 10) as connection:
        lines = [f"{method} {base.path}{path} HTTP/1.1", "Host: x", f"Authorization: Bearer {client.key}", *headers]
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def raw_get(client: Client, path: str) -> bytes:
    return raw(client, f"GET {path}", "Connection: close")


def test_a_length_may_begin_with_any_number_of_zeros(peakmv: Client, upstream: Upstream) -> None:
    for line in ("POST /echo", "POST /api/v2/generate"):
        reply = raw(peakmv, line, "Connection: close", f"Content-Length: {'0' * 5000}2", body=b"{}")
        assert reply.startswith(b"HTTP/1.1 2"), reply
    assert [(request["length"], request["body"]) for request in upstream.requests] == [(2, "{}")] * 2


def test_a_url_that_is_too_long_is_said_to_be(peakmv: Client, upstream: Upstream) -> None:
    reply = peakmv("GET", "/echo?" + "a" * 3000)
    assert (reply.status_code, reply.json()["code"], upstream.requests) == (422, "not_forwarded", [])
    assert "URL" in reply.json()["detail"] and reply.json()["detail"].endswith("2048 characters.")


def test_a_key_in_the_url_is_refused(peakmv: Client, upstream: Upstream) -> None:
    encoded = "".join(f"%{ord(letter):02X}" for letter in peakmv.key)
    twice = encoded.replace("%", "%25")
    for key in (peakmv.key, encoded, twice):
        assert peakmv("GET", f"/echo?key={key}").status_code == 422
        assert peakmv("GET", f"/echo/{key}").status_code == 422
    assert upstream.requests == []


# -- who may


def test_the_key_stands_in_the_providers_own_header_or_in_ours(pixverse: Client) -> None:
    path, trace = f"{pixverse.base}/openapi/v2/account/balance", {"ai-trace-id": "t"}
    for header in ({"API-KEY": pixverse.key}, {"authorization": f"Bearer {pixverse.key}"}):
        reply = pixverse.http.get(path, headers=header | trace)
        assert reply.status_code == 200 and reply.json()["ErrCode"] == 0, reply.text


@pytest.mark.parametrize("header", [{}, {"API-KEY": "sandbox"}, {"API-KEY": ""}, {"authorization": "Basic eDp5"}])
def test_without_a_key_of_ours_nothing_is_told(pixverse: Client, header: dict[str, str]) -> None:
    reply = pixverse.http.get(f"{pixverse.base}/openapi/v2/account/balance", headers=header)
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated")
    assert "API-KEY" in reply.json()["detail"] or header


def test_a_key_needs_the_scope(running: Any, peakmv: Client, upstream: Upstream) -> None:
    peakmv.key = a_key(running[0], "jobs:write", "jobs:read", "passthrough:account")
    reply = peakmv("GET", "/echo")
    assert reply.status_code == 403 and "`passthrough`" in reply.json()["detail"]
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/keys"), ("POST", "/API/Keys/"), ("GET", "/api/%6beys"), ("GET", "//api//keys"), ("POST", "/login"),
     ("DELETE", "/api/keys/1"), ("HEAD", "/api/keys"), ("POST", "/api/billing/topup"), ("GET", "/api/orgs/1/members"),
     ("GET", "/api%2Fkeys"), ("PATCH", "/api/keys;a=b")],
)  # fmt: skip
def test_an_ordinary_key_reaches_no_keys_billing_login_or_organisation(
    running: Any, peakmv: Client, upstream: Upstream, method: str, path: str
) -> None:
    both, peakmv.key = peakmv.key, a_key(running[0], "passthrough")
    reply = peakmv(method, path)
    assert reply.status_code == 403 and upstream.requests == []
    assert method == "HEAD" or "`passthrough:account`" in reply.json()["detail"]
    peakmv.key = both
    assert peakmv(method, path).status_code == 200 and len(upstream.requests) == 1


@pytest.mark.parametrize(
    "sent",
    [
        {"json": {**SONG, "prompt": "KEY"}},
        {"json": {**SONG, "nested": [{"Authorization": "Bearer KEY"}]}},
        {"files": {"audio": ("a.mp3", b"x" * 70_000 + b"KEY")}},
        {"data": {"prompt": "KEY"}},
        {"content": "KEY"},
    ],
    ids=["a field", "below", "a file", "a form", "text"],
)
@pytest.mark.parametrize("path", ["/api/v2/generate", "/echo"])
def test_the_callers_key_in_a_body_goes_nowhere(
    peakmv: Client, upstream: Upstream, path: str, sent: dict[str, Any]
) -> None:
    before, (kind, given) = len(peakmv.jobs()), next(iter(sent.items()))
    told = json.loads(json.dumps(given).replace("KEY", peakmv.key)) if kind in ("json", "data") else given
    if kind == "files":
        told = {"audio": ("a.mp3", given["audio"][1].replace(b"KEY", peakmv.key.encode()))}
    elif kind == "content":
        told = given.replace("KEY", peakmv.key)
    reply = peakmv("POST", path, **{kind: told})
    assert (reply.status_code, reply.json()["code"], reply.json()["param"]) == (422, "key_elsewhere", "body"), (
        reply.text
    )
    assert peakmv.key not in reply.text and peakmv.key not in json.dumps(upstream.requests)
    assert len(peakmv.jobs()) == before


def test_no_such_provider_and_no_credential_are_said(running: Any) -> None:
    headers = {"authorization": f"Bearer {ADMIN}"}
    reply = httpx2.get(f"{running[0].url}/v1/providers/nobody/passthrough/x", headers=headers)
    assert (reply.status_code, reply.json()["param"]) == (404, "provider")
    assert httpx2.get(f"{running[0].url}/v1/providers/nobody/passthrough/x").status_code == 401
    assert httpx2.get(f"{running[0].url}/v1/providers/peakmv/passthrough", headers=headers).status_code == 404


def test_another_tenants_job_is_not_moved(pixverse: Client) -> None:
    """Each tenant's calls go out under its own credential, and jobs are found by credential."""
    reply = pixverse("POST", GENERATE, json=INPUT, headers={"ai-trace-id": str(uuid.uuid4())})
    assert pixverse.us.post("/v1/tenants", json={"name": "others"}).status_code == 201
    time.sleep(0.2)
    headers = {"authorization": f"Bearer {ADMIN}", "callsheet-tenant": "others", "ai-trace-id": "t"}
    path = f"{pixverse.base}/openapi/v2/video/result/{reply.json()['Resp']['video_id']}"
    assert pixverse.http.get(path, headers=headers).json()["Resp"]["status"] == 1
    assert pixverse.job(reply)["status"] == "processing"


# -- bodies


def memory() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_reply_streams(peakmv: Client, chunked: bool) -> None:
    size, digest, before = 0, hashlib.sha256(), memory()
    headers = {"authorization": f"Bearer {peakmv.key}"}
    url = f"{peakmv.base}/big/96" + ("?chunked" if chunked else "")
    most = 0
    with peakmv.http.stream("GET", url, headers=headers) as reply:
        assert ("content-length" in reply.headers) is not chunked
        for piece in reply.iter_raw():
            size += len(piece)
            digest.update(piece)
            most = max(most, psutil.Process().memory_info().rss)
    whole = hashlib.sha256()
    for _ in range(96 * 16):
        whole.update(PIECE)
    assert size == 96 * 16 * len(PIECE) and digest.digest() == whole.digest()
    assert most - before < 32 * 1024 * 1024  # the provider, the service and this client are one process here


@pytest.mark.parametrize("declared", [True, False])
def test_a_large_upload_streams(peakmv: Client, upstream: Upstream, declared: bool) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(64 * 16):
            yield PIECE

    size, before = 64 * 16 * len(PIECE), memory()
    headers = {"content-type": "multipart/form-data; boundary=x"} | ({"content-length": str(size)} if declared else {})
    assert peakmv("POST", "/upload", headers=headers, content=pieces()).status_code == 200
    got, whole = upstream.requests[0], hashlib.sha256()
    for piece in pieces():
        whole.update(piece)
    assert (got["length"], got["sha256"]) == (size, whole.hexdigest())
    assert got["headers"]["content-type"] == headers["content-type"]
    assert memory() - before < 32 * 1024 * 1024


def test_a_reply_that_breaks_off_breaks_off_for_the_caller_too(peakmv: Client) -> None:
    with pytest.raises(httpx2.RemoteProtocolError):
        peakmv("GET", "/cut")


def test_a_reply_that_never_begins_is_a_504_and_nothing_is_sent_again(peakmv: Client, upstream: Upstream) -> None:
    for method in ("POST", "DELETE"):
        upstream.requests.clear()
        reply = peakmv(method, "/drop")
        assert (reply.status_code, reply.json()["code"]) == (504, "no_reply")
        assert upstream.paths() == ["/drop"]


def test_a_provider_that_answers_before_the_body_is_sent_is_heard(peakmv: Client) -> None:
    base = urlsplit(peakmv.base)
    with socket.create_connection((base.hostname, base.port), 10) as connection:
        head = f"POST {base.path}/early HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {peakmv.key}\r\n"
        connection.sendall(f"{head}Content-Type: video/mp4\r\nContent-Length: 1000000\r\n\r\n".encode() + b"x" * 10)
        reply = b""
        while not reply.endswith(b"}"):
            more = connection.recv(65536)
            assert more, reply
            reply += more
    assert reply.startswith(b"HTTP/1.1 413") and b"too large for us" in reply


def test_expect_100_continue_is_answered_here(peakmv: Client, upstream: Upstream) -> None:
    base = urlsplit(peakmv.base)
    with socket.create_connection((base.hostname, base.port), 10) as connection:
        head = f"POST {base.path}/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {peakmv.key}\r\n"
        connection.sendall(f"{head}Content-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(b"body")
        rest = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"HTTP/1.1 200" in rest and upstream.requests[0]["body"] == "body"
    assert "expect" not in upstream.requests[0]["headers"]


def test_json_beyond_what_is_read_and_json_that_is_coded_come_as_they_are(peakmv: Client, upstream: Upstream) -> None:
    long = peakmv("GET", "/long")
    assert long.json()["status_url"] == f"{upstream.url}/echo" and len(long.content) > 5 * 1024 * 1024
    headers = {"authorization": f"Bearer {peakmv.key}"}
    with peakmv.http.stream("GET", f"{peakmv.base}/coded", headers=headers) as coded:
        assert b"".join(coded.iter_raw()) == b"\x1f\x8bnot really gzip"
        assert coded.headers["content-encoding"] == "gzip"


def test_a_large_reply_counts_as_under_way_until_it_is_taken(running: Any, peakmv: Client) -> None:
    """Or clients that do not read would fill the memory with what was read for them."""
    under_way, base = running[0].service.context.passthrough._calls, urlsplit(peakmv.base)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect((base.hostname, base.port))
        head = f"GET {base.path}/wide HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {peakmv.key}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(12) == b"HTTP/1.1 200"
        time.sleep(0.5)
        assert sum(under_way.values()) == 1
    until(lambda: not under_way)
    reply = peakmv("GET", "/wide")
    assert len(reply.content) == int(reply.headers["content-length"]) > 4_000_000
    assert reply.json()["status_url"] == f"{peakmv.base}/echo" and not under_way


def until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 30
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_a_provider_that_cannot_be_reached_is_a_503(running: Any, tmp_path: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = Served(tmp_path, CALLSHEET_PEAKMV_API_KEY="x", CALLSHEET_PEAKMV_BASE_URL=f"http://127.0.0.1:{port}")
    with served.running(running[1].url), contextlib.closing(Client(served.url, "peakmv", ADMIN)) as client:
        assert (client("GET", "/x").status_code, client("GET", "/x").json()["code"]) == (503, "provider_unavailable")
        reply = client("POST", "/api/v2/generate", json=SONG)
        assert (reply.status_code, "retry-after" in reply.headers) == (503, True)
        job = client.job(reply)
        assert (job["status"], job["error"]["retryable"]) == ("failed", True)
        assert client.timeline(job)[:3] == ["accepted", "sending", "refused"]


# -- submits


def test_a_submit_is_one_tracked_job_and_its_reply_has_its_urls_through_us(peakmv: Client, upstream: Upstream) -> None:
    body = b'{"audio_url":"https://media.example.com/song.mp3","seed":12345678901234567890123,"f":1.10}'
    reply = peakmv("POST", "/api/v2/generate", content=body, headers={"content-type": "application/json"})
    number = reply.json()["job_id"]
    url = f"{peakmv.base}/api/v2/jobs/{number}"
    said = {"success": True, "job_id": number, "status_url": url, "cost_credits": 3}
    assert reply.content == json.dumps(said).encode()
    assert upstream.requests[0]["body"].encode() == body
    job = peakmv.job(reply)
    assert (job["status"], job["operation"], job["provider_job_ids"]) == ("processing", "generate", [number])
    assert job["cost"] == {"amount": "3", "unit": "credits", "source": "quoted"}
    assert peakmv.timeline(job) == ["accepted", "sending", "accepted", "job.processing"]
    shown = peakmv.us.get(f"/v1/jobs/{job['id']}").content
    assert b'"seed":12345678901234567890123,"f":1.10' in shown


def test_64_bit_ids_and_every_other_byte_of_a_reply_are_intact(pixverse: Client, sandbox: Sandbox) -> None:
    reply = pixverse("POST", GENERATE, json=INPUT, headers={"ai-trace-id": str(uuid.uuid4())})
    charged = sandbox.ledger("pixverse")[0]["provider_job_id"]
    assert int(charged) > 2**53 and int(charged) % 2 == 1
    assert reply.text == f'{{"ErrCode":0,"ErrMsg":"success","Resp":{{"video_id":{charged},"credits":45}}}}'
    assert pixverse.job(reply)["provider_job_ids"] == [charged]


def test_a_status_call_moves_the_job_without_any_loop(pixverse: Client) -> None:
    reply = pixverse("POST", GENERATE, json=INPUT, headers={"ai-trace-id": str(uuid.uuid4())})
    path = f"/openapi/v2/video/result/{reply.json()['Resp']['video_id']}"
    deadline = time.monotonic() + 30
    while pixverse("GET", path, headers={"ai-trace-id": str(uuid.uuid4())}).json()["Resp"]["status"] != 1:
        assert time.monotonic() < deadline
    job = pixverse.job(reply)
    assert job["status"] == "succeeded" and job["outputs"][0]["url"]
    assert pixverse("GET", path, headers={"ai-trace-id": "again"}).status_code == 200
    assert pixverse.events(job, "job.succeeded") == ["job.succeeded"]
    assert "update" in pixverse.timeline(job)


@pytest.mark.parametrize(("mode", "status", "code"), [("refuse", 400, "invalid_input"), ("full", 429, "capacity")])
def test_a_refusal_reaches_the_caller_and_ends_the_job(
    peakmv: Client, upstream: Upstream, mode: str, status: int, code: str
) -> None:
    upstream.submit = mode
    reply = peakmv("POST", "/api/v2/generate", json=SONG)
    assert reply.status_code == status
    job = peakmv.job(reply)
    assert (job["status"], job["error"]["code"]) == ("failed", code)
    assert peakmv.events(job) == ["job.failed"]
    peakmv.tick()
    assert len(upstream.paths("POST")) == 1, "it was sent again"


@pytest.mark.parametrize("mode", ["drop", "cut"])
def test_a_lost_reply_is_a_424_and_one_unknown_job_that_nobody_sends_again(
    peakmv: Client, upstream: Upstream, mode: str
) -> None:
    upstream.submit = mode
    before = len(peakmv.jobs())
    reply = peakmv("POST", "/api/v2/generate", json=SONG, headers=ANOTHER)
    assert upstream.paths("POST") == ["/api/v2/generate"], "the fault did not happen"
    assert (reply.status_code, reply.json()["code"]) == (424, "reply_lost")
    assert reply.headers["x-should-retry"] == "false" and "Callsheet-Repeat: new" in reply.json()["detail"]
    assert reply.headers["content-type"] == "application/problem+json"
    job = peakmv.job(reply)
    assert job["id"] in reply.json()["detail"] and job["status"] == "unknown"
    assert len(peakmv.jobs()) == before + 1 and peakmv.events(job) == ["job.unknown"]
    for _ in range(3):
        peakmv.tick()
    assert upstream.paths("POST") == ["/api/v2/generate"]
    assert peakmv.job(reply)["status"] == "unknown"


def test_what_is_not_in_the_providers_shape_is_relayed_and_the_job_is_unknown(
    peakmv: Client, upstream: Upstream
) -> None:
    upstream.submit = "page"
    reply = peakmv("POST", "/api/v2/generate", json=SONG, headers=ANOTHER)
    assert (reply.status_code, reply.text) == (502, "<html>bad gateway</html>")
    assert peakmv.job(reply)["status"] == "unknown"


def test_a_refused_credential_is_paused_for_the_queue_too(running: Any, upstream: Upstream, tmp_path: Any) -> None:
    served = Served(tmp_path, CALLSHEET_PEAKMV_API_KEY="x", CALLSHEET_PEAKMV_BASE_URL=upstream.url)
    with served.running(running[1].url), contextlib.closing(Client(served.url, "peakmv", ADMIN)) as client:
        upstream.submit = "lock-out"
        reply = client("POST", "/api/v2/generate", json=SONG)
        assert reply.status_code == 401 and client.job(reply)["error"]["code"] == "authentication"
        paused = client.us.get("/v1/events?type=credential.paused").json()["data"]
        assert len(paused) == 1
        again = client("POST", "/api/v2/generate", json=SONG)
        assert again.status_code == 401, "a call that passes through is the provider's to refuse, not ours"


def test_a_caller_that_goes_away_leaves_the_job_with_its_outcome(peakmv: Client, upstream: Upstream) -> None:
    upstream.submit = "slow"
    base, before = urlsplit(peakmv.base), {job["id"] for job in peakmv.jobs()}
    with socket.create_connection((base.hostname, base.port), 10) as connection:
        body = json.dumps(SONG)
        head = f"POST {base.path}/api/v2/generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {peakmv.key}\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        deadline = time.monotonic() + 30
        while not upstream.paths("POST"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    deadline = time.monotonic() + 30
    while not (new := [job for job in peakmv.jobs() if job["id"] not in before and job["status"] == "processing"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(new) == 1 and new[0]["provider_job_ids"]


def test_a_body_that_breaks_off_makes_no_job_and_no_call(peakmv: Client, upstream: Upstream) -> None:
    base, before = urlsplit(peakmv.base), len(peakmv.jobs())
    with socket.create_connection((base.hostname, base.port), 10) as connection:
        head = f"POST {base.path}/api/v2/generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {peakmv.key}\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    time.sleep(0.3)
    assert len(peakmv.jobs()) == before and upstream.requests == []


def test_a_job_whose_request_died_is_looked_up_and_never_sent(running: Any, peakmv: Client, upstream: Upstream) -> None:
    """As a killed process leaves it: durable, leased, perhaps sent. Then the lease is over."""
    context = running[0].service.context
    provider = context.providers["peakmv"]

    async def left() -> str:
        tenant = await context.accounts.tenant("default")
        intent = Intent(
            tenant=tenant.num,
            provider=provider,
            operation=provider.operations["generate"],
            credential=await context.accounts.credential(tenant.num, "peakmv"),
            input=SONG,
            input_json=json.dumps(SONG).encode(),
            correlation=str(uuid.uuid4()),
            own_key=False,
            traceparent=None,
        )
        made = await context.store.create_jobs([new_job(intent, 0, context.settings, context.clock.now() - 100_000)])
        return made[0].job.id

    job_id = running[0].run(left())
    assert peakmv.job(job_id)["status"] == "submitting"
    peakmv.tick()
    assert peakmv.job(job_id)["status"] == "unknown" and upstream.requests == []


def test_an_over_large_submit_is_refused_before_it_is_sent(peakmv: Client, upstream: Upstream) -> None:
    before = len(peakmv.jobs())
    reply = peakmv("POST", "/api/v2/generate", json={**SONG, "prompt": "x" * 1024 * 1024})
    assert reply.status_code == 413 and upstream.requests == [] and len(peakmv.jobs()) == before


def test_a_budget_holds_for_passthrough_too(running: Any, sandbox: Sandbox, tmp_path: Any) -> None:
    served = Served(tmp_path)
    with served.running(sandbox.url), contextlib.closing(Client(served.url, "pixverse", ADMIN)) as client:
        assert client.us.put("/v1/budgets/pixverse", json={"amount": "50"}).status_code == 200
        replies = [client("POST", GENERATE, json=INPUT, headers={"ai-trace-id": str(uuid.uuid4())}) for _ in "ab"]
        assert [reply.status_code for reply in replies] == [200, 422]
        assert replies[1].json()["code"] == "over_budget"
        assert len(sandbox.ledger("pixverse")) == 1


def test_a_budget_holds_however_the_body_is_written(running: Any, sandbox: Sandbox, tmp_path: Any) -> None:
    """The table's cheapest is 45, its highest 120: what the provider may read otherwise counts as that."""
    served, body = Served(tmp_path), json.dumps(INPUT)
    odd = {
        "another media type": {"content": body, "headers": {"content-type": "text/plain"}},
        "a byte order mark": {
            "content": b"\xef\xbb\xbf" + body.encode(),
            "headers": {"content-type": "application/json"},
        },
        "an array": {"content": f"[{body}]", "headers": {"content-type": "application/json"}},
        "a quoted number": {"json": {**INPUT, "duration": "5"}},
        "other letters": {"json": {"Quality" if name == "quality" else name: INPUT[name] for name in INPUT}},
        "a name twice": {
            "content": f'{body[:-1]}, "quality": "1080p"}}',
            "headers": {"content-type": "application/json"},
        },
    }
    with served.running(sandbox.url), contextlib.closing(Client(served.url, "pixverse", ADMIN)) as client:
        assert client.us.put("/v1/budgets/pixverse", json={"amount": "100"}).status_code == 200
        for what, request in odd.items():
            reply = client("POST", GENERATE, **request)
            assert (reply.status_code, reply.json()["code"]) == (422, "over_budget"), what
        assert sandbox.ledger("pixverse") == []
        assert client("POST", GENERATE, json=INPUT).status_code == 200


def test_many_at_once_are_as_many_jobs(pixverse: Client, sandbox: Sandbox) -> None:
    def submit(number: int) -> tuple[str, str]:
        body = {**INPUT, "prompt": f"number {number}"}
        reply = pixverse("POST", GENERATE, json=body, headers={"ai-trace-id": str(uuid.uuid4())})
        return reply.headers["callsheet-job-id"], str(reply.json()["Resp"]["video_id"])

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        made = dict(pool.map(submit, range(30)))
    prompts = {row["provider_job_id"]: row["input"]["prompt"] for row in sandbox.ledger("pixverse")}
    assert len(made) == len(prompts) == 30
    for job_id, number in made.items():
        job = pixverse.job(job_id)
        assert job["provider_job_ids"] == [number] and job["input"]["prompt"] == prompts[number]


# -- the caller's own key of idempotency: the same Ai-trace-id never makes a second video


def test_a_repeat_after_a_lost_reply_gets_the_first_ones_answer_in_the_same_job(
    pixverse: Client, sandbox: Sandbox
) -> None:
    sandbox.faults("pixverse", drop_reply_after_accept=1.0)
    trace = {"ai-trace-id": str(uuid.uuid4())}
    lost = pixverse("POST", GENERATE, json=INPUT, headers=trace)
    assert lost.status_code == 424 and sandbox.happened("pixverse", "drop_reply_after_accept") == 1
    job = pixverse.job(lost)
    assert (job["status"], "no reply" in job["reason"]) == ("unknown", True)
    again = pixverse("POST", GENERATE, json=INPUT, headers=trace)
    assert again.status_code == 200 and again.headers["callsheet-job-id"] == job["id"]
    job = pixverse.job(again)
    assert (job["status"], job["provider_job_ids"]) == ("processing", [str(again.json()["Resp"]["video_id"])])
    third = pixverse("POST", GENERATE, json=INPUT, headers=trace)
    assert third.text == again.text and third.headers["callsheet-job-id"] == job["id"]
    assert len(sandbox.ledger("pixverse")) == 1
    assert sorted(pixverse.events(job)) == ["job.processing", "job.unknown"]


def test_a_lost_reply_is_never_repeated_by_us(running: Any, upstream: Upstream, tmp_path: Any) -> None:
    """PixVerse's own jobs are repeated under one trace id; a caller's bytes are not: the job is unknown at once."""
    served = Served(tmp_path, CALLSHEET_PIXVERSE_API_KEY="x", CALLSHEET_PIXVERSE_BASE_URL=upstream.url)
    with served.running(running[1].url), contextlib.closing(Client(served.url, "pixverse", ADMIN)) as client:
        upstream.submit = "drop"
        lost = client("POST", GENERATE, json=INPUT, headers={"ai-trace-id": str(uuid.uuid4())})
        assert lost.status_code == 424 and upstream.paths() == [GENERATE]
        assert client.job(lost)["status"] == "unknown"
        for _ in range(5):
            client.tick()
        assert upstream.paths() == [GENERATE]
        assert client.events(client.job(lost)) == ["job.unknown"]


def test_a_refused_trace_is_free_again_and_without_one_ours_is_sent(pixverse: Client, sandbox: Sandbox) -> None:
    sandbox.faults("pixverse", error_before_accept={"500044": 1.0})
    trace = {"ai-trace-id": str(uuid.uuid4())}
    refused = pixverse("POST", GENERATE, json=INPUT, headers=trace)
    assert refused.json()["ErrCode"] == 500044 and pixverse.job(refused)["error"]["code"] == "capacity"
    sandbox.faults("pixverse")
    made = pixverse("POST", GENERATE, json=INPUT, headers=trace)
    assert made.json()["ErrCode"] == 0 and pixverse.job(made)["status"] == "processing"
    assert pixverse.job(made)["id"] != pixverse.job(refused)["id"]
    without = pixverse("POST", GENERATE, json=INPUT)
    assert without.json()["ErrCode"] == 0
    references = [row["reference"] for row in sandbox.ledger("pixverse")]
    assert references[0] == trace["ai-trace-id"] and uuid.UUID(references[1])


def test_a_trace_that_does_not_go_along_is_not_the_jobs(pixverse: Client, sandbox: Sandbox) -> None:
    """A header that `Connection` names, or that tells the key, ends here: nothing is known to be sent under it."""
    body = json.dumps(INPUT).encode()
    for hop, trace in (("close, Ai-trace-id", str(uuid.uuid4())), ("close", pixverse.key)):
        headers = f"Connection: {hop}", f"Ai-trace-id: {trace}", f"Content-Length: {len(body)}"
        jobs = set()
        for _ in range(2):
            head = raw(pixverse, f"POST {GENERATE}", *headers, "Content-Type: application/json", body=body)
            assert head.startswith(b"HTTP/1.1 200"), head
            jobs.add(head.lower().split(b"callsheet-job-id: ")[1].split(b"\r\n")[0])
        assert len(jobs) == 2
        assert trace not in str(sandbox.ledger("pixverse"))
    rows = sandbox.ledger("pixverse")
    assert len(rows) == 4 == len({uuid.UUID(row["reference"]) for row in rows})


def test_a_trace_that_the_provider_may_have_forgotten_is_refused(
    running: Any, pixverse: Client, sandbox: Sandbox
) -> None:
    trace = {"ai-trace-id": str(uuid.uuid4())}
    made = pixverse("POST", GENERATE, json=INPUT, headers=trace)
    job = pixverse.job(made)
    aged = "UPDATE jobs SET submitted_at = submitted_at - 86400000 WHERE id = $1"
    running[0].run(running[0].service.context.store.write(aged, job["id"]))
    reply = pixverse("POST", GENERATE, json=INPUT, headers=trace)
    assert (reply.status_code, reply.json()["code"]) == (409, "correlation_reused")
    assert reply.headers["callsheet-job-id"] == job["id"] and len(sandbox.ledger("pixverse")) == 1


def test_a_trace_is_no_idempotency_key_of_ours(pixverse: Client, sandbox: Sandbox) -> None:
    trace = str(uuid.uuid4())
    assert pixverse("POST", GENERATE, json=INPUT, headers={"ai-trace-id": trace}).status_code == 200
    body = {"provider": "pixverse", "operation": "text_to_video", "input": INPUT}
    for key in (trace, f"passthrough-1-0-{trace}"):
        reply = pixverse.us.post("/v1/jobs", json=body, headers={"idempotency-key": key})
        assert reply.status_code == 202 and "idempotent-replayed" not in reply.headers


# -- AI/ML API's request id is for tracing alone: sent twice it charges twice

VIDEO = {"model": "pixverse/v5/image-to-video", "prompt": "a cat", "image_url": "https://media.example.com/1.jpeg"}


@pytest.fixture
def aimlapi(running: Any) -> Iterator[Client]:
    running[1].faults("aimlapi")
    with contextlib.closing(Client(running[0].url, "aimlapi", a_key(running[0], *BOTH))) as client:
        yield client


def test_a_request_id_sent_twice_is_two_jobs_as_it_is_two_charges(running: Any, aimlapi: Client) -> None:
    headers = {"x-client-request-id": "mine.1:2"}
    replies = [aimlapi("POST", "/v2/video/generations", json=VIDEO, headers=headers) for _ in "ab"]
    assert len({aimlapi.job(reply)["id"] for reply in replies}) == len(running[1].ledger("aimlapi")) == 2
    assert {row["reference"] for row in running[1].ledger("aimlapi")} == {"mine.1:2"}


@pytest.mark.parametrize("headers", [{"x-client-request-id": "mine-3"}, {}])
def test_a_lost_reply_is_found_in_the_logs(running: Any, aimlapi: Client, headers: dict[str, str]) -> None:
    running[1].faults("aimlapi", drop_reply_after_accept=1.0)
    lost = aimlapi("POST", "/v2/video/generations", json=VIDEO, headers=headers | ANOTHER)
    assert lost.status_code == 424 and running[1].happened("aimlapi", "drop_reply_after_accept") == 1
    deadline = time.monotonic() + 40
    while not (job := aimlapi.job(lost))["provider_job_ids"]:
        assert time.monotonic() < deadline and job["status"] == "submitting", job
        aimlapi.tick()
        time.sleep(0.1)
    [row] = running[1].ledger("aimlapi")
    assert job["provider_job_ids"] == [row["provider_job_id"]]
    assert row["reference"] == headers.get("x-client-request-id", row["reference"]) and row["reference"]


# -- the two that call back


@pytest.mark.parametrize(
    ("provider", "path", "body", "field"),
    [
        ("replicate", "/v1/predictions", {"version": "a" * 64, "input": {"prompt": "a cat"}}, "get"),
        ("fal", "/fal-ai/flux/dev", {"prompt": "a cat"}, "status_url"),
    ],
)
def test_the_urls_that_others_name_lead_through_us_and_move_the_job(
    running: Any, provider: str, path: str, body: Any, field: str
) -> None:
    running[1].faults(provider)
    with contextlib.closing(Client(running[0].url, provider, a_key(running[0], *BOTH))) as client:
        reply = client("POST", path, json=body)
        assert reply.status_code < 300, reply.text
        said = reply.json()
        url = said.get(field) or said["urls"][field]
        assert url.startswith(client.base + "/")
        deadline = time.monotonic() + 40
        while (job := client.job(reply))["status"] != "succeeded":
            assert time.monotonic() < deadline, job
            assert client("GET", url.removeprefix(client.base)).status_code < 300
            client.tick()  # fal's result is a call of its own, which the poll makes
        assert job["outputs"] and len(running[1].ledger(provider)) == 1


# -- anything at all

_TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)
_WORDS = st.sampled_from(["api", "v2", "generate", "jobs", "keys", "video", "..", "%2e%2e", "%", "%2F", "é", "a b", ""])


@settings(max_examples=120, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
    parts=st.lists(_WORDS | _TEXT, max_size=5),
    query=_TEXT,
    headers=st.dictionaries(st.from_regex(r"\Ax-[a-z-]{1,12}\Z"), _TEXT, max_size=3),
    body=st.binary(max_size=200),
)
@example("GET", ["a" * 3000], "", {}, b"")
@example("POST", ["api", "v2", "generate"], "", {"x-a": "b"}, b"\xff{")
@example("POST", ["api", "v2", "generate"], "", {}, b'{"audio_url":' + b"[" * 100_000)
@example("POST", ["api", "v2", "generate"], "", {}, b'{"audio_url":"\\ud800","a":NaN,"b":1e999}')
def test_whatever_is_asked_there_is_no_fault_of_ours(
    running: Any, method: str, parts: list[str], query: str, headers: dict[str, str], body: bytes
) -> None:
    served, upstream = running[0], running[2]
    upstream.submit = "accept"
    base = urlsplit(served.url)
    target = f"/v1/providers/peakmv/passthrough/{'/'.join(parts)}?{query}".encode().replace(b" ", b"%20")
    lines = [f"{name}: {value}".encode() for name, value in headers.items()]
    lines += [b"Host: x", b"Connection: close", f"Authorization: Bearer {ADMIN}".encode()]
    head = b"\r\n".join([method.encode() + b" " + target + b" HTTP/1.1", *lines, b"Content-Length: %d" % len(body)])
    with socket.create_connection((base.hostname, base.port), 10) as connection:
        connection.sendall(head + b"\r\n\r\n" + body)
        with contextlib.suppress(ConnectionError):
            reply = b"".join(iter(lambda: connection.recv(65536), b""))
    status = int(reply.split(b" ", 2)[1])
    assert status < 500, reply


def test_the_jobs_that_came_of_it_can_all_be_read(peakmv: Client) -> None:
    for job in peakmv.jobs():
        shown = peakmv.us.get(f"/v1/jobs/{job['id']}")
        assert shown.status_code == 200 and json.loads(shown.content)["operation"]
