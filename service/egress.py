"""THE door out: every outbound connection is opened here, guarded, bounded in time and bytes, on aiohttp.

A lane is one pool of connections with one rule about addresses. The rule is asked three times: of all addresses of
a name, of each address as its socket is made (which covers IP literals), and of the peer that answered in the end.
Whether a request was sent is known at its first byte: `Exchange.open` runs just before it, with nothing in between.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from typing import NamedTuple

import aiohttp
from yarl import URL

from service import __version__, addresses
from service.addresses import Policy, Target, UrlRefused
from service.dialing import Guard, Lookups, Resolve, anything, ask_system
from service.errors import EgressDenied, NotSent
from service.exchange import Answer, Exchange, GuardedRequest, Larger
from service.framing import Outgoing
from service.hearing import Hearing
from service.own_requests import SENDER
from service.streams import Streamed

__all__ = ["Answer", "Egress", "Larger", "Resolve"]

CONNECT_SECONDS = 5.0  # TCP and TLS together, for each address that is tried
REACH_SECONDS = 15.0  # a free connection, DNS, and all the addresses that are tried
IDLE_SECONDS = 30.0  # within this a change of policy takes effect on pooled connections
JUDGED_SECONDS = 5.0  # within this a change of this host's own addresses takes effect on URLs
KEPT_URLS = 4096


class Egress:
    """The one client for all outbound traffic: made once, closed at the end.

    `trusted`: base URLs whose exact origin a request with `trusted=True` reaches without the address check.
    `proxy`: `http://[user:password@]host:port`; all but trusted origins then go through it, https by CONNECT, and it
    judges the addresses behind names. `resolve`, `tls`: other than the system's resolver and trust store.
    `connections` bounds each lane; callers bound each host. `mark` is on every request, so that we know our own.
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
        mark: str | None = None,
    ):
        self._policy, self._mark = policy, mark
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
        larger: Larger | None = None,
    ) -> Answer:
        """Sends once; returns what came back within `deadline` seconds, of the body up to `max_bytes`, or `larger`.

        `fresh`: on a connection of its own, closed afterwards, and whatever can be read as a reply is one, however
        odd its framing. `before_first_byte` runs when the connection stands;
        what it raises is raised, and nothing is sent. A redirect is an answer.
        Raises `NotSent` (egress_denied, dns, connect, tls, timeout_connect) only where no byte was written, `Lost`
        (timeout, reset, disconnected, protocol) where any was and no status came; `body` is the kind of both where
        the body to be sent could not be had. Only a GET or HEAD that is not fresh may be repeated, once, where the
        connection broke (RFC 9110 section 9.2.2).
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        exchange, url = self._exchange(request, before_first_byte, trusted=trusted, fresh=fresh, streams=False)
        try:
            async with asyncio.timeout(deadline):
                await exchange.begin(request, url)
                await exchange.read(max_bytes, larger)
        except (NotSent, aiohttp.ClientError, OSError) as error:
            # With a status line in hand, a deadline or a broken connection only cuts what follows it.
            if not exchange.has_status:
                raise exchange.verdict(error) from None
        finally:
            exchange.end()
        return exchange.answer(int((loop.time() - began) * 1000))

    @asynccontextmanager
    async def stream(
        self,
        request: Outgoing,
        *,
        deadline: float,
        idle: float,
        max_bytes: int | None = None,
        trusted: bool = False,
        fresh: bool = False,
        before_first_byte: Callable[[], None] | None = None,
    ) -> AsyncIterator[Streamed]:
        """As `send`, but what comes back is read as it comes: `deadline` is for its headers, `idle` for each piece.

        On connections of their own, so that slow readers never take those of calls. Leaving it ends the request.
        """
        exchange, url = self._exchange(request, before_first_byte, trusted=trusted, fresh=fresh, streams=True)
        try:
            try:
                async with asyncio.timeout(deadline):
                    response = await exchange.begin(request, url)
            except (NotSent, aiohttp.ClientError, OSError) as error:
                raise exchange.verdict(error) from None
            yield Streamed(response, idle=idle, max_bytes=max_bytes)
        finally:
            exchange.end()

    def _headers(self) -> dict[str, str]:
        marked = {SENDER: self._mark} if self._mark is not None else {}
        return {"User-Agent": f"Callsheet/{__version__}", "Accept-Encoding": "identity", **marked}

    async def close(self) -> None:
        """Closes all connections; requests under way fail."""
        for guard in self._guards.values():
            await guard.session.close()
        for lookups in self._lookups.values():
            lookups.close()

    def _exchange(
        self, request: Outgoing, before: Callable[[], None] | None, *, trusted: bool, fresh: bool, streams: bool
    ) -> tuple[Exchange, URL]:
        lane, url = self._admitted(request.url, trusted, fresh)
        lane = lane._replace(streams=True) if streams else lane
        guard = self._guards.get(lane) or self._open(lane)
        return Exchange(guard, before, may_repeat=not fresh and request.method in ("GET", "HEAD")), url

    def _admitted(self, text: str, trusted: bool, fresh: bool) -> tuple["_Lane", URL]:
        """`_admit`, asked anew after a while: addresses are judged again at the socket in any case."""
        now, key = asyncio.get_running_loop().time(), (text, trusted, fresh)
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
        connector = aiohttp.TCPConnector(
            resolver=guard,
            socket_factory=guard.socket,
            use_dns_cache=False,
            limit=self._connections,
            ssl=self._tls,
            force_close=lane.fresh,
            keepalive_timeout=None if lane.fresh else IDLE_SECONDS,
        )
        # aiohttp has no argument for what reads a connection; its own parser refuses replies that count here.
        connector._factory = partial(Hearing, asyncio.get_running_loop(), lenient=lane.fresh)  # type: ignore[assignment]
        guard.session = aiohttp.ClientSession(
            connector=connector,
            request_class=GuardedRequest,
            headers=self._headers(),
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
    streams: bool = False  # replies that are read as they come, by readers of any pace


@lru_cache(maxsize=4096)
def _parse(text: str) -> tuple[Target, URL]:
    target = addresses.read_url(text)
    url = URL(target.text, encoded=True)
    if (url.scheme, url.raw_host, url.port) != target.origin:  # two parsers must mean the same
        raise UrlRefused("url_malformed")
    return target, url
