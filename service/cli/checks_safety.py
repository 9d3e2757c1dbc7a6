"""What the doctor says of settings and files that work, and are not safe. Pure but for file modes."""

import stat
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

from service.cli.finding import Finding
from service.settings import Settings

HOUR_S = 3_600
WIDE = {4: 8, 6: 16}  # networks with shorter prefixes are no choice of hosts
LOOPBACK = tuple(map(ip_network, ("127.0.0.0/8", "::1/128")))
METADATA = tuple(map(ip_network, ("169.254.0.0/16", "fd00:ec2::254/128")))  # where clouds hand out credentials


def unsafe(settings: Settings, folder: Path) -> list[Finding]:
    """One finding for each unsafe thing; one that says so where there is none. `folder` has the `.env`."""
    found = [*_public(settings), *_egress(settings), *_readable(settings, folder)]
    return found or [Finding("safety", "ok", "no setting and no file mode that is known to be unsafe")]


def _public(settings: Settings) -> Iterator[Finding]:
    """What is fine on a machine of one's own, and not where providers and clients come from elsewhere."""
    if settings.public_is_loopback:
        return
    if settings.public_url.startswith("http://"):
        detail = "callbacks, their tokens and API keys cross the network in the clear: give an https URL"
        yield Finding("CALLSHEET_PUBLIC_URL", "failed", f"plain http: {detail}")
    if settings.sandbox_url is not None:
        detail = "providers without a key of their own are played by a sandbox, not run: remove it"
        yield Finding("CALLSHEET_SANDBOX_URL", "failed", detail)
    covered = sum(settings.retry_schedule)
    if len(settings.retry_schedule) < 2 or covered < HOUR_S:
        detail = f"{len(settings.retry_schedule)} attempts within {timedelta(seconds=int(covered))}"
        remedy = "a subscriber that is down for longer loses events until they are resent: remove it for the default"
        yield Finding("CALLSHEET_RETRY_SCHEDULE", "warning", f"{detail}; {remedy}")
    if (database := settings.database_path) is not None and not database.is_absolute():
        detail = f"{database} is relative: started elsewhere, the service makes a new one; write sqlite:////an/absolute"
        yield Finding("CALLSHEET_DATABASE_URL", "warning", detail)


def _egress(settings: Settings) -> Iterator[Finding]:
    for network in settings.egress_allow:
        if network.prefixlen < WIDE[network.version]:
            detail = "lets deliveries reach nearly everything, this machine and cloud metadata included: name your own"
        elif any(network.version == other.version and network.overlaps(other) for other in METADATA):
            detail = "lets deliveries reach cloud metadata, which hands out credentials: remove it"
        elif not settings.public_is_loopback and any(
            network.version == other.version and network.overlaps(other) for other in LOOPBACK
        ):
            yield Finding(
                "CALLSHEET_EGRESS_ALLOW", "warning", f"{network} lets deliveries reach this machine's services"
            )
            continue
        else:
            continue
        yield Finding("CALLSHEET_EGRESS_ALLOW", "failed", f"{network} {detail}")


def _readable(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Files that any user of this machine may read: secrets fail, data warns."""
    database = settings.database_path
    key_files = [database.with_name(f"{database.name}.key")] if database is not None else []
    for path in (folder / ".env", folder / ".env.old", *key_files):
        if _is_open(path):
            yield Finding("file modes", "failed", f"{path} has keys in it and every user can read it: chmod 600 {path}")
    if database is not None and _is_open(database):
        detail = f"{database} has inputs and results in it and every user can read it: chmod 600 {database}*"
        yield Finding("file modes", "warning", detail)


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))
    except OSError:
        return False
