"""Who may be dialled: names are asked here, and every address is judged here, at the socket."""

import asyncio
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakSet

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from service import addresses
from service.addresses import Permits
from service.errors import EgressDenied, NotSent

DNS_SECONDS = 5.0
DNS_THREADS = 32  # names whose servers hang each hold one until libc gives up
ADDRESSES_TRIED = 6

Resolve = Callable[[str, int], Iterable[str]]
"""(host, port) to addresses as text. May block: it runs in the door's own threads. Raises OSError."""


class RefusedAddress(OSError):
    pass


def anything(_ip: object, _port: int) -> bool:
    return True


class Guard(AbstractResolver):
    """The rule of one lane, where aiohttp asks for addresses, makes sockets and hands over connections."""

    session: aiohttp.ClientSession

    def __init__(self, permits: Permits, lookups: "Lookups"):
        self._permits = permits
        self._lookups = lookups
        self._vetted: WeakSet[ResponseHandler] = WeakSet()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        if addresses.is_loopback_name(host):
            found = [str(ip) for ip in addresses.LOOPBACK if self._permits(ip, port)]
        else:
            found = await self._lookups.find(host, port)
        # One bad address spoils the lot: a mixed answer is how a name is rebound between check and use.
        if not found or not all(self._allows(address, port) for address in found):
            raise EgressDenied
        return [
            {"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": 0}
            for address in found[:ADDRESSES_TRIED]
        ]

    def socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = info
        if not self._allows(str(address[0]), int(address[1])):
            raise RefusedAddress("refused")
        return socket.socket(family, kind, protocol)

    def vet(self, connection: Connection) -> None:
        protocol, transport = connection.protocol, connection.transport
        # What came unasked on a new or an idle connection would pass for the answer to this request.
        if protocol is None or transport is None or protocol.should_close:
            raise NotSent("connect", "the connection closed or spoke before the request was written")
        if protocol in self._vetted:
            return
        peer = transport.get_extra_info("peername")
        if peer is None or not self._allows(str(peer[0]), int(peer[1])):
            raise EgressDenied
        self._vetted.add(protocol)

    def _allows(self, address: str, port: int) -> bool:
        ip = addresses.parse_address(address)
        return ip is not None and self._permits(ip, port)

    async def close(self) -> None:
        pass


class Lookups:
    """Names to addresses in threads of their own; callers that want the same name share one thread."""

    def __init__(self, resolve: Resolve, *, seconds: float = DNS_SECONDS):
        self._resolve, self._seconds = resolve, seconds
        self._threads = ThreadPoolExecutor(DNS_THREADS, "callsheet-dns")
        self._pending: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def find(self, host: str, port: int) -> list[str]:
        asked = self._pending.get((host, port))
        if asked is None:
            loop = asyncio.get_running_loop()
            asked = loop.run_in_executor(self._threads, lambda: list(self._resolve(host, port)))
            self._pending[host, port] = asked
            asked.add_done_callback(lambda done: self._answered(host, port, done))
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.shield(asked)
        except (OSError, UnicodeError):  # a timeout is an OSError
            raise NotSent("dns", "the name could not be resolved") from None

    def _answered(self, host: str, port: int, done: "asyncio.Future[list[str]]") -> None:
        """Also long after everybody who asked has given up: then nobody hears that it failed."""
        self._pending.pop((host, port))
        if not done.cancelled():
            done.exception()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def ask_system(host: str, port: int) -> list[str]:
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
