"""Keys, tenants and the tenant's callback secret."""

from service.accounts import key_view
from service.errors import Invalid
from service.models import Tenant
from service.states import Json
from service.views import instant, parse_instant
from service.web.calls import Call
from service.web.lists import sliced
from service.web.replies import NO_CONTENT, Reply, json_reply


async def create_key(call: Call) -> Reply:
    """201 with the key's text, shown this once."""
    given = call.body
    tenant = given.tenant if given.tenant is not None else call.who.tenant_name
    expires_at = _expiry(call, given.expires_at)
    made = await call.context.accounts.create_key(tenant, given.name, tuple(given.scopes), expires_at)
    return json_reply(made, 201)


def _expiry(call: Call, text: str | None) -> int | None:
    if text is None:
        return None
    at = parse_instant(text)
    if at is None or at <= call.context.clock.now():
        raise Invalid("`expires_at` must be an RFC 3339 time with a zone, in the future.", param="expires_at")
    return at


async def keys(call: Call) -> Reply:
    """Of all tenants, or of the one that is named."""
    named = call.query.get("tenant")
    tenant = (await call.context.accounts.tenant(named)).num if named is not None else None
    return sliced(call, await call.context.store.keys(tenant), key_view)


async def revoke_key(call: Call) -> Reply:
    await call.context.accounts.revoke_key(call.path["key_id"], None)
    return NO_CONTENT


async def create_tenant(call: Call) -> Reply:
    """201 and the tenant: made now, or the one that there is."""
    return json_reply(_tenant_view(await call.context.accounts.create_tenant(call.body.name)), 201)


async def tenants(call: Call) -> Reply:
    return sliced(call, await call.context.store.tenants(), _tenant_view)


async def delete_tenant(call: Call) -> Reply:
    await call.context.accounts.delete_tenant(call.path["tenant"])
    return NO_CONTENT


def _tenant_view(tenant: Tenant) -> Json:
    return {"name": tenant.name, "created_at": instant(tenant.created_at)}


async def callback_secret(call: Call) -> Reply:
    current = (await call.context.accounts.callback_secrets(call.tenant))[0]
    return json_reply({"secret": current})


async def rotate_callback_secret(call: Call) -> Reply:
    overlap_s = call.body.overlap_seconds
    secret = await call.context.accounts.rotate_callback_secret(call.who.tenant_name, overlap_s)
    return json_reply({"secret": secret, "previous_until": instant(call.context.clock.now() + overlap_s * 1000)})
