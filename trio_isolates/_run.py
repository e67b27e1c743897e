"""`run`: one answer from a fresh isolate."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar, TypeVarTuple, Unpack, overload

import trio

from ._engine import Engine
from ._functions import is_async
from ._here import check_in_trio
from ._messages import CALL
from ._options import GcPolicy, OnCancel, ProcessOptions, check_plain, make_options
from ._supervisor import Crew, open_crew

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("trio_isolates_limiter")

# Set by an engine whose isolates live in their parent's Trio run: each has a limiter of its own, as a
# process has. With one for all, a `run` in a `run` would wait for a place that its own parent holds.
isolate_limiter: ContextVar[trio.CapacityLimiter | None] = ContextVar("isolate_limiter", default=None)


def usable_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, and its cgroup's quota rounded up."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        if quota != "max":
            count = min(count, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup version 2
        pass
    return max(1, count)


def current_default_isolate_limiter() -> trio.CapacityLimiter:
    """Return the limiter that all `run`s of this Trio run share: at first as many as usable CPUs.

    Set its `total_tokens` to change that. Workers, pools and bare isolates do not use it.
    """
    if (own := isolate_limiter.get()) is not None:
        return own
    check_in_trio()
    try:
        return _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(usable_cpus())
        _limiter.set(limiter)
        return limiter


@overload
async def run(
    fn: Callable[[*Ts], Awaitable[T]],
    *args: *Ts,
    name: str | None = ...,
    limiter: trio.CapacityLimiter | None = ...,
    gc: GcPolicy = ...,
    engine: Engine | str | None = ...,
    **process: Unpack[ProcessOptions],
) -> T: ...
@overload
async def run(
    fn: Callable[[*Ts], T],
    *args: *Ts,
    name: str | None = ...,
    limiter: trio.CapacityLimiter | None = ...,
    gc: GcPolicy = ...,
    engine: Engine | str | None = ...,
    **process: Unpack[ProcessOptions],
) -> T: ...
async def run(
    fn: Callable[[*Ts], Any],
    *args: *Ts,
    name: str | None = None,
    limiter: trio.CapacityLimiter | None = None,
    gc: GcPolicy = "pause",
    engine: Engine | str | None = None,
    nice: int | None = None,
    cpu_affinity: Iterable[int] | None = None,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> Any:
    """Call a function in a fresh isolate of its own; return what it returns. Dart's `Isolate.run`.

        data = await run(parse, path)

    Args:
        fn: a sync or async function, or any other callable, also a lambda or a closure.
        *args: what it is called with; for keyword arguments, use `functools.partial`.
        name: the isolate's name, in errors and logs.
        limiter: how many run at once; None: `current_default_isolate_limiter()`.
        gc, engine, nice, cpu_affinity, env, cwd, threads: as for `open_worker`.

    Raises what `Worker.call` raises, and `IsolateSpawnError`. Cancelled: an async function is
    cancelled, a sync one killed at once; either way the isolate is gone when Cancelled is raised.
    """
    check_in_trio()
    check_plain(fn)
    if limiter is not None and not isinstance(limiter, trio.CapacityLimiter):
        raise TypeError(f"limiter= must be a trio.CapacityLimiter, not {limiter!r}")
    on_cancel: OnCancel = "interrupt" if is_async(fn) else "kill"
    options = make_options(
        "run",
        fn,
        name=name,
        on_cancel=on_cancel,
        gc=gc,
        engine=engine,
        nice=nice,
        cpu_affinity=cpu_affinity,
        env=env,
        cwd=cwd,
        threads=threads,
    )
    crew = Crew(options, size=1, restart=None, is_pool=False, replaces_killed=False)
    async with limiter or current_default_isolate_limiter(), open_crew(crew):
        return await crew.call(CALL, args)
