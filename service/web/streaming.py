"""A body that goes out as it comes: until it ends, or its client goes. One that does not read is ended below."""

import asyncio
import logging
from collections.abc import AsyncIterable

from starlette.types import Receive, Send

from service.errors import CallsheetError

log = logging.getLogger("callsheet.web")

RawHeaders = list[tuple[bytes, bytes]]


async def send_stream(
    status: int, headers: RawHeaders, body: AsyncIterable[bytes], receive: Receive, send: Send
) -> bool:
    """Send it, and close it (`aclose`) in any case; whether it went out to its end. One that breaks leaves the response
    without an end, so that the server cuts the connection and nobody takes what came for the whole.
    """
    # Tasks of asyncio's own: a cancel scope of anyio never reaches a task whose next bytes are always there already.
    sending = asyncio.create_task(_send(status, headers, body, send))
    leaving = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        sending.cancel()
        leaving.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)
        if (close := getattr(body, "aclose", None)) is not None:
            await close()
    error = None if sending.cancelled() else sending.exception()
    if isinstance(error, CallsheetError):
        log.log(getattr(error, "level", logging.WARNING), "a stream was cut: %s", error)
    elif error is not None:
        raise error
    return not sending.cancelled() and error is None


async def _send(status: int, headers: RawHeaders, body: AsyncIterable[bytes], send: Send) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    async for chunk in body:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
