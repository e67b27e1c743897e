"""Calls in line for a place, first come, first served.

This module knows who is next. It does not know what a place is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar, final


class Waiting(Protocol):
    """What can stand in line: it says whether it has gone away meanwhile."""

    @property
    def is_settled(self) -> bool: ...


W = TypeVar("W", bound=Waiting)


@final
class Line(Generic[W]):
    """Those who wait. Its length is that of those who still do."""

    def __init__(self) -> None:
        self._waiting: deque[W] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, waiting: W) -> None:
        self._waiting.append(waiting)
        self._length += 1

    def put_first(self, waiting: Sequence[W]) -> None:
        """Put those who had a place and lost it before all others, in their order."""
        self._waiting.extendleft(reversed(waiting))
        self._length += len(waiting)

    @property
    def first(self) -> W:
        """Who is next, still in the line. There must be one."""
        while (first := self._waiting[0]).is_settled:
            self._waiting.popleft()
        return first

    def pop(self) -> W:
        """Take the first out of the line. There must be one."""
        first = self.first
        self._waiting.popleft()
        self._length -= 1
        return first

    def forget(self) -> None:
        """One of the line has been settled; sweep it when most of it has."""
        self._length -= 1
        if len(self._waiting) > 2 * self._length + 64:
            self._waiting = deque(waiting for waiting in self._waiting if not waiting.is_settled)
