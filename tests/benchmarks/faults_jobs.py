"""What the workers of every contender do in the table of faults: importable functions, with few imports."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


def apply(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)


class NeedsTwo(Exception):
    """Pickles, and does not unpickle: its constructor wants more than `args` says."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def raise_what_does_not_unpickle() -> NoReturn:
    raise NeedsTwo("one", "two")


def return_what_does_not_pickle() -> Any:
    return threading.Lock()


def tell(path: str) -> None:
    """Say who works here, in a file that is there only when it is complete."""
    Path(f"{path}.part").write_text(str(os.getpid()))
    os.rename(f"{path}.part", path)


def tell_and_sleep(path: str) -> NoReturn:
    tell(path)
    while True:
        time.sleep(1000)


def share(path: str) -> Any:
    """One number that all who open this file see; it is written in one piece."""
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 8)).cast("d")


def tell_and_spin(path: str, beats: str) -> NoReturn:
    """Never end, and write at every turn what time it is, by the clock that all processes share."""
    beat = share(beats)
    beat[0] = time.monotonic()
    tell(path)
    while True:
        beat[0] = time.monotonic()


def meet(folder: str, number: int, others: int) -> int:
    """Wait until so many have come, each in a process of its own then; the first one spins for ever."""
    tell(f"{folder}/{number}")
    while len([name for name in os.listdir(folder) if "." not in name]) < others:
        time.sleep(0.005)
    while number == 0:
        pass
    return os.getpid()


_done = 0


def two_are_done() -> bool:
    """True at every second call: for a pool which asks after each task whether to go on."""
    global _done  # noqa: PLW0603
    _done += 1
    return _done >= 2
