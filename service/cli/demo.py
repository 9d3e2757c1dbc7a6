"""`callsheet demo`: sandbox, subscriber and service on this machine, and what happens between them."""

import json
import signal
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from service.cli.failing import Failed

if TYPE_CHECKING:
    from service.cli.api import Api
    from service.cli.demo_processes import Processes
    from service.cli.demo_story import Story

SHOW_S = 90.0  # from the start to the last event
LOOK_S = 0.15
STAY_LOOK_S = 0.5  # when nobody waits for it
JOBS: tuple[dict[str, Any], ...] = (
    {
        "provider": "pixverse",
        "operation": "text_to_video",
        "input": {
            "prompt": "a red kite over the sea", "model": "v5", "duration": 5, "quality": "540p",
            "aspect_ratio": "16:9",
        },
    },
    {"provider": "peakmv", "operation": "generate", "input": {"audio_url": "https://example.com/song.mp3"}},
    {
        "provider": "progressiverobot",
        "operation": "generate",
        "input": {"prompt": "a lighthouse in a storm", "model": "wan-t2v", "frames": 41, "steps": 4},
    },
    {
        "provider": "aimlapi",
        "operation": "video",
        "input": {"model": "pixverse/v5/text-to-video", "prompt": "a lighthouse in a storm"},
    },
    {
        "provider": "replicate",
        "operation": "prediction",
        "input": {"version": "sandbox-model", "input": {"prompt": "a lighthouse in a storm"}},
    },
    {
        "provider": "fal",
        "operation": "queue",
        "input": {"model": "fal-ai/fast-sdxl", "input": {"prompt": "a lighthouse in a storm"}},
    },
)  # fmt: skip


@click.command()
@click.option("--once", is_flag=True, help="End when every event has arrived; exit code 1 where one has not.")
def command(once: bool) -> None:
    """Show the whole of it on this machine: nothing is charged, no key is needed, nothing is left behind.

    A job goes to each provider of the sandbox. Three call back, one of them twice; the others are polled. The
    subscriber refuses one attempt in three, and checks the signatures. Then all stays up, with lines to paste.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with ExitStack() as ends:
        folder = ends.enter_context(tempfile.TemporaryDirectory(prefix="callsheet-demo-"))
        try:
            _show(Path(folder), ends, once)
        except KeyboardInterrupt:
            if once:
                raise


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _show(folder: Path, ends: ExitStack, once: bool) -> None:
    from service.cli.api import Api
    from service.cli.demo_processes import Processes

    began, processes = time.monotonic(), Processes(folder)
    ends.callback(_end, processes)
    processes.start()
    click.echo(f"service     {processes.service}\nsandbox     {processes.sandbox}    plays the providers")
    click.echo(f"subscriber  {processes.subscriber}    refuses one attempt in three\n")
    api = Api(processes.settings)
    ends.callback(api.close)
    story = _begin(api, processes)
    missing = _follow(story, processes, began + SHOW_S)
    if missing:
        raise Failed(f"not all was shown in {SHOW_S:.0f} s: {'; '.join(missing)}")
    click.echo(f"\nEvery event has arrived and verified, after {time.monotonic() - began:.1f} s.")
    if not once:
        _stay(story, processes)


def _end(processes: "Processes") -> None:
    """Nothing interrupts the end: no process is left behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    processes.stop()


def _begin(api: "Api", processes: "Processes") -> "Story":
    """An endpoint whose secret the subscriber knows, a provider that calls back twice, and a job to each."""
    from service.cli.demo_story import Story

    url = f"{processes.subscriber}/events"
    made = api.call("POST", "/v1/endpoints", {"url": url, "description": "the demo's subscriber"})
    _ask("PUT", f"{processes.subscriber}/_behaviour", {"secrets": [made["secret"]]})
    _ask("PUT", f"{processes.sandbox}/_sandbox/pixverse/faults", {"callback": {"duplicate": 2}})
    story = Story(api, partial(_ask, "GET", f"{processes.subscriber}/_received"), made["secret"])
    for job in JOBS:
        api.call("POST", "/v1/jobs", job)
    return story


def _ask(method: str, url: str, body: Any = None) -> Any:
    """What sandbox and subscriber answer: they have no key."""
    import httpx2

    with httpx2.Client(transport=httpx2.HTTPTransport()) as http:
        return http.request(method, url, json=body).raise_for_status().json()


def _follow(story: "Story", processes: "Processes", deadline: float) -> list[str]:
    """What is still missing at the end: nothing, but where time is up."""
    missing = ["the first look"]
    while time.monotonic() < deadline:
        processes.check()
        story.look()
        missing = story.missing()
        if not missing:
            break
        time.sleep(LOOK_S)
    story.end()
    return missing


def _stay(story: "Story", processes: "Processes") -> None:
    """Until Ctrl-C: what is pasted is shown as it happens, too."""
    bearer = f"-H 'Authorization: Bearer {processes.key}'"
    body = json.dumps({**JOBS[0], "input": {**JOBS[0]["input"], "prompt": "a blue kite"}})
    click.echo(
        f"""
It stays up until Ctrl-C. To paste into another terminal:

curl -s {bearer} {processes.service}/v1/jobs
curl -s {bearer} {processes.service}/v1/deliveries
curl -s {bearer} -H 'Content-Type: application/json' -d '{body}' {processes.service}/v1/jobs
curl -s {processes.subscriber}/_received
"""
    )
    while True:
        processes.check()
        story.look()
        time.sleep(STAY_LOOK_S)
