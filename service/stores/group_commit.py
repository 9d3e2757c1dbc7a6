"""Concurrent callers' writes share one transaction; each caller is answered after the commit.

A commit costs the disk the same for one row as for five hundred, so waiting callers ride together.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Verb = Callable[..., list[Any]]  # a batch of items in, one result for each out

MOST_CALLS = 512  # in one transaction: past this the latency grows and the rate does not


class Call:
    """One caller's items for one verb, and the future that it waits on."""

    __slots__ = ("done", "items", "verb")

    def __init__(self, verb: Verb, items: Sequence[Any], done: asyncio.Future[list[Any]]):
        self.verb, self.items, self.done = verb, items, done


Outcome = list[Any] | BaseException
Commit = Callable[[list[tuple[Verb, Sequence[Any]]]], Awaitable[list[Outcome]]]


class GroupCommit:
    """`commit` runs the calls it is given in one transaction and returns an outcome for each."""

    def __init__(self, commit: Commit):
        self._commit = commit
        self._waiting: list[Call] = []
        self._drain: asyncio.Task[None] | None = None

    async def run(self, verb: Verb, items: Sequence[Any]) -> list[Any]:
        """The verb's results for these items, once they are durable. Raises what the verb raised."""
        if not items:
            return []
        call = Call(verb, items, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._drain is None:
            self._drain = asyncio.create_task(self._run_waiting())
        return await call.done

    async def drained(self) -> None:
        """Return once nothing is waiting."""
        if self._drain is not None:
            await asyncio.shield(self._drain)

    async def _run_waiting(self) -> None:
        try:
            while self._waiting:
                calls, self._waiting = self._waiting[:MOST_CALLS], self._waiting[MOST_CALLS:]
                outcomes = await self._outcomes(calls)
                for call, outcome in zip(calls, outcomes, strict=True):
                    _answer(call, outcome)
        finally:
            self._drain = None

    async def _outcomes(self, calls: list[Call]) -> list[Outcome]:
        try:
            return await self._commit([(call.verb, call.items) for call in calls])
        except Exception as error:
            return [error] * len(calls)


def _answer(call: Call, outcome: Outcome) -> None:
    if call.done.done():  # the caller was cancelled; what it asked for is committed all the same
        return
    if isinstance(outcome, BaseException):
        call.done.set_exception(outcome)
    else:
        call.done.set_result(outcome)


def run_grouped(calls: list[tuple[Verb, Sequence[Any]]]) -> list[Outcome]:
    """Run calls of one verb together, inside the caller's transaction; results in the order of the calls."""
    grouped: dict[Verb, list[int]] = {}
    for index, (verb, _) in enumerate(calls):
        grouped.setdefault(verb, []).append(index)
    outcomes: list[Outcome] = [[] for _ in calls]
    for verb, indexes in grouped.items():
        results = iter(verb([item for index in indexes for item in calls[index][1]]))
        for index in indexes:
            outcomes[index] = [next(results) for _ in calls[index][1]]
    return outcomes


def run_singly(calls: list[tuple[Verb, Sequence[Any]]], alone: Callable[[Verb, Any], Any]) -> list[Outcome]:
    """After a poisoned transaction: every item in one of its own, so that only the poison fails."""
    return [_call_singly(verb, items, alone) for verb, items in calls]


def _call_singly(verb: Verb, items: Sequence[Any], alone: Callable[[Verb, Any], Any]) -> Outcome:
    results: list[Any] = []
    failure: BaseException | None = None
    for item in items:
        try:
            results.append(alone(verb, item))
        except Exception as error:
            failure = failure or error
    return failure or results
