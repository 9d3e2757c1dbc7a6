"""The service in a process of its own, with one finished job for each output that it is given.

Usage: python -m tests.web.streaming_service FOLDER PROVIDER_URL OUTPUT_URL...

Prints the outputs' stable URLs, one a line, when it is ready.
"""

import socket
import sys
from pathlib import Path

import uvicorn

from service import providers
from service.app import Service, build
from service.facts import Accepted, Arrival, Begin, Output, Update
from service.ids import new_id
from service.models import NewJob
from service.settings import load
from service.states import JobStatus, Source
from service.web.connection import protocol
from service.web.door import Door, Limits
from service.web.server import create_web
from tests.builders import a_job
from tests.keyed import KEY, Keyed
from tests.web.conftest import environment


async def finished(service: Service, number: int, url: str) -> str:
    """The stable URL of a job that succeeded with this output."""
    context = service.context
    tenant = await context.accounts.tenant("default")
    credential = await context.accounts.credential(tenant.num, "keyed")
    now = context.clock.now()
    job = a_job(num=0, id=new_id("job", now), provider="keyed", credential=credential.num, created_at=now)
    new = NewJob(job=job, input=b"{}", idempotency_key=None, fingerprint=b"")
    job = (await context.store.create_jobs([new]))[0].job
    done = Update(status=JobStatus.SUCCEEDED, outputs=(Output(url=url, needs_key=True),))
    for fact in (Begin(), Accepted(provider_job_ids=(f"p{number}",)), done):
        applied = await context.transitions.apply_one(Arrival(job=job.num, fact=fact, source=Source.SUBMIT))
        assert applied.verdict == "applied", applied
    return str(context.link(job.id, 0))


async def main(folder: str, provider_url: str, *urls: str) -> None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # who calls before the server is up waits in the backlog
    given = environment(
        Path(folder),
        CALLSHEET_PUBLIC_URL=f"http://127.0.0.1:{listener.getsockname()[1]}",
        CALLSHEET_KEYED_BASE_URL=provider_url,
        CALLSHEET_KEYED_API_KEY=KEY,
    )
    service = await build(load(given, known_providers=[*providers.names(), "keyed"]), role="api")
    service.context.providers["keyed"] = Keyed()  # type: ignore[index]
    for number, url in enumerate(urls):
        print(await finished(service, number, url), flush=True)
    http = protocol(Door(Limits()), Limits(), given["CALLSHEET_PUBLIC_URL"])
    config = uvicorn.Config(
        create_web(service.context), http=http, log_level="warning", access_log=False, lifespan="off"
    )
    await uvicorn.Server(config).serve(sockets=[listener])
    await service.close()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(*sys.argv[1:]))
