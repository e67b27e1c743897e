"""What happened between isolates, recorded and shown: `with record() as trace`.

    with record() as trace:
        async with open_pool(parse, workers=2) as pool:
            await pool.map(texts)

    trace.lifelines()  # in a notebook, a picture

This module knows what users see of a recording. How it comes about is the business of `_notes` (in
each isolate) and `_story` (here, afterwards), and how it is drawn that of `draw`.
"""

from __future__ import annotations

# pyright: reportPrivateUsage=false
# (nobody but `record` ends a trace)
from collections.abc import Generator
from contextlib import contextmanager, suppress
from os import PathLike
from time import perf_counter
from typing import final

import trio

from . import draw
from ._events import Event, Life, Span, Story
from ._exchange import Exchange
from ._here import current_exchange
from ._notes import Recording, current_recording, set_recording
from ._picture import Picture
from ._story import tell

__all__ = ["Event", "Life", "Span", "Trace", "record"]


@final
class Trace:
    """What a recording holds. From `record`.

    While the recording goes on, it holds what was written down so far: what an isolate has noted in
    the last millisecond may be missing.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._started = perf_counter()
        self._ended: float | None = None
        self._story: Story | None = None

    def __repr__(self) -> str:
        story = self.story
        return (
            f"<trio_isolates.Trace isolates={len(story.lives) - 1} events={len(story.events)} "
            f"seconds={story.seconds:.3g}>"
        )

    @property
    def story(self) -> Story:
        """All of it, as one record."""
        if self._story is not None:
            return self._story
        end = perf_counter() if self._ended is None else self._ended
        story = tell(self._recording.read(), self._recording.programs, self._started, end - self._started)
        if self._ended is not None:
            self._story = story
        return story

    def lifelines(self, *, start: float | None = None, end: float | None = None, limit: int = 60) -> Picture:
        """Return a picture of what went back and forth between the isolates; see `draw.lifelines`."""
        return draw.lifelines(self.story, start=start, end=end, limit=limit)

    def gantt(self, *, start: float | None = None, end: float | None = None, limit: int = 40) -> Picture:
        """Return a picture of which isolate was busy when; see `draw.gantt`."""
        return draw.gantt(self.story, start=start, end=end, limit=limit)

    def tree(self, *, limit: int = 60) -> Picture:
        """Return a picture, and text, of who opened whom; see `draw.tree`."""
        return draw.tree(self.story, limit=limit)

    def to_perfetto(self, path: str | PathLike[str]) -> None:
        """Write it as a file that https://ui.perfetto.dev opens; see `draw.to_perfetto`."""
        draw.to_perfetto(self.story, path)

    def _end(self) -> None:
        self._ended = perf_counter()
        self._recording.end()

    @property
    def lives(self) -> tuple[Life, ...]:
        """The isolates, the program itself first, in the order of their starts."""
        return self.story.lives

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened, in the order of time."""
        return self.story.events

    @property
    def spans(self) -> tuple[Span, ...]:
        """The calls that were run, in the order of their starts."""
        return self.story.spans

    @property
    def seconds(self) -> float:
        """How long the recording took, or has taken so far."""
        return self.story.seconds


@contextmanager
@trio.lowlevel.enable_ki_protection  # its end is not to be cut short
def record(*, values: bool = False) -> Generator[Trace, None, None]:
    """Record what happens in and between the isolates that are started in this block.

    A recording has their starts and ends, calls with their answers, items, messages to ports,
    cancellations, kills and restarts, with times of both sides by one clock. Isolates that were started
    before are not recorded; those that are alive when the block is left are recorded until then. It can
    be used inside of a Trio program and around `trio.run`. A call takes some 100 bytes of memory until the
    trace is garbage, and when the trace is looked at 1.5 KB more; a million of them is too much to look at.
    What an isolate says is taken as data: one that is corrupt can spoil what is known of it and of those
    that it has started, and no more.

    Args:
        values: note short texts of arguments, results and messages as well (their `repr`, which is
            called for that). It takes more time.

    Raises:
        RuntimeError: this process, or this isolate, is being recorded already.
    """
    if current_recording() is not None:
        raise RuntimeError("a recording is going on already: there is one at a time in a process")
    if not isinstance(values, bool):
        raise TypeError(f"values= must be a bool, not {values!r}")
    exchange: Exchange | None = None
    with suppress(RuntimeError):  # around `trio.run`: the runs in the block will see the recording
        exchange = current_exchange()
    if exchange is not None and exchange.open_notes() is not None:
        raise RuntimeError("this isolate is being recorded already, by who has started it")
    recording = Recording(keeps_values=values)
    trace = Trace(recording)
    set_recording(recording)
    if exchange is not None:
        exchange.notes = recording.notes(exchange.path)
    try:
        yield trace
    finally:
        set_recording(None)
        if exchange is not None:
            exchange.notes = None
        trace._end()
