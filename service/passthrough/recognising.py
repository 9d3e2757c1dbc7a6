"""What a caller's request is to the provider's own API: judged on the same text that is forwarded. Pure."""

from urllib.parse import parse_qsl

from service.errors import Invalid
from service.masking import Masks
from service.models import Credential
from service.passthrough.bodies import Asked
from service.passthrough.relaying import folded, overrides, safe_path, safe_query, tells, to_provider, without_extension
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
        return self.provider.address(self.credential.base_url, self.path) + (f"?{self.query}" if self.query else "")


def judged(asked: Asked) -> tuple[str, str]:
    """The path and the query as they are judged and forwarded. Raises `Invalid` where they could be read as others,
    or tell the key that the caller brought.
    """
    path, query = safe_path(asked.path), safe_query(asked.query)
    for place, text in (("path", path), ("query", query)):
        if tells(text, asked.secret):
            told = f"The key stands in the URL's {place}, where it is not swapped: send it in its header alone."
            raise Invalid(told, code="key_elsewhere", param=place)
    if (name := overrides(query)) is not None:
        told = f"`{name[:32]}` in the query names another method than the request's: send that method."
        raise Invalid(told, code="not_forwarded", param="query")
    return path, query


def recognised(provider: Provider, method: str, path: str, query: str, body: bytes) -> Recognised:
    """What the request is, also where it is written so that only a lenient server would take it for that."""
    method = "GET" if method == "HEAD" else method
    pairs = parse_qsl(query, keep_blank_values=True)
    named, plain = dict(pairs), folded(path)
    exact = provider.recognise(method, path, named, body)
    readings = [exact, *(provider.recognise(method, read, named, body) for read in (plain, without_extension(plain)))]
    for kind in ("account", "submit"):
        for seen in readings:
            if seen.kind == kind:
                return seen
    others = WRITES if method in WRITES else ()
    if any(provider.recognise(other, plain, named, b"").kind == "account" for other in others):
        return Recognised(kind="account")
    # Which of two equal names the provider reads is not known: such a status says nothing about a job of ours.
    return exact if len(named) == len(pairs) else Recognised(kind="plain")


def headers_for(aim: Aim, asked: Asked) -> dict[str, str]:
    key_header, api_key = aim.provider.key_header, aim.credential.api_key
    return to_provider(asked.headers, key_header=key_header, api_key=api_key, secret=asked.secret)
