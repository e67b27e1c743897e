"""Turns the lives of a recording into places: one for each isolate and all that took its place after it.

It also finds lanes for what overlaps. It does not know how either is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush

from attrs import frozen

from ._events import Event, Life, Span, Story

_NUMBERED = re.compile(r"(.+)\.(\d+)")


@frozen
class Place:
    """The isolates that stood for each other, one after another.

    Attributes:
        lives: them, the first one first.
    """

    lives: tuple[Life, ...]

    @property
    def name(self) -> str:
        """The name of the first."""
        return self.lives[0].name


def split_name(name: str) -> tuple[str, int] | None:
    """Return ("pool", 1) for "pool.1", and None for what has no number."""
    found = _NUMBERED.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def find_places(story: Story) -> list[Place]:
    """Return the places, the program's first; a pool's stand together, in the order of their numbers."""
    chains: dict[int, list[Life]] = {}
    for life in story.lives:
        if life.replaces is not None and life.replaces in chains:
            chains[life.number] = chains[life.replaces]
            chains[life.number].append(life)
        else:
            chains[life.number] = [life]
    found = [Place(tuple(chain)) for number, chain in chains.items() if chain[0].number == number]
    first: dict[tuple[int | None, str], int] = {}

    def rank(indexed: tuple[int, Place]) -> tuple[int, int]:
        index, place = indexed
        group = split_name(place.name)
        if group is None:
            return index, 0
        return first.setdefault((place.lives[0].parent, group[0]), index), group[1]

    return [place for _, place in sorted(enumerate(found), key=rank)]


def who_died(event: Event, lives: Iterable[Life]) -> int:
    """Return the number of whose death an event is: of its two isolates, the one that the other started."""
    parents = {life.number: life.parent for life in lives}
    return event.target if parents.get(event.target) == event.source else event.source


def span_end(span: Span, story: Story) -> float:
    """When a call ended, or the recording."""
    return max(span.start, story.seconds if span.end is None else span.end)


def life_end(life: Life, story: Story) -> float:
    """When an isolate ended, or the recording."""
    return max(life.spawned, story.seconds if life.ended is None else life.ended)


def find_lanes(intervals: Sequence[tuple[float, float]]) -> list[int]:
    """Return for each the first lane that is free when it starts; they are in the order of their starts."""
    free: list[int] = []
    taken: list[tuple[float, int]] = []
    lanes: list[int] = []
    for start, end in intervals:
        while taken and taken[0][0] <= start:
            heappush(free, heappop(taken)[1])
        lane = heappop(free) if free else len(taken)
        heappush(taken, (end, lane))
        lanes.append(lane)
    return lanes


def spans_of(lives: Iterable[Life], story: Story) -> list[Span]:
    """Return the calls that some isolates ran, in the order of their starts."""
    numbers = {life.number for life in lives}
    return sorted((span for span in story.spans if span.isolate in numbers), key=lambda span: span.start)
