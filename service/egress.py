"""THE door out: every outbound connection is opened here, guarded, bounded in time and bytes, on aiohttp.

A lane is one pool of connections with one rule about addresses. The rule is asked three times: of all addresses of
a name, of each address as its socket is made (which covers IP literals), and of the peer that answered in the end.
Whether a request was sent is known at its first byte: `_Exchange.open` runs just before it, with nothing in between.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple, cast

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection
from yarl import URL

from service import __version__, addresses
from service.addresses import Policy, Target, UrlRefused
from service.dialing import Guard, Lookups, RefusedAddress, Resolve, anything, ask_system
from service.errors import EgressDenied, Lost, NotSent
from service.framing import Outgoing, sendable_headers

CONNECT_SECONDS = 5.0  # TCP and TLS together, for each address that is tried
REACH_SECONDS = 15.0  # a free connection, DNS, and all the addresses that are tried
IDLE_SECONDS = 30.0  # within this a change of policy takes effect on pooled connections
WRITE_BYTES = 64 * 1024
JUDGED_SECONDS = 5.0  # within this a change of this host's own addresses takes effect on URLs
KEPT_URLS = 4096


class Answer(msgspec.Struct, frozen=True):
    """A status line came back. `headers` by lower-case name, the first of each; `body` as it came, not inflated.

    `complete` is False where the cap, the deadline or the peer cut the body; the status stands all the same.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool
    duration_ms: int


class Egress:
    """The one client for all outbound traffic: made once, closed at the end.

    `trusted`: base URLs whose exact origin a request with `trusted=True` reaches without the address check.
    `proxy`: `http://[user:password@]host:port`; all but trusted origins then go through it, https by CONNECT, and it
    judges the addresses behind names. `resolve`, `tls`: other than the system's resolver and trust store.
    `connections` bounds each lane; callers bound each host.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        trusted: Iterable[str] = (),
        proxy: str | None = None,
        resolve: Resolve | None = None,
        connections: int = 1024,
        tls: ssl.SSLContext | None = None,
    ):
        self._policy = policy
        self._trusted = frozenset(addresses.read_url(url).origin for url in trusted)
        self._proxy = URL(proxy) if proxy else None
        # Threads apart, so that subscribers' names whose servers hang never delay a call to a provider.
        self._lookups = {trusted: Lookups(resolve or ask_system) for trusted in (True, False)}
        self._connections = connections
        self._tls: ssl.SSLContext | bool = tls or True
        self._guards: dict[_Lane, Guard] = {}
        self._kept: dict[tuple[str, bool, bool], tuple[float, _Lane, URL]] = {}

    async def send(
        self,
        request: Outgoing,
        *,
        deadline: float,
        max_bytes: int,
        trusted: bool = False,
        fresh: bool = False,
        before_first_byte: Callable[[], None] | None = None,
    ) -> Answer:
        """Sends once; returns what came back within `deadline` seconds, of the body up to `max_bytes`.

        `fresh`: on a connection of its own, closed afterwards. `before_first_byte` runs when the connection stands;
        what it raises is raised, and nothing is sent. A redirect is an answer.
        Raises `NotSent` (egress_denied, dns, connect, tls, timeout_connect) only where no byte was written, `Lost`
        (timeout, reset, disconnected, protocol) where any was and no status came. Only a GET or HEAD that is not
        fresh may be repeated, once, where the connection broke (RFC 9110 section 9.2.2).
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        lane, url = self._admitted(request.url, trusted, fresh, began)
        guard = self._guards.get(lane) or self._open(lane)
        exchange = _Exchange(guard, before_first_byte, may_repeat=not fresh and request.method in ("GET", "HEAD"))
        try:
            async with asyncio.timeout(deadline):
                await exchange.run(request, url, max_bytes)
        except (NotSent, aiohttp.ClientError, OSError) as error:
            # With a status line in hand, a deadline or a broken connection only cuts the body.
            if exchange.response is None:
                raise exchange.verdict(error) from None
        finally:
            exchange.end()
        return exchange.answer(int((loop.time() - began) * 1000))

    async def close(self) -> None:
        """Closes all connections; requests under way fail."""
        for guard in self._guards.values():
            await guard.session.close()
        for lookups in self._lookups.values():
            lookups.close()

    def _admitted(self, text: str, trusted: bool, fresh: bool, now: float) -> tuple["_Lane", URL]:
        """`_admit`, asked anew after a while: addresses are judged again at the socket in any case."""
        key = (text, trusted, fresh)
        kept = self._kept.get(key)
        if kept is None or now - kept[0] > JUDGED_SECONDS:
            if len(self._kept) >= KEPT_URLS:
                self._kept.clear()
            kept = self._kept[key] = (now, *self._admit(text, trusted=trusted, fresh=fresh))
        return kept[1], kept[2]

    def _admit(self, text: str, *, trusted: bool, fresh: bool) -> tuple["_Lane", URL]:
        try:
            target, url = _parse(text)
            exempt = trusted and target.origin in self._trusted
            if not exempt:
                addresses.judge(target, self._policy)
        except UrlRefused as refusal:
            raise EgressDenied(refusal.detail) from None
        return _Lane(trusted, exempt, target.scheme == "http", fresh), url

    def _open(self, lane: "_Lane") -> "Guard":
        proxy = None if lane.exempt else self._proxy
        unjudged = lane.exempt or proxy is not None
        permits = anything if unjudged else addresses.dial_rule(self._policy, plain=lane.plain)
        guard = self._guards[lane] = Guard(permits, self._lookups[lane.trusted])
        guard.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=guard,
                socket_factory=guard.socket,
                use_dns_cache=False,
                limit=self._connections,
                ssl=self._tls,
                force_close=lane.fresh,
                keepalive_timeout=None if lane.fresh else IDLE_SECONDS,
            ),
            request_class=_Request,
            headers={"User-Agent": f"Callsheet/{__version__}", "Accept-Encoding": "identity"},
            proxy=proxy,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(connect=REACH_SECONDS, sock_connect=CONNECT_SECONDS, ceil_threshold=3600),
        )
        return guard


class _Lane(NamedTuple):
    trusted: bool  # the caller's word: these never share a connection with deliveries
    exempt: bool  # to an origin that the operator configured: no address check
    plain: bool  # http: only into open networks
    fresh: bool  # a connection for each request


@lru_cache(maxsize=4096)
def _parse(text: str) -> tuple[Target, URL]:
    target = addresses.read_url(text)
    url = URL(target.text, encoded=True)
    if (url.scheme, url.raw_host, url.port) != target.origin:  # two parsers must mean the same
        raise UrlRefused("url_malformed")
    return target, url


# -- one request --


class _Exchange:
    """One request and what becomes of it; an aiohttp middleware too, so that it sees every try of aiohttp's."""

    def __init__(self, guard: "Guard", before_first_byte: Callable[[], None] | None, *, may_repeat: bool):
        self.started = False
        self.response: aiohttp.ClientResponse | None = None
        self._guard, self._before, self._may_repeat = guard, before_first_byte, may_repeat
        self._refusal: Exception | None = None
        self._transport: asyncio.Transport | None = None
        self._body, self._complete, self._over = bytearray(), False, False

    async def run(self, request: Outgoing, url: URL, max_bytes: int) -> None:
        headers, skipped = sendable_headers(request)
        response = await self._guard.session.request(
            request.method,
            url,
            headers=headers,
            data=_Body(self, request.body) if request.body else None,
            skip_auto_headers=skipped,
            allow_redirects=False,
            middlewares=(self,),
        )
        if not self.started:
            response.close()
            raise NotSent("connect", "the server answered before it was asked")
        self.response = response
        while not response.content.at_eof() and len(self._body) <= max_bytes:
            self._body += await response.content.read(max_bytes + 1 - len(self._body))
        self._complete = len(self._body) <= max_bytes
        del self._body[max_bytes:]

    async def __call__(self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        cast(_Request, request).exchange = self
        try:
            return await send(request)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            # After these two aiohttp repeats idempotent methods, so that it must not see them.
            if self._may_repeat:
                raise
            raise self.verdict(error) from None

    def connected(self, connection: Connection) -> None:
        self._guard.vet(connection)
        self._transport = connection.transport

    def open(self) -> None:
        """The last moment at which nothing is sent; from here on the request counts as sent."""
        try:
            if self._over or self._transport is None or self._transport.is_closing():
                raise NotSent("connect", "the connection closed before the request was written")
            if self._before is not None:
                self._before()
        except Exception as refusal:
            self._refusal = refusal  # aiohttp wraps what a body raises
            raise
        self.started = True

    def verdict(self, error: Exception) -> Exception:
        if self.started:
            return error if isinstance(error, Lost) else Lost(_kind(error, _LOST))
        if self._refusal is not None:
            return self._refusal
        if isinstance(error, NotSent):
            return error
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        return EgressDenied() if isinstance(cause, RefusedAddress) else NotSent(_kind(error, _UNSENT))

    def end(self) -> None:
        self._over = True
        if self.response is not None and not self._complete:
            self.response.close()

    def answer(self, duration_ms: int) -> Answer:
        response = cast(aiohttp.ClientResponse, self.response)
        headers: dict[str, str] = {}
        for name, value in response.headers.items():
            headers.setdefault(name.lower(), value)
        return Answer(response.status, headers, bytes(self._body), self._complete, duration_ms)


class _Request(aiohttp.ClientRequest):
    exchange: _Exchange

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        self.exchange.connected(conn)
        if not self.body:  # written at once, without a suspension; a body asks for itself
            self.exchange.open()
        return await super().send(conn)


class _Body(aiohttp.Payload):
    """aiohttp holds the headers back until the first bytes of the body are there: they leave together."""

    _autoclose = True

    def __init__(self, exchange: _Exchange, content: bytes):
        super().__init__(content)
        self._size = len(content)
        self._exchange = exchange

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return cast(bytes, self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._exchange.open()
        content = memoryview(self._value)
        for start in range(0, len(content), WRITE_BYTES):
            await writer.write(content[start : start + WRITE_BYTES])


def _kind(error: Exception, kinds: tuple[tuple[type[Exception], str], ...]) -> str:
    return next(kind for family, kind in kinds if isinstance(error, family))


_UNSENT = ((TimeoutError, "timeout_connect"), (ssl.SSLError, "tls"), (aiohttp.ClientSSLError, "tls"),
           (aiohttp.InvalidURL, "egress_denied"), (Exception, "connect"))  # fmt: skip
_LOST = ((TimeoutError, "timeout"), (aiohttp.ServerDisconnectedError, "disconnected"), (NotSent, "disconnected"),
         (OSError, "reset"), (Exception, "protocol"))  # fmt: skip
