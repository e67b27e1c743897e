"""The story of a recording, from what was noted: how two ends are put together, and what is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_isolates import open_worker
from trio_isolates._blocks import blocks
from trio_isolates._events import Story
from trio_isolates._messages import DROPPED, VALUE
from trio_isolates._notes import (
    BEGUN,
    CANCEL,
    KIND_SHIFT,
    NEVER,
    REPLY,
    REQUEST,
    SENT,
    TAKEN,
    WITHDRAWN,
    Note,
    Recording,
    short,
)
from trio_isolates._perfetto import perfetto_events
from trio_isolates._story import tell
from trio_isolates.draw import tree

PROGRAM = b"program!"
CHILD = b"program!\x01\0\0\0"
TEXT = 1


def written(*theirs: Note, ours: tuple[Note, ...] = ()) -> Story:
    """The story of an isolate "x", which runs one call after the other, that has noted this; and ours."""
    recording = Recording(keeps_values=False)
    program = recording.notes(PROGRAM)
    program.tell("spawn", child=1, name="x", tasks=[])
    program.tell("ready", child=1, pid=1, serial=True)
    for taker, notes in ((program, ours), (recording.notes(CHILD), theirs)):
        for note in notes:
            taker.take(note)
    recording.end()
    return tell(recording.read(), {PROGRAM}, 0.0, 1e9)


@settings(deadline=None)
@given(st.binary(), st.binary(max_size=200), st.integers(0, 2**16))
def test_corrupt_files(garbage: bytes, more: bytes, cut: int) -> None:
    """An isolate that is corrupt may write what it likes: what makes sense before and behind it is kept."""
    recording = Recording(keeps_values=True)
    notes = recording.notes(PROGRAM)
    notes.tell("spawn", child=1, name="x", tasks=[])
    notes.take((1.0, REQUEST, 1, 1 | notes.label("f") << 24))
    recording.end()
    good = b"".join(recording.read())
    assert [block.path for block in blocks(good)] == [PROGRAM] * 3
    cut %= len(good)
    for data in (good + garbage, good[:cut] + more, garbage, good + good[:20] + garbage):
        tell([data], {PROGRAM}, 0.0, 1.0)
    story = tell([good[:cut] + good], {PROGRAM}, 0.0, 1e9)  # torn, and then it goes on
    assert [life.name for life in story.lives] == ["main", "x"]
    assert [event.label for event in story.events if event.kind == "request"] == ["f"]


SENSE: dict[str, Any] = {
    "child": 1,
    "name": "x",
    "tasks": [],
    "pid": 1,
    "serial": True,
    "of": 1,
    "end": "died",
    "reason": "",
    "path": "",
    "number": 1,
    "time": 1.0,
}
ODD: list[Any] = [float("inf"), float("nan"), -1, 10**400, 10**40, "x" * 1000, None, [[]], {}, ["a"] * 10_000]


@pytest.mark.parametrize("what", ["spawn", "ready", "restart", "death", "run", "label", "x"])
@pytest.mark.parametrize("field", SENSE)
def test_corrupt_words(what: str, field: str) -> None:
    """What makes no sense is left out, and what is left can be drawn."""
    recording = Recording(keeps_values=True)
    notes = recording.notes(PROGRAM)
    notes.tell("spawn", child=1, name="x", tasks=[])
    for odd in ODD:
        notes._write(TEXT, json.dumps({**SENSE, "what": what, field: odd}).encode())
    recording.end()
    story = tell(recording.read(), {PROGRAM}, 0.0, 1e9)
    str(tree(story))
    json.dumps(perfetto_events(story), allow_nan=False)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=True),
            st.integers(0, 20),
            st.integers(0, 3),
            st.floats(allow_nan=True),
        )
    )
)
def test_senseless_notes(notes: list[Note]) -> None:
    """Notes that do not fit together are left out."""
    story = written(*notes, ours=tuple(notes))
    assert [life.name for life in story.lives] == ["main", "x"]


def request(ident: int, sent: float, known: float | None) -> Iterator[Note]:
    """What is noted of a call at home."""
    yield sent, REQUEST, ident, 1
    if known is not None:
        yield known, REPLY | VALUE << KIND_SHIFT, ident, 1


def test_a_call_that_another_isolate_gets() -> None:
    """A call that is taken back before it begins is not part of the story, and what is said of it neither."""
    story = written(
        ours=(*request(1, 1.0, None), (2.0, CANCEL, 1, 1), (3.0, WITHDRAWN, 1, 1), *request(2, 4.0, 5.0))
    )
    assert [event.kind for event in story.events if event.request] == ["request", "reply"]


@pytest.mark.parametrize("told", [NEVER, REPLY | DROPPED << KIND_SHIFT])
def test_a_call_that_never_began(told: int) -> None:
    """A call that was cancelled before it began has no span, though the page has a time for it."""
    story = written(ours=(*request(1, 1.0, None), (2.0, CANCEL, 1, 1), (3.0, told, 1, 1), (1.5, BEGUN, 1, 1)))
    assert story.spans == ()
    assert next(event.arrived for event in story.events if event.kind == "request") is None


def test_an_end_that_was_not_written_down() -> None:
    """Of an isolate that runs one call after the other, a call has ended when the next begins."""
    story = written(
        ours=(*request(1, 1.0, 9.0), *request(2, 2.0, 9.5), (3.0, BEGUN, 1, 1), (4.0, BEGUN, 2, 1))
    )
    assert [(span.start, span.end) for span in story.spans] == [(3.0, 4.0), (4.0, 9.5)]


def test_an_isolate_that_is_not_recorded() -> None:
    """What goes to and from isolates of which nothing is known is not taken for the program's."""
    recording = Recording(keeps_values=False)
    program = recording.notes(PROGRAM)
    program.take((1.0, SENT, 1, program.label(b"somebody")))
    program.take((2.0, TAKEN, 1, program.label(b"somebody")))
    recording.end()
    assert tell(recording.read(), {PROGRAM}, 0.0, 9.0).events == ()


def test_short_texts() -> None:
    """What is noted of a value is short, keeps the order of a dict, and never raises."""

    class Odd:
        def __repr__(self) -> str:
            raise ValueError

    assert short({"title": "x" * 100, "author": "", "notes": []}).startswith("{'title': 'xxx")
    assert short({3: 1, 2: [1, [2, [3]]], 1: 0, 0: 5}) == "{3: 1, 2: [1, [...]], 1: 0, ...}"
    assert short(Odd()) == "Odd"
    assert short(open_worker) == "function"
    assert len(short([["x" * 100] * 100] * 100)) <= 80


def test_more_values_than_are_told_apart() -> None:
    """Where there are too many texts, those of values are left out, and no names of functions or isolates."""
    recording = Recording(keeps_values=True)
    notes = recording.notes(PROGRAM)
    last = [notes.label_value(number) for number in range(10_001)][-1]
    assert last == 0
    assert notes.label_value(0) and notes.label("f") and notes.label(b"path")
