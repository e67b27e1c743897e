"""Turns what happened into signs: what an arrow, a mark and a call look like, and the words beside them.

It knows kinds of events. It does not know where anything stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from attrs import frozen

from ._events import Event, Kind, Span
from ._legend import Sample
from ._places import who_died
from ._sheet import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    VERMILLION,
    Head,
    Point,
    Sheet,
    Sign,
    Style,
)
from ._view import View

_CYCLE: Final = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)


@frozen
class Look:
    """Of an arrow. A colour of None is the call's own."""

    colour: str | None = None
    width: float = 1.2
    style: Style = "solid"
    head: Head = "full"


LOOKS: Final[dict[Kind, Look]] = {
    "spawn": Look(GREY, 0.9),
    "request": Look(),
    "reply": Look(head="open"),
    "message": Look(INK, 1.1, "dashed", "open"),
    "item": Look(None, 1.1, "dotted", "open"),
    "cancel": Look(RED, 1.0, "dashed", "open"),
    "interrupt": Look(RED, 1.2),
    "kill": Look(RED, 2.0),
    "close": Look(GREY, 0.9, "solid", "open"),
}
_SENT: Final = ("request", "reply", "message", "item")
Fate: TypeAlias = Literal["arrives", "not received", "received later"]
_HALF: Final[tuple[Fate, ...]] = ("not received", "received later")


@frozen
class Mark:
    """Something on one line alone, at a time."""

    time: float
    column: int
    sign: Sign
    colour: str
    words: str
    legend: str


def find_marks(view: View) -> list[Mark]:
    """Return what happens to isolates themselves, in the order of time."""
    marks: list[Mark] = []
    told: set[int] = set()
    for life in view.lives:
        if life.ended is None or not view.since <= life.ended <= view.until:
            continue
        column = view.columns[life.number]
        if life.end == "died":
            told.add(life.number)
            words = f"died: {life.reason}" if life.reason else "died"
            marks.append(Mark(life.ended, column, "cross", RED, words, "died"))
        elif life.end == "killed":
            told.add(life.number)
            marks.append(Mark(life.ended, column, "square", INK, "killed", "killed"))
        elif life.end == "closed":
            told.add(life.number)
            marks.append(Mark(life.ended, column, "bar", GREY, "", "closed"))
    for event in view.events:
        if event.kind == "ready":
            marks.append(Mark(event.time, view.columns[event.source], "dot", GREY, "", "ready"))
        elif event.kind == "restart":
            marks.append(
                Mark(event.time, view.columns[event.target], "triangle", GREEN, "restart", "restart")
            )
        elif event.kind == "death" and (number := who_died(event, view.lives)) not in told:
            words = f"died: {event.label}" if event.label else "died"
            marks.append(Mark(event.time, view.columns[number], "cross", RED, words, "died"))
    return sorted(marks, key=lambda mark: mark.time)


def find_fate(event: Event, view: View) -> Fate:
    """Return what becomes of an arrow in the time that is shown."""
    if event.arrived is None:
        return "not received" if event.kind in _SENT else "arrives"
    return "arrives" if event.arrived <= view.until else "received later"


def draw_fate(sheet: Sheet, fate: Fate, at: Point, colour: str, *, to_the_left: bool) -> None:
    """Draw the end of an arrow that ends half way: a cross, or dots, for it goes on."""
    if fate == "not received":
        sheet.sign([at], "cross", colour=colour, size=5, line=1.4, name=fate)
    elif fate == "received later":
        step = -0.05 if to_the_left else 0.05
        dots = [(at[0] + step * number, at[1]) for number in (1, 2, 3)]
        sheet.sign(dots, "dot", colour=colour, size=1.8, line=0, name=fate)


def say_event(event: Event) -> str:
    """Return the words on an arrow."""
    number = "" if event.request is None else f"#{event.request}"
    plain = event.kind if event.kind not in ("request", "reply") else "" if number else event.kind
    if event.kind in ("message", "request", "reply") and event.label:
        plain = ""
    said = [plain, number] if event.kind in ("cancel", "interrupt", "kill") else [number, plain]
    return " ".join(filter(None, [*said, event.label]))


def say_span(span: Span) -> str:
    return f"#{span.request} {span.label}"


def call_colour(request: int | None) -> str:
    """Return the colour of all that concerns a call."""
    return INK if request is None else _CYCLE[request % len(_CYCLE)]


def legend_of(view: View, arrows: Sequence[Event], marks: Sequence[Mark]) -> list[tuple[Sample, str]]:
    """Return samples of what is drawn, and of nothing else."""
    entries: list[tuple[Sample, str]] = []
    kinds = {event.kind for event in arrows}
    entries += [(_arrow_sample(look), kind) for kind, look in LOOKS.items() if kind in kinds]
    fates = {find_fate(event, view) for event in arrows}
    entries += [(_fate_sample(fate), fate) for fate in _HALF if fate in fates]
    if _is_overtaken(arrows):
        look = LOOKS["item" if "item" in kinds else "message"]
        entries.append((_arrow_sample(look), "ends when it is taken: a later reply may come first"))
    if view.spans:
        entries.append((_bar_sample, "busy, coloured by call"))
    if any(span.waits for span in view.spans):
        entries.append((_wait_sample, "waits for a message"))
    signs = {mark.legend: mark for mark in marks}
    entries += [(_sign_sample(mark), legend) for legend, mark in signs.items()]
    entries.append((_gap_sample, "time goes down; long gaps are shortened"))
    return entries


def _is_overtaken(arrows: Sequence[Event]) -> bool:
    """Whether a reply came in before what its sender had sent earlier: that waited to be taken."""
    waiting: dict[tuple[int, int], float] = {}
    for event in arrows:
        if event.arrived is None:
            continue
        ends = event.source, event.target
        if event.kind in ("item", "message"):
            waiting[ends] = max(event.arrived, waiting.get(ends, event.arrived))
        elif event.kind == "reply" and event.arrived < waiting.get(ends, event.arrived):
            return True
    return False


def _fate_sample(fate: Fate) -> Sample:
    def draw(sheet: Sheet, at: Point) -> None:
        end = at[0] + 0.15, at[1]
        sheet.line([at, end], colour=BLUE, width=LOOKS["request"].width)
        draw_fate(sheet, fate, end, BLUE, to_the_left=False)

    return draw


def _arrow_sample(look: Look) -> Sample:
    def draw(sheet: Sheet, at: Point) -> None:
        points = [at, (at[0] + 0.3, at[1])]
        colour = look.colour or BLUE
        sheet.arrow(points, colour=colour, width=look.width, style=look.style, head=look.head)

    return draw


def _sign_sample(mark: Mark) -> Sample:
    def draw(sheet: Sheet, at: Point) -> None:
        line = 2.2 if mark.sign == "cross" else 1.5
        sheet.sign([(at[0] + 0.2, at[1])], mark.sign, colour=mark.colour, size=6, line=line)

    return draw


def _bar_sample(sheet: Sheet, at: Point) -> None:
    sheet.box((at[0] + 0.12, at[1] - 0.08), 0.12, 0.16, face=BLUE)


def _wait_sample(sheet: Sheet, at: Point) -> None:
    sheet.box((at[0] + 0.16, at[1] - 0.08), 0.05, 0.16, face=BLUE)


def _gap_sample(sheet: Sheet, at: Point) -> None:
    x, y = at[0] + 0.2, at[1]
    sheet.arrow([(x, y - 0.08), (x, y + 0.08)], colour=GREY, width=0.9, head="open")
