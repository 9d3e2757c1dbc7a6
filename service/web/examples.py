"""The document's parameters and examples, written out."""

from service.states import Json
from service.web.schemas import TENANT_NAME

_TEXT: Json = {"type": "string"}


def _path(name: str, description: str, pattern: str) -> Json:
    schema = {**_TEXT, "pattern": pattern}
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def _header(name: str, description: str, schema: Json, example: str | None = None) -> Json:
    shown: Json = {"name": name, "in": "header", "description": description, "schema": schema}
    return shown if example is None else {**shown, "example": example}


def _id(prefix: str) -> str:
    return rf"^{prefix}_[0-9a-hjkmnp-tv-z]{{26}}$"


PARAMETERS = {
    "provider": _path("provider", "A provider's name: see GET /v1/providers", r"^[a-z0-9_-]{1,64}$"),
    "token": _path("token", "What makes the URL one of ours", r"^[A-Za-z0-9_-]{1,256}$"),
    "job_id": _path("job_id", "A job's id", _id("job")),
    "endpoint_id": _path("endpoint_id", "An endpoint's id", _id("ep")),
    "event_id": _path("event_id", "An event's id", _id("evt")),
    "delivery_id": _path("delivery_id", "A delivery's id", _id("dlv")),
    "file_id": _path("file_id", "A file's id", _id("file")),
    "key_id": _path("key_id", "A key's id", _id("key")),
    "tenant": _path("tenant", "A tenant's name", TENANT_NAME),
    "kind": _path("kind", "A catalog: see GET /v1/providers/{provider}/catalog", r"^[a-z0-9_-]{1,64}$"),
}
HEADERS = {
    "Callsheet-Tenant": _header(
        "Callsheet-Tenant",
        "The tenant that an admin key acts in; absent: the key's own",
        {**_TEXT, "pattern": TENANT_NAME},
        "default",
    ),
    "Idempotency-Key": _header(
        "Idempotency-Key",
        "The same key and body give the same job, as long as the job is there; 1 to 255 visible ASCII characters",
        {**_TEXT, "pattern": r"^[!#-~][!-~]{0,254}$"},
    ),
    "Prefer": _header("Prefer", "`wait=N` waits up to N seconds, 60 at most, for the job's end", _TEXT),
    "Last-Event-ID": _header(
        "Last-Event-ID",
        "The last id that the stream gave; empty or absent: from now",
        {**_TEXT, "pattern": rf"^$|{_id('evt')}"},
    ),
}
WEBHOOK_HEADERS = [
    {**_header("webhook-id", "The event's id: the same for every attempt", _TEXT), "required": True},
    {**_header("webhook-timestamp", "Of this attempt, in seconds since 1970", _TEXT), "required": True},
    {**_header("webhook-signature", "Standard Webhooks `v1` signatures, with spaces between", _TEXT), "required": True},
]
_INPUT = {"prompt": "A cat on a skateboard", "model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"}
EXAMPLES: dict[str, Json] = {
    "createJob": {
        "submit": {
            "provider": "pixverse",
            "operation": "text_to_video",
            "input": _INPUT,
            "metadata": {"team": "films"},
        },
        "poll": {
            "provider": "peakmv",
            "operation": "generate",
            "input": {"audio_url": "https://media.example.com/song.mp3"},
        },
    },
    "resolveJob": {"fail": {"action": "fail"}, "adopt": {"action": "adopt", "provider_job_id": "403123"}},
    "createEndpoint": {"all": {"url": "https://hooks.example.com/callsheet", "event_types": ["job.*"]}},
    "changeEndpoint": {"pause": {"status": "paused"}},
    "rotateEndpointSecret": {"day": {"overlap_seconds": 86_400}},
    "rotateCallbackSecret": {"day": {"overlap_seconds": 86_400}},
    "recoverEndpoint": {"since": {"since": "2026-01-31T12:00:00Z"}},
    "reconcileProvider": {"since": {"since": "2026-01-31T12:00:00Z"}},
    "createKey": {"worker": {"name": "worker", "scopes": ["jobs:write", "jobs:read"]}},
    "createTenant": {"films": {"name": "films"}},
    "putCredential": {"key": {"api_key": "sk-of-the-provider", "callback_secret": "as-in-its-dashboard"}},
    "quoteJob": {"video": {"operation": "text_to_video", "input": _INPUT}},
    "putBudget": {"month": {"amount": "5000", "period": "month"}},
    "tick": {"short": {"budget_seconds": 1}},
}
