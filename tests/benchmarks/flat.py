"""Does anything grow? The same work many times over, and a census before, halfway and after."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

import trio

from census import census
from jobs import echo, own_pid
from trio_isolates import IsolateDied, Restart, open_pool, open_worker

Table: TypeAlias = list[dict[str, float]]
Round: TypeAlias = Callable[[], Awaitable[Table]]
SETTLE = 1.0  # seconds; the forkserver reaps and closes on its own time


async def settled(before: dict[str, float]) -> dict[str, float]:
    """A census as soon as nothing but memory exceeds the one before; if that never comes, as it is."""
    with trio.move_on_after(SETTLE):
        while any(count > before[what] for what, count in census().items() if "RSS" not in what):
            await trio.sleep(0.01)
    return census()


async def three_times(work: Callable[[int], Awaitable[None]], warm_up: int, times: int) -> Table:
    await work(warm_up)
    await trio.sleep(SETTLE)
    before = census()
    await work(times // 2)
    middle = await settled(before)
    await work(times - times // 2)
    return [before, middle, await settled(before)]


@asynccontextmanager
async def open_close(times: int) -> AsyncIterator[Round]:
    async def work(count: int) -> None:
        for number in range(count):
            async with open_worker(echo) as worker:
                await worker.call(number)

    async def one_round() -> Table:
        return await three_times(work, 30, times)

    yield one_round


@asynccontextmanager
async def calls(times: int) -> AsyncIterator[Round]:
    async with open_worker(echo) as worker:

        async def work(count: int) -> None:
            for number in range(count):
                await worker.call(number)

        async def one_round() -> Table:
            return await three_times(work, 2000, times)

        yield one_round


@asynccontextmanager
async def kills(times: int) -> AsyncIterator[Round]:
    """Workers of a pool killed by SIGKILL, idle or busy as it comes, and replaced."""
    patient = Restart(max_restarts=1_000_000, within=3600.0, min_backoff=0.0, max_backoff=0.0, jitter=0.0)
    async with open_pool(own_pid, workers=2, restart=patient) as pool:

        async def one_kill(before: set[int]) -> None:
            while (pid := await pool.call()) in before:
                await trio.sleep(0.001)
            before.add(pid)
            os.kill(pid, signal.SIGKILL)

        async def work(count: int) -> None:
            killed: set[int] = set()
            while len(killed) < count:
                with suppress(IsolateDied):
                    await one_kill(killed)
            while pool.statistics().workers < 2:
                await trio.sleep(0.01)

        async def one_round() -> Table:
            return await three_times(work, 30, times)

        yield one_round
