"""Turns texts into what can be drawn: on one line, in letters that a font has, cut where there is no room.

It knows fonts. It does not know paper: that is `_sheet`'s business.
"""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (for matplotlib says the types of some things only)
from functools import lru_cache
from typing import Any, Final

_OWN: Final = "DejaVu Sans"  # comes with matplotlib
_OTHERS: Final = (  # where it has no glyph; Chinese, Japanese and Korean as systems have them
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Noto Sans KR",
    "IPAexGothic",
    "IPAGothic",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Hiragino Sans",
    "PingFang SC",
    "Apple SD Gothic Neo",
    "Yu Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Arial Unicode MS",
)
_NORMAL: Final = (400, "normal", "regular", "book")
UNKNOWN: Final = "\ufffd"  # in the place of what no font has


@lru_cache(1)
def _families() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    installed = {entry.name for entry in fontManager.ttflist if entry.weight in _NORMAL}
    return (_OWN, *(name for name in _OTHERS if name in installed))


@lru_cache
def _font_file(family: str, bold: bool) -> Any:
    from matplotlib.font_manager import FontProperties, findfont

    return findfont(FontProperties(family=family, weight="bold" if bold else "normal"))


def _font(families: tuple[str, ...], bold: bool) -> Any:
    from matplotlib.font_manager import get_font

    return get_font([_font_file(family, bold) for family in families])  # each thread has its own


@lru_cache
def _letters(family: str) -> frozenset[int]:
    """Return the code points of its glyphs; of the own one, those that it has in bold as well."""
    fonts = [_font((family,), bold) for bold in (False, True) if not bold or family == _OWN]
    return frozenset.intersection(*(frozenset(font.get_charmap()) for font in fonts))


@lru_cache(4096)
def families_of(text: str) -> tuple[str, ...]:
    """Return the fonts that a drawable text needs: one for nearly all."""
    if text.isascii() or _letters(_OWN).issuperset(map(ord, text)):
        return (_OWN,)
    return _families()


def can_be_bold(text: str) -> bool:
    """Whether a drawable text has letters of the own font alone: few others have bold ones."""
    return families_of(text) == (_OWN,)


@lru_cache(4096)
def drawable(text: str) -> str:
    """Return it on one line, and with a mark in the place of what no font has a glyph for."""

    def glyph(char: str) -> str:
        if char.isspace():
            return " "
        known = char.isprintable() and any(ord(char) in _letters(family) for family in _families())
        return char if known else UNKNOWN

    return text if text.isascii() and text.isprintable() else "".join(map(glyph, text))


@lru_cache(4096)
def text_width(text: str, size: float, bold: bool = False) -> float:
    """How wide a drawable text is, in inches; size: in points."""
    font = _font(families_of(text), bold and can_be_bold(text))
    font.set_size(size, 72)
    font.set_text(text)
    return float(font.get_width_height()[0]) / 64 / 72


def fit(text: str, inches: float, size: float, bold: bool = False, tail: int = 0) -> str:
    """Return the text drawable, and cut where it is wider than so many inches, but for its tail."""
    text = drawable(text)
    if text_width(text, size, bold) <= inches:
        return text
    end = "…" + text[-tail:] if tail else "…"
    most = max(0, min(len(text) - tail, int(inches * 72 / size * 4)))  # no letter is narrower than a quarter
    kept = min(1, most)
    while kept < most:  # the longest that fits is between them
        middle = (kept + most + 1) // 2
        if text_width(text[:middle] + end, size, bold) <= inches:
            kept = middle
        else:
            most = middle - 1
    return text[:kept] + end
