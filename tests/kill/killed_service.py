"""The real service in a process of its own, which sends itself SIGKILL at a named point.

Usage: python -m tests.kill.killed_service PORT POINT NTH LOG   (POINT `none` never dies)

Nothing of the product knows of this: the seams that the composition root takes are wrapped.
"""

import os
import signal
import sqlite3
import sys
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from service import providers
from service.app import build
from service.egress import Answer, Egress
from service.facts import Accepted, Arrival, Done
from service.framing import Outgoing
from service.models import Decision, Job
from service.settings import load
from service.states import Source
from service.stores import Plan, open_store
from service.stores.sqlite import open_store as open_sqlite
from service.web.server import create_web

POINTS = (
    "submitting_not_posted",
    "accepted_reply_unread",  # the driver kills from outside while the sandbox holds its reply back
    "reply_read_not_committed",
    "inside_callback_transaction",
    "sent_not_recorded",
    "polling",
)


class Fuse:
    """Dies at the nth time that its point is passed, after saying so where a kill cannot erase it."""

    def __init__(self, point: str, nth: int, log: Path):
        self.point, self._left, self._log = point, nth, log

    def passed(self, point: str) -> None:
        if point != self.point:
            return
        self._left -= 1
        if self._left <= 0:
            with self._log.open("a") as log:
                log.write(f"{point}\n")
            os.kill(os.getpid(), signal.SIGKILL)


class MortalEgress(Egress):
    fuse: Fuse

    async def send(self, request: Outgoing, *, trusted: bool = False, fresh: bool = False, **how: Any) -> Answer:
        if fresh:
            self.fuse.passed("submitting_not_posted")
        answer = await super().send(request, trusted=trusted, fresh=fresh, **how)
        if not trusted:
            self.fuse.passed("sent_not_recorded")
        elif request.method == "GET":
            self.fuse.passed("polling")
        return answer


class MortalPlan:
    """Notes what the open transaction is about; dies where a reply is about to be written."""

    def __init__(self, plan: Plan, fuse: Fuse):
        self._plan, self._fuse = plan, fuse
        self.targets, self.offer = plan.targets, plan.offer
        self.about_callback = False

    def decide(self, job: Job, arrival: Arrival, now: int) -> Decision:
        if isinstance(arrival.fact, Accepted | Done) and arrival.source is Source.SUBMIT:
            self._fuse.passed("reply_read_not_committed")
        decision = self._plan.decide(job, arrival, now)
        self.about_callback = self.about_callback or arrival.source is Source.CALLBACK
        return decision


def mortal_connection(fuse: Fuse, plan: list[MortalPlan]) -> type[sqlite3.Connection]:
    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql == "COMMIT" and plan and plan[0].about_callback:
                plan[0].about_callback = False
                fuse.passed("inside_callback_transaction")
            return super().execute(sql, *values)

    return Connection


async def main(port: int, point: str, nth: int, log: Path) -> None:
    fuse, plans = Fuse(point, nth, log), []
    settings = load(os.environ, known_providers=providers.names())

    def wrap(plan: Plan) -> MortalPlan:
        plans.append(MortalPlan(plan, fuse))
        return plans[0]

    def make_egress(**how: Any) -> Egress:
        egress = MortalEgress(**how)
        egress.fuse = fuse
        return egress

    connect = partial(sqlite3.connect, factory=mortal_connection(fuse, plans))
    open_database = partial(open_sqlite, connect=connect) if point != "none" else open_store
    service = await build(settings, make_egress=make_egress, wrap_plan=wrap, open_database=open_database)
    service.context.loops.start()
    config = uvicorn.Config(
        create_web(service.context), host="127.0.0.1", port=port, log_level="warning", lifespan="off"
    )
    await uvicorn.Server(config).serve()
    await service.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])))
