"""What a parent notes of one of its isolates, if that is recorded: its life, and the calls to it.

This module knows in which words it is noted. When something is to be noted is known to those who do it.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any, Final, final

import outcome
import trio

from ._deaths import Death
from ._memory import Page
from ._messages import CALL, ERROR, VALUE, Chunk
from ._notes import BEGUN, LABEL_SHIFT, File, Notes, current_recording
from ._service import Methods, describe_args, describe_call
from ._side import Side

_NOT_THEIRS: Final = ("trio_isolates.", "trio.", "IPython.", "<")  # IPython's runs a cell of a notebook


def _task_names(task: trio.lowlevel.Task | None) -> list[str]:
    """Return the names of the tasks around this one, the outermost first, as far as users have made them."""
    names: list[str] = []
    while task is not None:
        if not task.name.startswith(_NOT_THEIRS):
            names.append(task.name)
        task = None if task.parent_nursery is None else task.parent_nursery.parent_task
    return names[::-1]


@final
class Chronicle:
    """Of one isolate.

    number: its own among the children of its parent. take: takes a note; for what happens often.
    usual: what a request of the handler is about, once that is known and if it is always the same.
    """

    def __init__(self, notes: Notes, number: int, handler: object) -> None:
        self._notes = notes
        self._handler = handler
        self.number = number
        self.take = notes.take
        self.flush = notes.flush
        self.numbers = notes.numbers
        self.keeps_values = notes.keeps_values
        self.usual = 0
        self._file: File | None = None

    # Its life.

    def spawn(self, name: str) -> None:
        tasks = _task_names(trio.lowlevel.current_task())
        self._notes.tell("spawn", child=self.number, name=name, tasks=tasks)

    def share(self, side: Side) -> tuple[int, list[Chunk]]:
        """Have the isolate take notes; return ident and body of the frame that says so. Raises `OSError`."""
        number, self._file = self._notes.open_for(side)
        return number, [self._notes.flags]

    def ready(self, pid: int | None, *, is_serial: bool) -> None:
        self._notes.tell("ready", child=self.number, pid=pid, serial=is_serial)

    def restart(self, number: int) -> None:
        """It takes the place of another one; 0: of none."""
        if number:
            self._notes.tell("restart", child=self.number, of=number)

    def death(self, death: Death, *, was_killed: bool, was_asked: bool) -> None:
        end = "killed" if was_killed else "closed" if was_asked else "died"
        reason = (death.signal or f"exit code {death.exitcode}") if end == "died" else ""
        self._notes.tell("death", child=self.number, end=end, reason=reason)
        if self._file is not None and (recording := current_recording()) is not None:
            recording.collect(self._file)

    # Its calls.

    def note(self, what: int, ident: int = 0) -> None:
        """Note what needs no further words, about the isolate or one of its calls."""
        self.take((perf_counter(), what, ident, self.number))

    def begun(self, page: Page) -> None:
        """It is dead: what it has begun last, perhaps without a word of that, stands in the page."""
        for ident in range(page.begun, 0, -1):
            then = page.began_at(ident)
            if then is None:
                return
            self.take((then, BEGUN, ident, self.number))

    def about(self, kind: int, payload: Any) -> int:
        """Return what a request is about: this isolate, and the name of a function."""
        name = describe_call(self._handler, kind, payload)
        if self.keeps_values:
            name += describe_args(kind, payload)
        about = self.number | self._notes.label(name) << LABEL_SHIFT
        if kind == CALL and not (self.keeps_values or isinstance(self._handler, Methods)):
            self.usual = about
        return about

    def about_result(self, kind: int, result: outcome.Outcome[Any]) -> int:
        """Return what the answer by a frame of this kind is about, with its value."""
        label = 0
        if kind == VALUE and isinstance(result, outcome.Value):
            label = self._notes.label_value(result.value)
        elif kind == ERROR and isinstance(result, outcome.Error):
            label = self._notes.label_value(result.error)
        return self.number | label << LABEL_SHIFT
