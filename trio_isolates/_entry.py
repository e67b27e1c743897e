"""The entry of a bare isolate: what runs in it, and what keeps it alive.

An isolate goes on until its entry has returned and no handler of a `RawReceivePort` is left, as in
Dart. This module knows what an error means there; it does not know how calls come in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast, final

import trio

from ._errors import CallInterrupted
from ._exchange import Exchange
from ._interrupt import interruptible


@final
class BlockingEntry:
    """A sync entry. An error of a handler comes out of whatever the entry was waiting in."""

    def __init__(
        self, entry: Callable[..., Any], exchange: Exchange, report: Callable[[BaseException], None] | None
    ) -> None:
        self._entry = entry
        self._exchange = exchange
        self._report = report
        if report is not None:
            exchange.on_error = self._go_on

    def _go_on(self, error: BaseException) -> bool:
        assert self._report is not None
        self._report(error)
        return True

    @interruptible
    def __call__(self, *args: Any) -> Any:
        result: Any = None
        try:
            result = self._entry(*args)
        except CallInterrupted:
            raise
        except BaseException as exc:
            if self._report is None:
                raise
            self._report(exc)
        exchange = self._exchange
        assert exchange.block is not None
        while exchange.listens:
            exchange.block()
        return result


@final
class AsyncEntry:
    """An entry in an isolate that runs Trio. An error of a handler cancels it."""

    def __init__(
        self, entry: Callable[..., Any], exchange: Exchange, report: Callable[[BaseException], None] | None
    ) -> None:
        self._entry = entry
        self._exchange = exchange
        self._report = report
        self._error: BaseException | None = None
        self._scope = trio.CancelScope()
        exchange.on_error = self._take

    def _take(self, error: BaseException) -> bool:
        if self._report is not None:
            self._report(error)
            return True
        self._error = self._error or error
        self._scope.cancel()
        return False

    async def __call__(self, *args: Any) -> Any:
        result: Any = None
        with self._scope:
            try:
                value = self._entry(*args)  # inline, a sync entry runs here too
                result = await value if inspect.iscoroutine(value) else value
            except (trio.Cancelled, CallInterrupted):
                raise
            except BaseException as exc:
                if self._report is None or _is_cancelled(exc):
                    raise
                self._report(exc)
            await self._wait_idle()
        if self._error is not None:
            raise self._error
        return result

    async def _wait_idle(self) -> None:
        exchange = self._exchange
        while exchange.listens:
            idle = trio.Event()
            exchange.on_idle = idle.set
            await idle.wait()


def _is_cancelled(error: BaseException) -> bool:
    """True if a cancellation is part of the error: it must go where it is meant to go."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return any(map(_is_cancelled, group.exceptions))
    return isinstance(error, trio.Cancelled)
