"""Who asks: the key, the tenant it acts in, the scope that the route wants."""

from service.accounts import Principal
from service.errors import Missing, Unauthenticated
from service.web.calls import Call
from service.web.problems import lacks_scope

_OURS = ("Authorization", "Bearer ")


async def authorized(call: Call, scope: str) -> Principal:
    """The principal. Raises 401 without a valid key, 403 where it lacks the scope, 404 for a tenant there is not."""
    accounts = call.context.accounts
    authorization = _passed_key(call) if call.route.passes else call.headers.get("authorization")
    try:
        principal = await accounts.authenticate(authorization, call.headers.get("callsheet-tenant"))
    except Missing as missing:
        missing.param = "Callsheet-Tenant"
        raise
    if scope not in principal.scopes:
        raise lacks_scope(scope)
    return principal


def _passed_key(call: Call) -> str:
    """On a provider's own API the key may stand where that provider's would: its scripts run unchanged."""
    provider = call.context.providers.get(call.path["provider"])
    places = (provider.key_header, _OURS) if provider is not None else (_OURS,)
    for name, prefix in places:
        value = call.headers.get(name.lower(), "")
        if value.lower().startswith(prefix.lower()) and len(value) > len(prefix):
            call.key = value[len(prefix) :].strip()
            return f"Bearer {call.key}"
    shown = " or ".join(f"`{name}: {prefix}<key>`" for name, prefix in dict.fromkeys(places))
    raise Unauthenticated(f"Send {shown}, with a key of this service; `callsheet keys create` makes one.")
