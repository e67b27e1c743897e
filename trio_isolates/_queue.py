"""Callers in line for a place, first come, first served.

This module knows who is next. It does not know what a place is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import takewhile
from typing import Generic, TypeVar, final

import outcome
import trio
from attrs import define

P = TypeVar("P")


@define(eq=False)
class _Waiter(Generic[P]):
    task: trio.lowlevel.Task
    line: Line[P]
    moved: int
    is_gone: bool = False

    def abort(self, _: object) -> trio.lowlevel.Abort:
        self.is_gone = True
        self.line.forget()
        return trio.lowlevel.Abort.SUCCEEDED


@final
class Line(Generic[P]):
    """The callers that wait. Its length is that of those who still do.

    on_cancel: called for each that was cancelled while it waited.
    """

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        self._on_cancel = on_cancel
        self._waiters: deque[_Waiter[P]] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    async def wait(self, moved: int) -> P:
        """Wait for a place. moved: the rank of one that had a place already and lost it, else 0: they
        come first, in the order of their ranks.
        """
        waiter = _Waiter(trio.lowlevel.current_task(), self, moved)
        if moved:
            before = takewhile(lambda other: 0 < other.moved < moved, self._waiters)
            self._waiters.insert(sum(1 for _ in before), waiter)
        else:
            self._waiters.append(waiter)
        self._length += 1
        place: P = await trio.lowlevel.wait_task_rescheduled(waiter.abort)
        return place

    def forget(self) -> None:
        """One of the line has gone; sweep it when most of it has."""
        self._length -= 1
        self._on_cancel()
        if len(self._waiters) > 2 * self._length + 64:
            self._waiters = deque(waiter for waiter in self._waiters if not waiter.is_gone)

    def give(self, result: outcome.Outcome[P]) -> None:
        """Give the first in line its place, or an error instead. There must be one."""
        while (waiter := self._waiters.popleft()).is_gone:
            pass
        self._length -= 1
        trio.lowlevel.reschedule(waiter.task, result)
