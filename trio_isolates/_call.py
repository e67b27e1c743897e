"""A caller that waits for its answer, and what became of all of them.

This module knows what a call carries with it. It sends nothing, and chooses no isolate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from time import perf_counter
from typing import Any, Final, Protocol, final

import outcome
import trio
from attrs import define, field

from ._errors import IsolateDied, UnsendableError, rename_path
from ._histogram import Histogram
from ._messages import CALL, CHUNK, EXTENDED, RUN, STREAM
from ._queue import Line
from ._shared_buffer import SharedBuffer, revive

_IN_CHUNK: Final = re.compile(r"args\[1\]\[0\]\[(\d+)\]")
_AFTER_NAME: Final = re.compile(r"args\[(\d+)\]")


class Holder(Protocol):
    """Where a call is, once it was sent."""

    def abort(self, call: Call, /) -> trio.lowlevel.Abort: ...


@final
class Call:
    """One caller that waits for its answer: first in line for a place, then at an isolate.

    leave_line: what to do if it is cancelled while it is at no isolate. priority, number: as in line.
    retries: how often it may still be repeated when its isolate dies. made, sent: when, in seconds.
    spares: the buffers that it has handed over, each with one of the same memory.
    """

    # What most calls never have is not set for each of them: they are many.
    priority: float = 0
    key: Hashable = None
    retries: int = 0
    tried = 0  # how often an isolate has begun it, and died of it or with it
    is_asked_back = False  # by us, for another isolate
    made = 0.0
    sent = 0.0
    line: Line[Call] | None = None
    client: Holder | None = None
    ident = 0
    raise_cancel: Callable[[], Any] | None = None
    ctrl_c = False
    settled: trio.Event | None = None
    is_settled = False
    spares: Sequence[tuple[SharedBuffer, SharedBuffer]] = ()

    def __init__(self, kind: int, payload: Any, number: int, leave_line: Callable[[Call], None]) -> None:
        self.task = trio.lowlevel.current_task()
        self.kind = kind
        self.payload = payload
        self.number = number
        self.leave_line = leave_line

    def abort(self, raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        if self.client is None:
            self.is_settled = True
            if not self.tried:  # it may come from an isolate that has died
                self.take_back()
            self.leave_line(self)
            return trio.lowlevel.Abort.SUCCEEDED
        self.raise_cancel = raise_cancel
        return self.client.abort(self)

    def take_back(self) -> None:
        """It is at no isolate any more: what it had handed over is its sender's again."""
        spares, self.spares = self.spares, ()
        for buffer, twin in spares:
            revive(buffer, twin)

    def go_back(self) -> None:
        """It is at no isolate any more, and in line as if it had never left that, unless it was begun."""
        self.made = perf_counter() if self.tried else self.made or self.sent
        self.client = None
        self.is_asked_back = False
        if not self.tried:
            self.take_back()

    def fail(self, error: BaseException) -> None:
        """Settle it with an error, outside of any isolate."""
        self.is_settled = True
        if not self.tried:
            self.take_back()
        elif isinstance(error, IsolateDied):
            error.maybe_executed = True
        self.name_tries(error)
        trio.lowlevel.reschedule(self.task, outcome.Error(error))

    def name_tries(self, error: BaseException) -> None:
        """Note how often it was tried in vain, if it was more than once."""
        if self.tried > 1:
            error.add_note(f"tried {self.tried} times")


@define(eq=False)
class Counts:
    """What became of the calls, over all the isolates of a crew.

    busy, manned: seconds in which isolates had a call, and were there for one. waits, runs: how long
    calls stood in line, and ran.
    """

    done: int = 0
    failed: int = 0
    cancelled: int = 0
    late_replies: int = 0
    retried: int = 0
    busy: float = 0.0
    manned: float = 0.0
    waits: Histogram = field(factory=Histogram)
    runs: Histogram = field(factory=Histogram)


def items(call: Call) -> int:
    """How many calls of the handler it is."""
    return 1 if call.kind != CHUNK else len(call.payload[1][0])


def rename(error: UnsendableError, kind: int, payload: Any, is_actor: bool) -> None:
    """Put the path into the caller's words: what it passed as fn and args, or items."""
    if kind == EXTENDED:
        kind, payload = payload[:2]
        for ours, theirs in (("args[1]", "args"), ("args[2]", "kwargs"), ("args[3]", "context")):
            if error.path.startswith(ours):
                rename_path(error, ours, theirs)
                break
    if is_actor and kind in (CALL, STREAM) and (found := _AFTER_NAME.match(error.path)):
        rename_path(error, found[0], f"args[{int(found[1]) - 1}]")
    elif kind == CHUNK and (found := _IN_CHUNK.match(error.path)):
        rename_path(error, found[0], f"items[{payload[1][1] + int(found[1])}]")
    elif kind in (RUN, CHUNK) and not error.path.startswith(("kwargs", "context")):
        for ours, theirs in (("args[0]", "fn"), ("args[1]", "args")):
            if error.path.startswith(ours):
                rename_path(error, ours, theirs)
                break
