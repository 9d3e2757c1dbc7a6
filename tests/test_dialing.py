"""Names whose servers hang: given up in time, and nothing is left behind that says so later."""

import asyncio
import gc
import threading

import pytest

from service.dialing import Lookups
from service.errors import NotSent

pytestmark = pytest.mark.anyio


async def test_a_lookup_that_fails_after_everybody_gave_up_says_nothing() -> None:
    loop, said = asyncio.get_running_loop(), list[str]()
    loop.set_exception_handler(lambda _, context: said.append(context["message"]))
    hangs, ended = threading.Event(), asyncio.Event()

    def resolve(host: str, port: int) -> list[str]:
        hangs.wait(30)
        loop.call_soon_threadsafe(ended.set)
        raise OSError("no such name")

    lookups = Lookups(resolve, seconds=0.05)
    for _ in range(3):
        with pytest.raises(NotSent, match="could not be resolved"):
            await lookups.find("hangs.example.com", 443)
    hangs.set()
    await asyncio.wait_for(ended.wait(), 30)
    async with asyncio.timeout(30):
        while lookups._pending:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    gc.collect()
    await asyncio.sleep(0)
    lookups.close()
    assert said == []
