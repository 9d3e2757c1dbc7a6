"""THE ONE ROUTE TABLE: it feeds the router, /openapi.json, /docs and /llms.txt.

The hottest paths come first: the router looks from the top.
"""

from service.states import DeliveryStatus, JobStatus
from service.web import answers, queries, schemas
from service.web.api import accounts, callbacks, documents, endpoints, events, jobs, system
from service.web.bodies import JOB_BYTES
from service.web.queries import PAGE, Query, choice, instant, text
from service.web.routing import Link, Route

_WAIT, _KEY = "Prefer", "Idempotency-Key"


def _links(param: str, operations: str, value: str = "$response.body#/id") -> tuple[Link, ...]:
    return tuple(Link(to=operation, param=param, value=value) for operation in operations.split())


_FIRST = "$response.body#/data/0/id"
_JOB_LINKS = _links("path.job_id", "getJob getJobTimeline cancelJob resolveJob eraseJobContent")
_ENDPOINT_LINKS = _links(
    "path.endpoint_id", "getEndpoint changeEndpoint rotateEndpointSecret testEndpoint recoverEndpoint deleteEndpoint"
)
_SECONDS = Query(
    name="seconds",
    summary="How long the stream lasts",
    schema={"type": "integer", "minimum": 1, "maximum": 3600, "default": events.STREAM_S},
    read=queries.whole(1, 3600),
)

ROUTES: tuple[Route, ...] = (
    # -- where providers call
    Route(method="POST", path="/v1/callbacks/{provider}", name="receiveCallback", scope=None, open_query=True,
          summary="Where a provider calls whose URL is registered once per account",
          answer=callbacks.receive, media="*/*", errors=(400, 401, 404, 413)),
    Route(method="POST", path="/v1/callbacks/{provider}/{token}", name="receiveTokenCallback", scope=None,
          summary="The same, for a URL that names a job or a credential", open_query=True,
          answer=callbacks.receive, media="*/*", errors=(400, 401, 404, 413)),
    # -- jobs
    Route(method="POST", path="/v1/jobs", name="createJob", scope="jobs:write", status=202, also=(200,),
          summary="Submit a job to a provider, or follow one submitted elsewhere",
          answer=jobs.create, body=schemas.CreateJob, max_bytes=JOB_BYTES, headers=(_KEY, _WAIT),
          returns=answers.Job, errors=(409, 429), links=_JOB_LINKS),
    Route(method="GET", path="/v1/jobs", name="listJobs", scope="jobs:read",
          summary="Your jobs, newest first, without their input", answer=jobs.list_,
          query=(*PAGE, choice("status", "Only in this state", JobStatus), text("provider", "Only this provider's"),
                 text("operation", "Only this operation's"), instant("created_after", "Created after this time"),
                 instant("created_before", "Created before this time"), queries.METADATA),
          returns=answers.JobData, listed=True),
    Route(method="GET", path="/v1/jobs/{job_id}", name="getJob", scope="jobs:read",
          summary="A job as it is now, or at its end", answer=jobs.get, headers=(_WAIT,), returns=answers.Job,
          links=_links("path.job_id", "getJobTimeline cancelJob eraseJobContent")),
    Route(method="GET", path="/v1/jobs/{job_id}/timeline", name="getJobTimeline", scope="jobs:read",
          summary="Everything that happened to a job, oldest first", answer=jobs.timeline, returns=answers.Timeline),
    Route(method="POST", path="/v1/jobs/{job_id}/cancel", name="cancelJob", scope="jobs:write", also=(202,),
          summary="Cancel a job: at once while it is queued, else by the provider", answer=jobs.cancel,
          returns=answers.Job, errors=(409,), links=_links("path.job_id", "eraseJobContent")),
    Route(method="POST", path="/v1/jobs/{job_id}/resolve", name="resolveJob", scope="jobs:write",
          summary="Settle a job whose submit has an unknown outcome", answer=jobs.resolve, body=schemas.ResolveJob,
          returns=answers.Job, errors=(409,)),
    Route(method="DELETE", path="/v1/jobs/{job_id}/content", name="eraseJobContent", scope="jobs:write", status=204,
          summary="Erase a finished job's input, outputs and bodies; the row stays", answer=jobs.erase, errors=(409,)),
    # -- endpoints
    Route(method="POST", path="/v1/endpoints", name="createEndpoint", scope="endpoints:write", status=201,
          summary="Add a URL that gets signed events; its secret is shown this once", answer=endpoints.create,
          body=schemas.CreateEndpoint, returns=answers.EndpointWithSecret, errors=(409,), links=_ENDPOINT_LINKS),
    Route(method="GET", path="/v1/endpoints", name="listEndpoints", scope="endpoints:read",
          summary="Your endpoints, newest first", answer=endpoints.list_, query=PAGE, returns=answers.Endpoint,
          listed=True),
    Route(method="GET", path="/v1/endpoints/{endpoint_id}", name="getEndpoint", scope="endpoints:read",
          summary="An endpoint, without its secret", answer=endpoints.get, returns=answers.Endpoint),
    Route(method="PATCH", path="/v1/endpoints/{endpoint_id}", name="changeEndpoint", scope="endpoints:write",
          summary="Change what is given; enabling releases what was held", answer=endpoints.change,
          body=schemas.ChangeEndpoint, returns=answers.Endpoint, errors=(409,)),
    Route(method="DELETE", path="/v1/endpoints/{endpoint_id}", name="deleteEndpoint", scope="endpoints:write",
          summary="Delete an endpoint; what is pending for it is canceled", answer=endpoints.delete, status=204,
          errors=(409,)),
    Route(method="POST", path="/v1/endpoints/{endpoint_id}/secret/rotate", name="rotateEndpointSecret",
          scope="endpoints:write", summary="A new secret; the old one signs beside it for the overlap",
          answer=endpoints.rotate, body=schemas.RotateSecret, body_optional=True, returns=answers.NewSecret,
          errors=(409,)),
    Route(method="POST", path="/v1/endpoints/{endpoint_id}/test", name="testEndpoint", scope="endpoints:write",
          summary="Send it an `endpoint.test` event", answer=endpoints.test, status=202, returns=answers.Event,
          links=_links("path.event_id", "getEvent replayEvent") + _links("query.event", "listDeliveries")),
    Route(method="POST", path="/v1/endpoints/{endpoint_id}/recover", name="recoverEndpoint", scope="endpoints:write",
          summary="Send again what it did not get since a time", answer=endpoints.recover, body=schemas.Recover,
          status=202, returns=answers.Resent),
    # -- events and deliveries
    Route(method="GET", path="/v1/events", name="listEvents", scope="events:read", summary="Events, newest first",
          answer=events.list_, query=(*PAGE, text("type", "Only this type"), text("job", "Only this job's")),
          returns=answers.Event, listed=True, links=_links("path.event_id", "getEvent replayEvent", _FIRST)),
    Route(method="GET", path="/v1/events/stream", name="streamEvents", scope="events:read", streams=True,
          summary="Server-sent events in commit order, from now or from behind Last-Event-ID", answer=events.stream,
          query=(_SECONDS,), headers=("Last-Event-ID",), media="text/event-stream"),
    Route(method="GET", path="/v1/events/{event_id}", name="getEvent", scope="events:read", summary="One event",
          answer=events.get, returns=answers.Event),
    Route(method="POST", path="/v1/events/{event_id}/replay", name="replayEvent", scope="endpoints:write",
          summary="Send it again to every endpoint that takes it", answer=events.replay, status=202,
          returns=answers.Resent),
    Route(method="GET", path="/v1/event-types", name="listEventTypes", scope="events:read",
          summary="The types of events that there are", answer=events.types, returns=answers.EventType, listed=True),
    Route(method="GET", path="/v1/deliveries", name="listDeliveries", scope="events:read",
          summary="Deliveries, newest first", answer=events.deliveries,
          query=(*PAGE, choice("status", "Only in this state", DeliveryStatus), text("endpoint", "Only to this one"),
                 text("event", "Only of this event"), text("job", "Only of this job's events")),
          returns=answers.DeliveryData, listed=True,
          links=_links("path.delivery_id", "getDelivery retryDelivery", _FIRST)),
    Route(method="GET", path="/v1/deliveries/{delivery_id}", name="getDelivery", scope="events:read",
          summary="A delivery with its attempts", answer=events.delivery, returns=answers.Delivery,
          links=_links("path.delivery_id", "retryDelivery")),
    Route(method="POST", path="/v1/deliveries/{delivery_id}/retry", name="retryDelivery", scope="endpoints:write",
          summary="Send it again now, with its schedule from the start", answer=events.retry, status=202,
          returns=answers.DeliveryData, errors=(409,)),
    # -- accounts
    Route(method="POST", path="/v1/keys", name="createKey", scope="admin", status=201,
          summary="Make an API key; its text is shown this once", answer=accounts.create_key, body=schemas.CreateKey,
          returns=answers.KeyWithText, errors=(404,), links=_links("path.key_id", "revokeKey")),
    Route(method="GET", path="/v1/keys", name="listKeys", scope="admin", summary="The keys that are not revoked",
          answer=accounts.keys, query=(*PAGE, text("tenant", "Only this tenant's")), returns=answers.Key, listed=True,
          errors=(404,)),
    Route(method="DELETE", path="/v1/keys/{key_id}", name="revokeKey", scope="admin", status=204,
          summary="Revoke a key; on other nodes it may work five seconds longer", answer=accounts.revoke_key),
    Route(method="POST", path="/v1/tenants", name="createTenant", scope="admin", status=201,
          summary="Make a tenant, or get the one of that name", answer=accounts.create_tenant,
          body=schemas.CreateTenant, returns=answers.Tenant,
          links=_links("path.tenant", "deleteTenant", "$response.body#/name")),
    Route(method="GET", path="/v1/tenants", name="listTenants", scope="admin", summary="All tenants",
          answer=accounts.tenants, query=PAGE, returns=answers.Tenant, listed=True),
    Route(method="DELETE", path="/v1/tenants/{tenant}", name="deleteTenant", scope="admin", status=204,
          summary="Delete a tenant that owns nothing", answer=accounts.delete_tenant, errors=(409,)),
    Route(method="GET", path="/v1/callback-secret", name="getCallbackSecret", scope="secrets:write",
          summary="What signs deliveries to your jobs' callback_url", answer=accounts.callback_secret,
          returns=answers.CallbackSecret),
    Route(method="POST", path="/v1/callback-secret/rotate", name="rotateCallbackSecret", scope="secrets:write",
          summary="A new one; the old one signs beside it for the overlap", answer=accounts.rotate_callback_secret,
          body=schemas.RotateSecret, body_optional=True, returns=answers.NewSecret),
    # -- the service
    Route(method="GET", path="/v1/providers", name="listProviders", scope="providers:read",
          summary="The providers that there are", answer=system.providers, returns=answers.Provider, listed=True,
          links=_links("path.provider", "listOperations", "$response.body#/data/0/name")),
    Route(method="GET", path="/v1/providers/{provider}/operations", name="listOperations", scope="providers:read",
          summary="What a provider can do, with the JSON Schema of each input", answer=system.operations,
          returns=answers.Operation, listed=True),
    Route(method="GET", path="/v1/providers/{provider}/rejected-callbacks", name="listRejectedCallbacks",
          scope="admin", summary="The last callbacks that were refused, and why", answer=system.rejected_callbacks,
          returns=answers.RejectedCallback, listed=True),
    Route(method="GET", path="/health", name="health", scope=None, summary="The process is up", answer=system.health,
          returns=answers.Health),
    Route(method="GET", path="/ready", name="ready", scope=None, summary="An accept could be kept now",
          answer=system.ready, returns=answers.Ready, errors=(503,)),
    Route(method="GET", path="/metrics", name="metrics", scope="metrics", summary="For Prometheus",
          answer=system.metrics, media="text/plain"),
    Route(method="POST", path="/internal/tick", name="tick", scope="tick", summary="Run every loop once",
          answer=system.tick, body=schemas.Tick, body_optional=True, returns=answers.Ticked),
    Route(method="GET", path="/openapi.json", name="openapi", scope=None, summary="This interface, as OpenAPI 3.1",
          answer=documents.openapi),
    Route(method="GET", path="/docs", name="docs", scope=None, summary="This interface, for people",
          answer=documents.docs, media="text/html"),
    Route(method="GET", path="/docs/errors", name="errors", scope=None, summary="Every error, with its remedy",
          answer=documents.errors, media="text/html"),
    Route(method="GET", path="/llms.txt", name="llms", scope=None, summary="This interface, for language models",
          answer=documents.llms, media="text/plain"),
)  # fmt: skip
