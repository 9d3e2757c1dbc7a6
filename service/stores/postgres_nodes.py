"""PostgreSQL's nodes and their seats: each node writes its own row and the rows of its own seats."""

from collections.abc import Sequence
from typing import Any

from service.stores import Held, fair_part
from service.stores.postgres_pool import CLOCK
from service.stores.postgres_rows import PostgresRows

KEPT_MS = 3_600_000  # rows of nodes that are gone
TIME = f"SELECT COALESCE($1::bigint, ({CLOCK}))"
JOIN = (
    "INSERT INTO nodes AS n (node, joined_at, beat_at) VALUES ($1, $2, $2) ON CONFLICT (node) DO UPDATE SET"
    " beat_at = excluded.beat_at, joined_at = CASE WHEN n.beat_at > excluded.beat_at - $3::bigint THEN n.joined_at"
    " ELSE excluded.joined_at END"
)
OTHERS = (
    "SELECT count(*), count(*) FILTER (WHERE beat_at - joined_at >= $4::bigint) FROM nodes"
    " WHERE node <> $1 AND beat_at > $2::bigint - $3::bigint"
)
# Those that are given are nobody's from now on; an ended lease is renewed, too, where nobody has taken the seat.
KEEP = (
    "UPDATE seats SET node = CASE WHEN seat = ANY($4::bigint[]) THEN 0 ELSE node END,"
    " until = CASE WHEN seat = ANY($4::bigint[]) THEN 0 ELSE $2::bigint + $3::bigint END WHERE node = $1"
    " RETURNING seat, node"
)
TAKE = (
    "UPDATE seats SET node = $1, until = $2::bigint + $3::bigint WHERE seat = ANY(ARRAY(SELECT seat FROM seats"
    " WHERE until <= $2 ORDER BY seat LIMIT $4 FOR UPDATE SKIP LOCKED)) RETURNING seat"
)
FORGET = "DELETE FROM nodes WHERE node <> $1 AND beat_at < $2::bigint - $3::bigint"
COUNT = f"SELECT count(*) FROM nodes WHERE beat_at > ({CLOCK}) - $1"  # noqa: S608 - a constant


class NodeVerbs(PostgresRows):
    async def beat(self, node: int, giving: Sequence[int], term_ms: int, proving_ms: int) -> Held | None:
        """Beside the writer: what that waits for does not delay it."""

        async def work(db: Any) -> Held:
            now = await db.fetchval(TIME, self._pool.given_time())
            await db.execute(JOIN, node, now, term_ms)
            live, proven = await db.fetchrow(OTHERS, node, now, term_ms, proving_ms)
            kept = await db.fetch(KEEP, node, now, term_ms, list(giving))
            seats = [seat for seat, holder in kept if holder == node]
            if (most := fair_part(1 + live) - len(seats)) > 0:
                seats += [row[0] for row in await db.fetch(TAKE, node, now, term_ms, most)]
            if not kept:  # it has just joined, or has been silent
                await db.execute(FORGET, node, now, KEPT_MS)
            return Held(seats=tuple(seats), nodes=1 + live, proven=1 + proven)

        return await self._pool.quick(work)

    async def nodes(self, term_ms: int) -> int | None:
        return int((await self._pool.fetch(COUNT, term_ms, urgent=True))[0][0])

    async def leave(self, node: int) -> None:
        async with self._pool.beside() as db:
            await db.execute("UPDATE seats SET node = 0, until = 0 WHERE node = $1", node)
            await db.execute("DELETE FROM nodes WHERE node = $1", node)
