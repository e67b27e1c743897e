"""From what isolates have noted to the story of a recording: the two ends of each message put together.

What was noted at both ends is matched by the ids of calls; messages of one sender to one port by their
order, as they arrive in it. This module does not know how notes are taken, nor how a story is drawn.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import Any, Final, final

from attrs import define, evolve

from ._blocks import blocks
from ._events import End, Ending, Event, Kind, Life, Outcome, Span, Story
from ._messages import CANCELLED, DROPPED, ERROR, VALUE
from ._notes import (
    BEGIN,
    BEGUN,
    CANCEL,
    CLOSE,
    END,
    GO_ON,
    INTERRUPT,
    KILL,
    KIND_SHIFT,
    LABEL_SHIFT,
    NEVER,
    REPLY,
    REQUEST,
    SENT,
    STREAM_PORT,
    TAKEN,
    WAIT,
    WITHDRAWN,
    Note,
)

_OUTCOMES: Final[dict[int, Outcome]] = {
    VALUE: "value",
    ERROR: "error",
    CANCELLED: "cancelled",
    DROPPED: "dropped",
}
_OF_LIVES: Final[dict[int, Kind]] = {KILL: "kill", CLOSE: "close"}
_OF_CALLS: Final[dict[int, Kind]] = {CANCEL: "cancel", INTERRUPT: "interrupt"}
_PROGRAM: Final = 8  # bytes in the path of a program, which is nobody's isolate
_STEP: Final = 4
_MOST_TASKS: Final = 100
_AT_ONCE: Final = 1e-9  # seconds; 0 would say that nothing is known
_LOW_KIND: Final = (1 << KIND_SHIFT) - 1
_ENDS: Final[dict[str, End]] = {"closed": "closed", "killed": "killed", "died": "died"}
_LOW: Final = (1 << LABEL_SHIFT) - 1  # of what a note is about, the number of a child or a label


@define(eq=False)
class _Call:
    """What is known of one call to one isolate. `ended` is when that had its answer, `known` its caller."""

    caller: bytes
    isolate: bytes
    label: str
    sent: float
    begun: float | None = None
    ended: float | None = None
    known: float | None = None
    outcome: Outcome | None = None
    value: str = ""

    @property
    def answered(self) -> float | None:
        """When its isolate had answered it, as far as anybody knows."""
        return self.known if self.ended is None else self.ended


@define(eq=False)
class _Message:
    source: bytes
    target: bytes
    port: int
    sent: float
    label: str
    taken: float | None = None


def tell(data: Iterable[bytes], programs: Collection[bytes], started: float, seconds: float) -> Story:
    """Make the story of what was written between `started`, by `perf_counter`, and so many seconds later.

    programs: the paths of the Trio runs of who recorded it.
    """
    notes: list[tuple[Note, bytes]] = []
    texts: list[tuple[dict[str, Any], bytes]] = []
    labels: dict[tuple[bytes, int], str] = {}

    def clamp(now: float) -> float:  # an isolate may be corrupt
        return min(max(now - started, 0.0), seconds)

    for block in chain.from_iterable(map(blocks, data)):
        for now, what, ident, about in block.notes:
            if what & _LOW_KIND == END and about:
                about = clamp(about) or _AT_ONCE  # noqa: PLW2901
            notes.append(((clamp(now), what, ident, about), block.path))
        if block.text is not None:
            with suppress(KeyError, TypeError, ValueError, OverflowError):
                if block.text["what"] == "label":
                    labels[block.path, int(block.text["number"])] = str(block.text["text"])
                else:
                    texts.append(({**block.text, "time": clamp(float(block.text["time"]))}, block.path))
    notes.sort(key=lambda entry: entry[0][0])
    # That one takes the place of another may be known before it is started.
    texts.sort(key=lambda entry: (entry[0]["what"] == "restart", entry[0]["time"]))
    return _Teller(labels, programs, seconds).tell(notes, texts)


@final
class _Teller:
    """Takes the notes in the order of time."""

    def __init__(
        self, labels: dict[tuple[bytes, int], str], programs: Collection[bytes], seconds: float
    ) -> None:
        self._labels = labels
        self._seconds = seconds
        self._numbers: dict[bytes, int] = dict.fromkeys(programs, 0)
        self._lives: dict[bytes, Life] = {}
        self._serial: set[bytes] = set()  # that run one call after the other
        self._calls: dict[tuple[bytes, int], _Call] = {}
        self._messages: list[_Message] = []
        self._on_their_way: defaultdict[tuple[bytes, bytes, int], deque[_Message]] = defaultdict(deque)
        self._streams: set[tuple[bytes, int]] = set()
        self._waiting: dict[bytes, float] = {}
        self._waits: defaultdict[bytes, list[tuple[float, float]]] = defaultdict(list)
        self._about_calls: list[tuple[Kind, float, _Call]] = []
        self._never: set[tuple[bytes, int]] = set()  # calls that never began
        self._events: list[Event] = []

    def tell(self, notes: list[tuple[Note, bytes]], texts: list[tuple[dict[str, Any], bytes]]) -> Story:
        program = Life(0, "main", None)
        for text, path in texts:
            try:
                self._take_text(text["what"], text, path)
            except (KeyError, TypeError, ValueError, OverflowError):
                continue
        # Both ends of a message may have noted it within the clock's resolution, or the receiver first.
        for (now, what, ident, about), path in notes:
            if what == SENT:
                self._take_sent(now, ident, about, path)
            elif what == REQUEST and (isolate := self._child(path, about)) is not None:
                self._calls[isolate, ident] = _Call(path, isolate, self._value(path, about), now)
        for note, path in notes:
            self._take(note, path)
        self._forget_beginnings()
        self._find_ends()
        numbers = self._number_calls()
        self._events += self._events_of_calls(numbers)
        self._events += self._events_of_messages()
        lives = (program, *self._lives.values())
        events = tuple(sorted(self._events, key=lambda event: event.time))
        return Story(lives, events, tuple(self._spans(numbers)), self._seconds)

    # Isolates.

    def _child(self, path: bytes, about: float) -> bytes | None:
        """Return the path of the child that a note is about; None if none was started."""
        child = path + (int(about) & _LOW).to_bytes(_STEP, "little")
        return child if child in self._lives else None

    def _number(self, path: bytes) -> int | None:
        """Return the number of an isolate; None if it is not recorded."""
        return self._numbers.get(path)

    def _take_text(self, what: str, text: dict[str, Any], path: bytes) -> None:
        now, ours = text["time"], self._numbers[path]
        if what == "run":
            self._numbers[bytes.fromhex(text["path"])] = ours
            return
        child = path + int(text["child"]).to_bytes(_STEP, "little")
        if what == "spawn":
            tasks = tuple(str(name) for name in list(text["tasks"])[:_MOST_TASKS])
            number = len(self._lives) + 1
            self._numbers.setdefault(child, number)
            if child not in self._lives:
                self._lives[child] = Life(number, str(text["name"]), ours, tasks=tasks, spawned=now)
                self._events.append(Event("spawn", now, ours, number))
            return
        life = self._lives[child]
        if what == "ready":
            pid = text["pid"]
            self._lives[child] = evolve(life, ready=now, pid=pid if isinstance(pid, int) else None)
            if text["serial"]:
                self._serial.add(child)
            self._events.append(Event("ready", now, life.number, ours))
        elif what == "restart":
            of = path + int(text["of"]).to_bytes(_STEP, "little")
            self._lives[child] = evolve(life, replaces=self._lives[of].number)
            # Of a supervisor's child it is noted when that is ready.
            self._events.append(Event("restart", min(now, life.spawned), ours, life.number))
        elif what == "death" and life.ended is None:
            end, reason = _ENDS[text["end"]], str(text["reason"])
            self._lives[child] = evolve(life, ended=now, end=end, reason=reason)
            self._events.append(Event("death", now, life.number, life.number, label=reason))

    # Notes.

    def _path(self, path: bytes, about: float) -> bytes:
        """Return the path of the isolate that a note about a message names."""
        with suppress(ValueError):
            return bytes.fromhex(self._labels.get((path, int(about) & _LOW), ""))
        return b""

    def _value(self, path: bytes, about: float) -> str:
        """Return the text that goes with a note, above what it is about."""
        return self._labels.get((path, int(about) >> LABEL_SHIFT), "")

    def _take_sent(self, now: float, port: int, about: float, path: bytes) -> None:
        target = self._path(path, about)
        message = _Message(path, target, port, now, self._value(path, about))
        self._messages.append(message)
        self._on_their_way[path, target, port].append(message)

    def _take(self, note: Note, path: bytes) -> None:
        now, what, ident, about = note
        what, kind = what & _LOW_KIND, what >> KIND_SHIFT
        if what in (BEGIN, END):
            call = self._calls.get((path, ident))
            if call is not None and what == BEGIN:
                call.begun = now
            elif call is not None:
                call.ended, call.outcome = now, call.outcome or _OUTCOMES.get(kind)
                call.begun = about or call.begun
        elif what == TAKEN:
            source = self._path(path, about)
            if line := self._on_their_way[source, path, ident]:
                line.popleft().taken = now
            elif source in self._lives:  # it died before it had written down the last that it sent
                self._messages.append(_Message(source, path, ident, now, self._value(path, about), now))
        elif what == STREAM_PORT:
            self._streams.add((path, ident))
        elif what == WAIT:
            self._waiting[path] = now
        elif what == GO_ON and path in self._waiting:
            self._waits[path].append((self._waiting.pop(path), now))
        elif (isolate := self._child(path, about)) is not None:
            self._take_of_child((now, what, ident, about), path, isolate, _OUTCOMES.get(kind))

    def _take_of_child(self, note: Note, path: bytes, isolate: bytes, outcome: Outcome | None) -> None:
        now, what, ident, about = note
        call = self._calls.get((isolate, ident))
        if what in _OF_LIVES and (ours := self._number(path)) is not None:
            self._events.append(Event(_OF_LIVES[what], now, ours, self._lives[isolate].number))
        elif call is None:
            return
        elif what == NEVER:
            self._never.add((isolate, ident))
        elif what == BEGUN:
            if call.begun is None and now >= call.sent:  # else it was an earlier call's
                call.begun = now
        elif what in _OF_CALLS:
            self._about_calls.append((_OF_CALLS[what], now, call))
        elif what == REPLY:
            call.known, call.outcome, call.value = now, outcome, self._value(path, about)
        elif what == WITHDRAWN:
            del self._calls[isolate, ident]

    def _forget_beginnings(self) -> None:
        """A call that was dropped never began, whatever the page says: it was looked at, at most."""
        for key, call in self._calls.items():
            if key in self._never or call.outcome == "dropped":
                call.begun = None

    def _find_ends(self) -> None:
        """Where its isolate died before it had written it down: before the next one began."""
        nexts: dict[bytes, float] = {}
        for call in sorted(self._calls.values(), key=lambda call: call.begun or 0.0, reverse=True):
            if call.begun is not None and call.isolate in self._serial:
                if call.ended is None and call.known is not None:
                    call.ended = min(call.known, nexts.get(call.isolate, call.known))
                nexts[call.isolate] = call.begun

    # The story.

    def _number_calls(self) -> dict[int, int]:
        known = [call for call in self._calls.values() if call.caller in self._numbers]
        known.sort(key=lambda call: call.sent)
        return {id(call): number for number, call in enumerate(known, 1)}

    def _events_of_calls(self, numbers: dict[int, int]) -> Iterator[Event]:
        for call in self._calls.values():
            number = numbers.get(id(call))
            if number is None:
                continue
            here, there = self._numbers[call.caller], self._numbers[call.isolate]
            yield Event("request", call.sent, here, there, call.begun, number, call.label)
            if (left := call.answered) is not None:
                label = f"{call.outcome or ''}{call.value and f': {call.value}'}"
                yield Event("reply", left, there, here, call.known, number, label)
        for kind, now, call in self._about_calls:
            if (number := numbers.get(id(call))) is not None:
                here, there = self._numbers[call.caller], self._numbers[call.isolate]
                yield Event(kind, now, here, there, request=number)

    def _events_of_messages(self) -> Iterator[Event]:
        for message in self._messages:
            here, there = self._number(message.source), self._number(message.target)
            if here is not None and there is not None:
                kind: Kind = "item" if (message.target, message.port) in self._streams else "message"
                yield Event(kind, message.sent, here, there, message.taken, label=message.label)

    def _spans(self, numbers: dict[int, int]) -> Iterator[Span]:
        begun = [call for call in self._calls.values() if call.begun is not None and id(call) in numbers]
        begun.sort(key=lambda call: call.begun or 0.0)
        for call in begun:
            assert call.begun is not None
            life = self._lives[call.isolate]
            end = call.answered
            outcome: Ending = "running"
            if call.outcome is not None and call.outcome != "dropped":
                outcome = call.outcome
            if outcome == "running" and life.ended is not None:
                end, outcome = life.ended, "died"
            waits = self._waits_in(call.isolate, call.begun, end, has_died=outcome == "died")
            yield Span(life.number, numbers[id(call)], call.label, call.begun, end, outcome, waits)

    def _waits_in(
        self, isolate: bytes, begun: float, end: float | None, *, has_died: bool
    ) -> tuple[tuple[float, float], ...]:
        waits = self._waits[isolate]
        last = self._waiting.get(isolate)
        latest = math.inf if end is None else end
        found: list[tuple[float, float]] = []
        for start, stop in islice(waits, bisect_left(waits, (begun, begun)), None):
            if stop > latest:
                break
            found.append((start, stop))
        if has_died and end is not None and last is not None and last >= begun:  # in the middle of one
            found.append((last, end))
        return tuple(found)
