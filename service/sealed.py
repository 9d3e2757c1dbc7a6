"""The secrets that rows carry, sealed and opened: which text binds each to its row is said here alone."""

import msgspec

from service.crypto import Vault
from service.states import Record


class EndpointTarget(Record, frozen=True, kw_only=True):
    url: str
    headers: dict[str, str] = msgspec.field(default_factory=dict)


class SigningSecret(Record, frozen=True, kw_only=True):
    """One secret; `until` (milliseconds) is when a rotated one stops signing, None for the current."""

    secret: str
    until: int | None = None


class CredentialSecrets(Record, frozen=True, kw_only=True):
    api_key: str
    base_url: str
    callback_secret: str | None = None
    callback_id: str | None = None


_targets = msgspec.json.Decoder(EndpointTarget)
_secrets = msgspec.json.Decoder(tuple[SigningSecret, ...])
_credentials = msgspec.json.Decoder(CredentialSecrets)
_encode = msgspec.json.encode


class Sealed:
    """Seals under the first master key; every value is bound to its table, column, row and tenant."""

    def __init__(self, vault: Vault):
        self._vault = vault

    def seal_target(self, target: EndpointTarget, endpoint_id: str, tenant: int) -> bytes:
        return self._vault.seal(_encode(target), row=f"endpoints|target|{endpoint_id}|{tenant}")

    def target(self, blob: bytes, endpoint_id: str, tenant: int) -> EndpointTarget:
        return _targets.decode(self._vault.open(blob, row=f"endpoints|target|{endpoint_id}|{tenant}"))

    def seal_secrets(self, secrets: tuple[SigningSecret, ...], owner: str, tenant: int | str) -> bytes:
        """`owner` is an endpoint's id, or `tenant` for what signs a tenant's callback URLs."""
        return self._vault.seal(_encode(secrets), row=f"secrets|{owner}|{tenant}")

    def secrets(self, blob: bytes, owner: str, tenant: int | str) -> tuple[SigningSecret, ...]:
        return _secrets.decode(self._vault.open(blob, row=f"secrets|{owner}|{tenant}"))

    def seal_text(self, text: str, column: str, job_id: str, tenant: int) -> bytes:
        return self._vault.seal(text, row=f"jobs|{column}|{job_id}|{tenant}")

    def text(self, blob: bytes, column: str, job_id: str, tenant: int) -> str:
        return self._vault.open(blob, row=f"jobs|{column}|{job_id}|{tenant}").decode()

    def seal_credential(self, secrets: CredentialSecrets, tenant: int, provider: str, source: str) -> bytes:
        return self._vault.seal(_encode(secrets), row=f"credentials|{provider}|{source}|{tenant}")

    def credential(self, blob: bytes, tenant: int, provider: str, source: str) -> CredentialSecrets:
        return _credentials.decode(self._vault.open(blob, row=f"credentials|{provider}|{source}|{tenant}"))

    def seal_canary(self) -> bytes:
        return self._vault.seal("callsheet", row="meta|canary")

    def check_canary(self, blob: bytes) -> None:
        """Raise `WrongMasterKey` where the database was sealed by keys that are not here."""
        self._vault.open(blob, row="meta|canary")


def live(secrets: tuple[SigningSecret, ...], now: int) -> tuple[str, ...]:
    """The secrets that sign now: the current one and those within their overlap."""
    return tuple(item.secret for item in secrets if item.until is None or item.until > now)


def rotated(secrets: tuple[SigningSecret, ...], new: str, overlap_s: int, now: int) -> tuple[SigningSecret, ...]:
    """The new secret first; what signed until now does so for the overlap. At most ten sign at a time."""
    until = now + overlap_s * 1000
    older = [
        SigningSecret(secret=item.secret, until=until if item.until is None else min(item.until, until))
        for item in secrets
        if item.until is None or item.until > now
    ]
    kept = older[:9] if overlap_s > 0 else []
    return (SigningSecret(secret=new), *kept)
