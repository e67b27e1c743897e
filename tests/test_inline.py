"""The inline engine under a clock that jumps: everything takes exactly the time that it should."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import contract_handlers as work
from contract import plugin, takes
from fifo import within
from handlers import apply, apply_async
from trio_isolates import (
    IsolateDied,
    IsolateSpawnError,
    Restart,
    RestartLimitExceeded,
    Worker,
    open_pool,
    open_worker,
    run,
)
from trio_isolates.testing import InlineEngine

inline_isolates = plugin.inline_isolates

LONG = 100_000  # seconds; they pass at once


# Time.


@within(LONG)
async def test_calls_take_time(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """A call takes as long as its handler, and calls that run side by side no longer than one."""
    async with open_worker(work.nap) as worker, open_pool(apply_async, workers=2) as pool:
        with takes(1000):
            assert await worker.call(1000) == 1000
        with takes(50):
            async with trio.open_nursery() as nursery:
                for seconds in (50, 20, 30):
                    nursery.start_soon(worker.call, seconds)
                    nursery.start_soon(pool.run, work.nap, seconds)
        with takes(0):
            assert await worker.run(pow, 2, 10) == 1024
        with takes(3):
            assert await run(work.nap, 3) == 3


@within(LONG)
async def test_cancellation_takes_time(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """A cancelled call returns when its handler has cleaned up, within the grace."""
    async with open_worker(apply_async, cancel_grace=10) as worker:
        pid = worker.pid
        with takes(5), trio.move_on_after(5):
            await worker.call(trio.sleep_forever)
        with takes(5 + 7), trio.move_on_after(5):
            await worker.call(work.clean_up, 7)
        assert worker.pid == pid


@within(LONG)
async def test_cancel_grace(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """A handler that does not end is killed when `cancel_grace` is over, not before, and replaced at once."""
    async with open_worker(apply_async, cancel_grace=2.5) as worker:
        pid = worker.pid
        with takes(5 + 2.5), trio.move_on_after(5) as scope:
            await worker.call(work.never_end)
        assert scope.cancelled_caught
        with takes(0):
            assert await worker.call(abs, -1) == 1
        assert worker.pid not in {pid, None}
        assert worker.statistics().replaced == 1
        with takes(5 + 2), trio.move_on_after(5):
            await worker.call(work.clean_up, 2)
        assert worker.statistics().replaced == 1


@within(LONG)
async def test_one_grace_for_all(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """A block that is left by an exception gives all calls of all isolates one grace together."""
    async with trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await pool.call(work.never_end)

        with takes(3), pytest.raises(KeyError):
            async with open_pool(apply_async, workers=3, cancel_grace=3, teardown=work.never_end) as pool:
                for _ in range(6):
                    nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
                raise KeyError


@within(LONG)
async def test_shutdown_grace(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """`teardown` has `shutdown_grace` seconds, however long the calls before it take."""
    with takes(100 + 7):
        worker: Worker[[float], float]
        async with (
            trio.open_nursery() as nursery,
            open_worker(work.nap, teardown=work.never_end, shutdown_grace=7) as worker,
        ):
            nursery.start_soon(worker.call, 100)
            await trio.testing.wait_all_tasks_blocked()
    with takes(2):
        async with open_worker(
            work.nap, teardown=lambda: None, init=lambda: None, shutdown_grace=7
        ) as worker:
            await worker.call(2)


@within(LONG)
async def test_back_off(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """Restarts wait as the policy says: not at all, then ever longer, until a quiet period."""
    policy = Restart(max_restarts=9, within=100, min_backoff=1, max_backoff=4, jitter=0)
    async with open_worker(apply, restart=policy) as worker:
        for wait in (0, 1, 2, 4, 4):
            inline_isolates.kill(worker)
            with takes(wait):
                assert await worker.call(abs, -1) == 1
        await trio.sleep(101)
        for wait in (0, 1):
            inline_isolates.kill(worker)
            with takes(wait):
                assert await worker.call(abs, -1) == 1
        assert worker.statistics().restarted == 7


@within(LONG)
async def test_failed_starts(autojump_clock: MockClock, inline_isolates: InlineEngine) -> None:
    """A start that fails waits for its turn like a death, and too many of them end the pool."""
    policy = Restart(max_restarts=3, within=100, min_backoff=1, max_backoff=8, jitter=0)
    with takes(0 + 1 + 2), pytest.raises(RestartLimitExceeded) as caught:
        async with open_pool(apply, workers=1, restart=policy) as pool:
            for number in range(3):
                inline_isolates.fail_next("spawn", OSError(errno.EAGAIN, f"start {number}"))
            inline_isolates.kill(pool)
            await pool.call(abs, -1)
    assert [type(cause) for cause in caught.value.causes] == [IsolateDied, *3 * [IsolateSpawnError]]
    assert "start 2" in str(caught.value)
