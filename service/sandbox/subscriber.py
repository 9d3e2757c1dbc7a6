"""A subscriber that receives deliveries at any path, remembers each, and misbehaves on request.

GET    /_received    {"data": [...]}: every request, in the order of arrival
DELETE /_received    forget them, and the count of attempts
GET    /_behaviour   how it answers
PUT    /_behaviour   change what is named: {"mode"?, "fail"?, "fail_rate"?, "secrets"?, ...}
"""

import hashlib
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import anyio
import click
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.sandbox.behaviour import Behaviour
from service.sandbox.replies import Json
from service.sandbox.server import serve
from service.sandbox.verifying import verified

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Received(msgspec.Struct, kw_only=True):
    """One request. `attempt` counts by path and webhook-id; `status` is null where no answer was given."""

    webhook_id: str | None
    attempt: int
    path: str
    type: str | None
    sha256: str
    at: float
    mode: str
    status: int | None
    verified: bool | None  # null: no secret is known for the path
    headers: dict[str, str] | None
    body: str | None


class EventType(msgspec.Struct):
    """What is read of a body."""

    type: str | None = None


class Subscriber:
    """What was received so far, and the behaviour."""

    def __init__(self, behaviour: Behaviour, *, quiet: bool) -> None:
        self.quiet = quiet
        self.forget()
        self.become(behaviour)

    def forget(self) -> None:
        """Nothing was received."""
        self.received: list[Received] = []
        self.attempts: Counter[tuple[str, str | None]] = Counter()

    def become(self, behaviour: Behaviour) -> None:
        """Behave like this from now on."""
        self.behaviour = behaviour
        self.dice = random.Random(behaviour.seed)  # noqa: S311 - repeatable, not secret

    async def receive(self, request: Request) -> Response:
        """Record a request, then answer it, or not."""
        body, behaviour = await request.body(), self.behaviour
        path, webhook_id = request.url.path, request.headers.get("webhook-id")
        self.attempts[path, webhook_id] += 1
        attempt = self.attempts[path, webhook_id]
        mode = behaviour.mode_for(path, attempt, self.dice)
        answer = behaviour.response(mode)
        secrets = behaviour.secrets_for(path)
        record = Received(
            webhook_id=webhook_id,
            attempt=attempt,
            path=path,
            type=type_of(body),
            sha256=hashlib.sha256(body).hexdigest(),
            at=time.time(),
            mode=mode,
            status=None if mode in ("hang", "close") else answer.status_code,
            verified=verified(secrets, request.headers, body, now=time.time()) if secrets else None,
            headers=dict(request.headers) if behaviour.keep_bodies else None,
            body=body.decode(errors="replace") if behaviour.keep_bodies else None,
        )
        self.received.append(record)
        if not self.quiet:
            print(line_of(record), flush=True)
        await anyio.sleep(behaviour.delay_s)
        return answer

    async def show(self, request: Request) -> Response:
        """GET or DELETE `/_received`."""
        if request.method == "DELETE":
            self.forget()
        return Json({"data": self.received})

    async def behave(self, request: Request) -> Response:
        """GET or PUT `/_behaviour`."""
        if request.method == "PUT":
            try:
                changes = msgspec.json.decode(await request.body(), type=dict[str, Any])
                self.become(msgspec.convert({**msgspec.structs.asdict(self.behaviour), **changes}, Behaviour))
            except msgspec.DecodeError as error:
                return Json({"error": str(error)}, status_code=422)
        return Json(self.behaviour)


def create_subscriber(behaviour: Behaviour, *, quiet: bool = True) -> Starlette:
    """The subscriber as an app; must be served by `service.sandbox.server`."""
    subscriber = Subscriber(behaviour, quiet=quiet)
    routes = [
        Route("/_received", subscriber.show, methods=["GET", "DELETE"]),
        Route("/_behaviour", subscriber.behave, methods=["GET", "PUT"]),
        Route("/{path:path}", subscriber.receive, methods=METHODS),
    ]
    return Starlette(routes=routes)


def run_subscriber(
    *,
    host: str = "127.0.0.1",
    port: int = 8099,
    secrets: Sequence[str] = (),
    fail: Sequence[str] = (),
    fail_rate: float = 0.0,
    seed: int = 0,
    mode: str = "ok",
    quiet: bool = False,
) -> None:
    """Serve a subscriber until a signal; prints one line per request, unless `quiet`. Raises `ValueError` for a
    mode that there is not."""
    behaviour = Behaviour(
        mode=mode, fail=list(fail), fail_rate=fail_rate, seed=seed, secrets=list(secrets), keep_bodies=True
    )
    serve(create_subscriber(behaviour, quiet=quiet), name="subscriber", host=host, port=port)


def type_of(body: bytes) -> str | None:
    """The event's type, where the body is an event."""
    try:
        return msgspec.json.decode(body, type=EventType).type
    except msgspec.DecodeError:
        return None


def line_of(record: Received) -> str:
    """One request as one line."""
    words = {True: "verified", False: "NOT VERIFIED", None: "unchecked"}
    status = record.status or record.mode
    about = f"{record.type or '-'} {record.webhook_id or '-'}"
    return f"{status} {about} attempt {record.attempt} {words[record.verified]} {record.path}"


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8099, show_default=True, help="0 takes a free one")
@click.option("--secret", "secrets", multiple=True, help="whsec_... or whpk_...; may be repeated")
@click.option("--fail", multiple=True, help="mode:times, such as 503:2, for the first attempts of each delivery")
@click.option("--fail-rate", default=0.0, show_default=True, help="share of requests that answer 500")
@click.option("--seed", default=0, show_default=True)
@click.option("--mode", default="ok", show_default=True, help="a status code, ok, hang, drip or close")
@click.option("--quiet", is_flag=True)
def main(
    host: str,
    port: int,
    secrets: tuple[str, ...],
    fail: tuple[str, ...],
    fail_rate: float,
    seed: int,
    mode: str,
    quiet: bool,
) -> None:
    """Receive deliveries, and misbehave on request."""
    try:
        run_subscriber(
            host=host, port=port, secrets=secrets, fail=fail, fail_rate=fail_rate, seed=seed, mode=mode, quiet=quiet
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


if __name__ == "__main__":
    main()
