"""A client that takes nothing of what was sent to it is ended; one that is slow is not."""

import asyncio
import contextlib
import fcntl
import struct
import termios


class Unread:
    """Looks at one connection from `watch` to `forget`."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, seconds: float):
        self._transport, self._loop, self._seconds = transport, loop, seconds
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0  # bytes that were not taken when it last looked

    def watch(self) -> None:
        """End the connection unless, time after time, something is taken of what waits; nothing is added meanwhile."""
        self.forget()
        self._left = self._untaken()
        self._timer = self._loop.call_later(self._seconds, self._look)

    def forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._untaken() >= self._left:
            self._transport.abort()
        else:
            self.watch()

    def _untaken(self) -> int:
        """Bytes here and in the system that the client has not acknowledged (Linux: SIOCOUTQ, tcp(7))."""
        size = self._transport.get_write_buffer_size()
        with contextlib.suppress(OSError):
            asked = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
            size += int(struct.unpack("i", asked)[0])
        return size
