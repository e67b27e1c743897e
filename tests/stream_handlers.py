"""What the suites of streams and progress have workers do; each sync handler has an async twin."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import trio

from handlers import tell
from trio_isolates import ReceivePort, SendPort, report_progress

Home = SendPort[Any]


def count(limit: int, step: int = 1) -> Iterator[int]:
    yield from range(0, limit, step)


async def count_async(limit: int, step: int = 1) -> AsyncIterator[int]:
    for number in range(0, limit, step):
        yield number


def count_with_state(state: list[int], more: int) -> Iterator[int]:
    yield from state
    state.append(more)


async def count_with_state_async(state: list[int], more: int) -> AsyncIterator[int]:
    for number in state:
        yield number
    state.append(more)


def make_state() -> list[int]:
    return [1, 2]


def report_and_count(home: Home, limit: int) -> Iterator[int]:
    """Say of each number that it is made."""
    for number in range(limit):
        home.send_sync(number)
        yield number


async def report_and_count_async(home: Home, limit: int) -> AsyncIterator[int]:
    for number in range(limit):
        await home.send(number)
        yield number


def count_and_mark(marker: Path, limit: int) -> Iterator[int]:
    """Leave a mark in the clean-up."""
    try:
        yield from range(limit)
    finally:
        marker.touch()


async def count_and_mark_async(marker: Path, limit: int) -> AsyncIterator[int]:
    try:
        for number in range(limit):
            yield number
    finally:
        marker.touch()


def compute_and_mark(marker: Path) -> Iterator[str]:
    """Begin, and compute for ever."""
    try:
        yield "begun"
        while True:
            pass
    finally:
        marker.touch()


async def sleep_and_mark_async(marker: Path) -> AsyncIterator[str]:
    try:
        yield "begun"
        await trio.sleep_forever()
    finally:
        marker.touch()


def fail_after(limit: int) -> Iterator[int]:
    yield from range(limit)
    raise ZeroDivisionError("in the middle")


async def fail_after_async(limit: int) -> AsyncIterator[int]:
    for number in range(limit):
        yield number
    raise ZeroDivisionError("in the middle")


def die_after(limit: int) -> Iterator[int]:
    yield from range(limit)
    os.kill(os.getpid(), signal.SIGKILL)


async def die_after_async(limit: int) -> AsyncIterator[int]:
    for number in range(limit):
        yield number
    os.kill(os.getpid(), signal.SIGKILL)


def yield_these(*values: Any) -> Iterator[Any]:
    """Yield the values; what is a string is made into what cannot be sent."""
    for value in values:
        yield ReceivePort() if value == "a port" else value


async def yield_these_async(*values: Any) -> AsyncIterator[Any]:
    for value in yield_these(*values):
        yield value


def spell(home: Home) -> Iterator[str]:
    """Send a port home; yield each word that comes there in capitals, until None."""
    port: ReceivePort[str | None] = ReceivePort(1)
    home.send_sync(port.send_port)
    for word in port:
        if word is None:
            return
        yield word.upper()


async def spell_async(home: Home) -> AsyncIterator[str]:
    port: ReceivePort[str | None] = ReceivePort(1)
    await home.send(port.send_port)
    async for word in port:
        if word is None:
            return
        yield word.upper()


class Counter:
    """Generators that are no plain functions."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def method(self) -> Iterator[int]:
        yield from range(self.limit)

    async def method_async(self) -> AsyncIterator[int]:
        for number in range(self.limit):
            yield number

    def __call__(self) -> Iterator[int]:
        yield from range(self.limit)


# Progress.


def report(*values: Any) -> str:
    for value in values:
        report_progress(value)
    return "done"


async def report_async(*values: Any) -> str:
    return report(*values)


async def report_slowly_async(*values: Any) -> str:
    for value in values:
        report_progress(value)
        await trio.lowlevel.checkpoint()
    return "done"


def flood(limit: int) -> int:
    for number in range(limit):
        report_progress(number)
    return limit


async def flood_async(limit: int) -> int:
    for number in range(limit):
        report_progress(number)
        if number % 10 == 0:
            await trio.lowlevel.checkpoint()
    return limit


def report_then_fail(*values: Any) -> None:
    report(*values)
    raise ZeroDivisionError("after all")


async def report_then_fail_async(*values: Any) -> None:
    report_then_fail(*values)


def report_and_spin(fifo: Path) -> None:
    """Report, and go on for ever; say when it was stopped."""
    report_progress("begun")
    try:
        while True:
            pass
    finally:
        tell(fifo, "stopped")


async def report_and_sleep(fifo: Path) -> None:
    report_progress("begun")
    try:
        await trio.sleep_forever()
    finally:
        tell(fifo, "stopped")


def report_unsendable() -> str:
    try:
        report_progress({"port": ReceivePort()})
    except TypeError as exc:
        report_progress("after it")
        return str(exc)
    return "nothing was raised"


async def report_unsendable_async() -> str:
    return report_unsendable()


def report_in_silence() -> str:
    """Nobody asked: even what cannot be sent is no error, as it is not looked at."""
    report_progress(1)
    return "done"


async def report_in_silence_async() -> str:
    return report_in_silence()


async def report_late(tag: str, values: int) -> str:
    """Report beside other calls: each is heard by its own caller."""
    for number in range(values):
        report_progress((tag, number))
        await trio.lowlevel.checkpoint()
    return tag
