"""Turns times into positions on an axis: order is kept, clusters are spread, long gaps are shortened.

It knows how much room each moment needs. It does not know what happens then.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, final

from attrs import frozen

_POWER: Final = 0.4  # ten thousand times as long a gap looks forty times as long


@frozen
class Moment:
    """A time that matters.

    Attributes:
        time: in seconds.
        rows: how many lines of words begin there.
        after: an earlier moment of which the words have to stand clear.
    """

    time: float
    rows: int = 0
    after: float | None = None


@final
class Timescale:
    """Positions of times, growing with them. Times between two moments lie on a line between theirs."""

    def __init__(
        self, moments: Iterable[Moment], top: float, *, least: float, clear: float, row: float, spare: float
    ) -> None:
        """Start at `top`.

        least: the least distance of two moments; clear: of one with words from the one before it; row: of
        two lines of words, and those of one moment are to stand below each other, and of words from what
        they come after. spare: what all gaps share, besides.
        """
        rows: Counter[float] = Counter()
        afters: dict[float, float] = {}
        for moment in moments:
            rows[moment.time] += moment.rows
            if moment.after is not None:
                afters[moment.time] = max(moment.after, afters.get(moment.time, moment.after))
        self._times = sorted(rows)
        gaps = [(b - a) ** _POWER for a, b in pairwise(self._times)]
        per_gap = spare / sum(gaps) if gaps else 0.0
        self._positions: list[float] = []
        at, next_words, before = top, top, 0.0
        placed: dict[float, float] = {}
        for time, gap in zip(self._times, [0.0, *gaps], strict=True):
            if self._positions:
                at += least + gap * per_gap
            if count := rows[time]:
                at = max(at, next_words, before + clear)
                if time in afters:
                    at = max(at, placed[afters[time]] + row)
                next_words = at + count * row
            self._positions.append(at)
            placed[time] = at
            at += max(0, count - 1) * row
            before = at
        self.bottom = at

    def __call__(self, time: float) -> float:
        """Return the position of a time; of one before the first moment or after the last, that one's."""
        times, positions = self._times, self._positions
        index = bisect_right(times, time) - 1
        if index < 0:
            return positions[0]
        if index == len(times) - 1:
            return positions[-1]
        part = (time - times[index]) / (times[index + 1] - times[index])
        return positions[index] + part * (positions[index + 1] - positions[index])
