"""`callsheet submit`: one job, and where asked for, its end."""

import sys
import time
import uuid
from typing import Any

import click

from service.cli.api import Api, Json, NotReached, as_header, calls_api
from service.cli.parameters import DURATION, PAIR, read_json_argument, typed
from service.cli.printing import Printer, cell, seconds

EXIT_CODES = {"succeeded": 0, "unknown": 3}  # else 1
TIMED_OUT = 4
LOOK_S = 1  # how long one request of --wait waits for news
UNREACHED_S = 30.0  # how long --wait bears a service that restarts
ERASE_LINE = "\r\x1b[K"


@click.command()
@click.argument("provider")
@click.argument("operation")
@click.option("--input", "given", metavar="JSON|@FILE|-", help="The input: JSON, a file, or stdin.")
@click.option("-f", "--field", "fields", type=PAIR, multiple=True, help="A field of the input; may be repeated.")
@click.option("--metadata", type=PAIR, multiple=True, help="Kept with the job and sent with its events.")
@click.option("--callback-url", help="Gets this job's end, signed.")
@click.option("--idempotency-key", help="The same key never makes a second job; else one is made up.")
@click.option("--deadline-seconds", type=click.IntRange(1), help="When to give up.")
@click.option("--follow", "provider_job_id", metavar="PROVIDER_JOB_ID", help="Follow a job submitted elsewhere; free.")
@click.option("--wait", is_flag=True, help="Stay until it ends, and print the URLs of its outputs.")
@click.option("--timeout", type=DURATION, default="15m", show_default=True, help="Of --wait; the job goes on.")
@calls_api
def command(api: Api, out: Printer, **given: Any) -> None:
    """Submit a job to PROVIDER, or follow one submitted elsewhere.

    A field that reads like JSON is JSON (duration=5), else text; put quotes round a number that is text.

    \b
    callsheet submit pixverse text_to_video -f prompt="a red kite" -f model=v5 -f duration=5 \\
        -f quality=540p -f aspect_ratio=16:9 --wait
    callsheet submit peakmv generate --input '{"audio_url": "https://example.com/song.mp3"}'
    callsheet submit pixverse text_to_video --follow 4711 --wait

    Exit code with --wait: 0 it succeeded, 1 it failed or was canceled, 3 its outcome is unknown, 4 time is up.
    """
    key = given["idempotency_key"] or str(uuid.uuid4())
    # Repeated under the same key where no answer came: that never makes a second job.
    headers = {"Idempotency-Key": as_header("--idempotency-key", key)}
    job = api.call("POST", "/v1/jobs", _body(given), headers=headers, repeat=True)
    if not given["wait"]:
        out.said(job, f"{job['id']} {job['status']}")
        return
    job = _wait(api, job, given["timeout"], quiet=out.as_json)
    sys.exit(_report(out, job))


def _body(given: Json) -> Json:
    body = {
        "provider": given["provider"],
        "operation": given["operation"],
        "callback_url": given["callback_url"],
        "deadline_seconds": given["deadline_seconds"],
        "provider_job_id": given["provider_job_id"],
        "metadata": dict(given["metadata"]) or None,
        "input": _input(given),
    }
    return {name: value for name, value in body.items() if value is not None}


def _input(given: Json) -> Json | None:
    if given["provider_job_id"] is not None:
        if given["given"] or given["fields"]:
            raise click.UsageError("--follow takes no input: the job was submitted elsewhere")
        return None
    whole = read_json_argument(given["given"], param="--input") if given["given"] else {}
    return {**whole, **typed(given["fields"], param="--field")}


def _wait(api: Api, job: Json, timeout: float, *, quiet: bool) -> Json:
    """The job at its end, or as it was last seen."""
    line, began = _Line(quiet), time.monotonic()
    seen, shown = began, job
    while not _over(job) and (now := time.monotonic()) - began < timeout:
        line.show(shown, now - began)
        try:
            job = shown = api.get(f"/v1/jobs/{job['id']}", headers={"Prefer": f"wait={LOOK_S}"})
            seen = time.monotonic()
        except NotReached:
            if now - seen > UNREACHED_S:
                line.end(shown, now - began)
                raise
            shown = {**job, "reason": "the service does not answer"}
            time.sleep(LOOK_S)
    line.end(job, time.monotonic() - began)
    return job


def _over(job: Json) -> bool:
    return job["status"] in ("succeeded", "failed", "canceled", "unknown")


def _report(out: Printer, job: Json) -> int:
    if out.as_json:
        out.raw(job)
    elif job["status"] == "succeeded":
        for output in job["outputs"]:
            click.echo(cell(output, "url"))
    elif job["error"]:
        click.echo(f"error: {cell(job, 'error.code')}: {cell(job, 'error.message')}", err=True)
    elif job["status"] == "unknown":
        click.echo(f"whether it was accepted is unknown: callsheet jobs resolve {job['id']} ...", err=True)
    elif not _over(job):
        click.echo(f"it goes on: callsheet jobs get {job['id']}", err=True)
    return EXIT_CODES.get(job["status"], 1) if _over(job) else TIMED_OUT


class _Line:
    """The progress line, on stderr: redrawn on a terminal, else one line per change."""

    def __init__(self, quiet: bool):
        self._quiet, self._redraws, self._said = quiet, sys.stderr.isatty(), ""

    def show(self, job: Json, spent: float) -> None:
        """Where the job is."""
        share = "" if job["progress"] is None else f" {job['progress']:.0%}"
        reason = f" ({cell(job, 'reason')})" if job["reason"] else ""
        said = f"{job['id']} {job['status']}{share}{reason}"
        if self._redraws:
            self._write(f"{ERASE_LINE}{said} {seconds(spent)}")
        elif said != self._said:
            self._write(f"{said} {seconds(spent)}\n")
        self._said = said

    def end(self, job: Json, spent: float) -> None:
        """What it came to."""
        self._write(f"{ERASE_LINE if self._redraws else ''}{job['id']} {job['status']} after {seconds(spent)}\n")

    def _write(self, text: str) -> None:
        if not self._quiet:
            click.echo(text, nl=False, err=True)
