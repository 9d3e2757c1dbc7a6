"""Callbacks accepted per second, each signed, for a job of its own and durable when answered (synchronous=FULL),
against a bare Starlette route on the same server that reads the body and answers `ok`.
"""

import asyncio
import base64
import contextlib
import hmac
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_plus

from service import providers
from service.accepting import Submit
from service.accounts import Principal
from service.app import build
from service.settings import load

CONNECTIONS = 64
FIRST_ID = 627_410_861_853_514_292
SECRET = "sandbox-callback-secret"
BARE = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
async def take(request):
    await request.body()
    return Response(b"ok", media_type="text/plain")
app = Starlette(routes=[Route("/v1/callbacks/pixverse", take, methods=["POST"])])
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False)
"""
SERVE = "import sys; from service.cli import main; main(sys.argv[1:])"


def environment(folder: str, port: int) -> dict[str, str]:
    return {
        "CALLSHEET_DATABASE_URL": f"sqlite:///{folder}/bench.db",
        "CALLSHEET_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "CALLSHEET_SANDBOX_URL": "http://127.0.0.1:9",
        "CALLSHEET_API_KEY": "bench-admin-key-0123456789abcdefghij",
    }


async def prepare(settings: dict[str, str], count: int) -> None:
    """A database with one endpoint and that many jobs that wait for their callback."""
    service = await build(load(settings, known_providers=providers.names()), role="api")
    context = service.context
    tenant = await context.accounts.tenant("default")
    await context.endpoints.create(tenant.num, {"url": "https://hooks.example.com/taken"})
    who = Principal(tenant=tenant.num, tenant_name="default", key_id="bench", scopes=frozenset())
    for start in range(0, count, 250):
        asked = (
            Submit(
                provider="pixverse",
                operation="text_to_video",
                input=None,
                input_json=b"{}",
                fingerprint=b"",
                provider_job_id=str(FIRST_ID + n),
            )
            for n in range(start, min(start + 250, count))
        )
        await asyncio.gather(*(context.accepting.accept(who, one) for one in asked))
    await service.close()


def requests(port: int, count: int, start: int = 0) -> bytes:
    """The callbacks as PixVerse would send them, each with the length before it."""
    made, now = bytearray(), str(int(time.time()))
    for n in range(start, start + count):
        fields = {"id": str(FIRST_ID + n), "status": 1, "url": f"https://media.example.com/{n}.mp4", "credits": 45}
        text = "&".join(f"{name}={quote_plus(str(value))}" for name, value in sorted(fields.items()))
        nonce = f"{n:032d}"
        digest = hmac.digest(SECRET.encode(), f"{now}\n{nonce}\n{text}".encode(), "sha256")
        body = json.dumps(fields).encode()
        head = (
            f"POST /v1/callbacks/pixverse HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
            f"webhook-timestamp: {now}\r\nwebhook-nonce: {nonce}\r\n"
            f"webhook-signature: {base64.b64encode(digest).decode()}\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode()
        made += (len(head) + len(body)).to_bytes(4) + head + body
    return bytes(made)


@contextlib.contextmanager
def running(code: str, arguments: list[str], more: dict[str, str], port: int) -> Iterator[int]:
    """A server on CPU 0, once it answers; yields its process id."""
    pinned = f"import os; os.sched_setaffinity(0, {{0}})\n{code}"
    process = subprocess.Popen([sys.executable, "-c", pinned, *arguments], env={**os.environ, **more})
    try:
        for _ in range(400):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def loaded(port: int, path: Path, count: int) -> float:
    """Requests per second, all answered 200."""
    command = [sys.executable, "-m", "tests.bench.load", "1", str(port), str(CONNECTIONS), str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert said[1:] == [f"200={count}"], said
    return count / float(said[0])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def one_round(count: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        settings, path = environment(folder, port), Path(folder) / "requests"
        asyncio.run(prepare(settings, count))
        path.write_bytes(requests(port, count))
        bare_port = free_port()
        with running(BARE, [str(bare_port)], {}, bare_port):
            loaded(bare_port, path, count)
            base = loaded(bare_port, path, count)
        arguments = ["serve", "--host", "127.0.0.1", "--port", str(port), "--role", "api"]
        with running(SERVE, arguments, settings, port):
            return base, loaded(port, path, count)


def main(rounds: int = 3, count: int = 10_000) -> None:
    for _ in range(rounds):
        base, own = one_round(count)
        print(f"callbacks   bare route  {base:8,.0f}/s   service {own:8,.0f}/s   ratio {own / base:.2f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
