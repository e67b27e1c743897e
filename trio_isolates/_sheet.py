"""A sheet of white paper, measured in inches from its upper left corner, on which lines and words are put.

It knows ink. It does not know what they mean. matplotlib draws, by its objects
alone: no backend is chosen, no window opened, nothing that the program has set up is read or changed.
"""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (for matplotlib says the types of some things only)
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, final

from ._letters import UNKNOWN, can_be_bold, drawable, families_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
GREEN: Final = "#009E73"
PURPLE: Final = "#CC79A7"
SKY: Final = "#56B4E9"
VERMILLION: Final = "#D55E00"
INK: Final = "#222222"
GREY: Final = "#767676"
PALE: Final = "#D9D9D9"
RED: Final = "#C80000"

DPI: Final = 110
_MISSING: Final = f"{UNKNOWN} is a letter that no font here has"

Point: TypeAlias = tuple[float, float]
Style: TypeAlias = Literal["solid", "dashed", "dotted"]
Head: TypeAlias = Literal["full", "open", "none"]
Sign: TypeAlias = Literal["cross", "dot", "ring", "square", "bar", "triangle"]
Across: TypeAlias = Literal["left", "center", "right"]

_SIGNS: Final[dict[Sign, str]] = {
    "cross": "x",
    "dot": "o",
    "ring": "o",
    "square": "s",
    "bar": "_",
    "triangle": "v",
}
_DASHES: Final[dict[Style, Any]] = {"solid": "solid", "dashed": (0, (4, 2)), "dotted": (0, (1.2, 1.5))}


@final
class Sheet:
    """What is drawn later lies above what was drawn before, but for `layer`.

    All positions and lengths are inches, sizes of words and widths of lines points. `name` can be found
    in the figure as the `gid` of what was drawn.
    """

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self._is_missing = False  # a letter
        self.figure: Figure = Figure((width, height), DPI, facecolor="white", edgecolor="white")
        self.figure.set_layout_engine("none")
        FigureCanvasAgg(self.figure)
        self._axes: Any = self.figure.add_axes((0, 0, 1, 1))
        self._axes.set_axis_off()
        self._axes.set_xlim(0, width)
        self._axes.set_ylim(height, 0)
        self._axes.set_autoscale_on(False)

    def text(
        self,
        at: Point,
        text: str,
        *,
        size: float = 8,
        colour: str = INK,
        across: Across = "left",
        bold: bool = False,
        halo: bool = False,
        turned: float = 0,
        layer: float = 6,
        name: str | None = None,
    ) -> None:
        """Write a line, centred vertically; halo: on a white ground; turned: by degrees, from its start."""
        shown = drawable(text)
        drawn = self._axes.text(
            *at,
            shown,
            fontsize=size,
            color=colour,
            ha=across,
            va="center" if not turned else "bottom",
            family=families_of(shown),
            weight="bold" if bold and can_be_bold(shown) else "normal",
            style="normal",
            rotation=turned,
            rotation_mode="anchor",
            parse_math=False,
            usetex=False,
            zorder=layer,
            gid=name,
        )
        if halo:
            drawn.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6})
        if UNKNOWN in shown and not self._is_missing:
            self._is_missing = True
            self._say_missing()

    def _say_missing(self) -> None:
        """Write below all the rest what the mark means."""
        at = 0.2, self.height + 0.1
        self.height += 0.22
        self.figure.set_size_inches(self.width, self.height)
        self._axes.set_ylim(self.height, 0)
        self.text(at, _MISSING, size=7.5, colour=GREY, name="left out")

    def line(
        self,
        points: Sequence[Point],
        *,
        colour: str = INK,
        width: float = 1,
        style: Style = "solid",
        layer: float = 2,
        name: str | None = None,
    ) -> None:
        """Draw from point to point."""
        from matplotlib.lines import Line2D

        xs, ys = [x for x, _ in points], [y for _, y in points]
        drawn = Line2D(
            xs, ys, color=colour, linewidth=width, linestyle=_DASHES[style], zorder=layer, gid=name
        )
        drawn.set_solid_capstyle("butt")
        self._axes.add_artist(drawn)

    def arrow(
        self,
        points: Sequence[Point],
        *,
        colour: str = INK,
        width: float = 1.2,
        style: Style = "solid",
        head: Head = "full",
        layer: float = 4,
        name: str | None = None,
    ) -> None:
        """Draw from point to point, with a head at the last."""
        from matplotlib.patches import Polygon

        (x0, y0), (x1, y1) = points[-2:]
        angle = math.atan2(y1 - y0, x1 - x0)
        size = 0.095 if head == "full" else 0.085
        sides = [(x1 - size * math.cos(angle + d), y1 - size * math.sin(angle + d)) for d in (-0.38, 0.38)]
        self.line(points, colour=colour, width=width, style=style, layer=layer, name=name)
        if head == "open":
            self.line([sides[0], (x1, y1), sides[1]], colour=colour, width=width, layer=layer)
        elif head == "full":
            corners = [sides[0], (x1, y1), sides[1]]
            self._axes.add_artist(
                Polygon(corners, closed=True, facecolor=colour, edgecolor="none", zorder=layer)
            )

    def box(
        self,
        corner: Point,
        width: float,
        height: float,
        *,
        face: str = "white",
        edge: str = "none",
        line: float = 0.8,
        hatch: str | None = None,
        alpha: float | None = None,
        layer: float = 3,
        name: str | None = None,
    ) -> None:
        """Draw a rectangle; corner: the upper left one."""
        from matplotlib.patches import Rectangle

        drawn = Rectangle(
            corner,
            width,
            height,
            facecolor=face,
            edgecolor=edge,
            linewidth=line,
            hatch=hatch,
            alpha=alpha,
            zorder=layer,
            gid=name,
        )
        self._axes.add_artist(drawn)

    def boxes(
        self,
        corners: Sequence[tuple[float, float, float, float]],
        *,
        face: str,
        edge: str = "none",
        line: float = 0,
        hatch: str | None = None,
        layer: float = 3,
        name: str | None = None,
    ) -> None:
        """Draw many rectangles of one kind, each from its (x, y, width, height); or none."""
        if not corners:
            return
        from matplotlib.collections import PolyCollection

        outlines = [[(x, y), (x + w, y), (x + w, y + h), (x, y + h)] for x, y, w, h in corners]
        drawn = PolyCollection(
            outlines, facecolors=face, edgecolors=edge, linewidths=line, hatch=hatch, zorder=layer
        )
        drawn.set_gid(name)
        self._axes.add_artist(drawn)

    def sign(
        self,
        at: Sequence[Point],
        sign: Sign,
        *,
        colour: str = INK,
        size: float = 6,
        line: float = 1.2,
        layer: float = 5,
        name: str | None = None,
    ) -> None:
        """Put the same sign at each of some points."""
        from matplotlib.lines import Line2D

        drawn = Line2D(
            [x for x, _ in at],
            [y for _, y in at],
            linestyle="none",
            marker=_SIGNS[sign],
            markersize=size,
            markeredgewidth=line,
            markeredgecolor=colour,
            markerfacecolor="white" if sign == "ring" else colour,
            zorder=layer,
            gid=name,
        )
        self._axes.add_artist(drawn)
