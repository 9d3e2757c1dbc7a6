"""What `serve` says aloud when it starts: what is reached from where, and what is still missing."""

from urllib.parse import unquote, urlsplit

from service.cli.environment import is_here
from service.errors import Refusal
from service.models import Credential
from service.settings import Settings
from service.states import DEFAULT_TENANT
from service.web.context import Context

PORTS = {"http": 80, "https": 443}


async def facts(context: Context, url: str, *, alone: bool) -> list[str]:
    """One line per fact, each with its remedy where it needs one. `alone`: providers call this very process."""
    settings = context.settings
    lines = [f"  public URL  {settings.public_url} (CALLSHEET_PUBLIC_URL)"]
    if settings.public_is_loopback:
        lines.append("              on loopback: endpoints on loopback are allowed, over plain http too,")
        lines.append("              and providers that are not on this machine cannot call back: they are polled")
        lines += _elsewhere(settings.public_url, url) if alone else []
    lines += await _providers(context)
    lines.append(f"  database    {settings.database_path or without_password(settings.database_url)}")
    if settings.api_key is None and not await context.store.keys(None):
        lines.append("  keys        none exists yet: `callsheet keys create --name me --scope admin` makes one")
    return lines


def without_password(url: str) -> str:
    """The database's URL as it may be shown: without passwords, which libpq takes from the query, too."""
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    shown = [pair for pair in parts.query.split("&") if "password" not in unquote(pair).lower()]
    query = "&".join(filter(None, shown))
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{place}{parts.path}" + (f"?{query}" if query else "")


def restored(jobs: int) -> list[str]:
    """What this start made of a database that is a copy."""
    return [
        f"  restored    from a backup: {jobs} jobs may have been submitted since it was taken, and are `unknown`;",
        "              `callsheet reconcile` adopts what a provider lists, `callsheet jobs resolve` settles the rest",
    ]


def _elsewhere(public_url: str, url: str) -> list[str]:
    """Where the public URL is not what this listens on, no callback arrives."""
    public, own = urlsplit(public_url), urlsplit(url)
    if (public.scheme, public.port or PORTS[public.scheme]) == (own.scheme, own.port):
        return []
    return [f"              but this listens elsewhere: set CALLSHEET_PUBLIC_URL={own.scheme}://127.0.0.1:{own.port}"]


async def _providers(context: Context) -> list[str]:
    lines, default = [], (await context.accounts.tenant(DEFAULT_TENANT)).num
    for name in sorted(context.providers):
        try:
            credential = await context.accounts.credential(default, name)
        except Refusal:
            continue
        learns = _polled_because(context, credential) or "it calls back, and is polled where that is late"
        where = " in the sandbox" if credential.source == "sandbox" else ""
        lines.append(f"  {name:<10}  {context.providers[name].title}{where}: {learns}")
    return lines or ["  providers   none: set CALLSHEET_PIXVERSE_API_KEY or another's, or CALLSHEET_SANDBOX_URL"]


def _polled_because(context: Context, credential: Credential) -> str | None:
    settings: Settings = context.settings
    name, given = credential.provider.upper(), settings.providers.get(credential.provider)
    if not any(operation.callback for operation in context.providers[credential.provider].operations.values()):
        return "polled, it has no callbacks"
    if given is not None and given.poll:
        return f"polled, as CALLSHEET_{name}_POLL says"
    if settings.public_is_loopback and not is_here(credential.base_url):
        return "polled, as it cannot call a loopback address"
    if context.providers[credential.provider].callback_per_account and credential.callback_id is None:
        return f"polled, as there is no CALLSHEET_{name}_CALLBACK_ID"
    return None
