"""A large JSON document parsed elsewhere, or not, and brought home whole: for how long others do not run.

Each contender is a fresh process with the same bytes in it and nothing else that is large. The tree is
dropped after the measurement: to free it takes as long wherever it came from.
"""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter, process_time, thread_time
from typing import Any, TypeAlias

import trio
import trio_parallel

from trees import TICK, make_document, tick
from trio_isolates import open_worker

Gaps: TypeAlias = dict[str, float]
GapsRound: TypeAlias = Callable[[], Awaitable[Gaps]]
FORKSERVER = trio_parallel.WorkerType.FORKSERVER


def make_bytes(size: int) -> tuple[bytes, int]:
    text, records = make_document(size)
    return text.encode(), records


def round_of(size: int, way: Callable[[bytes], Awaitable[Any]]) -> GapsRound:
    """The round of a way, all in ms: time and CPU of one call; then of another, with a ticker, the gap."""
    data, records = make_bytes(size)

    async def one_round() -> Gaps:
        gc.collect()
        begin = perf_counter(), thread_time(), process_time()
        tree = await way(data)
        elapsed, thread, process = (
            perf_counter() - begin[0],
            thread_time() - begin[1],
            process_time() - begin[2],
        )
        await trio.lowlevel.checkpoint()  # until then, Trio holds what a call returned
        del tree
        gc.collect()
        gaps: list[float] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick, gaps)
            await trio.sleep(10 * TICK)
            tree = await way(data)
            await trio.sleep(10 * TICK)  # a collection may follow
            nursery.cancel_scope.cancel()
        if len(tree) != records:
            raise ValueError("some records are missing")
        return {
            "ms": elapsed * 1e3,
            "gap": max(gaps) * 1e3,
            "loop's CPU": thread * 1e3,
            "CPU": process * 1e3,
        }

    return one_round


@asynccontextmanager
async def ours(policy: Any, size: int) -> AsyncIterator[GapsRound]:
    async with open_worker(json.loads, gc=policy) as worker:
        await worker.call("[]")
        yield round_of(size, worker.call)


@asynccontextmanager
async def inline(collector: bool, size: int) -> AsyncIterator[GapsRound]:
    async def way(data: bytes) -> Any:
        return json.loads(data)

    one_round = round_of(size, way)
    if not collector:
        gc.disable()
    yield one_round


@asynccontextmanager
async def trio_parallel_loads(size: int) -> AsyncIterator[GapsRound]:
    async def way(data: bytes) -> Any:
        return await trio_parallel.run_sync(json.loads, data)

    async with trio_parallel.cache_scope(worker_type=FORKSERVER):
        await way(b"[]")
        yield round_of(size, way)
