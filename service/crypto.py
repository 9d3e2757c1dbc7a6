"""Secrets at rest, tokens that prove themselves, API keys, and keeping all of them out of logs.

What sealing protects: backups and stolen database files. Who took the host has the master keys too.
"""

import base64
import hashlib
import hmac
import logging
import re
import secrets
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from service.errors import WrongMasterKey

KEY_BYTES = 32
NONCE_BYTES = 12  # random ones are safe up to 2**32 secrets per key (NIST SP 800-38D 8.3)
TAG_BYTES = 16  # of a sealed blob, and of a token
BLOB_VERSION = 1
MAX_TOKEN_CHARS = 256
_RESTORE = (
    "give CALLSHEET_MASTER_KEYS (or, where it is not set, the file <database>.key beside a SQLite database) the keys"
    " that this database was served with, from where they were kept"
)

API_KEY_PREFIX = "cs_sk_"
BODY_CHARS, LOOKUP_CHARS, CHECK_CHARS = 32, 8, 6  # 190 random bits; the part that lists show; CRC-32 in base 62
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_API_KEY = re.compile(rf"({API_KEY_PREFIX}[0-9A-Za-z]{{{BODY_CHARS}}})([0-9A-Za-z]{{{CHECK_CHARS}}})")


class Secret:
    """A text that shows only when asked: `***` as repr, str, format and pickle, and in JSON with `default=str`.

    Not a `str`, so that encoders and string methods cannot reach it by accident. Compares in constant time.
    """

    __slots__ = ("__text",)

    def __init__(self, text: str):
        self.__text = text

    def reveal(self) -> str:
        """The text itself."""
        return self.__text

    def __repr__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and same(_utf8(self.__text), _utf8(other.__text))

    def __hash__(self) -> int:
        return hash(self.__text)

    def __reduce__(self) -> tuple[type["Secret"], tuple[str]]:
        return Secret, ("***",)

    def __deepcopy__(self, memo: object = None) -> "Secret":
        return self  # by way of __reduce__ a copied Settings would lose its keys

    __copy__ = __deepcopy__


@dataclass(frozen=True)
class MasterKey:
    id: str
    secret: bytes = field(repr=False)


class Vault:
    """Seals and signs with the first master key; opens and verifies with any. Raises ValueError for unusable keys."""

    def __init__(self, keys: Sequence[MasterKey]):
        _check(keys)
        self.key_id = keys[0].id
        self._keys = tuple(keys)
        # Kept, because making the cipher costs more than using it.
        self._ciphers = {key.id: AESGCM(_derive(key, "at rest")) for key in keys}
        self._mac_keys: dict[str, tuple[bytes, ...]] = {}

    @classmethod
    def parse(cls, text: str) -> "Vault":
        """From `k2:base64,k1:base64`, newest first. Raises ValueError that tells the remedy and never the key."""
        return cls([_parse_key(item.strip(), place) for place, item in enumerate(text.split(","), start=1)])

    def seal(self, plain: bytes | str, *, row: str) -> bytes:
        """AES-256-GCM under the first key, bound to `row`, a text such as `endpoints|secret|ep_1|default`.

        The blob: version byte, length of the key id, key id, 12-byte nonce, ciphertext with its tag.
        """
        plain = _utf8(plain) if isinstance(plain, str) else plain
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._ciphers[self.key_id].encrypt(nonce, plain, _utf8(row))
        return bytes((BLOB_VERSION, len(self.key_id))) + self.key_id.encode("ascii") + nonce + sealed

    def open(self, blob: bytes, *, row: str) -> bytes:
        """What was sealed for this row. Raises WrongMasterKey if its key is not here, or blob or row were changed."""
        key_id, rest = _split(blob)
        cipher = self._ciphers.get(key_id)
        if cipher is None or len(rest) < NONCE_BYTES + TAG_BYTES:
            raise WrongMasterKey(
                f"a stored secret is sealed under the key {key_id!r}, which is not among the master keys: {_RESTORE}"
            )
        try:
            return cipher.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], _utf8(row))
        except InvalidTag:
            raise WrongMasterKey(
                f"a stored secret does not open: another key of the id {key_id!r}, or it was changed: {_RESTORE}"
            ) from None

    def needs_rekey(self, blob: bytes) -> bool:
        """Whether the blob is sealed under another key than the first."""
        return _split(blob)[0] != self.key_id

    def mac(self, purpose: str, text: bytes) -> bytes:
        """HMAC-SHA256 (32 bytes) under the first key; `purpose` is a constant that keeps uses apart."""
        return hmac.digest(self._keys_for(purpose)[0], text, "sha256")

    def mac_matches(self, purpose: str, text: bytes, tag: bytes) -> bool:
        """Whether any key made this whole tag, in constant time."""
        return any([same(hmac.digest(key, text, "sha256"), tag) for key in self._keys_for(purpose)])

    def callback_token(self, subject: str) -> str:
        """`subject-tag`, for a URL that nobody can guess: the tag is 128 bits of MAC in 26 letters and digits."""
        return f"{subject}-{_token_tag(self._keys_for('callback token')[0], subject)}"

    def read_token(self, token: str) -> str | None:
        """The subject of a callback token that any of our keys made, else None."""
        subject, _, tag = token.rpartition("-")
        if not subject or len(token) > MAX_TOKEN_CHARS or not token.isascii():
            return None
        # As text: base32 has several spellings of these 16 bytes, and we made one.
        tags = [_token_tag(key, subject) for key in self._keys_for("callback token")]
        return subject if any([same(made.encode(), tag.encode()) for made in tags]) else None

    def _keys_for(self, purpose: str) -> tuple[bytes, ...]:
        if purpose not in self._mac_keys:
            self._mac_keys[purpose] = tuple(_derive(key, f"mac/{purpose}") for key in self._keys)
        return self._mac_keys[purpose]


def generate_master_key() -> str:
    """A fresh master key as `k1:base64`."""
    return "k1:" + base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def same(a: bytes, b: bytes) -> bool:
    """Equality in constant time."""
    return hmac.compare_digest(a, b)


@dataclass(frozen=True)
class ApiKey:
    text: str = field(repr=False)  # shown once, never stored
    lookup: str  # unique enough to find the row by
    digest: bytes = field(repr=False)  # SHA-256; slow hashes are for passwords, this has 190 random bits


def new_api_key() -> ApiKey:
    """A fresh key: `cs_sk_`, 32 base62 characters, and the CRC-32 of all that (GitHub's token format)."""
    head = API_KEY_PREFIX + "".join(secrets.choice(BASE62) for _ in range(BODY_CHARS))
    text = head + _checksum(head)
    return ApiKey(text, *_stored(text))


def read_api_key(text: str) -> tuple[str, bytes] | None:
    """(lookup, digest) of a key's text; None where its form or checksum is wrong, so that typos cost no query."""
    match = _API_KEY.fullmatch(text)
    if match is None or _checksum(match[1]) != match[2]:
        return None
    return _stored(text)


# Quantifiers are bounded where a rule may start often: a hostile megabyte must not take minutes.
_NAME = (
    r"(?:[a-z0-9]{1,32}[-_]){0,5}(?:api[-_]?key|app[-_]?key|secret|password|master[-_]keys?|token|signature)"
    r"|x-key|(?:set-)?cookie|sig"
)
_QUOTE = r"\\{0,8}[\"']"
_RULES = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"(wh(?:sec|sk)_)[a-z0-9+/=_-]+", r"\1***"),
        (r"\b(cs_[a-z]{2}_)[0-9a-z]+", r"\1***"),
        (r"\b(sk-)[a-z0-9_-]{16,}", r"\1***"),
        (r"\b[a-z0-9_-]{1,32}:[a-z0-9+/]{43}=", "***"),  # a master key
        (r"\b([a-z]{2,8}_[0-9a-z]{1,64}-(?:[0-9]{1,16}-)?)[a-z2-7]{26}\b", r"\1***"),  # a token outside its URL
        (r"(/v1/(?:callbacks/[^/\s?#\"'<>]+|outputs|files/content)/)[^/\s?#\"'<>]+", r"\1***"),
        (r"(://)[^/\s\"'<>@]{1,512}@", r"\1***@"),
        (r"(?<=\S)\?(?=[\w%&=])[^\s\"'<>]+", "?***"),  # a URL's query, of a whole URL or an access log's path
        (rf"(\bauthorization(?:{_QUOTE})?\s*[:=,]\s*b?(?:{_QUOTE})?)[^\"'\\\r\n]+", r"\1***"),
        (r"\b(bearer\s+)[^\s\"',;\\]+", r"\1***"),
        (rf"(\b(?:{_NAME})(?:{_QUOTE})?\s*[:=,]\s*b?{_QUOTE})[^\"'\\]+", r"\1***"),  # quoted: JSON, repr
        (rf"(\b(?:{_NAME})\s*[:=]\s*)[^\s\"'&;\\]+", r"\1***"),  # bare: a header, a variable
    )
)


def redact(text: str) -> str:
    """The text without what looks like a secret of ours, a provider's key, a callback token or a URL's query.

    The last line of defence, for logs: it knows shapes and names, not values. Redacting twice changes nothing more.
    """
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


class RedactingFilter(logging.Filter):
    """Put on a logging handler it redacts messages, arguments, tracebacks and extra fields, and drops nothing.

    `known` are secrets to be removed by value too, whatever their shape, from 8 characters on: shorter are words.
    """

    def __init__(self, known: Iterable[Secret] = ()):
        super().__init__()
        self._known = tuple(secret.reveal() for secret in known if len(secret.reveal()) >= 8)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info:
            record.exc_text = record.exc_text or logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        for name, value in list(vars(record).items()):
            if isinstance(value, str):
                setattr(record, name, self._clean(value))
        # Arguments first and on their own: uvicorn's access log wants to find five of them.
        if isinstance(record.args, tuple):
            record.args = tuple(self._clean(arg) if isinstance(arg, str) else arg for arg in record.args)
        self._clean_message(record)
        return True

    def _clean_message(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # logging would print the arguments to stderr
            message, record.msg, record.args = "", "a log message whose arguments do not fit it", ()
        if self._clean(message) != message:
            record.msg, record.args = self._clean(message), ()

    def _clean(self, text: str) -> str:
        for value in self._known:
            text = text.replace(value, "***")
        return redact(text)


def _check(keys: Sequence[MasterKey]) -> None:
    if not keys or len({key.id for key in keys}) != len(keys):
        raise ValueError("there is no master key, or two have the same id: give id:base64,id:base64")
    for key in keys:
        if not _KEY_ID.fullmatch(key.id):
            raise ValueError("a master key's id must be 1 to 32 letters, digits, '-' or '_', as in k1:base64")
        if len(key.secret) != KEY_BYTES:
            raise ValueError(f"master key {key.id} has {len(key.secret)} bytes: give {KEY_BYTES}, base64 encoded")


def _parse_key(item: str, place: int) -> MasterKey:
    key_id, colon, text = item.partition(":")
    if not colon:
        raise ValueError(f"master key number {place} has no id: write id:base64, as in k1:base64")
    try:
        secret = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise ValueError(f"master key number {place} is not base64: make one with 'callsheet init'") from None
    return MasterKey(key_id.strip(), secret)


def _derive(key: MasterKey, purpose: str) -> bytes:
    info = f"callsheet/{purpose}".encode()
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key.secret)


def _split(blob: bytes) -> tuple[str, bytes]:
    if len(blob) < 2 or blob[0] != BLOB_VERSION:
        raise WrongMasterKey("a stored secret is not in a form that this version knows")
    end = 2 + blob[1]
    return blob[2:end].decode("latin-1"), blob[end:]


def _token_tag(key: bytes, subject: str) -> str:
    tag = hmac.digest(key, _utf8(subject), "sha256")[:TAG_BYTES]
    return base64.b32encode(tag).decode().rstrip("=").lower()


def _checksum(head: str) -> str:
    number = zlib.crc32(head.encode())
    return "".join(BASE62[number // 62**place % 62] for place in reversed(range(CHECK_CHARS)))


def _stored(text: str) -> tuple[str, bytes]:
    body = text.removeprefix(API_KEY_PREFIX)
    return body[:LOOKUP_CHARS], hashlib.sha256(text.encode()).digest()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
