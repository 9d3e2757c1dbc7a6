"""One, two and four workers at the same backlog: deliveries a second, and the statements and processor time of each.

Usage: python -m tests.bench.scaling [ROUNDS] [SECONDS]

Each worker is a process of `callsheet serve --role worker` with 64 deliveries in flight; the subscriber takes 50 ms to
answer, so that one worker cannot pass 1,280 a second. The rate is read at the subscriber and in the database, in a
window that begins once the workers are warm. Rounds are interleaved; ratios are of one round each.
"""

import asyncio
import contextlib
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator

import uvloop

from tests.bench.nodes import Bench, Cpu, fill, machine, standing

IN_FLIGHT, DELAY_S, ENDPOINTS = 64, 0.05, 200
WORKERS = (1, 2, 4)
WARM_S = 8.0  # with what the fleet takes to agree on who its nodes are
BOUND = IN_FLIGHT / DELAY_S
SETTINGS = {"CALLSHEET_DELIVERY_CONCURRENCY": str(IN_FLIGHT), "CALLSHEET_ENDPOINT_CONCURRENCY": str(IN_FLIGHT)}


class Subscriber:
    """The sink, and its count."""

    def __init__(self, process: "subprocess.Popen[str]", port: int):
        self.process, self.port = process, port

    async def count(self) -> int:
        url = f"http://127.0.0.1:{self.port}/_count"
        return int(await asyncio.to_thread(lambda: urllib.request.urlopen(url).read()))


@contextlib.asynccontextmanager
async def subscriber() -> AsyncIterator[Subscriber]:
    command = [sys.executable, "-m", "tests.bench.sink", "-1", str(DELAY_S)]
    process = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Subscriber(process, int(await asyncio.to_thread(process.stdout.readline)))
    finally:
        process.kill()
        process.wait()


async def one(
    bench: Bench, taker: Subscriber, workers: int, seconds: float, *, count: bool = False
) -> dict[str, float]:
    """What so many workers do in a steady window: a second, and per delivery."""
    wanted = int(workers * BOUND * (seconds + WARM_S + 6))
    await fill(bench.db, bench.numbers, max(0, wanted - await bench.pending()), trust=True)
    await bench.db.execute("VACUUM ANALYZE")
    pids = await asyncio.gather(*(bench.node("worker", **SETTINGS) for _ in range(workers)))
    try:
        await asyncio.sleep(WARM_S)
        figures = await _window(bench, taker, pids, seconds, count)
        assert await bench.pending() > 0, "the backlog ended before the window did"
        return figures
    finally:
        await bench.stop_nodes(pids)


async def _window(bench: Bench, taker: Subscriber, pids: list[int], seconds: float, count: bool) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    if count:
        await bench.server.count_from_now(bench.db)
    cpu = Cpu(workers=pids, server=[bench.server.pid], subscriber=[taker.process.pid])
    kept, received, began = await bench.delivered(), await taker.count(), loop.time()
    await asyncio.sleep(seconds)
    taken, received, took = cpu.taken(), await taker.count() - received, loop.time() - began
    counted = await bench.server.counted(bench.db) if count else 0
    kept = await bench.delivered() - kept
    figures = {"rate": received / took, "kept": kept / (loop.time() - began), "others": taken.pop("others")}
    if count:
        figures["statements"] = counted / kept
    return figures | {f"us {kind}": spent / received * 1e6 for kind, spent in taken.items()}


def shown(workers: int, found: dict[str, float]) -> str:
    costs = ", ".join(f"{name[3:]} {value:,.0f}" for name, value in found.items() if name.startswith("us "))
    return (
        f"scaling     {workers} workers  {found['rate']:6,.0f}/s received  {found['kept']:6,.0f}/s recorded"
        f"   us of CPU each: {costs}   (others took {found['others']:.2f} of {machine()})"
    )


async def main(rounds: int = 3, seconds: float = 8.0) -> None:
    async with subscriber() as taker, standing() as bench:
        bench.numbers = await bench.many_endpoints(f"http://127.0.0.1:{taker.port}", ENDPOINTS)
        print(
            f"PostgreSQL {await bench.db.fetchval('SHOW server_version')}, one worker's bound {BOUND:,.0f}/s",
            flush=True,
        )
        ratios: dict[int, list[float]] = {workers: [] for workers in WORKERS[1:]}
        for _ in range(rounds):
            found = {}
            for workers in WORKERS:
                found[workers] = await one(bench, taker, workers, seconds)
                print(shown(workers, found[workers]), flush=True)
            for workers, of_rounds in ratios.items():
                of_rounds.append(found[workers]["rate"] / found[1]["rate"])
        for workers, of_rounds in ratios.items():
            each = ", ".join(f"{ratio:.2f}" for ratio in of_rounds)
            print(
                f"scaling     {workers} workers to one: ratio {statistics.median(of_rounds):.2f} ({each})", flush=True
            )
        for workers in WORKERS:
            counted = await one(bench, taker, workers, seconds, count=True)
            how = "pg_stat_statements" if bench.server.counts else "the server's log"
            said = f"{counted['statements']:.3f} per delivery, at {counted['rate']:,.0f}/s, by {how}"
            print(f"statements  {workers} workers: {said}", flush=True)


if __name__ == "__main__":
    uvloop.run(main(*(kind(given) for kind, given in zip((int, float), sys.argv[1:], strict=False))))
