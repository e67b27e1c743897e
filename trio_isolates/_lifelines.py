"""Turns a recording into a sheet of lifelines: a line for each isolate, time downwards, arrows between.

It knows where each thing stands beside the others. Which of them are shown is `_view`'s business, what
they look like `_looks`'s, and how far down a moment is `_timescale`'s.
"""

from __future__ import annotations

import math
from typing import Final, final

from ._clock import tell_times
from ._events import Event, Life, Span, Story
from ._legend import Legend
from ._letters import drawable, fit, text_width
from ._looks import (
    LOOKS,
    Mark,
    call_colour,
    draw_fate,
    find_fate,
    find_marks,
    legend_of,
    say_event,
    say_span,
)
from ._names import Names
from ._places import find_lanes, life_end, span_end
from ._sheet import GREY, Across, Point, Sheet
from ._timescale import Moment, Timescale
from ._view import View

_WIDTH: Final = 9.0
_ROW: Final = 0.165
_LEFT: Final = 0.78
_BAR: Final = 0.14
_SIZE: Final = 7.5
_FEW: Final = 30  # arrows, which are given more room


def draw_lifelines(story: Story, view: View) -> Sheet:
    """Return the sheet of what is shown."""
    return _Lifelines(story, view).draw()


@final
class _Lifelines:
    def __init__(self, story: Story, view: View) -> None:
        self._story, self._view = story, view
        self._arrows = [event for event in view.events if event.kind in LOOKS]
        self._marks = find_marks(view)
        asked = {event.request for event in self._arrows if event.kind == "request"}
        self._unasked = {id(span) for span in view.spans if span.request not in asked}
        self._find_lanes()
        self._place_columns()
        self._place_times()
        self._place_bars()

    # Where things stand.

    def _find_lanes(self) -> None:
        """Calls of one line at the same time lie side by side."""
        view, story = self._view, self._story
        self._lanes: dict[int, int] = {}
        self._lane_counts = [1] * len(view.places)
        for column in range(len(view.places)):
            spans = [span for span in view.spans if view.columns[span.isolate] == column]
            spans.sort(key=lambda span: span.start)
            lanes = find_lanes([(span.start, span_end(span, story)) for span in spans])
            self._lanes |= {id(span): lane for span, lane in zip(spans, lanes, strict=True)}
            self._lane_counts[column] = 1 + max(lanes, default=0)

    def _place_columns(self) -> None:
        count = len(self._view.places)
        rightmost = {number for number, column in self._view.columns.items() if column == count - 1}
        words = [mark.words for mark in self._marks if mark.column == count - 1]
        words += [
            "xxx" + say_event(event)
            for event in self._arrows
            if event.source == event.target and event.source in rightmost
        ]
        running = [span for span in self._view.spans if id(span) in self._unasked]
        words += [say_span(span) for span in running if span.isolate in rightmost]
        beside = max((text_width(drawable(each), _SIZE) for each in words), default=0.0)
        names = [place.name for place in self._view.places]
        self._names = Names(names, min(1.7, 7.2 / max(1, count - 1)))
        left = _LEFT + max(0.25, self._names.before)
        bars = _BAR * (self._lane_counts[-1] - 0.5)
        right = max(0.35, bars + 0.15, min(1.7, bars + beside + 0.25), self._names.after)
        self._step = min(3.4, (_WIDTH - left - right) / max(1, count - 1))
        self._xs = [left + index * self._step for index in range(count)]
        self._width = max(5.0, self._xs[-1] + right)
        self._top = 0.12 + self._names.height

    def _place_times(self) -> None:
        view, story = self._view, self._story
        inside = [event.arrived for event in self._arrows if event.arrived is not None]
        inside += [time for span in view.spans for time in (span.start, span_end(span, story))]
        inside += [time for life in view.lives for time in (life.spawned, life.ready) if time is not None]
        moments = [Moment(time) for time in inside if view.since <= time <= view.until]
        heads = self._find_heads()
        moments += [Moment(event.time, 1, heads.get(id(event))) for event in self._arrows]
        moments += [Moment(mark.time, 1 if mark.words else 0) for mark in self._marks]
        if view.until <= story.seconds:
            moments.append(Moment(view.until))
        if view.since or not moments:
            moments.append(Moment(view.since, 1))
        spare = min(2.6, 0.5 + 0.06 * len(moments))
        clear = 0.15 if len(self._arrows) <= _FEW else 0.09
        self._scale = Timescale(moments, self._top + 0.25, least=0.045, clear=clear, row=_ROW, spare=spare)
        self._bottom = self._scale.bottom + 0.2
        self._place_rows()

    def _find_heads(self) -> dict[int, float]:
        """Find for each arrow when another one came in last where its words begin: on the same side."""
        ends = [(event.time, True, event) for event in self._arrows]
        ends += [
            (max(event.time, event.arrived), False, event)
            for event in self._arrows
            if event.arrived is not None and find_fate(event, self._view) == "arrives"
        ]
        last: dict[tuple[int, bool], float] = {}
        heads: dict[int, float] = {}
        for time, is_sent, event in sorted(ends, key=lambda end: end[:2]):
            here, there = self._view.columns[event.source], self._view.columns[event.target]
            if not is_sent:
                last[there, here > there] = time
            elif last.get((here, there > here), time) < time:
                heads[id(event)] = last[here, there > here]
        return heads

    def _place_rows(self) -> None:
        # Those that happen at one time stand in rows below each other.
        self._rows: dict[int, float] = {}
        taken: dict[float, int] = {}
        worded: list[Event | Mark] = [*self._arrows, *(mark for mark in self._marks if mark.words)]
        for what in sorted(worded, key=lambda what: what.time):
            row = taken.get(what.time, 0)
            taken[what.time] = row + 1
            self._rows[id(what)] = self._scale(what.time) + row * _ROW
        spawns = [event for event in self._arrows if event.kind == "spawn"]
        self._starts = {event.target: self._rows[id(event)] for event in spawns}

    def _place_bars(self) -> None:
        """Find the left edge and the width of each call's bar."""
        self._bars: dict[int, tuple[float, float]] = {}
        for span in self._view.spans:
            column = self._view.columns[span.isolate]
            width = min(_BAR, 0.6 * self._step / self._lane_counts[column])
            left = self._xs[column] - width / 2 + self._lanes[id(span)] * width
            self._bars[id(span)] = left, width
        self._by_call = {(span.isolate, span.request): [self._bars[id(span)]] for span in self._view.spans}

    # What is drawn.

    def draw(self) -> Sheet:
        legend = Legend(legend_of(self._view, self._arrows, self._marks), self._width - 0.4)
        notes = self._view.left_out
        height = self._bottom + 0.12 + 0.2 * len(notes) + legend.height + 0.1
        self._sheet = Sheet(self._width, height)
        self._names.draw(self._sheet, self._xs, self._top)
        for life in self._view.lives:
            self._draw_life(life)
        for span in self._view.spans:
            self._draw_bar(span)
        for event in self._arrows:
            self._draw_arrow(event)
        for mark in self._marks:
            self._draw_mark(mark)
        self._draw_times()
        below = self._bottom + 0.12
        for note in notes:
            self._sheet.text(
                (0.2, below + 0.1), fit(note, self._width - 0.4, 8.5), size=8.5, bold=True, name="left out"
            )
            below += 0.2
        legend.draw(self._sheet, 0.2, below)
        return self._sheet

    def _draw_life(self, life: Life) -> None:
        view, x = self._view, self._xs[self._view.columns[life.number]]
        is_program = life.parent is None
        top = self._top if is_program or life.spawned < view.since else self._scale(life.spawned)
        top = self._starts.get(life.number, top)
        end = life_end(life, self._story)
        goes_on = life.ended is None or end > view.until
        bottom = self._bottom if goes_on else self._scale(end)
        solid = bottom if life.ready is None else min(bottom, max(top, self._scale(life.ready)))
        if is_program or (life.ready is not None and life.ready < view.since):
            solid = top
        self._sheet.line([(x, top), (x, solid)], colour=GREY, style="dotted", layer=1)
        self._sheet.line([(x, solid), (x, bottom)], colour=GREY, layer=1, name=f"life {life.number}")

    def _draw_bar(self, span: Span) -> None:
        view, scale, colour = self._view, self._scale, call_colour(span.request)
        left, width = self._bars[id(span)]
        end = span_end(span, self._story)
        bottom = self._bottom if end > view.until else scale(end)
        edges = [scale(max(span.start, view.since))]
        for start, stop in sorted(span.waits):
            edges += [min(bottom, max(edges[-1], scale(time))) for time in (start, max(start, stop))]
        edges.append(max(bottom, edges[-1]))
        busy = list(zip(edges[::2], edges[1::2], strict=True))
        waiting = list(zip(edges[1::2], edges[2::2], strict=False))
        solid = [(left, y, width, max(0.02, to - y)) for y, to in busy if to > y or len(busy) == 1]
        thin = [(left + width * 0.3, y, width * 0.4, to - y) for y, to in waiting if to > y]
        self._sheet.boxes(thin, face=colour, edge=colour, line=0.3, layer=2.5)
        self._sheet.boxes(solid, face=colour, edge="white", line=0.4, name=f"bar {span.request}")
        if id(span) in self._unasked:
            room = self._width - left - width - 0.1 if left + width > self._xs[-1] else self._step - 0.3
            at = left + width + 0.06, edges[0] + 0.07 + self._lanes[id(span)] * 0.14
            self._sheet.text(at, fit(say_span(span), max(0.4, room), _SIZE), size=_SIZE, halo=True)

    def _edge(self, event: Event, number: int, other: float) -> float:
        """Where an arrow touches an isolate: its own call's bar, those that run then, or the line."""
        x = self._xs[self._view.columns[number]]
        bars = self._by_call.get((number, -1 if event.request is None else event.request), [])
        if not bars:
            time = event.time if number == event.source or event.arrived is None else event.arrived
            running = [span for span in self._view.spans if span.isolate == number]
            bars = [
                self._bars[id(span)] for span in running if span.start <= time <= span_end(span, self._story)
            ]
        if not bars or other == x:
            return x
        return min(left for left, _ in bars) if other < x else max(left + width for left, width in bars)

    def _draw_arrow(self, event: Event) -> None:
        look, sheet = LOOKS[event.kind], self._sheet
        xs = [self._xs[self._view.columns[number]] for number in (event.source, event.target)]
        x0, x1 = self._edge(event, event.source, xs[1]), self._edge(event, event.target, xs[0])
        y0 = self._rows[id(event)]
        colour = look.colour or call_colour(event.request)
        words = say_event(event)
        fate = find_fate(event, self._view)
        y1 = y0
        if event.arrived is not None and fate == "arrives":
            y1 = max(y0, self._scale(event.arrived))
        side = xs[0] + 0.3
        if event.source != event.target:
            points = [(x0, y0), (x1, y1) if fate == "arrives" else (self._half_way(words, x0, x1), y0)]
        elif fate == "arrives":
            points = [(xs[0], y0), (side, y0), (side, max(y1, y0 + 0.07)), (xs[0], max(y1, y0 + 0.07))]
        else:
            points = [(xs[0], y0), (side, y0)]
        head = look.head if fate == "arrives" else "none"
        name = f"arrow {event.kind}"
        sheet.arrow(points, colour=colour, width=look.width, style=look.style, head=head, name=name)
        draw_fate(sheet, fate, points[-1], colour, to_the_left=x1 < x0)
        if event.kind == "spawn":
            sheet.sign([points[-1]], "ring", colour=GREY, size=5)
        if x0 != x1:
            self._write(words, x0, x1, y0)
            return
        start = side + (0.05 if fate == "arrives" else 0.2)
        room = (self._width - 0.1 if x0 == self._xs[-1] else xs[0] + self._step - 0.15) - start
        self._say((start, y0 + 0.03), fit(words, max(0.45, room), _SIZE))

    def _half_way(self, words: str, x0: float, x1: float) -> float:
        """Return where an arrow ends that does not arrive: beyond its words, short of the next line."""
        least = text_width(self._words_between(words, x0, x1), _SIZE) + 0.25
        step = min(self._step, abs(x1 - x0))
        return x0 + math.copysign(max(step / 2, min(least, step - 0.2)), x1 - x0)

    def _words_between(self, words: str, x0: float, x1: float) -> str:
        return fit(words, max(0.45, min(abs(x1 - x0) - 0.3, max(0.95, self._step - 0.3))), _SIZE)

    def _write(self, words: str, x0: float, x1: float, y: float) -> None:
        text = self._words_between(words, x0, x1)
        if x1 > x0:
            self._say((x0 + 0.15, y - 0.075), text)
        else:
            self._say((x0 - 0.12, y - 0.075), text, across="right")

    def _say(self, at: Point, text: str, across: Across = "left") -> None:
        self._sheet.text(at, text, size=_SIZE, halo=True, across=across, name="words")

    def _draw_mark(self, mark: Mark) -> None:
        x, y = self._xs[mark.column], self._rows.get(id(mark), self._scale(mark.time))
        size = {"cross": 9.0, "dot": 4.5, "bar": 11.0, "triangle": 6.0}.get(mark.sign, 6.0)
        line = {"cross": 2.6, "bar": 2.0}.get(mark.sign, 1.0)
        self._sheet.sign(
            [(x, y)], mark.sign, colour=mark.colour, size=size, line=line, layer=7, name=mark.legend
        )
        if mark.words:
            text = fit(mark.words, max(0.4, min(self._width - x - 0.15, max(1.3, self._step - 0.25))), _SIZE)
            self._sheet.text((x + 0.13, y), text, size=_SIZE, colour=mark.colour, halo=True, layer=7)

    def _draw_times(self) -> None:
        times = sorted({event.time for event in self._arrows} | {m.time for m in self._marks if m.words})
        unit, told = tell_times(times)
        self._sheet.text(
            (_LEFT - 0.08, self._top - 0.22), f"time, {unit}", size=_SIZE, colour=GREY, across="right"
        )
        for time, text in zip(times, told, strict=True):
            y = self._scale(time)
            self._sheet.text((_LEFT - 0.08, y), text, size=_SIZE, colour=GREY, across="right", name="time")
            self._sheet.line([(_LEFT - 0.04, y), (self._xs[-1], y)], colour="#EEEEEE", width=0.6, layer=0)
