"""The peers, as fast as their documentation allows: warm, preloaded, and spared Trio where they know none.

`ProcessPoolExecutor` is called straight from the loop's thread and blocks it: a real Trio program would have
to go through a thread, which costs more. Both peers use the forkserver.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import asynccontextmanager
from statistics import median
from time import perf_counter

import trio
import trio_parallel

from floor import Round
from jobs import echo
from trees import Documents, TreeRound, rounds_of

FORKSERVER = trio_parallel.WorkerType.FORKSERVER


def executor(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver"))


@asynccontextmanager
async def trio_parallel_call(calls: int) -> AsyncIterator[Round]:
    """Microseconds a call, one after the other, in a warm worker."""
    run_sync, limiter = trio_parallel.run_sync, trio.CapacityLimiter(1)

    async def one_round() -> float:
        start = perf_counter()
        for number in range(calls):
            if await run_sync(echo, number, limiter=limiter) != number:
                raise ValueError(number)
        return (perf_counter() - start) / calls * 1e6

    async with trio_parallel.cache_scope(worker_type=FORKSERVER):
        yield one_round


@asynccontextmanager
async def executor_call(calls: int) -> AsyncIterator[Round]:
    """Microseconds a call, one after the other, in a warm worker."""
    with executor(1) as pool:

        async def one_round() -> float:
            start = perf_counter()
            for number in range(calls):
                if pool.submit(echo, number).result() != number:
                    raise ValueError(number)
            return (perf_counter() - start) / calls * 1e6

        yield one_round


@asynccontextmanager
async def trio_parallel_throughput(callers: int, calls: int) -> AsyncIterator[Round]:
    """Calls a second from many Trio tasks over one worker."""
    run_sync, limiter = trio_parallel.run_sync, trio.CapacityLimiter(1)

    async def caller() -> None:
        for number in range(calls // callers):
            if await run_sync(echo, number, limiter=limiter) != number:
                raise ValueError(number)

    async def one_round() -> float:
        start = perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(callers):
                nursery.start_soon(caller)
        return calls / (perf_counter() - start)

    async with trio_parallel.cache_scope(worker_type=FORKSERVER):
        yield one_round


@asynccontextmanager
async def executor_throughput(callers: int, calls: int) -> AsyncIterator[Round]:
    """Calls a second with as many futures outstanding as there are callers elsewhere, one worker."""
    with executor(1) as pool:

        async def one_round() -> float:
            start = perf_counter()
            pending: deque[Future[int]] = deque(pool.submit(echo, number) for number in range(callers))
            for number in range(callers, calls):
                pending.popleft().result()
                pending.append(pool.submit(echo, number))
            for future in pending:
                future.result()
            return calls / (perf_counter() - start)

        yield one_round


@asynccontextmanager
async def executor_map(items: int, workers: int, chunksize: int) -> AsyncIterator[Round]:
    """Items a second."""
    with executor(workers) as pool:

        async def one_round() -> float:
            start = perf_counter()
            if list(pool.map(echo, range(items), chunksize=chunksize)) != list(range(items)):
                raise ValueError("the answers differ")
            return items / (perf_counter() - start)

        yield one_round


@asynccontextmanager
async def trio_parallel_start(starts: int, whole: bool) -> AsyncIterator[Round]:
    """Milliseconds of a context with a fresh worker: up to the first answer, or until it is gone again."""
    multiprocessing.set_forkserver_preload(["trio_parallel._proc", "jobs"])

    async def one_start() -> float:
        start = perf_counter()
        async with trio_parallel.open_worker_context(worker_type=FORKSERVER) as context:
            if await context.run_sync(echo, 1) != 1:
                raise ValueError("the answer differs")
            answered = perf_counter()
        return ((perf_counter() if whole else answered) - start) * 1e3

    async def one_round() -> float:
        return median([await one_start() for _ in range(starts)])

    yield one_round


@asynccontextmanager
async def trio_parallel_bytes(mib: int, calls: int) -> AsyncIterator[Round]:
    """Milliseconds for one block there and back."""
    block = os.urandom(mib << 20)

    async def one_round() -> float:
        start = perf_counter()
        for _ in range(calls):
            answer = await trio_parallel.run_sync(echo, block)
        elapsed = perf_counter() - start
        if answer != block:
            raise ValueError("the answer differs")
        return elapsed / calls * 1e3

    async with trio_parallel.cache_scope(worker_type=FORKSERVER):
        yield one_round


@asynccontextmanager
async def trio_parallel_json(documents: Documents) -> AsyncIterator[TreeRound]:
    """Documents parsed in a warm worker, and the whole tree brought home."""

    async def way(text: str) -> int:
        return len(await trio_parallel.run_sync(json.loads, text))

    async with trio_parallel.cache_scope(worker_type=FORKSERVER):
        yield rounds_of(documents, way)


@asynccontextmanager
async def executor_bytes(mib: int, calls: int) -> AsyncIterator[Round]:
    """Milliseconds for one block there and back."""
    block = os.urandom(mib << 20)
    with executor(1) as pool:

        async def one_round() -> float:
            start = perf_counter()
            for _ in range(calls):
                answer = pool.submit(echo, block).result()
            elapsed = perf_counter() - start
            if answer != block:
                raise ValueError("the answer differs")
            return elapsed / calls * 1e3

        yield one_round
