"""The door over real sockets: nothing is patched, the resolver and the policy are arguments."""

import asyncio
import datetime
import gzip
import os
import socket
import ssl
import struct
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.addresses import IPAddress, OwnAddresses, Policy, UrlRefused, check_url
from service.clock import SystemClock
from service.egress import Answer, Egress, Resolve
from service.errors import EgressDenied, Lost, NotSent
from service.framing import Outgoing
from tests.egress_corpus import DNS_ANSWERS, TEXT_FORMS

pytestmark = pytest.mark.anyio

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
OPEN = Policy(allow=LOOPBACK)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def to_loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def post(url: str, body: bytes = b"{}", **headers: str) -> Outgoing:
    return Outgoing("POST", url, headers, body)


@asynccontextmanager
async def opened(policy: Policy = OPEN, *, resolve: Resolve = to_loopback, **options: object) -> AsyncIterator[Egress]:
    egress = Egress(policy=policy, resolve=resolve, **options)  # type: ignore[arg-type]
    try:
        yield egress
    finally:
        await egress.close()


# -- servers --

Script = Callable[["Wire", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Wire:
    """A raw server that counts connections and keeps what each of them received."""

    def __init__(self, script: Script):
        self.script = script
        self.connections: list[bytearray] = []
        self.requests = 0
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections.append(bytearray())
        try:
            await self.script(self, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def read_request(self, reader: asyncio.StreamReader) -> bytes:
        received = self.connections[-1]
        head = await reader.readuntil(b"\r\n\r\n")
        received += head
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await reader.readexactly(int(lengths[0].split(b":")[1])) if lengths else b""
        received += body
        self.requests += 1
        return head + body

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def serving(script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[Wire]:
    wire = Wire(script)
    server = await asyncio.start_server(wire.accept, host, 0, ssl=tls)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        await wire.stop()


async def answering(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await wire.read_request(reader)
        writer.write(OK)


def replying(*chunks: bytes, pause: float = 0.0, hang: bool = False) -> Script:
    """One request, then these chunks, then closing or hanging."""

    async def script(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await wire.read_request(reader)
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(pause)
        if hang:
            await asyncio.sleep(60)

    return script


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def canary() -> AsyncIterator[Wire]:
    """Listens on every IPv4 and IPv6 address of this machine, on one port; whoever gets there is counted."""
    wire = Wire(answering)
    ipv4 = await asyncio.start_server(wire.accept, "0.0.0.0", 0)
    wire.port = ipv4.sockets[0].getsockname()[1]
    ipv6 = await asyncio.start_server(wire.accept, "::", wire.port)
    try:
        yield wire
    finally:
        ipv4.close()
        ipv6.close()
        await wire.stop()


async def denied(egress: Egress, url: str, *, trusted: bool = False, fresh: bool = False) -> str | None:
    """What went wrong with the denial of this URL; None for a right one."""
    try:
        answer = await egress.send(post(url), deadline=1.0, max_bytes=100, trusted=trusted, fresh=fresh)
    except EgressDenied as error:
        return f"{url!a} names its host" if "127.0.0.1" in str(error) else None
    except (NotSent, Lost) as error:
        return f"{url!a}: {error.kind}"
    return f"{url!a} was answered {answer.status}"


# -- nothing reaches a refused address --

POLICIES = {
    "closed": Policy(own_addresses=OwnAddresses(SystemClock())),
    "plain": Policy(plain_http=True),
    "elsewhere": Policy(allow=(ip_network("10.99.0.0/16"),)),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
async def test_no_text_form_reaches_the_canary(policy: Policy) -> None:
    async with canary() as wire, opened(policy) as egress:
        wrong = []
        for form in TEXT_FORMS:
            url = form.replace("{port}", str(wire.port))
            for variant in {url, url.replace("https:", "http:", 1)}:
                for trusted in (False, True):
                    wrong.append(await denied(egress, variant, trusted=trusted))
        assert [line for line in wrong if line] == []
        assert wire.connections == []


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
async def test_no_dns_answer_reaches_the_canary(policy: Policy) -> None:
    async with canary() as wire, opened(policy, resolve=lambda host, port: DNS_ANSWERS[host]) as egress:
        wrong = []
        for name in DNS_ANSWERS:
            for scheme in ("https", "http"):
                url = f"{scheme}://{name}:{wire.port}/"
                wrong.append(await denied(egress, url))
                wrong.append(await denied(egress, url, fresh=True, trusted=True))
        assert check_url(f"https://{name}:{wire.port}/", policy)
        assert [line for line in wrong if line] == []
        assert wire.connections == []


async def test_an_address_of_our_own_interfaces_is_refused_where_public_ones_pass() -> None:
    own = frozenset({ip_address("8.8.4.4")})
    async with opened(Policy(own_addresses=lambda: own), resolve=lambda host, port: ["8.8.4.4"]) as egress:
        assert await denied(egress, "https://hooks.example.com/") is None
        assert await denied(egress, "https://8.8.4.4/") is None


async def test_what_turned_bad_after_the_lookup_is_refused_at_the_socket() -> None:
    judgements = iter([frozenset[IPAddress](), frozenset({ip_address("8.8.4.4")})])
    async with opened(Policy(own_addresses=lambda: next(judgements)), resolve=lambda host, port: ["8.8.4.4"]) as egress:
        assert await denied(egress, "https://hooks.example.com/") is None
        assert list(judgements) == []


class Shrinking(tuple[IPv4Network, ...]):
    """An open network that is closed again after so many judgements."""

    left = 2

    def __iter__(self) -> Iterator[IPv4Network]:
        self.left -= 1
        return super().__iter__() if self.left >= 0 else iter(())


async def test_a_peer_that_may_not_be_reached_gets_no_byte() -> None:
    async with serving(reading_all) as wire, opened(Policy(allow=Shrinking([IPv4Network("127.0.0.0/8")]))) as egress:
        assert await denied(egress, f"http://hooks.example.com:{wire.port}/") is None
        await asyncio.sleep(0.02)
        assert wire.connections == [b""]


async def test_plain_http_goes_only_where_every_address_is_open() -> None:
    names = {"public.example.com": ["8.8.4.4"], "mixed.example.com": ["127.0.0.1", "8.8.4.4"]}
    async with canary() as wire, opened(resolve=lambda host, port: names[host]) as egress:
        for name in names:
            assert await denied(egress, f"http://{name}:{wire.port}/") is None
        assert wire.connections == []


class Flipping:
    """A rebinding name: each question gets the next answer, the last one for ever."""

    def __init__(self, *answers: list[str]):
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def test_a_rebound_name_is_refused_at_its_next_connection() -> None:
    names = Flipping(["127.0.0.2"], ["127.0.0.1"])
    async with canary() as wire, opened(Policy(allow=(ip_network("127.0.0.2/32"),)), resolve=names) as egress:
        url = f"http://hooks.example.com:{wire.port}/"
        assert (await egress.send(post(url), deadline=2, max_bytes=100, fresh=True)).status == 200
        for fresh in (True, False):
            assert await denied(egress, url, fresh=fresh) is None
        assert len(wire.connections) == 1 and names.asked == 3


async def test_a_name_is_asked_once_for_each_connection_and_that_answer_is_dialled() -> None:
    names = Flipping(["127.0.0.2"], ["10.0.0.1"])
    async with canary() as wire, opened(Policy(allow=(ip_network("127.0.0.2/32"),)), resolve=names) as egress:
        for _ in range(3):
            answer = await egress.send(post(f"http://hooks.example.com:{wire.port}/"), deadline=2, max_bytes=100)
            assert answer.status == 200
        assert (names.asked, len(wire.connections), wire.requests) == (1, 1, 3)


async def test_the_canary_is_reached_by_every_way_that_is_open() -> None:
    hosts = ["127.0.0.1", "127.0.0.2", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]", "localhost", "a.localhost",
             "LOCALHOST.", "ip6-localhost", "hooks.example.com", "b\u00fccher.example.com", "a.b.c.example.org",
             "1and1.com", "x_y.example.net", "127.0.0.1.nip.io", "HOOKS.example.com", "hooks.example.com."]  # fmt: skip
    async with canary() as wire, opened() as egress:
        for number, host in enumerate(hosts, start=1):
            for path in ("", "/a/b?c=d%20e"):
                answer = await egress.send(post(f"http://{host}:{wire.port}{path}"), deadline=2, max_bytes=100)
                assert (answer.status, answer.body, answer.complete) == (200, b"ok", True)
            assert wire.requests == 2 * number
        assert wire.requests >= 20


async def test_every_own_address_is_a_canary_that_an_open_network_reaches() -> None:
    own = [ip for ip in OwnAddresses(SystemClock())() if not ip.is_link_local]
    everything = Policy(allow=(ip_network("0.0.0.0/0"), ip_network("::/0")))
    async with canary() as wire, opened(everything) as egress, opened(POLICIES["closed"]) as closed:
        for ip in own:
            url = f"http://{f'[{ip}]' if ip.version == 6 else ip}:{wire.port}/"
            assert await denied(closed, url) is None
            assert (await egress.send(post(url), deadline=2, max_bytes=100)).status == 200
        assert len(wire.connections) == len(own) >= 1


async def test_our_own_url_is_refused_to_deliveries_even_in_an_open_network() -> None:
    async with canary() as wire:
        policy = Policy(allow=LOOPBACK, forbidden=frozenset({("127.0.0.1", wire.port)}))
        async with opened(policy, trusted=[f"http://127.0.0.1:{wire.port}"]) as egress:
            for host in ("127.0.0.1", "localhost", "127.0.0.7", "[::1]", "hooks.example.com"):
                assert await denied(egress, f"http://{host}:{wire.port}/v1/callbacks/x") is None
            assert wire.connections == []
            answer = await egress.send(post(f"http://127.0.0.1:{wire.port}/"), deadline=2, max_bytes=9, trusted=True)
            assert answer.status == 200


# -- trust --


async def test_a_trusted_origin_is_exact_and_only_for_trusted_requests() -> None:
    async with canary() as wire, canary() as other:
        origin = f"http://127.0.0.1:{wire.port}"
        async with opened(Policy(), trusted=[origin + "/pixverse"]) as egress:
            assert (await egress.send(post(origin + "/x"), deadline=2, max_bytes=9, trusted=True)).status == 200
            assert await denied(egress, origin + "/x") is None
            for near in (f"http://127.0.0.2:{wire.port}/", f"http://127.0.0.1:{other.port}/",
                         f"https://127.0.0.1:{wire.port}/", f"http://localhost:{wire.port}/"):  # fmt: skip
                assert await denied(egress, near, trusted=True) is None
        assert (len(wire.connections), len(other.connections)) == (1, 0)


async def test_trusted_and_delivered_requests_never_share_a_connection() -> None:
    async with serving(answering) as wire:
        url = f"http://127.0.0.1:{wire.port}/"
        for origins in ([], [url]):
            wire.connections.clear()
            async with opened(trusted=origins) as egress:
                for trusted in (True, False, True, False):
                    await egress.send(post(url, who=str(trusted)), deadline=2, max_bytes=9, trusted=trusted)
            assert len(wire.connections) == 2
            for received in wire.connections:
                assert not (b"who: True" in received and b"who: False" in received)


# -- connections --


async def test_connections_are_kept_unless_fresh() -> None:
    async with serving(answering) as wire, opened() as egress:
        url = f"http://127.0.0.1:{wire.port}/"
        for _ in range(3):
            await egress.send(post(url), deadline=2, max_bytes=9)
        assert len(wire.connections) == 1
        for _ in range(3):
            await egress.send(post(url), deadline=2, max_bytes=9, fresh=True)
        assert len(wire.connections) == 4
        assert all(b"Connection: close" in received for received in wire.connections[1:])


async def test_a_connection_that_the_server_closed_while_idle_is_not_used() -> None:
    async with serving(replying(OK)) as wire, opened() as egress:
        for _ in range(3):
            answer = await egress.send(post(f"http://127.0.0.1:{wire.port}/"), deadline=2, max_bytes=9)
            assert answer.status == 200
            await asyncio.sleep(0.02)
        assert len(wire.connections) == 3


async def breaking_on_reuse(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await wire.read_request(reader)
    writer.write(OK)
    await wire.read_request(reader)
    reset(writer)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_a_request_that_changes_something_is_never_repeated(method: str) -> None:
    async with serving(breaking_on_reuse) as wire, opened() as egress:
        request = Outgoing(method, f"http://127.0.0.1:{wire.port}/", {}, b"" if method == "DELETE" else b"{}")
        await egress.send(request, deadline=2, max_bytes=9)
        with pytest.raises(Lost):
            await egress.send(request, deadline=2, max_bytes=9)
        assert (wire.requests, len(wire.connections)) == (2, 1)


async def test_a_get_is_repeated_once_on_a_broken_connection_but_not_when_fresh() -> None:
    async with serving(breaking_on_reuse) as wire, opened() as egress:
        request = Outgoing("GET", f"http://127.0.0.1:{wire.port}/", {})
        await egress.send(request, deadline=2, max_bytes=9)
        assert (await egress.send(request, deadline=2, max_bytes=9)).status == 200
        assert wire.requests == 3

    async def breaking(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await wire.read_request(reader)
        reset(writer)

    async with serving(breaking) as wire, opened() as egress:
        for fresh, seen in ((True, 1), (False, 3)):
            with pytest.raises(Lost):
                await egress.send(
                    Outgoing("GET", f"http://127.0.0.1:{wire.port}/", {}), deadline=2, max_bytes=9, fresh=fresh
                )
            assert wire.requests == seen


async def test_closing_ends_idle_connections() -> None:
    async with serving(answering) as wire:
        async with opened() as egress:
            await egress.send(post(f"http://127.0.0.1:{wire.port}/"), deadline=2, max_bytes=9)
        await asyncio.sleep(0.05)
        assert not wire._tasks


# -- the first byte --


@pytest.mark.parametrize("body", [b"", b"{}", b"a" * 300_000], ids=["empty", "small", "large"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("fresh", [True, False])
async def test_nothing_is_sent_when_the_last_check_refuses(method: str, body: bytes, fresh: bool) -> None:
    def refuse() -> None:
        assert len(wire.connections) <= 1
        raise NotSent("lease")

    async with serving(reading_all) as wire, opened() as egress:
        with pytest.raises(NotSent) as refusal:
            await egress.send(
                Outgoing(method, f"http://127.0.0.1:{wire.port}/", {}, body),
                deadline=2,
                max_bytes=9,
                fresh=fresh,
                before_first_byte=refuse,
            )
        assert refusal.value.kind == "lease"
        await asyncio.sleep(0.05)
        assert wire.connections == [b""]


async def reading_all(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        wire.connections[-1] += chunk


async def test_a_reused_connection_is_silent_too_when_the_last_check_refuses() -> None:
    def refuse() -> None:
        raise NotSent("lease")

    async with serving(answering) as wire, opened() as egress:
        url = f"http://127.0.0.1:{wire.port}/"
        await egress.send(post(url), deadline=2, max_bytes=9)
        received = len(wire.connections[0])
        with pytest.raises(NotSent, match="lease"):
            await egress.send(post(url), deadline=2, max_bytes=9, before_first_byte=refuse)
        await asyncio.sleep(0.05)
        assert len(wire.connections) == 1 and len(wire.connections[0]) == received


async def test_a_bug_in_the_last_check_is_not_hidden_and_nothing_is_sent() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    async with serving(reading_all) as wire, opened() as egress:
        with pytest.raises(ZeroDivisionError):
            await egress.send(post(f"http://127.0.0.1:{wire.port}/"), deadline=2, max_bytes=9, before_first_byte=broken)
        await asyncio.sleep(0.05)
        assert wire.connections == [b""]


async def test_the_last_check_runs_once_when_the_connection_stands() -> None:
    calls = []
    async with serving(answering) as wire, opened() as egress:
        for fresh in (True, False, False):
            await egress.send(
                post(f"http://127.0.0.1:{wire.port}/"),
                deadline=2,
                max_bytes=9,
                fresh=fresh,
                before_first_byte=lambda: calls.append(wire.requests),
            )
        assert calls == [0, 1, 2]
        with pytest.raises(NotSent, match="connect"):
            await egress.send(
                post(f"http://127.0.0.1:{unused_port()}/"),
                deadline=2,
                max_bytes=9,
                before_first_byte=lambda: calls.append(-1),
            )
        assert -1 not in calls


@pytest.mark.parametrize("body", [b"", b"{}"])
async def test_what_an_idle_connection_says_unasked_is_no_answer(body: bytes) -> None:
    async def talkative(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await wire.read_request(reader)
        writer.write(OK)
        await asyncio.sleep(0.02)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake")
        await reading_all(wire, reader, writer)

    async with serving(talkative) as wire, opened() as egress:
        request = post(f"http://127.0.0.1:{wire.port}/", body)
        await egress.send(request, deadline=2, max_bytes=9)
        received = len(wire.connections[0])
        await asyncio.sleep(0.05)
        assert (await egress.send(request, deadline=2, max_bytes=9)).body == b"ok"
        assert len(wire.connections) == 2
        assert len(wire.connections[0]) == received


@pytest.mark.parametrize("body", [b"", b"{}"])
async def test_an_answer_counts_only_where_the_request_went_out(body: bytes) -> None:
    async def early(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await reading_all(wire, reader, writer)

    async with serving(early) as wire, opened() as egress:
        for _ in range(10):
            try:
                await egress.send(post(f"http://127.0.0.1:{wire.port}/", body), deadline=2, max_bytes=9, fresh=True)
                sent = True
            except NotSent:
                sent = False
            await asyncio.sleep(0.01)
            assert bool(wire.connections[-1]) == sent


async def test_a_cancelled_send_leaves_no_connection_behind() -> None:
    async with serving(replying(hang=True)) as wire, opened() as egress:
        sending = asyncio.create_task(egress.send(post(f"http://127.0.0.1:{wire.port}/"), deadline=5, max_bytes=9))
        await asyncio.sleep(0.1)
        assert wire.requests == 1
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


# -- not sent --


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_refused_connection_is_not_sent() -> None:
    async with opened() as egress:
        with pytest.raises(NotSent) as error:
            await egress.send(post(f"http://127.0.0.1:{unused_port()}/"), deadline=2, max_bytes=9)
        assert error.value.kind == "connect"


async def test_a_name_that_is_not_known_is_not_sent() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror("no such name")

    async with opened(resolve=unknown) as egress:
        with pytest.raises(NotSent) as error:
            await egress.send(post("https://hooks.example.com/"), deadline=2, max_bytes=9)
        assert error.value.kind == "dns" and "example" not in str(error.value)


async def test_a_full_accept_queue_is_not_sent() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        async with opened() as egress:
            with pytest.raises(NotSent) as error:
                await egress.send(post(f"http://127.0.0.1:{port}/"), deadline=0.3, max_bytes=9)
            assert error.value.kind == "timeout_connect"
        for filler in fillers:
            filler.close()


async def test_hanging_resolvers_stop_neither_other_names_nor_providers() -> None:
    release = threading.Event()

    def hanging(host: str, port: int) -> list[str]:
        if host.startswith("slow"):
            release.wait(20)
        return ["127.0.0.1"]

    async def slow(egress: Egress, name: str) -> str:
        with pytest.raises(NotSent) as error:
            await egress.send(post(f"http://{name}.example.com:{wire.port}/"), deadline=4, max_bytes=9)
        return error.value.kind

    async with serving(answering) as wire, opened(resolve=hanging) as egress:
        try:
            # One name for a hundred callers takes one thread, so that another name is answered meanwhile.
            waiting = [asyncio.create_task(slow(egress, "slow")) for _ in range(100)]
            await asyncio.sleep(0.05)
            url = f"http://hooks.example.com:{wire.port}/"
            assert (await egress.send(post(url), deadline=3, max_bytes=9)).status == 200
            # With every thread of the deliveries held, providers' names are still looked up, and the loop's own
            # threads are free.
            waiting += [asyncio.create_task(slow(egress, f"slow{n}")) for n in range(20)]
            await asyncio.sleep(0.05)
            assert (await egress.send(post(url), deadline=3, max_bytes=9, trusted=True)).status == 200
            assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 3) == 1
            assert set(await asyncio.gather(*waiting)) == {"timeout_connect"}
        finally:
            release.set()
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("name", "value"), [("x-a", "b\r\nx-c: d"), ("x-a", "b\x00"), ("x-a\r\nx-b", "c"), ("x a", "b"), ("x-a", "\ud800")]
)  # fmt: skip
async def test_a_header_that_would_break_the_framing_is_not_sent(name: str, value: str) -> None:
    async with canary() as wire, opened() as egress:
        with pytest.raises(EgressDenied):
            await egress.send(
                Outgoing("POST", f"http://127.0.0.1:{wire.port}/", {name: value}, b"{}"), deadline=2, max_bytes=9
            )
        assert wire.connections == []


# -- lost --


async def lost(script: Script, *, body: bytes = b"{}", deadline: float = 2.0) -> str:
    async with serving(script) as wire, opened() as egress:
        with pytest.raises(Lost) as error:
            await egress.send(post(f"http://127.0.0.1:{wire.port}/", body), deadline=deadline, max_bytes=100)
        assert len(wire.connections) == 1
        return error.value.kind


async def test_a_reset_before_the_reply_is_lost() -> None:
    async def script(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await wire.read_request(reader)
        reset(writer)

    assert await lost(script) == "reset"


async def test_a_close_before_the_reply_is_lost() -> None:
    assert await lost(replying()) == "disconnected"
    assert await lost(replying(b"HTTP/1.1 200 O")) == "disconnected"


async def test_a_server_that_hangs_is_lost_at_the_deadline() -> None:
    assert await lost(replying(hang=True), deadline=0.2) == "timeout"


async def test_a_server_that_drips_its_status_line_is_lost_at_the_deadline() -> None:
    dripping = [b"HTTP/1.1 200 ", *(b"O" for _ in range(100))]
    assert await lost(replying(*dripping, pause=0.03), deadline=0.3) == "timeout"


async def test_a_server_that_does_not_read_is_lost_at_the_deadline() -> None:
    async def deaf(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(60)

    assert await lost(deaf, body=b"a" * 16_000_000, deadline=0.3) == "timeout"


@pytest.mark.parametrize(
    "reply",
    [b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 99 Low\r\n\r\n", b"ICY 200 OK\r\n\r\n",
     b"a" * 100_000, b"HTTP/1.1 100 Continue\r\n\r\n" * 30],
    ids=["ssh", "status", "low status", "icy", "no line", "interim for ever"],
)  # fmt: skip
async def test_what_is_not_http_is_lost(reply: bytes) -> None:
    assert await lost(replying(reply, hang=True)) == "protocol"


# -- answers --


async def answered(script: Script, *, deadline: float = 2.0, max_bytes: int = 100) -> Answer:
    async with serving(script) as wire, opened() as egress:
        answer = await egress.send(post(f"http://127.0.0.1:{wire.port}/"), deadline=deadline, max_bytes=max_bytes)
        assert len(wire.connections) == 1
        return answer


async def test_a_redirect_is_an_answer_and_not_followed() -> None:
    async with canary() as wire:
        target = f"http://127.0.0.1:{wire.port}/".encode()
        for status in (301, 302, 303, 307, 308):
            reply = b"HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, target)
            answer = await answered(replying(reply))
            assert (answer.status, answer.headers["location"]) == (status, target.decode())
        assert wire.connections == []


async def test_a_body_that_hangs_leaves_the_status_and_what_was_read() -> None:
    answer = await answered(replying(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc", hang=True), deadline=0.2)
    assert (answer.status, answer.body, answer.complete) == (200, b"abc", False)
    assert 150 < answer.duration_ms < 1500


async def test_a_body_that_drips_ends_at_the_deadline() -> None:
    chunks = [b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n", *(b"a" for _ in range(200))]
    answer = await answered(replying(*chunks, pause=0.02), deadline=0.3)
    assert answer.status == 201 and not answer.complete and 2 < len(answer.body) < 100


async def test_a_body_that_is_cut_is_told_from_a_whole_one() -> None:
    cut = await answered(replying(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n", b"abc", pause=0.05))
    assert (cut.status, cut.body, cut.complete) == (200, b"abc", False)
    until_close = await answered(replying(b"HTTP/1.0 200 OK\r\n\r\nabc"))
    assert (until_close.body, until_close.complete) == (b"abc", True)
    chunked = await answered(replying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
    assert (chunked.body, chunked.complete) == (b"abc", True)


@pytest.mark.parametrize(("size", "kept", "complete"), [(99, 99, True), (100, 100, True), (101, 100, False)])
async def test_a_body_is_kept_up_to_the_cap(size: int, kept: int, complete: bool) -> None:
    answer = await answered(replying(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size, hang=True))
    assert (len(answer.body), answer.complete) == (kept, complete)


async def test_an_endless_body_is_capped_and_its_connection_not_reused() -> None:
    async def endless(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await wire.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        while True:
            writer.write(b"a" * 65536)
            await writer.drain()

    async with serving(endless) as wire, opened() as egress:
        for _ in range(2):
            answer = await egress.send(post(f"http://127.0.0.1:{wire.port}/"), deadline=5, max_bytes=16384)
            assert (len(answer.body), answer.complete) == (16384, False)
            assert answer.duration_ms < 2000
        assert len(wire.connections) == 2


async def test_a_compressed_body_is_asked_not_to_come_and_not_inflated() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    answer = await answered(replying(head + bomb, hang=True), max_bytes=4096)
    assert (answer.body, answer.complete) == (bomb[:4096], False)
    whole = await answered(replying(head + bomb, hang=True), max_bytes=1_000_000)
    assert (whole.body, whole.complete) == (bomb, True)


async def test_headers_of_an_answer_are_lower_case_and_the_first_wins() -> None:
    answer = await answered(
        replying(b"HTTP/1.1 429 No\r\nRetry-AFTER: 5\r\nretry-after: 9\r\nContent-Length: 0\r\n\r\n")
    )
    assert answer.status == 429 and answer.headers["retry-after"] == "5"


async def test_the_request_is_the_callers_and_the_framing_the_doors() -> None:
    async with serving(answering) as wire, opened() as egress:
        framing = {"Host": "evil", "content-length": "999", "Transfer-Encoding": "chunked", "Connection": "x"}
        headers = framing | {"Expect": "100-continue", "accept-encoding": "gzip", "user-agent": "me", "webhook-id": "1"}
        await egress.send(
            Outgoing("POST", f"http://hooks.example.com:{wire.port}/a?b", headers, b"{}"), deadline=2, max_bytes=9
        )
        await egress.send(Outgoing("GET", f"http://hooks.example.com:{wire.port}/", {}), deadline=2, max_bytes=9)
        first, second = bytes(wire.connections[0]).split(b"{}GET")
        assert sorted(first.split(b"\r\n")) == sorted(
            [b"POST /a?b HTTP/1.1", b"Host: hooks.example.com:%d" % wire.port, b"user-agent: me", b"Accept: */*",
             b"Accept-Encoding: identity", b"webhook-id: 1", b"Content-Length: 2", b"", b""]
        )  # fmt: skip
        assert b"User-Agent: Callsheet/" in second and b"Content-" not in second


async def test_a_large_body_arrives_whole() -> None:
    body = os.urandom(5_000_000)
    async with serving(answering) as wire, opened() as egress:
        await egress.send(post(f"http://127.0.0.1:{wire.port}/", body), deadline=5, max_bytes=9)
        assert wire.connections[0].endswith(body)


async def test_proxies_of_the_environment_are_ignored() -> None:
    script = (
        "import asyncio, ipaddress, sys\n"
        "from service.addresses import Policy\n"
        "from service.egress import Egress, Outgoing\n"
        "async def main():\n"
        "    egress = Egress(policy=Policy(allow=(ipaddress.ip_network('127.0.0.0/8'),)))\n"
        "    answer = await egress.send(Outgoing('POST', sys.argv[1], {}, b'{}'), deadline=2, max_bytes=9)\n"
        "    print(answer.status)\n"
        "    await egress.close()\n"
        "asyncio.run(main())\n"
    )
    async with canary() as proxy, serving(answering) as wire:
        address = f"http://127.0.0.1:{proxy.port}"
        names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            script,
            f"http://127.0.0.1:{wire.port}/",
            env={**os.environ, **dict.fromkeys(names, address), "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await child.communicate()
        assert printed.strip() == b"200"
        assert (len(proxy.connections), len(wire.connections)) == (0, 1)


# -- TLS --


class Authority:
    """A certificate authority made for the test."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.certificate = self._sign(self.name, self.key.public_key(), x509.BasicConstraints(True, None))

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.certificate.public_bytes(serialization.Encoding.PEM).decode())

    def server(self, host: str, *, seen: list[str] | None = None) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self._sign(name, key.public_key(), x509.SubjectAlternativeName([x509.DNSName(host)]))
        path = self.folder / f"{host}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        if seen is not None:
            context.sni_callback = lambda _socket, name, _context: seen.append(name)
        return context

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self.key, hashes.SHA256())
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_tls_keeps_the_name_while_the_checked_address_is_dialled(authority: Authority) -> None:
    seen: list[str] = []
    async with serving(answering, tls=authority.server("hooks.example.com", seen=seen)) as wire:
        async with opened(tls=authority.trusted()) as egress:
            for _ in range(2):
                answer = await egress.send(post(f"https://hooks.example.com:{wire.port}/"), deadline=3, max_bytes=9)
                assert (answer.status, answer.body) == (200, b"ok")
        assert seen == ["hooks.example.com"]
        assert b"Host: hooks.example.com:" in wire.connections[0]


async def test_a_certificate_for_another_name_is_not_sent(authority: Authority) -> None:
    async with serving(reading_all, tls=authority.server("other.example.com")) as wire:
        async with opened(tls=authority.trusted()) as egress:
            with pytest.raises(NotSent) as error:
                await egress.send(post(f"https://hooks.example.com:{wire.port}/"), deadline=3, max_bytes=9)
        assert error.value.kind == "tls"
        assert all(received == b"" for received in wire.connections)


async def test_a_certificate_of_an_unknown_authority_is_not_sent(authority: Authority) -> None:
    async with serving(reading_all, tls=authority.server("hooks.example.com")) as wire, opened() as egress:
        with pytest.raises(NotSent) as error:
            await egress.send(post(f"https://hooks.example.com:{wire.port}/"), deadline=3, max_bytes=9)
        assert error.value.kind == "tls"


async def test_a_server_without_tls_is_not_sent() -> None:
    async def plain(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire.connections[-1] += await reader.read(65536)
        writer.write(OK)

    async with serving(plain) as wire, opened() as egress:
        with pytest.raises(NotSent) as error:
            await egress.send(post(f"https://hooks.example.com:{wire.port}/secret"), deadline=3, max_bytes=9)
        assert error.value.kind == "tls"
        assert b"secret" not in wire.connections[0]


async def test_a_handshake_that_hangs_is_not_sent() -> None:
    async with serving(reading_all) as wire, opened() as egress:
        with pytest.raises(NotSent) as error:
            await egress.send(post(f"https://hooks.example.com:{wire.port}/"), deadline=0.3, max_bytes=9)
        assert error.value.kind == "timeout_connect"


async def test_nothing_is_sent_over_tls_when_the_last_check_refuses(authority: Authority) -> None:
    def refuse() -> None:
        raise NotSent("lease")

    async with serving(reading_all, tls=authority.server("hooks.example.com")) as wire:
        async with opened(tls=authority.trusted()) as egress:
            with pytest.raises(NotSent, match="lease"):
                await egress.send(
                    post(f"https://hooks.example.com:{wire.port}/"),
                    deadline=3,
                    max_bytes=9,
                    fresh=True,
                    before_first_byte=refuse,
                )
            await asyncio.sleep(0.05)
        assert wire.connections == [b""]


# -- the operator's proxy --


async def relaying(wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A proxy that opens tunnels to loopback whatever the name, and answers plain requests itself."""
    head = await reader.readuntil(b"\r\n\r\n")
    wire.connections[-1] += head
    if not head.startswith(b"CONNECT "):
        writer.write(OK)
        return
    if b"closed.example.com" in head:
        writer.write(b"HTTP/1.1 407 Rejected\r\nContent-Length: 0\r\n\r\n")
        return
    port = int(head.split(b" ")[1].rsplit(b":", 1)[1])
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
    try:
        await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))
    finally:
        far_writer.close()


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    writer.close()


def never_asked(host: str, port: int) -> list[str]:
    raise AssertionError("the proxy resolves names")


async def test_deliveries_go_through_the_proxy_and_providers_do_not(authority: Authority) -> None:
    async with serving(answering, tls=authority.server("hooks.example.com")) as wire, serving(relaying) as proxy:
        async with serving(answering) as provider:
            async with opened(
                Policy(plain_http=True),
                trusted=[f"http://127.0.0.1:{provider.port}"],
                proxy=f"http://user:pw@127.0.0.1:{proxy.port}",
                resolve=never_asked,
                tls=authority.trusted(),
            ) as egress:
                url = f"https://hooks.example.com:{wire.port}/secret"
                assert (await egress.send(post(url), deadline=3, max_bytes=9)).body == b"ok"
                assert (await egress.send(post(url), deadline=3, max_bytes=9)).body == b"ok"
                assert (await egress.send(post("http://hooks.example.com/a"), deadline=3, max_bytes=9)).body == b"ok"
                near = f"http://127.0.0.1:{provider.port}/"
                assert (await egress.send(post(near), deadline=3, max_bytes=9, trusted=True)).status == 200
                for bad in ("https://127.0.0.1/", "https://localhost/", "https://10.0.0.1/", "https://a.internal/"):
                    assert await denied(egress, bad) is None
    tunnel, plain = map(bytes, proxy.connections)
    assert tunnel.startswith(b"CONNECT hooks.example.com:%d HTTP/1.1\r\n" % wire.port) and b"secret" not in tunnel
    assert b"Proxy-Authorization: Basic dXNlcjpwdw==" in tunnel
    assert plain.startswith(b"POST http://hooks.example.com/a HTTP/1.1\r\n")
    assert len(wire.connections) == len(provider.connections) == 1


async def test_what_the_proxy_rejects_is_not_sent(authority: Authority) -> None:
    async with serving(relaying) as proxy, opened(Policy(), proxy=f"http://127.0.0.1:{proxy.port}") as egress:
        with pytest.raises(NotSent) as error:
            await egress.send(post("https://closed.example.com/"), deadline=3, max_bytes=9)
        assert error.value.kind == "connect"


async def test_a_refused_url_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(UrlRefused):
        check_url("https://127.0.0.1/", Policy())
    with pytest.raises(UrlRefused):
        Egress(policy=Policy(), trusted=["https://user@hooks.example.com/"])
