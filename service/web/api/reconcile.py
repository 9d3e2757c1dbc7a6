"""Reconciling over HTTP: a provider's own books against the tenant's jobs."""

from service.errors import Invalid
from service.views import instant, parse_instant
from service.web.calls import Call
from service.web.replies import Reply, json_reply


async def reconcile(call: Call) -> Reply:
    """Sends no submit and charges nothing; it may be asked again at any time."""
    since = parse_instant(call.body.since)
    if since is None or since > call.context.clock.now():
        text = "`since` must be an RFC 3339 time with a zone that has passed, such as 2026-01-31T12:00:00Z."
        raise Invalid(text, param="since")
    report = await call.context.reconciling.run(call.tenant, call.path["provider"], since)
    return json_reply(
        {
            "provider": call.path["provider"],
            "since": instant(report.since),
            "read": report.read,
            "adopted": report.adopted,
            "updated": report.updated,
            "charges_without_job": report.charges_without_job,
            "jobs_without_charge": report.jobs_without_charge,
        }
    )
