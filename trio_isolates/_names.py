"""Turns the names of lifelines into a heading: each in a box of few lines, or all of them turned.

It does not know what they name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final, final

from ._letters import drawable, fit, text_width
from ._sheet import GREY, Sheet

_FORMS: Final = (9.0, 1), (7.5, 1), (9.0, 3), (7.5, 4)  # size and lines, the first that fits
_LINE: Final = 0.155
_TAIL: Final = 5  # of a name that is cut: that is where names differ
_TURN: Final = 38.0
_LONGEST: Final = 2.0  # of one that is turned
_PIECES: Final = re.compile(r"[^-_./ ]*[-_./ ]?")


@final
class Names:
    """The heading of columns that are so many inches apart.

    Attributes:
        height: how high it is.
        before, after: how far it reaches beyond the first column, and beyond the last.
    """

    def __init__(self, names: Sequence[str], step: float) -> None:
        names = [drawable(name) for name in names]
        self._is_turned = False
        for self._size, most in _FORMS:
            self._lines = [_break(name, step - 0.2, self._size) if most > 1 else [name] for name in names]
            widest = max(self._width(lines) for lines in self._lines)
            if len(names) == 1 or (widest < step - 0.18 and max(map(len, self._lines)) <= most):
                break
        else:
            self._is_turned = True
        if self._is_turned:
            self._lines = [[fit(name, _LONGEST, self._size, True, _TAIL)] for name in names]
            longest = max(self._width(lines) for lines in self._lines)
            self.height = math.sin(math.radians(_TURN)) * longest + 0.22
            self.before = 0.1
            self.after = math.cos(math.radians(_TURN)) * self._width(self._lines[-1]) + 0.2
        else:
            self._lines = [
                [fit(line, 3.0, self._size, True, _TAIL) for line in lines] for lines in self._lines
            ]
            self.height = max(map(len, self._lines)) * _LINE + 0.14
            self.before = self._width(self._lines[0]) / 2 + 0.08
            self.after = self._width(self._lines[-1]) / 2 + 0.16

    def draw(self, sheet: Sheet, xs: Sequence[float], bottom: float) -> None:
        """Draw it over some columns; bottom: where it ends."""
        for x, lines in zip(xs, self._lines, strict=True):
            if self._is_turned:
                at = x + 0.02, bottom - 0.06
                sheet.text(at, lines[0], size=self._size, bold=True, turned=_TURN, name="name")
                continue
            half, height = self._width(lines) / 2 + 0.08, len(lines) * _LINE + 0.1
            top = bottom - height
            sheet.box((x - half, top), 2 * half, height, face="#F2F2F2", edge=GREY)
            for index, line in enumerate(lines):
                at = x, top + 0.05 + (index + 0.5) * _LINE
                sheet.text(at, line, size=self._size, bold=True, across="center", name="name")

    def _width(self, lines: Sequence[str]) -> float:
        return max(text_width(line, self._size, True) for line in lines)


def _break(name: str, room: float, size: float) -> list[str]:
    lines = [""]
    for piece in _PIECES.findall(name):
        if lines[-1] and text_width(lines[-1] + piece, size, True) > room:
            lines.append("")
        lines[-1] += piece
    return lines
