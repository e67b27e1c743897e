"""What the isolates of the soak do. How often each call has run is counted where all of them see it."""

from __future__ import annotations

import mmap
import os
import random
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import handlers

LARGEST = 8 << 20
MOST_CALLS = 10_000_000
EXIT_CODE = 7

_maps: dict[Path, mmap.mmap] = {}
_block = _runs = Path()


def prepare(folder: Path, seed: int) -> None:
    """Make the two files that all processes share: the block, and a byte for each call."""
    (folder / "block").write_bytes(random.Random(seed).randbytes(2 * LARGEST))
    with (folder / "runs").open("wb") as file:
        file.truncate(MOST_CALLS)
    use(folder)


def use(folder: Path) -> None:
    global _block, _runs
    _block, _runs = folder / "block", folder / "runs"


def mapped(path: Path) -> mmap.mmap:
    if path not in _maps:
        with path.open("r+b") as file:
            _maps[path] = mmap.mmap(file.fileno(), 0)
    return _maps[path]


def release() -> None:
    """Let go of the files in this process."""
    while _maps:
        _maps.popitem()[1].close()


def part(place: int, size: int) -> bytes:
    """Some of the bytes of which every message is made."""
    return mapped(_block)[place : place + size]


def runs(calls: int) -> Counter[int]:
    """How many of the first calls have run how often."""
    return Counter(mapped(_runs)[1 : calls + 1])


def perform(folder: Path, number: int, deed: Callable[..., Any], *args: Any) -> Any:
    """As a handler: count the run of this call, and do what it is to do."""
    use(folder)
    mapped(_runs)[number] += 1
    return deed(*args)


async def perform_async(folder: Path, number: int, deed: Callable[..., Any], *args: Any) -> Any:
    """The same in an isolate that runs Trio."""
    result = perform(folder, number, deed, *args)
    return await result if isinstance(result, Coroutine) else result


# Deeds that return.


def answer(number: int, data: bytes, checksum: int, place: int, size: int) -> tuple[int, bytes, int]:
    """Check what came, and answer with another part of the block."""
    if zlib.crc32(data) != checksum:
        raise AssertionError(f"call {number}: {len(data)} bytes with a wrong checksum")
    data = part(place, size)
    return number, data, zlib.crc32(data)


def answer_slowly(seconds: float, *args: Any) -> tuple[int, bytes, int]:
    time.sleep(seconds)
    return answer(*args)


def answer_with_work(turns: int, *args: Any) -> tuple[int, bytes, int]:
    """In Python code all the while, where a cancellation may come anywhere."""
    numbers: list[int] = []
    for number in range(turns):
        numbers = [*numbers[-9:], number]
    return answer(*args)


# Deeds that do not.


def spin() -> NoReturn:
    while True:
        pass


def refuse_to_stop() -> NoReturn:
    while True:
        try:
            spin()
        except BaseException:
            continue


def raise_numbered(number: int) -> NoReturn:
    raise LookupError(number)


def exit_with_code() -> NoReturn:
    os._exit(EXIT_CODE)


def exit_in_a_thread() -> NoReturn:
    """The process ends while this call is at work, which does not end before, lest it hit the next one."""
    threading.Thread(target=exit_with_code).start()
    refuse_to_stop()


DEATHS = (handlers.kill_self, handlers.crash, exit_with_code, exit_in_a_thread)
