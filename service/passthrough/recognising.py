"""What a caller's request is to the provider's own API: judged on the same text that is forwarded. Pure."""

from urllib.parse import parse_qsl

from service.masking import Masks
from service.models import Credential
from service.passthrough.bodies import Asked
from service.passthrough.relaying import folded, to_provider
from service.providers import Provider, Recognised
from service.states import Record

WRITES = ("POST", "PUT", "PATCH", "DELETE")


class Aim(Record, frozen=True, kw_only=True):
    """Where a request goes, and what it is there."""

    provider: Provider
    credential: Credential
    path: str
    query: str
    seen: Recognised
    tenant: int
    masks: Masks  # of what the provider's words must not show to the caller, nor to anybody

    @property
    def url(self) -> str:
        return self.credential.base_url + self.path + (f"?{self.query}" if self.query else "")


def recognised(provider: Provider, method: str, path: str, query: str, body: bytes) -> Recognised:
    """What the request is, also where it is written so that only a lenient server would take it for that."""
    method = "GET" if method == "HEAD" else method
    pairs = parse_qsl(query, keep_blank_values=True)
    named = dict(pairs)
    exact, plain = provider.recognise(method, path, named, body), folded(path)
    if exact.kind in ("submit", "account"):
        return exact
    lenient = provider.recognise(method, plain, named, body)
    if lenient.kind in ("submit", "account"):
        return lenient
    others = WRITES if method in WRITES else ()
    if any(provider.recognise(other, plain, named, b"").kind == "account" for other in others):
        return Recognised(kind="account")
    # Which of two equal names the provider reads is not known: such a status says nothing about a job of ours.
    return exact if len(named) == len(pairs) else Recognised(kind="plain")


def headers_for(aim: Aim, asked: Asked) -> dict[str, str]:
    key_header, api_key = aim.provider.key_header, aim.credential.api_key
    return to_provider(asked.headers, key_header=key_header, api_key=api_key, secret=asked.secret)
