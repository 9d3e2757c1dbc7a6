"""Outputs at their stable URLs: a redirect while the provider's link lives, made anew when it has ended; the bytes
through us where only the provider's key opens them.
"""

import base64
import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from service import media
from service.accounts import Accounts
from service.addresses import UrlRefused, read_url
from service.clock import Clock
from service.conversation import Conversations, Lease
from service.crypto import Vault
from service.errors import Gone, Missing
from service.facts import Output
from service.fetching import Asked, Fetching, Opened, not_now
from service.links import Links
from service.loops import UNLIMITED
from service.models import Job
from service.once import Once
from service.providers import Call, Provider, Request
from service.ranges import content_range, read_range
from service.stores import Store

log = logging.getLogger("callsheet.outputs")

MARGIN_MS = 30_000  # a link that ends this soon is renewed first
SHARED_S, NOT_SHARED_S = 3600.0, 10.0  # how long a share link is given out; how soon a refused one is asked for again
_DATA = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
_KEPT_IN_URL = "!#$%&'()*+,-./:;=?@[]_~"


class Outputs:
    def __init__(
        self,
        *,
        store: Store,
        accounts: Accounts,
        providers: Mapping[str, Provider],
        links: Links,
        conversations: Conversations,
        fetching: Fetching,
        vault: Vault,
        clock: Clock,
    ):
        self._store, self._accounts, self._providers, self._links = store, accounts, providers, links
        self._conversations, self._fetching, self._vault, self._clock = conversations, fetching, vault, clock
        self._shares: Once[tuple[int, int], str | None] = Once(clock, lambda url: SHARED_S if url else NOT_SHARED_S)

    async def open(self, token: str, asked: Asked) -> Opened:
        """The output of a stable URL. Raises `Missing`, `Gone`, `Unsatisfiable`, `Unavailable`."""
        job, place = await self._named(token)
        job, output = await self._current(job, place, refresh=asked.refresh)
        name = output.file_name or f"{job.id}-{place}"
        if output.url[:5].lower() == "data:":
            return _inline(output.url, name, asked)
        request = await self._request(job, place, output) if output.needs_key else None
        if isinstance(request, Request):
            return await self._fetching.open(request, name, asked, tenant=job.tenant)
        return _moved(request or output.url)

    async def _named(self, token: str) -> tuple[Job, int]:
        made = re.fullmatch(r"output-(job_[0-9a-z]+)-([0-9]{1,6})", self._vault.read_token(token) or "")
        if made is None:
            raise Missing("There is no such output: this URL was not made here.", param="token")
        job = await self._store.job_by_id(made[1])
        if job is None:
            raise Gone("Its job is gone: jobs are kept for CALLSHEET_RETENTION_JOBS_DAYS.", param="token")
        return job, int(made[2])

    async def _current(self, job: Job, place: int, *, refresh: bool) -> tuple[Job, Output]:
        """The output with a link that lives, asked for at the provider where it has to be."""
        output = _at(job, place)
        if not refresh and not self._ends(output):
            return job, output
        job, reached = await self._links.renewed(job)
        output = _at(job, place)
        if self._ends(output):
            if not reached:
                raise not_now("the provider's link has ended, and it cannot be asked for a new one at this moment")
            raise Gone("The provider's link has ended, and it gives no new one.", code="result_expired", param="token")
        return job, output

    def _ends(self, output: Output) -> bool:
        return output.expires_at is not None and output.expires_at <= self._clock.now() + MARGIN_MS

    async def _request(self, job: Job, place: int, output: Output) -> Request | str | None:
        """How to read what only the key opens: a request with it, or a URL of the provider's that needs none."""
        provider, credential = self._providers[job.provider], await self._accounts.credential_by_number(job.credential)
        if credential is None:
            raise not_now("its credential is not configured on this node")
        call = await self._links.call(job, credential)
        if call.options.get("share", "").lower() in ("true", "1", "yes", "on"):
            shared = await self._shares.get((job.num, place), lambda: self._share(provider, call, output))
            if shared is not None:
                return shared
        request = provider.fetch(call, output)
        if request is not None and not _same_origin(request.url, credential.base_url):
            raise not_now("its URL is not the provider's own, where alone the key may go")
        return request

    async def _share(self, provider: Provider, call: Call, output: Output) -> str | None:
        lease = Lease(None, UNLIMITED, self._clock)
        try:
            made: Any = await self._conversations.hold(provider.share(call, output), lease)
        except Exception:
            log.exception("an output of %s could not be shared", call.operation)
            return None
        return made if isinstance(made, str) else None


def _at(job: Job, place: int) -> Output:
    if place >= len(job.detail.outputs):
        raise Gone("The job's content was erased.", code="content_erased", param="token")
    return job.detail.outputs[place]


def _same_origin(url: str, other: str) -> bool:
    try:
        return read_url(url).origin == read_url(other).origin
    except UrlRefused:
        return False


def _moved(url: str) -> Opened:
    """To the provider's own link, as far as a browser may be sent there."""
    if not url.lower().startswith(("https://", "http://")):
        raise not_now("the provider's link is no web address")
    location = quote(url, safe=_KEPT_IN_URL, errors="replace")
    return Opened(status=302, content_type=None, headers=(("location", location),))


def _inline(url: str, name: str, asked: Asked) -> Opened:
    """A result that the provider put into its answer (RFC 2397)."""
    found = _DATA.match(url)
    if found is None:
        raise not_now("the provider's data cannot be read")
    try:
        content = unquote_to_bytes(url[found.end() :])
        if ";base64" in found[2].lower():
            content = base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
    except ValueError:
        raise not_now("the provider's data cannot be read") from None
    kind = found[1] if re.fullmatch(r"[\w.+-]+/[\w.+-]+", found[1], re.ASCII) else media.ANYTHING
    headers = (*media.shown_as(kind, name), ("accept-ranges", "bytes"))
    wanted = None if asked.head else read_range(asked.range)
    if wanted is None or asked.if_range is not None:
        return Opened(status=200, headers=headers, content_type=kind, body=content)
    start, end = wanted.span(len(content))
    headers += (("content-range", content_range(start, end, len(content))),)
    return Opened(status=206, headers=headers, content_type=kind, body=content[start:end])
