"""The web server, and how it stops: nobody who was let in is turned away.

On SIGTERM `/ready` says no at once, so that a proxy looks for another node, and every answer ends its connection; for
the seconds of CALLSHEET_STOP_DELAY whoever comes all the same is served. Then nobody new is let in. What was asked is
answered, for a few seconds more. A connection that waits for its next request is left to its usual end, because that
request may be on its way. The loops stop meanwhile. SIGINT, from a keyboard, does without the delay.
"""

import asyncio
import contextlib
import ctypes
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence

import uvicorn

REQUESTS_S = 4.0  # for requests under way, once nobody new is let in
CUT_S = 1  # for those that are then cut to end
LOOK_S = 0.05
HANDSHAKE_S = 0.1  # for connections that were being opened as the door began to close
MOST_WAITING = 10_000  # connections to let in at the end: more than a backlog holds
SO_ATTACH_FILTER = 26  # Linux, include/uapi/asm-generic/socket.h
# Classic BPF (operation, jump if true, jump if false, operand), over the TCP header; its 14th byte has the flags.
NOT_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


class StoppingServer(uvicorn.Server):
    """Says where it listens. `leave` is called as a stop begins, which ends with exit code 0."""

    def __init__(self, config: uvicorn.Config, said: Sequence[str], leave: Callable[[], None], delay_s: float):
        super().__init__(config)
        self._said, self._leave, self._delay_s = said, leave, delay_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take requests, then say so; the first line is for programs."""
        await super().startup(sockets=sockets)
        if self.started:
            print(*self._said, sep="\n", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """The stop, but for what uvicorn itself does once the requests had their time: cut them, end the lifespan."""
        self._leave()
        by_hand = signal.SIGINT in self._captured_signals
        print(self._plan(by_hand), flush=True)
        if not by_hand:
            await self._until(lambda: False, self._delay_s)
        await _let_in(sockets or [])
        for door in (*self.servers, *(sockets or ())):
            door.close()
        answered = self.server_state.tasks if by_hand else self.server_state.connections
        await self._until(lambda: not answered, REQUESTS_S)
        await super().shutdown(sockets=sockets)
        print("callsheet stopped: what was not done goes on at the next start, or on another node", flush=True)

    def _plan(self, by_hand: bool) -> str:
        """What goes on from here."""
        requests = len(self.server_state.connections)
        delay = "" if by_hand or not self._delay_s else f" takes requests for {self._delay_s:g} s more,"
        ended = ", or until Ctrl-C comes again" if by_hand else ""
        return (
            f"callsheet stopping:{delay} lets what is under way end ({requests} connections), for 25 s at most{ended}"
        )

    async def _until(self, over: Callable[[], bool], seconds: float) -> None:
        """Wait for it, or so many seconds; a second SIGINT is not kept waiting."""
        ends = asyncio.get_running_loop().time() + seconds
        while not (over() or self.force_exit) and asyncio.get_running_loop().time() < ends:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, but the signal is not raised again once all is closed: the stop was asked for."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


async def _let_in(listeners: Sequence[socket.socket]) -> None:
    """Return when nobody waits at the door: closing it would reset those connections, which the system has accepted.

    On Linux nobody begins a new one meanwhile: it goes unanswered, is begun again after a second, and refused then.
    Elsewhere a moment is left between the last look and the closing, for those who did not ask `/ready`.
    """
    waiting = select.poll()
    for listener in listeners:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # a sandbox may have none
                _ignore_new(listener)
        waiting.register(listener, select.POLLIN)
    await asyncio.sleep(HANDSHAKE_S)
    for _ in range(MOST_WAITING):
        if not waiting.poll(0):
            return
        await asyncio.sleep(0)  # the loop lets one in each time round


def _ignore_new(listener: socket.socket) -> None:
    """A socket filter: packets that open a connection (SYN without ACK) are dropped, what belongs to one passes."""
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in NOT_SYN))
    filtered = struct.pack("HP", len(NOT_SYN), ctypes.addressof(program))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filtered)
