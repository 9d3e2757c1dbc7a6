"""A service that is led back to itself, under another name: its own requests are refused, others' are not."""

import base64
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_network

import httpx2
import pytest

from service.addresses import Policy
from service.crypto import Vault
from service.egress import Egress
from service.errors import Forbidden
from service.framing import Outgoing
from service.own_requests import SENDER, OwnRequests
from service.passthrough.relaying import to_provider
from tests.test_pipeline import receiving, status
from tests.web.served import ADMIN, Served, sandbox_running

AUTHORIZED = {"Authorization": f"Bearer {ADMIN}"}
PATHS = [
    "/v1/endpoints/{endpoint}/test",
    "/v1/endpoints/{endpoint}/recover",
    "/v1/events/{event}/replay",
    "/v1/jobs",
    "/v1/providers/pixverse/passthrough/openapi/v2/video/text/generate",
    "/v1/callbacks/pixverse",
    "/internal/tick",
]


class Forwarder:
    """Another name of a server: what comes to its port goes there, byte for byte."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.to, self._sockets = 0, [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listening.accept()
                there = socket.create_connection(("127.0.0.1", self.to))
                self._sockets += [here, there]
                for source, goal in ((here, there), (there, here)):
                    threading.Thread(target=self._pump, args=(source, goal), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, goal: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65_536):
                goal.sendall(piece)
            goal.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture(scope="module")
def forwarder() -> Iterator[Forwarder]:
    made = Forwarder()
    yield made
    made.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, forwarder: Forwarder) -> Iterator[Served]:
    """One whose PeakMV is its own passthrough to PeakMV."""
    more = {
        "CALLSHEET_PEAKMV_API_KEY": ADMIN,
        "CALLSHEET_PEAKMV_BASE_URL": f"{forwarder.url}/v1/providers/peakmv/passthrough",
    }
    made = Served(tmp_path_factory.mktemp("own"), **more)
    with sandbox_running("http://127.0.0.1:9") as sandbox, made.running(sandbox):
        forwarder.to = int(made.url.rpartition(":")[2])
        yield made


@pytest.fixture
def client(served: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=served.url, headers=AUTHORIZED, timeout=40) as made:
        yield made


def tick(served: Served) -> None:
    """As another process's `callsheet tick` would; beside the requests that this makes."""
    served.run(served.service.context.loops.tick(20))


def an_event(client: httpx2.Client) -> str:
    """That is held for an endpoint which takes nothing now."""
    made = client.post("/v1/endpoints", json={"url": "https://hooks.example.com/in", "status": "paused"}).json()
    return str(client.post(f"/v1/endpoints/{made['id']}/test").json()["id"])


def events(client: httpx2.Client) -> int:
    return len(client.get("/v1/events?limit=100").json()["data"])


@pytest.mark.parametrize("path", PATHS)
def test_an_endpoint_that_is_our_own_path_makes_nothing(
    path: str, served: Served, client: httpx2.Client, forwarder: Forwarder
) -> None:
    made = client.post(
        "/v1/endpoints",
        json={"url": "https://hooks.example.com/in", "headers": AUTHORIZED, "event_types": ["job.failed"]},
    ).json()
    url = forwarder.url + path.format(endpoint=made["id"], event=an_event(client))
    assert client.patch(f"/v1/endpoints/{made['id']}", json={"url": url}).status_code == 200
    before = events(client)
    event = client.post(f"/v1/endpoints/{made['id']}/test").json()
    tick(served)
    (delivery,) = client.get(f"/v1/deliveries?event={event['id']}").json()["data"]
    attempts = client.get(f"/v1/deliveries/{delivery['id']}").json()["attempts"]
    assert attempts[0]["status_code"] == 403
    assert "own_request" in attempts[0]["response"]
    assert events(client) == before + 1
    assert client.delete(f"/v1/endpoints/{made['id']}").status_code == 204


def test_a_provider_that_is_ourselves_gets_no_job_from_us(served: Served, client: httpx2.Client) -> None:
    given = {"audio_url": "https://example.com/a.mp3"}
    job = client.post("/v1/jobs", json={"provider": "peakmv", "operation": "generate", "input": given}).json()
    tick(served)
    shown = client.get(f"/v1/jobs/{job['id']}").json()
    assert shown["status"] not in ("processing", "succeeded"), shown
    relayed = client.get("/v1/providers/peakmv/passthrough/api/v1/status/x")
    assert (relayed.status_code, relayed.json()["code"]) == (403, "own_request")
    jobs = client.get("/v1/jobs?provider=peakmv").json()["data"]
    assert [one["id"] for one in jobs] == [job["id"]]


def test_another_installation_calls_us_and_what_reads_is_answered(served: Served, client: httpx2.Client) -> None:
    own = served.service.context.own_requests.mark
    other = an_installation("k1", 1).mark
    assert own != other
    made = client.post("/v1/endpoints", json={"url": "https://hooks.example.com/in"}).json()
    path = f"/v1/endpoints/{made['id']}/test"
    assert client.post(path, headers={SENDER: other}).status_code == 202
    for marks in (own, f"{other}, {own}", f"{own},{other}", f"{other} , {own}"):
        refused = client.post(path, headers={SENDER: marks})
        assert (refused.status_code, refused.json()["code"]) == (403, "own_request")
    assert client.get(f"/v1/endpoints/{made['id']}", headers={SENDER: own}).status_code == 200
    assert client.post(path, headers={SENDER: own, "Authorization": "Bearer no"}).status_code == 401, (
        "nobody asks by it"
    )
    assert client.delete(f"/v1/endpoints/{made['id']}").status_code == 204


def an_installation(key_id: str, fill: int, *more: str) -> OwnRequests:
    text = f"{key_id}:{base64.b64encode(bytes([fill]) * 32).decode()}"
    return OwnRequests(Vault.parse(",".join((text, *more))))


def test_the_mark_is_the_installations_and_outlives_a_change_of_keys() -> None:
    old = f"k1:{base64.b64encode(bytes([1]) * 32).decode()}"
    node, again, rotated = an_installation("k1", 1), an_installation("k1", 1), an_installation("k2", 2, old)
    assert node.mark == again.mark
    for one in (again, rotated):
        with pytest.raises(Forbidden):
            one.refuse("POST", {SENDER: node.mark}, passes=False)
    for stranger in (rotated.mark, node.mark[:-1], node.mark + "A", node.mark.swapcase(), "", "ü", "=" * 5_000):
        node.refuse("POST", {SENDER: stranger}, passes=True)


@pytest.mark.parametrize(("method", "passes", "refused"), [
    ("POST", False, True), ("PUT", False, True), ("DELETE", False, True), ("PATCH", False, True),
    ("GET", False, False), ("HEAD", False, False), ("GET", True, True), ("HEAD", True, True),
])  # fmt: skip
def test_what_only_reads_may_come_from_ourselves_unless_it_goes_on(method: str, passes: bool, refused: bool) -> None:
    own = an_installation("k1", 1)
    with pytest.raises(Forbidden) if refused else contextlib.nullcontext():
        own.refuse(method, {SENDER: own.mark}, passes=passes)
    own.refuse(method, {}, passes=passes)


@contextlib.asynccontextmanager
async def closing(egress: Egress) -> AsyncIterator[Egress]:
    try:
        yield egress
    finally:
        await egress.close()


@pytest.mark.anyio
@pytest.mark.parametrize(("headers", "sent"), [({}, "ours"), ({SENDER: "theirs"}, "theirs, ours")])
@pytest.mark.parametrize("streams", [False, True])
async def test_every_request_is_marked_behind_the_marks_it_came_with(
    headers: dict[str, str], sent: str, streams: bool
) -> None:
    async def answer(path: str) -> bytes:
        return status(200)

    policy = Policy(allow=(ip_network("127.0.0.0/8"),))
    async with receiving(answer) as (receiver, url), closing(Egress(policy=policy, mark="ours")) as egress:
        outgoing = Outgoing(
            "POST", f"{url}/in", to_provider(headers, key_header=("K", ""), api_key="k", secret="s" * 9)
        )
        if streams:
            async with egress.stream(outgoing, deadline=20, idle=20) as streamed:
                assert streamed.status == 200
        else:
            assert (await egress.send(outgoing, deadline=20, max_bytes=99)).status == 200
        assert [headers[SENDER] for _, headers, _ in receiver.requests] == [sent]
