"""A provider's host as a raw HTTP server: what it answers follows from the path, what came is kept."""

import hashlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

PREFIX = "/below"  # a base URL may have one
PIECE = b"callsheet" * 7282  # not quite 64 KiB


class Upstream:
    """`url` is the provider's base URL; `requests` are those that came, `submits` the bodies of job-making ones."""

    def __init__(self) -> None:
        upstream = self

        class Answering(Answers):
            host = upstream

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}{PREFIX}"
        self.requests: list[dict[str, Any]] = []
        self.numbers = itertools.count(1)
        self.submit = "accept"  # or: drop, cut, page, refuse, full, lock-out, slow, hang
        self.let_go = threading.Event()  # of what hangs

    def paths(self, method: str = "") -> list[str]:
        return [request["path"] for request in self.requests if method in ("", request["method"])]


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host: Upstream

    def _answer(self) -> None:
        path = urlsplit(self.path).path.removeprefix(PREFIX)
        kept: dict[str, Any] = {"method": self.command, "path": self.path.removeprefix(PREFIX)}
        kept |= {"headers": {name.lower(): value for name, value in self.headers.items()}}
        self.host.requests.append(kept)
        named = path.strip("/").split("/")[0]
        if named == "early":
            self._early()
            return
        kept["body"], kept["sha256"], kept["length"] = self._read()
        answer = getattr(self, f"_{named}", None) if named.isalpha() else None
        if answer is not None:
            answer(kept)
        elif path.endswith("/generate"):
            getattr(self, f"_submit_{self.host.submit.replace('-', '_')}")()
        else:
            self._json({"you": "reached it"})

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer

    def _read(self) -> tuple[str, str, int]:
        left, digest, start = int(self.headers.get("content-length") or 0), hashlib.sha256(), b""
        length = left
        while left:
            piece = self.rfile.read(min(left, 65536))
            if not piece:
                break
            start, left = start or piece[:1000], left - len(piece)
            digest.update(piece)
        return start.decode("latin-1"), digest.hexdigest(), length - left

    def _send(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response_only(status)
        for name, value in (("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200, *headers: tuple[str, str]) -> None:
        self._send(status, json.dumps(value).encode(), ("Content-Type", "application/json"), *headers)

    def _drop(self, *_: Any) -> None:
        self.close_connection = True
        self.connection.close()

    # -- by the first part of the path

    def _echo(self, kept: dict[str, Any]) -> None:
        self._json(kept)

    def _status(self, _: Any) -> None:
        status = int(urlsplit(self.path).path.rsplit("/", 1)[1])
        body = b"" if status in (204, 304) else b"as it is"
        self.send_response_only(status)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/x-own; charset=latin-1")
        self.end_headers()
        self.wfile.write(body)

    def _unchanged(self, _: Any) -> None:
        self.send_response_only(304)
        self.send_header("Content-Length", "4711")
        self.send_header("ETag", '"1"')
        self.end_headers()

    def _marked(self, _: Any) -> None:
        own = (("Set-Cookie", "session=theirs"), ("X-Own", "gr\u00fcn"), ("Server", "theirs"), ("ETag", '"1"'))
        told = (("X-Echo", self.headers.get("Authorization", "")), ("X-Accel-Redirect", "/etc/passwd"))
        self._json({"marked": True}, 200, *own, *told, ("Callsheet-Job-Id", "job_forged"))

    def _moved(self, _: Any) -> None:
        self._send(302, b"", ("Location", f"{self.host.url}/echo?x=1"))

    def _big(self, _: Any) -> None:
        """`/big/<mebibytes>`, with its length, or chunked with `?chunked`."""
        pieces, chunked = int(urlsplit(self.path).path.rsplit("/", 1)[1]) * 16, "chunked" in self.path
        self.send_response_only(200)
        self.send_header("Content-Type", "video/mp4")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(pieces * len(PIECE)))
        self.end_headers()
        for _piece in range(pieces):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _long(self, _: Any) -> None:
        """JSON beyond what is read."""
        self._json({"status_url": f"{self.host.url}/echo", "filler": "x" * (5 * 1024 * 1024)})

    def _wide(self, _: Any) -> None:
        """JSON that is read, and that no socket holds."""
        self._json({"status_url": f"{self.host.url}/echo", "filler": "x" * (4 * 1024 * 1024 - 200)})

    def _coded(self, _: Any) -> None:
        body = b"\x1f\x8bnot really gzip"
        self._send(200, body, ("Content-Type", "application/json"), ("Content-Encoding", "gzip"))

    def _cut(self, _: Any) -> None:
        self.send_response_only(200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"only this")
        self.wfile.flush()
        self._drop()

    def _early(self) -> None:
        """Says no before the body has come, and reads no more of it."""
        self._json({"error": "too large for us"}, 413)
        self.wfile.flush()
        time.sleep(0.3)
        self.close_connection = True

    # -- submits, in PeakMV's words

    def _submit_accept(self) -> None:
        number = f"up-{next(self.host.numbers)}"
        url = f"{self.host.url}/api/v2/jobs/{number}"
        self._json({"success": True, "job_id": number, "status_url": url, "cost_credits": 3})

    def _submit_drop(self) -> None:
        self._drop()

    def _submit_cut(self) -> None:
        self._cut(None)

    def _submit_page(self) -> None:
        self._send(502, b"<html>bad gateway</html>", ("Content-Type", "text/html"))

    def _submit_refuse(self) -> None:
        self._json({"error": "audio_url is required"}, 400)

    def _submit_full(self) -> None:
        self._json({"error": "Rate limit exceeded", "retry_after_seconds": 42}, 429, ("Retry-After", "42"))

    def _submit_lock_out(self) -> None:
        self._json({"error": "Invalid or inactive API Key"}, 401)

    def _submit_odd(self) -> None:
        self._json({"hello": "there"})

    def _submit_hang(self) -> None:
        self.host.let_go.wait(60)
        self._drop()

    def _submit_slow(self) -> None:
        time.sleep(0.7)
        self._submit_accept()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def upstream_running() -> Iterator[Upstream]:
    upstream = Upstream()
    thread = threading.Thread(target=upstream.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield upstream
    finally:
        upstream.let_go.set()
        upstream.server.shutdown()
        upstream.server.server_close()
        thread.join(5)
