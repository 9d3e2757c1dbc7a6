"""The account that the sandbox's client has at a provider."""

from typing import Any, TypeVar

import msgspec

Number = int | float


class Account(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Top tier with ample credits, unless `PUT /_sandbox/{p}/account` says otherwise."""

    api_key: str = "sandbox"
    credits: Number = 1_000_000_000
    concurrency: int = 100_000
    retry_after_seconds: int = 1


AnyAccount = TypeVar("AnyAccount", bound=Account)


def changed(account: AnyAccount, body: bytes) -> AnyAccount:
    """The account with the fields that the body names; `msgspec.ValidationError` names an unknown field."""
    changes: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    return msgspec.convert({**msgspec.structs.asdict(account), **changes}, type(account))
