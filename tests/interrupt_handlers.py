"""What isolates do while they are interrupted. It stands in a module so that isolates can import it."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import trio

from handlers import tell

_remembered: list[Any] = []


def remember(*values: Any) -> list[Any]:
    """Keep these for as long as this process lives; return all that were kept."""
    _remembered.extend(values)
    return _remembered[:]


# What ends in its own way. The interrupt may land as soon as the test has been told.


def spin_as(fifo: Path, number: int) -> NoReturn:
    tell(fifo, number)
    while True:
        pass


def swallow(fifo: Path, times: int) -> int:
    for number in range(times):
        try:
            if number == 0:
                tell(fifo, "begun")
            time.sleep(1000)
        except BaseException:
            pass
    return times


def swallow_and_spin(fifo: Path, times: int) -> NoReturn:
    swallow(fifo, times)
    remember("swallowed")
    while True:
        pass


def tell_of_interrupt(fifo: Path) -> None:
    try:
        tell(fifo, "begun")
        time.sleep(1000)
    finally:
        tell(fifo, "interrupted")


def fail_while_cleaning_up(fifo: Path) -> None:
    try:
        tell(fifo, "begun")
        time.sleep(1000)
    finally:
        raise KeyError("clean-up")


class Pausing:
    """Stays in its `__enter__` until it has been signalled twice."""

    def __enter__(self) -> None:
        signal.pause()
        signal.pause()

    def __exit__(self, *_: object) -> None:
        remember("exited")


def clean_up_slowly(fifo: Path) -> None:
    """Clean up for as long as it takes to be signalled four more times."""
    try:
        tell(fifo, "begun")
        time.sleep(1000)
    finally:
        signal.pause()
        with Pausing():
            remember("entered")
        signal.pause()
        remember("cleaned up")


class CountedInC:
    """Arrives as an iterator that tells the test when it is first asked, without a single bytecode."""

    def __init__(self, fifo: Path, size: int) -> None:
        self.fifo, self.size = fifo, size

    def __reduce__(self) -> tuple[Any, ...]:
        return count_in_c, (self.fifo, self.size)


def count_in_c(fifo: Path, size: int) -> Iterator[int]:
    fd = os.open(fifo, os.O_WRONLY)
    return itertools.chain(map(partial(os.write, fd), [b"begun\n"]), range(size))


# Calls in a race.

_starts: list[int] = []


def count_start(number: int, microseconds: int) -> int:
    """Be at work so long."""
    _starts.append(number)
    end = time.perf_counter() + microseconds / 1e6
    while time.perf_counter() < end:
        pass
    return number


def take_starts() -> list[int]:
    starts = _starts[:]
    _starts.clear()
    return starts


def use_numpy() -> float:
    import numpy as np

    return float(np.linalg.norm(np.ones(36)))


def use_numpy_for_ever() -> NoReturn:
    while True:
        use_numpy()


# Async functions.


async def clean_up_async(fifo: Path) -> None:
    tell(fifo, "begun")
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        remember("cleaned up")


async def answer_when_cancelled(fifo: Path) -> str:
    tell(fifo, "begun")
    with trio.CancelScope() as scope:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            scope.shield = True
            return "done all the same"
    raise AssertionError


async def echo_async(value: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return value


async def sleep_async(fifo: Path) -> None:
    tell(fifo, "begun")
    await trio.sleep_forever()
