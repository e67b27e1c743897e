"""Many isolates behind one queue.

Each call goes to the isolate that has the least to do. This module knows how many calls become one
and one stream of items becomes many calls; the isolates are a crew's.
"""

from __future__ import annotations

import math
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Hashable,
    Iterable,
)
from contextlib import AbstractAsyncContextManager, aclosing
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    TypeVar,
    TypeVarTuple,
    cast,
    final,
    overload,
)

import outcome
import trio

from ._checks import check_int
from ._client import Client
from ._functions import parameter_names
from ._map import Map, check_items, check_progress, iterate, open_map
from ._messages import CALL, RUN
from ._options import check_callable, check_plain, check_positive, check_workers
from ._statistics import PoolStatistics, pool_statistics
from ._stream import Progress, call_with_progress, open_stream
from ._supervisor import Crew, only

_OPTIONS: Final = frozenset({"on_progress", "retries", "priority", "key"})

P = ParamSpec("P")
S = TypeVar("S")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


@final
class Pool(Generic[P, T_co]):
    """Isolates that share a queue of calls. Get one from `open_pool`; they live as long as that block."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._ambiguous: frozenset[str] | None = None

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Pool cannot be sent: it stays with the block that opened it")

    def __repr__(self) -> str:
        return f"<trio_isolates.Pool {self.name!r} workers={len(self._crew.clients)}>"

    @property
    def name(self) -> str:
        """The pool's name, as given to `open_pool` or made up by it."""
        return self._crew.options.spec.name

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the isolates that can serve now."""
        return tuple(client.isolate.pid for client in self._crew.clients if client.isolate.pid is not None)

    @overload
    async def call(self, *args: P.args, **kwargs: P.kwargs) -> T_co: ...
    @overload  # with any of the four, the arguments cannot be checked
    async def call(
        self,
        *args: Any,
        on_progress: Progress,
        retries: int = ...,
        priority: float = ...,
        key: Hashable = ...,
        **kwargs: Any,
    ) -> T_co: ...
    @overload
    async def call(
        self, *args: Any, retries: int, priority: float = ..., key: Hashable = ..., **kwargs: Any
    ) -> T_co: ...
    @overload
    async def call(self, *args: Any, priority: float, key: Hashable = ..., **kwargs: Any) -> T_co: ...
    @overload
    async def call(self, *args: Any, key: Hashable, **kwargs: Any) -> T_co: ...
    async def call(self, *args: Any, **kwargs: Any) -> T_co:
        """Call the handler with these arguments in the isolate with the least to do.

        As `Worker.call`. A call whose isolate dies before it has begun goes to another one; one
        that had begun raises `IsolateDied`, unless it may be repeated. So that it need not wait for
        the next one, an isolate holds at hand what takes it about a millisecond, by the time that
        earlier calls took: 1 to 32 calls (an async one without `concurrency`: up to `max_in_flight`).
        A call at hand that has not begun goes to another isolate as soon as that has nothing to do.

        Parameters of the handler that have one of these names can only be passed by position:

        on_progress: as for `Worker.call`.
        retries: how often the call may be repeated when the isolate that had begun it dies. For
            handlers that do no harm when they run twice.
        priority: of the calls that wait, those with the higher one go first.
        key: calls with the same key go to the same isolate, as long as that lives. It is remembered
            as long, in about 200 bytes.
        """
        on_progress, how = None, {}
        if kwargs:
            self._check_options(kwargs)
            on_progress = kwargs.pop("on_progress", None)
            how = _how(kwargs)
        if on_progress is not None:
            return cast(T_co, await call_with_progress(self._crew, CALL, args, kwargs, on_progress, **how))
        return cast(T_co, await self._crew.call(CALL, args, kwargs, **how))

    def _check_options(self, kwargs: dict[str, Any]) -> None:
        """Raise if what is passed by keyword could be meant for the handler as well as for the call."""
        if self._ambiguous is None:
            handler = self._crew.options.spec.handler
            names = () if handler is None or isinstance(handler, str) else parameter_names(handler)
            self._ambiguous = _OPTIONS.intersection(names)
        for name in self._ambiguous.intersection(kwargs):
            raise TypeError(
                f"{name}= is an option of `call`, and a parameter of the handler, too: "
                "give that another name, or pass it by position"
            )

    @overload
    def open_stream(
        self: Pool[P, Iterable[S]], *args: P.args, **kwargs: P.kwargs
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[S]]: ...
    @overload
    def open_stream(
        self: Pool[P, AsyncIterable[S]], *args: P.args, **kwargs: P.kwargs
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[S]]: ...
    @overload
    def open_stream(
        self: Pool[..., Any], *args: Any, **kwargs: Any
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[Any]]: ...
    def open_stream(
        self, *args: Any, **kwargs: Any
    ) -> AbstractAsyncContextManager[trio.abc.ReceiveChannel[Any]]:
        """Call the handler, a generator function, in the isolate with the least to do.

        As `Worker.open_stream`.
        """
        return open_stream(self._crew, args, kwargs)

    @overload
    async def run(
        self,
        fn: Callable[[*Ts], Awaitable[R]],
        *args: *Ts,
        retries: int = ...,
        priority: float = ...,
        key: Hashable = ...,
    ) -> R: ...
    @overload
    async def run(
        self,
        fn: Callable[[*Ts], R],
        *args: *Ts,
        retries: int = ...,
        priority: float = ...,
        key: Hashable = ...,
    ) -> R: ...
    async def run(
        self,
        fn: Callable[[*Ts], Any],
        *args: *Ts,
        retries: int = 0,
        priority: float = 0,
        key: Hashable = None,
    ) -> Any:
        """Call any function in the isolate with the least to do. As `Worker.run` and `call`.

        It takes no keyword arguments for the function: use `functools.partial`.
        """
        check_callable("fn", fn)
        check_plain(fn)
        how = _how({"retries": retries, "priority": priority, "key": key})
        return await self._crew.call(RUN, (fn, args), **how)

    @overload
    async def map(
        self, items: Iterable[Any] | AsyncIterable[Any], *, chunksize: int | Literal["auto"] = ...
    ) -> list[T_co]: ...
    @overload
    async def map(
        self,
        items: Iterable[S] | AsyncIterable[S],
        fn: Callable[[S], Awaitable[R]],
        *,
        chunksize: int | Literal["auto"] = ...,
    ) -> list[R]: ...
    @overload
    async def map(
        self,
        items: Iterable[S] | AsyncIterable[S],
        fn: Callable[[S], R],
        *,
        chunksize: int | Literal["auto"] = ...,
    ) -> list[R]: ...
    async def map(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        fn: Callable[[Any], Any] | None = None,
        *,
        chunksize: int | Literal["auto"] = "auto",
    ) -> list[Any]:
        """Call the handler, or `fn`, once for each item; return the results in the order of the items.

        Args:
            items: an iterable or async iterable; each item is the one argument of one call.
            fn: what is called instead of the handler.
            chunksize: how many items travel together; "auto": as many as take about 50 ms, by the
                time that the earlier ones took.

        The first exception stops what is in flight and is raised, with a note that names the item. A
        cancellation stops it, too. There are no `retries`, `priority` and `key` here: to go on after
        an error or a death, use `open_map(..., return_errors=True)`.
        """
        check_items(items)
        check_callable("fn", fn)
        check_plain(fn)
        if chunksize != "auto":
            check_positive("chunksize", chunksize)
        async with aclosing(iterate(items)) as pulled:
            todo = [item async for item in pulled]
        if not todo:
            await trio.lowlevel.checkpoint()
            return []
        return await Map(self._crew, fn, todo, chunksize).run()

    @overload
    def open_map(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        fn: None = ...,
        *,
        ordered: bool = ...,
        max_pending: int | None = ...,
        return_errors: Literal[False] = ...,
        progress: Callable[[int, int | None], object] | None = ...,
    ) -> AbstractAsyncContextManager[AsyncIterator[T_co]]: ...
    @overload
    def open_map(
        self,
        items: Iterable[S] | AsyncIterable[S],
        fn: Callable[[S], Awaitable[R]],
        *,
        ordered: bool = ...,
        max_pending: int | None = ...,
        return_errors: Literal[False] = ...,
        progress: Callable[[int, int | None], object] | None = ...,
    ) -> AbstractAsyncContextManager[AsyncIterator[R]]: ...
    @overload
    def open_map(
        self,
        items: Iterable[S] | AsyncIterable[S],
        fn: Callable[[S], R],
        *,
        ordered: bool = ...,
        max_pending: int | None = ...,
        return_errors: Literal[False] = ...,
        progress: Callable[[int, int | None], object] | None = ...,
    ) -> AbstractAsyncContextManager[AsyncIterator[R]]: ...
    @overload
    def open_map(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        fn: Callable[[Any], Any] | None = ...,
        *,
        ordered: bool = ...,
        max_pending: int | None = ...,
        return_errors: bool,
        progress: Callable[[int, int | None], object] | None = ...,
    ) -> AbstractAsyncContextManager[AsyncIterator[Any]]: ...
    def open_map(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        fn: Callable[[Any], Any] | None = None,
        *,
        ordered: bool = True,
        max_pending: int | None = None,
        return_errors: bool = False,
        progress: Callable[[int, int | None], object] | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """Call the handler, or `fn`, for each item as it is pulled; give the results as they come.

            async with pool.open_map(paths) as results:
                async for result in results: ...

        Args:
            items: an iterable or async iterable, endless if you like: an item is pulled only when
                there is a place for it. An async generator is closed when the block is left.
            fn: what is called instead of the handler.
            ordered: give the results in the order of the items; else as they are ready.
            max_pending: how many items may be pulled and not yet given out; None: four for each isolate.
            return_errors: give `outcome.Value(result)` or `outcome.Error(exception)` for each item,
                instead of raising the first exception, so that the others go on, also after a death; a
                note in the exception names the item. There are no `retries`, `priority` and `key` here.
                What the iterable itself raises is raised, after the results of its items.
            progress: a sync function, called with the number of finished calls, and of all items if known.
                What it raises stops what is in flight and is raised.

        Leaving the block early stops what is in flight, before the block is left.
        """
        check_items(items)
        check_callable("fn", fn)
        check_plain(fn)
        check_progress(progress)
        if max_pending is not None:
            check_positive("max_pending", max_pending)
        return open_map(
            self._crew,
            items,
            fn,
            ordered=ordered,
            max_pending=max_pending or 4 * max(1, len(self._crew.clients), self._crew.posts.size),
            return_errors=return_errors,
            progress=progress,
        )

    @overload
    async def broadcast(self, fn: Callable[[*Ts], Awaitable[R]], *args: *Ts) -> list[R]: ...
    @overload
    async def broadcast(self, fn: Callable[[*Ts], R], *args: *Ts) -> list[R]: ...
    @trio.lowlevel.enable_ki_protection
    async def broadcast(self, fn: Callable[[*Ts], Any], *args: *Ts) -> list[Any]:
        """Call a function once in every isolate that can serve now; return the results.

        All are waited for; then the first error, if there was one, is raised. An isolate that starts
        later is not told: to set isolates up, use `init` or `state` of `open_pool`.
        """
        check_callable("fn", fn)
        check_plain(fn)
        crew = self._crew
        crew.check_usable()
        clients = list(crew.clients)
        outcomes: dict[int, outcome.Outcome[Any]] = {}

        @trio.lowlevel.enable_ki_protection
        async def run_one(index: int, client: Client) -> None:
            if not client.is_open and client.isolate.death is None:
                return  # it was relieved in this very moment
            try:
                outcomes[index] = outcome.Value(await crew.dispatch.call_on(client, RUN, (fn, args)))
            except Exception as exc:
                outcomes[index] = outcome.Error(exc)

        crew.dispatch.begin_work()  # a call that is not sent yet is in flight, too
        try:
            async with trio.open_nursery() as nursery:
                for index, client in enumerate(clients):
                    nursery.start_soon(run_one, index, client)
        except BaseExceptionGroup as group:  # a Ctrl-C
            raise only(group) from None
        finally:
            crew.dispatch.end_work()
        return [outcomes[index].unwrap() for index in sorted(outcomes)]

    async def resize(self, workers: int) -> None:
        """Have so many isolates from now on.

        Returns when all have started, and those that are given up are gone. Those with the
        least to do are given up: they take no more calls, finish those that they have, tear down and
        end. A new one that fails to start is a failure as any other. Cancelled: the change goes on.
        Raises as a call does if the pool is closed, or all have died and none is replaced.
        """
        check_workers(workers, self._crew.options.engine)
        self._crew.check_served()
        await self._crew.posts.resize(workers)

    async def drain(self) -> None:
        """Wait until no call is in line or in flight. The pool stays open."""
        self._crew.check_run()
        await trio.lowlevel.checkpoint()
        await self._crew.dispatch.wait_idle()

    def close(self) -> None:
        """Take no new calls: they raise `trio.ClosedResourceError`. Those queued and in flight go on."""
        self._crew.close()

    async def aclose(self) -> None:
        """Close, wait for the calls queued and in flight, end the isolates. Cancelled: they are killed."""
        await self._crew.aclose()

    def kill(self) -> None:
        """End every isolate at once. Calls in flight raise `IsolateDied`, later ones as if closed."""
        self._crew.kill()

    def statistics(self) -> PoolStatistics:
        """Return a record of what became of the calls so far."""
        return pool_statistics(self._crew)


def _how(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take out how a call is to be served, and check it."""
    how: dict[str, Any] = {}
    if "retries" in kwargs and (retries := kwargs.pop("retries")) != 0:
        check_int("retries", retries, 0)
        how["retries"] = retries
    if "priority" in kwargs and (priority := kwargs.pop("priority")) != 0:
        if not isinstance(priority, int | float) or math.isnan(priority):
            raise TypeError(f"priority= must be a number, not {priority!r}")
        how["priority"] = priority
    if "key" in kwargs and (key := kwargs.pop("key")) is not None:
        try:
            hash(key)
        except TypeError:
            raise TypeError(f"key= must be hashable, not {key!r}") from None
        how["key"] = key
    return how
