"""Large arrays there and back, memory handed over, and many of them: does anything pile up?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import numpy as np
import trio_parallel

from flat import Round as FlatRound
from flat import Table, three_times
from floor import Round
from jobs import echo
from peers import FORKSERVER, executor
from trio_isolates import SharedBuffer, open_worker


def array_of(mib: int) -> Any:
    return np.random.default_rng(1).integers(0, 255, mib << 20, np.uint8)


@asynccontextmanager
async def two_copies(mib: int, calls: int) -> AsyncIterator[Round]:
    """Milliseconds of two memcpys into memory that is warm: the least that crosses no process."""
    array = array_of(mib)
    there, back = array.copy(), array.copy()

    async def one_round() -> float:
        start = perf_counter()
        for _ in range(calls):
            there[:] = array
            back[:] = there
        return (perf_counter() - start) / calls * 1e3

    yield one_round


@asynccontextmanager
async def echo_array(mib: int, calls: int) -> AsyncIterator[Round]:
    """Milliseconds for an array to a worker and one of the same size back."""
    array = array_of(mib)
    async with open_worker(echo) as worker:

        async def one_round() -> float:
            start = perf_counter()
            for _ in range(calls):
                answer = await worker.call(array)
            elapsed = perf_counter() - start
            if answer[-1] != array[-1] or not answer.flags.writeable:
                raise ValueError("the answer differs")
            return elapsed / calls * 1e3

        yield one_round


@asynccontextmanager
async def trio_parallel_array(mib: int, calls: int) -> AsyncIterator[Round]:
    array = array_of(mib)

    async def one_round() -> float:
        start = perf_counter()
        for _ in range(calls):
            answer = await trio_parallel.run_sync(echo, array)
        elapsed = perf_counter() - start
        if answer[-1] != array[-1]:
            raise ValueError("the answer differs")
        return elapsed / calls * 1e3

    async with trio_parallel.cache_scope(worker_type=FORKSERVER):
        yield one_round


@asynccontextmanager
async def executor_array(mib: int, calls: int) -> AsyncIterator[Round]:
    array = array_of(mib)
    with executor(1) as pool:

        async def one_round() -> float:
            start = perf_counter()
            for _ in range(calls):
                answer = pool.submit(echo, array).result()
            elapsed = perf_counter() - start
            if answer[-1] != array[-1]:
                raise ValueError("the answer differs")
            return elapsed / calls * 1e3

        yield one_round


@asynccontextmanager
async def hand_over(mib: int, calls: int) -> AsyncIterator[Round]:
    """Milliseconds of a call with a `SharedBuffer` that is full, up to its answer, which is its size."""
    ones = np.ones(1 << 20, np.uint8)
    async with open_worker(len) as worker:

        async def one_call() -> float:
            buffer = SharedBuffer.allocate(mib << 20)
            for place in range(0, mib << 20, 1 << 20):
                buffer.view[place : place + (1 << 20)] = ones
            start = perf_counter()
            if await worker.call(buffer) != mib << 20:
                raise ValueError("the answer differs")
            return (perf_counter() - start) * 1e3

        async def one_round() -> float:
            return sum([await one_call() for _ in range(calls)]) / calls

        yield one_round


@asynccontextmanager
async def messages(times: int, mib: int) -> AsyncIterator[FlatRound]:
    """The census over many arrays there and back."""
    array = array_of(mib)
    async with open_worker(echo) as worker:

        async def work(count: int) -> None:
            for _ in range(count):
                await worker.call(array)

        async def one_round() -> Table:
            return await three_times(work, 100, times)

        yield one_round
