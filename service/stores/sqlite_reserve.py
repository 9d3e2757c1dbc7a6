"""Room on the disk that is kept for deletions: without any, nothing could be deleted to make some.

Differs from PostgreSQL because a server whose disk is full stops, and says so itself.
"""

import contextlib
import os
from pathlib import Path

RESERVE_BYTES = 2 * 1024 * 1024  # of the write-ahead log: a hundred deletions or more
STEP_BYTES = 16 * 1024  # given up at a time, because whoever writes next takes what a deletion leaves of it
STEPS = RESERVE_BYTES // STEP_BYTES
LEAST_LEFT = 8  # times as much; below it what is left is nobody's reserve


class Reserve:
    """A file beside the database. It has random bytes, because file systems that compress keep no room for zeros."""

    def __init__(self, database: Path):
        self._path = database.with_name(f"{database.name}.reserve")
        self._kept = False

    def keep(self) -> None:
        """Take the room, unless it is taken or little is left."""
        if self._kept:
            return
        with contextlib.suppress(OSError):
            self._kept = self._path.exists() and self._path.stat().st_size == RESERVE_BYTES
            left = os.statvfs(self._path.parent)
            if not self._kept and left.f_bavail * left.f_frsize > LEAST_LEFT * RESERVE_BYTES:
                self._write()

    def _write(self) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._kept = os.write(file, os.urandom(RESERVE_BYTES)) == RESERVE_BYTES
            os.fsync(file)
        finally:
            os.close(file)

    def give_up(self) -> bool:
        """Let a step of it be used; whether there was one. `keep` takes it again once there is room enough."""
        self._kept = False
        try:
            left = self._path.stat().st_size - STEP_BYTES
            os.truncate(self._path, max(0, left))
        except OSError:
            return False
        return left > -STEP_BYTES
