"""Uploaded files, and outputs whose links were made anew: one statement each, as SQL with `$1` placeholders.

A file is seen once it is finished, and until it expires: deleting is expiring. Its chunks go in small batches, because
freeing a megabyte of blobs makes the writer read all of it.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from service.models import Detail, File, Job
from service.stores import Page

COLUMNS = ("num", "id", "tenant", "name", "content_type", "size", "created_at", "expires_at")
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM files"  # noqa: S608 - fixed names
_SEEN = "finished_at IS NOT NULL AND expires_at > {}"
_encode, _detail = msgspec.json.encode, msgspec.json.Decoder(Detail)


def _file(row: Sequence[Any]) -> File:
    return File(**dict(zip(COLUMNS, row, strict=True)))


class PlainFiles:
    async def rows(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        raise NotImplementedError

    async def write(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        raise NotImplementedError

    async def free(self, sql: str, *values: Any) -> list[Sequence[Any]]:
        """As `write`, for what makes room where there is none."""
        return await self.write(sql, *values)

    def now(self) -> int:
        raise NotImplementedError

    async def create_file(self, file: File) -> File:
        """Begin an upload: nobody sees it before `finish_file`; at its `expires_at` it is cleared away."""
        sql = (
            "INSERT INTO files (id, tenant, name, content_type, size, created_at, expires_at)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING num"
        )
        values = [getattr(file, name) for name in COLUMNS[1:]]
        return msgspec.structs.replace(file, num=int((await self.write(sql, *values))[0][0]))

    async def add_chunks(self, file: int, place: int, chunks: Sequence[bytes]) -> None:
        """The chunks numbered from `place` on, in one transaction."""
        values = [value for n, chunk in enumerate(chunks, place) for value in (file, n, chunk)]
        marks = ", ".join(f"(${n}, ${n + 1}, ${n + 2})" for n in range(1, len(values), 3))
        await self.write(f"INSERT INTO file_chunks (file, place, data) VALUES {marks}", *values)  # noqa: S608

    async def finish_file(self, file: File, *, size: int, expires_at: int) -> File:
        """Let it be seen, whole."""
        sql = "UPDATE files SET size = $1, expires_at = $2, finished_at = $3 WHERE num = $4"
        await self.write(sql, size, expires_at, self.now(), file.num)
        return msgspec.structs.replace(file, size=size, expires_at=expires_at)

    async def file(self, tenant: int | None, file_id: str) -> File | None:
        """A finished file that has not expired, of this tenant, or of any for what proves itself otherwise."""
        where, values = f" WHERE id = $1 AND {_SEEN.format('$2')}", [file_id, self.now()]
        if tenant is not None:
            where, values = where + " AND tenant = $3", [*values, tenant]
        rows = await self.rows(_SELECT + where, *values)
        return _file(rows[0]) if rows else None

    async def files(self, tenant: int, page: Page) -> list[File]:
        """Newest first."""
        where, values = f" WHERE tenant = $1 AND {_SEEN.format('$2')}", [tenant, self.now()]
        if page.before is not None:
            where, values = where + " AND num < $3", [*values, page.before]
        return [
            _file(row)
            for row in await self.rows(f"{_SELECT}{where} ORDER BY num DESC LIMIT {int(page.limit)}", *values)
        ]

    async def stored_bytes(self, tenant: int) -> int:
        """How much the tenant's files hold."""
        sql = f"SELECT COALESCE(SUM(size), 0) FROM files WHERE tenant = $1 AND {_SEEN.format('$2')}"  # noqa: S608
        return int((await self.rows(sql, tenant, self.now()))[0][0])

    async def file_chunk(self, file: int, place: int) -> bytes | None:
        rows = await self.rows("SELECT data FROM file_chunks WHERE file = $1 AND place = $2", file, place)
        return bytes(rows[0][0]) if rows else None

    async def delete_file(self, file: int) -> None:
        """Nobody sees it from now on; its bytes go with the next pruning."""
        await self.free("UPDATE files SET expires_at = 0 WHERE num = $1", file)

    async def prune_files(self, chunks: int) -> int:
        """Delete up to so many chunks of files that have expired, and the files that have none left; how many rows."""
        now = self.now()
        expired = (
            "DELETE FROM file_chunks WHERE num IN (SELECT c.num FROM files f JOIN file_chunks c ON c.file = f.num"
            " WHERE f.expires_at <= $1 LIMIT $2) RETURNING num"
        )
        empty = (
            "DELETE FROM files WHERE num IN (SELECT f.num FROM files f WHERE f.expires_at <= $1 AND NOT EXISTS"
            " (SELECT 1 FROM file_chunks c WHERE c.file = f.num) LIMIT $2) RETURNING num"
        )
        return len(await self.free(expired, now, chunks)) + len(await self.free(empty, now, chunks))

    # -- outputs

    async def refresh_outputs(self, job: Job, detail: Detail) -> bool:
        """Put `detail`, the job's own with newer links, over what `job` was read with; False where that has changed.

        No transition and no event: what an output is stays, where it can be had is said anew.
        """
        rows = await self.rows("SELECT detail FROM job_details WHERE job = $1", job.num)
        if not rows or _detail.decode(rows[0][0]) != job.detail:
            return False
        sql = "UPDATE job_details SET detail = $1 WHERE job = $2 AND detail = $3 RETURNING job"
        return bool(await self.write(sql, _encode(detail), job.num, bytes(rows[0][0])))
