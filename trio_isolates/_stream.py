"""What comes home while a call is running: the items of a stream, the progress of a call.

Both are a port of the caller's that travels with the call. On one link messages overtake nobody, so
when the answer is there, so is all that was sent before it.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeAlias, final

import outcome
import trio

from ._functions import is_async
from ._messages import STREAM
from ._ports import ReceivePort, note_stream
from ._progress import WINDOW as PROGRESS_WINDOW
from ._supervisor import Crew, only

Progress: TypeAlias = Callable[[Any], object] | None

STREAM_WINDOW: Final = 256
"""How many items a stream's generator may be ahead of their consumer."""


@final
class Items(trio.abc.ReceiveChannel[Any]):
    """The items of one stream. From `open_stream`."""

    def __init__(self) -> None:
        self._port: ReceivePort[Any] = ReceivePort(STREAM_WINDOW)
        note_stream(self._port)
        self._end: outcome.Outcome[Any] | None = None
        self._is_closed = False

    async def run(self, crew: Crew, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See the call through."""
        try:
            await crew.call(STREAM, args, kwargs, self._port.send_port)
            self._end = outcome.Value(None)
        except Exception as exc:
            self._end = outcome.Error(exc)
        if not self._port.statistics().buffered:
            self._port.close()  # wakes who waits

    async def receive(self) -> Any:
        """Return the next item. After the last: raise `trio.EndOfChannel`, or what the generator raised."""
        if self._is_closed:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("the block of this stream has been left")
        try:
            if self._end is not None:
                await trio.lowlevel.checkpoint()
                return self._port.receive_nowait()
            return await self._port.receive()
        except (trio.WouldBlock, trio.ClosedResourceError):
            if self._end is None:
                raise trio.ClosedResourceError("the block of this stream has been left") from None
            if isinstance(self._end, outcome.Error):
                raise self._end.error from None
            raise trio.EndOfChannel from None

    def close(self) -> None:
        self._is_closed = True
        self._port.close()

    async def aclose(self) -> None:
        """Take no more items. The generator is stopped when the block is left."""
        self.close()
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def open_stream(
    crew: Crew, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> AsyncGenerator[Items, None]:
    """Run a generator for the length of a block. Its clean-up is done when the block is left."""
    items = Items()
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(items.run, crew, args, kwargs)
            try:
                yield items
            except BaseException as exc:
                error = exc
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:  # a Ctrl-C
        raise only(group) from None
    finally:
        items.close()
    if error is not None:
        raise error


async def call_with_progress(
    crew: Crew,
    kind: int,
    payload: Any,
    kwargs: dict[str, Any],
    on_progress: Callable[[Any], object],
    **how: Any,
) -> Any:
    """Make a call; what it reports goes to `on_progress`, in the caller's task tree and context."""
    if is_async(on_progress) or not callable(on_progress):
        raise TypeError(f"on_progress= must be a sync function, not {on_progress!r}")
    port: ReceivePort[Any] = ReceivePort(PROGRESS_WINDOW)

    def report(value: object) -> None:
        if inspect.iscoroutine(result := on_progress(value)):
            result.close()
            raise TypeError(f"on_progress= must be a sync function, not {on_progress!r}")

    async def pump() -> None:
        with suppress(trio.Cancelled):  # what becomes of the call says whether it was cancelled
            async for value in port:
                report(value)

    result: outcome.Outcome[Any] | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump)
            try:
                result = outcome.Value(await crew.call(kind, payload, kwargs, port.send_port, **how))
            except BaseException as exc:  # to be raised after what was reported before it
                result = outcome.Error(exc)
            nursery.cancel_scope.cancel()
        while port.statistics().buffered:
            report(port.receive_nowait())
    except BaseExceptionGroup as group:
        failure = result.error if isinstance(result, outcome.Error) else None
        raise only(group) from (failure if isinstance(failure, Exception) else None)
    finally:
        port.close()
    return result.unwrap()
