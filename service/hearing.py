"""What comes on a connection, as aiohttp takes it: our reader of replies in the place of its own parser."""

import asyncio
from typing import Any

from aiohttp import ClientPayloadError, HttpVersion
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from multidict import CIMultiDict, CIMultiDictProxy

from service.reply_reader import Broken, Event, Head, ReplyReader

PIECE_BYTES = 256 * 1024
OVER_S = 2.0  # how long a reply that may be over is waited for, where its framing says more


class Hearing(ResponseHandler):
    """One connection. `lenient`: it carries one request, and what answers that must not be lost."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, lenient: bool = False):
        super().__init__(loop)
        self._lenient = lenient
        self.requests = 0  # that were, or are, on this connection
        self.heard = False  # whether anything came since the last of them
        self._reading: Reading | None = None

    def set_response_params(self, *, skip_payload: bool = False, timer: Any = None, **more: Any) -> None:
        """As aiohttp calls it before each request."""
        super().set_response_params(skip_payload=skip_payload, timer=timer, **more)
        if self._lenient:
            self._reading = Reading(self, ReplyReader(has_body=not skip_payload, lenient=True), timer)
        else:
            self._reading = QuickReading(self, ReplyReader(has_body=not skip_payload), timer, self._parser)
        self._parser = self._reading  # type: ignore[assignment]
        self.requests, self.heard = self.requests + 1, False

    def data_received(self, data: bytes) -> None:
        """Also called with nothing, to go on after a pause."""
        self.heard = self.heard or bool(data)
        if data or self._reading is None or self._reading.goes_on:
            super().data_received(data)

    def feed_data(self, item: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """aiohttp gives a 204 no body; ours has the one that came, if it is read."""
        message, payload = item
        if payload is EMPTY_PAYLOAD and self._reading is not None and self._reading.payload is not None:
            payload = self._reading.payload
        super().feed_data((message, payload), size)

    @property
    def head_so_far(self) -> Head | None:
        """Of a reply whose head never was whole."""
        return self._reading.head_so_far if self._reading is not None else None

    def unusable(self) -> None:
        """No other request goes out on it; at once, if it idles."""
        self._should_close = True
        if self._reading is not None and self._reading.over and self.transport is not None:
            self.transport.close()


class Reading:
    """A reader of one reply, in the shape of aiohttp's parsers."""

    goes_on = False  # whether it keeps data back while the transport pauses

    def __init__(self, connection: Hearing, reader: ReplyReader, timer: Any):
        self._connection, self.reader, self._timer = connection, reader, timer
        self.payload: StreamReader | None = None
        self._ending: asyncio.TimerHandle | None = None

    @property
    def over(self) -> bool:
        return self.reader.done

    @property
    def head_so_far(self) -> Head | None:
        return self.reader.head_so_far

    def feed_data(self, data: bytes) -> tuple[list[tuple[RawResponseMessage, StreamReader]], bool, bytes]:
        try:
            messages = self._take(self.reader.feed(data))
        except Broken as broken:
            self._wait_no_more()
            if self.payload is None:
                raise BadHttpMessage(str(broken)) from None
            self.payload.set_exception(ClientPayloadError(str(broken)))
            self._connection.unusable()
            return [], False, b""
        if self.reader.surplus:
            self._connection.unusable()
        self._wait_shortly()
        return messages, False, b""

    def feed_eof(self) -> None:
        self._wait_no_more()
        try:
            self._take(self.reader.close())
        except Broken as broken:
            raise BadHttpMessage(str(broken)) from None

    def pause_reading(self) -> None:
        """aiohttp stops the transport itself; what was fed is taken."""

    def resume_reading(self) -> None:
        """Nothing was kept back."""

    def _take(self, events: list[Event]) -> list[tuple[RawResponseMessage, StreamReader]]:
        messages = []
        for event in events:
            if isinstance(event, Head):
                loop = asyncio.get_running_loop()
                self.payload = StreamReader(self._connection, PIECE_BYTES, timer=self._timer, loop=loop)
                messages.append((_message(event), self.payload))
            elif self.payload is None:
                continue
            elif isinstance(event, bytes):
                self.payload.feed_data(event)
            elif event == "end":
                self.payload.feed_eof()
            else:
                self.payload.set_exception(ClientPayloadError("the head of the reply is too large: it was not read"))
                self._connection.unusable()
        return messages

    def _wait_shortly(self) -> None:
        """For more of a body that may be whole, or may go on: a peer that keeps the connection open says no end."""
        self._wait_no_more()
        if self.reader.may_be_over:
            self._ending = asyncio.get_running_loop().call_later(OVER_S, self._end)

    def _wait_no_more(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None

    def _end(self) -> None:
        self._ending = None
        self._take(self.reader.close())
        self._connection.unusable()


class QuickReading(Reading):
    """By aiohttp's own parser, which takes a quarter of the time; by ours from the start of what that refuses."""

    def __init__(self, connection: Hearing, reader: ReplyReader, timer: Any, parser: Any):
        super().__init__(connection, reader, timer)
        self._quick: Any = parser
        self._raw = b""  # what came of the head

    @property
    def goes_on(self) -> bool:  # type: ignore[override]
        return self._quick is not None

    @property
    def over(self) -> bool:
        return super().over if self._quick is None else self.payload is not None and self.payload.is_eof()

    @property
    def head_so_far(self) -> Head | None:
        if self._quick is not None and self.payload is None and self._raw:
            self._take_over()
        return super().head_so_far

    def feed_data(self, data: bytes) -> tuple[list[tuple[RawResponseMessage, StreamReader]], bool, bytes]:
        if self._quick is None:
            return super().feed_data(data)
        if self.payload is None:
            self._raw = self._raw + data if self._raw else data
        try:
            messages, _, _ = self._quick.feed_data(data)
        except HttpProcessingError:
            return self._refused()
        if self.payload is not None:
            messages = self._unasked() if messages else messages
        elif messages and messages[0][0].code < 200:  # an interim reply: ours knows when there are too many
            return self._take_over()
        elif messages:
            self.payload, self._raw = messages[0][1], b""
            odd = len(messages) > 1 or (messages[0][0].code == 204 and _announces(messages[0][0]))
            messages = messages[:1]
            if odd:
                self._connection.unusable()
        return messages, False, b""

    def _refused(self) -> tuple[list[tuple[RawResponseMessage, StreamReader]], bool, bytes]:
        """Before the head was taken: from its start. After the body: surplus. In between the body is broken."""
        if self.payload is None:
            return self._take_over()
        if not self.payload.is_eof():
            self.payload.set_exception(ClientPayloadError("the body is broken"))
        self._connection.unusable()
        return [], False, b""

    def _take_over(self) -> tuple[list[tuple[RawResponseMessage, StreamReader]], bool, bytes]:
        self._quick, raw, self._raw = None, self._raw, b""
        return super().feed_data(raw)

    def _unasked(self) -> list[tuple[RawResponseMessage, StreamReader]]:
        """Another reply, to no request."""
        self._connection.unusable()
        return []

    def feed_eof(self) -> None:
        if self._quick is None:
            super().feed_eof()
        else:
            self._quick.feed_eof()

    def pause_reading(self) -> None:
        if self._quick is not None and hasattr(self._quick, "pause_reading"):
            self._quick.pause_reading()


def _announces(message: RawResponseMessage) -> bool:
    """Whether the headers announce a body."""
    return message.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in message.headers


def _message(head: Head) -> RawResponseMessage:
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in head.headers:
        headers.add(name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
    return RawResponseMessage(
        HttpVersion(*head.version), head.status, head.reason, CIMultiDictProxy(headers), head.headers,
        not head.keeps, None, False, head.values(b"transfer-encoding")[-1:] == [b"chunked"],
    )  # fmt: skip
