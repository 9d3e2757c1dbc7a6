"""Sends the providers' callbacks: repeats what is refused, and remembers what was answered."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

ATTEMPT_TIMEOUT_S = 10.0
IDLE_CONNECTION_S = 2.0  # shorter than common servers' own, so that a callback rarely meets a closing connection
CONNECTIONS = 200
KEPT_ANSWERS = 200
KEPT_BODY_BYTES = 200
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """One callback of one job. `sign` makes the headers anew for each attempt; `taken` reads the answer."""

    job_id: str
    url: str
    body: bytes
    sign: Callable[[bytes], dict[str, str]]
    forged_body: bytes
    forge: Callable[[bytes], dict[str, str]]
    taken: Callable[[int, bytes], bool]
    retry_s: Sequence[float]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt was answered; `status` 0 means that no answer came."""

    job_id: str
    kind: str
    status: int
    body: str
    taken: bool
    at: float


class CallbackSender:
    """The callbacks of one provider."""

    def __init__(self, *, now: Callable[[], float]) -> None:
        self._now = now
        self._session: aiohttp.ClientSession | None = None
        self._waiting: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()
        self.answers: deque[Answer] = deque(maxlen=KEPT_ANSWERS)

    async def open(self) -> None:
        """Make the connections' pool; needs the running loop."""
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=IDLE_CONNECTION_S)
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_TIMEOUT_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, skip_auto_headers=("User-Agent",))

    async def close(self) -> None:
        """Give up what waits, and close the connections."""
        self.reset()
        if self._session is not None:
            await self._session.close()

    def reset(self) -> None:
        """Give up what waits, and count from zero."""
        for task in self._waiting:
            task.cancel()
        self.counts.clear()
        self.answers.clear()

    def view(self) -> dict[str, Any]:
        """The counts and the last answers, newest first."""
        names = ("sent", "accepted", "refused", "given_up", "forged_sent", "forged_accepted", "forged_refused")
        return {
            **{name: self.counts[name] for name in names},
            "waiting": len(self._waiting),
            "last": list(reversed(self.answers)),
        }

    def later(self, seconds: float, start: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start something after a time, unless a reset comes first."""
        task = asyncio.create_task(self._wait(seconds, start))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _wait(self, seconds: float, start: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await asyncio.sleep(seconds)
        await start()

    async def deliver(self, callback: Callback, *, copies: int) -> None:
        """Send all copies at once; if the first is not taken, it is repeated by the provider's schedule.

        Every second copy has the headers of the first, nonce included: a true replay. The others are signed anew.
        """
        first = callback.sign(callback.body)
        copied = [first if number % 2 else callback.sign(callback.body) for number in range(1, copies)]
        sends = [self._send(callback, "copy", callback.body, headers) for headers in copied]
        taken, *_ = await asyncio.gather(self._send(callback, "first", callback.body, first), *sends)
        if not taken:
            self._repeat(callback, attempt=0)

    def _repeat(self, callback: Callback, *, attempt: int) -> None:
        if attempt >= len(callback.retry_s):
            self.counts["given_up"] += 1
            return

        async def again() -> None:
            if not await self._send(callback, f"retry {attempt + 1}", callback.body, callback.sign(callback.body)):
                self._repeat(callback, attempt=attempt + 1)

        self.later(callback.retry_s[attempt], again)

    async def forge(self, callback: Callback) -> None:
        """Send what an attacker would: another body, signed with another secret."""
        headers = callback.forge(callback.forged_body)
        await self._send(callback, "forged", callback.forged_body, headers)

    async def _send(self, callback: Callback, kind: str, body: bytes, headers: dict[str, str]) -> bool:
        status, text = await self._post(callback.url, body, headers)
        taken = callback.taken(status, text)
        prefix = "forged_" if kind == "forged" else ""
        self.counts[f"{prefix}sent"] += 1
        self.counts[f"{prefix}{'accepted' if taken else 'refused'}"] += 1
        shown = text[:KEPT_BODY_BYTES].decode(errors="replace")
        answer = Answer(job_id=callback.job_id, kind=kind, status=status, body=shown, taken=taken, at=self._now())
        self.answers.append(answer)
        return taken

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        if self._session is None:
            raise RuntimeError("the sandbox is not started")
        # A service on loopback may serve TLS with a certificate of its own making.
        verify_tls = urlsplit(url).hostname not in LOOPBACK
        sent = {"Content-Type": "application/json", **headers}
        try:
            async with self._session.post(
                url, data=body, headers=sent, allow_redirects=False, ssl=verify_tls
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return 0, type(error).__name__.encode()
