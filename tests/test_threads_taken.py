"""Isolates in a program whose own threads have taken every token of Trio's default limiter."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

import handlers
from fifo import within
from handlers import apply
from trio_isolates import IsolateDied, open_pool, open_worker, run

LIMIT = 15.0
"""Seconds for a test."""


async def block(release: threading.Event) -> None:
    await trio.to_thread.run_sync(release.wait, 2 * LIMIT)  # in the end, or what waits for them would hang


@asynccontextmanager
async def all_threads_taken() -> AsyncGenerator[None]:
    """As many threads as the limiter allows, blocked until the test is over, and one more in line."""
    limiter = trio.to_thread.current_default_thread_limiter()
    release = threading.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(int(limiter.total_tokens) + 1):
            nursery.start_soon(block, release)
        while not limiter.statistics().tasks_waiting:
            await trio.lowlevel.checkpoint()
        try:
            yield
            assert limiter.available_tokens == 0
            assert limiter.statistics().tasks_waiting == 1
        finally:
            release.set()


@within(LIMIT)
async def test_start_and_leave() -> None:
    """An isolate starts, answers and ends without a token."""
    async with all_threads_taken():
        async with open_worker(apply) as worker:
            assert await worker.call(handlers.echo, 1) == 1
        assert await run(handlers.echo, 2) == 2


@within(LIMIT)
async def test_kill() -> None:
    """A killed isolate is gone, and its block left, without a token; one that died is replaced."""
    async with all_threads_taken():
        async with open_worker(apply) as worker:
            worker.kill()
        async with open_pool(apply, workers=1) as pool:
            with pytest.raises(IsolateDied):
                await pool.call(handlers.kill_self)
            assert await pool.call(handlers.echo, 1) == 1


@within(LIMIT)
async def test_cancellation() -> None:
    """A cancelled block is left, and a cancelled start given up, without a token."""
    async with all_threads_taken():
        with trio.CancelScope() as scope:
            async with open_worker(apply):
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        with trio.move_on_after(0) as scope:
            await run(handlers.echo, 1)
        assert scope.cancelled_caught
