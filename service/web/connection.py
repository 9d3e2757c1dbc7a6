"""One connection of a client: what it may send, how long it may take, and how it ends.

uvicorn's protocol, with bounds that hold before anything is collected: a head has so many bytes and lines, and so many
seconds. Every refusal is a problem document, is the last answer of its connection, and is waited for until the client
could read it. `Door` counts the connections; `Limits` says how much each may take.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.errors import BadRequest, Refusal
from service.web.door import Door, Limits
from service.web.exchanges import Exchange, Refusing, document
from service.web.heads import PIECE_BYTES, Reading
from service.web.problems import TooSlow
from service.web.unread import Unread

STALL_S, LEAST_RATE = 1.0, 1024.0  # a body that is longer under way, and slower (bytes a second), stalls
NOBODYS_S = 0.002  # between two reads of what is nobody's


def protocol(door: Door, limits: Limits, public_url: str) -> type[asyncio.Protocol]:
    """The class of which uvicorn makes one for each connection."""
    return type("Connection", (Connection,), {"door": door, "limits": limits, "public_url": public_url})


class Connection(Reading):
    """Its bounds come with the class that `protocol` makes."""

    door: Door
    limits: Limits
    public_url: str

    _current: RequestResponseCycle | None = None  # that is being answered
    unwelcome: Refusal | None = None
    _peer = ""

    _began_at = 0.0  # the newest request
    _eof = False
    _deaf = False  # what still comes is nobody's
    _closing = False  # the last answer is written
    _refused: Refusal | None = None  # to be said after what was asked before
    _timer: asyncio.TimerHandle | None = None  # of a head, of a body that is nobody's, of the end
    _lingers_until = _heard_at = 0.0
    _unread: Unread

    # -- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.write, self.is_closing = transport.write, transport.is_closing
        self._peer = self.door.enter(self, self.client[0] if self.client else "")
        self._unread = Unread(transport, self.loop, self.limits.unread_s)
        self._set_timer(self.limits.head_s, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self.door.leave(self, self._peer)
        self._set_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self._unread.forget()
        if (current := self._current) is not None:
            current.disconnected = True
            current.message_event.set()
        # An exchange and its connection know each other: let go, or both wait for the collector.
        self.cycle = self._current = None  # type: ignore[assignment]
        self.pipeline.clear()

    def make_room(self) -> None:
        """For another client."""
        self.transport.abort()

    def stalls(self) -> bool:
        return self.came < (self.loop.time() - self._began_at - STALL_S) * LEAST_RATE

    def shutdown(self) -> None:
        super().shutdown()
        if self._answering:
            self.cycle.keeps_alive = False

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _set_timer(self, seconds: float = 0.0, then: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, then) if then is not None else None

    # -- what comes

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._deaf or not (self.heading or self._answering):
            # The loop reads from one connection as long as there is something: here that would be for a long time.
            self.flow.pause_reading()
            self.loop.call_later(NOBODYS_S, self._read_on)
        if len(data) <= PIECE_BYTES:
            self._take(data)
            return
        view = memoryview(data)
        for start in range(0, len(data), PIECE_BYTES):
            self._take(view[start : start + PIECE_BYTES])

    def _take(self, data: bytes | memoryview) -> None:
        if self._deaf:
            self._heard_at = self.loop.time()
            return
        self.feed(data)
        if self.unmoved and self.heading and self._timer is None and not (self._deaf or self._answering):
            self._set_timer(self.limits.head_s, self._too_late)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Nothing more comes. What was asked whole is answered; what was announced and did not come is refused."""
        self._eof = True
        if self._closing or self.scheme == "https":  # TLS has no half-closed connections here
            return None
        if self._answering:
            self._deaf = True
            self.cycle.break_off()
            return True
        if self.heading and self.unmoved:
            self.refuse(BadRequest("The connection closed before the request ended."))
        return None

    def begin(self, keep_alive: bool) -> None:
        self._set_timer()
        self.door.asks(self)
        self.came, self._began_at = 0, self.loop.time()
        before = self.cycle
        self.cycle = exchange = Exchange(
            scope=self.scope,
            transport=self,  # type: ignore[arg-type] # of a transport it has what an answer needs
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            # Who waits for `100 Continue` and is refused may leave the body out: nobody knows what comes next.
            keep_alive=keep_alive and not self.expect_100_continue,
            on_response=self.on_response_complete,
        )
        exchange.keeps_alive = keep_alive
        app: Any = self.app if self.unwelcome is None else Refusing(self.unwelcome, self.public_url)
        if before is None or before.response_complete:
            self._start_asgi_task(exchange, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, app))

    # -- answers, and the last of them

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._current = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self._closing or self.transport.is_closing():
            self.server_state.total_requests += 1
            return
        super().on_response_complete()
        if self._refused is not None and not self._answering:
            self._say(self._refused)
        elif not self._answering:
            self._wait()

    def whole(self) -> None:
        self.door.asked(self)
        if not (self._closing or self._answering):
            self._set_timer(self.limits.head_s, self._too_late)

    def _wait(self) -> None:
        """For the next request, which may have begun; for the rest of this one, which is nobody's any more."""
        self.door.waits(self)
        if not self.heading:
            self._set_timer(self.limits.linger_s, self._close)
        elif self.unmoved:
            self._set_timer(self.limits.head_s, self._too_late)
        else:
            self._set_timer()

    def _too_late(self) -> None:
        if self.unmoved:
            self.refuse(TooSlow(f"A request line and its headers must arrive within {self.limits.head_s:g} seconds."))
        else:
            self._close()

    def refuse(self, refusal: Refusal) -> None:
        """The last of this connection, in its turn. Where a body is broken, whoever reads it finds out and refuses."""
        self._deaf = True
        self._set_timer()
        if not self._answering and self.heading:
            self._say(refusal)
        elif not self._answering:
            self._end()
        elif self.heading:
            self._refused = refusal
        else:
            self.cycle.break_off()

    def _say(self, refusal: Refusal) -> None:
        reply = document(refusal, self.public_url)
        assert isinstance(reply.body, bytes)  # noqa: S101 - a document is
        headers = (*reply.headers, ("content-type", reply.content_type), ("content-length", len(reply.body)))
        lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}", "connection: close"]
        lines += [f"{name}: {value}" for name, value in headers if name != "connection"]
        self.transport.write("\r\n".join((*lines, "", "")).encode() + reply.body)
        self._end()

    def close(self) -> None:
        """An answer that is the last of its connection is written, or one broke off."""
        if self._current is not None and self._current.response_complete:
            self._end()
        else:
            self._close()  # nobody must take what came for the whole

    def _end(self) -> None:
        """No more is said. To close while the client still sends would reset what it has not read (RFC 9112, 9.6)."""
        self._closing = True
        self._unset_keepalive_if_required()
        self.door.waits(self)
        if self._eof or (self.heading and not (self._deaf or self.unmoved or self.pipeline)):
            self._close()
            return
        self._deaf = True
        self.pipeline.clear()
        self.flow.resume_reading()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        self._heard_at = self.loop.time()
        self._lingers_until = self._heard_at + self.limits.linger_s
        self._set_timer(self.limits.linger_idle_s, self._linger)

    def _linger(self) -> None:
        ends = min(self._lingers_until, self._heard_at + self.limits.linger_idle_s)
        left = ends - self.loop.time()
        if left > 0:
            self._set_timer(left, self._linger)
        else:
            self._close()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def _close(self) -> None:
        self._closing = True
        self._unset_keepalive_if_required()
        self._set_timer()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._unread.watch()

    # -- a client that does not read

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread.watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread.forget()
