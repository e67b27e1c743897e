"""What the suites of large messages and of `SharedBuffer` have isolates do."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import trio

from trio_isolates import ReceivePort, SendPort, SharedBuffer, open_isolate

Home = SendPort[Any]


def filled(size: int, value: int) -> SharedBuffer:
    buffer = SharedBuffer.allocate(size)
    np.frombuffer(buffer.view, np.uint8)[:] = value
    return buffer


def inode(buffer: SharedBuffer) -> int:
    """What tells the memory of a buffer from all other memory, in whichever process."""
    return os.fstat(buffer._fd).st_ino


def total(buffer: SharedBuffer) -> int:
    return int(np.frombuffer(buffer.view, np.uint8).sum())


def add_one(buffer: SharedBuffer) -> SharedBuffer:
    """Change the memory in place, and hand it back."""
    np.frombuffer(buffer.view, np.uint8)[:] += 1
    return buffer


def add_one_inside(message: dict[str, list[SharedBuffer]]) -> dict[str, list[SharedBuffer]]:
    return {name: [add_one(buffer) for buffer in buffers] for name, buffers in message.items()}


def look_and_return(size: int) -> tuple[SharedBuffer, Any]:
    """Return a buffer at which an array still looks, until `drop_all`."""
    buffer = filled(size, 1)
    _held.append((np.frombuffer(buffer.view, np.uint8), 0))
    return buffer, 1


_held: list[tuple[Any, int]] = []


def try_to_write(buffer: SharedBuffer) -> str:
    try:
        buffer.view[0] = 1
    except TypeError as exc:
        return str(exc)
    return "it could be written to"


def stream_filled(sizes: list[int]) -> Any:
    for size in sizes:
        yield filled(size, 7)


def echo(value: Any) -> Any:
    return value


def call_first(pid: int, number: int, _array: Any) -> None:
    os.kill(pid, number)


def count_maps() -> int:
    """How many pieces of nameless memory of ours this process has mapped."""
    return sum(
        "/memfd:trio_isolates_memory" in line for line in Path("/proc/self/maps").read_text().splitlines()
    )


def pattern(number: int, size: int) -> Any:
    return np.full(size, number % 251, np.uint8)


def check_and_answer(array: Any, number: int, hold: bool, drop: int | None, size: int) -> Any:
    """Check what has come and what is still held from before; hold it or not; answer with as large a one."""
    for kept, its_number in [*_held, (array, number)]:
        assert kept[0] == kept[-1] == kept[len(kept) // 2] == its_number % 251
    if drop is not None and _held:
        del _held[drop % len(_held)]
    if hold:
        _held.append((array, number))
    return pattern(number + 1, size)


def hold(array: Any) -> int:
    """Keep what has come; return how many are kept."""
    _held.append((array, 0))
    return len(_held)


def drop_all() -> None:
    _held.clear()


async def give_on(there: Home, home: Home) -> None:
    """Receive from home, and send on to there, unopened, until None comes."""
    port: ReceivePort[Any] = ReceivePort()
    await home.send(port.send_port)
    with suppress(trio.BrokenResourceError):  # a test closes it
        while (message := await port.receive()) is not None:
            await there.send(message)


async def with_a_child(home: Home) -> None:
    """Have an isolate that adds one to all that it is sent by our parent, and sends it there."""
    async with open_isolate(answer_with_one_more, home):
        pass


async def answer_with_one_more(home: Home) -> None:
    port: ReceivePort[Any] = ReceivePort()
    await home.send(port.send_port)
    while (message := await port.receive()) is not None:
        if isinstance(message, list):
            add_one(message[0])
        else:
            add_one(message)
        await home.send(message)
