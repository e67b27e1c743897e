"""`open_pool`: how a pool is asked for, and what its options are."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack, overload

import trio

from ._engine import Engine
from ._options import (
    GcPolicy,
    OnCancel,
    Options,
    PoolOptions,
    check_positive,
    check_workers,
    make_options,
)
from ._pool import Pool
from ._resident import check_can_measure
from ._restart import Restart
from ._run import usable_cpus
from ._supervisor import Crew, open_crew

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


def pool_size(
    options: Options,
    workers: int | None,
    min_workers: int | None,
    max_calls_per_worker: int | None,
    max_memory: int | None,
) -> int:
    """Return how many isolates a pool has at most, and check what else is said of their number and lives."""
    for option, value in (
        ("max_calls_per_worker", max_calls_per_worker),
        ("max_memory", max_memory),
    ):
        if value is not None:
            check_positive(option, value)
    if workers is not None:
        check_workers(workers, options.engine)
    cpus = options.spec.changes.cpu_affinity
    size = workers or (usable_cpus() if cpus is None else len(cpus))
    if min_workers is not None:
        check_positive("min_workers", min_workers, size)
    if max_memory is not None:
        check_can_measure()
    return size


@overload
def open_pool(
    handler: None = None,
    *,
    teardown: Callable[[], object] | str | None = ...,
    **options: Unpack[PoolOptions],
) -> AbstractAsyncContextManager[Pool[..., Any]]: ...
@overload
def open_pool(
    handler: str,
    *,
    state: Callable[[], object] | str | None = ...,
    teardown: Callable[..., object] | str | None = ...,
    concurrency: int | None = ...,
    **options: Unpack[PoolOptions],
) -> AbstractAsyncContextManager[Pool[..., Any]]: ...
@overload
def open_pool(
    handler: Callable[Concatenate[S, P], Awaitable[T]],
    *,
    state: Callable[[], Awaitable[S]] | Callable[[], S] | str,
    teardown: Callable[[S], object] | str | None = ...,
    concurrency: int | None = ...,
    **options: Unpack[PoolOptions],
) -> AbstractAsyncContextManager[Pool[P, T]]: ...
@overload
def open_pool(
    handler: Callable[Concatenate[S, P], T],
    *,
    state: Callable[[], Awaitable[S]] | Callable[[], S] | str,
    teardown: Callable[[S], object] | str | None = ...,
    **options: Unpack[PoolOptions],
) -> AbstractAsyncContextManager[Pool[P, T]]: ...
@overload
def open_pool(
    handler: Callable[P, Awaitable[T]],
    *,
    teardown: Callable[[], object] | str | None = ...,
    concurrency: int | None = ...,
    **options: Unpack[PoolOptions],
) -> AbstractAsyncContextManager[Pool[P, T]]: ...
@overload
def open_pool(
    handler: Callable[P, T],
    *,
    teardown: Callable[[], object] | str | None = ...,
    **options: Unpack[PoolOptions],
) -> AbstractAsyncContextManager[Pool[P, T]]: ...
def open_pool(
    handler: Callable[..., Any] | str | None = None,
    *,
    workers: int | None = None,
    min_workers: int | None = None,
    max_calls_per_worker: int | None = None,
    max_memory: int | None = None,
    restart: Restart | None = Restart(),  # frozen
    name: str | None = None,
    init: Callable[[], object] | str | None = None,
    state: Callable[[], object] | str | None = None,
    teardown: Callable[..., object] | str | None = None,
    context: Sequence[ContextVar[Any]] = (),
    concurrency: int | None = None,
    max_in_flight: int = 1024,
    on_cancel: OnCancel = "interrupt",
    cancel_grace: float = 1.0,
    shutdown_grace: float = 5.0,
    gc: GcPolicy = "pause",
    engine: Engine | str | None = None,
    nice: int | None = None,
    cpu_affinity: Iterable[int] | None = None,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> AbstractAsyncContextManager[Pool[Any, Any]]:
    """Open isolates that share a queue of calls, for the length of a block.

        async with open_pool(parse, workers=4) as pool:
            documents = await pool.map(paths)

    It returns when the first isolate is ready; the others start behind it. An isolate that dies is
    replaced as `restart` says. A failed start, `init` or `state`, and a death with no call running
    count against it; a death during a call is that call's error, and is not counted.

    Args:
        handler, name, init, state, teardown, context, concurrency, max_in_flight, on_cancel,
        cancel_grace, shutdown_grace, gc, engine, nice, cpu_affinity, env, cwd, threads: as for
            `open_worker`; max_in_flight, concurrency and threads are for each isolate, and they all
            share the CPUs of cpu_affinity.
        workers: how many isolates; None: as many as usable CPUs, or as cpu_affinity names. At most 1,024,
            and as many as this process may have files open for, 9 for each (`ulimit -n`).
        min_workers: how many are kept when there is nothing to do; None: all. More are started as
            calls have to wait, and end when they have had none for 10 seconds.
        max_calls_per_worker: after so many calls (of `map`: items) an isolate is relieved by a new
            one: it finishes what it has, tears down and ends. No call is lost, or fails.
        max_memory: in bytes: an isolate that holds more resident memory after a call is relieved. It is
            looked at every 50 ms at most; segments of large messages do not count. Not on Linux: needs
            psutil.
        restart: the policy for all of them together; None: those that die are not replaced. When the last
            has died, each further call raises `IsolateDied` and says that none is left.

    Raises what `open_worker` raises; `IsolateSpawnError` if all of the first round fail.
    """
    options = make_options(
        "pool",
        handler,
        name=name,
        init=init,
        state=state,
        teardown=teardown,
        context=context,
        concurrency=concurrency,
        max_in_flight=max_in_flight,
        on_cancel=on_cancel,
        cancel_grace=cancel_grace,
        shutdown_grace=shutdown_grace,
        gc=gc,
        engine=engine,
        restart=restart,
        nice=nice,
        cpu_affinity=cpu_affinity,
        env=env,
        cwd=cwd,
        threads=threads,
    )
    size = pool_size(options, workers, min_workers, max_calls_per_worker, max_memory)
    crew = Crew(
        options,
        size=size,
        restart=restart,
        is_pool=True,
        least=min_workers,
        most_calls=max_calls_per_worker,
        max_memory=max_memory,
    )
    return _open(crew)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _open(crew: Crew) -> AsyncGenerator[Pool[Any, Any], None]:
    async with open_crew(crew):
        yield Pool(crew)
