"""Adopting: a person names the provider's id of an `unknown` job, and the provider is asked for it first."""

from collections.abc import Mapping

from service.accounts import Accounts
from service.clock import Clock
from service.conversation import LEASE_MS, Conversations, Lease
from service.errors import Conflict, Invalid, Unavailable
from service.facts import NotFound, Update
from service.links import Links
from service.models import Job
from service.providers import Provider


class Adopting:
    def __init__(
        self,
        *,
        accounts: Accounts,
        conversations: Conversations,
        links: Links,
        providers: Mapping[str, Provider],
        clock: Clock,
    ):
        self._accounts, self._conversations, self._links = accounts, conversations, links
        self._providers, self._clock = providers, clock

    async def confirmed(self, job: Job, provider_job_id: str) -> Update:
        """What the provider says of that id, read with the key that the job was sent with.

        Raises 422 where it does not know the id, 503 where it cannot be asked now: then nothing has changed, and the
        job can be resolved again. 409 where the job's key is not configured here any more.
        """
        provider = self._providers[job.provider]
        credential = await self._accounts.credential_by_number(job.credential)
        if credential is None:
            text = f"{provider.title} cannot be asked: the key that the job was sent with is not configured here."
            raise Conflict(text, code="no_credential")
        call = await self._links.call(job, credential)
        lease = Lease(None, self._clock.monotonic() + LEASE_MS / 1000, self._clock)
        said = await self._conversations.hold(provider.status(call, provider_job_id), lease)
        if isinstance(said, Update):
            return said
        if isinstance(said, NotFound):
            text = (
                f"{provider.title} does not know {provider_job_id!r} under this key: {said.reason}. Compare it there."
            )
            raise Invalid(text, code="unknown_to_provider", param="provider_job_id")
        text = f"{provider.title} cannot be asked for {provider_job_id!r} now ({said.reason}). Nothing has changed."
        raise Unavailable(text, code="provider_unavailable")
