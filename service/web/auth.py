"""Who asks: the key, the tenant it acts in, the scope that the route wants."""

from service.accounts import Principal
from service.errors import Missing
from service.web.calls import Call
from service.web.problems import lacks_scope


async def authorized(call: Call, scope: str) -> Principal:
    """The principal. Raises 401 without a valid key, 403 where it lacks the scope, 404 for a tenant there is not."""
    accounts = call.context.accounts
    try:
        principal = await accounts.authenticate(call.headers.get("authorization"), call.headers.get("callsheet-tenant"))
    except Missing as missing:
        missing.param = "Callsheet-Tenant"
        raise
    if scope not in principal.scopes:
        raise lacks_scope(scope)
    return principal
