"""What the doctor says of the database: versions, durability, tables, room, a copy that was restored."""

import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

from service.cli.finding import Finding
from service.restoring import RESTORED_AT, moved_to_another
from service.settings import Settings
from service.stores import COPIED_AT, MOVED_AT, Storage, Store
from service.views import instant

# The WAL-reset bug: https://sqlite.org/wal.html#walresetbug. In 3.7.0 to 3.51.2, mended there and on two branches.
WAL_RESET_MENDED = ((3, 44, 6), (3, 50, 7))
WAL_RESET_FIXED = (3, 51, 3)
NEEDED = (3, 35, 0)  # RETURNING
LITTLE, SCARCE = 1 << 30, 64 << 20  # bytes free: warned of, failed
SHARED = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs"}
APART_MS = 2_000  # of two clocks: more than a slow answer, little of what signatures allow
SHOWN = 5  # tables, the largest
UNITS = ("B", "kB", "MB", "GB", "TB")


async def storage(store: Store, settings: Settings) -> AsyncIterator[Finding]:
    """The findings of a database that could be opened."""
    found = await store.storage()
    where = settings.database_path or "PostgreSQL"
    yield Finding("database", "ok", f"{where}, {found.engine}, schema {found.schema}", {"schema": found.schema})
    kept = "each commit is kept" if found.durable else "not each commit is kept when the power goes"
    yield Finding("durability", "ok" if found.durable else "failed", f"{found.durability}: {kept}")
    if settings.database_path is not None:
        yield sqlite_version(sqlite3.sqlite_version_info)
        yield room(settings.database_path)
        yield file_system(settings.database_path, Path("/proc/self/mounts"))
    yield tables(found)
    if moved := await store.meta(MOVED_AT):
        yield Finding("copy", "warning", f"{moved_to_another(moved)}: `serve` says how this one is served after all")
    copied, restored = await store.meta(COPIED_AT), await store.meta(RESTORED_AT)
    if copied:
        detail = "a copy: at the next start what it shows as not sent becomes unknown, and nothing of it is sent"
        yield Finding("copy", "warning", f"{detail} (taken {instant(int(copied))})")
    elif restored:
        yield Finding("copy", "ok", f"restored from a backup at {instant(int(restored))}")


def clocks(ahead_ms: int) -> Finding:
    """By how much the database's clock is ahead of this node's. What is kept, compared or signed goes by the former."""
    data = {"database_ahead_ms": ahead_ms}
    if abs(ahead_ms) < APART_MS:
        return Finding("clock", "ok", f"this node's and the database's agree to {APART_MS // 1000} s", data)
    first, second = ("the database's", "this node's") if ahead_ms > 0 else ("this node's", "the database's")
    return Finding(
        "clock", "warning",
        f"{first} clock is {abs(ahead_ms) / 1000:.1f} s ahead of {second}. If the database's is wrong, so are deadlines"
        " and the times of signatures: subscribers refuse ours when 5 minutes off, we take callbacks for old or forged;"
        " if this node's is, its log and its checks of certificates: let NTP set both",
        data,
    )  # fmt: skip


def sqlite_version(version: tuple[int, ...]) -> Finding:
    """Whether the library has faults that are documented and matter here."""
    name = ".".join(map(str, version))
    if version < NEEDED:
        return Finding(
            "sqlite", "failed", f"SQLite {name} is too old: this needs {'.'.join(map(str, NEEDED))} or later"
        )
    mended = any(version[:2] == fixed[:2] and version >= fixed for fixed in WAL_RESET_MENDED)
    if version >= WAL_RESET_FIXED or mended:
        return Finding("sqlite", "ok", f"SQLite {name} has no documented fault that matters here")
    return Finding(
        "sqlite", "warning",
        f"SQLite {name} may, very rarely, damage a database that two connections write or checkpoint at the same"
        " instant (https://sqlite.org/wal.html#walresetbug). The service writes on one; so run `keys create`, `migrate`"
        " and `tick` beside it sparingly, keep backups, or use a Python with SQLite 3.51.3, 3.50.7 or 3.44.6",
    )  # fmt: skip


def room(database: Path) -> Finding:
    """Free space where the database is. Without any, what comes is refused with 503 until there is some again."""
    disk = shutil.disk_usage(database.parent)
    data = {"free_bytes": disk.free, "total_bytes": disk.total}
    detail = f"{size(disk.free)} of {size(disk.total)} free"
    if disk.free >= LITTLE:
        return Finding("disk", "ok", detail, data)
    remedy = "make room or shorten CALLSHEET_RETENTION_...: when it is full, new work is refused with 503"
    return Finding("disk", "failed" if disk.free < SCARCE else "warning", f"{detail}: {remedy}", data)


def file_system(database: Path, mounts: Path) -> Finding:
    """SQLite's write-ahead log needs memory that all its processes share, which network file systems have not."""
    place, kind = database.resolve(), ""
    longest = -1
    for row in mounts.read_text().splitlines() if mounts.exists() else []:
        point, found = row.split(" ")[1:3]
        folder = Path(point.replace("\\040", " "))
        if place.is_relative_to(folder) and len(folder.parts) >= longest:
            longest, kind = len(folder.parts), found
    if kind in SHARED:
        remedy = "move the database to a local disk, or use PostgreSQL"
        return Finding("file system", "failed", f"{kind} is a network file system, where SQLite is not safe: {remedy}")
    return Finding("file system", "ok", kind or "not known here")


def tables(found: Storage) -> Finding:
    """The largest tables; all of them as data."""
    data = {table.name: {"rows": table.rows, "bytes": table.bytes} for table in found.tables}
    ordered = sorted(found.tables, key=lambda table: (-(table.bytes or 0), -table.rows))
    said = [f"{table.name} {table.rows:,} rows" + (f" {size(table.bytes)}" if table.bytes else "") for table in ordered]
    return Finding("tables", "ok", "; ".join(said[:SHOWN]), data)


def size(count: int) -> str:
    """Bytes as people say them: 12 kB, 3.4 GB."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {UNITS[unit]}" if 0 < value < 10 and unit else f"{value:.0f} {UNITS[unit]}"
