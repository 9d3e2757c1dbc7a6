"""What a provider may call us by: an id of its dashboard, a URL per job, or nothing where it cannot reach us."""

from collections.abc import Callable
from urllib.parse import urlsplit

from service import addresses
from service.models import Credential, Job
from service.providers import Operation, Provider
from service.settings import Settings


class Calling:
    """`token_of` makes the unguessable part of a callback URL from its subject."""

    def __init__(self, *, settings: Settings, provider_of: Callable[[str], Provider], token_of: Callable[[str], str]):
        self._settings, self._provider_of, self._token_of = settings, provider_of, token_of

    def id_for(self, credential: Credential, operation: Operation) -> str | None:
        """The id under which the provider's dashboard knows our URL; None where it is polled instead."""
        provider = self._provider_of(credential.provider)
        if not provider.callback_per_account or credential.callback_secret is None:
            return None
        return credential.callback_id if self._calls(credential, operation) else None

    def url_for(self, job: Job, credential: Credential, operation: Operation) -> str | None:
        """The job's own URL, the same at every try: it was fixed when the job was accepted."""
        provider = self._provider_of(credential.provider)
        if provider.callback_per_account or not self._calls(credential, operation):
            return None
        origin = job.detail.callback_token_base or self._settings.public_url
        return f"{origin}/v1/callbacks/{provider.name}/{self._token_of(job.id)}"

    def reaches_us(self, credential: Credential) -> bool:
        """Whether the provider can open our URLs: it is on this machine, as a sandbox is, or we are public."""
        provider_is_here = addresses.is_loopback_host(urlsplit(credential.base_url).hostname or "")
        return provider_is_here or not self._settings.public_is_loopback

    def _calls(self, credential: Credential, operation: Operation) -> bool:
        given = self._settings.providers.get(credential.provider)
        wanted = operation.callback and not (given is not None and given.poll)
        return wanted and self.reaches_us(credential) and self._takes_our_url(credential)

    def _takes_our_url(self, credential: Credential) -> bool:
        """A URL that makes the provider refuse the submit is not given; a sandbox takes all."""
        only_https = self._provider_of(credential.provider).callback_https_only
        here = credential.source == "sandbox" or self._settings.public_is_loopback
        return here or not only_https or self._settings.public_url.startswith("https:")
