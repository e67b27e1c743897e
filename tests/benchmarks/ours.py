"""trio_isolates itself, through its public API only."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from statistics import median
from time import perf_counter
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from census import resident_mib
from floor import Round
from jobs import count_records, echo, echo_async, hold
from trees import Documents, TreeRound, rounds_of
from trio_isolates import open_pool, open_worker, run
from trio_isolates.trace import record

HANDLERS: dict[str, Any] = {"sync": echo, "async": echo_async}


@asynccontextmanager
async def call(handler: str, calls: int) -> AsyncIterator[Round]:
    """Microseconds a call, one after the other."""
    async with open_worker(HANDLERS[handler]) as worker:

        async def one_round() -> float:
            start = perf_counter()
            for number in range(calls):
                if await worker.call(number) != number:
                    raise ValueError(number)
            return (perf_counter() - start) / calls * 1e6

        yield one_round


@asynccontextmanager
async def throughput(handler: str, callers: int, calls: int) -> AsyncIterator[Round]:
    """Calls a second from many Trio tasks over one worker."""
    async with open_worker(HANDLERS[handler]) as worker:

        async def caller() -> None:
            for number in range(calls // callers):
                if await worker.call(number) != number:
                    raise ValueError(number)

        async def one_round() -> float:
            start = perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(callers):
                    nursery.start_soon(caller)
            return calls / (perf_counter() - start)

        yield one_round


@asynccontextmanager
async def recorded(where: str, *args: Any) -> AsyncIterator[Round]:
    """What another contender does, while it is recorded."""
    module, _, name = where.partition(":")
    with record():
        async with getattr(import_module(module), name)(*args) as one_round:
            yield one_round


@asynccontextmanager
async def pool_map(items: int, workers: int) -> AsyncIterator[Round]:
    """Items a second, the chunks left to the pool."""
    async with open_pool(echo, workers=workers) as pool:

        async def one_round() -> float:
            start = perf_counter()
            if await pool.map(range(items)) != list(range(items)):
                raise ValueError("the answers differ")
            return items / (perf_counter() - start)

        yield one_round


@asynccontextmanager
async def worker_start(starts: int) -> AsyncIterator[Round]:
    """Milliseconds from `open_worker` to the first answer."""

    async def one_start() -> float:
        start = perf_counter()
        async with open_worker(echo) as worker:
            if await worker.call(1) != 1:
                raise ValueError("the answer differs")
            return (perf_counter() - start) * 1e3

    async def one_round() -> float:
        return median([await one_start() for _ in range(starts)])

    yield one_round


@asynccontextmanager
async def run_whole(starts: int) -> AsyncIterator[Round]:
    """Milliseconds of one `await run(f, x)`: started, answered, gone again."""

    async def one_run() -> float:
        start = perf_counter()
        if await run(echo, 1) != 1:
            raise ValueError("the answer differs")
        return (perf_counter() - start) * 1e3

    async def one_round() -> float:
        return median([await one_run() for _ in range(starts)])

    yield one_round


@asynccontextmanager
async def echo_bytes(mib: int, calls: int) -> AsyncIterator[Round]:
    """Milliseconds for one block there and back."""
    block = os.urandom(mib << 20)
    async with open_worker(echo) as worker:

        async def one_round() -> float:
            start = perf_counter()
            for _ in range(calls):
                answer = await worker.call(block)
            elapsed = perf_counter() - start
            if answer != block:
                raise ValueError("the answer differs")
            return elapsed / calls * 1e3

        yield one_round


@asynccontextmanager
async def json_tree(documents: Documents) -> AsyncIterator[TreeRound]:
    """Documents parsed in a worker, and the whole tree brought home."""
    async with open_worker(json.loads) as worker:

        async def way(text: str) -> int:
            return len(await worker.call(text))

        yield rounds_of(documents, way)


@asynccontextmanager
async def json_count(documents: Documents) -> AsyncIterator[TreeRound]:
    """Documents parsed in a worker, and only the number of records brought home."""
    async with open_worker(count_records) as worker:
        yield rounds_of(documents, worker.call)


@asynccontextmanager
async def waiting_callers(count: int) -> AsyncIterator[Round]:
    """MiB that callers take, all of them waiting for one worker whose handler is held up."""
    with tempfile.TemporaryDirectory() as folder:
        gate = os.path.join(folder, "gate")
        os.mkfifo(gate)
        async with open_worker(hold) as worker:
            await worker.call(None)
            done = 0

            async def caller(value: str | None) -> None:
                nonlocal done
                await worker.call(value)
                done += 1

            async def one_round() -> float:
                before = resident_mib()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(caller, gate)
                    await wait_all_tasks_blocked()
                    for _ in range(count - 1):
                        nursery.start_soon(caller, None)
                    await wait_all_tasks_blocked()
                    grown = resident_mib() - before
                    await trio.to_thread.run_sync(open_and_close, gate)
                if done != count:
                    raise ValueError("not all of them came back")
                return grown

            yield one_round


def open_and_close(gate: str) -> None:
    """Open the FIFO, which blocks until the handler has it open too."""
    with open(gate, "wb"):
        pass
