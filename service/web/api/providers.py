"""A provider from the tenant's side: credentials, quotes, balance, catalogs."""

from decimal import Decimal

from service.models import CredentialRow
from service.providers import Documented, Provider
from service.sealed import CredentialSecrets
from service.states import Json
from service.views import cost_view, instant
from service.web.calls import Call
from service.web.lists import whole
from service.web.replies import NO_CONTENT, Reply, json_reply

# -- credentials


async def put_credential(call: Call) -> Reply:
    """Write-only: the answer tells where the provider shall call, never the key."""
    provider, credentials, given = _provider(call), call.context.accounts.credentials, call.body
    secrets = CredentialSecrets(
        api_key=given.api_key,
        base_url=credentials.base_url(provider.name),
        callback_secret=given.callback_secret,
        callback_id=given.callback_id,
    )
    row = await credentials.put(call.tenant, provider.name, secrets)
    return json_reply(_credential_view(call, row))


async def credential(call: Call) -> Reply:
    """What new submits use, wherever it was given."""
    row = await call.context.accounts.credentials.row(call.tenant, _provider(call).name)
    return json_reply(_credential_view(call, row))


async def delete_credential(call: Call) -> Reply:
    await call.context.accounts.credentials.drop(call.tenant, _provider(call).name)
    return NO_CONTENT


async def resume_credential(call: Call) -> Reply:
    """Ends what holds its submits back: a pause, once what was wrong is mended at the provider, and any wait."""
    credentials, name = call.context.accounts.credentials, _provider(call).name
    row = await credentials.row(call.tenant, name)
    await call.context.store.resume_credential(row.num)
    await call.context.gates.refresh(now=True)
    call.context.loops.wake()
    return json_reply(_credential_view(call, await credentials.row(call.tenant, name)))


def _credential_view(call: Call, row: CredentialRow) -> Json:
    return {
        "provider": row.provider,
        "source": row.source,
        "callback_url": call.context.accounts.credentials.callback_url(row),
        "created_at": instant(row.created_at),
        "updated_at": instant(row.updated_at),
        "paused_at": instant(row.paused_at),
        "paused_reason": row.paused_reason,
    }


# -- quotes, balance


async def quote(call: Call) -> Reply:
    """Spends nothing, makes no job."""
    found = await call.context.offers.quote(call.tenant, call.path["provider"], call.body.operation, call.body.input)
    return json_reply({"cost": cost_view(found.cost), "reason": found.reason})


async def balance(call: Call) -> Reply:
    """What is left at the provider, in its own unit."""
    said = dict(await call.context.offers.balance(call.tenant, call.path["provider"]))
    amount, unit, data = said.pop("amount", None), said.pop("unit", None), said.pop("provider_data", None)
    shown = None if amount is None else amount if isinstance(amount, str) else f"{Decimal(str(amount)):f}"
    return json_reply({"amount": shown, "unit": unit, "provider_data": {**said, **(data or {})} or None})


# -- catalogs


async def catalogs(call: Call) -> Reply:
    """The kinds that there are."""
    kinds = call.context.offers.kinds(call.path["provider"])
    return whole([_kind_view(kind, row) for kind, row in kinds.items()])


def _kind_view(kind: str, row: Documented | None) -> Json:
    return {"kind": kind, "documented": len(row.data) if row else 0, "as_of": row.as_of if row else None}


async def catalog(call: Call) -> Reply:
    found = await call.context.offers.catalog(call.tenant, call.path["provider"], call.path["kind"])
    return json_reply({"data": list(found.data), "source": found.source, "as_of": found.as_of})


def _provider(call: Call) -> Provider:
    return call.context.offers.provider(call.path["provider"])
