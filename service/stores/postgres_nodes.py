"""PostgreSQL's roster of nodes: each writes its own row, and reads the others' in the same statement.

A statement sees what was committed before it began, and its time is when it began: who beats at T has seen every node
whose own beat was committed before T.
"""

from service.stores import Peer
from service.stores.postgres_rows import PostgresRows

KEPT_MS = 3_600_000  # rows of nodes that are gone
BEAT = (
    "WITH t (now) AS (SELECT COALESCE($3, (extract(epoch FROM statement_timestamp()) * 1000)::bigint)),"
    " mine AS (INSERT INTO nodes AS n (node, view, joined_at, beat_at) SELECT $1, $2, now, now FROM t"
    " ON CONFLICT (node) DO UPDATE SET view = excluded.view, beat_at = excluded.beat_at,"
    " joined_at = CASE WHEN excluded.view = 0 THEN excluded.joined_at ELSE n.joined_at END"
    " RETURNING node, view, joined_at, beat_at),"
    " gone AS (DELETE FROM nodes n USING t WHERE n.beat_at < t.now - $5 AND n.node <> $1)"
    " SELECT r.node, r.view, r.beat_at - r.joined_at >= $6 FROM (SELECT node, view, joined_at, beat_at FROM mine"
    " UNION ALL SELECT n.node, n.view, n.joined_at, n.beat_at FROM nodes n, t"
    " WHERE n.node <> $1 AND n.beat_at > t.now - $4) r"
)
COUNT = "SELECT count(*) FROM nodes WHERE beat_at > (extract(epoch FROM statement_timestamp()) * 1000)::bigint - $1"


class NodeVerbs(PostgresRows):
    async def beat(self, node: int, view: int, term_ms: int, proving_ms: int) -> list[Peer] | None:
        """Beside the writer, in one statement: what the writer waits for does not delay it."""
        given = None if self._pool.asks_time else self.now()
        rows = await self._pool.fetch(BEAT, node, view, given, term_ms, KEPT_MS, proving_ms, urgent=True)
        return [Peer(node=number, view=said, proven=proven) for number, said, proven in rows]

    async def nodes(self, term_ms: int) -> int | None:
        return int((await self._pool.fetch(COUNT, term_ms, urgent=True))[0][0])

    async def leave(self, node: int) -> None:
        await self._pool.fetch("DELETE FROM nodes WHERE node = $1", node, urgent=True)
