"""Newer code takes the place of older code, node by node, under load: no callback and no client meets a 5xx.

CALLSHEET_ROLLING_TIMES says how often. Each time the first new node brings migrations of its own while older code
serves and writes; who callbacks were answered by, and when, is written down by the proxy before the nodes.
"""

import asyncio
import collections
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.kill.fleet import Fleet, Node, checked, opened
from tests.kill.generations import LAST, generation, name_of
from tests.kill.proxy import Proxy

pytestmark = [pytest.mark.anyio, pytest.mark.kill, pytest.mark.xdist_group("kill")]

TIMES = int(os.environ.get("CALLSHEET_ROLLING_TIMES", "2"))
A_JOB_EACH_S = 0.07
ON_THE_NEWER_SCHEMA = 20  # callbacks, at each roll, that older code answered
APPLIED_AT = "SELECT applied_at FROM migrations WHERE version = {}"


class Rolling(Fleet):
    """A fleet behind a proxy: providers, and whoever asks, know the proxy's URL only."""

    def __init__(self, folder: Path):
        super().__init__(folder, ("all", "all", "all"))
        self.proxy, self.door = Proxy(), Node("api")
        self.generation, self.stops_s = 0, list[float]()

    async def open(self) -> None:
        await self.proxy.open()
        self.url = self.door.url = self.proxy.url
        await super().open()

    async def start_node(self, node: Node) -> None:
        node.code = self.folder / f"code-{self.generation}"
        if not node.code.exists():
            await asyncio.to_thread(generation, self.folder, self.generation)
        self.proxy.knows(node.port, name_of(self.generation))
        await super().start_node(node)
        health = await self.ask("GET", f"{node.url}/health")
        assert health["version"] == name_of(self.generation)
        await self.until(lambda: self.proxy.backends[node.port].up)

    async def until(self, what: Callable[[], Any], seconds: float = 30) -> None:
        ends = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < ends, "it did not happen in time"
            await asyncio.sleep(0.05)

    def answered_by(self, name: str, since: float, least: int = 0) -> int:
        """How many callbacks; 0 where they are fewer than `least`."""
        count = sum(row.node == name and row.at > since for row in self.proxy.callbacks)
        return count if count >= least else 0

    async def roll(self) -> int:
        """The next generation, node by node. How many callbacks older code answered on the newer schema."""
        older = name_of(self.generation)
        self.generation += 1
        for node in self.nodes:
            self.stops_s.append(await self.stop_node(node))
            await self.start_node(node)
            migrated = (await self.rows(APPLIED_AT.format(LAST + self.generation)))[0][0] / 1000
            if node is self.nodes[0]:
                await self.until(partial(self.answered_by, older, migrated, ON_THE_NEWER_SCHEMA))
        return self.answered_by(older, migrated)

    async def close(self) -> None:
        await super().close()
        await self.proxy.close()


def refusal_of_older_code(fleet: Rolling) -> str:
    """What the code of the beginning says on the schema of the end."""
    ended = subprocess.run(
        [sys.executable, "-m", "service", "serve", "--port", "0"],
        cwd=fleet.folder / "code-0",
        env=fleet.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    return ended.stderr


async def test_newer_code_takes_over_under_load_and_no_callback_meets_a_5xx() -> None:
    folder = Path(tempfile.mkdtemp(prefix="callsheet-fleet-"))
    async with opened(Rolling(folder)) as fleet:
        by_older = []
        async with fleet.loaded([fleet.door], A_JOB_EACH_S):
            await fleet.until(lambda: fleet.proxy.callbacks)
            for _ in range(TIMES):
                by_older.append(await fleet.roll())
        statuses = collections.Counter(row.status for row in fleet.proxy.callbacks)
        print(f"\ncallbacks by status {dict(statuses)}, by older code on a newer schema {by_older}")
        assert [row for row in fleet.proxy.callbacks if row.status >= 500 or not row.status] == []
        assert not fleet.refused, "a client was not served"
        assert min(by_older) >= ON_THE_NEWER_SCHEMA
        assert (await fleet.rows("SELECT max(version) FROM migrations"))[0][0] == LAST + TIMES
        assert f"schema {LAST + TIMES}, this version knows {LAST}: install a newer" in refusal_of_older_code(fleet)
        await fleet.clear_faults()
        assert await fleet.orphaned() == {"jobs": 0, "deliveries": 0}, "a node that stopped kept a lease"
        await fleet.start_all()
        again = await checked(fleet, 120)
        print(f"taken twice {again.total()}, {len(fleet.stops_s)} stops, the longest {max(fleet.stops_s):.1f} s")
