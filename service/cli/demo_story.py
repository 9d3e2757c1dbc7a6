"""What the demo shows: the jobs' timelines and what the subscriber received, as it happens."""

import json
import time
from collections.abc import Iterator
from typing import Any

import click

from service.cli.api import Api
from service.cli.failing import Failed
from service.cli.telling import VERDICTS, at, sentence

Json = dict[str, Any]
WHO = 17  # the width of the name column
SETTLED_S = 0.3  # after which nothing older is still to come


class WrongSignature(Failed):
    """The subscriber received what does not verify."""


class Story:
    """Every look says what is new since the last one. `subscriber` reads a path of the subscriber's."""

    def __init__(self, api: Api, received: Any, secret: str):
        self._api, self._received, self._check = api, received, Checker(secret)
        self._began = time.time()
        self._jobs: list[Json] = []
        self._seen: set[str] = set()
        self._unsaid: list[tuple[float, str, str]] = []
        self._types: dict[str, str] = {}  # of events
        self._events_of: dict[str, str] = {}  # the event that a delivery is of
        self._events: set[str] = set()  # that were published
        self._verified: set[str] = set()  # that arrived, were accepted and verified
        self._facts: set[str] = set()  # what is to be shown and was

    def look(self) -> None:
        """Say what is new, oldest first; the newest is held back until what was read before it has come in, too."""
        self._unsaid += [*self._of_jobs(), *self._of_subscriber()]
        self._say(before=time.time() - SETTLED_S)

    def end(self) -> None:
        """Say the rest."""
        self._say(before=time.time())

    def _say(self, *, before: float) -> None:
        lines = sorted(self._unsaid, key=lambda line: line[0])
        self._unsaid = [line for line in lines if line[0] > before]
        for when, who, what in lines[: len(lines) - len(self._unsaid)]:
            click.echo(f"{max(0.0, when - self._began):6.2f} s  {who:<{WHO}}{what}")

    def missing(self) -> list[str]:
        """What has yet to happen until the demo has shown all."""
        jobs = [f"{job['provider']}: {job['status']}" for job in self._jobs if job["status"] != "succeeded"]
        events = [f"{event} has not arrived" for event in sorted(self._events - self._verified)]
        shown = {"a duplicate callback": "duplicate", "a refused attempt": "refused"}
        return jobs + events + [f"no {name} yet" for name, fact in shown.items() if fact not in self._facts]

    def _of_jobs(self) -> Iterator[tuple[float, str, str]]:
        self._jobs = self._api.get("/v1/jobs")["data"]
        for job in self._jobs:
            # After the job: where that has ended, the event that says so is here.
            timeline = self._api.get(f"/v1/jobs/{job['id']}/timeline")["data"]
            self._types |= {entry["id"]: entry["type"] for entry in timeline if entry["kind"] == "event"}
            self._events_of |= {entry["id"]: entry["event"] for entry in timeline if entry["kind"] == "delivery"}
            for entry in timeline:
                if entry["kind"] != "delivery" and self._is_new(job["id"], entry):
                    yield at(entry), job["provider"], self._noted(entry)

    def _is_new(self, job_id: str, entry: Json) -> bool:
        """By what does not change of an entry: of the reads without news there is one, with a count."""
        which = entry.get("id") or entry.get("verdict") or entry.get("outcome") or entry.get("status")
        key = f"{job_id} {entry['kind']} {entry['at']} {which}"
        new = key not in self._seen
        self._seen.add(key)
        return new

    def _noted(self, entry: Json) -> str:
        """The entry's sentence, shorter than a timeline's; what the demo waits for is kept."""
        match entry["kind"]:
            case "event":
                self._events.add(entry["id"])
                return f"event {entry['type']}"
            case "callback":
                self._facts.add(entry["verdict"])
                return VERDICTS[entry["verdict"]]
            case "submit":
                said = (entry["outcome"], entry.get("note"), " ".join(entry.get("provider_job_ids", ())))
                return f"submit: {', '.join(filter(None, said))}"
            case "update":
                return f"{entry['status']}, says its {entry['source']}" if entry.get("status") else sentence(entry)
            case "poll":
                return "asked for its status: no news yet"
            case "attempt":
                return self._attempt(entry)
        return sentence(entry)

    def _attempt(self, entry: Json) -> str:
        kind = self._types.get(self._events_of.get(entry["delivery"], ""), "event")
        code = entry["status_code"]
        if code == 200:
            return f"{kind}, attempt {entry['number']}: accepted"
        self._facts.add("refused")
        return f"{kind}, attempt {entry['number']}: refused with {code or entry['error']}; it is tried again"

    def _of_subscriber(self) -> Iterator[tuple[float, str, str]]:
        rows = self._received("/_received")["data"]
        for place, row in enumerate(rows):
            key = f"received {place}"
            if key in self._seen:
                continue
            self._seen.add(key)
            by = self._check(row)
            if row["status"] == 200:
                self._verified.add(row["webhook_id"])
            answer = "taken" if row["status"] == 200 else f"refused with {row['status']}, on purpose"
            whose = json.loads(row["body"])["data"].get("provider", "the service")
            yield row["at"], "subscriber", f"{whose}'s {row['type']}: signature right, {by}; {answer}"


class Checker:
    """Checks what was received with the PyPI package `standardwebhooks`, where it is installed."""

    def __init__(self, secret: str):
        try:
            from standardwebhooks import Webhook
        except ImportError:
            self._package = None
        else:
            self._package = Webhook(secret)

    def __call__(self, row: Json) -> str:
        """Who says that the signature is right. Raises `WrongSignature` where anybody does not."""
        if row["verified"] is not True:
            raise WrongSignature(f"the subscriber could not verify {row['webhook_id']}")
        if self._package is None:
            return "says the subscriber"
        try:
            self._package.verify(row["body"], row["headers"])
        except Exception as error:
            raise WrongSignature(f"standardwebhooks could not verify {row['webhook_id']}: {error}") from None
        return "says standardwebhooks"
