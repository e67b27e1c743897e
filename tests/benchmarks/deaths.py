"""How soon a death is known, and how soon there is somebody else: trio_isolates beside trio-parallel."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil
from statistics import median
from time import perf_counter, sleep

import trio
import trio_parallel
from trio.testing import wait_all_tasks_blocked

from floor import Round
from jobs import own_pid
from trio_isolates import IsolateDied, Restart, open_pool

PATIENT = Restart(max_restarts=1_000_000, within=3600.0, min_backoff=0.0, max_backoff=0.0, jitter=0.0)
FORKSERVER = trio_parallel.WorkerType.FORKSERVER


async def stay_or_say(stays: bool) -> int:
    """As a handler: stay for ever, or say who is there."""
    if stays:
        await trio.sleep_forever()
    return os.getpid()


@asynccontextmanager
async def notice(calls: int, kills: int) -> AsyncIterator[Round]:
    """Milliseconds from the SIGKILL of a worker to its callers' `IsolateDied`, the 99th percentile of all."""
    async with open_pool(stay_or_say, workers=1, restart=PATIENT) as pool:

        async def one_kill() -> list[float]:
            noticed: list[float] = []

            async def caller() -> None:
                try:
                    await pool.call(True)
                except IsolateDied:
                    noticed.append(perf_counter())

            async with trio.open_nursery() as nursery:
                for _ in range(calls):
                    nursery.start_soon(caller)
                await wait_all_tasks_blocked()
                pid = await pool.call(False)  # in its turn: all the others have begun
                start = perf_counter()
                os.kill(pid, signal.SIGKILL)
            if len(noticed) != calls:
                raise ValueError(f"{len(noticed)} of {calls} callers saw their worker die")
            await pool.call(False)
            return [at - start for at in noticed]

        async def one_round() -> float:
            waits = sorted([wait for _ in range(kills) for wait in await one_kill()])
            return waits[ceil(0.99 * len(waits)) - 1] * 1e3

        yield one_round


@asynccontextmanager
async def replacement(kills: int) -> AsyncIterator[Round]:
    """Milliseconds from the SIGKILL of the only worker to the first answer of the next one."""
    async with open_pool(own_pid, workers=1, restart=PATIENT) as pool:

        async def one_kill() -> float:
            pid = await pool.call()
            start = perf_counter()
            os.kill(pid, signal.SIGKILL)
            if await pool.call() == pid:
                raise ValueError("the killed one has answered")
            return (perf_counter() - start) * 1e3

        async def one_round() -> float:
            return median([await one_kill() for _ in range(kills)])

        yield one_round


@asynccontextmanager
async def trio_parallel_death(kills: int, until_answer: bool) -> AsyncIterator[Round]:
    """Milliseconds from the SIGKILL of a busy worker to its caller's error, or to the next one's answer."""
    run_sync, limiter = trio_parallel.run_sync, trio.CapacityLimiter(1)

    async def one_kill() -> float:
        noticed = 0.0

        async def caller() -> None:
            nonlocal noticed
            try:
                await run_sync(sleep, 60, limiter=limiter)
            except trio_parallel.BrokenWorkerError:
                noticed = perf_counter()

        pid = await run_sync(own_pid, limiter=limiter)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller)
            await wait_all_tasks_blocked()
            start = perf_counter()
            os.kill(pid, signal.SIGKILL)
        if until_answer:
            await run_sync(own_pid, limiter=limiter)
        return ((perf_counter() if until_answer else noticed) - start) * 1e3

    async def one_round() -> float:
        return median([await one_kill() for _ in range(kills)])

    async with trio_parallel.cache_scope(worker_type=FORKSERVER):
        yield one_round
