"""How long things took, at constant memory: counts in buckets that grow by a twentieth each.

This module knows no clock; it is told seconds.
"""

from __future__ import annotations

import math
from array import array
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
    """Seconds in, `Durations` out. To add is cheap; they are sorted into buckets later, many at once."""

    __slots__ = ("_buckets", "_max", "_new", "_zeros", "add")

    def __init__(self) -> None:
        self._buckets = array("Q", bytes(8 * _BUCKETS))
        self._zeros = 0
        self._max = 0.0
        self._new: list[float] = []
        self.add = self._new.append
        """Take note of so many seconds. Somebody must call `sort` now and then."""

    def add_zero(self) -> None:
        self._zeros += 1

    def sort(self, least: int = 1) -> None:
        """Sort what has been added into its buckets, if it is at least so much."""
        new = self._new
        if len(new) < least:
            return
        buckets, log, last = self._buckets, math.log, _BUCKETS - 1
        for seconds in new:
            index = int(log(seconds / _LEAST) / _LOG) if seconds > _LEAST else 0
            buckets[min(last, index)] += 1
        new.append(self._max)
        self._max = max(new)
        new.clear()

    def durations(self) -> Durations:
        self.sort()
        count = self._zeros + sum(self._buckets)
        if not count:
            return Durations()
        ranks = [math.ceil(count * part) for part in (0.5, 0.9, 0.99)]
        found: list[float] = []
        passed = self._zeros
        for index, more in enumerate(self._buckets, -1):
            while len(found) < len(ranks) and passed >= ranks[len(found)]:
                found.append(0.0 if index < 0 else min(_LEAST * _GROWTH ** (index + 0.5), self._max))
            passed += more
        found += [self._max] * (len(ranks) - len(found))
        p50, p90, p99 = found
        return Durations(count, p50, p90, p99, self._max)
