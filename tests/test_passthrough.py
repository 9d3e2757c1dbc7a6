"""What passes through to a provider and what does not: paths, headers, URLs, and what a request is taken for."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service import providers
from service.errors import Invalid, TooLarge, TooMany
from service.framing import StreamBody
from service.passthrough.bodies import Asked, Spools
from service.passthrough.recognising import recognised
from service.passthrough.relaying import Rewriting, folded, safe_path, safe_query, to_caller, to_provider
from service.providers import Operation, Provider, Recognised

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

# -- paths


@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        ("/api/v2/jobs/a1", "/api/v2/jobs/a1"),
        ("/v1/stt/8ac1%3Apixverse%2Fv5", "/v1/stt/8ac1%3Apixverse%2Fv5"),
        ("/v1/stt/a%2fb", "/v1/stt/a%2Fb"),
        ("/api/%6Beys", "/api/keys"),
        ("/api/video/clip%7e1.mp4", "/api/video/clip~1.mp4"),
        ("/a b", "/a%20b"),
        ("/é".encode().decode("latin-1"), "/%C3%A9"),
        ("/%C3%A9.mp4", "/%C3%A9.mp4"),
        ('/a"<>|{}[]^`b', "/a%22%3C%3E%7C%7B%7D%5B%5D%5E%60b"),
        ("//double//slashes/", "//double//slashes/"),
        ("/a..b/..c/d../...", "/a..b/..c/d../..."),
        ("/100%25", "/100%25"),
        ("/", "/"),
    ],
)
def test_a_path_is_forwarded_as_it_was_sent_but_for_spellings_of_the_same(sent: str, forwarded: str) -> None:
    assert safe_path(sent) == forwarded
    assert safe_path(forwarded) == forwarded


@pytest.mark.parametrize(
    "sent",
    [
        "/..", "/../", "/api/../keys", "/api/./keys", "/.", "/api/..", "/%2e%2e/keys", "/%2E./keys", "/a%2f..%2fkeys",
        "/a%2F%2e%2e%2fkeys", "/a%252f..%252fkeys", "/%252e%252e/keys", "/a%25252f%25252e%25252e%25252fkeys",
        "/a/..;x=1/keys", "/a/.;/keys", "/a/..%3Bx/keys", "/a\\..\\keys", "/a%5c..%5ckeys", "/a\\b", "/a%5cb",
        "/a%00", "/a%0d%0aHost:%20evil", "/a\x00", "/a\x7f", "/%", "/%z1", "/%1", "/a%2525252525252541",
        "/.. /keys", "/%20../keys",
    ],
)  # fmt: skip
def test_a_path_that_could_be_read_as_another_one_is_refused(sent: str) -> None:
    with pytest.raises(Invalid) as refused:
        safe_path(sent)
    assert refused.value.code == "bad_path"


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_whatever_is_sent_is_refused_or_a_path_of_visible_ascii_that_climbs_nowhere(text: str) -> None:
    try:
        path = safe_path("/" + text)
    except Invalid:
        return
    assert path.startswith("/") and path.isascii() and path.isprintable() and " " not in path
    assert not {"?", "#", "\\"} & set(path)
    assert not {".", ".."} & set(folded(path).split("/"))


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/API/Keys", "/api/keys"), ("/api/keys/", "/api/keys"), ("//api//keys", "/api/keys"),
        ("/api%2Fkeys", "/api/keys"), ("/api/keys;a=b", "/api/keys"), ("/api/keys%20", "/api/keys"), ("/", "/"),
        ("/api/keys%3Fa=b", "/api/keys"), ("/api/keys%23a", "/api/keys"), ("/api/keys./%3F", "/api/keys"),
    ],
)  # fmt: skip
def test_a_folded_path_is_the_one_that_the_most_lenient_server_would_take_it_for(path: str, plain: str) -> None:
    assert folded(path) == plain


def test_a_query_stays_as_it_was_but_for_what_no_url_may_carry() -> None:
    assert safe_query("a=1&a=2&b=%2f+x&c") == "a=1&a=2&b=%2f+x&c"
    assert safe_query("a=é b#c\\d".encode().decode("latin-1")) == "a=%C3%A9%20b%23c%5Cd"


# -- headers

SENT = {
    "host": "callsheet.example", "authorization": "Bearer cs_sk_caller", "api-key": "cs_sk_caller",
    "cookie": "session=1", "callsheet-tenant": "red", "x-forwarded-for": "10.0.0.1", "forwarded": "for=1",
    "connection": "keep-alive, X-Hop", "x-hop": "1", "transfer-encoding": "chunked", "content-length": "3",
    "expect": "100-continue", "x-http-method-override": "DELETE", "x-original-url": "/api/keys", "te": "trailers",
    "x-copy": "is cs_sk_caller here", "proxy-authorization": "Basic x", "via": "1.1 a", "upgrade": "h2c",
    "x_http_method_override": "DELETE", "x_forwarded_for": "10.0.0.1", "transfer_encoding": "chunked", "api_key": "own",
}  # fmt: skip
KEPT = {
    "content-type": "application/json", "accept": "*/*", "user-agent": "mine/1", "prefer": "wait=5",
    "range": "bytes=0-1", "if-none-match": '"x"', "ai-trace-id": "t-1", "idempotency-key": "k", "traceparent": "00-1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("key_header", "shown"),
    [(("Authorization", "Bearer "), "Bearer theirs"), (("API-KEY", ""), "theirs"),
     (("Authorization", "Key "), "Key theirs")],
)  # fmt: skip
def test_the_callers_key_is_swapped_for_the_credential_and_nothing_of_ours_goes_along(
    key_header: tuple[str, str], shown: str
) -> None:
    given = {**SENT, key_header[0].lower().replace("-", "_"): "as a server of another kind would read it", **KEPT}
    sent = to_provider(given, key_header=key_header, api_key="theirs", secret="cs_sk_caller")
    assert {name: value for name, value in sent.items() if name != "api_key"} == {**KEPT, key_header[0]: shown}
    assert "api_key" not in sent or key_header[0] != "API-KEY"


def test_a_header_in_utf_8_keeps_its_bytes() -> None:
    wire = "grün".encode().decode("latin-1")
    sent = to_provider({"x-title": wire}, key_header=("K", ""), api_key="t", secret="s" * 9)
    assert sent["x-title"].encode() == "grün".encode()


def test_what_a_provider_says_of_its_own_origin_stays_there() -> None:
    answered = {
        "set-cookie": "a=b", "connection": "close, x-private", "x-private": "1", "transfer-encoding": "chunked",
        "strict-transport-security": "max-age=1", "access-control-allow-origin": "*", "x-accel-redirect": "/etc/passwd",
        "callsheet-job-id": "job_forged", "date": "now", "content-length": "5", "clear-site-data": '"*"',
    }  # fmt: skip
    kept = {"content-type": "video/mp4", "etag": '"x"', "retry-after": "3", "content-range": "bytes 0-1/2"}
    assert to_caller({**answered, **kept}, api_key="theirs") == kept


@pytest.mark.parametrize(
    ("value", "api_key", "passes"),
    [("Bearer a-key-of-some-length", "a-key-of-some-length", False),
     ("xa-key-of-some-lengthx", "a-key-of-some-length", False),
     ("Bearer sandbox", "sandbox", False), ("made in the sandbox today", "sandbox", True), ("fine", "sandbox", True)],
)  # fmt: skip
def test_a_header_that_tells_the_credential_is_dropped(value: str, api_key: str, passes: bool) -> None:
    assert ("x-echo" in to_caller({"x-echo": value}, api_key=api_key)) is passes


# -- URLs

WAY = Rewriting(upstream="https://peakmv.com", ours="https://us.example/v1/providers/peakmv/passthrough")
FIELDS = {"status_url", "next"}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b'{"status_url":"https://peakmv.com/api/v2/jobs/1"}', b'{"status_url":"%b/api/v2/jobs/1"}'),
        (b'{ "status_url" :\n "https://peakmv.com/a?b=1" }', b'{ "status_url" :\n "%b/a?b=1" }'),
        (b'[{"next":"https://peakmv.com"},{"next":null}]', b'[{"next":"%b"},{"next":null}]'),
        (b'[{"next":"https://peakmv.com/1","next":"https://peakmv.com/2"}]', b'[{"next":"%b/1","next":"%b/2"}]'),
    ],
)  # fmt: skip
def test_urls_of_api_calls_lead_through_us_and_not_a_byte_else_changes(said: bytes, told: bytes) -> None:
    assert WAY.json(said, FIELDS) == told.replace(b"%b", WAY.ours.encode())


def test_escaped_slashes_stay_escaped() -> None:
    said = rb'{"status_url":"https:\/\/peakmv.com\/api\/1","id":627410861853514292,"f":1.10}'
    told = WAY.json(said, FIELDS)
    assert json.loads(told)["status_url"] == f"{WAY.ours}/api/1"
    assert told.endswith(rb'passthrough\/api\/1","id":627410861853514292,"f":1.10}')


@pytest.mark.parametrize(
    "said",
    [
        b'{"video_url":"https://peakmv.com/v.mp4"}',
        b'{"status_url":"https://peakmv.com.evil.example/a"}',
        b'{"status_url":"https://peakmv.com@evil.example/a"}',
        b'{"status_url":"https://peakmv.com:444/a"}',
        b'{"status_url":"http://peakmv.com/a"}',
        b'{"status_url":"see https://peakmv.com/a"}',
        rb'{"text":"say \"status_url\": \"https://peakmv.com/a\""}',
        rb'{"my\"status_url":"https://peakmv.com/a"}',
        b'{"list":["status_url","https://peakmv.com/a"]}',
        b'{"status_url":5}',
        b"",
    ],
)
def test_nothing_else_is_rewritten(said: bytes) -> None:
    assert WAY.json(said, FIELDS) == said
    assert WAY.json(b'{"status_url":"https://peakmv.com/a"}', ()) == b'{"status_url":"https://peakmv.com/a"}'


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_without_such_urls_comes_back_byte_for_byte(value: Any) -> None:
    said = json.dumps(value).encode()
    assert WAY.json(said, FIELDS) == said


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("https://peakmv.com/login?x=1", f"{WAY.ours}/login?x=1"),
        ("/login", f"{WAY.ours}/login"),
        ("next", f"{WAY.ours}/api/next"),
        ("?page=2", f"{WAY.ours}/api/list?page=2"),
        ("https://cdn.example/a.mp4", "https://cdn.example/a.mp4"),
        ("https://peakmv.com.evil.example/", "https://peakmv.com.evil.example/"),
        ("//evil.example/a", "https://evil.example/a"),
        ("http://[", "http://["),
    ],
)
def test_a_redirect_within_the_provider_leads_through_us(value: str, told: str) -> None:
    assert WAY.location(value, "https://peakmv.com/api/list") == told


# -- what a request is


class Mine(Provider):
    """Knows three paths exactly as they are written."""

    name, title, base_url, operations = "mine", "Mine", "https://mine.example", {}

    def recognise(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Recognised:
        if path == "/api/keys" and method in ("GET", "DELETE"):
            return Recognised(kind="account")
        if path == "/api/generate" and method == "POST":
            return Recognised(kind="submit", operation="generate")
        if path == "/api/status" and method == "GET":
            return Recognised(kind="status", provider_job_ids=(query.get("id", ""),))
        return Recognised(kind="plain")


@pytest.mark.parametrize(
    ("method", "path", "query", "kind"),
    [
        ("GET", "/api/keys", "", "account"),
        ("HEAD", "/api/keys", "", "account"),
        ("GET", "/API/keys/", "", "account"),
        ("GET", "//api//keys", "", "account"),
        ("GET", "/api%2Fkeys", "", "account"),
        ("GET", "/api/keys;v=1", "", "account"),
        ("PATCH", "/api/keys", "", "account"),
        ("POST", "/Api/Keys", "", "account"),
        ("POST", "/api/generate", "", "submit"),
        ("POST", "/api/Generate/", "", "submit"),
        ("HEAD", "/api/generate", "", "plain"),
        ("GET", "/api/status", "id=1", "status"),
        ("GET", "/api/status", "id=1&id=2", "plain"),
        ("GET", "/api/keysmith", "", "plain"),
    ],
)
def test_a_request_is_what_any_server_might_take_it_for(method: str, path: str, query: str, kind: str) -> None:
    assert recognised(Mine(), method, path, query, b"").kind == kind


# -- with every provider's own reading

WORDS = ("api", "keys", "v1", "v2", "generate", "video", "status", "queue", "predictions", "%2F", "..", "", "é", "a b")
ANYTHING = st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=6)


@pytest.mark.parametrize("name", providers.names())
@given(parts=ANYTHING, query=st.text(max_size=20), body=st.binary(max_size=60), method=st.sampled_from(METHODS))
@example(parts=["api", "generate"], query="", body=b"[" * 100_000, method="POST")
@example(parts=["v2", "video", "generations"], query="generation_id=%ff&a", body=b'{"model":5}', method="POST")
def test_no_request_is_beyond_a_providers_reading(
    name: str, parts: list[str], query: str, body: bytes, method: str
) -> None:
    provider = providers.load(name)
    try:
        path = safe_path("/" + "/".join(parts).encode().decode("latin-1"))
    except Invalid:
        return
    seen = recognised(provider, method, path, safe_query(query.encode().decode("latin-1")), body)
    assert seen.kind in ("submit", "status", "account", "plain")
    assert seen.kind != "submit" or seen.operation in provider.operations
    assert seen.kind != "status" or all(seen.provider_job_ids)


S001 = json.loads((Path(__file__).parent / "documents" / "s001.json").read_bytes())["rows"]


def named(row: Any) -> str:
    return f"{row['method']} {row['path']}"


def encoded(path: str) -> str:
    return "".join(f"%{ord(letter):02x}" if letter.isalpha() else letter for letter in path)


SPELLINGS = {
    "in capitals": str.upper,
    "with a slash at the end": lambda path: path + "/",
    "with every slash twice": lambda path: path.replace("/", "//"),
    "with letters encoded": encoded,
    "with slashes encoded": lambda path: "/" + path[1:].replace("/", "%2f"),
    "with all of it encoded twice": lambda path: "/" + "".join(f"%25{ord(letter):02x}" for letter in path[1:]),
    "with parameters": lambda path: path.replace("/", ";a=b/") + ";c",
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("row", [row for row in S001 if row.get("account")], ids=named)
def test_no_spelling_hides_that_a_call_is_about_the_account(row: Any, spelling: str) -> None:
    provider = providers.load("progressiverobot")
    path = safe_path(SPELLINGS[spelling](re.sub(r"{\w+}", "1", row["path"])))
    assert recognised(provider, row["method"], path, "", b"").kind == "account"


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("row", [row for row in S001 if "operation" in row], ids=named)
def test_no_spelling_hides_that_a_call_makes_a_job(row: Any, spelling: str) -> None:
    provider = providers.load("progressiverobot")
    path = safe_path(SPELLINGS[spelling](re.sub(r"{\w+}", "1", row["path"])))
    seen = recognised(provider, row["method"], path, "", b"{}")
    assert (seen.kind, seen.operation) == ("submit", row["operation"])


OPERATIONS = [(name, operation) for name in providers.names() for operation in providers.load(name).operations.values()]


@pytest.mark.parametrize(("name", "operation"), OPERATIONS, ids=[f"{name} {op.name}" for name, op in OPERATIONS])
def test_every_operation_is_known_for_a_submit_before_its_body_is_read(name: str, operation: Operation) -> None:
    """A form's body is never read, and how much of any other may come is the operation's to say."""
    path = re.sub(r"{\w+}", "some/thing" if name in ("fal", "replicate") else "some", operation.path)
    assert recognised(providers.load(name), operation.method, safe_path(path), "", b"").kind == "submit"


# -- bodies that are kept aside


def without_length(size: int) -> Asked:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(size // 1000):
            yield b"x" * 1000

    async def whole(most: int) -> bytes:
        raise AssertionError(most)

    chunked = {"transfer-encoding": "chunked"}
    return Asked(
        provider="p", method="POST", path="/", query="", headers=chunked, secret="s", whole=whole, pieces=pieces
    )


@pytest.mark.anyio
async def test_what_is_kept_aside_has_a_ceiling_for_all_together() -> None:
    spools = Spools(most=10_000)
    async with AsyncExitStack() as first:
        assert (await spools.keep(without_length(7_000), first, 8_000)).length == 7_000  # type: ignore[union-attr]
        async with AsyncExitStack() as second:
            with pytest.raises(TooMany) as refused:
                await spools.keep(without_length(4_000), second, 8_000)
            assert refused.value.retry_after
        async with AsyncExitStack() as third:
            assert (await spools.keep(without_length(3_000), third, 8_000)).length == 3_000  # type: ignore[union-attr]
        with pytest.raises(TooLarge):
            await spools.keep(without_length(3_000), first, 2_000)
    async with AsyncExitStack() as last:
        body = await spools.keep(without_length(10_000), last, 10_000)
        assert isinstance(body, StreamBody) and b"".join([piece async for piece in body.chunks()]) == b"x" * 10_000
        assert await spools.keep(without_length(0), last, 10_000) == b""
