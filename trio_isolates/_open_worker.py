"""`open_worker`: one long-lived isolate that answers calls.

This module knows the words in which users ask; the work is done by a crew of one.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import (
    Any,
    Concatenate,
    Generic,
    NoReturn,
    ParamSpec,
    TypeVar,
    TypeVarTuple,
    Unpack,
    cast,
    final,
    overload,
)

import trio

from ._engine import Engine
from ._messages import CALL, RUN
from ._options import GcPolicy, OnCancel, WorkerOptions, check_callable, check_plain, make_options
from ._restart import Restart
from ._statistics import WorkerStatistics, count
from ._stream import Progress, call_with_progress, open_stream
from ._supervisor import Crew, open_crew

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Ts = TypeVarTuple("Ts")


@final
class Worker(Generic[P, T_co]):
    """One isolate that answers calls. Get one from `open_worker`; it lives as long as that block."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Worker cannot be sent: it stays with the block that opened it")

    def __repr__(self) -> str:
        return f"<trio_isolates.Worker {self.name!r} pid={self.pid}>"

    @property
    def name(self) -> str:
        """The worker's name, as given to `open_worker` or made up by it."""
        return self._crew.options.spec.name

    @property
    def pid(self) -> int | None:
        """The process id of the isolate at work now; None while there is none."""
        clients = self._crew.clients
        return clients[0].isolate.pid if clients else None

    @overload
    async def call(self, *args: P.args, **kwargs: P.kwargs) -> T_co: ...
    @overload
    async def call(self, *args: Any, on_progress: Progress, **kwargs: Any) -> T_co: ...
    async def call(self, *args: Any, **kwargs: Any) -> T_co:
        """Call the handler in the worker with these arguments; return what it returns.

        on_progress is called with what the handler gives to `report_progress`. What it raises cancels
        the call, and is raised. It never reaches the handler, which cannot have a parameter of this name.

        Calls are begun in the order in which they were made. At most `max_in_flight` are on their
        way, further callers wait in order.

        Raises:
            Exception: what the handler raised, as itself, with its remote frames; `RemoteError`
                in the place of what cannot cross as itself.
            UnsendableError: the arguments or the result cannot be pickled or unpickled.
            IsolateDied: the worker ended before it answered.
            trio.ClosedResourceError: the worker is closed.

        Cancellation travels to the handler: an async one has its own cancel scope cancelled, a sync
        one sees `CallInterrupted` (see `open_worker`). Cancelled is raised when the work has
        stopped. If the handler had ended by then, its value or error is delivered instead.
        """
        if (on_progress := kwargs.pop("on_progress", None)) is not None:
            return cast(T_co, await call_with_progress(self._crew, CALL, args, kwargs, on_progress))
        return cast(T_co, await self._crew.call(CALL, args, kwargs))

    @overload
    def open_stream(
        self: Worker[P, Iterable[S]], *args: P.args, **kwargs: P.kwargs
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[S]]: ...
    @overload
    def open_stream(
        self: Worker[P, AsyncIterable[S]], *args: P.args, **kwargs: P.kwargs
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[S]]: ...
    @overload
    def open_stream(
        self: Worker[..., Any], *args: Any, **kwargs: Any
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[Any]]: ...
    def open_stream(
        self, *args: Any, **kwargs: Any
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[Any]]:
        """Call the handler, a sync or async generator function; give what it yields as a receive channel.

            async with worker.open_stream(path) as items:
                async for item in items: ...

        The generator is at most 256 items ahead of their consumer, and waits when it is. What it
        raises is raised after the items before it. When the block is left early it is stopped as a
        cancelled call is: its `finally` has run, or its isolate was killed, before the block is left.

        Raises what `call` does, when the items are received.
        """
        return open_stream(self._crew, args, kwargs)

    @overload
    async def run(self, fn: Callable[[*Ts], Awaitable[S]], *args: *Ts) -> S: ...
    @overload
    async def run(self, fn: Callable[[*Ts], S], *args: *Ts) -> S: ...
    async def run(self, fn: Callable[[*Ts], Any], *args: *Ts) -> Any:
        """Call any function in this worker, with or without a handler there; return what it returns.

        It takes no keyword arguments for the function: use `functools.partial`.

        In a worker whose handler is sync, an async function runs alone, under a Trio of its own.
        In a worker that runs Trio, a sync function blocks the other calls until it returns.
        Raises and is cancelled as `call` is.
        """
        check_callable("fn", fn)
        check_plain(fn)
        return await self._crew.call(RUN, (fn, args))

    def close(self) -> None:
        """Take no new calls: they raise `trio.ClosedResourceError`. Those in flight go on."""
        self._crew.close()

    async def aclose(self) -> None:
        """Close, wait for the calls in flight, and end the worker. Cancelled: the worker is killed."""
        await self._crew.aclose()

    def kill(self) -> None:
        """End the worker at once. Calls in flight raise `IsolateDied`, later ones as if closed."""
        self._crew.kill()

    def statistics(self) -> WorkerStatistics:
        """Return a record of what became of the calls so far."""
        return WorkerStatistics(**count(self._crew))


@overload
def open_worker(
    handler: None = None,
    *,
    teardown: Callable[[], object] | str | None = ...,
    **options: Unpack[WorkerOptions],
) -> AbstractAsyncContextManager[Worker[..., Any]]: ...
@overload
def open_worker(
    handler: str,
    *,
    state: Callable[[], object] | str | None = ...,
    teardown: Callable[..., object] | str | None = ...,
    concurrency: int | None = ...,
    **options: Unpack[WorkerOptions],
) -> AbstractAsyncContextManager[Worker[..., Any]]: ...
@overload
def open_worker(
    handler: Callable[Concatenate[S, P], Awaitable[T]],
    *,
    state: Callable[[], Awaitable[S]] | Callable[[], S] | str,
    teardown: Callable[[S], object] | str | None = ...,
    concurrency: int | None = ...,
    **options: Unpack[WorkerOptions],
) -> AbstractAsyncContextManager[Worker[P, T]]: ...
@overload
def open_worker(
    handler: Callable[Concatenate[S, P], T],
    *,
    state: Callable[[], Awaitable[S]] | Callable[[], S] | str,
    teardown: Callable[[S], object] | str | None = ...,
    **options: Unpack[WorkerOptions],
) -> AbstractAsyncContextManager[Worker[P, T]]: ...
@overload
def open_worker(
    handler: Callable[P, Awaitable[T]],
    *,
    teardown: Callable[[], object] | str | None = ...,
    concurrency: int | None = ...,
    **options: Unpack[WorkerOptions],
) -> AbstractAsyncContextManager[Worker[P, T]]: ...
@overload
def open_worker(
    handler: Callable[P, T],
    *,
    teardown: Callable[[], object] | str | None = ...,
    **options: Unpack[WorkerOptions],
) -> AbstractAsyncContextManager[Worker[P, T]]: ...
def open_worker(
    handler: Callable[..., Any] | str | None = None,
    *,
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
    restart: Restart | None = None,
    gc: GcPolicy = "pause",
    engine: Engine | str | None = None,
    nice: int | None = None,
    cpu_affinity: Iterable[int] | None = None,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> AbstractAsyncContextManager[Worker[Any, Any]]:
    """Open one isolate that answers calls for the length of a block.

        async with open_worker(json.loads) as worker:
            data = await worker.call(text)

    It returns when `init` and `state` have. When the block is left normally, calls in flight are
    waited for, `teardown` runs, and the isolate ends. Left by an exception or a cancellation, calls
    in flight are stopped within `cancel_grace` and the isolate is killed if it has not ended. In
    either case it is gone when the block is left, and all that it had started but what has left its process
    group (`start_new_session=True`, `setsid`).

    Args:
        handler: what `call` calls: a sync or async function, lambda, closure, partial, method or
            callable object, or "package.module:function". A sync one has a plain blocking loop, an
            async one, or none at all, Trio. It is sent once.
        name: shown in errors and logs, and by `ps` (15 bytes); printable text.
        init: called once in the isolate before anything else; its result is ignored. It, `state`
            and `teardown` may be sync or async.
        state: called once after `init`; its result becomes the handler's and `teardown`'s first
            argument. `call` never sees it.
        teardown: called before the isolate ends, unless it is killed.
        context: module-level ContextVars whose values travel with each call. No other does.
        concurrency: how many calls an async handler serves at the same time; None: all that come.
        max_in_flight: how many calls may be sent and unanswered; at most 65,536.
        on_cancel: what a cancelled call does to a sync handler: "interrupt" raises `CallInterrupted`
            in it between two bytecodes, and its isolate lives on; "kill" kills the isolate.
        cancel_grace: seconds that cancelled work has to end before its isolate is killed, also when the
            block is left by an exception or a cancellation;
            `math.inf`: as long as it takes, as in Trio. Nothing is interrupted inside `__enter__`,
            `__exit__`, an import, logging or pickling: what stays there longer is killed. A killed
            isolate is replaced: `init` and `state` again, in a new process.
        shutdown_grace: seconds for `teardown` and the isolate's end when the block is left normally.
        restart: whether, and how often, an isolate is replaced that died by itself. None: never.
        gc: what the cyclic garbage collector of this process does about results of 64 KB or more, which
            are built a piece at a time. "leave": as always. "pause": in a piece it is held off, and
            what was built counts as old, to be walked only in a full collection; of that there is one
            after each ten seconds of building. "freeze": what was built is never walked, by
            `gc.freeze()` after each piece, at the price that the garbage cycles of these moments are
            never collected. Where anything is frozen, "pause" only holds off. A collector that the
            program has disabled is left alone.
        engine: where isolates run: "process", or an engine such as
            `trio_isolates.testing.InlineEngine()`. None: the one in force, usually "process".
        nice: the niceness of its process, from -20 to 19; most users may only go up. For this and
            the next four, None means: as the parent when the isolate starts.
        cpu_affinity: the numbers of the CPUs on which it may run.
        env: environment variables on top of the parent's; the value None removes one.
        cwd: its working directory.
        threads: how many threads BLAS and OpenMP (numpy, scipy, torch) may use, by the variables
            that their libraries read when they are loaded, OMP_NUM_THREADS and its kin; `env` has
            the last word. A module that the program has the forkserver preload is loaded before.

    Raises:
        IsolateSpawnError: the process, `init` or `state` failed, from the failure itself; or the
            system refuses `nice`, `cpu_affinity` or `cwd`.
        UnsendableError: the handler or another function cannot be pickled.
        TypeError, ValueError: an option is wrong, or does not apply to this handler.
        IsolateDied: when the block is left: the worker had died, and no call had shown it.
        RestartLimitExceeded: the worker died more often than `restart` allows; the body is cancelled.

    The rules are those of Dart's robust `Worker`, with structured concurrency in the place of ports
    that stay open.
    """
    options = make_options(
        "worker",
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
    return _open(Crew(options, size=1, restart=restart, is_pool=False))


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _open(crew: Crew) -> AsyncGenerator[Worker[Any, Any], None]:
    async with open_crew(crew):
        yield Worker(crew)
