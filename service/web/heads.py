"""What comes on a connection, parsed under bounds that hold before anything is collected."""

import urllib.parse

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import BadRequest, Refusal, TooMany
from service.web.exchanges import Exchange
from service.web.problems import HeadTooLarge, UrlTooLong

HEAD_BYTES = 64 * 1024  # of request line, headers and trailers; and of what is between two pieces of a body
HEAD_LINES = 100  # trailers count, too
PIECE_BYTES = 64 * 1024  # parsed at a time: what is over a cap is known after no more than this
MOST_PIPELINED = 64  # requests that wait for the answer to another
FRAMING = (b"content-length", b"transfer-encoding")


class Reading(HttpToolsProtocol):
    """uvicorn's protocol up to where a request is begun. `refuse` is for whoever knows how a connection ends."""

    cycle: Exchange  # of the newest request; older ones may wait for their turn to answer before it
    url = b""
    heading = True  # what comes belongs to a head, or to nothing
    unmoved = 0  # bytes since a head, or a piece of a body, was complete
    came = 0  # bytes of the newest body
    _moved = False  # one was in what is being parsed
    _begun = False  # a head has begun, and is not complete
    _trailing = False  # header lines belong to the end of a body
    _replaying = False  # a parser is told the framing of a head that another one has read
    _trailers = 0  # lines of them
    _over: Refusal | None = None  # why the parsing was stopped

    def refuse(self, refusal: Refusal) -> None:
        raise NotImplementedError

    def begin(self, keep_alive: bool) -> None:
        raise NotImplementedError

    def feed(self, data: bytes | memoryview) -> None:
        """Parse at most `PIECE_BYTES`."""
        self._moved = False
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.refuse(self._over or BadRequest("This is no HTTP request that can be read."))
            return
        self.unmoved = int(self._begun) if self._moved else self.unmoved + len(data)
        if self.unmoved > HEAD_BYTES:
            self.refuse(self._too_large())

    def _parse(self, data: bytes | memoryview) -> None:
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                # What is offered and not taken is as if it were not offered (RFC 9110, 7.8), but this parser has
                # stopped behind the head: another one is told how the body is framed.
                self._parse_without_offer()
                data = data[offer.args[0] :]

    def _parse_without_offer(self) -> None:
        framing = b"".join(b"%b: %b\r\n" % row for row in self.headers if row[0] in FRAMING)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._replaying = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % framing)

    def _too_large(self) -> Refusal:
        if not self.heading:
            return BadRequest("There is too much between two pieces of the body.")
        if len(self.url) > HEAD_BYTES // 2:
            return UrlTooLong(f"Request line and headers may have {HEAD_BYTES} bytes.")
        return HeadTooLarge(f"The headers may have {HEAD_LINES} lines and {HEAD_BYTES} bytes.")

    # -- what the parser finds

    def on_message_begin(self) -> None:
        if self._replaying:
            return
        super().on_message_begin()
        self._begun, self._trailing, self._trailers = True, False, 0

    def on_url(self, url: bytes) -> None:
        if not self._replaying:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._trailing:
            self._trailers += 1  # a trailer is no header (RFC 9110, 6.5.1)
        elif not self._replaying:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))
        if len(self.headers) + self._trailers > HEAD_LINES:
            self._stop(self._too_large())

    def _stop(self, refusal: Refusal) -> None:
        """End the parsing: what a callback raises comes out of `feed_data` as an error of its own."""
        self._over = refusal
        raise OverflowError

    def on_headers_complete(self) -> None:
        if self._replaying:
            self._replaying, self._trailing = False, True
            return
        if self.unmoved and self._size() > HEAD_BYTES:  # what came in one piece is none too large
            self._stop(self._too_large())
        keep_alive = self._read_head()
        if len(self.pipeline) >= MOST_PIPELINED:
            self._stop(TooMany("Too many requests wait for the answer to another.", retry_after=1))
        self._moved, self.heading, self._begun = True, False, False
        self._trailing = not self.parser.should_upgrade()
        self.begin(keep_alive)

    def _size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _read_head(self) -> bool:
        """Put the head into the scope; whether the connection goes on after it."""
        version, scope = self.parser.get_http_version(), self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        target = httptools.parse_url(self.url)
        if target.path is None:
            raise ValueError("a target without a path")
        path = target.path.decode("ascii")
        scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        scope["raw_path"], scope["query_string"] = target.path, target.query or b""
        self.expect_100_continue = self.expect_100_continue and version == "1.1"  # RFC 9110, 10.1.1
        return version != "1.0" and self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self._moved = True
        self.came += len(body)
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # its body comes by another parser
        self._moved = self.heading = True
        self.whole()
        if self.cycle.response_complete:
            return
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def whole(self) -> None:
        """The newest request is; it may have been answered before."""
        raise NotImplementedError
