"""Places where nothing may be left in the middle: each meets the test, which lets it pass on only after it
has been interrupted.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

from handlers import tell
from interrupt_handlers import remember


def meet(fifo: Path, gate: Path) -> None:
    """Tell the test, and wait for it."""
    tell(fifo, "begun")
    with gate.open() as file:
        file.readline()


def import_slowly(folder: Path, name: str) -> None:
    sys.path.insert(0, str(folder))
    __import__(name)
    remember("went on")


def look_at_module(name: str) -> bool:
    return bool(sys.modules[name].__dict__["COMPLETE"])


class Meeting(logging.Handler):
    """Meets the test in one of its methods; as a log handler, as a context manager, or when it is deleted."""

    def __init__(self, place: str, fifo: Path, gate: Path) -> None:
        super().__init__()
        self.place, self.paths = place, (fifo, gate)

    def emit(self, record: logging.LogRecord) -> None:
        meet(*self.paths)
        remember("emitted")

    def __enter__(self) -> None:
        if self.place == "enter":
            meet(*self.paths)
        remember("entered")

    def __exit__(self, *_: object) -> None:
        if self.place == "exit":
            meet(*self.paths)
        remember("exited")

    def __del__(self) -> None:
        if self.place == "del":
            meet(*self.paths)
            remember("deleted")


def log_to_meeting(fifo: Path, gate: Path) -> None:
    logger = logging.getLogger("meeting")
    logger.propagate = False
    logger.handlers = [Meeting("emit", fifo, gate)]
    logger.warning("meet me")
    remember("went on")


def enter_meeting(fifo: Path, gate: Path) -> None:
    with Meeting("enter", fifo, gate):
        remember("in the block")
    remember("went on")


def exit_meeting(fifo: Path, gate: Path) -> None:
    with Meeting("exit", fifo, gate):
        remember("in the block")
    remember("went on")


def stack_meeting(fifo: Path, gate: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(Meeting("enter", fifo, gate))
        remember("in the block")
    remember("went on")


def acquire_meeting(fifo: Path, gate: Path) -> None:
    meeting = Meeting("enter", fifo, gate)
    meeting.__enter__()
    try:
        remember("in the block")
    finally:
        meeting.__exit__()
    remember("went on")


def delete_meeting(fifo: Path, gate: Path) -> None:
    meeting = Meeting("del", fifo, gate)
    del meeting
    remember("went on")


def spin_over_meeting(fifo: Path, gate: Path) -> None:
    """Have a clean-up called by the interpreter, in the middle of a loop that calls nothing."""
    before = signal.signal(signal.SIGALRM, Meeting("exit", fifo, gate).__exit__)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    try:
        spin()
    finally:
        signal.signal(signal.SIGALRM, before)


def spin() -> NoReturn:
    while True:
        pass


@contextmanager
def managed_meeting(fifo: Path, gate: Path) -> Iterator[None]:
    meet(fifo, gate)
    remember("entered")
    try:
        yield
    finally:
        remember("exited")


def manage_meeting(fifo: Path, gate: Path) -> None:
    with managed_meeting(fifo, gate):
        remember("in the block")
    remember("went on")


# Values on the way.


class Slow:
    """Meets the test when it is pickled, or when it is unpickled."""

    def __init__(self, when: str, fifo: Path, gate: Path) -> None:
        self.when, self.paths = when, (fifo, gate)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.when == "dumps":
            meet(*self.paths)
            return str, ("pickled",)
        return _arrive, self.paths


def _arrive(fifo: Path, gate: Path) -> str:
    meet(fifo, gate)
    return "unpickled"


def make_slow(fifo: Path, gate: Path) -> Slow:
    return Slow("dumps", fifo, gate)
