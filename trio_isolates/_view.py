"""Turns a recording into the part of it that fits on one sheet of lifelines, and says what is left out.

It knows counts and times. It does not know how anything looks.
"""

from __future__ import annotations

import math
from typing import Final

from attrs import frozen

from ._clock import tell_count
from ._events import Event, Life, Span, Story
from ._places import Place, find_places, life_end, span_end

MOST_LINES: Final = 12


@frozen
class View:
    """What is shown.

    Attributes:
        places: those that have a line, from left to right.
        columns: of each isolate that is shown, the index of its place.
        lives, events, spans: what is shown of them; events and spans that have begun.
        since, until: from when to when, in seconds; until may be infinite.
        left_out: sentences.
    """

    places: tuple[Place, ...]
    columns: dict[int, int]
    lives: tuple[Life, ...]
    events: tuple[Event, ...]
    spans: tuple[Span, ...]
    since: float
    until: float
    left_out: tuple[str, ...]


def choose_view(story: Story, start: float | None, end: float | None, limit: int) -> View:
    """Return what happened from `start` to `end`: the first `limit` events, and what was run meanwhile."""
    since, until = (0.0 if start is None else start), (math.inf if end is None else end)
    events = [event for event in story.events if since <= event.time <= until]
    spans = [span for span in story.spans if span.start <= until and span_end(span, story) >= since]
    places = _choose_places(find_places(story), events, spans)
    columns = {life.number: index for index, place in enumerate(places) for life in place.lives}
    here = [event for event in events if event.source in columns and event.target in columns]
    ran = [span for span in spans if span.isolate in columns]
    shown, shown_spans = here, ran
    if len(here) > limit:
        shown, until = here[:limit], here[limit].time
    if len(ran) > limit:
        until = min(until, sorted(span.start for span in ran)[limit])
    shown = [event for event in shown if event.time <= until]
    shown_spans = [span for span in ran if span.start <= until]
    lives = [life for place in places for life in place.lives]
    lives = [life for life in lives if life.spawned <= until and life_end(life, story) >= since]
    left_out: list[str] = []
    if more := len(here) - len(shown):
        left_out.append(f"… and {tell_count(more, 'more event')} after these (limit={limit})")
    elif more := len(ran) - len(shown_spans):
        left_out.append(f"… and {tell_count(more, 'more call')} after these (limit={limit})")
    if away := len({life.number for life in story.lives} - set(columns)):
        whose = tell_count(len(events) - len(here), "event")
        left_out.append(f"{tell_count(away, 'isolate')} with {whose} not shown (at most {MOST_LINES} lines)")
    if not shown and not shown_spans:
        left_out.append("nothing happened in this time")
    return View(
        tuple(places),
        columns,
        tuple(lives),
        tuple(shown),
        tuple(shown_spans),
        since,
        until,
        tuple(left_out),
    )


def _choose_places(places: list[Place], events: list[Event], spans: list[Span]) -> list[Place]:
    """Return all, or if there are too many, those who first have something to do; in their order."""
    if len(places) <= MOST_LINES:
        return places
    of = {life.number: index for index, place in enumerate(places) for life in place.lives}
    touched = [(False, span.start, span.isolate) for span in spans]
    for event in events:
        is_start_or_end = event.kind in ("spawn", "ready", "close")
        touched += [(is_start_or_end, event.time, number) for number in (event.source, event.target)]
    chosen = dict.fromkeys(
        [0, *(of[number] for *_, number in sorted(touched) if number in of), *range(len(places))]
    )
    return [places[index] for index in sorted(list(chosen)[:MOST_LINES])]
