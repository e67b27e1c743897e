"""How long things took, at constant memory: counts in buckets that grow by a twentieth each.

This module knows no clock; it is told seconds.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from typing import Final, final

from attrs import frozen

_LEAST: Final = 1e-6  # seconds; what took less counts as this
_GROWTH: Final = 1.05
_LOG: Final = math.log(_GROWTH)
_BUCKETS: Final = 520  # up to more than a day


@frozen
class Durations:
    """How long calls took or waited, in seconds; each figure within 5 %, all zero if there were none.

    Attributes:
        count: how many there were.
        p50: half of them took no longer.
        p90: nine tenths took no longer.
        p99: all but one in a hundred took no longer.
        max: the longest, exactly.
    """

    count: int = 0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    max: float = 0.0


@final
class Histogram:
    """Seconds in, `Durations` out.

    new: append to it how long something took; somebody must call `sort` before it becomes too long.
    """

    __slots__ = ("_buckets", "_max", "new")

    def __init__(self) -> None:
        self._buckets = array("Q", bytes(8 * _BUCKETS))
        self._max = 0.0
        self.new: list[float] = []

    def sort(self) -> None:
        """Put what is new into its buckets: as many at once as lie in one, since most are alike."""
        new = sorted(self.new)
        self.new.clear()
        first = 0
        while first < len(new):
            seconds = new[first]
            index = int(math.log(seconds / _LEAST) / _LOG) if seconds > _LEAST else 0
            behind = bisect_left(new, _LEAST * _GROWTH ** (index + 1), first + 1)
            if index >= _BUCKETS - 1:
                index, behind = _BUCKETS - 1, len(new)
            self._buckets[index] += behind - first
            first = behind
        if new:
            self._max = max(self._max, new[-1])

    @property
    def count(self) -> int:
        return sum(self._buckets) + len(self.new)

    def durations(self, of: int | None = None) -> Durations:
        """of: how many there were, if those that took no time at all are not here."""
        self.sort()
        count = self.count if of is None else of
        if not count:
            return Durations()
        ranks = [math.ceil(count * part) for part in (0.5, 0.9, 0.99)]
        found: list[float] = []
        passed = count - self.count
        for index, more in enumerate(self._buckets, -1):
            while len(found) < len(ranks) and passed >= ranks[len(found)]:
                found.append(0.0 if index < 0 else min(_LEAST * _GROWTH ** (index + 0.5), self._max))
            passed += more
        found += [self._max] * (len(ranks) - len(found))
        p50, p90, p99 = found
        return Durations(count, p50, p90, p99, self._max)
