"""The first things that go wrong: another program at the address, another service, odd letters, a wrong key."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from service.cli.api import Api
from service.cli.failing import Failed
from service.cli.parameters import SINCE
from service.cli.saying import without_password
from service.crypto import Secret, generate_master_key
from service.settings import Settings
from tests.cli.conftest import KEY, Folder, World, free_port
from tests.cli.test_doctor import checks


@contextmanager
def another_program(said: bytes, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """It answers everything alike: its URL, and what it was sent as Authorization."""
    got: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            got.append(self.headers.get("Authorization", ""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()


@pytest.mark.parametrize("said", [b"", b"<html>", b"{}", b"[]", b'{"status": "ok"}', b'{"service": "other"}'])
def test_the_key_goes_to_nobody_whom_nobody_named(said: bytes) -> None:
    with another_program(said) as (url, got):
        api = Api(Settings(url=url, api_key=Secret(KEY)))  # as at the default address
        with pytest.raises(Failed, match="is not Callsheet, and got no key: set CALLSHEET_URL"):
            api.get("/v1/jobs")
        api.close()
    assert got == [""]


def test_callsheet_at_the_default_address_is_known(world: World) -> None:
    api = Api(Settings(url=world.url, api_key=Secret(KEY)))
    assert "data" in api.get("/v1/jobs")
    api.close()


def test_a_401_names_the_url_that_was_asked(world: World) -> None:
    refused = world.run("jobs", "list", API_KEY="x" * 40)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {world.url} does not take this key")
    assert "CALLSHEET_API_KEY" in refused.stderr and "x" * 40 not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "named"),
    [
        (("jobs", "list", "--tenant", "Zoë"), {}, "--tenant"),
        (("jobs", "list", "--tenant", "東京"), {}, "--tenant"),
        (("jobs", "list", "--tenant", "a\nb"), {}, "--tenant"),
        (("submit", "peakmv", "generate", "-f", "a=b", "--idempotency-key", "bestellung-ü"), {}, "--idempotency-key"),
        (("submit", "peakmv", "generate", "-f", "a=b", "--idempotency-key", "🎬"), {}, "--idempotency-key"),
        (("jobs", "list"), {"API_KEY": "•" * 40}, "CALLSHEET_API_KEY"),
        (("jobs", "list", "--metadata", "a=\udce9"), {}, "UTF-8"),
        (("events", "list", "--type", "\udcff"), {}, "UTF-8"),
    ],
)
def test_letters_that_cannot_be_sent_are_a_sentence(
    world: World, arguments: tuple[str, ...], variables: dict[str, str], named: str
) -> None:
    refused = world.run(*arguments, **variables)
    assert refused.returncode in (1, 2)
    assert "Traceback" not in refused.stderr
    assert named in refused.stderr and refused.stderr.count("\n") == 1, refused.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_a_terminal_without_the_letters_shows_them_escaped(
    world: World, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    made = world.api("POST", "/v1/endpoints", {"url": f"{world.subscriber}/letters", "description": "雨 🎬"})
    for arguments in (("get", made["id"]), ("get", made["id"], "--json"), ("list",)):
        shown = world.run("endpoints", *arguments)
        assert shown.returncode == 0 and "Traceback" not in shown.stderr, shown.stderr
    assert json.loads(world.ok("endpoints", "get", made["id"], "--json"))["description"] == "雨 🎬"
    refused = world.run("jobs", "list", "--tenant", "東京")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    world.ok("endpoints", "delete", made["id"])


@pytest.mark.parametrize(
    ("proxies", "says"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "a SOCKS proxy"),
        ({"all_proxy": "socks4a://127.0.0.1:9"}, "a proxy that cannot be read"),
        ({"HTTP_PROXY": "socks5h://127.0.0.1:9"}, "a SOCKS proxy"),
        ({"ALL_PROXY": "ftp://127.0.0.1:9"}, "a proxy that cannot be read"),
        ({"HTTP_PROXY": "http://127.0.0.1:9"}, "no service answers"),
    ],
)
def test_a_proxy_of_the_environment_that_is_not_taken_is_a_sentence(
    folder: Folder, world: World, proxies: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)
    refused = folder.run("jobs", "list", URL="http://callsheet.example.com", API_KEY=KEY)
    assert refused.returncode in (1, 2) and refused.stderr.count("\n") == 1, refused.stderr
    assert says in refused.stderr
    assert world.run("jobs", "list").returncode == 0  # loopback is asked directly


@pytest.mark.parametrize("text", ["6h", "6h ago", "6 h ago", "6H AGO", " 6h  ago "])
def test_how_long_ago_is_a_time(text: str) -> None:
    said = datetime.fromisoformat(SINCE.convert(text, None, None))
    assert abs(datetime.now(UTC) - timedelta(hours=6) - said) < timedelta(minutes=5)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-01-31", "2026-01-31T00:00:00Z"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("yesterday", "yesterday"),  # the service refuses it, by name
        ("5", "5"),
    ],
)
def test_a_date_begins_in_utc_and_all_else_is_the_services_to_judge(text: str, meant: str) -> None:
    assert SINCE.convert(text, None, None) == meant


@pytest.mark.parametrize(
    ("scopes", "says"),
    [
        ((), ("export CALLSHEET_API_KEY", "secrets:read")),
        (("admin",), ("export",)),
        (("passthrough",), ("base URL", "/v1/providers/<provider>/passthrough")),
        (("tick",), ("POST http://127.0.0.1:8080/internal/tick",)),
        (("metrics",), ("GET http://127.0.0.1:8080/metrics",)),
    ],
)
def test_a_new_key_says_how_it_is_used(folder: Folder, scopes: tuple[str, ...], says: tuple[str, ...]) -> None:
    made = folder.run("keys", "create", *(word for scope in scopes for word in ("--scope", scope)))
    assert made.returncode == 0 and made.stdout.startswith("cs_sk_")
    last = made.stderr.splitlines()[-1].replace("CALLSHEET_URL=http://127.0.0.1:8080 ", "")
    assert all(part in last for part in says), last


def test_the_help_of_a_new_key_lists_every_scope(folder: Folder) -> None:
    from service.scopes import SCOPES

    shown = folder.ok("keys", "create", "--help")
    assert all(f"{scope} " in shown and meaning in shown for scope, meaning in SCOPES.items())


def test_a_signal_says_what_goes_on(folder: Folder) -> None:
    with folder.listening("serve", "--port", "0", STOP_DELAY="1") as service:
        service.process.terminate()
        assert service.process.wait(25) == 0
        said = service.said()
    assert "callsheet stopping: takes requests for 1 s more" in said
    assert said.splitlines()[-1].startswith("callsheet stopped")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p%40w@h:5432/n?sslmode=require", "postgresql://u@h:5432/n?sslmode=require"),
        ("postgresql:///n?host=/tmp&user=a&password=x", "postgresql:///n?host=/tmp&user=a"),
        ("postgresql://a:b@h1:1,h2:2/n?p%61ssword=1&sslpassword=z", "postgresql://a@h1:1,h2:2/n"),
        ("postgresql://:pw@h/n", "postgresql://@h/n"),
    ],
)
def test_the_database_is_shown_without_its_passwords(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_the_doctor_knows_another_program_and_another_service(folder: Folder, world: World, tmp_path: Path) -> None:
    folder.ok("migrate")
    with another_program(b'{"status": "ok"}') as (url, _):
        said = checks(folder.run("doctor", "--json", PUBLIC_URL=url).stdout)["public URL"]
        assert said[0] == "warning" and "is another service" in said[1]
    with another_program(b"hello", 404) as (url, _):
        said = checks(folder.run("doctor", "--json", PUBLIC_URL=url).stdout)["public URL"]
        assert "another program has the address" in said[1]
    said = checks(folder.run("doctor", "--json", PUBLIC_URL=world.url).stdout)["public URL"]
    assert said[0] == "warning" and "is another service, or has other master keys" in said[1]


def test_a_wrong_master_key_names_the_setting_and_the_remedy(folder: Folder) -> None:
    folder.ok("migrate")
    for variables in (
        {"MASTER_KEYS": generate_master_key()},
        {"MASTER_KEYS": generate_master_key().replace("k1:", "k9:")},
    ):
        state, said = checks(folder.run("doctor", "--json", **variables).stdout)["master keys"]
        assert state == "failed" and "CALLSHEET_MASTER_KEYS" in said and "callsheet.db.key" not in said
        refused = folder.run("serve", "--port", str(free_port()), **variables)
        assert refused.returncode == 2 and "CALLSHEET_MASTER_KEYS" in refused.stderr
