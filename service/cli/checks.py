"""What the doctor looks at. Each check is one finding; none of them moves a job or costs anything."""

import platform
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from service import __version__
from service.app import Service, build
from service.cli.checks_safety import unsafe
from service.cli.checks_storage import clocks, storage
from service.cli.environment import is_here
from service.cli.finding import Finding
from service.cli.printing import seconds
from service.clock import Clock, SystemClock
from service.conversation import LEASE_MS, Conversations, Lease
from service.errors import CallsheetError, LockHeld, Refusal, WrongMasterKey
from service.facts import NotNow, Unknown
from service.fleet import TERM_S
from service.ids import new_id
from service.providers import Call
from service.settings import Settings, SettingsError
from service.states import DEFAULT_TENANT
from service.stores import open_store
from service.views import Link

OLD_BACKLOG_MS = 5 * 60_000  # due for longer: no loop runs, or too few
PUBLIC_S = 5.0
NOBODYS = new_id("job", 0)  # of a job that there never was
OWN_LINK = "gone"  # what is said of its output, to a link of this service's own


async def examine(settings: Settings, clock: Clock | None = None) -> list[Finding]:
    """All findings, in the order in which one thing needs another. `clock` is this node's."""
    clock = clock or SystemClock()
    findings = [Finding("settings", "ok", "of the environment and .env, all of them known"), _runtime()]
    findings += unsafe(settings, Path())
    try:
        service = await build(settings, own_loops=False, clock=clock, open_database=partial(open_store, create=False))
    except CallsheetError as error:
        check = "master keys" if isinstance(error, WrongMasterKey | SettingsError) else "database"
        return [*findings, Finding(check, "failed", str(error)), await _public(settings, None)]
    try:
        findings += [finding async for finding in storage(service.context.store, settings)]
        if settings.database_path is None:
            findings.append(clocks(service.context.store.clock.now() - clock.now()))
        findings += [_master_keys(settings), await _public(settings, service.context.link)]
        findings += [finding async for finding in _providers(service)]
        findings += await _paused(service)
        return [*findings, await _backlog(service), await _writers(service)]
    finally:
        await service.close()


def _runtime() -> Finding:
    return Finding("runtime", "ok", f"Callsheet {__version__}, Python {platform.python_version()}")


def _master_keys(settings: Settings) -> Finding:
    where = "CALLSHEET_MASTER_KEYS" if settings.master_keys else f"{settings.database_path}.key"
    return Finding("master keys", "ok", f"they open what is stored; keep a copy of {where} where no backup is")


async def _public(settings: Settings, link: Link | None) -> Finding:
    """Whether this service answers at its public URL, asked as anybody would.

    By a link that only these master keys make, to an output that there is not: another service does not know it.
    """
    import httpx2

    transport = httpx2.AsyncHTTPTransport() if is_here(settings.public_url) else None
    try:
        async with httpx2.AsyncClient(transport=transport, timeout=PUBLIC_S) as http:
            health = await http.get(f"{settings.public_url}/health")
            known = health.status_code == 200 and health.json().get("status") == "ok"
            mine = await http.get(link(NOBODYS, 0) or "") if known and link is not None else None
            said = _not_this(health.status_code, known, mine.json().get("code") if mine is not None else OWN_LINK)
    except ImportError:
        said = "cannot be asked: the environment names a SOCKS proxy, which is not taken (ALL_PROXY; NO_PROXY excepts)"
    except (httpx2.TransportError, httpx2.InvalidURL, ValueError, AttributeError) as error:
        said = f"does not answer ({error or type(error).__name__}): is `callsheet serve` running?"
    if said is None:
        return Finding("public URL", "ok", f"{settings.public_url} is this service")
    # On loopback nobody waits for it: the doctor is often asked before the service is started.
    state = "warning" if settings.public_is_loopback else "failed"
    return Finding("public URL", state, f"{settings.public_url} {said}")


def _not_this(status: int, known: bool, code: str | None) -> str | None:
    """What answers there instead; None where it is this service."""
    if not known:
        return f"answers HTTP {status}, and not as Callsheet does: another program has the address or the port"
    if code == OWN_LINK:
        return None
    return "is another service, or has other master keys: compare CALLSHEET_PUBLIC_URL and CALLSHEET_MASTER_KEYS there"


async def _providers(service: Service) -> AsyncIterator[Finding]:
    accounts = service.context.accounts
    default = (await accounts.tenant(DEFAULT_TENANT)).num
    asked = 0
    for name in sorted(service.context.providers):
        try:
            credential = await accounts.credential(default, name)
        except Refusal:
            continue
        asked += 1
        call = Call(operation="", input={}, api_key=credential.api_key, base_url=credential.base_url)
        yield await _provider(service, name, call)
    if not asked:
        remedy = "set CALLSHEET_PIXVERSE_API_KEY or another's, or CALLSHEET_SANDBOX_URL"
        yield Finding("providers", "warning", f"none is configured: {remedy}")


async def _provider(service: Service, name: str, call: Call) -> Finding:
    """One free call through the door that jobs use."""
    clock = service.context.clock
    lease = Lease(None, clock.monotonic() + LEASE_MS / 1000, clock)
    try:
        said = await Conversations(service.egress).hold(service.context.providers[name].check(call), lease)
    except Refusal as refused:
        return Finding(name, "failed", refused.detail)
    if isinstance(said, NotNow | Unknown):
        return Finding(name, "failed", f"{call.base_url} could not be asked: {said.reason}")
    return Finding(name, "ok", said)


async def _paused(service: Service) -> list[Finding]:
    """Credentials that their provider refused: what is queued behind them waits for a person."""
    found = []
    for num, reason in (await service.context.store.paused_credentials()).items():
        credential = await service.context.accounts.credential_by_number(num)
        name = credential.provider if credential is not None else f"credential {num}"
        remedy = f"mend it at the provider, then `callsheet credentials resume {name}`"
        found.append(Finding("credentials", "warning", f"{name} is paused ({reason}), its jobs wait: {remedy}"))
    return found


async def _backlog(service: Service) -> Finding:
    waits = {name: row for name, row in (await service.context.store.backlog()).items() if row["count"]}
    if not waits:
        return Finding("backlog", "ok", "nothing is due")
    said = [
        f"{row['count']} to {name}, the oldest since {seconds(row['oldest_ms'] / 1000)}" for name, row in waits.items()
    ]
    old = any(row["oldest_ms"] > OLD_BACKLOG_MS for row in waits.values())
    return Finding("backlog", "warning" if old else "ok", "; ".join(said), waits)


async def _writers(service: Service) -> Finding:
    """Who runs the loops; on SQLite, asking means to hold their lock for a moment."""
    nodes = await service.context.store.nodes(int(TERM_S * 1000))
    if nodes == 0:
        return Finding("loops", "warning", "no node runs them: start one, --role worker or all", {"nodes": 0})
    if nodes is not None:
        return Finding("loops", "ok", f"run by {nodes} node{'s' * (nodes > 1)} now", {"nodes": nodes})
    try:
        service.context.store.own_loops("doctor")
        service.context.store.release_loops()
    except LockHeld as held:
        return Finding("loops", "ok", str(held))
    return Finding("loops", "ok", "no process runs them now")
