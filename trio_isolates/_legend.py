"""Turns samples with words into rows below a picture, as many as their width asks for.

It does not know what a sample looks like: who has it drawn, draws it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, final

from ._letters import fit, text_width
from ._sheet import Point, Sheet

Sample: TypeAlias = Callable[[Sheet, Point], None]
"""Draws into the 0.3 inches to the right of a point, around its height."""

_ROW: Final = 0.2
_SIZE: Final = 7.5
_SAMPLE: Final = 0.36
_BETWEEN: Final = 0.22


@final
class Legend:
    """Samples and their words, in rows of at most so many inches; `height` is what they all need."""

    def __init__(self, entries: Sequence[tuple[Sample, str]], width: float) -> None:
        self._placed: list[tuple[float, float, Sample, str]] = []
        x, row = 0.0, 0
        for sample, words in entries:
            text = fit(words, width - _SAMPLE, _SIZE)
            needed = _SAMPLE + text_width(text, _SIZE)
            if x and x + needed > width:
                x, row = 0.0, row + 1
            self._placed.append((x, row * _ROW, sample, text))
            x += needed + _BETWEEN
        self.height = (row + 1) * _ROW if entries else 0.0

    def draw(self, sheet: Sheet, left: float, top: float) -> None:
        for x, y, sample, text in self._placed:
            at = left + x, top + y + _ROW / 2
            sample(sheet, at)
            sheet.text((at[0] + _SAMPLE, at[1]), text, size=_SIZE, name="legend")
