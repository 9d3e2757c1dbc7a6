"""Where events go: what an endpoint wants, how it is kept, and the targets of one event."""

import hashlib
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from msgspec.structs import replace

from service import addresses, signatures
from service.clock import Clock
from service.errors import Conflict, Invalid, Missing
from service.filters import checked_filter, matches
from service.ids import new_id
from service.masking import Masks
from service.models import Announcement, DueDelivery, Endpoint, Event, Job, Target
from service.sealed import EndpointTarget, Sealed, SigningSecret, live, rotated
from service.states import EndpointStatus, Json, Record
from service.stores import Offer, Page, Store
from service.told import masks_of_target
from service.views import event_body, instant

EVENT_TYPES = {
    "job.processing": "The provider accepted the job.",
    "job.progress": "The job went on; at most every five seconds, only where it is named.",
    "job.succeeded": "The job has its outputs.",
    "job.failed": "The job ended without a result; `error` says why.",
    "job.canceled": "The job was canceled.",
    "job.unknown": "Whether the provider accepted the submit cannot be learned automatically.",
    "job.late_result": "A job that had ended otherwise yielded a result after all.",
    "endpoint.disabled": "An endpoint was disabled; it is never told so itself.",
    "endpoint.test": "What `POST /v1/endpoints/{id}/test` sends.",
    "delivery.failed": "A delivery used up its attempts; that of a job's `callback_url` is told to the operator, too.",
    "credential.paused": "A provider refused a key; its submits wait.",
}
CALLBACK_TYPES = frozenset({"job.succeeded", "job.failed", "job.canceled", "job.unknown"})
OPERATOR_TYPES = frozenset({"endpoint.disabled", "job.unknown", "credential.paused"})
OPERATOR = -1
TARGET_CACHE_S = 5.0  # within this another node's change of an endpoint takes effect here
KNOWN_CACHE_S = 60.0  # where a claim says that it is unchanged; secrets that have ended sign no longer than this
MOST_ENDPOINTS = 100  # per tenant: each is looked at for each of its events


def wants(endpoint: Endpoint, said: Announcement) -> bool:
    """Whether the endpoint's types and filter take this event."""
    if said.about_endpoint == endpoint.num:
        return False
    if said.type == "job.progress":  # frequent: it goes only where it is named itself
        named = said.type in endpoint.event_types
    elif not endpoint.event_types:
        named = True
    else:
        named = any(said.type == t or (t.endswith(".*") and said.type.startswith(t[:-1])) for t in endpoint.event_types)
    return named and matches(endpoint.filter, said.data)


def lane_of(tenant: int, url: str) -> int:
    """The lane that callback URLs of one origin share: a negative number, so that it is no endpoint's."""
    parts = urlsplit(url)
    digest = hashlib.sha256(f"{tenant}|{parts.scheme}://{parts.netloc}".encode()).digest()
    return -(int.from_bytes(digest[:7]) + 2)


class FanOut:
    """The targets of an event. Pure: `offer` is asked for free senders, `operator` whether anyone listens there."""

    def __init__(self, *, offer: Callable[[], Offer], operator: bool):
        self.offer, self._operator = offer, operator

    def targets(self, said: Announcement, job: Job | None, endpoints: Sequence[Endpoint]) -> list[Target]:
        found = [
            Target(endpoint=e.num, lane=e.num, held=e.status is not EndpointStatus.ACTIVE)
            for e in endpoints
            if wants(e, said)
        ]
        if job is not None and job.detail.callback_url is not None and said.type in CALLBACK_TYPES:
            found.append(Target(endpoint=0, lane=job.detail.callback_lane))
        of_callback_url = said.type == "delivery.failed" and said.data.get("to") == "callback_url"
        if self._operator and (said.type in OPERATOR_TYPES or of_callback_url):
            found.append(Target(endpoint=OPERATOR, lane=OPERATOR))
        return found


class OpenTarget(Record, frozen=True, kw_only=True):
    """Everything that one attempt needs, opened. Never logged."""

    id: str | None
    version: int = 0
    url: str
    headers: dict[str, str]
    masks: Masks  # of all that the subscriber knows of it, for what it says
    keys: tuple[signatures.HmacKey, ...]
    status: EndpointStatus
    deleted: bool
    rate: float | None
    timeout_s: float | None


class Endpoints:
    """A tenant's endpoints: made, changed, rotated, tested, and opened for senders."""

    def __init__(self, *, store: Store, sealed: Sealed, policy: addresses.Policy, clock: Clock):
        self._store, self._sealed, self._policy, self._clock = store, sealed, policy, clock
        self._opened: dict[int, tuple[float, OpenTarget | None]] = {}
        self._written: dict[int, int] = {}  # the versions that this node wrote

    async def get(self, tenant: int, endpoint_id: str) -> Endpoint:
        endpoint = await self._store.endpoint(tenant, endpoint_id)
        if endpoint is None:
            raise Missing(f"There is no endpoint {endpoint_id!r}. See GET /v1/endpoints.", param="id")
        return endpoint

    async def create(self, tenant: int, given: Json) -> tuple[Endpoint, str]:
        """The endpoint and its secret, which is shown this once. `given`: url and any of the settings."""
        if len(await self._store.endpoints(tenant, Page(limit=MOST_ENDPOINTS))) >= MOST_ENDPOINTS:
            raise Conflict(f"A tenant has at most {MOST_ENDPOINTS} endpoints: delete one.", code="too_many_endpoints")
        now = self._clock.now()
        endpoint_id, secret = new_id("ep", now), signatures.new_secret()
        settings = checked(given)
        target = self._checked_target(given["url"], given.get("headers") or {})
        endpoint = Endpoint(
            num=0,
            id=endpoint_id,
            tenant=tenant,
            disabled_reason=None,
            target=self._sealed.seal_target(target, endpoint_id, tenant),
            secrets=self._sealed.seal_secrets((SigningSecret(secret=secret),), endpoint_id, tenant),
            created_at=now,
            updated_at=now,
            **{"status": EndpointStatus.ACTIVE, "event_types": (), "filter": {}, **settings},
        )
        return await self._store.create_endpoint(endpoint), secret

    async def change(self, tenant: int, endpoint_id: str, given: Json) -> Endpoint:
        """Only what is given changes. Enabling releases what was held."""
        endpoint = await self.get(tenant, endpoint_id)
        settings = checked(given)
        if settings.get("status") is not None:
            settings["disabled_reason"] = None
        if "url" in given or "headers" in given:
            before = self._sealed.target(endpoint.target, endpoint.id, tenant)
            headers = given["headers"] or {} if "headers" in given else before.headers
            target = self._checked_target(given.get("url", before.url), headers)
            settings["target"] = self._sealed.seal_target(target, endpoint.id, tenant)
        return await self._write(replace(endpoint, **settings))

    async def delete(self, tenant: int, endpoint_id: str) -> None:
        """Nothing more goes there: what is pending or held for it is canceled, all of it when this returns."""
        gone = await self._write(replace(await self.get(tenant, endpoint_id), deleted=True))
        while await self._store.cancel_owed(gone.num):
            pass

    async def rotate(self, tenant: int, endpoint_id: str, overlap_s: int) -> str:
        """A new secret; the old ones sign beside it for the overlap."""
        endpoint = await self.get(tenant, endpoint_id)
        secret = signatures.new_secret()
        before = self._sealed.secrets(endpoint.secrets, endpoint.id, tenant)
        after = rotated(before, secret, overlap_s, self._clock.now())
        await self._write(replace(endpoint, secrets=self._sealed.seal_secrets(after, endpoint.id, tenant)))
        return secret

    async def test(self, tenant: int, endpoint_id: str) -> tuple[Event, list[DueDelivery]]:
        """Publish `endpoint.test` to this endpoint alone."""
        endpoint = await self.get(tenant, endpoint_id)
        data = {"endpoint": endpoint.id, "text": "If you can read this and verify it, the endpoint works."}
        body = event_body("endpoint.test", self._clock.now(), data)
        said = Announcement(type="endpoint.test", body=body, data=data)
        return await self._store.publish(tenant, said, endpoint.num)

    async def recover(self, tenant: int, endpoint_id: str, since: int) -> int:
        """Send again what the endpoint did not get since then; how many deliveries became due."""
        endpoint, total, after = await self.get(tenant, endpoint_id), 0, 0
        while True:
            count, last = await self._store.recover(endpoint, since=since, after=after, limit=500)
            total += count
            if last is None:
                return total
            after = last

    def view(self, endpoint: Endpoint) -> Json:
        """The endpoint as its owner sees it: headers by name alone, no secrets."""
        target = self._sealed.target(endpoint.target, endpoint.id, endpoint.tenant)
        return {
            "id": endpoint.id,
            "url": target.url,
            "status": endpoint.status,
            "disabled_reason": endpoint.disabled_reason,
            "event_types": list(endpoint.event_types) or [t for t in EVENT_TYPES if t != "job.progress"],
            "filter": endpoint.filter,
            "format": endpoint.format,
            "signature": endpoint.signature,
            "headers": sorted(target.headers),
            "rate": endpoint.rate,
            "timeout_seconds": endpoint.timeout_s,
            "description": endpoint.description,
            "created_at": instant(endpoint.created_at),
            "updated_at": instant(endpoint.updated_at),
        }

    async def opened(self, num: int, version: int | None = None) -> OpenTarget | None:
        """The endpoint for a sender, at most five seconds old, or as of `version`; None where there never was one."""
        now = self._clock.monotonic()
        cached = self._opened.get(num)
        if cached is None or not _fresh(cached[1], now - cached[0], version):
            endpoint = await self._store.endpoint_by_number(num)
            target = None if endpoint is None else self._open(endpoint, self._clock.now())
            if endpoint is not None and endpoint.version < self._written.get(num, 0):
                return await self.opened(num)  # read before a change here was committed: read it anew
            cached = self._opened[num] = (now, target)
        return cached[1]

    def _open(self, endpoint: Endpoint, now: int) -> OpenTarget:
        target = self._sealed.target(endpoint.target, endpoint.id, endpoint.tenant)
        secrets = live(self._sealed.secrets(endpoint.secrets, endpoint.id, endpoint.tenant), now)
        return OpenTarget(
            id=endpoint.id,
            version=endpoint.version,
            url=target.url,
            headers=target.headers,
            masks=masks_of_target(target.url, target.headers, secrets),
            keys=tuple(signatures.HmacKey(signatures.parse_secret(secret)) for secret in secrets),
            status=endpoint.status,
            deleted=endpoint.deleted,
            rate=endpoint.rate,
            timeout_s=endpoint.timeout_s,
        )

    async def _write(self, endpoint: Endpoint) -> Endpoint:
        changed = await self._store.update_endpoint(endpoint)
        self._opened.pop(endpoint.num, None)
        if changed is not None:
            self._written[changed.num] = changed.version
        if changed is None:
            raise Conflict("The endpoint was changed meanwhile: read it and try again.", code="changed_meanwhile")
        return changed

    def _checked_target(self, url: str, headers: dict[str, str]) -> EndpointTarget:
        try:
            kept = addresses.check_url(url, self._policy)
        except addresses.UrlRefused as refused:
            refused.param = refused.param or "url"
            raise
        return EndpointTarget(url=kept, headers=addresses.check_headers(headers))


def _fresh(target: OpenTarget | None, age: float, version: int | None) -> bool:
    """Whether what was opened so many seconds ago may be used by a claim that has read this version, or none."""
    if version is None or target is None:
        return age <= TARGET_CACHE_S
    return target.version >= version and age <= KNOWN_CACHE_S


def checked(given: Json) -> Json:
    """The settings among `given` as fields of `Endpoint`. Raises `Invalid` that names the field."""
    settings: Json = {}
    for name in ("filter", "rate", "description", "status", "format", "signature"):
        if name in given:
            settings[name] = given[name]
    if "timeout_seconds" in given:
        settings["timeout_s"] = given["timeout_seconds"]
    if given.get("event_types") is not None:
        settings["event_types"] = _checked_types(given["event_types"])
    if "filter" in settings:
        settings["filter"] = checked_filter(settings["filter"] or {})
    if "status" in settings:
        settings["status"] = EndpointStatus(settings["status"])
    return {name: value for name, value in settings.items() if value is not None or name != "status"}


def _checked_types(types: Sequence[str]) -> tuple[str, ...]:
    if not types:
        raise Invalid("An empty list takes no event: leave it out for all but job.progress.", param="event_types")
    groups = {kind.partition(".")[0] + ".*" for kind in EVENT_TYPES}
    for place, kind in enumerate(types):
        if kind not in EVENT_TYPES and kind not in groups:
            known = ", ".join(sorted(groups | set(EVENT_TYPES)))
            raise Invalid(f"There is no event type {kind!r}; there are: {known}.", param=f"event_types.{place}")
    return tuple(dict.fromkeys(types))
