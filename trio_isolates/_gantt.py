"""Turns a recording into a sheet with a row for each place: when it was busy, when it lived, when it died.

Time is linear here. What happened between isolates is `_lifelines`'s business.
"""

from __future__ import annotations

from typing import Final, final

from attrs import frozen

from ._clock import tell_count, tell_duration, tell_times
from ._events import Life, Span, Story
from ._legend import Legend, Sample
from ._letters import fit, text_width
from ._places import Place, find_lanes, find_places, life_end, span_end, spans_of
from ._sheet import BLUE, GREEN, GREY, INK, ORANGE, PALE, RED, SKY, VERMILLION, Point, Sheet, Sign

_WIDTH: Final = 9.0
_ROW: Final = 0.4
_BAR: Final = 0.26
_TOP: Final = 0.2
_SIZE: Final = 8.5
_MOST_LANES: Final = 8
_LEAST: Final = 0.025  # inches, three pixels: so that the shortest call is seen in its colour
_INSET: Final = 0.0075
_NARROW: Final = 0.045  # inches: an edge or a hatch would hide the colour


@frozen
class _Fill:
    """What a call's bar looks like, by its outcome: apart in colour, in lightness, and most in hatch."""

    face: str
    hatch: str | None = None
    edge: str = "white"


_FILLS: Final[dict[str, _Fill]] = {
    "value": _Fill(BLUE),
    "running": _Fill("white", None, BLUE),
    "cancelled": _Fill(SKY, "....", "white"),
    "error": _Fill(ORANGE, "////", INK),
    "died": _Fill(VERMILLION, "xxxx", INK),
}
"""In the order of drawing: what is rare lies above what is common."""


def draw_gantt(story: Story, start: float | None, end: float | None, limit: int) -> Sheet:
    """Return the sheet; limit: so many rows."""
    return _Gantt(story, start or 0.0, story.seconds if end is None else end, limit).draw()


@final
class _Gantt:
    def __init__(self, story: Story, since: float, until: float, limit: int) -> None:
        self._story, self._since = story, since
        self._until = until if until > since else since + max(1e-6, story.seconds)
        places = [place for place in find_places(story) if place.lives[0].parent is not None]
        places = [place for place in places if self._is_inside(place)]
        self._places = places[:limit]
        self._left_out = len(places) - len(self._places)
        names = [text_width(fit(place.name, 2.0, _SIZE), _SIZE) for place in self._places]
        self._left = max(names, default=0.6) + 0.3
        self._right = _WIDTH - 0.3
        self._rows: list[tuple[Place, list[Span], list[int], float, float]] = []
        top = _TOP
        for place in self._places:
            spans = [
                span
                for span in spans_of(place.lives, story)
                if self._covers(span.start, span_end(span, story))
            ]
            lanes = find_lanes([(span.start, span_end(span, story)) for span in spans])
            height = _ROW * (1 + 0.35 * min(max(lanes, default=0), _MOST_LANES - 1))
            self._rows.append((place, spans, lanes, top, height))
            top += height
        self._bottom = top + (0.1 if self._rows else 0.4)

    def _covers(self, start: float, end: float) -> bool:
        return start <= self._until and end >= self._since

    def _is_inside(self, place: Place) -> bool:
        return any(self._covers(life.spawned, life_end(life, self._story)) for life in place.lives)

    def _x(self, time: float) -> float:
        part = (min(max(time, self._since), self._until) - self._since) / (self._until - self._since)
        return self._left + part * (self._right - self._left)

    def draw(self) -> Sheet:
        legend = Legend(self._legend(), _WIDTH - 0.5)
        notes = 0.22 if self._left_out or not self._rows else 0.0
        self._sheet = Sheet(_WIDTH, self._bottom + 0.5 + notes + legend.height + 0.1)
        self._draw_axis()
        for index, (place, spans, lanes, top, height) in enumerate(self._rows):
            if index % 2:
                self._sheet.box((0.1, top), _WIDTH - 0.3, height, face="#F7F7F7", layer=0)
            at = self._left - 0.12, top + height / 2
            name = fit(place.name, 2.0, _SIZE, tail=5)
            self._sheet.text(at, name, size=_SIZE, across="right", name="name")
            for life in place.lives:
                self._draw_life(life, top + height / 2)
            self._draw_spans(spans, lanes, top, height)
            self._draw_ends(place, top, height)
        if notes:
            words = "no isolate lived in this time"
            if self._since > self._story.seconds:
                words += f": the recording took {tell_duration(self._story.seconds)}"
            if more := self._left_out:
                words = f"… and {tell_count(more, 'more isolate')} (limit={len(self._places)})"
            self._sheet.text((self._left, self._bottom + 0.55), words, size=_SIZE, bold=True, name="left out")
        legend.draw(self._sheet, 0.25, self._bottom + 0.5 + notes)
        return self._sheet

    def _draw_life(self, life: Life, y: float) -> None:
        end = life_end(life, self._story)
        if not self._covers(life.spawned, end):
            return
        ready = min(end, end if life.ready is None else max(life.spawned, life.ready))
        left, middle, right = self._x(life.spawned), self._x(ready), self._x(end)
        sheet = self._sheet
        sheet.box(
            (left, y - 0.07),
            middle - left,
            0.14,
            face="white",
            edge="#A0A0A0",
            line=0.4,
            hatch="//////",
            layer=1,
        )
        sheet.box((middle, y - 0.07), right - middle, 0.14, face=PALE, layer=1, name=f"life {life.number}")

    def _draw_spans(self, spans: list[Span], lanes: list[int], top: float, height: float) -> None:
        count = min(_MOST_LANES, max(lanes, default=0) + 1)
        room = height - (_ROW - _BAR)
        for outcome, fill in _FILLS.items():
            corners: list[tuple[float, float, float, float]] = []
            for span, lane in zip(spans, lanes, strict=True):
                if span.outcome == outcome:
                    x = self._x(span.start)
                    width = max(_LEAST, self._x(span_end(span, self._story)) - x)
                    y = top + (height - room) / 2 + room * (lane % count) / count
                    corners.append((x, y, width, room / count))
            line = 1.0 if outcome == "running" else 0.25 if len(spans) > 150 else 0.5
            least = 0.0 if outcome == "running" else _NARROW
            self._sheet.boxes(
                [corner for corner in corners if corner[2] >= least],
                face=fill.face,
                edge=fill.edge,
                line=line,
                hatch=fill.hatch,
                name=f"calls {outcome}",
            )
            # Begun where the edges of the others, as pixels fall, let those begin.
            narrow = [(x, y + _INSET, w, h - _INSET) for x, y, w, h in corners if w < least]
            self._sheet.boxes(narrow, face=fill.face, name=f"calls {outcome}")

    def _draw_ends(self, place: Place, top: float, height: float) -> None:
        y = top + height / 2
        for sign, colour, times in self._ends(place):
            points = [(self._x(time), y) for time in times if self._since <= time <= self._until]
            if not points:
                continue
            if sign == "cross":
                self._sheet.sign(points, sign, colour="white", size=9, line=4.2, layer=5)
                self._sheet.sign(points, sign, colour=colour, size=8, line=2.2, layer=6, name="died")
            elif sign == "triangle":
                above = [(x, top + 0.035) for x, _ in points]
                self._sheet.sign(above, sign, colour=colour, size=4.5, layer=6, name="restart")
            else:
                self._sheet.sign(points, sign, colour=colour, size=5.5, layer=5, name="killed")

    def _ends(self, place: Place) -> list[tuple[Sign, str, list[float]]]:
        ended = [(life.end, life.ended) for life in place.lives if life.ended is not None]
        return [
            ("square", INK, [time for end, time in ended if end == "killed"]),
            ("cross", RED, [time for end, time in ended if end == "died"]),
            ("triangle", GREEN, [life.spawned for life in place.lives[1:]]),
        ]

    def _draw_axis(self) -> None:
        from matplotlib.ticker import MaxNLocator

        ticks = [float(t) for t in MaxNLocator(9, steps=[1, 2, 5, 10]).tick_values(self._since, self._until)]
        slack = (self._until - self._since) * 1e-9
        ticks = [tick for tick in ticks if self._since - slack <= tick <= self._until + slack]
        unit, told = tell_times(ticks)
        if len(set(told)) < len(told):  # a short time, late
            unit, told = tell_times([max(0.0, tick - self._since) for tick in ticks])
            unit += f" after {self._since:.9g} s"
        for tick, text in zip(ticks, told, strict=True):
            x = self._x(tick)
            self._sheet.line([(x, _TOP), (x, self._bottom)], colour="#E4E4E4", width=0.7, layer=0.5)
            self._sheet.text(
                (x, self._bottom + 0.12), text, size=7.5, colour=INK, across="center", name="time"
            )
        self._sheet.line([(self._left, self._bottom), (self._right, self._bottom)], colour=GREY, width=0.8)
        middle = (self._left + self._right) / 2
        self._sheet.text(
            (middle, self._bottom + 0.3), f"time, {unit}", size=7.5, colour=GREY, across="center", name="axis"
        )

    def _legend(self) -> list[tuple[Sample, str]]:
        counts = dict.fromkeys(_FILLS, 0)
        for _, spans, _, _, _ in self._rows:
            for span in spans:
                counts[span.outcome] += 1
        entries = [
            (_fill_sample(_FILLS[name]), f"{name} ({count:,})") for name, count in counts.items() if count
        ]
        if self._rows:
            entries += [(_starting_sample, "starting"), (_idle_sample, "alive")]
        signs: dict[Sign, tuple[str, str, int]] = {}
        for place, *_ in self._rows:
            for sign, colour, times in self._ends(place):
                inside = sum(self._since <= time <= self._until for time in times)
                _, _, before = signs.get(sign, ("", "", 0))
                signs[sign] = (colour, _WORDS[sign], before + inside)
        entries += [
            (_sign_sample(s, colour), f"{words} ({n:,})") for s, (colour, words, n) in signs.items() if n
        ]
        return entries


_WORDS: Final[dict[Sign, str]] = {"square": "killed", "cross": "isolate died", "triangle": "restarted"}


def _fill_sample(fill: _Fill) -> Sample:
    def draw(sheet: Sheet, at: Point) -> None:
        corner = (at[0], at[1] - 0.065, 0.3, 0.13)
        sheet.boxes([corner], face=fill.face, edge=fill.edge, line=0.8, hatch=fill.hatch)

    return draw


def _sign_sample(sign: Sign, colour: str) -> Sample:
    def draw(sheet: Sheet, at: Point) -> None:
        sheet.sign([(at[0] + 0.2, at[1])], sign, colour=colour, size=6, line=2.0 if sign == "cross" else 1)

    return draw


def _starting_sample(sheet: Sheet, at: Point) -> None:
    sheet.box((at[0], at[1] - 0.06), 0.3, 0.12, face="white", edge="#A0A0A0", line=0.4, hatch="//////")


def _idle_sample(sheet: Sheet, at: Point) -> None:
    sheet.box((at[0], at[1] - 0.06), 0.3, 0.12, face=PALE)
