"""Turns a drawing, when somebody looks at it, into a PNG for a notebook or into a file.

It knows formats and caches. It does not know what is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, final

if TYPE_CHECKING:
    from os import PathLike

    from matplotlib.figure import Figure

_SUFFIXES: Final = (".png", ".svg", ".pdf")
_UNDATED: Final = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
_COLOURS: Final = 96  # flat areas and thin lines need no more, and make a third of the bytes


@final
class Picture:
    """A picture of a recording. A notebook shows it; nothing is drawn before.

    `str()` of one is its text, where it has one (`tree()`), so that it can be printed.
    """

    __slots__ = ("_draw", "_figure", "_png", "_summary", "_text")

    def __init__(self, draw: Callable[[], Figure], summary: str, text: str | None = None) -> None:
        self._draw = draw
        self._summary = summary
        self._text = text
        self._figure: Figure | None = None
        self._png: bytes | None = None

    def __repr__(self) -> str:
        return f"<trio_isolates picture: {self._summary}>"

    def __str__(self) -> str:
        return repr(self) if self._text is None else self._text

    def figure(self) -> Figure:
        """Return it as a `matplotlib.figure.Figure`, whose data are inches from the upper left corner.

        The same one each time. Raises ImportError without matplotlib, as do all that follow.
        """
        if self._figure is None:
            _check_matplotlib()
            self._figure = self._draw()
        return self._figure

    def save(self, path: str | PathLike[str]) -> None:
        """Write it to a file, as PNG, SVG or PDF by the name's suffix. Raises ValueError for any other."""
        target = Path(path)
        suffix = target.suffix.lower()
        if suffix not in _SUFFIXES:
            raise ValueError(f"path= must end in one of {', '.join(_SUFFIXES)}, not {target.name!r}")
        if suffix == ".png":
            target.write_bytes(self._repr_png_())
            return
        written = io.BytesIO()
        figure = cast("Any", self.figure())
        figure.savefig(
            written,
            format=suffix[1:],
            facecolor="white",
            transparent=False,
            bbox_inches=_whole(figure),
            pad_inches=0,
            metadata=_UNDATED[suffix],
        )
        target.write_bytes(written.getvalue())

    def _repr_png_(self) -> bytes:
        if self._png is None:
            self._png = _to_png(self.figure())
        return self._png


def _check_matplotlib() -> None:
    try:
        import_module("matplotlib.figure")
        import_module("PIL.Image")
    except ModuleNotFoundError:
        raise ImportError("pictures need matplotlib: pip install 'trio-isolates[draw]'") from None


def _whole(figure: Any) -> Any:
    """Without it, the program's own settings would decide how much is cut off."""
    from matplotlib.transforms import Bbox

    return Bbox.from_bounds(0, 0, *figure.get_size_inches())


def _to_png(figure: Figure) -> bytes:
    from PIL import Image  # matplotlib needs it, too

    canvas = cast("Any", figure.canvas)
    canvas.draw()
    image = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba())
    written = io.BytesIO()
    small = image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    small.save(written, "PNG", optimize=True, dpi=(figure.dpi, figure.dpi))
    return written.getvalue()
