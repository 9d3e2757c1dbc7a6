"""How the subscriber misbehaves: by attempt, at random, or by path."""

import random
import re
from collections.abc import Sequence
from typing import Annotated

import anyio
import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.sandbox.faults import Probability, Seconds
from service.sandbox.replies import Dropped, Hung

FAIL = re.compile(r"(?P<status>[1-5]\d\d|[a-z]+):(?P<times>\d+)")
STATUS = re.compile(r"[2-5]\d\d")
NAMED = ("ok", "hang", "drip", "close")
PATH_MODE = re.compile(r"/m/(?P<mode>[a-z0-9]+)(/|$)")


class Behaviour(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of `PUT /_behaviour`. A mode is a status code, `ok`, `hang`, `drip` or `close`.

    `fail` rules (`503:2`) hold in turn for the first attempts of each delivery; then `fail_rate` of the requests
    answer 500; then the mode of the path (`/m/<mode>/...`) or else `mode` holds.
    """

    mode: str = "ok"
    fail: list[str] = []
    fail_rate: Probability = 0.0
    seed: int = 0
    secrets: list[str] | dict[str, str | list[str]] = []
    retry_after: str = "2"
    location: str = "/m/ok/redirected"
    delay_s: Seconds = 0.0
    hang_s: Seconds = 600.0
    drip_s: Annotated[float, msgspec.Meta(gt=0)] = 0.2
    drip_bytes: int = 1000
    keep_bodies: bool = True

    def __post_init__(self) -> None:
        for mode in (self.mode, *(rule.partition(":")[0] for rule in self.fail)):
            check_mode(mode)
        for rule in self.fail:
            if not FAIL.fullmatch(rule):
                raise ValueError(f"fail {rule!r}: say mode:times, such as 503:2")

    def secrets_for(self, path: str) -> Sequence[str]:
        """The secrets that hold for a path; a mapping is read by its longest matching start."""
        if isinstance(self.secrets, list):
            return self.secrets
        starts = [start for start in self.secrets if path.startswith(start)]
        found = self.secrets[max(starts, key=len)] if starts else []
        return [found] if isinstance(found, str) else found

    def mode_for(self, path: str, attempt: int, dice: random.Random) -> str:
        """How to answer the n-th attempt of a delivery to a path."""
        for rule in self.fail:
            mode, _, times = rule.partition(":")
            attempt -= int(times)
            if attempt <= 0:
                return mode
        if self.fail_rate and dice.random() < self.fail_rate:
            return "500"
        by_path = PATH_MODE.match(path)
        return by_path["mode"] if by_path and is_mode(by_path["mode"]) else self.mode

    def response(self, mode: str) -> Response:
        """The answer of a mode."""
        match mode:
            case "hang":
                return Hung(self.hang_s)
            case "close":
                return Dropped()
            case "drip":
                return Drip(self.drip_s, self.drip_bytes)
        status = 200 if mode == "ok" else int(mode)
        headers = {"Retry-After": self.retry_after} if status in (429, 503) and self.retry_after else {}
        if 300 <= status < 400:
            headers["Location"] = self.location
        return Response(b"" if status == 204 else b"ok", status_code=status, headers=headers, media_type="text/plain")


class Drip(Response):
    """200, then a body that comes a byte at a time."""

    def __init__(self, pause_s: float, size: int) -> None:
        super().__init__()
        self.pause_s, self.size = pause_s, size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Drip until all is sent, or the client has left (a send to it then does nothing)."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        for _ in range(self.size):
            if scope["state"]["transport"].is_closing():
                return
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await anyio.sleep(self.pause_s)
        await send({"type": "http.response.body", "body": b""})


def is_mode(text: str) -> bool:
    """Whether this names a mode."""
    return text in NAMED or STATUS.fullmatch(text) is not None


def check_mode(text: str) -> None:
    """Raise `ValueError` for what is no mode."""
    if not is_mode(text):
        raise ValueError(f"no mode {text!r}; there are {', '.join(NAMED)} and the status codes 200 to 599")
