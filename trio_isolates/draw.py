"""Turns a recording into pictures: who told whom what, who was busy when, who opened whom.

    with record() as trace:  # `trio_isolates.trace`
        ...
    lifelines(trace.story)  # in a notebook, the last line of a cell shows it
    gantt(trace.story).save("busy.svg")
    print(tree(trace.story))
    to_perfetto(trace.story, "trace.json")  # open it at https://ui.perfetto.dev

A trace has them as methods as well. Pictures need matplotlib (pip install 'trio-isolates[draw]');
`to_perfetto` and the text of `tree` do not. Letters that matplotlib's own font lacks, such as Japanese
ones, are drawn by an installed font that has them; without one, a mark stands for them, and the picture
says so.
It does not know how a recording is made.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from ._checks import check_int, check_seconds
from ._clock import tell_count
from ._events import Story
from ._family import draw_tree, grow_tree, write_tree
from ._gantt import draw_gantt
from ._lifelines import draw_lifelines
from ._perfetto import perfetto_events
from ._picture import Picture
from ._view import choose_view

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["Picture", "gantt", "lifelines", "to_perfetto", "tree"]


def lifelines(
    story: Story, *, start: float | None = None, end: float | None = None, limit: int = 60
) -> Picture:
    """Return a picture of what went back and forth: a line for each isolate, the program's first.

    Time goes down. Events stand in their true order, with the true times at the left; long gaps are
    shortened. An isolate that takes another's place goes on on its line. Arrows of calls bear the call's
    number and colour. What was not received ends between two lines, with a small cross; what was received
    after the last moment of the picture, with dots. An arrow ends when its receiver takes what was sent:
    messages and items that wait to be taken may be overtaken by a later reply.

    Arguments:
        story: the recording.
        start, end: show what happened between these times, in seconds since the recording began.
        limit: show at most so many events and calls, the first ones; what is left out is said below. Of
            more than 12 lines, those are shown to which something happens first.

    Raises TypeError or ValueError for wrong arguments; ImportError, when it is looked at, without
    matplotlib.
    """
    _check(story, start, end, limit)
    view = choose_view(story, start, end, limit)
    shown, events = len(view.events), tell_count(len(story.events), "event")
    summary = tell_count(len(view.places), "lifeline")
    summary += f", {events}" if shown == len(story.events) else f", {shown:,} of {events}"
    return Picture(lambda: draw_lifelines(story, view).figure, summary)


def gantt(story: Story, *, start: float | None = None, end: float | None = None, limit: int = 40) -> Picture:
    """Return a picture of who was busy when: a row for each isolate and those that took its place.

    Time is linear. Calls are coloured and hatched by how they ended; the shortest are three pixels wide
    and have no hatch. Calls at the same time stand below each other. A cross is a death, a triangle a
    restart, a square one that was killed.

    Arguments:
        story: the recording.
        start, end: show the time between these, in seconds since the recording began.
        limit: show at most so many rows; how many are left out is said below.

    Raises TypeError or ValueError for wrong arguments; ImportError, when it is looked at, without
    matplotlib.
    """
    _check(story, start, end, limit)
    calls, isolates = len(story.spans), len(story.lives) - 1
    summary = f"{tell_count(calls, 'call')} of {tell_count(isolates, 'isolate')}"
    return Picture(lambda: draw_gantt(story, start, end, limit).figure, summary)


def tree(story: Story, *, limit: int = 60) -> Picture:
    """Return a picture of who opened whom, which is also a text: `print(tree(story))`.

    The program, the Trio tasks in whose blocks isolates were opened, pools, their isolates, and what
    these have opened; of each isolate how many calls it ran and how it ended. "pool.1 (2)" took the
    place of "pool.1".

    Arguments:
        story: the recording.
        limit: show at most so many lines in the picture; the text always has all.

    Raises TypeError or ValueError for wrong arguments; ImportError, when the picture is looked at,
    without matplotlib.
    """
    _check(story, None, None, limit)
    program = grow_tree(story)
    summary = f"tree of {tell_count(len(story.lives) - 1, 'isolate')}"
    return Picture(lambda: draw_tree(program, limit).figure, summary, write_tree(program))


def to_perfetto(story: Story, path: str | PathLike[str]) -> None:
    """Write the recording as a file that https://ui.perfetto.dev and chrome://tracing open.

    Each isolate is a process there, with a thread for its life and threads for the calls that it runs,
    those that it makes, and its ports; arrows lead from requests to calls and back, from messages to
    where they were received. Times are exact to an eighth of a microsecond; what took less than a
    microsecond is shown as one.

    Raises TypeError if `story` is no recording, and OSError if the file cannot be written.
    """
    _check(story, None, None, 1)
    trace = {"displayTimeUnit": "ms", "traceEvents": perfetto_events(story)}
    Path(path).write_text(json.dumps(trace, separators=(",", ":")), "utf-8")


def _check(story: Story, start: float | None, end: float | None, limit: int) -> None:
    if not isinstance(story, Story):
        raise TypeError(f"story= must be a recording's `trace.story`, not {story!r}")
    if not story.lives:
        raise ValueError("story= must have at least the program's life")
    for name, seconds in (("start", start), ("end", end)):
        if seconds is not None:
            check_seconds(name, seconds)
            if math.isinf(seconds):
                raise ValueError(f"{name}= must be finite; without it, all is shown")
    if start is not None and end is not None and end <= start:
        raise ValueError(f"end= must be later than start={start}, not {end}")
    check_int("limit", limit, 1)
