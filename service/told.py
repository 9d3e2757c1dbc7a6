"""What strangers were told of ours, and is kept out of what they say: keys, tokens, URLs, headers."""

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from msgspec.structs import replace

from service.errors import Refusal
from service.masking import Masks
from service.models import Credential
from service.providers import Reply, Request

V = TypeVar("V")
Beside = Callable[[str], Iterable[str]]  # of an API key: what else its provider knows of us

MUCH_BYTES = 512 * 1024
_KEY_NAME = re.compile(r"auth|key|token|secret", re.IGNORECASE)
_NO_SECRETS = frozenset({"idempotency-key"})


class Told:
    """Of one conversation. A reply in which nothing of it stands costs one search, and its verdict none."""

    def __init__(self, beside: Beside):
        self._beside, self._secrets = beside, set[str]()
        self._repeated = False  # something of it stands in a reply
        self.much = False  # was said: what is made of it is not to be masked between two turns of the loop

    def heard(self, request: Request, reply: Reply) -> None:
        self._secrets |= set(_secrets_of(request, self._beside))
        if request.for_secret:
            return
        self.much = self.much or len(reply.body) > MUCH_BYTES
        said = "\n".join(reply.headers.values()).encode("utf-8", "surrogatepass")
        masks = Masks(self._secrets)
        self._repeated = self._repeated or masks.finds(reply.body) or masks.finds(said)

    def kept_out(self, verdict: V) -> V:
        """The verdict as it may be stored, logged, announced and shown."""
        return Masks(self._secrets).inside(verdict) if self._repeated else verdict

    def without_echo(self, request: Request) -> Request:
        """The request as it is written down: what it keeps of earlier replies is the provider's words, too."""
        return replace(request, keep=self.kept_out(request.keep)) if self._repeated else request

    def kept_out_of(self, error: Exception) -> None:
        """Its text, too, is logged or shown."""
        if self._repeated:
            error.args = Masks(self._secrets).inside(error.args)
            if isinstance(error, Refusal):
                error.detail = Masks(self._secrets).text(error.detail)


def masks_of_target(url: str, headers: Mapping[str, str], secrets: Iterable[str]) -> Masks:
    """What a subscriber's URL was told, and what it verifies us by."""
    values = [part for value in headers.values() for part in of_header(value)]
    return Masks([*of_url(url), *values, *(part for secret in secrets for part in of_secret(secret))])


def masks_of(credential: Credential, *more: str) -> Masks:
    """What the credential's provider knows of us, and more that it was told."""
    return Masks([*of_secret(credential.api_key), *of_secret(credential.callback_secret or ""), *more])


def masks_of_request(request: Request) -> Masks:
    """Of one request by itself."""
    return Masks(_secrets_of(request, lambda _key: ()))


def _secrets_of(request: Request, beside: Beside) -> Iterator[str]:
    for value in _keys(request.headers):
        yield from of_header(value)
        yield from beside(value.rpartition(" ")[2])
    yield from tokens_in(request.url.encode("utf-8", "surrogatepass"))
    yield from tokens_in(request.body)


def _keys(headers: Mapping[str, str]) -> Iterator[str]:
    for name, value in headers.items():
        if _KEY_NAME.search(name) and name.lower() not in _NO_SECRETS:
            yield value


# -- what is secret of what we send


def tokens_in(data: bytes) -> Iterator[str]:
    """The callback tokens that stand in it as they are."""
    for start, end in Masks().spans(data):
        yield data[start:end].decode("latin-1")


def of_secret(secret: str) -> Iterator[str]:
    """A key or a signing secret, and its part that is secret without the rest: behind `whsec_`, behind `id:`."""
    yield secret
    yield secret.rpartition("whsec_")[2]
    yield secret.rpartition(":")[2]


def of_header(value: str) -> Iterator[str]:
    """A header's value, what stands behind its scheme, and what HTTP's Basic carries (RFC 7617)."""
    yield value
    scheme, _, rest = value.partition(" ")
    yield from of_secret(rest.strip())
    if scheme.lower() == "basic":
        try:
            yield from of_secret(base64.b64decode(rest.strip(), validate=True).decode())
        except ValueError:
            return


def of_url(url: str) -> Iterator[str]:
    """A URL that nobody else is to know: as it is, as a server sees it, and each of its parts."""
    yield url
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    yield f"{parts.path}?{parts.query}" if parts.query else parts.path
    for part in (*parts.path.split("/"), *re.split("[&=]", parts.query)):
        yield part
        yield unquote(part)
