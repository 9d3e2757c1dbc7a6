"""Which addresses, URLs and headers may leave: rules on values, without a connection.

Addresses are judged where they are dialled (`dialing.py`). The text rules refuse early, and make one parser decide.
"""

import re
import socket
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path

import idna  # comes with aiohttp
import msgspec

from service.clock import Clock
from service.errors import Invalid

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
Permits = Callable[[IPAddress, int], bool]

URL_CHARACTERS = 2048
CUSTOM_HEADERS, HEADER_CHARACTERS = 32, 4096
INTERFACES_SECONDS = 30.0
_OPEN_A_NETWORK = (
    "An operator opens a network by naming it in CALLSHEET_EGRESS_ALLOW, e.g. 127.0.0.0/8 for a receiver on this"
    " machine; loopback is open by itself while CALLSHEET_PUBLIC_URL is on loopback."
)
_ABSOLUTE = "Give an absolute URL such as https://hooks.example.com/path."
_PORTS = "Use 443, 80, or one from 1024 to 65535 that no database or cluster is known by."


class UrlRefused(Invalid):
    """A URL or header that is never sent. `code` is stable; `detail` says the remedy and names no address."""

    def __init__(self, code: str, detail: str = _ABSOLUTE, *, param: str | None = None):
        super().__init__(detail, code=code, param=param)


class Policy(msgspec.Struct, frozen=True):
    """What the operator opened and closed.

    `allow`: networks that pass every address check, plain http too. `own_addresses`: this host's interfaces, asked at
    each judgement. `forbidden`: our own public (host, port), refused even inside `allow`; hosts as in `Target`.
    `plain_http`: http to every public address, not only into `allow`.
    """

    allow: tuple[IPNetwork, ...] = ()
    own_addresses: Callable[[], frozenset[IPAddress]] = frozenset
    forbidden: frozenset[tuple[str, int]] = frozenset()
    plain_http: bool = False


class Target(msgspec.Struct, frozen=True):
    """A URL taken apart: `host` lower-case ASCII without brackets or final dot; `text` is the URL rebuilt."""

    scheme: str
    host: str
    port: int
    ip: IPAddress | None
    text: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port


# -- URLs --


def check_url(url: str, policy: Policy) -> str:
    """The URL rebuilt from its parts, fit to be stored and sent: only this form is used from here on.

    Raises `UrlRefused`. No name is resolved: one that leads to a refused address is refused when it is dialled.
    """
    target = read_url(url)
    judge(target, policy)
    return target.text


def read_url(url: str) -> Target:
    """One strict reading of an absolute http(s) URL (RFC 3986; IDNA 2008; WHATWG's "ends in a number").

    Raises `UrlRefused` for all that two parsers might read differently. Says nothing about where it may lead.
    """
    for pattern, code, detail in _TEXT_RULES:
        if pattern.search(url):
            raise UrlRefused(code, detail)
    match = _URL.fullmatch(url)
    if match is None:
        raise UrlRefused("url_malformed")
    scheme, path = match["scheme"].lower(), match["path"] or "/"
    if scheme not in _DEFAULT_PORTS:
        raise UrlRefused("url_scheme", "Use https.")
    host, ip = _read_host(match["host"])
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    if not 0 < port < 65536:
        raise UrlRefused("url_port", _PORTS)
    where = (f"[{host}]" if ":" in host else host) + ("" if port == _DEFAULT_PORTS[scheme] else f":{port}")
    return Target(scheme, host, port, ip, f"{scheme}://{where}{'' if path.startswith('/') else '/'}{path}")


def _read_host(text: str) -> tuple[str, IPAddress | None]:
    if text.startswith("["):
        ip = parse_address(text[1:-1])
        if not isinstance(ip, IPv6Address):
            raise UrlRefused("url_host", "This is not an IPv6 address.")
        return str(ip), ip
    host = _ascii_host(text).lower().removesuffix(".")
    ip = parse_address(host)
    if ip is None and _ENDS_IN_NUMBER.search(host):
        raise UrlRefused("url_host", "Write an IPv4 address as four decimal numbers, or give a DNS name.")
    if ip is None and (len(host) > 253 or not _NAME.fullmatch(host)):
        raise UrlRefused("url_host", "This is not a DNS name.")
    return host, ip


def _ascii_host(text: str) -> str:
    if text.isascii():
        return text
    # Lenient parsers turn full-width digits, circled letters and ideographic stops (NFKC leaves one) into other hosts.
    if "\u3002" in text or unicodedata.normalize("NFKC", text) != text:
        raise UrlRefused("url_host", "Write the host in its plain form (xn--...).")
    try:
        return idna.encode(text.lower()).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise UrlRefused("url_host", "The host is not a valid internationalized name.") from None


def judge(target: Target, policy: Policy) -> None:
    """Raises `UrlRefused` where the text alone shows that the target may not be reached."""
    if is_our_own(target.host, target.port, policy):
        raise UrlRefused("url_own", "This is the service's own URL: it would call itself.")
    local = is_loopback_name(target.host)
    named = LOOPBACK if local else () if target.ip is None else (target.ip,)
    if any(allowed(ip, policy) for ip in named):
        return
    if local or any(refused(ip, policy) for ip in named):
        raise UrlRefused("url_address", f"Loopback, private and special addresses are refused. {_OPEN_A_NETWORK}")
    if target.ip is None and ("." not in target.host or target.host.endswith(_LOCAL_SUFFIXES)):
        raise UrlRefused("url_name", f"Give a public DNS name, e.g. hooks.example.com. {_OPEN_A_NETWORK}")
    # A name over http passes where any network is open: whether it leads there shows when it is dialled.
    if target.scheme == "http" and not policy.plain_http and (target.ip is not None or not policy.allow):
        raise UrlRefused("url_scheme", f"Use https; plain http goes only to open networks. {_OPEN_A_NETWORK}")
    if (target.port < 1024 and target.port not in (80, 443)) or target.port in _SERVICE_PORTS:
        raise UrlRefused("url_port", _PORTS)


def is_loopback_name(host: str) -> bool:
    """Whether RFC 6761 section 6.3 (or every hosts file) gives the name to this machine: DNS is not asked."""
    return host in _LOOPBACK_NAMES or host.endswith(".localhost")


def is_our_own(host: str, port: int, policy: Policy) -> bool:
    """Whether (host, port) is our public URL; of a loopback one every loopback spelling counts."""
    ours = [name for name, its_port in policy.forbidden if its_port == port]
    return host in ours or (any(map(is_loopback_host, ours)) and is_loopback_host(host))


def is_loopback_host(host: str) -> bool:
    """Whether a host, as a name or as an address in any spelling, is this machine."""
    ip = parse_address(host)
    return is_loopback_name(host) if ip is None else ip.is_unspecified or unmapped(ip).is_loopback


# -- addresses --


def refused(ip: IPAddress, policy: Policy) -> bool:
    """Whether no connection may be opened to the address (the IANA special-purpose registries and cloud metadata).

    `ipaddress.is_global` is not asked: it calls multicast, NAT64, 6to4 and more "global", differently by version.
    """
    if isinstance(ip, IPv6Address) and ip.scope_id is not None:
        return True
    ip = unmapped(ip)
    if _within(ip, policy.allow):
        return False
    if ip in policy.own_addresses():
        return True
    if isinstance(ip, IPv4Address):
        return _within(ip, _REFUSED_IPV4)
    return ip not in _GLOBAL_UNICAST or _within(ip, _REFUSED_IPV6) or int(ip) >> 32 & 0xFFFFFFFF in _ISATAP


def allowed(ip: IPAddress, policy: Policy) -> bool:
    """Whether the operator opened the address's network."""
    return _within(unmapped(ip), policy.allow)


def dial_rule(policy: Policy, *, plain: bool) -> Permits:
    """Which (address, port) may be dialled: for plain http only open networks, else all that is not refused."""
    if plain and not policy.plain_http:
        return lambda ip, port: allowed(ip, policy) and not is_our_own(str(ip), port, policy)
    return lambda ip, port: not refused(ip, policy) and not is_our_own(str(ip), port, policy)


def unmapped(ip: IPAddress) -> IPAddress:
    """The IPv4 address inside ::ffff:0:0/96 (RFC 4291 section 2.5.5.2): the kernel would connect to that."""
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip


def parse_address(text: str) -> IPAddress | None:
    """The address that the text is in strict form; None for anything else."""
    with suppress(ValueError):
        return ip_address(text)
    return None


def _within(ip: IPAddress, networks: tuple[IPNetwork, ...]) -> bool:
    return any(ip in network for network in networks)


class OwnAddresses:
    """The addresses of this host's interfaces, read anew every 30 s; for `Policy.own_addresses`."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._read_at = float("-inf")
        self._found: frozenset[IPAddress] = frozenset()

    def __call__(self) -> frozenset[IPAddress]:
        if (now := self._clock.monotonic()) - self._read_at > INTERFACES_SECONDS:
            with suppress(OSError):  # the last known ones then
                self._found = frozenset(_read_interfaces())
            self._read_at = now
        return self._found


def _read_interfaces() -> list[IPAddress]:
    routes, ipv6 = Path("/proc/net/fib_trie"), Path("/proc/net/if_inet6")
    if not routes.exists():  # not Linux: what the host's own name leads to
        return [ip_address(str(info[4][0])) for info in socket.getaddrinfo(socket.gethostname(), None)]
    own = re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", routes.read_text())
    digits = re.findall(r"(?m)^[0-9a-f]{32}", ipv6.read_text()) if ipv6.exists() else []
    return [*map(IPv4Address, own), *(IPv6Address(int(text, 16)) for text in digits)]


# -- headers --


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that a subscriber asked us to add, trimmed, fit to be stored and sent.

    Raises `UrlRefused` with `param` `headers.<name>`. Names are an allowlist: they must not forge our signature, the
    framing (RFC 9112), the sender's address, or what opens a cloud's metadata service.
    """
    if len(headers) > CUSTOM_HEADERS:
        raise UrlRefused("header_count", f"At most {CUSTOM_HEADERS} headers.", param="headers")
    if len({name.lower() for name in headers}) < len(headers):
        raise UrlRefused("header_twice", "Give each header once.", param="headers")
    for name, value in headers.items():
        param, lowered = f"headers.{name[:64]}", name.lower()
        if not _OPEN_HEADER.fullmatch(name) or lowered.startswith(_CLOSED_HEADERS):
            raise UrlRefused("header_name", "Use Authorization, Api-Key or a name that begins with X-.", param=param)
        if len(value) > HEADER_CHARACTERS or not _HEADER_VALUE.fullmatch(value):
            raise UrlRefused("header_value", f"At most {HEADER_CHARACTERS} printable ASCII characters.", param=param)
    return {name: value.strip() for name, value in headers.items()}


# -- tables --
LOOPBACK: tuple[IPAddress, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))

_AUTHORITY = r"^[^/?]*//[^/?]*"
_TEXT_RULES = (
    (re.compile(rf"^.{{{URL_CHARACTERS + 1}}}", re.S), "url_too_long", f"At most {URL_CHARACTERS} characters."),
    (re.compile(r"[\s\\#\x00-\x20\x7f-\xa0\u200b-\u200f\u2028-\u202f\u2060-\u206f\ud800-\udfff\ufeff]"),
     "url_characters", "No white space, control characters, backslashes or fragments: encode them."),
    (re.compile(_AUTHORITY + "@"), "url_userinfo", "No user name or password in a URL: put a key into `headers`."),
    (re.compile(_AUTHORITY + "%"), "url_host", "No percent signs in the host."),
    (re.compile(_AUTHORITY + r"[/?].*[^\x00-\x7f]"), "url_characters", "Percent-encode what is not ASCII."),
)  # fmt: skip
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>\[[0-9A-Fa-f:.]+\]|[^/?:\[\]]+)"
    r"(?::(?P<port>0|[1-9][0-9]{0,4}))?(?P<path>[/?].*)?"
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SERVICE_PORTS = frozenset({2375, 3306, 5432, 5984, 6379, 8500, 9200, 10250, 11211, 27017})
_ENDS_IN_NUMBER = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})
_LOCAL_SUFFIXES = tuple(  # metadata.google.internal and *.cluster.local are among them
    ".local .localdomain .internal .home.arpa .intranet .lan .corp .onion .test .example .invalid .svc".split()
)

_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all other space is special, unassigned, or carries an IPv4 address
_REFUSED_IPV6 = tuple(map(IPv6Network, "2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20".split()))
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})  # RFC 5214 section 6.1: an IPv4 address follows
_REFUSED_IPV4 = tuple(map(IPv4Network, (  # 168.63.129.16 is Azure's wire server: it looks global
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 "
    "192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 "
    "198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
).split()))  # fmt: skip

_OPEN_HEADER = re.compile(r"authorization|api-?key|cf-access-client-(id|secret)|x-[a-z0-9_-]{1,62}", re.A | re.I)
_CLOSED_HEADERS = tuple("x-aws-ec2 x-google-metadata x-forwarded x-real-ip x-http-method x-original x-rewrite".split())
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
