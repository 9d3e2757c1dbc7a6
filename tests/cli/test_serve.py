"""`callsheet serve`: says where it is, serves, stops; what it cannot do is one sentence."""

import contextlib
import ipaddress
import itertools
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.cli.conftest import Folder, World, until

READY_S = 3.0  # 1 s is the budget, on a machine that does nothing else
RESTING_MB = 110
OTHER_KEY = f"k1:{'A' * 43}="


def test_it_says_where_it_listens_and_what_to_know(folder: Folder) -> None:
    began = time.monotonic()
    with folder.listening("serve", "--port", "0", PIXVERSE_API_KEY="secret-pixverse-key") as service:
        assert time.monotonic() - began < READY_S
        reply = httpx2.get(f"{service.url}/health")
        resting_mb = psutil.Process(service.process.pid).memory_info().rss / 2**20
        said = service.said()
    assert reply.status_code == 200
    assert "server" not in reply.headers
    assert said.startswith(f"callsheet listening on {service.url}\n")
    assert "endpoints on loopback are allowed" in said
    assert f"set CALLSHEET_PUBLIC_URL={service.url}" in said
    assert "PixVerse: polled, as it cannot call a loopback address" in said
    assert "callsheet.db" in said
    assert "`callsheet keys create --name me --scope admin` makes one" in said
    assert "secret-pixverse-key" not in said
    assert resting_mb < RESTING_MB


def test_ctrl_c_stops_it_with_exit_code_0(folder: Folder) -> None:
    with folder.listening("serve", "--port", "0") as service:
        began = time.monotonic()
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(10) == 0
        assert time.monotonic() - began < 5
        assert "Traceback" not in service.said()


def test_sigterm_stops_it_with_exit_code_0_though_a_request_hangs(folder: Folder) -> None:
    with folder.listening("serve", "--port", "0") as service:
        host, _, port = service.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /v1/callbacks/pixverse HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
            began = time.monotonic()
            service.process.terminate()
            assert service.process.wait(25) == 0
            assert time.monotonic() - began < 10
            assert connection.recv(4096).startswith(b"HTTP/1.1 503 ")
        assert "Traceback" not in service.said()


def test_a_stop_says_so_first_and_serves_who_comes_all_the_same(folder: Folder) -> None:
    with folder.listening("serve", "--port", "0", STOP_DELAY="2") as service, httpx2.Client() as client:
        assert httpx2.get(f"{service.url}/ready").json() == {"ready": True}
        assert "connection" not in client.get(f"{service.url}/health").headers
        service.process.terminate()
        refused = until(lambda: (reply := httpx2.get(f"{service.url}/ready")).status_code == 503 and reply)
        assert refused.json()["code"] == "stopping"
        kept = client.get(f"{service.url}/health")  # on the connection of before
        assert (kept.status_code, kept.headers["connection"]) == (200, "close")
        assert service.process.wait(30) == 0
        with pytest.raises(httpx2.ConnectError):
            client.get(f"{service.url}/health")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a moment is left")
def test_nobody_whose_connection_was_accepted_is_reset_by_a_stop(folder: Folder) -> None:
    """Many come while the door is closed: each is answered, or its connection is refused."""
    with folder.listening("serve", "--port", "0") as service, ThreadPoolExecutor(32) as clients:
        coming = [clients.submit(ask_until_refused, service.url) for _ in range(32)]
        time.sleep(0.5)
        service.process.terminate()
        assert sum(client.result(30) for client in coming) > 100
        assert service.process.wait(30) == 0


def ask_until_refused(url: str) -> int:
    """How many answers there were, each on a connection of its own."""
    host, _, port = url.removeprefix("http://").partition(":")
    for answers in itertools.count():
        try:
            connection = socket.create_connection((host, int(port)), timeout=15)
        except ConnectionRefusedError:
            return answers
        with connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    raise AssertionError


def test_a_second_one_on_the_same_database_is_refused(world: World) -> None:
    said = one_sentence(world.run("serve", "--port", "0"))
    assert said.startswith(f"error: callsheet.db is in use by process {world.pid} (")
    assert said.endswith(": stop that one, or give this one another CALLSHEET_DATABASE_URL")


def test_a_port_in_use_is_refused(folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        refused = folder.run("serve", "--port", port)
    assert "Address already in use" in one_sentence(refused)
    assert not list(folder.path.glob("*.db"))


def test_a_worker_needs_another_database(folder: Folder) -> None:
    assert "use --role all, or PostgreSQL" in one_sentence(folder.run("serve", "--role", "worker"))


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"LOG_LEVEL": "loud"}, "CALLSHEET_LOG_LEVEL cannot be used"),
        ({"DATABSE_URL": "sqlite:///x.db"}, "did you mean CALLSHEET_DATABASE_URL?"),
        ({"API_KEY": "short"}, "CALLSHEET_API_KEY cannot be used"),
        ({"PUBLIC_URL": "https://callsheet.example"}, "CALLSHEET_MASTER_KEYS is required"),
        ({"DATABASE_URL": "sqlite:///no/such/x.db", "MASTER_KEYS": OTHER_KEY}, "(CALLSHEET_DATABASE_URL)"),
        ({"DATABASE_URL": "sqlite:///text.db"}, "file is not a database"),
        ({"DATABASE_URL": "postgresql://127.0.0.1:9/x", "MASTER_KEYS": OTHER_KEY}, "(CALLSHEET_DATABASE_URL)"),
    ],
)
def test_settings_that_cannot_be_used_are_one_sentence(folder: Folder, variables: dict[str, str], words: str) -> None:
    (folder.path / "text.db").write_text("no database at all, but long enough to be read as one\n" * 20)
    assert words in one_sentence(folder.run("serve", "--port", "0", **variables))


def test_the_wrong_master_key_and_a_newer_schema_are_one_sentence(folder: Folder) -> None:
    folder.ok("migrate")
    assert "a stored secret" in one_sentence(folder.run("serve", "--port", "0", MASTER_KEYS=OTHER_KEY))
    with contextlib.closing(sqlite3.connect(folder.path / "callsheet.db")) as db:
        db.execute("INSERT INTO migrations VALUES (9999, 'of_tomorrow', 0)")
        db.commit()
    assert "install a newer Callsheet" in one_sentence(folder.run("serve", "--port", "0"))


def test_it_serves_https(folder: Folder) -> None:
    certificate, key = make_certificate(folder.path)
    options = ("--ssl-certfile", certificate, "--ssl-keyfile", key)
    with folder.listening("serve", "--port", "0", *options) as service:
        trusted = ssl.create_default_context(cafile=certificate)
        assert service.url.startswith("https://")
        assert httpx2.get(f"{service.url}/health", verify=trusted).status_code == 200
    refused = folder.run("serve", "--port", "0", "--ssl-certfile", key)
    assert "--ssl-certfile and --ssl-keyfile cannot be used" in one_sentence(refused)


def one_sentence(ended: "subprocess.CompletedProcess[str]") -> str:
    """What a refused start said: one line, no traceback, exit code 2."""
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr.strip()


def make_certificate(folder: Path) -> tuple[str, str]:
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "callsheet")]),
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return str(folder / "certificate.pem"), str(folder / "key.pem")
