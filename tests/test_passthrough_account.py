"""Account paths of every provider in any spelling, what no header or query may change, and the caller's own key."""

from collections.abc import AsyncIterator

import pytest

from service import providers
from service.errors import Invalid
from service.passthrough.bodies import Asked, guarded
from service.passthrough.recognising import judged, recognised
from service.passthrough.relaying import OVERRIDING, folded, safe_path, to_provider
from tests.test_masking import FORMS

KEY = "cs_sk_0123456789abcdefghijklmnopqrstuvCRC321"

ACCOUNT = [
    ("fal", "/billing/user_details"), ("fal", "/billing"), ("fal", "/billing/x/requests/r-1"), ("fal", "/v1/keys"),
    ("fal", "/rest/billing/credits"), ("fal", "/tokens"), ("fal", "/v1/api/auth"),
    ("progressiverobot", "/admin"), ("progressiverobot", "/admin/users"), ("progressiverobot", "/api/credits"),
    ("progressiverobot", "/credits"), ("progressiverobot", "/settings/x"), ("progressiverobot", "/api/keys/1"),
    ("pixverse", "/openapi/v2/account/balance"), ("pixverse", "/openapi/v2/admin"), ("replicate", "/v1/account"),
    ("replicate", "/v1/webhooks/default/secret"), ("aimlapi", "/v1/billing/balance"), ("peakmv", "/api/v2/apikeys"),
    ("peakmv", "/api/user"),
]  # fmt: skip
WIDE = {ord(letter): ord(letter) + 0xFEE0 for letter in "abcdefghijklmnopqrstuvwxyz"}


def last(path: str, change: str) -> str:
    head, _, tail = path.rstrip("/").rpartition("/")
    return f"{head}/{change.replace('?', tail)}"


SPELLINGS = {
    "as it is": lambda path: path,
    "in capitals": str.upper,
    "in full width": lambda path: path.translate(WIDE),
    "with its last part in full width": lambda path: path[:2] + path[2:].translate(WIDE),
    "with a letter that shows nothing": lambda path: f"{path[:2]}\u200b{path[2:]}",
    "with a soft hyphen": lambda path: f"{path[:2]}\u00ad{path[2:]}",
    "with a word joiner and a mark": lambda path: f"{path[:2]}\u2060\u0301{path[2:]}",
    "with a Hangul filler": lambda path: f"{path[:2]}\u3164{path[2:]}",
    "with a long s and a Kelvin sign": lambda path: path.replace("s", "\u017f").replace("k", "\u212a"),
    "with a dot at the end": lambda path: path + ".",
    "with dots and blanks": lambda path: path + ". .%20",
    "with a slash at the end": lambda path: path + "/",
    "with slashes doubled": lambda path: path.replace("/", "//"),
    "with parameters": lambda path: path + ";v=1",
    "with a query encoded into it": lambda path: path + "%3Fa=b",
    "with a fragment encoded into it": lambda path: path + "%23a",
    "percent-encoded": lambda path: "/" + "".join(f"%{ord(letter):02X}" for letter in path[1:]),
    "percent-encoded twice": lambda path: "/" + "".join(f"%25{ord(letter):02x}" for letter in path[1:]),
    "in full width, encoded twice": lambda path: (
        "/" + "".join(f"%25{byte:02x}" for byte in path[1:].translate(WIDE).encode())
    ),
}  # fmt: skip
DECORATED = {
    "as JSON": "?.json", "as a page": "?.php", "with a wildcard": "?*", "with a format": "?.xml.gz",
    "with a comma": "?,x",
    "with a colon": "?:list", "with an at sign": "?@x", "with a backslash's look": "?%EF%BC%9Bx",
}  # fmt: skip


def wire(path: str) -> str:
    return safe_path(path.encode().decode("latin-1"))


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("name", "path"), ACCOUNT)
def test_no_spelling_opens_an_account_path(name: str, path: str, spelling: str) -> None:
    written = SPELLINGS[spelling](path)
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert recognised(providers.load(name), method, wire(written), "", b"{}").kind == "account"


@pytest.mark.parametrize("decoration", DECORATED)
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("fal", "/billing"),
        ("progressiverobot", "/admin"),
        ("progressiverobot", "/api/credits"),
        ("replicate", "/v1/account"),
    ],
)
def test_nothing_at_its_end_opens_an_account_path(name: str, path: str, decoration: str) -> None:
    assert recognised(providers.load(name), "GET", wire(last(path, DECORATED[decoration])), "", b"").kind == "account"


@pytest.mark.parametrize(
    ("name", "method", "path", "kind"),
    [
        ("fal", "POST", "/fal-ai/key-frames", "submit"), ("fal", "POST", "/fal-ai/x/billing", "submit"),
        ("fal", "POST", "/team-rocket/flux", "submit"), ("fal", "GET", "/fal-ai/flux/requests/r-1/status", "status"),
        ("fal", "POST", "/fal-ai/flux-pro/v1.1", "submit"),
        ("replicate", "POST", "/v1/models/a/keys/predictions", "submit"),
        ("progressiverobot", "GET", "/api/models", "plain"),
        ("progressiverobot", "GET", "/api/video/admin.mp4", "plain"),
        ("progressiverobot", "GET", "/api/video/视频：１.mp4", "plain"),
        ("peakmv", "POST", "/api/v2/generate.json", "submit"),
    ],
)  # fmt: skip
def test_what_only_sounds_alike_stays_what_it_is(name: str, method: str, path: str, kind: str) -> None:
    assert recognised(providers.load(name), method, wire(path), "", b"{}").kind == kind


@pytest.mark.parametrize(
    "path",
    [
        "/a/\uff0e\uff0e/keys", "/a/\u2025/keys", "/a/.\u200b./keys", "/a\uff0f..\uff0fkeys", "/a\uff3ckeys",
        "/%c0%ae%c0%ae/keys", "/a%c0%afkeys", "/%c1%a1dmin", "/%25c1%25a1dmin", "/%e0%80%af", "/%f0%80%80%af",
    ],
)  # fmt: skip
def test_letters_that_some_server_reads_as_others_climb_nowhere(path: str) -> None:
    with pytest.raises(Invalid) as refused:
        wire(path)
    assert refused.value.code == "bad_path"


def test_looks_are_folded_to_the_plainest() -> None:
    assert folded(wire("/\uff21\uff30\uff29/\u212a\u00e9ys\u3000/")) == "/api/keys"


# -- headers


@pytest.mark.parametrize(
    "name",
    [
        "x-original-uri", "x-original-url", "x-rewrite-url", "x-rewrite-uri", "x-accel-redirect", "x-accel-expires",
        "x-http-method", "x-http_method_override", "x-http-method-override", "x_http_method", "x-method-override",
        "x-forwarded-prefix", "x_forwarded_uri", "x-forwarded", "forwarded", "x.forwarded.host", "x-real-ip",
        "x-sendfile",
        "x-middleware-subrequest", "x-envoy-original-path", "x-request-uri", "http-method-override", "true-client-ip",
        "x-original-method", "x~original~uri", "proxy-connection", "x-host", "x-lighttpd-send-file", "x-invoke-path",
    ],
)  # fmt: skip
def test_a_header_that_makes_another_request_of_it_is_dropped(name: str) -> None:
    given = {name: "/admin", "x-own": "1", "x-request-id": "r", "x-fal-queue-priority": "low", "x-amz-meta-a": "b"}
    sent = to_provider(given, key_header=("K", ""), api_key="t", secret=KEY)
    assert sent == {"x-own": "1", "x-request-id": "r", "x-fal-queue-priority": "low", "x-amz-meta-a": "b", "K": "t"}


def asked(*pieces: bytes, path: str = "/x", query: str = "") -> Asked:
    async def whole(most: int) -> bytes:
        return b"".join(pieces)[:most]

    async def one_by_one() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return Asked(
        provider="p", method="POST", path=path, query=query, headers={}, secret=KEY, whole=whole, pieces=one_by_one
    )


@pytest.mark.parametrize("query", ["_method=DELETE", "a=1&_METHOD=PUT", "X-HTTP-Method-Override=POST", "%5Fmethod=GET"])
def test_a_query_names_no_other_method(query: str) -> None:
    with pytest.raises(Invalid) as refused:
        judged(asked(query=query))
    assert refused.value.param == "query"
    assert judged(asked(query="method=DELETE&a_method=1"))[1] == "method=DELETE&a_method=1"
    assert "-method" in OVERRIDING and "connection" not in OVERRIDING


# -- the caller's own key


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.anyio
async def test_the_callers_key_passes_in_no_spelling_and_nowhere(form: str) -> None:
    said = FORMS[form](KEY)
    assert "x-a" not in to_provider({"x-a": f"<{said.decode()}>"}, key_header=("K", ""), api_key="t", secret=KEY)
    with pytest.raises(Invalid) as refused:
        guarded_body = guarded(asked(b'{"a":"' + said + b'"}'))
        await guarded_body.whole(1 << 20)
    assert refused.value.status == 422 and refused.value.param == "body" and "byte 6" in refused.value.detail
    passed = b""
    with pytest.raises(Invalid, match="byte 4"):
        async for piece in guarded(asked(b"abc", b"-", *(said[at : at + 3] for at in range(0, len(said), 3)))).pieces():
            passed += piece
    assert passed in (b"", b"abc", b"abc-")
    if "\\" not in said.decode() and "=" not in said.decode():
        for path, query, place in ((f"/a/{said.decode()}", "", "path"), ("/a", f"k={said.decode()}", "query")):
            with pytest.raises(Invalid) as refused:
                judged(asked(path=path, query=query))
            assert refused.value.param == place and KEY not in refused.value.detail


@pytest.mark.anyio
async def test_every_other_body_passes_byte_for_byte() -> None:
    pieces = (b'{"prompt":"cs_sk_', b"0123456789", b'is no key"}', b"x" * 70_000, KEY[:-1].encode())
    assert await guarded(asked(*pieces)).whole(1 << 20) == b"".join(pieces)
    assert b"".join([piece async for piece in guarded(asked(*pieces)).pieces()]) == b"".join(pieces)
    tokens = b"https://us.example/v1/callbacks/p/job_" + b"0" * 26 + b"-" + b"a" * 26
    assert await guarded(asked(tokens)).whole(1 << 20) == tokens
