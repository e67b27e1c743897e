"""Cancelled at each step of the scheduler in turn, a block leaves nothing, and what it used still works."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import trio

import handlers
from contract import both_loops
from fifo import within
from handlers import apply, apply_async
from trio_isolates import IsolateDied, open_pool, open_worker, run

_forkserver: Any = forkserver._forkserver


class CancelAt(trio.abc.Instrument):
    """Cancels a scope after the n-th step of any task."""

    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self.left = step
        self._scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self._scope.cancel()


def alive() -> list[str]:
    """What runs below the forkserver, except what is dead and only not yet reaped."""
    found = []
    for child in Path(f"/proc/{_forkserver._forkserver_pid}/task").glob("*/children"):
        for pid in child.read_text().split():
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
            except FileNotFoundError:
                continue
            if stat.rpartition(")")[2].split()[0] not in "ZX":
                found.append(stat)
    return found


async def cancel_at(step: int, block: Callable[[], Awaitable[None]]) -> bool:
    """Run the block and cancel it at this step; return True if it came to its end before."""
    with trio.CancelScope() as scope:
        instrument = CancelAt(step, scope)
        trio.lowlevel.add_instrument(instrument)
        try:
            await block()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return instrument.left > 0 and not scope.cancelled_caught


async def cancel_everywhere(
    block: Callable[[], Awaitable[None]], check: Callable[[], Awaitable[None]]
) -> None:
    """Cancel the block at step 1, 2, ... until it completes; check after each."""
    await block()
    step = 0
    completed = False
    while not completed:
        step += 1
        completed = await cancel_at(step, block)
        await check()
    assert step > 1  # else nothing was cancelled


async def open_and_close(handler: Callable[..., Any]) -> None:
    async with open_worker(handler, init=os.getpid, teardown=os.getpid):
        pass


async def call_in_a_worker(handler: Callable[..., Any]) -> None:
    async with open_worker(handler) as worker:
        assert await worker.call(handlers.echo, 1) == 1


async def run_once(handler: Callable[..., Any]) -> None:
    assert await run(handler, handlers.echo, 1) == 1


async def map_in_a_pool(handler: Callable[..., Any]) -> None:
    async with open_pool(handler, workers=2) as pool:
        assert await pool.map(range(3), handlers.echo) == [0, 1, 2]


async def close_first(handler: Callable[..., Any]) -> None:
    async def call() -> None:
        with suppress(trio.ClosedResourceError):  # stopped by the closing, if that is cancelled
            await worker.call(handlers.echo, 1)

    async with open_worker(handler) as worker, trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.lowlevel.checkpoint()
        worker.close()
        await worker.aclose()


@both_loops
@pytest.mark.parametrize(
    "block",
    [
        open_and_close,
        call_in_a_worker,
        pytest.param(run_once, marks=pytest.mark.slow),
        pytest.param(map_in_a_pool, marks=pytest.mark.slow),
        pytest.param(close_first, marks=pytest.mark.slow),
    ],
)
@within(50)
async def test_a_block_cancelled_at_each_step(
    block: Callable[[Callable[..., Any]], Awaitable[None]], handler: Callable[..., Any]
) -> None:
    """When a cancelled block is left, its processes have ended and its descriptors are closed."""
    await run(handlers.echo, 1)  # the forkserver, and Trio's thread
    before = set(os.listdir("/proc/self/fd"))

    async def nothing_left() -> None:
        assert alive() == []
        assert set(os.listdir("/proc/self/fd")) <= before

    await cancel_everywhere(lambda: block(handler), nothing_left)


@pytest.mark.parametrize(
    ("handler", "on_cancel"),
    [(apply, "interrupt"), (apply, "kill"), (apply_async, "interrupt")],
    ids=["sync", "sync-kill", "async"],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
@within(50)
async def test_a_call_cancelled_at_each_step(handler: Callable[..., Any], on_cancel: Any, size: int) -> None:
    """A call cancelled while it is sent or waited for leaves its place; the worker answers the next."""
    value = bytes(size)

    async def call() -> None:
        assert await worker.call(handlers.echo, value) == value

    async def answers() -> None:
        assert await worker.call(handlers.echo, 2) == 2
        statistics = worker.statistics()
        assert (statistics.in_flight, statistics.queued) == (0, 0)

    async with open_worker(handler, on_cancel=on_cancel) as worker:
        await cancel_everywhere(call, answers)


@both_loops
@within(50)
async def test_queued_calls_cancelled_at_each_step(handler: Callable[..., Any]) -> None:
    """Ten calls that wait for each other's places are cancelled at any moment without losing a place."""

    async def calls() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(pool.call, handlers.echo, number)

    async def answers() -> None:
        await calls()
        while pool.statistics().in_flight:  # the other worker may still have to say what it has dropped
            await trio.lowlevel.checkpoint()
        assert pool.statistics().queued == 0

    async with open_pool(handler, workers=2, max_in_flight=1) as pool:
        await cancel_everywhere(calls, answers)


@within(50)
async def test_a_death_and_a_cancellation_at_each_step() -> None:
    """A call whose worker dies while it is cancelled ends once, as cancelled or as dead."""

    async def call() -> None:
        try:
            await pool.call(handlers.kill_self)
        except IsolateDied:
            pass

    async def answers() -> None:
        assert await pool.call(handlers.echo, 1) == 1
        assert pool.statistics().in_flight == 0

    async with open_pool(apply, workers=1) as pool:
        await cancel_everywhere(call, answers)
