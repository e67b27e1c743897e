"""Turns a recording into the events that the Perfetto UI and chrome://tracing draw.

It knows their rules: slices of one thread nest, and an arrow begins and ends inside of a slice. It does
not know files.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any, Final, TypeAlias, final

from attrs import evolve, frozen

from ._events import Event, Kind, Life, Span, Story
from ._places import find_lanes, find_places, life_end, span_end, who_died

Json: TypeAlias = dict[str, Any]
_Key: TypeAlias = tuple[str, int]

_TICKS: Final = 8_000_000  # a second; eighths of a microsecond are exact as floats, and in nanoseconds
_LEAST: Final = 8
_INSTANTS: Final[dict[Kind, str]] = {
    "kill": "p",
    "death": "p",
    "restart": "p",
    "interrupt": "t",
    "cancel": "t",
    "close": "t",
}
"""What has no duration, and whether its mark is as high as its process or as its thread."""


@frozen
class _Slice:
    """Something with a beginning and an end, in ticks; slices of one row are laid into lanes."""

    name: str
    life: int
    row: str
    start: int
    end: int
    args: Json


@frozen
class _Flow:
    """An arrow from one slice to another; times in ticks."""

    name: str
    sent: int
    arrived: int
    source: _Key
    target: _Key


def perfetto_events(story: Story) -> list[Json]:
    """Return the events: first those that name things, then the others in the order of time."""
    return _Trace(story).events()


@final
class _Trace:
    def __init__(self, story: Story) -> None:
        self._story = story
        self._lives = {life.number: life for life in story.lives}
        known = self._lives.keys()
        self._events = [event for event in story.events if {event.source, event.target} <= known]
        self._spans = [span for span in story.spans if span.isolate in known]
        self._slices: dict[_Key, _Slice] = {}
        self._tids: dict[_Key, int] = {}
        self._flows: list[_Flow] = []
        self._metadata: list[Json] = []

    def events(self) -> list[Json]:
        for life in self._story.lives:
            self._add_life(life)
        self._add_calls()
        for index, event in enumerate(self._events):
            self._add_event(index, event)
        self._lay_out()
        timed: list[tuple[int, int, int, Json]] = []
        for key, each in self._slices.items():  # an outer one first
            timed.append((each.start, 0, -each.end, self._complete(each, self._tids[key])))
        for index, flow in enumerate(self._flows, 1):
            timed += self._both_ends(index, flow)
        for event in self._events:
            if event.kind in _INSTANTS:
                timed.append((_ticks(event.time), 1, 0, self._instant(event)))
        return self._metadata + [event for *_, event in sorted(timed, key=lambda each: each[:3])]

    # What there is.

    def _add(self, key: _Key, name: str, at: tuple[int, str], times: tuple[float, float], args: Json) -> None:
        """Add a slice; at: the isolate and its row."""
        start, end = map(_ticks, times)
        self._slices[key] = _Slice(name, *at, start, max(end, start + _LEAST), args)

    def _add_life(self, life: Life) -> None:
        times = life.spawned, life_end(life, self._story)
        args: Json = {"end": life.end}
        args |= {"pid": life.pid} if life.pid is not None else {}
        args |= {"reason": life.reason} if life.reason else {}
        is_program = life.parent is None
        self._add(("life", life.number), life.name, (life.number, "life"), times, args)
        if not is_program:
            times = life.spawned, times[1] if life.ready is None else min(times[1], life.ready)
            self._add(("start", life.number), "starting", (life.number, "life"), times, {})
            end = self._slices["life", life.number].end
            starting = self._slices["start", life.number]
            self._slices["start", life.number] = evolve(starting, end=min(end, starting.end))

    def _add_calls(self) -> None:
        """One slice where a call runs, and one where it is waited for."""
        for span in self._spans:
            args: Json = {"call": span.request, "outcome": span.outcome, **_waits(span)}
            times = span.start, span_end(span, self._story)
            self._add(("runs", span.request), span.label or "call", (span.isolate, "calls"), times, args)
        replies = {event.request: event for event in self._events if event.kind == "reply"}
        for event in self._events:
            if event.kind == "request" and event.request is not None:
                reply = replies.get(event.request)
                end = self._story.seconds if reply is None or reply.arrived is None else reply.arrived
                answer: Json = {} if reply is None else {"answer": reply.label}
                name = f"await {event.label}" if event.label else "await"
                args = {"call": event.request, "of": self._lives[event.target].name, **answer}
                self._add(
                    ("waits", event.request), name, (event.source, "calls made"), (event.time, end), args
                )

    def _add_event(self, index: int, event: Event) -> None:
        arrived = event.time if event.arrived is None else event.arrived
        if event.kind in ("message", "item"):
            name = f"{event.kind} {event.label}".strip()
            sent, received = ("sent", index), ("received", index)
            self._add(sent, f"send {name}", (event.source, "ports"), (event.time, event.time), {})
            if event.arrived is not None:
                self._add(received, f"receive {name}", (event.target, "ports"), (arrived, arrived), {})
                self._flow(event.kind, event.time, arrived, sent, received)
        elif event.kind == "spawn":
            self._flow("spawn", event.time, arrived, ("life", event.source), ("start", event.target))
        elif event.request is not None and event.arrived is not None:
            ends = ("waits", event.request), ("runs", event.request)
            if event.kind == "request":
                self._flow("request", event.time, arrived, *ends)
            elif event.kind == "reply":
                self._flow("reply", event.time, arrived, *ends[::-1])

    def _flow(self, name: str, sent: float, arrived: float, source: _Key, target: _Key) -> None:
        if source in self._slices and target in self._slices:
            self._flows.append(_Flow(name, _ticks(sent), _ticks(arrived), source, target))

    # How it is written.

    def _lay_out(self) -> None:
        """Give each slice its thread, and name them all."""
        order = [life for place in find_places(self._story) for life in place.lives]
        rows: defaultdict[tuple[int, str], list[_Key]] = defaultdict(list)
        for key, each in self._slices.items():
            rows[each.life, each.row].append(key)
        fresh = itertools.count(max(self._lives) + 2)
        for rank, life in enumerate(order):
            pid = life.number + 1
            self._name("process", pid, pid, life.name, rank)
            for key in rows[life.number, "life"]:
                self._tids[key] = pid  # the main thread's: the process's own
            self._name("thread", pid, pid, "life", 0)
            sort = itertools.count(1)
            for row in ("calls made", "calls", "ports"):
                keys = sorted(rows[life.number, row], key=lambda key: self._slices[key].start)
                lanes = find_lanes([(self._slices[key].start, self._slices[key].end) for key in keys])
                tids = [next(fresh) for _ in range(max(lanes, default=-1) + 1)]
                for lane, tid in enumerate(tids, 1):
                    self._name("thread", pid, tid, row if lane == 1 else f"{row} ({lane})", next(sort))
                for key, lane in zip(keys, lanes, strict=True):
                    self._tids[key] = tids[lane]

    def _name(self, what: str, pid: int, tid: int, name: str, rank: int) -> None:
        common: Json = {"ph": "M", "ts": 0, "pid": pid, "tid": tid}
        self._metadata.append({**common, "name": f"{what}_name", "args": {"name": name}})
        self._metadata.append({**common, "name": f"{what}_sort_index", "args": {"sort_index": rank}})

    def _complete(self, each: _Slice, tid: int) -> Json:
        return {
            "ph": "X",
            "name": each.name,
            "cat": each.row,
            "pid": each.life + 1,
            "tid": tid,
            "ts": _microseconds(each.start),
            "dur": _microseconds(each.end - each.start),
            "args": each.args,
        }

    def _both_ends(self, index: int, flow: _Flow) -> list[tuple[int, int, int, Json]]:
        """Return the start and the end of an arrow, each moved into its slice if it is not there."""
        ends: list[tuple[int, int, int, Json]] = []
        for phase, order, time, key in (
            ("s", 1, flow.sent, flow.source),
            ("f", 2, flow.arrived, flow.target),
        ):
            each = self._slices[key]
            inside = min(max(time, each.start), each.end - 1)
            said: Json = {"ph": phase, "name": flow.name, "cat": "flow", "id": index, "pid": each.life + 1}
            said |= {"tid": self._tids[key], "ts": _microseconds(inside)}
            said |= {"bp": "e"} if phase == "f" else {}
            ends.append((inside, order, 0, said))
        return ends if ends[0][0] <= ends[1][0] else []

    def _instant(self, event: Event) -> Json:
        number = who_died(event, self._story.lives) if event.kind == "death" else event.target
        args: Json = {"by": self._lives[event.source].name} if number != event.source else {}
        args |= {"call": event.request} if event.request is not None else {}
        args |= {"why": event.label} if event.label else {}
        return {
            "ph": "i",
            "s": _INSTANTS[event.kind],
            "name": event.kind,
            "cat": "end" if _INSTANTS[event.kind] == "p" else "control",
            "pid": number + 1,
            "tid": number + 1,
            "ts": _microseconds(_ticks(event.time)),
            "args": args,
        }


def _waits(span: Span) -> Json:
    waited = sum(max(0.0, end - start) for start, end in span.waits)
    return {"waited for messages, ms": round(waited * 1e3, 3)} if span.waits else {}


def _ticks(seconds: float) -> int:
    return round(seconds * _TICKS)


def _microseconds(ticks: int) -> float:
    return ticks * 1e6 / _TICKS
