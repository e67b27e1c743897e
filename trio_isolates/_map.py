"""Many items through a crew: all at once in chunks, or as a stream that is pulled as places free.

This module knows in what order items go out and results come back. What serves them is the crew's affair.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sized
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, Literal, final

import outcome
import trio

from ._errors import IsolateDied
from ._functions import is_async
from ._messages import CALL, CHUNK, RUN
from ._service import name_item
from ._supervisor import Crew, only

_CHUNK_TIME: Final = 0.05  # seconds that an automatic chunk should take
_CHUNK_GROWTH: Final = 32  # times; the first measurements are mostly overhead


async def iterate(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    if inspect.isasyncgen(items):
        async with aclosing(items):  # Python closes a generator at some time, its caller at this
            async for item in items:
                yield item
    elif isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def check_items(items: object) -> None:
    """Raise unless items can be had from it."""
    if not isinstance(items, AsyncIterable | Iterable):
        raise TypeError(f"items must be an iterable or async iterable, not {items!r}")


def check_progress(progress: object) -> None:
    """Raise unless it can be called, and nobody need wait for it; None passes."""
    if progress is not None and (is_async(progress) or not callable(progress)):
        raise TypeError(f"progress= must be a sync function, not {progress!r}")


@final
class Map:
    """One `Pool.map`: the items are cut into chunks as they go out, by what the earlier ones took."""

    def __init__(
        self, crew: Crew, fn: Callable[[Any], Any] | None, items: list[Any], chunksize: int | Literal["auto"]
    ) -> None:
        self._crew = crew
        self._fn = fn
        self._items = items
        self._results: list[Any] = [None] * len(items)
        self._next = 0
        self._chunksize = chunksize
        self._size = 1
        self._senders = max(2, 2 * crew.posts.size)
        self._error: Exception | None = None

    @trio.lowlevel.enable_ki_protection  # in start_soon, a Ctrl-C would leave a coroutine behind
    async def run(self) -> list[Any]:
        self._crew.check_usable()
        self._crew.dispatch.begin_work()
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(min(self._senders, len(self._items))):
                    nursery.start_soon(self._send_chunks, nursery.cancel_scope)
        except BaseExceptionGroup as group:  # a Ctrl-C
            raise only(group) from None
        finally:
            self._crew.dispatch.end_work()
        if self._error is not None:
            raise self._error
        return self._results

    @trio.lowlevel.enable_ki_protection
    async def _send_chunks(self, scope: trio.CancelScope) -> None:
        while (first := self._next) < len(self._items):
            self._next = last = min(first + self._take_size(), len(self._items))
            started = time.perf_counter()
            try:
                payload = self._fn, (self._items[first:last], first)
                self._results[first:last] = await self._crew.call(CHUNK, payload, is_part=True)
            except Exception as exc:
                if isinstance(exc, IsolateDied):  # of all others, the isolate has said it
                    self._name_items(exc, first, last)
                self._error = self._error or exc
                scope.cancel()
                return
            self._learn(last - first, time.perf_counter() - started)

    def _name_items(self, error: Exception, first: int, last: int) -> None:
        if last - first == 1:
            name_item(error, self._items[first], first)
        else:
            error.add_note(f"for one of items[{first}:{last}]")

    def _take_size(self) -> int:
        most = self._crew.posts.most_calls or len(self._items)
        if isinstance(self._chunksize, int):
            return min(self._chunksize, most)
        left = len(self._items) - self._next
        return max(1, min(self._size, most, -(-left // self._senders)))

    def _learn(self, count: int, seconds: float) -> None:
        fitting = int(count * _CHUNK_TIME / max(seconds, 1e-6))
        self._size = max(1, min(fitting, _CHUNK_GROWTH * count))


@final
class _Results:
    """The results of one `open_map`, an async iterator. Its laws: no more than `limit` items are pulled
    and not given out, and each is given out once."""

    def __init__(
        self,
        crew: Crew,
        fn: Callable[[Any], Any] | None,
        *,
        ordered: bool,
        limit: int,
        return_errors: bool,
        progress: Callable[[int, int | None], object] | None,
    ) -> None:
        self._crew = crew
        self._fn = fn
        self._ordered = ordered
        self._return_errors = return_errors
        self._progress = progress
        self._total: int | None = None  # as the items say themselves
        self._finished = 0
        self._ready: dict[int, outcome.Outcome[Any]] = {}
        self._given = 0
        self._pulled: int | None = None  # how many there were in all, once that is known
        self._source_error: Exception | None = None  # of the iterable; raised after what came before it
        self._places = trio.Semaphore(limit)
        self._changed = trio.Event()
        self._is_closed = False
        self.failure: BaseException | None = None  # of `progress`

    async def pull(self, items: Iterable[Any] | AsyncIterable[Any], nursery: trio.Nursery) -> None:
        """Pull the items, each when there is a place for it, and have it called."""
        self._total = len(items) if isinstance(items, Sized) else None
        count = 0
        try:
            await self._places.acquire()
            async with aclosing(iterate(items)) as pulled:
                async for item in pulled:
                    nursery.start_soon(self._call, count, item, nursery.cancel_scope)
                    count += 1
                    await self._places.acquire()
        except Exception as exc:
            self._source_error = exc
        self._pulled = count
        self._changed.set()

    @trio.lowlevel.enable_ki_protection
    async def _call(self, index: int, item: Any, scope: trio.CancelScope) -> None:
        kind, payload = (CALL, (item,)) if self._fn is None else (RUN, (self._fn, (item,)))
        try:
            result: outcome.Outcome[Any] = outcome.Value(await self._crew.call(kind, payload, is_part=True))
        except Exception as exc:
            name_item(exc, item, index)
            result = outcome.Error(exc)
        self._finished += 1
        self._ready[index] = result
        self._changed.set()
        if self.failure is None:
            try:
                self._tell()
            except BaseException as exc:
                self.failure = exc
                scope.cancel()

    def _tell(self) -> None:
        if self._progress is not None:
            answer = self._progress(self._finished, self._total)
            if inspect.iscoroutine(answer):
                answer.close()
                raise TypeError(f"progress= must be a sync function, not {self._progress!r}")

    def close(self) -> None:
        self._is_closed = True
        self._changed.set()

    def __aiter__(self) -> _Results:
        return self

    @trio.lowlevel.enable_ki_protection
    async def __anext__(self) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            index = self._given if self._ordered else next(iter(self._ready), -1)
            if index in self._ready:
                break
            if self._given == self._pulled:
                if self._source_error is not None:
                    raise self._source_error
                raise StopAsyncIteration
            if self._is_closed:
                raise trio.ClosedResourceError("the block of this open_map has been left")
            if self._changed.is_set():  # else somebody waits for it already
                self._changed = trio.Event()
            await self._changed.wait()
        result = self._ready.pop(index)
        self._given += 1
        self._places.release()
        self._changed.set()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return result if self._return_errors else result.unwrap()


@asynccontextmanager
async def open_map(
    crew: Crew,
    items: Iterable[Any] | AsyncIterable[Any],
    fn: Callable[[Any], Any] | None,
    *,
    ordered: bool,
    max_pending: int,
    return_errors: bool,
    progress: Callable[[int, int | None], object] | None,
) -> AsyncGenerator[AsyncIterator[Any], None]:
    results = _Results(
        crew, fn, ordered=ordered, limit=max_pending, return_errors=return_errors, progress=progress
    )
    error: BaseException | None = None
    crew.check_usable()
    crew.dispatch.begin_work()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(results.pull, items, nursery)
            try:
                yield results
            except BaseException as exc:
                error = exc
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:  # a Ctrl-C
        raise only(group) from None
    finally:
        crew.dispatch.end_work()
        results.close()
    if results.failure is not None:
        raise results.failure from (error if isinstance(error, Exception) else None)
    if error is not None:
        raise error
