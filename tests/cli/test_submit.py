"""`callsheet submit`: one job, its end, and never a second charge."""

import json
import os
import pty
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.cli.conftest import KEY, VIDEO, Folder, World

FIELDS = [word for name, value in VIDEO.items() for word in ("-f", f"{name}={value}")]


def test_wait_ends_with_the_results_url(world: World) -> None:
    world.faults("pixverse")
    nonce = str(uuid.uuid4())
    ended = world.run("submit", "pixverse", "text_to_video", *FIELDS, "-f", f"prompt={nonce}", "--wait")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("http")
    assert ended.stdout.count("\n") == 1
    assert "succeeded after" in ended.stderr.splitlines()[-1]
    (row,) = [row for row in world.ledger("pixverse") if row["input"]["prompt"] == nonce]
    assert row["input"]["duration"] == 5  # a number, as it reads


def test_on_a_terminal_the_progress_is_one_line(world: World) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "service", "submit", "pixverse", "text_to_video", *FIELDS, "--wait"],
        cwd=world.path,
        env=world.environment(),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as submit:
        said, _ = submit.communicate(timeout=30)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert said.startswith("http")
    assert shown.count("\r\x1b[K") >= 2
    assert (shown.count("\n"), shown.endswith(" s\r\n")) == (1, True)


def test_json_is_the_whole_job(world: World) -> None:
    given = '{"audio_url": "https://example.com/song.mp3"}'
    said = world.ok(
        "submit", "peakmv", "generate", "--input", "-", "--metadata", "shop=7", "--wait", "--json", given=given
    )
    job = json.loads(said)
    assert (job["status"], job["metadata"], job["input"]) == ("succeeded", {"shop": "7"}, json.loads(given))


def test_without_wait_it_says_which_job(world: World) -> None:
    said = world.ok("submit", "pixverse", "text_to_video", *FIELDS).split()
    assert said[0].startswith("job_")
    assert said[1] in ("queued", "submitting", "processing")


def test_the_same_key_is_the_same_job(world: World) -> None:
    submit = ("submit", "pixverse", "text_to_video", *FIELDS, "--idempotency-key", "order-17")
    assert world.ok(*submit).split()[0] == world.ok(*submit).split()[0]
    other = world.run(*submit, "-f", "prompt=another")
    assert other.returncode == 1
    assert "send a new key for a new job. (Idempotency-Key)" in other.stderr


def test_a_job_submitted_elsewhere_is_followed(world: World) -> None:
    world.ok("submit", "pixverse", "text_to_video", *FIELDS, "--wait")
    theirs = world.ledger("pixverse")[-1]["provider_job_id"]
    taken = world.run("submit", "pixverse", "text_to_video", "--follow", theirs, "--wait")
    assert taken.returncode == 1  # this service follows it already, and says as which job
    assert "job_" in taken.stderr


def test_a_failed_job_is_exit_code_1(world: World) -> None:
    world.faults("pixverse", fail=1.0)
    ended = world.run("submit", "pixverse", "text_to_video", *FIELDS, "--wait")
    world.faults("pixverse")
    assert ended.returncode == 1, ended.stderr
    assert "failed after" in ended.stderr
    assert "error: provider_error:" in ended.stderr
    assert ended.stdout == ""


def test_an_unknown_outcome_is_exit_code_3(world: World) -> None:
    world.faults("peakmv", drop_reply_after_accept=1.0)
    ended = world.run("submit", "peakmv", "generate", "-f", "audio_url=https://example.com/a.mp3", "--wait")
    world.faults("peakmv")
    assert ended.returncode == 3, ended.stderr
    assert "callsheet jobs resolve job_" in ended.stderr


def test_when_time_is_up_it_is_exit_code_4(world: World) -> None:
    world.faults("pixverse", duration_s=[20, 20])
    ended = world.run("submit", "pixverse", "text_to_video", *FIELDS, "--wait", "--timeout", "1s")
    world.faults("pixverse")
    assert ended.returncode == 4
    assert "it goes on: callsheet jobs get job_" in ended.stderr


def test_a_refused_input_names_the_field(world: World) -> None:
    before = len(world.ledger("pixverse"))
    refused = world.run("submit", "pixverse", "text_to_video", "-f", "prompt=a kite")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert "input." in refused.stderr
    assert len(world.ledger("pixverse")) == before


def test_no_service_and_no_key_say_what_to_do(folder: Folder) -> None:
    submit = ("jobs", "list")
    keyless = folder.run(*submit)
    assert keyless.returncode == 1
    assert "callsheet keys create" in keyless.stderr
    nobody = folder.run(*submit, API_KEY=KEY, URL="http://127.0.0.1:9")
    assert nobody.returncode == 1
    assert "no service answers at http://127.0.0.1:9: start it with `callsheet serve`" in nobody.stderr


class Stubborn(BaseHTTPRequestHandler):
    """Reads the first submit and closes without a word; takes the second."""

    keys: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.keys.append(self.headers["Idempotency-Key"])
        if len(self.keys) == 1:
            self.close_connection = True
            return
        body = b'{"id": "job_1", "status": "queued"}'
        self.send_response(202)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def stubborn() -> Iterator[tuple[str, list[str]]]:
    keys: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Stubborn,), {"keys": keys}))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", keys
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_lost_answer_is_asked_for_again_under_the_same_key(folder: Folder, stubborn: tuple[str, list[str]]) -> None:
    url, keys = stubborn
    assert folder.ok("submit", "pixverse", "text_to_video", *FIELDS, API_KEY=KEY, URL=url) == "job_1 queued\n"
    assert len(keys) == 2
    assert len(set(keys)) == 1
