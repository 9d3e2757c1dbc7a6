"""`callsheet jobs`: see, cancel, settle and erase them."""

from typing import Any

import click

from service.cli.api import Api, calls_api, paged
from service.cli.parameters import PAIR, SINCE
from service.cli.printing import Printer
from service.cli.telling import told

COLUMNS = "id status provider operation progress provider_job_ids error.code created_at"


@click.group()
def command() -> None:
    """See, cancel, settle and erase jobs.

    \b
    callsheet jobs list --status unknown
    callsheet jobs timeline job_...                      all that happened, in order
    callsheet jobs resolve job_... adopt --provider-job-id 4711
    """


@command.command("list")
@click.option("--status", help="queued, submitting, processing, succeeded, failed, canceled or unknown.")
@click.option("--provider", help="Of this provider.")
@click.option("--operation", help="Of this operation.")
@click.option("--since", "created_after", type=SINCE, help="Created after this time, or as 6h ago.")
@click.option("--until", "created_before", type=SINCE, help="Created before it.")
@click.option("--metadata", type=PAIR, multiple=True, help="Jobs that carry it; may be repeated.")
@paged
@calls_api
def list_jobs(
    api: Api, out: Printer, limit: int, everything: bool, metadata: tuple[tuple[str, str], ...], **filters: Any
) -> None:
    """The jobs, newest first."""
    filters |= {f"metadata[{key}]": value for key, value in metadata}
    out.page(api.page("/v1/jobs", filters, limit=limit, everything=everything), COLUMNS)


@command.command()
@click.argument("job_id", metavar="JOB_ID")
@calls_api
def get(api: Api, out: Printer, job_id: str) -> None:
    """One job, whole."""
    out.record(api.get(f"/v1/jobs/{job_id}"))


@command.command()
@click.argument("job_id", metavar="JOB_ID")
@calls_api
def timeline(api: Api, out: Printer, job_id: str) -> None:
    """All that happened to a job, in order, with seconds since it was accepted."""
    reply = api.get(f"/v1/jobs/{job_id}/timeline")
    if out.as_json:
        out.raw(reply)
        return
    for line in told(reply["data"]):
        click.echo(line)


@command.command()
@click.argument("job_id", metavar="JOB_ID")
@calls_api
def cancel(api: Api, out: Printer, job_id: str) -> None:
    """Cancel a job: at once while it is queued, later where its provider can."""
    job = api.call("POST", f"/v1/jobs/{job_id}/cancel")
    done = job["status"] == "canceled"
    out.said(job, f"{job_id} is canceled" if done else f"{job_id} will be canceled once its provider confirms")


@command.command()
@click.argument("job_id", metavar="JOB_ID")
@click.argument("action", type=click.Choice(["adopt", "fail", "resubmit"]))
@click.option("--provider-job-id", help="What adopt binds the job to.")
@calls_api
def resolve(api: Api, out: Printer, job_id: str, action: str, provider_job_id: str | None) -> None:
    """Settle an unknown job, by what you found out at the provider.

    \b
    adopt     it was accepted there, as --provider-job-id
    fail      it was not, and is not wanted any more
    resubmit  it was not: send it again. If it was, this pays for it twice
    """
    body = {"action": action, **({"provider_job_id": provider_job_id} if provider_job_id else {})}
    job = api.call("POST", f"/v1/jobs/{job_id}/resolve", body)
    out.said(job, f"{job_id} is {job['status']}")


@command.command()
@click.argument("job_id", metavar="JOB_ID")
@click.confirmation_option(prompt="Input, outputs and bodies of this job cannot be had back. Erase them?")
@calls_api
def erase(api: Api, out: Printer, job_id: str) -> None:
    """Erase a job's input, outputs and bodies; what happened and when stays."""
    out.said(api.call("DELETE", f"/v1/jobs/{job_id}/content"), f"{job_id} has no content any more")
