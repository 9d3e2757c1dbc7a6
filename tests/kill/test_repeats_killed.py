"""A node that is killed while the provider has a passthrough submit: the client's repeat is not sent, on any node."""

import contextlib
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.crypto import generate_master_key
from tests.cli.conftest import KEY, Folder, Listening, free_port
from tests.stores import server
from tests.upstream import Upstream, upstream_running

pytestmark = [pytest.mark.anyio, pytest.mark.kill]
PATH = "/v1/providers/peakmv/passthrough/api/v2/generate"


@contextlib.contextmanager
def node(folder: Folder) -> Iterator[Listening]:
    """One that may be killed meanwhile."""
    with folder.listening("serve", "--port", str(free_port())) as listening:
        yield listening


def submit(url: str, body: dict[str, Any], seconds: float) -> httpx2.Response:
    return httpx2.post(url + PATH, json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=seconds)


def kill_while_it_hangs(listening: Listening, upstream: Upstream, body: dict[str, Any]) -> None:
    upstream.submit = "hang"
    head = {"Authorization": f"Bearer {KEY}"}
    with httpx2.Client(timeout=30) as client, pytest.raises(httpx2.TransportError):

        def strike() -> None:
            deadline = time.monotonic() + 20
            while not upstream.paths("POST") and time.monotonic() < deadline:
                time.sleep(0.01)
            listening.process.send_signal(signal.SIGKILL)

        thread = threading.Thread(target=strike)
        thread.start()
        try:
            client.post(listening.url + PATH, json=body, headers=head)
        finally:
            thread.join()
    assert upstream.paths("POST") == ["/api/v2/generate"], "the fault did not happen"
    upstream.submit = "accept"


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
async def test_a_repeat_of_what_a_killed_node_had_sent_is_not_sent(store: str, tmp_path: Path) -> None:
    url = await server.database(tmp_path) if store == "postgres" else f"sqlite:///{tmp_path}/callsheet.db"
    body = {"audio_url": f"https://media.example.com/{uuid.uuid4()}.mp3"}
    with upstream_running() as upstream, ExitStack() as stack:
        folder = Folder(
            tmp_path, DATABASE_URL=url, MASTER_KEYS=generate_master_key(), API_KEY=KEY,
            PEAKMV_API_KEY="k" * 20, PEAKMV_BASE_URL=upstream.url,
        )  # fmt: skip
        first = stack.enter_context(node(folder))
        second = stack.enter_context(node(folder)) if store == "postgres" else None
        kill_while_it_hangs(first, upstream, body)
        other = second or stack.enter_context(node(folder))
        with contextlib.suppress(httpx2.ReadTimeout):  # it waits for what became of the first while nobody knows
            assert submit(other.url, body, 6).status_code == 424
        assert len(upstream.paths("POST")) == 1
        assert submit(other.url, {**body, "title": "another"}, 20).status_code == 200
        assert len(upstream.paths("POST")) == 2
