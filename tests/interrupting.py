"""How tests cancel calls: when the function says that it has begun, or so long after."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import outcome
import trio

from handlers import apply
from trio_isolates import Worker, open_worker
from trio_isolates._memory import Page

AnyWorker: TypeAlias = Worker[..., Any]


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[AnyWorker]:
    """A worker with the blocking loop. It must be the same in the end: no interrupt has become a kill."""
    async with open_worker(apply, **{"cancel_grace": 15, **options}) as worker:
        pid = worker.pid
        yield worker
        assert (await worker.call(os.getpid), worker.pid, worker.statistics().replaced) == (pid, pid, 0)


def page(worker: AnyWorker) -> Page:
    """What the parent and this worker's isolate both look at."""
    return worker._crew.clients[0].isolate.host.page


async def capture(call: Callable[..., Awaitable[Any]], *args: Any) -> outcome.Outcome[Any]:
    try:
        return outcome.Value(await call(*args))
    except Exception as exc:
        return outcome.Error(exc)


async def cancel_when(
    begun: Callable[[], Awaitable[object]], call: Callable[..., Awaitable[Any]], *args: Any
) -> outcome.Outcome[Any] | None:
    """Make a call, cancel it when `begun` returns; return its outcome, None for Cancelled."""
    result = None

    async def keep() -> None:
        nonlocal result
        result = await capture(call, *args)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        await begun()
        nursery.cancel_scope.cancel()
    return result


def spin(seconds: float) -> None:
    """Let a time pass that is shorter than any sleep."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


async def cancel_at(
    moment: float, worker: AnyWorker, call: Callable[..., Awaitable[Any]], *args: Any
) -> outcome.Outcome[Any] | None:
    """Make a call, cancel it so many seconds after the worker has begun it; return as `cancel_when` does."""
    before = page(worker).begun

    async def begun() -> None:
        while page(worker).begun == before:
            await trio.lowlevel.checkpoint()
            os.sched_yield()
        spin(moment)

    return await cancel_when(begun, call, *args)
