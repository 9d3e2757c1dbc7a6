"""Delivery: claim -> sign -> send -> record. One signed event to every URL that asked, until it is taken.

Fresh deliveries come from memory right after their commit; the due-scan finds the rest, on any node.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from service import callback_urls, retries, signatures
from service.accounts import Accounts
from service.clock import DueClock
from service.egress import Answer, Egress
from service.endpoints import OPERATOR, Endpoints, OpenTarget
from service.errors import Lost, NotSent, StoreUnavailable
from service.framing import Outgoing
from service.in_flight import InFlight
from service.lanes import Lanes
from service.loops import UNLIMITED, until_kept
from service.models import Announcement, AttemptResult, DueDelivery
from service.recording import Recording
from service.sealed import Sealed
from service.settings import Settings
from service.states import DEFAULT_TENANT, DeliveryStatus, EndpointStatus, Record
from service.stores import Store
from service.told import masks_of_target
from service.views import event_body

log = logging.getLogger("callsheet.delivery")

LEASE_MS = 90_000
SHORTEST_TIMEOUT_S = 2.0  # with less of a tick's budget left, nothing is started
LONGEST_TIMEOUT_S = 30.0  # Standard Webhooks: 15 to 30 s; far less than the lease
GONE_REASON = "it answered 410 Gone"
LEASE_MARGIN_S = 5.0
CLAIM = 256
REPLY_BYTES = 16 * 1024  # read at most; the verdict is the status line's
KEPT_BYTES = 1_024  # of the reply, for the owner to see
HELD_BATCH = 500
HELD_SPREAD_MS = 10_000
HELD_EVERY_S = 1.0  # looked for, under load
THROTTLED = frozenset({429, 502, 504})


class Try(Record, frozen=True, kw_only=True):
    """What one HTTP try came to."""

    status_code: int | None = None
    error: str | None = None  # one stable word
    response: bytes = b""
    retry_after: float | None = None
    wait: float | None = None  # not tried: seconds until it may be
    stale: str | None = None  # the error on a kept connection, after which this was tried at once on a new one

    @property
    def taken(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


class Delivery:
    name = "delivery"
    needs_s = SHORTEST_TIMEOUT_S

    def __init__(
        self,
        *,
        store: Store,
        egress: Egress,
        endpoints: Endpoints,
        accounts: Accounts,
        sealed: Sealed,
        lanes: Lanes,
        settings: Settings,
        clock: DueClock,
        random: Callable[[], float],
        count: Callable[[str, float], Any],
        lease_ms: int = LEASE_MS,
    ):
        self._store, self._egress, self._endpoints = store, egress, endpoints
        self._accounts, self._sealed, self.lanes, self._settings = accounts, sealed, lanes, settings
        self._clock, self._random, self._count = clock, random, count
        self.flying: InFlight = lanes.flying
        self.wake = asyncio.Event()
        self._recording = Recording(store=store, flying=self.flying, hand_over=self.hand_over, claim=self._claim_more)
        self._claiming = asyncio.Lock()
        self._until = -math.inf  # when the budget of the last step is over
        self._released_at = -math.inf
        self._lease_ms = lease_ms

    def hand_over(self, fresh: Sequence[DueDelivery]) -> None:
        """Send what was just committed with a lease of ours."""
        for delivery in fresh:
            self.lanes.start(delivery.lane, self._deliver(delivery), promised=True)

    def claim_no_more(self) -> None:
        """The node stops: what is under way ends, nothing is taken beside it."""
        self.lanes.sending, self._until = False, -math.inf

    async def step(self, budget: float) -> bool:
        """Start what is due and has room; release what was held for endpoints that are back."""
        if budget < self.needs_s:
            return False
        self._until = self._clock.monotonic() + budget
        claimed, released = 0, 0
        if not self._recording.writing:  # else it claims as soon as there is room, with what it writes
            claimed = await self._claim(budget)
        now = self._clock.monotonic()
        if not (claimed or self._recording.writing) or now - self._released_at >= HELD_EVERY_S:
            self._released_at = now
            released = await self._store.release_held(limit=HELD_BATCH, spread_ms=HELD_SPREAD_MS)
        return released > 0 or (claimed > 0 and self.flying.free > 0)

    async def _claim(self, within: float) -> int:
        """One claim at a time: each counts on the room that the one before it has left."""
        async with self._claiming:
            with self.lanes.claiming() as room:
                claimed = await self._store.claim_deliveries(
                    room=room, lease_ms=self._lease_ms, limit=min(CLAIM, self.flying.free)
                )
                for delivery in claimed:
                    self.lanes.start(delivery.lane, self._deliver(delivery, within), promised=False)
            return len(claimed)

    async def _claim_more(self) -> None:
        """What the last step would claim by now."""
        left = self._until - self._clock.monotonic()
        if left >= self.needs_s and self.flying.free:
            claimed = await self._claim(left)
            if claimed and self.flying.free:
                self.wake.set()

    async def _deliver(self, delivery: DueDelivery, within: float = UNLIMITED) -> None:
        at, began = self._clock.now(), self._clock.monotonic()
        made, target = await self._attempt(delivery, within)
        if made is None:
            self._recording.add(self._not_tried(delivery, target, at))
        elif made.wait is not None:
            self._recording.add(self._later(delivery, at, made.wait))
        elif made.error != "lease":  # else it is, or will be, another's: no write
            took = self._clock.monotonic() - began
            well = made.taken or (made.status_code is not None and made.status_code < 500)
            self.lanes.learned(delivery.lane, well=well, answered=made.status_code is not None)
            self._count("delivered" if made.taken else made.error or "status", took)
            if delivery.endpoint == 0 and made.status_code in callback_urls.MAY_BE_USED:
                made = await self._or_used(delivery, made)
            self._recording.add(self._judged(delivery, made, target, at, int(took * 1000)))

    async def _attempt(self, delivery: DueDelivery, within: float) -> tuple[Try | None, OpenTarget | None]:
        """One try; None where the endpoint takes nothing now. Whatever goes wrong in here is an attempt that failed."""
        target = None
        try:
            target = await self._target(delivery)
            if target is None or target.deleted or target.status is not EndpointStatus.ACTIVE:
                return None, target
            wait = self.lanes.over(delivery.lane) or self.lanes.limit(delivery.lane, target.rate)
            return (Try(wait=wait) if wait > 0 else await self._try(delivery, target, within)), target
        except StoreUnavailable:
            return Try(wait=1.0), target
        except Exception as error:
            log.exception("a delivery could not be tried")
            return Try(error="internal", response=type(error).__name__.encode()), target

    async def _target(self, delivery: DueDelivery) -> OpenTarget | None:
        if delivery.endpoint > 0:
            return await self._endpoints.opened(delivery.endpoint, delivery.endpoint_version)
        if delivery.endpoint < 0:
            url, default = self._settings.operator_url, await self._accounts.tenant(DEFAULT_TENANT)
            secrets = await self._accounts.callback_secrets(default.num)
            return _callback_target(url, secrets) if url is not None else None
        if delivery.callback_url is None or delivery.job_id is None:
            return None
        url = self._sealed.text(delivery.callback_url, "callback_url", delivery.job_id, delivery.tenant)
        if delivery.callback_secret is not None:
            own = self._sealed.text(delivery.callback_secret, "callback_secret", delivery.job_id, delivery.tenant)
            return _callback_target(url, (own,))
        return _callback_target(url, await self._accounts.callback_secrets(delivery.tenant))

    async def _try(self, delivery: DueDelivery, target: OpenTarget, within: float, stale: str | None = None) -> Try:
        """One HTTP try. A kept connection that was dead before it was used costs none: a new one is opened at once."""
        timeout = min(float(target.timeout_s or self._settings.delivery_timeout), LONGEST_TIMEOUT_S, within)
        now_s = self._clock.now() // 1000
        headers = {"content-type": "application/json", **target.headers}
        headers |= signatures.signed_headers(
            target.keys, event_id=delivery.event_id, timestamp=now_s, body=delivery.body
        )
        if delivery.traceparent is not None:
            headers["traceparent"] = delivery.traceparent

        def still_ours() -> None:
            if self._clock.monotonic() + timeout + LEASE_MARGIN_S > delivery.lease_ends:
                raise NotSent("lease")

        outgoing = Outgoing(method="POST", url=target.url, headers=headers, body=delivery.body)
        try:
            answer = await self._egress.send(
                outgoing, deadline=timeout, max_bytes=REPLY_BYTES, before_first_byte=still_ours, fresh=stale is not None
            )
        except (NotSent, Lost) as error:
            if isinstance(error, Lost) and error.stale and stale is None:
                return await self._try(delivery, target, within, error.kind)
            return Try(error=error.kind, stale=stale)
        return replace(_read_answer(answer, now_s, target), stale=stale)

    async def _or_used(self, delivery: DueDelivery, made: Try) -> Try:
        earlier = await until_kept(lambda: self._store.attempts(delivery.num))
        used = made.stale is not None or callback_urls.was_used(earlier)  # a dead connection may have carried it, too
        return replace(made, error=callback_urls.PROBABLY_USED) if used else made

    def _judged(
        self, delivery: DueDelivery, made: Try, target: OpenTarget | None, at: int, duration_ms: int
    ) -> AttemptResult:
        """What the try means: taken, to be tried again, or at its end."""
        base: dict[str, Any] = {
            "delivery": delivery.num,
            "lease": delivery.lease,
            "at": at,
            "duration_ms": duration_ms,
            "status_code": made.status_code,
            "error": made.error,
            "response": made.response,
            "stale": made.stale,
        }
        if made.taken:
            return AttemptResult(**base, status=DeliveryStatus.DELIVERED)
        if made.status_code == 410 and delivery.endpoint > 0:
            said = self._about(delivery, target, "endpoint.disabled", {"reason": GONE_REASON})
            return AttemptResult(**base, status=DeliveryStatus.HELD, disable=GONE_REASON, announce=said)
        if made.error == callback_urls.PROBABLY_USED:
            return AttemptResult(**base, status=DeliveryStatus.FAILED)
        ends = delivery.endpoint == 0 and made.status_code == callback_urls.GONE
        pause = None if ends else self._pause(delivery, made)
        if pause is None:
            if delivery.endpoint == 0:
                log.warning("the callback_url of %s failed (%s)", delivery.job_id, made.status_code or made.error)
            told = {"attempts": delivery.attempts + 1, "status_code": made.status_code, "error": made.error}
            said = self._about(delivery, target, "delivery.failed", told)
            return AttemptResult(**base, status=DeliveryStatus.FAILED, announce=said)
        return AttemptResult(**base, status=DeliveryStatus.PENDING, due_at=self._clock.due() + int(pause * 1000))

    def _pause(self, delivery: DueDelivery, made: Try) -> float | None:
        return retries.next_attempt(
            self._settings.retry_schedule,
            delivery.attempts + 1,
            retry_after=made.retry_after,
            throttled=made.status_code in THROTTLED,
            random=self._random,
        )

    def _not_tried(self, delivery: DueDelivery, target: OpenTarget | None, at: int) -> AttemptResult:
        """No attempt: the endpoint is gone, or takes nothing now."""
        gone = target is None or target.deleted
        status = DeliveryStatus.CANCELED if gone else DeliveryStatus.HELD
        return AttemptResult(
            delivery=delivery.num, lease=delivery.lease, at=at, duration_ms=0, status=status, counts=False
        )

    def _later(self, delivery: DueDelivery, at: int, wait: float) -> AttemptResult:
        """No attempt yet: the lane's rate, or the store, lets it go later."""
        due_at = self._clock.due() + int(wait * 1000) + 1
        return AttemptResult(
            delivery=delivery.num, lease=delivery.lease, at=at, duration_ms=0, status=DeliveryStatus.PENDING,
            due_at=due_at, counts=False,
        )  # fmt: skip

    def _about(
        self, delivery: DueDelivery, target: OpenTarget | None, kind: str, more: dict[str, Any]
    ) -> Announcement | None:
        """What is told about a delivery; nothing about those that tell of deliveries and endpoints themselves."""
        if delivery.event_type.startswith(("delivery.", "endpoint.")):
            return None
        data = {"event": delivery.event_id, "type": delivery.event_type, "job": delivery.job_id}
        to = {0: "callback_url", OPERATOR: "operator"}.get(delivery.endpoint, "endpoint")
        data |= {"to": to, "endpoint": target.id if target is not None else None, **more}
        about = delivery.endpoint if delivery.endpoint > 0 else None
        body = event_body(kind, self._clock.now(), data)
        return Announcement(type=kind, body=body, data=data, about_endpoint=about)


def _callback_target(url: str, secrets: Sequence[str]) -> OpenTarget:
    return OpenTarget(
        id=None,
        url=url,
        headers={},
        masks=masks_of_target(url, {}, secrets),
        keys=tuple(signatures.HmacKey(signatures.parse_secret(secret)) for secret in secrets),
        status=EndpointStatus.ACTIVE,
        deleted=False,
        rate=None,
        timeout_s=None,
    )


def _read_answer(answer: Answer, now_s: int, target: OpenTarget) -> Try:
    error = None
    if not 200 <= answer.status < 300:
        error = "redirect" if 300 <= answer.status < 400 else "status"
    return Try(
        status_code=answer.status,
        error=error,
        response=target.masks.head(answer.body, KEPT_BYTES) if answer.body else b"",
        retry_after=retries.retry_after(answer.headers.get("retry-after"), now=now_s),
    )
