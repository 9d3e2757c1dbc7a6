"""Files: what clients upload for jobs to name. Kept in the database, so that every node and every backup has them.

Where a provider wants a URL it is given one of ours, signed and short-lived; where it wants the bytes, its file
uploads them.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

from service import media
from service.clock import Clock
from service.crypto import Vault
from service.errors import Invalid, Lost, Missing, NotSent, TooLarge, TooMany, UnsupportedFile
from service.framing import FormFile, StreamBody, multipart
from service.ids import new_id
from service.models import Credential, File
from service.providers import FileRef, FileRule, FileUse, Form
from service.settings import Settings
from service.states import Record
from service.stores import Page, Store

CHUNK_BYTES = 256 * 1024  # of one row
CHUNKS_AT_ONCE = 4  # of one upload in one transaction
WRITERS = 2  # uploads whose chunks one transaction may carry: other writes wait for no more than that
MOST_UPLOADS = 32  # at a time on this node, half of them for one tenant: each holds a few chunks in memory
UNFINISHED_MS = 3_600_000  # what an upload that broke off leaves is gone after this
URL_MS = 24 * 3_600_000  # how long a provider may fetch a file by the URL that it was given
DAY_MS = 86_400_000
NAME_CHARS = 200
FileRefs = Callable[[int, Sequence[FileUse], Credential], Awaitable[Mapping[str, FileRef]]]
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069\"<>|:*?\\/]+")


class Arriving(Record, frozen=True, kw_only=True):
    """One upload as it comes in: what its sender says of it, and its bytes."""

    name: str
    content_type: str  # as declared; empty where it was not
    pieces: AsyncIterator[bytes]


class Files:
    """`reaches_us` tells whether a credential's provider can open our URLs."""

    def __init__(
        self, *, store: Store, vault: Vault, settings: Settings, clock: Clock, reaches_us: Callable[[Credential], bool]
    ):
        self._store, self._vault, self._settings, self._clock = store, vault, settings, clock
        self._reaches_us = reaches_us
        self._writing = asyncio.Semaphore(WRITERS)
        self._uploads: dict[int, int] = {}  # under way, by tenant

    # -- uploads

    async def receive(self, tenant: int, arriving: Arriving) -> File:
        """Keep an upload; until its last byte is durable nobody sees it.

        Raises `UnsupportedFile` (415) where it is not what it is declared to be, `TooLarge`, `TooMany`, and what
        reading it raises; then nothing of it is left to be seen.
        """
        async with self._slot(tenant):
            await self._check_room(tenant)
            pieces = _in_chunks(arriving.pieces)
            head = await anext(pieces, b"")
            file = await self._store.create_file(self._new(tenant, arriving, head))
            try:
                size = await self._write(file.num, head, pieces)
            except BaseException:
                await asyncio.shield(self._store.delete_file(file.num))
                raise
            expires_at = file.created_at + self._settings.retention_files_days * DAY_MS
            return await self._store.finish_file(file, size=size, expires_at=expires_at)

    @asynccontextmanager
    async def _slot(self, tenant: int) -> AsyncIterator[None]:
        if sum(self._uploads.values()) >= MOST_UPLOADS or self._uploads.get(tenant, 0) >= MOST_UPLOADS // 2:
            raise TooMany("Too many uploads are under way: try again in a moment.", retry_after=5)
        self._uploads[tenant] = self._uploads.get(tenant, 0) + 1
        try:
            yield
        finally:
            self._uploads[tenant] -= 1
            if not self._uploads[tenant]:
                del self._uploads[tenant]

    async def _check_room(self, tenant: int) -> None:
        most = self._settings.max_stored_bytes
        if await self._store.stored_bytes(tenant) >= most:
            raise TooMany(
                f"The tenant's files fill the {most} bytes of CALLSHEET_MAX_STORED_BYTES: delete some, or wait until"
                " they expire.",
                code="storage_full",
                retry_after=3600,
            )

    def _new(self, tenant: int, arriving: Arriving, head: bytes) -> File:
        if not head:
            raise Invalid("The file is empty.", param="file")
        try:
            kind = media.media_type(arriving.content_type, arriving.name, head[: media.HEAD_BYTES])
        except ValueError as refused:
            raise UnsupportedFile(str(refused), param="file") from None
        now = self._clock.now()
        return File(
            num=0,
            id=new_id("file", now),
            tenant=tenant,
            name=clean_name(arriving.name, kind),
            content_type=kind,
            size=0,
            created_at=now,
            expires_at=now + UNFINISHED_MS,
        )

    async def _write(self, num: int, head: bytes, pieces: AsyncIterator[bytes]) -> int:
        """Batch by batch, each durable before more is read; the whole size."""
        size, place, waiting, chunk = 0, 0, [], head
        while chunk:
            size += len(chunk)
            if size > self._settings.max_file_bytes:
                raise too_large(self._settings.max_file_bytes)
            waiting.append(chunk)
            chunk = await anext(pieces, b"")
            if len(waiting) == CHUNKS_AT_ONCE or not chunk:
                async with self._writing:
                    await self._store.add_chunks(num, place, waiting)
                place, waiting = place + len(waiting), []
        return size

    # -- what is there

    async def get(self, tenant: int, file_id: str) -> File:
        file = await self._store.file(tenant, file_id)
        if file is None:
            raise Missing("There is no such file; it may have expired. See GET /v1/files.", param="file_id")
        return file

    async def page(self, tenant: int, page: Page) -> list[File]:
        return await self._store.files(tenant, page)

    async def delete(self, tenant: int, file_id: str) -> None:
        """At once for everybody; its bytes go with the next pruning."""
        await self._store.delete_file((await self.get(tenant, file_id)).num)

    async def read(self, file: File, start: int, end: int) -> AsyncIterator[bytes]:
        """Its bytes from `start` up to but not including `end`, by chunks. Raises `Lost` where they are gone."""
        while start < end:
            place, skipped = divmod(start, CHUNK_BYTES)
            chunk = await self._store.file_chunk(file.num, place)
            if chunk is None:
                raise Lost("file", "the file is gone")
            piece = chunk[skipped : skipped + end - start]
            start += len(piece)
            yield piece

    # -- for providers

    async def refs(self, tenant: int, uses: Sequence[FileUse], credential: Credential) -> Mapping[str, FileRef]:
        """What the input's `file_...` are, by id, each as its field's rule wants it.

        Raises `Invalid` whose `param` is `input.<path>`: no such file (of this tenant, whole and not expired), a type
        or a size that the field does not take, or a URL where the provider cannot open ours.
        """
        found: dict[str, FileRef] = {}
        for use in uses:
            param = ".".join(["input", *map(str, use.path)])
            file = await self._store.file(tenant, use.file)
            if file is None:
                raise Invalid(
                    f"There is no file {use.file[:64]}, or it has expired: upload it with POST /v1/files.", param=param
                )
            _check(file, use.rule, param)
            url = self.url(file) if self._reaches_us(credential) else None
            if use.rule.how == "url" and url is None:
                raise Invalid(self._unreachable(credential), code="file_unreachable", param=param)
            found[file.id] = FileRef(
                id=file.id, name=file.name, content_type=file.content_type, size=file.size, url=url
            )
        return found

    async def form_body(self, form: Form, boundary: str) -> StreamBody:
        """The form with the bytes of its files, which `refs` gave. Raises `NotSent` where one is gone."""
        parts = []
        for field, file_id in form.files:
            file = await self._store.file(None, file_id)
            if file is None:
                raise NotSent("file", "the file is gone")
            body = StreamBody(file.size, partial(self.read, file, 0, file.size))
            parts.append(FormFile(field, file.name, file.content_type, body))
        return multipart(form.fields, parts, boundary)

    def _unreachable(self, credential: Credential) -> str:
        host = urlsplit(self._settings.public_url).hostname
        return (
            f"{credential.provider} takes a URL here, and cannot open one at {host}: set CALLSHEET_PUBLIC_URL to an"
            f" address that {credential.provider} can reach, or give a public URL in place of the file."
        )

    def url(self, file: File) -> str:
        """A URL for whoever has it, for 24 hours or as long as the file is there."""
        until = min(self._clock.now() + URL_MS, file.expires_at)
        token = self._vault.callback_token(f"file-{file.id}-{until}")
        return f"{self._settings.public_url}/v1/files/content/{token}"

    async def by_token(self, token: str) -> File:
        """The file of a URL that `url` made. Raises `Missing` for any other, and for one that is over."""
        made = re.fullmatch(r"file-(file_[0-9a-z]+)-([0-9]+)", self._vault.read_token(token) or "")
        valid = made is not None and int(made[2]) > self._clock.now()
        file = await self._store.file(None, made[1]) if made and valid else None
        if file is None:
            raise Missing("There is no such file, or its URL is over.", param="token")
        return file


def too_large(most: int) -> TooLarge:
    return TooLarge(f"A file may have at most {most} bytes (CALLSHEET_MAX_FILE_BYTES).", param="file")


def clean_name(name: str, kind: str) -> str:
    """The last part of a path, without what file systems, headers or terminals stumble over; never empty."""
    last = re.split(r"[/\\]", name)[-1]
    cleaned = _UNFIT.sub("_", last).strip(" ._")[-NAME_CHARS:].strip(" ._")
    return cleaned or "file" + media.ENDINGS.get(kind, "")


def _check(file: File, rule: FileRule, param: str) -> None:
    if not media.among(file.content_type, rule.types):
        takes = ", ".join(rule.types)
        raise Invalid(f"{file.id} is {file.content_type}; this field takes {takes}.", code="file_type", param=param)
    if rule.max_bytes is not None and file.size > rule.max_bytes:
        raise Invalid(
            f"{file.id} has {file.size} bytes; this field takes at most {rule.max_bytes}.",
            code="file_too_large",
            param=param,
        )


async def _in_chunks(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of `CHUNK_BYTES`, the last one shorter."""
    waiting = bytearray()
    async for piece in pieces:
        waiting += piece
        while len(waiting) >= CHUNK_BYTES:
            yield bytes(waiting[:CHUNK_BYTES])
            del waiting[:CHUNK_BYTES]
    if waiting:
        yield bytes(waiting)
