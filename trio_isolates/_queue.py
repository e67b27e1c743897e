"""Calls in line for a place: the more urgent first, else first come, first served.

This module knows who is next. It does not know what a place is.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar, final


class Waiting(Protocol):
    """What can stand in line.

    priority: the higher goes first. number: among those of one priority, the lower. is_settled: it
    has gone away meanwhile.
    """

    @property
    def priority(self) -> float: ...

    @property
    def number(self) -> int: ...

    @property
    def is_settled(self) -> bool: ...


W = TypeVar("W", bound=Waiting)


@final
class Line(Generic[W]):
    """Those who wait. Its length is that of those who still do."""

    def __init__(self) -> None:
        self._queues: dict[float, deque[W]] = {}
        self._order: list[float] = []  # the priorities that have a queue, negated: the first goes first
        self.length = 0

    def __len__(self) -> int:
        return self.length

    def _queue(self, priority: float) -> deque[W]:
        queue = self._queues.get(priority)
        if queue is None:
            queue = self._queues[priority] = deque()
            insort(self._order, -priority)
        return queue

    def append(self, waiting: W) -> None:
        """Put one who comes now behind all others of its priority."""
        self._queue(waiting.priority).append(waiting)
        self.length += 1

    def put_first(self, waiting: Sequence[W]) -> None:
        """Put those who had a place and lost it before all others of their priority, in their order."""
        for one in reversed(waiting):
            self._queue(one.priority).appendleft(one)
        self.length += len(waiting)

    def _first(self) -> deque[W] | None:
        """Return the queue whose first one is next, and still waits; None if there is none."""
        while self._order:
            priority = -self._order[0]
            queue = self._queues[priority]
            while queue and queue[0].is_settled:
                queue.popleft()
            if queue:
                return queue
            del self._queues[priority], self._order[0]
        return None

    def head(self) -> tuple[float, int] | None:
        """Return what the next one is compared by with that of another line: the smaller goes first."""
        queue = self._first()
        return None if queue is None else (-queue[0].priority, queue[0].number)

    @property
    def first(self) -> W:
        """Who is next, still in the line. There must be one."""
        queue = self._first()
        assert queue is not None
        return queue[0]

    def pop(self) -> W:
        """Take the next one out of the line. There must be one."""
        queue = self._first()
        assert queue is not None
        self.length -= 1
        return queue.popleft()

    def forget(self) -> None:
        """One of the line has been settled; sweep it when most of it has."""
        self.length -= 1
        if sum(map(len, self._queues.values())) > 2 * self.length + 64:
            for priority, queue in self._queues.items():
                self._queues[priority] = deque(waiting for waiting in queue if not waiting.is_settled)
