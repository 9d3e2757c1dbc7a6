"""What passes between a caller and a provider's own API, and what does not: paths, headers, URLs. Pure.

Nothing of ours reaches the provider, and nothing reaches the caller that would act on our origin instead of theirs.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import parse_qsl, unquote, urljoin

from service.errors import Invalid
from service.masking import Masks
from service.own_requests import SENDER
from service.states import Record

HOP = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding"
    " upgrade http2-settings".split()
)
# Ours or the way's, and headers by which a request could be another one than the one that was judged: gateways and
# frameworks take the path, the method or the peer from them (nginx, Apache, IIS, Envoy, Symfony, Zend, Next.js).
# They are dropped in every spelling, not refused: proxies on the way to us add them to honest requests, too.
KEPT_FROM_PROVIDER = HOP | frozenset(
    "host content-length expect accept-encoding authorization cookie cookie2 forwarded via base-url request-uri"
    " method-override http-method http-method-override x-http-method x-http-method-override x-method"
    " x-method-override x-override-url"
    " x-forwarded x-forward-for x-host x-host-override x-url x-uri x-path x-request-uri x-sendfile x-scheme"
    " x-url-scheme x-remote-ip x-remote-addr x-originating-ip x-client-ip x-cluster-client-ip true-client-ip"
    " cf-connecting-ip fastly-client-ip front-end-https x-real-ip x-original-url x-rewrite-url".split()
)
OVERRIDING = frozenset(name for name in KEPT_FROM_PROVIDER if name.endswith(("method", "method-override"))) | {
    "-method"  # `_method`, as Rails, Laravel and Express take it
}
# Cookies and rules for a whole origin are the provider's own; on ours they would mean something else.
KEPT_FROM_CALLER = HOP | frozenset(
    "content-length set-cookie set-cookie2 date server alt-svc strict-transport-security public-key-pins"
    " clear-site-data nel report-to reporting-endpoints refresh cache-control referrer-policy"
    " x-content-type-options x-sendfile x-lighttpd-send-file".split()
)
OUR_PREFIXES = tuple(
    "callsheet- forwarded- x-forwarded- x-original- x-rewrite- x-accel- x-http-method- x-method- x-lighttpd- x-envoy-"
    " x-middleware- x-invoke- x-arr- x-waws- x-ms-original- x-real- x-proxy- proxy-".split()
)
ORIGIN_PREFIXES = ("callsheet-", "access-control-", "x-accel-")
SECRET_CHARS = 16
DECODED_TIMES = 4  # how often encoding may be wrapped in encoding before it is refused
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")  # RFC 3986 section 2.3
_IN_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/-]")  # its section 3.3
_PATH_PIECE = re.compile(r"%[0-9A-Fa-f]{2}|.", re.DOTALL)
_NOT_IN_QUERY = re.compile(r"[^!-~]|[#\\]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_OVERLONG = re.compile(r"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f][\x80-\xbf]|\xf0[\x80-\x8f][\x80-\xbf]")
# Letters that show nothing and are no mark (Unicode's Default_Ignorable_Code_Point): the fillers of Hangul.
_UNSEEN = frozenset("\u115f\u1160\u3164\uffa0")
_EXTENSION = re.compile(r"\.[a-z0-9]{1,5}$")


def safe_path(sent: str) -> str:
    """The path as it is judged and forwarded: plain letters are plain, all else stays encoded as it was.

    `sent` is text of the bytes on the wire (latin-1), with its leading slash. Raises `Invalid` where the path could
    be read as another one: dot segments at any depth of encoding, backslashes, control characters, broken escapes,
    letters that take more bytes than they need (RFC 3629 section 3 forbids them, and some decoders read them).
    """
    path = "".join(_piece(found[0]) for found in _PATH_PIECE.finditer(sent))
    plain = _decoded(path)
    if _OVERLONG.search(plain):
        raise _refused("it has a letter that is longer than UTF-8 allows")
    for read in (plain, _simplified(plain)):
        if any(part.partition(";")[0].strip() in (".", "..") for part in re.split(r"[/\\]", read)):
            raise _refused("it climbs to another path")
        if "\\" in read or _CONTROL.search(read):
            raise _refused("it has a backslash or a control character")
    return path


def _piece(text: str) -> str:
    if len(text) == 3:
        plain = chr(int(text[1:], 16))
        return plain if _UNRESERVED.fullmatch(plain) else text.upper()
    if text == "%":
        raise _refused("a percent sign is not followed by two hexadecimal digits")
    return text if _IN_PATH.fullmatch(text) else f"%{ord(text):02X}"


def _decoded(path: str) -> str:
    for _ in range(DECODED_TIMES):
        plain = unquote(path, "latin-1")
        if plain == path:
            return plain
        path = plain
    raise _refused("it is encoded again and again")


def _simplified(text: str) -> str:
    """What a server that compares letters by their looks would read: no case, width, accents, nor unseen letters.

    `text` is of bytes (latin-1).
    """
    try:
        text = text.encode("latin-1").decode()
    except UnicodeError:
        pass
    if text.isascii():
        return text.lower()
    wide = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).upper().casefold())
    return "".join(letter for letter in wide if letter not in _UNSEEN and unicodedata.category(letter) not in _MARKS)


_MARKS = frozenset({"Mn", "Me", "Cf", "Cn"})


def _refused(why: str) -> Invalid:
    return Invalid(f"This path is not forwarded: {why}.", code="bad_path", param="path")


def safe_query(sent: str) -> str:
    """The query as it was sent; only what no URL may carry is percent-encoded."""
    return _NOT_IN_QUERY.sub(lambda found: f"%{ord(found[0]):02X}", sent)


def overrides(query: str) -> str | None:
    """The name in a query by which some frameworks take another method than the request's; None where there is none."""
    names = (name for name, _ in parse_qsl(query, keep_blank_values=True))
    return next((name for name in names if _plain_name(name.lower()) in OVERRIDING), None)


def tells(url: str, secret: str) -> bool:
    """Whether the secret stands in a URL, as it is or in any encoding."""
    if Masks([secret], tokens=False).finds(url.encode("utf-8", "surrogatepass")):
        return True
    for _ in range(DECODED_TIMES):
        if secret in url:
            return True
        url = unquote(url, "latin-1")
    return secret in url


def folded(path: str) -> str:
    """The path as the most lenient server would read it: no case, no encoding, no letters that differ by their looks
    alone, no empty or decorated parts, and no query that was encoded into it.
    """
    plain = re.split(r"[?#]", _simplified(_decoded(path)), maxsplit=1)[0]
    parts = (part.partition(";")[0].strip().strip(" .") for part in plain.split("/"))
    return "/" + "/".join(part for part in parts if part)


def without_extension(plain: str) -> str:
    """A folded path as it is read where `.json` names a format."""
    return _EXTENSION.sub("", plain)


# -- headers


def to_provider(given: Mapping[str, str], *, key_header: tuple[str, str], api_key: str, secret: str) -> dict[str, str]:
    """The caller's headers (names in lower case) with our credential in the place of theirs, `secret`."""
    name, prefix = key_header
    dropped = KEPT_FROM_PROVIDER | _connection(given) | {name.lower()}
    kept = {key: _text(value) for key, value in _passing(given, dropped, OUR_PREFIXES) if not tells(value, secret)}
    marks = {SENDER: given[SENDER]} if SENDER in given else {}  # of other installations, or it were refused
    return {**kept, **marks, name: f"{prefix}{api_key}"}


def to_caller(given: Mapping[str, str], *, api_key: str) -> dict[str, str]:
    """The provider's headers (names in lower case) as the caller gets them."""
    dropped = KEPT_FROM_CALLER | _connection(given)
    return {key: _wire(value) for key, value in _passing(given, dropped, ORIGIN_PREFIXES) if not _tells(value, api_key)}


def _connection(given: Mapping[str, str]) -> frozenset[str]:
    return frozenset(name.strip().lower() for name in given.get("connection", "").split(","))


def _passing(given: Mapping[str, str], dropped: frozenset[str], prefixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Also for servers to which `_` in a name is the same as `-` (CGI, RFC 3875 section 4.1.18), or any other sign."""
    for name, value in given.items():
        read_as = _plain_name(name)
        if not {name, read_as} & dropped and not read_as.startswith(prefixes):
            yield name, value


def _plain_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "-", name)


def _tells(value: str, api_key: str) -> bool:
    """Whether a header hands out the key; a short one may stand in any text by chance."""
    return api_key in value and (len(api_key) >= SECRET_CHARS or value.strip().endswith(f" {api_key}"))


def _text(value: str) -> str:
    """The same bytes, for a sender that writes UTF-8; what is not UTF-8 stays Latin-1."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _wire(value: str) -> str:
    """The same bytes, as text that a response can be made of."""
    return value.encode("utf-8", "surrogateescape").decode("latin-1")


def is_json(said: Mapping[str, str]) -> bool:
    """By a reply's headers (names in lower case): JSON whose bytes stand there."""
    return is_plain(said) and of_json(said)


def of_json(said: Mapping[str, str]) -> bool:
    """JSON, in whatever coding."""
    kind = said.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def is_plain(said: Mapping[str, str]) -> bool:
    """Not in a coding that hides its bytes: none was asked for."""
    return said.get("content-encoding", "identity").strip().lower() in ("identity", "")


# -- URLs in replies


class Rewriting(Record, frozen=True, kw_only=True):
    """Where the provider's API calls are, and where they are through us; both without a slash at the end."""

    upstream: str
    ours: str

    def location(self, value: str, at: str) -> str:
        """A `Location` made absolute; on the provider's base URL it leads through us."""
        try:
            absolute = urljoin(at, value)
        except ValueError:  # no URL that anybody could follow
            return value
        rest = absolute.removeprefix(self.upstream)
        return self.ours + rest if rest != absolute and rest[:1] in ("", "/", "?", "#") else absolute

    def json(self, body: bytes, fields: Iterable[str]) -> bytes:
        """The same text, but for the URLs in these fields that are on the provider's base URL."""
        names = "|".join(map(re.escape, sorted(fields)))
        if not names:
            return body
        # An escaped quote is no start of a name: `"say \"status_url\": ..."` is a text.
        start = rb'(?<!\\)("(?:%b)"\s*:\s*")' % names.encode()
        for upstream, ours in self._spellings():
            found = start + re.escape(upstream) + rb'(?=[/?"]|\\/)'
            body = re.sub(found, rb"\1" + ours.replace(b"\\", rb"\\"), body)
        return body

    def _spellings(self) -> tuple[tuple[bytes, bytes], ...]:
        """A URL in JSON has its slashes as they are, or escaped."""
        upstream, ours = self.upstream.encode(), self.ours.encode()
        return (upstream, ours), (upstream.replace(b"/", rb"\/"), ours.replace(b"/", rb"\/"))
