"""The contenders of the table of faults, each behind one function: `await call(fn, *args)`, from Trio.

All have as many workers as asked for. Those that take a start method use the forkserver, since their parent
has threads. Who waits on a future cancels it when cancelled, which is all that can be done with one.
"""

from __future__ import annotations

import inspect
import multiprocessing
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import trio

from faults_jobs import apply, two_are_done

Call: TypeAlias = Callable[..., Awaitable[Any]]
Opener: TypeAlias = Callable[[int, int | None], AbstractAsyncContextManager[Call]]


class NotOfferedError(Exception):
    """This contender has no way to be asked for that."""


async def answer(future: Future[Any]) -> Any:
    done, token = trio.Event(), trio.lowlevel.current_trio_token()
    future.add_done_callback(lambda _: token.run_sync_soon(done.set))
    try:
        await done.wait()
    except trio.Cancelled:
        future.cancel()
        raise
    return future.result()


@asynccontextmanager
async def ours(workers: int, recycle: int | None) -> AsyncIterator[Call]:
    from trio_isolates import open_pool

    options: dict[str, Any] = {}
    if recycle is not None:
        options["max_calls_per_worker"] = recycle
        if "max_calls_per_worker" not in inspect.signature(open_pool).parameters:
            raise NotOfferedError("not yet")
    async with open_pool(apply, workers=workers, **options) as pool:
        yield pool.call


@asynccontextmanager
async def multiprocessing_pool(workers: int, recycle: int | None) -> AsyncIterator[Call]:
    pool = multiprocessing.get_context("forkserver").Pool(workers, maxtasksperchild=recycle)

    async def call(fn: Callable[..., Any], *args: Any) -> Any:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # what was given to this pool cannot be taken back
        pool.apply_async(fn, args, callback=future.set_result, error_callback=future.set_exception)
        return await answer(future)

    yield call


@asynccontextmanager
async def executor(workers: int, recycle: int | None) -> AsyncIterator[Call]:
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=recycle)
    yield lambda fn, *args: answer(pool.submit(fn, *args))


@asynccontextmanager
async def loky_executor(workers: int, recycle: int | None) -> AsyncIterator[Call]:
    import loky

    if recycle is not None:
        raise NotOfferedError("no such option")
    # Asked for anew at each call, as its documentation says: so one that broke is replaced.
    yield lambda fn, *args: answer(loky.get_reusable_executor(workers, timeout=None).submit(fn, *args))


@asynccontextmanager
async def pebble_pool(workers: int, recycle: int | None) -> AsyncIterator[Call]:
    import pebble

    context = multiprocessing.get_context("forkserver")
    pool = pebble.ProcessPool(workers, max_tasks=recycle or 0, context=context)
    yield lambda fn, *args: answer(pool.schedule(fn, args=args))


@asynccontextmanager
async def anyio_process(workers: int, recycle: int | None) -> AsyncIterator[Call]:
    import anyio.to_process

    if recycle is not None:
        raise NotOfferedError("no such option")
    limiter, run_sync = anyio.CapacityLimiter(workers), anyio.to_process.run_sync
    yield lambda fn, *args: run_sync(fn, *args, cancellable=True, limiter=limiter)


@asynccontextmanager
async def trio_parallel_context(workers: int, recycle: int | None) -> AsyncIterator[Call]:
    import trio_parallel

    options: dict[str, Any] = {}
    if recycle is not None:
        assert recycle == 2
        options["retire"] = two_are_done
    kind, limiter = trio_parallel.WorkerType.FORKSERVER, trio.CapacityLimiter(workers)
    async with trio_parallel.open_worker_context(worker_type=kind, **options) as context:
        yield lambda fn, *args: context.run_sync(fn, *args, kill_on_cancel=True, limiter=limiter)


OURS = "trio_isolates"
PEERS: dict[str, Opener] = {
    OURS: ours,
    "multiprocessing.Pool": multiprocessing_pool,
    "ProcessPoolExecutor": executor,
    "loky": loky_executor,
    "pebble": pebble_pool,
    "anyio.to_process": anyio_process,
    "trio-parallel": trio_parallel_context,
}
