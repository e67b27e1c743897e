"""Turns what a lesson has measured into pictures, and a rule for restarts into the story of an outage.

It does not know how it was measured, and starts no isolate.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from itertools import count, pairwise
from math import inf
from typing import TYPE_CHECKING, final

import trio
from attrs import frozen

from trio_isolates._restart import Restart, RestartWindow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which the colour-blind can tell apart."""


@final
class Heart:
    """Beats as long as the loop is awake.

    Attributes:
        beats: when, in seconds since it began to beat.
    """

    def __init__(self) -> None:
        self.beats: list[float] = []

    async def beat(self, every: float = 0.005) -> None:
        """Beat until it is cancelled; `every`: seconds from one beat to the next."""
        start = trio.current_time()
        while True:
            self.beats.append(trio.current_time() - start)
            await trio.sleep(every)

    @property
    def longest_gap(self) -> float:
        """The longest time between two beats, in seconds."""
        return max((after - before for before, after in pairwise(self.beats)), default=0.0)


@final
class Picture:
    """A figure that a notebook shows where it is a cell's last expression."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
        return file.getvalue()

    def __repr__(self) -> str:
        return "<a picture>"


def _axes(height: float, title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # pyplot would keep every figure

    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=14, loc="left")
    axes.tick_params(labelsize=12)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def heartbeats(hearts: Mapping[str, Heart], title: str = "The loop's heartbeat") -> Picture:
    """Draw a row of beats for each heart, one under the other, and the longest gap of each.

    Args:
        hearts: by the name of what was done meanwhile.
        title: stands above.
    """
    figure, axes = _axes(1.1 + 0.8 * len(hearts), title)
    names = []
    for row, ((name, heart), colour) in enumerate(zip(hearts.items(), COLOURS, strict=False)):
        beats = [beat * 1000 for beat in heart.beats]
        axes.vlines(beats, row - 0.3, row + 0.3, color=colour, linewidth=1.2)
        gaps = [(after - before, before, after) for before, after in pairwise(beats)]
        gap, before, after = max(gaps, default=(0.0, 0.0, 0.0))
        arrow = {"arrowstyle": "<->", "color": "black", "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (before, row), (after, row), arrowprops=arrow)
        names.append(f"{name}\nlongest gap {gap:.0f} ms")
    axes.set_yticks(range(len(hearts)), names)
    axes.set_ylim(len(hearts) - 0.4, -0.6)
    axes.set_xlabel("milliseconds", fontsize=12)
    return Picture(figure)


def log_log(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    across: str = "bytes",
    up: str = "milliseconds",
) -> Picture:
    """Draw lines through points whose numbers span many powers of ten.

    Args:
        series: by name, the points, each as (x, y), both above zero.
        title: stands above.
        across, up: what x and y are.
    """
    figure, axes = _axes(4.6, title)
    for (name, points), colour, marker in zip(series.items(), COLOURS, "osD^vP", strict=False):
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axes.loglog(xs, ys, color=colour, marker=marker, linewidth=2, label=name)
    axes.grid(which="major", color="#dddddd")
    axes.set_xlabel(across, fontsize=12)
    axes.set_ylabel(up, fontsize=12)
    axes.legend(fontsize=12, frameon=False)
    return Picture(figure)


def sliding_window(times: Sequence[float], limit: int, within: float, title: str) -> Picture:
    """Draw failures on a line of time, and for each the window that ends with it.

    Args:
        times: when they were, in seconds, in order.
        limit: how many a window may hold.
        within: how long the window is, in seconds.
        title: stands above.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _axes(1.5 + 0.42 * len(times), title)
    for row, time in enumerate(times, 1):
        inside = [other for other in times[:row] if time - within <= other]
        is_fine = len(inside) <= limit
        colour = COLOURS[0] if is_fine else COLOURS[1]
        axes.barh(row, within, left=time - within, height=0.55, color=colour, alpha=0.3)
        axes.plot(inside, [row] * len(inside), "o", color=colour, markersize=8)
        word = "start again" if is_fine else f"more than {limit}, give up"
        axes.text(time + 0.02 * within, row, f"  {len(inside)}: {word}", fontsize=11, va="center")
    first, last = (times[0], times[-1]) if times else (0.0, 0.0)
    axes.set_xlim(first - within * 1.05, last + within * 0.8)
    axes.set_ylim(len(times) + 0.6, 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("seconds", fontsize=12)
    return Picture(figure)


@frozen
class Outage:
    """How a start that is tried again and again goes on.

    Attributes:
        starts: how many there were, the first included.
        seconds: when the last one was made that went well, or, if it gave up, when that was.
        gave_up: whether the rule did not allow another one.
    """

    starts: int
    seconds: float
    gave_up: bool

    def __str__(self) -> str:
        if self.seconds == inf:
            return f"never gives up: {self.starts:,} starts so far"
        return f"{'gives up' if self.gave_up else 'is back'} after {self.seconds:.0f} s, {self.starts} starts"


def outage(rule: Restart, broken: float, life: float = 0.5) -> Outage:
    """Return what comes of starts that fail until something else works again. Nothing is started.

    Args:
        rule: when to start again; its jitter is left out.
        broken: for how many seconds no start goes well.
        life: how many seconds one takes to fail.
    """
    window, now = RestartWindow(rule, random=lambda: 0.5), 0.0
    for starts in count(1):
        if now >= broken:
            return Outage(starts, now, gave_up=False)
        if starts == 10_000:
            return Outage(starts, inf, gave_up=False)
        now += life
        delay = window.record(now, RuntimeError("it is off"))
        if delay is None:
            return Outage(starts, now, gave_up=True)
        now += delay
    raise AssertionError


def short_log() -> None:
    """Have a supervisor's warnings printed without process ids, times and sizes."""
    logger = logging.getLogger("trio_isolates.supervisor")
    logger.propagate = False
    logger.handlers = [_Short()]


class _Short(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage().partition(": isolate ")[0])
